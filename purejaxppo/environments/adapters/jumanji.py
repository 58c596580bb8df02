"""Jumanji: puzzles, packing and routing problems."""

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jumanji
import numpy as np
from gymnax.environments import spaces
from jax import Array
from jumanji import specs

from purejaxppo.environments.base import Environment
from purejaxppo.environments.spaces import MultiDiscrete
from purejaxppo.errors import ConfigError, unknown_name
from purejaxppo.settings import COUNT, Settings, traced

MASK = "action_mask"
MOST_CATEGORIES = 40  # integers of more values than this are read as numbers, not as one-hot vectors
# Bounds of integers that the package leaves unbounded: powers of two on the board, and the time limit.
BOUNDS = {("Game2048-v1", "board"): (0, 17), ("Maze-v0", "step_count"): (0, 100)}


class JumanjiParams(Settings):
    """Traced parameters of a task.

    Raises:
        ConfigError: a field is unknown or its value is not allowed. Tracers are not checked.
    """

    max_steps_in_episode: int | Array = traced(
        int(np.iinfo(np.int32).max), "steps after which an episode is cut short, if the task does not end it", COUNT
    )


class JumanjiState(NamedTuple):
    """The package's state, and what it does not keep there."""

    inner: Any
    truncated: Array  # [], bool, whether the package said so
    time: Array  # [], int32, steps taken in this episode


@dataclass(frozen=True)
class JumanjiEnv(Environment):
    """A task of the package `jumanji` (tested: 1.1.2), as in `JumanjiEnv("Snake-v1")`.

    The observation is the package's, as a dict in place of a named tuple. The networks read all of it but the action
    mask: integers of few values as one-hot vectors, other bounded numbers scaled to [0, 1], unbounded ones as signed
    logarithms. Several choices with a mask of their combinations (as in BinPack, Tetris or Sudoku) are one `Discrete`
    choice of a combination, in row-major order; with a mask for each, or none, they are `MultiDiscrete`.

    Reset rule: on the step that ends an episode, by gymnax's `step`; the package's `AutoResetWrapper` is not used. Each
    step pays for generating an instance that is used only if the episode ends.
    Truncation: the package's time step is its last with a discount above 0; so in Connector and LevelBasedForaging.
    Every other task reports its time limit as discount 0, and so as a termination; most of them show `step_count`, and
    are Markov with it. `max_steps_in_episode` of ours truncates, if it is less.
    Lost: rewards of several agents are summed, and an episode of theirs terminates for all at once. MultiCVRP, whose
    actions have no discrete space, is refused. Sokoban downloads its levels when it is made. Sizes and generators of
    instances are those of the registered task.

    Attributes:
        env_name: the id under which `jumanji` registers the task.

    Raises:
        ConfigError: there is no such task, or its actions are of an unsupported kind.
    """

    env_name: str

    def __post_init__(self) -> None:
        if self.env_name not in names():
            raise unknown_name("jumanji environment", self.env_name, names())
        self.action_space()

    @property
    def name(self) -> str:
        return f"jumanji/{self.env_name}"

    @property
    def default_params(self) -> JumanjiParams:
        return JumanjiParams()

    def action_space(self, params: JumanjiParams | None = None) -> spaces.Space:
        spec = _load(self.env_name).action_spec
        if isinstance(spec, specs.DiscreteArray):
            return spaces.Discrete(int(spec.num_values))
        if isinstance(spec, specs.MultiDiscreteArray):
            choices = _choices(spec)
            return spaces.Discrete(math.prod(choices)) if self._is_joint else MultiDiscrete(choices)
        if jnp.issubdtype(spec.dtype, jnp.floating):
            return spaces.Box(*_bounds(spec), spec.shape, jnp.float32)
        raise ConfigError.of("env", self.name, f"a task with discrete or real actions, but this one has {spec}")

    def observation_space(self, params: JumanjiParams | None = None) -> spaces.Dict:
        return _observation_space(self.env_name)

    def features(self, obs: Mapping[str, Any]) -> Array:
        return _vector(_observation_space(self.env_name), obs)

    def action_mask(self, obs: Mapping[str, Any], params: JumanjiParams) -> Array | None:
        if MASK not in obs:
            return None
        mask = obs[MASK].astype(bool)
        mask = mask.reshape(-1) if self._is_joint else mask
        # Where nothing is available, as after the end, everything is: a policy needs something to choose from.
        return mask | ~mask.any(axis=-1, keepdims=True)

    def reset_env(self, key: Array, params: JumanjiParams) -> tuple[dict[str, Any], JumanjiState]:
        inner, timestep = _load(self.env_name).reset(key)
        state = JumanjiState(inner, jnp.zeros((), bool), jnp.zeros((), jnp.int32))
        return self._seen(timestep), state

    def step_env(
        self, key: Array, state: JumanjiState, action: Any, params: JumanjiParams
    ) -> tuple[dict[str, Any], JumanjiState, Array, Array, dict[Any, Any]]:
        inner, timestep = _load(self.env_name).step(state.inner, self._own(action))
        truncated = timestep.last() & jnp.any(timestep.discount > 0)
        terminated = timestep.last() & ~truncated
        next_state = JumanjiState(inner, truncated, state.time + 1)
        return self._seen(timestep), next_state, jnp.sum(timestep.reward), terminated, dict(timestep.extras)

    def is_truncated(self, state: JumanjiState, params: JumanjiParams) -> Array:
        return state.truncated | (state.time >= params.max_steps_in_episode)

    @property
    def _is_joint(self) -> bool:
        """Whether the mask is of combinations of several choices."""
        spec, space = _load(self.env_name).action_spec, _observation_space(self.env_name)
        is_multiple = isinstance(spec, specs.MultiDiscreteArray) and MASK in space.spaces
        return is_multiple and space.spaces[MASK].shape == _choices(spec)

    def _own(self, action: Any) -> Array:
        """The package's action."""
        spec = _load(self.env_name).action_spec
        if self._is_joint:
            action = jnp.stack(jnp.unravel_index(action, _choices(spec)))
        return jnp.asarray(action, spec.dtype)

    def _seen(self, timestep: Any) -> dict[str, Any]:
        """The observation as a dict."""
        return _as_dict(_observation_space(self.env_name), timestep.observation)


