"""What the learner asks of an environment, answered for every environment with gymnax's interface.

The functions take the environment first and smooth over the differences: the dtypes that environments emit, the
older five-value `step`, observations as boxes, indices, or dictionaries and tuples of both.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from gymnax.environments import spaces
from gymnax.environments.environment import Environment as GymnaxEnvironment
from jax import Array

from purejaxppo.errors import ConfigError
from purejaxppo.planning import TabularModel


class MultiDiscrete(spaces.Space):
    """`K` choices at once, the k-th one of `num_categories[k]`: an action is an int32 vector `[K]`."""

    def __init__(self, num_categories: Sequence[int]) -> None:
        self.num_categories = tuple(num_categories)
        self.shape = (len(self.num_categories),)
        self.dtype = jnp.int32

    def __repr__(self) -> str:
        return f"MultiDiscrete({self.num_categories})"

    def sample(self, key: Array) -> Array:
        """All choices, each uniform."""
        return jax.random.randint(key, self.shape, 0, jnp.array(self.num_categories))

    def contains(self, x: Array) -> Array:
        """Whether every choice is one of its categories."""
        return jnp.all((x >= 0) & (x < jnp.array(self.num_categories)))


class Environment(GymnaxEnvironment):
    """gymnax's environment, plus what it can tell the policy about an observation, and the planner about itself."""

    def features(self, obs: Any) -> Array:
        """What the networks read of one observation: a float vector `[F]`, or an integer that stands for a one-hot."""
        return flatten(self.observation_space(self.default_params), obs)

    def action_mask(self, obs: Any, params: Any) -> Array | None:
        """Booleans, true where the action is available (at least one is); None offers every action.

        `[num_actions]`; for `MultiDiscrete` `[K, C]`, where `C` is the most categories of all choices.
        """
        return None

    def tabular_model(self, params: Any) -> TabularModel | None:
        """The environment as arrays, for `planning`; None if it is not finite or does not know itself."""
        return None


class Step(NamedTuple):
    """One transition of one environment that resets itself."""

    obs: Any  # of the next step: after a reset, if the episode ended
    state: Any
    reward: Array  # [], float32
    terminated: Array  # [], bool: the episode is over by nature
    done: Array  # [], bool: terminated or cut short
    next_obs: Any  # the true successor, before any reset


def action_space(env: Any) -> Any:
    """The space of one action: gymnax's `Discrete` or `Box`, or `MultiDiscrete`."""
    with jax.ensure_compile_time_eval():  # its bounds are numbers, in a traced function as well
        return env.action_space(env.default_params)


def observation_space(env: Any) -> Any:
    """The space of one observation: gymnax's `Discrete`, `Box`, `Dict` or `Tuple`."""
    return env.observation_space(env.default_params)


def num_observations(env: Any) -> int | None:
    """Number of distinct observations, or None where they are not indices."""
    space = observation_space(env)
    return int(space.n) if isinstance(space, spaces.Discrete) else None


def obs_spec(env: Any) -> Any:
    """Shapes and dtypes of one observation, a pytree of `jax.ShapeDtypeStruct`."""
    return jax.eval_shape(lambda key: reset(env, key, env.default_params)[0], jax.random.key(0))


def features(env: Any, obs: Any) -> Array:
    """The networks' input for one observation; see `Environment.features`."""
    return env.features(obs) if isinstance(env, Environment) else flatten(observation_space(env), obs)


def action_mask(env: Any, obs: Any, params: Any) -> Array | None:
    """The available actions for one observation; see `Environment.action_mask`."""
    return env.action_mask(obs, params) if isinstance(env, Environment) else None


def flatten(space: Any, obs: Any) -> Array:
    """An index as it is; anything else as one float32 vector, in which an index is a one-hot vector."""
    return obs if isinstance(space, spaces.Discrete) else _vector(space, obs)


def _vector(space: Any, obs: Any) -> Array:
    if isinstance(space, spaces.Discrete):
        return jax.nn.one_hot(obs, space.n)
    if isinstance(space, spaces.Box):
        return jnp.reshape(obs, -1).astype(jnp.float32)
    return jnp.concatenate([_vector(part, value) for part, value in parts(space, obs)])


