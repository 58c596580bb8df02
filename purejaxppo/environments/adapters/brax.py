"""Brax: rigid-body control with continuous actions, "brax/ant" and the like."""

import functools
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from brax import envs
from gymnax.environments import spaces
from jax import Array

from purejaxppo.environments.base import Environment
from purejaxppo.environments.task import strong
from purejaxppo.errors import ConfigError, unknown_name
from purejaxppo.settings import COUNT, Settings, traced

BACKENDS = ("generalized", "mjx", "positional", "spring")


class BraxParams(Settings):
    """Traced parameters; 1000 steps is what brax's own `envs.create` sets.

    Raises:
        ConfigError: a field is unknown or its value is not allowed. Tracers are not checked.
    """

    max_steps_in_episode: int | Array = traced(1000, "steps after which an episode is cut short", COUNT)


class BraxState(NamedTuple):
    """What brax carries, and for how long the episode has been under way."""

    suite: Any  # brax.envs.State
    time: Array  # [], int32, steps taken in this episode


@dataclass(frozen=True)
class BraxEnv(Environment):
    """An environment of brax, without any of brax's wrappers.

    Tested with brax 0.14.2 (mujoco 4.0.0, mujoco-mjx 3.17.0) on Python 3.11 and JAX 0.10.2.

    Actions are boxes in [-1, 1], which brax scales to its actuators. An action outside must be clipped before: brax
    limits what an actuator does, but not what the reward charges for it.

    - Reset: on the step that ends an episode, to a new initial state. Brax's AutoResetWrapper instead returns to the
      first initial state of each environment for ever, which is cheaper: here every step pays for a reset.
    - Truncation: brax has no time limit of its own; steps are counted, and `max_steps_in_episode` truncates. Where a
      robot falls on the last step both flags are set, and the termination counts.
    - Lost: brax's EpisodeWrapper can repeat actions and sums its metrics over an episode; the metrics of a single
      step are in `info`. `fast`, which brax tests itself with, is left out, and so is `swimmer`, which fails in
      brax 0.14.2: there it calls `jnp.clip` with an argument that JAX no longer has.

    Attributes:
        env_name: as brax registers it, such as "ant".
        backend: brax's physics, one of "generalized" (brax's own default), "mjx", "positional", "spring"; brax
            raises ValueError where an environment cannot run on it.

    Raises:
        ConfigError: brax knows no such environment, or there is no such backend.
    """

    env_name: str
    backend: str = "generalized"

    def __post_init__(self) -> None:
        if self.env_name not in names():
            raise unknown_name("brax environment", self.env_name, names())
        if self.backend not in BACKENDS:
            raise ConfigError.of("backend", self.backend, f"one of {', '.join(map(repr, BACKENDS))}")

    @property
    def suite(self) -> Any:
        """The environment of brax."""
        return _load(self.env_name, self.backend)

    @property
    def name(self) -> str:
        return f"brax/{self.env_name}"

    @property
    def default_params(self) -> BraxParams:
        return BraxParams()

    @property
    def num_actions(self) -> int:
        return int(self.suite.action_size)

    def action_space(self, params: BraxParams | None = None) -> spaces.Box:
        return spaces.Box(-1.0, 1.0, (self.num_actions,), jnp.float32)

    def observation_space(self, params: BraxParams | None = None) -> spaces.Box:
        return spaces.Box(-jnp.inf, jnp.inf, _obs_shape(self.env_name, self.backend), jnp.float32)

    def reset_env(self, key: Array, params: BraxParams) -> tuple[Array, BraxState]:
        suite = self.suite.reset(key)
        return suite.obs, BraxState(suite, jnp.zeros((), jnp.int32))

    def step_env(
        self, key: Array, state: BraxState, action: Any, params: BraxParams
    ) -> tuple[Array, BraxState, Array, Array, dict[Any, Any]]:
        # Brax writes into the dictionaries of the state that it is given: let it be ones of our own.
        before = jax.tree.map(lambda x: x, state.suite)
        after = jax.tree.map(strong, self.suite.step(before, action), state.suite)  # some leaves are Python numbers
        return after.obs, BraxState(after, state.time + 1), after.reward, after.done > 0, dict(after.metrics)

    def is_terminated(self, state: BraxState, params: BraxParams) -> Array:
        return state.suite.done > 0

    def is_truncated(self, state: BraxState, params: BraxParams) -> Array:
        return state.time >= params.max_steps_in_episode


def names() -> list[str]:
    """The environments of brax that can be trained on."""
    return [name for name in envs._envs if name not in ("fast", "swimmer")]  # brax offers no public list


def make(name: str) -> BraxEnv:
    """The environment of a name that brax knows, with its default physics.

    Raises:
        ConfigError: brax does not know it.
    """
    return BraxEnv(name)


@functools.cache
def _load(env_name: str, backend: str) -> Any:
    # Its arrays are kept for later programs, so they must be none of the program that is being traced.
    with jax.ensure_compile_time_eval():
        return envs.get_environment(env_name, backend=backend)


@functools.cache
def _obs_shape(env_name: str, backend: str) -> tuple[int, ...]:
    # `observation_size` of brax runs a reset each time that it is asked.
    return jax.eval_shape(_load(env_name, backend).reset, jax.random.key(0)).obs.shape
