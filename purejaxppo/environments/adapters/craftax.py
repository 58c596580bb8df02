"""Craftax: a survival game with crafting, "craftax/Craftax-Symbolic-v1" and the like."""

import functools
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from craftax.craftax_env import make_craftax_env_from_name
from gymnax.environments import spaces
from jax import Array

from purejaxppo.environments.base import Environment
from purejaxppo.errors import unknown_name
from purejaxppo.settings import COUNT, Settings, traced

NEVER = np.iinfo(np.int32).max


class CraftaxParams(Settings):
    """Traced parameters; an environment's `default_params` hold what craftax sets for it.

    Raises:
        ConfigError: a field is unknown or its value is not allowed. Tracers are not checked.
    """

    max_steps_in_episode: int | Array = traced(10_000, "steps after which an episode is cut short", COUNT)
    day_length: int | Array = traced(300, "steps of a day and its night", COUNT)
    mob_despawn_distance: int | Array = traced(14, "cells from the player at which creatures vanish", COUNT)


@dataclass(frozen=True)
class CraftaxEnv(Environment):
    """An environment of craftax, without its auto-reset.

    Tested with craftax 1.6.1 on Python 3.11 and JAX 0.10.2.

    - Reset: on the step that ends an episode, to a new world. As in craftax's own auto-reset environment every step
      pays for a new world, which on a CPU costs some 17 times what the step itself does (the classic game).
    - Truncation: craftax has one flag for both. Its game is asked a second time, without a time limit, whether it is
      over; so death, lava and a defeated boss are terminations, and `max_steps_in_episode` truncates.
    - Lost: the rules of the game that `CraftaxParams` does not hold stay as craftax has them. Its achievements are in
      `info` at the end of an episode.

    Attributes:
        env_name: as craftax names it, such as "Craftax-Classic-Symbolic-v1".

    Raises:
        ConfigError: craftax knows no such environment.
    """

    env_name: str

    def __post_init__(self) -> None:
        if self.env_name not in names():
            raise unknown_name("craftax environment", self.env_name, names())

    @property
    def suite(self) -> Any:
        """The environment of craftax."""
        return _load(self.env_name)

    @property
    def name(self) -> str:
        return f"craftax/{self.env_name}"

    @property
    def default_params(self) -> CraftaxParams:
        game = self.suite.default_params
        return CraftaxParams(
            max_steps_in_episode=game.max_timesteps,
            day_length=game.day_length,
            mob_despawn_distance=game.mob_despawn_distance,
        )

    @property
    def num_actions(self) -> int:
        return int(self.suite.num_actions)

    def action_space(self, params: CraftaxParams | None = None) -> spaces.Discrete:
        return spaces.Discrete(self.num_actions)

    def observation_space(self, params: CraftaxParams | None = None) -> spaces.Box:
        return spaces.Box(0.0, 1.0, self.suite.observation_space(self.suite.default_params).shape, jnp.float32)

    def reset_env(self, key: Array, params: CraftaxParams) -> tuple[Array, Any]:
        return self.suite.reset_env(key, self._rules(params))

    def step_env(
        self, key: Array, state: Any, action: Any, params: CraftaxParams
    ) -> tuple[Array, Any, Array, Array, dict[Any, Any]]:
        obs, state, reward, _, info = self.suite.step_env(key, state, action, self._rules(params))
        return obs, state, reward, self.is_terminated(state, params), info

    def is_terminated(self, state: Any, params: CraftaxParams) -> Array:
        return self.suite.is_terminal(state, self._rules(params).replace(max_timesteps=NEVER))

    def is_truncated(self, state: Any, params: CraftaxParams) -> Array:
        return state.timestep >= params.max_steps_in_episode

    def _rules(self, params: CraftaxParams) -> Any:
        """The parameters as craftax has them."""
        return self.suite.default_params.replace(
            max_timesteps=params.max_steps_in_episode,
            day_length=params.day_length,
            mob_despawn_distance=params.mob_despawn_distance,
        )


def names() -> list[str]:
    """The environments of craftax."""
    return [f"Craftax-{game}{view}-v1" for game in ("", "Classic-") for view in ("Symbolic", "Pixels")]


def make(name: str) -> CraftaxEnv:
    """The environment of a name that craftax knows.

    Raises:
        ConfigError: craftax does not know it.
    """
    return CraftaxEnv(name)


@functools.cache
def _load(env_name: str) -> Any:
    # It imports the game's modules, whose arrays must be none of the program that is being traced.
    with jax.ensure_compile_time_eval():
        return make_craftax_env_from_name(env_name, auto_reset=False)
