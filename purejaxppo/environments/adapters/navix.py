"""Navix: MiniGrid's gridworlds in JAX, "navix/Navix-Empty-8x8-v0" and the like."""

import functools
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import navix
from gymnax.environments import spaces
from jax import Array
from navix.rendering.cache import RenderingCache

from purejaxppo.environments.base import Environment
from purejaxppo.errors import unknown_name
from purejaxppo.settings import COUNT, Settings, traced

# What a cell of the grid shows: the number of kinds of things, of colours, and of states (a facing or a door's).
NUM_CATEGORIES = (11, 6, 4)


class NavixParams(Settings):
    """Traced parameters; an environment's `default_params` hold the limit that navix sets for it.

    Raises:
        ConfigError: a field is unknown or its value is not allowed. Tracers are not checked.
    """

    max_steps_in_episode: int | Array = traced(100, "steps after which an episode is cut short", COUNT)


@dataclass(frozen=True)
class NavixEnv(Environment):
    """An environment of navix, as navix registers it: the whole grid is seen, as three integers per cell.

    Tested with navix 4.0.0 on Python 3.12 (which it requires) and JAX 0.11.2.

    The observation is `[H, W, 3]`, the kind, colour and state of what is in each cell; the networks read each of the
    three as a one-hot vector, `H * W * 21` features.

    - Reset: on the step that ends an episode. Navix by itself resets on the step after, which takes no action and
      earns nothing; that is switched off.
    - Truncation: navix's own, at `max_steps_in_episode`. Where the last step also terminates, navix says termination.
    - Randomness: navix draws from a key in its state, set at the reset; the key of a step is not used.
    - Lost: pictures. What navix draws them from, 192 bytes per cell, is not carried along but in `GoToDoor` and the
      `Crossing`s, which insist on it. Neither the mission nor what the agent carries is in the observation, as in
      navix: `GoToDoor`, `GoToObject`, `Fetch` and `PutNear` do not tell what they ask for.

    Attributes:
        env_name: as navix registers it, such as "Navix-Empty-8x8-v0".

    Raises:
        ConfigError: navix knows no such environment.
    """

    env_name: str

    def __post_init__(self) -> None:
        if self.env_name not in names():
            raise unknown_name("navix environment", self.env_name, names())

    @property
    def suite(self) -> Any:
        """The environment of navix, with its auto-reset switched off."""
        return _load(self.env_name)

    @property
    def name(self) -> str:
        return f"navix/{self.env_name}"

    @property
    def default_params(self) -> NavixParams:
        return NavixParams(max_steps_in_episode=self.suite.max_steps)

    @property
    def num_actions(self) -> int:
        return len(self.suite.action_set)

    def action_space(self, params: NavixParams | None = None) -> spaces.Discrete:
        return spaces.Discrete(self.num_actions)

    def observation_space(self, params: NavixParams | None = None) -> spaces.Box:
        return spaces.Box(0, max(NUM_CATEGORIES) - 1, (self.suite.height, self.suite.width, 3), jnp.uint8)

    def features(self, obs: Array) -> Array:
        layers = jnp.moveaxis(jnp.asarray(obs, jnp.int32), -1, 0)
        one_hots = [jax.nn.one_hot(layer, num) for layer, num in zip(layers, NUM_CATEGORIES, strict=True)]
        return jnp.concatenate(one_hots, axis=-1).reshape(-1)

    def reset_env(self, key: Array, params: NavixParams) -> tuple[Array, Any]:
        unused = RenderingCache(patches=jnp.zeros((0,), jnp.uint8))
        timestep = self.suite.reset(key, unused)
        return timestep.observation, timestep

    def step_env(
        self, key: Array, state: Any, action: Any, params: NavixParams
    ) -> tuple[Array, Any, Array, Array, dict[Any, Any]]:
        suite = self.suite.replace(max_steps=params.max_steps_in_episode)
        timestep = suite.step(state, jnp.asarray(action, jnp.int32))
        return timestep.observation, timestep, timestep.reward, timestep.is_termination(), {}

    def is_terminated(self, state: Any, params: NavixParams) -> Array:
        return state.is_termination()

    def is_truncated(self, state: Any, params: NavixParams) -> Array:
        return state.is_truncation()


def names() -> list[str]:
    """The environments that navix registers."""
    return sorted(navix.registry())


def make(name: str) -> NavixEnv:
    """The environment of a name that navix knows.

    Raises:
        ConfigError: navix does not know it.
    """
    return NavixEnv(name)


@functools.cache
def _load(env_name: str) -> Any:
    # Its arrays are kept for later programs, so they must be none of the program that is being traced.
    with jax.ensure_compile_time_eval():
        return navix.make(env_name, disable_autoreset=True)