def names() -> list[str]:
    """The tasks that `jumanji` registers."""
    return sorted(jumanji.registered_environments())


def make(name: str) -> JumanjiEnv:
    """The task of that id.

    Raises:
        ConfigError: there is no such task, or its actions are of an unsupported kind.
    """
    return JumanjiEnv(name)


@functools.cache
def _load(env_name: str) -> Any:
    """The package's environment."""
    # What is kept must not hold tracers of a program that happens to be traced now.
    with jax.ensure_compile_time_eval():
        return jumanji.make(env_name)


@functools.cache
def _observation_space(env_name: str) -> spaces.Dict:
    return _space(env_name, "", _load(env_name).observation_spec)


def _space(env_name: str, name: str, spec: Any) -> spaces.Space:
    """The space of one field of the observation, or of all of them."""
    if not isinstance(spec, specs.Array):
        return spaces.Dict({child: _space(env_name, child, part) for child, part in spec._specs.items()})
    low, high = BOUNDS.get((env_name, name), (-np.inf, np.inf))
    if isinstance(spec, specs.BoundedArray):
        low, high = _bounds(spec)
    return spaces.Box(low, high, spec.shape, spec.dtype)


def _bounds(spec: Any) -> tuple[float, float]:
    """The least and the greatest value, as numbers even where a program is being traced."""
    return float(np.min(np.asarray(spec.minimum))), float(np.max(np.asarray(spec.maximum)))


def _choices(spec: Any) -> tuple[int, ...]:
    """How many values each of several choices has."""
    return tuple(np.asarray(spec.num_values).tolist())


def _as_dict(space: Any, obs: Any) -> Any:
    """Named tuples, and dataclasses, as dicts."""
    if not isinstance(space, spaces.Dict):
        return obs
    return {name: _as_dict(part, getattr(obs, name)) for name, part in space.spaces.items()}


def _vector(space: Any, value: Any) -> Array:
    """What the networks read of one field of the observation, or of all of them but the mask."""
    if isinstance(space, spaces.Dict):
        return jnp.concatenate([_vector(part, value[name]) for name, part in space.spaces.items() if name != MASK])
    numbers = jnp.asarray(value, jnp.float32).reshape(-1)
    extent = space.high - space.low
    if not np.isfinite(extent):
        return jnp.sign(numbers) * jnp.log1p(jnp.abs(numbers))
    if jnp.issubdtype(space.dtype, jnp.integer) and 1 < extent < MOST_CATEGORIES:
        return jax.nn.one_hot((numbers - space.low).astype(jnp.int32), int(extent) + 1).reshape(-1)
    return (numbers - space.low) / max(extent, 1e-6)
