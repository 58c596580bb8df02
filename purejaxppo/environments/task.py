"""A task: an environment and its parameters, and what the learner asks of both.

It smooths over the differences between environments with gymnax's interface: the dtypes that they emit, the older
five-value `step`, observations as boxes, indices, or dictionaries and tuples of both.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from gymnax.environments.environment import Environment as GymnaxEnvironment
from jax import Array

from purejaxppo._jit import compile
from purejaxppo.distributions import ONLY_CHOICES_ARE_MASKED
from purejaxppo.environments import spaces
from purejaxppo.environments.base import name_of, owner_of
from purejaxppo.environments.tabular import tabulate
from purejaxppo.errors import ConfigError, unknown_name
from purejaxppo.planning import TabularModel
from purejaxppo.usable import are_usable, usable

MAX_STEPS = 100_000  # of an episode that is played to evaluate


class Step(NamedTuple):
    """One transition of one environment that resets itself."""

    obs: Any  # of the next step: after a reset, if the episode ended
    state: Any
    reward: Array  # [], float32
    terminated: Array  # [], bool: the episode is over by nature
    done: Array  # [], bool: terminated or cut short
    next_obs: Any  # the true successor, before any reset
    is_usable: Array  # [], bool: no number of the observations and the reward is unusable, see `usable`
    info: Any  # whatever else the environment says about the step


@dataclass(frozen=True, eq=False)
class Task:
    """An environment object and its parameters, which may be traced.

    Attributes:
        env: with gymnax's interface.
        params: of the environment.
        fills: whether a number of an observation that cannot be used is given as 0; otherwise as it is.
    """

    env: Any
    params: Any
    fills: bool = True

    @cached_property
    def action_kind(self) -> Any:
        """The space of one action under the default parameters: its kind and its sizes are those of all parameters."""
        with jax.ensure_compile_time_eval():  # its bounds are numbers, in a traced function as well
            return self.env.action_space(self.env.default_params)

    @property
    def action_space(self) -> Any:
        """The space of one action: gymnax's `Discrete` or `Box`, or `MultiDiscrete`.

        The bounds of a box are those under the parameters, and traced where these are.

        Raises:
            ConfigError: they cannot be traced.
        """
        if not isinstance(self.action_kind, spaces.Box):
            return self.action_kind
        try:
            return self.env.action_space(self.params)
        except (jax.errors.ConcretizationTypeError, jax.errors.TracerArrayConversionError) as error:
            what = f"must compute its bounds with jax.numpy, as parameters may be traced ({type(error).__name__})"
            raise ConfigError(f"env={name_of(self.env)!r}: its action_space {what}") from None

    @cached_property
    def observation_space(self) -> Any:
        """The space of one observation, by kind and sizes: gymnax's `Discrete`, `Box`, `Dict` or `Tuple`."""
        with jax.ensure_compile_time_eval():
            return self.env.observation_space(self.env.default_params)

    @property
    def num_observations(self) -> int | None:
        """Number of distinct observations, or None where they are not indices."""
        space = self.observation_space
        return int(space.n) if isinstance(space, spaces.Discrete) else None

    @property
    def event_shape(self) -> tuple[int, ...]:
        """Shape of one action as the distributions have it, and of the uniform numbers that it is drawn with."""
        space = self.action_kind
        return (math.prod(space.shape),) if isinstance(space, spaces.Box) else tuple(space.shape)

    @property
    def obs_spec(self) -> Any:
        """Shapes and dtypes of one observation, a pytree of `jax.ShapeDtypeStruct`."""
        return jax.eval_shape(lambda key: self.reset(key)[0], jax.random.key(0))

    @property
    def horizon(self) -> Any:
        """Steps after which an episode is cut short."""
        return self.params.max_steps_in_episode

    def features(self, obs: Any) -> Array:
        """The networks' input for one observation; see `Environment.features`."""
        env = owner_of(self.env, "features")
        if env is None:
            return spaces.flatten(self.observation_space, obs)
        return env.features(self._as_given_by(env, obs))

    def action_mask(self, obs: Any) -> Array | None:
        """The available actions for one observation; see `Environment.action_mask`.

        Raises:
            ConfigError: it is not shaped as the space of actions demands.
        """
        env = owner_of(self.env, "action_mask")
        mask = None if env is None else env.action_mask(self._as_given_by(env, obs), self.params)
        expected = spaces.mask_shape(self.action_kind)
        if mask is None or jnp.shape(mask) == expected:
            return mask
        if expected is None:
            raise ConfigError(ONLY_CHOICES_ARE_MASKED)
        what = f"{expected}, for {self.action_kind}, but has {jnp.shape(mask)}"
        raise ConfigError(f"action_mask: must have shape {what}")

    def decides(self, obs: Any) -> Array:
        """Whether more than one action is available for one observation, a boolean; of several choices, for any."""
        mask = self.action_mask(obs)
        return jnp.array(True) if mask is None else jnp.any(jnp.sum(mask, axis=-1) > 1)

    @cached_property
    def always_decides(self) -> bool:
        """Whether it is known beforehand that more than one action is available for every observation."""
        if jax.eval_shape(self.action_mask, self.obs_spec) is None:
            return True
        if self.num_observations is None:
            return False

        def decides() -> Array:
            return jnp.all(jax.vmap(self.decides)(jnp.arange(self.num_observations)))

        if any(isinstance(const, jax.core.Tracer) for const in jax.make_jaxpr(decides)().consts):
            return False  # it depends on parameters that are traced
        program = compile(jax.jit(decides))  # at once: one operation after the other would take half a second
        with jax.ensure_compile_time_eval():
            return bool(program())

    def _as_given_by(self, env: Any, obs: Any) -> Any:
        """An observation as an environment under wrappers gave it: a wrapper may have flattened it."""
        if env is self.env:
            return obs
        space = Task(env, self.params).observation_space
        if spaces.has_same_form(space, self.observation_space):
            return obs
        if isinstance(space, spaces.Box) and np.shape(obs) == (math.prod(space.shape),):
            return jnp.reshape(obs, space.shape)
        what = f"are not those of {name_of(env)}, whose features and action_mask read them"
        raise ConfigError(f"env: the observations of its wrapper {type(self.env).__name__} {what}")

    def typed(self, obs: Any) -> Any:
        """An observation in the dtypes of the observation space, see `spaces.as_declared`, and with usable numbers."""
        obs = spaces.as_declared(self.observation_space, obs)
        return usable(obs) if self.fills else obs

    def tabular_model(self) -> TabularModel:
        """The environment as arrays.

        Raises:
            ConfigError: it is not known how.
        """
        model = tabulate(self.env, self.params)
        if model is None:
            allowed = "GridWorld, FrozenLake-misc, FourRooms-misc, Catch-bsuite, or one that implements tabular_model"
            raise ConfigError.of("env", name_of(self.env), f"an environment whose model is known: {allowed}")
        return model._replace(obs=self.typed(model.obs))

    def reset(self, key: Array) -> tuple[Any, Any]:
        """`(obs, state)` of a new episode."""
        obs, state = self.env.reset(key, self.params)
        return self.typed(obs), jax.tree.map(strong, state)

    def step(self, key: Array, state: Any, action: Array, pool: Any = None) -> Step:
        """One step, with a reset on the same step where the episode ends.

        Five values are the older interface, which cannot tell truncation: `done` counts as termination, so nothing is
        bootstrapped from the successor, which it does not tell either.

        Args:
            pool: `(obs, state)` of beginnings of episodes `[P, ...]`, of which one replaces a reset; None resets.
        """
        result = (
            self.env.step(key, state, action, self.params) if pool is None else self._restart(key, state, action, pool)
        )
        if len(result) == 5:
            obs, next_state, reward, terminated, info = result
            truncated, next_obs = jnp.zeros_like(terminated), obs
        else:
            obs, next_state, reward, terminated, truncated, info = result
            if "final_observation" not in info:
                raise ConfigError("env: its step must give the successor before any reset as info['final_observation']")
            next_obs = info["final_observation"]
        terminated, reward = _flag(terminated), jnp.asarray(reward, jnp.float32).reshape(())
        return Step(
            self.typed(obs),
            jax.tree.map(strong, next_state, state),
            reward,
            terminated,
            terminated | _flag(truncated),
            self.typed(next_obs),
            are_usable((obs, next_obs, reward)),
            info,
        )

    def _restart(self, key: Array, state: Any, action: Array, pool: Any) -> tuple[Any, ...]:
        """gymnax's `step`, with the beginning of an episode from a pool."""
        key_step, key_reset = jax.random.split(key)
        next_obs, next_state, reward, terminated, info = self.env.step_env(key_step, state, action, self.params)
        truncated = self.env.is_truncated(next_state, self.params)
        index = jax.random.randint(key_reset, (), 0, jax.tree.leaves(pool)[0].shape[0])
        fresh = jax.tree.map(lambda leaf: leaf[index], pool)
        done = _flag(terminated) | _flag(truncated)
        obs, state = jax.tree.map(
            lambda new, old: jnp.where(done, new, strong(old, new)), fresh, (self.typed(next_obs), next_state)
        )
        told = {"terminated": terminated, "truncated": truncated, "final_observation": next_obs}
        return obs, state, reward, terminated, truncated, info | told

    @property
    def can_restart(self) -> bool:
        """Whether episodes can begin anew from a pool: it tells truncation, and has a `step_env` that does not reset.

        A wrapper has none: `step_env` would be that of what it wraps.
        """
        return isinstance(self.env, GymnaxEnvironment) and self.tells_truncation

    @property
    def tells_truncation(self) -> bool:
        """Whether `step` tells a time limit from a termination (six values) or not (the older five)."""
        return len(self._step_spec(self.env.step)) == 6

    def check_info(self, names: Sequence[str]) -> None:
        """Refuse names that are not in the `info` of a step.

        Raises:
            ConfigError: one is not there, or is not a single number.
        """
        info = flat_info(self._step_spec(self.env.step)[-1])
        numbers = [name for name, leaf in info.items() if leaf.shape == ()]
        for name in names:
            if name not in numbers:
                raise unknown_name("info", name, numbers or ["(the environment's info holds no numbers)"])

    def _step_spec(self, step: Any) -> Any:
        """The shapes and dtypes of what a step gives."""
        key = jax.random.key(0)
        _, state = jax.eval_shape(self.env.reset, key, self.params)
        space = self.action_kind
        action = jax.ShapeDtypeStruct(space.shape, jnp.float32 if isinstance(space, spaces.Box) else jnp.int32)
        return jax.eval_shape(step, key, state, action, self.params)


def _flag(x: Any) -> Array:
    """True or false, of a number of any type."""
    return jnp.asarray(x).astype(bool).reshape(())


def flat_info(info: Any) -> dict[str, Any]:
    """A step's `info` without nesting: the entries of an inner dictionary are called `outer/inner`."""
    flat: dict[str, Any] = {}
    for name, value in info.items() if isinstance(info, dict) else []:
        if isinstance(value, dict):
            flat |= {f"{name}/{inner}": leaf for inner, leaf in flat_info(value).items()}
        elif name != "final_observation" and (hasattr(value, "shape") or isinstance(value, float | int)):
            flat[str(name)] = value
    return flat


def strong(x: Any, like: Any = None) -> Array:
    """`x` as an array with a definite dtype, that of `like` if given, so that it can be carried through a scan."""
    x = jnp.asarray(x)
    dtype = x.dtype if like is None else jnp.asarray(like).dtype
    return x if jnp.issubdtype(dtype, jax.dtypes.extended) else jax.lax.convert_element_type(x, dtype)
