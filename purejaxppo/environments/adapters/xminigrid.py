"""XLand-MiniGrid: gridworlds of MiniGrid, and those of XLand with rules, seen from where the agent stands."""

import functools
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import xminigrid
from gymnax.environments import spaces
from jax import Array
from xminigrid.core.constants import NUM_COLORS, NUM_TILES
from xminigrid.envs.xland import XLandEnvParams

from purejaxppo.environments.base import Environment
from purejaxppo.errors import unknown_name
from purejaxppo.settings import COUNT, Settings, traced


class XMiniGridParams(Settings):
    """Traced parameters of a MiniGrid task.

    Raises:
        ConfigError: a field is unknown or its value is not allowed. Tracers are not checked.
    """

    max_steps_in_episode: int | Array = traced(
        100, "steps after which an episode is cut short; a success pays 1 - 0.9 * steps / this", COUNT
    )


class XLandParams(Settings):
    """Traced parameters of an XLand task: the time limit, and a ruleset of `xminigrid.benchmarks`, field by field.

    Raises:
        ConfigError: a field is unknown or its value is not allowed. Tracers are not checked.
    """

    max_steps_in_episode: int | Array = traced(
        243, "steps after which an episode is cut short; a success pays 1 - 0.9 * steps / this", COUNT
    )
    goal: Any = traced(None, "encoded goal of the ruleset")  # [G], uint8
    rules: Any = traced(None, "encoded rules of the ruleset")  # [R, E], uint8
    init_tiles: Any = traced(None, "objects that the ruleset puts into the room")  # [I, 2], uint8


@dataclass(frozen=True)
class XMiniGridEnv(Environment):
    """A task of the package `xminigrid` (tested: 0.9.3), as in `XMiniGridEnv("MiniGrid-Empty-5x5")`.

    The observation is what the package gives: the tile and the colour of each cell in view, `[view, view, 2]`, seen
    from the agent. The networks read both as one-hot vectors.

    Reset rule: on the step that ends an episode, by gymnax's `step`; the package's own wrappers are not used.
    Truncation: the package's time step is its last with discount 1, `max_steps_in_episode` being reached.
    Lost: nothing that a step tells. The size of the view and of the grid are those of the registered task. A task of
    XLand starts with the empty ruleset, whose goal is never reached: give it one through `XLandParams`.

    Attributes:
        env_name: the name under which `xminigrid` registers the task.

    Raises:
        ConfigError: there is no such task.
    """

    env_name: str

    def __post_init__(self) -> None:
        if self.env_name not in names():
            raise unknown_name("xminigrid environment", self.env_name, names())

    @property
    def name(self) -> str:
        return f"xminigrid/{self.env_name}"

    @property
    def default_params(self) -> XMiniGridParams | XLandParams:
        params = _load(self.env_name)[1]
        if not isinstance(params, XLandEnvParams):
            return XMiniGridParams(max_steps_in_episode=params.max_steps)
        rules = params.ruleset
        return XLandParams(
            max_steps_in_episode=params.max_steps, goal=rules.goal, rules=rules.rules, init_tiles=rules.init_tiles
        )

    @property
    def num_actions(self) -> int:
        env, params = _load(self.env_name)
        return int(env.num_actions(params))

    def action_space(self, params: Any = None) -> spaces.Discrete:
        return spaces.Discrete(self.num_actions)

    def observation_space(self, params: Any = None) -> spaces.Box:
        env, own = _load(self.env_name)
        return spaces.Box(0, max(NUM_TILES, NUM_COLORS) - 1, env.observation_shape(own), jnp.uint8)

    def features(self, obs: Array) -> Array:
        tile, colour = jnp.moveaxis(obs.astype(jnp.int32), -1, 0)
        return jnp.concatenate([jax.nn.one_hot(tile, NUM_TILES), jax.nn.one_hot(colour, NUM_COLORS)], -1).reshape(-1)

    def reset_env(self, key: Array, params: Any) -> tuple[Array, Any]:
        env, _ = _load(self.env_name)
        timestep = env.reset(self._own(params), key)
        return timestep.observation, timestep

    def step_env(
        self, key: Array, state: Any, action: Any, params: Any
    ) -> tuple[Array, Any, Array, Array, dict[Any, Any]]:
        env, _ = _load(self.env_name)
        timestep = env.step(self._own(params), state, action)
        return timestep.observation, timestep, timestep.reward, timestep.last() & (timestep.discount == 0), {}

    def is_truncated(self, state: Any, params: Any) -> Array:
        return state.last() & (state.discount == 1)

    def is_terminated(self, state: Any, params: Any) -> Array:
        return state.last() & (state.discount == 0)

    def _own(self, params: XMiniGridParams | XLandParams) -> Any:
        """The package's parameters, with ours in them."""
        own = _load(self.env_name)[1].replace(max_steps=params.max_steps_in_episode)
        if isinstance(params, XMiniGridParams):
            return own
        ruleset = own.ruleset.replace(goal=params.goal, rules=params.rules, init_tiles=params.init_tiles)
        return own.replace(ruleset=ruleset)


def names() -> list[str]:
    """The tasks that `xminigrid` registers."""
    return sorted(xminigrid.registered_environments())


def make(name: str) -> XMiniGridEnv:
    """The task of that name.

    Raises:
        ConfigError: there is no such task.
    """
    return XMiniGridEnv(name)


@functools.cache
def _load(env_name: str) -> tuple[Any, Any]:
    """The package's environment and its parameters."""
    # What is kept must not hold tracers of a program that happens to be traced now.
    with jax.ensure_compile_time_eval():
        return xminigrid.make(env_name)