def parts(space: Any, obs: Any) -> list[tuple[Any, Any]]:
    """The members of a `Dict` or `Tuple`, with their part of the observation."""
    if isinstance(space, spaces.Tuple):
        return list(zip(space.spaces, obs, strict=True))
    return [(part, obs[name]) for name, part in space.spaces.items()]


def reset(env: Any, key: Array, params: Any) -> tuple[Any, Any]:
    """`(obs, state)` of a new episode."""
    obs, state = env.reset(key, params)
    return typed(env, obs), jax.tree.map(strong, state)


def step(env: Any, key: Array, state: Any, action: Array, params: Any, pool: Any = None) -> Step:
    """One step, with a reset on the same step where the episode ends.

    Five values are the older interface, which cannot tell truncation: `done` counts as termination, so nothing is
    bootstrapped from the successor, which it does not tell either.

    Args:
        pool: `(obs, state)` of beginnings of episodes `[P, ...]`, of which one replaces a reset; None resets.
    """
    result = env.step(key, state, action, params) if pool is None else _restart(env, key, state, action, params, pool)
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
        jax.tree.map(strong, next_state, state),
        jnp.asarray(reward, jnp.float32).reshape(()),
        jnp.asarray(terminated, bool).reshape(()),
        jnp.asarray(terminated, bool).reshape(()) | jnp.asarray(truncated, bool).reshape(()),
        typed(env, next_obs),
    )


def _restart(env: Any, key: Array, state: Any, action: Array, params: Any, pool: Any) -> tuple[Any, ...]:
    """gymnax's `step`, with the beginning of an episode from a pool."""
    key_step, key_reset = jax.random.split(key)
    next_obs, next_state, reward, terminated, info = env.step_env(key_step, state, action, params)
    truncated = env.is_truncated(next_state, params)
    index = jax.random.randint(key_reset, (), 0, jax.tree.leaves(pool)[0].shape[0])
    fresh = jax.tree.map(lambda leaf: leaf[index], pool)
    done = terminated | truncated
    obs, state = jax.tree.map(
        lambda new, old: jnp.where(done, new, strong(old, new)), fresh, (typed(env, next_obs), next_state)
    )
    return obs, state, reward, terminated, truncated, info | {"final_observation": next_obs}


def can_restart(env: Any) -> bool:
    """Whether its episodes can begin anew from a pool: it tells truncation, and has a `step_env` that does not reset.

    A wrapper has none: `step_env` would be that of what it wraps.
    """
    return isinstance(env, GymnaxEnvironment) and tells_truncation(env, env.default_params)


def tells_truncation(env: Any, params: Any) -> bool:
    """Whether `step` tells a time limit from a termination (six values) or not (the older five)."""
    key = jax.random.key(0)
    _, state = jax.eval_shape(env.reset, key, params)
    space = action_space(env)
    action = jax.ShapeDtypeStruct(space.shape, jnp.float32 if isinstance(space, spaces.Box) else jnp.int32)
    return len(jax.eval_shape(env.step, key, state, action, params)) == 6


def typed(env: Any, obs: Any) -> Any:
    """Indices as int32, boxes as float32, whatever dtype the environment emits or declares."""
    return _typed(observation_space(env), obs)


def _typed(space: Any, obs: Any) -> Any:
    if isinstance(space, spaces.Dict):
        return {name: _typed(part, obs[name]) for name, part in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(_typed(part, value) for part, value in parts(space, obs))
    return jnp.asarray(obs, jnp.int32 if isinstance(space, spaces.Discrete) else jnp.float32)


def strong(x: Any, like: Any = None) -> Array:
    """`x` as an array with a definite dtype, that of `like` if given, so that it can be carried through a scan."""
    x = jnp.asarray(x)
    dtype = x.dtype if like is None else jnp.asarray(like).dtype
    return x if jnp.issubdtype(dtype, jax.dtypes.extended) else jax.lax.convert_element_type(x, dtype)
