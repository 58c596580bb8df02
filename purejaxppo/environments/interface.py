"""What the learner asks of an environment, answered for every gymnax environment with discrete actions.

The functions take the environment first and smooth over the differences: the dtypes that environments emit, the
older five-value `step`, observations as boxes or as indices.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from gymnax.environments import spaces
from gymnax.environments.environment import Environment as GymnaxEnvironment
from jax import Array

from purejaxppo.fields import ConfigError


class TabularModel(NamedTuple):
    """A finite environment as arrays: what each of `A` actions does in each of `S` states, with `K` outcomes.

    States that only a terminating step leads to are states like any other, though no episode goes on from there.
    """

    next_state: Array  # [S, A, K], int32
    probability: Array  # [S, A, K]
    reward: Array  # [S, A, K]
    terminated: Array  # [S, A, K], bool
    start: Array  # [S], probability that an episode starts here
    mask: Array  # [S, A], bool, the available actions
    obs: Array  # [S, ...], what the agent sees


class Environment(GymnaxEnvironment):
    """gymnax's environment, plus what it can tell the policy about an observation, and the planner about itself."""

    def features(self, obs: Array) -> Array:
        """What the networks read of one observation: a float vector `[F]`, or an integer that stands for a one-hot."""
        return flatten(obs)

    def action_mask(self, obs: Array, params: Any) -> Array | None:
        """`[num_actions]` booleans, true where the action is available (at least one is); None offers every action."""
        return None

    def tabular_model(self, params: Any) -> TabularModel | None:
        """The environment as arrays, for `planning`; None if it is not finite or does not know itself."""
        return None


class Step(NamedTuple):
    """One transition of one environment that resets itself."""

    obs: Array  # of the next step: after a reset, if the episode ended
    state: Any
    reward: Array  # [], float32
    terminated: Array  # [], bool: the episode is over by nature
    done: Array  # [], bool: terminated or cut short
    next_obs: Array  # the true successor, before any reset


def num_actions(env: Any) -> int:
    """Number of discrete actions."""
    return int(env.action_space(env.default_params).n)


def num_observations(env: Any) -> int | None:
    """Number of distinct observations, or None where they are not indices."""
    space = env.observation_space(env.default_params)
    return int(space.n) if isinstance(space, spaces.Discrete) else None


def obs_shape(env: Any) -> tuple[int, ...]:
    """Shape of one observation."""
    return tuple(env.observation_space(env.default_params).shape)


def features(env: Any, obs: Array) -> Array:
    """The networks' input for one observation; see `Environment.features`."""
    return env.features(obs) if isinstance(env, Environment) else flatten(obs)


def action_mask(env: Any, obs: Array, params: Any) -> Array | None:
    """The available actions for one observation; see `Environment.action_mask`."""
    return env.action_mask(obs, params) if isinstance(env, Environment) else None


def flatten(obs: Array) -> Array:
    """A box as a float32 vector; an index as it is."""
    return obs if obs.ndim == 0 else obs.reshape(-1).astype(jnp.float32)


def reset(env: Any, key: Array, params: Any) -> tuple[Array, Any]:
    """`(obs, state)` of a new episode."""
    obs, state = env.reset(key, params)
    return typed(env, obs), jax.tree.map(_strong, state)


def step(env: Any, key: Array, state: Any, action: Array, params: Any) -> Step:
    """One step, with a reset on the same step where the episode ends.

    Five values are the older interface, which cannot tell truncation: `done` counts as termination, so nothing is
    bootstrapped from the successor, which it does not tell either.
    """
    result = env.step(key, state, action, params)
    if len(result) == 5:
        obs, next_state, reward, terminated, _ = result
        truncated, next_obs = jnp.zeros_like(terminated), obs
    else:
        obs, next_state, reward, terminated, truncated, info = result
        if "final_observation" not in info:
            raise ConfigError("env: its step must give the successor before any reset as info['final_observation']")
        next_obs = info["final_observation"]
    return Step(
        typed(env, obs),
        jax.tree.map(lambda new, old: _strong(new, old), next_state, state),
        jnp.asarray(reward, jnp.float32).reshape(()),
        jnp.asarray(terminated, bool).reshape(()),
        jnp.asarray(terminated, bool).reshape(()) | jnp.asarray(truncated, bool).reshape(()),
        typed(env, next_obs),
    )


def tells_truncation(env: Any, params: Any) -> bool:
    """Whether `step` tells a time limit from a termination (six values) or not (the older five)."""
    key = jax.random.key(0)
    _, state = jax.eval_shape(env.reset, key, params)
    action = jax.ShapeDtypeStruct((), jnp.int32)
    return len(jax.eval_shape(env.step, key, state, action, params)) == 6


def typed(env: Any, obs: Any) -> Array:
    """Indices as int32, boxes as float32, whatever dtype the environment emits or declares."""
    return jnp.asarray(obs, jnp.int32 if num_observations(env) is not None else jnp.float32)


def _strong(x: Any, like: Any = None) -> Array:
    """`x` as an array with a definite dtype, that of `like` if given, so that it can be carried through a scan."""
    x = jnp.asarray(x)
    dtype = x.dtype if like is None else jnp.asarray(like).dtype
    return x if jnp.issubdtype(dtype, jax.dtypes.extended) else jax.lax.convert_element_type(x, dtype)
