"""Pgx: MinAtar and 2048, and two games for two players."""

import functools
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pgx
from gymnax.environments import spaces
from jax import Array

from purejaxppo.environments.base import Environment
from purejaxppo.errors import ConfigError, unknown_name
from purejaxppo.settings import COUNT, Settings, traced

TWO_PLAYERS = (
    "connect_four",
    "tic_tac_toe",
)  # one move each, in turn, and one wins what the other loses


class PgxParams(Settings):
    """Traced parameters of a game.

    Raises:
        ConfigError: a field is unknown or its value is not allowed. Tracers are not checked.
    """

    max_steps_in_episode: int | Array = traced(
        int(np.iinfo(np.int32).max), "steps after which an episode is cut short; never by default", COUNT
    )


@dataclass(frozen=True)
class PgxEnv(Environment):
    """A game of the package `pgx` (tested: 2.6.0), as in `PgxEnv("minatar-breakout")`.

    In a game for two players the agent plays both, in turn: the observation is that of the player whose move it is, the
    reward that of the player who has moved. So the value of a successor is the opponent's, and counts against: train
    with an advantage estimator that takes `-gamma`, and `gamma=1`.

    The observation is `{"observation": ..., "legal_action_mask": ...}`, both as the package gives them. The mask is not
    among the features.

    Reset rule: on the step that ends an episode, by gymnax's `step`; the package's `auto_reset` is not used.
    Truncation: the package's `truncated`, which its games never set, or `max_steps_in_episode` of ours.
    Lost: all other games of two players and more. The package has no time limits but Freeway's 2500 steps, which it
    calls a termination; so does this. MinAtar's actions stick with probability 0.1 and are the minimal set, as
    `pgx.make` has it; there is no ramping of difficulty to be set.

    Attributes:
        env_name: the package's id of the game.

    Raises:
        ConfigError: there is no such game, or it is none of these.
    """

    env_name: str

    def __post_init__(self) -> None:
        if self.env_name not in pgx.available_envs():
            raise unknown_name("pgx environment", self.env_name, names())
        players = _load(self.env_name).num_players
        if players != 1 and self.env_name not in TWO_PLAYERS:
            allowed = f"a game for one player, or one of {', '.join(TWO_PLAYERS)}, but this one has {players} players"
            raise ConfigError.of("env", f"pgx/{self.env_name}", allowed)

    @property
    def name(self) -> str:
        return f"pgx/{self.env_name}"

    @property
    def default_params(self) -> PgxParams:
        return PgxParams()

    @property
    def num_actions(self) -> int:
        return int(_shapes(self.env_name).legal_action_mask.shape[0])

    def action_space(self, params: PgxParams | None = None) -> spaces.Discrete:
        return spaces.Discrete(self.num_actions)

    def observation_space(self, params: PgxParams | None = None) -> spaces.Dict:
        obs = _shapes(self.env_name).observation
        is_bool = obs.dtype == bool
        box = spaces.Box(0 if is_bool else -jnp.inf, 1 if is_bool else jnp.inf, obs.shape, obs.dtype)
        mask = spaces.Box(0, 1, (self.num_actions,), jnp.bool_)
        return spaces.Dict({"observation": box, "legal_action_mask": mask})

    def features(self, obs: dict[str, Array]) -> Array:
        return obs["observation"].astype(jnp.float32).reshape(-1)

    def action_mask(self, obs: dict[str, Array], params: PgxParams) -> Array:
        return obs["legal_action_mask"].astype(bool)

    def reset_env(self, key: Array, params: PgxParams) -> tuple[dict[str, Array], Any]:
        state = _load(self.env_name).init(key)
        return _seen(state), state

    def step_env(
        self, key: Array, state: Any, action: Any, params: PgxParams
    ) -> tuple[dict[str, Array], Any, Array, Array, dict[Any, Any]]:
        after = _load(self.env_name).step(state, action, key)
        return _seen(after), after, after.rewards[state.current_player], after.terminated, {}

    def is_truncated(self, state: Any, params: PgxParams) -> Array:
        return state.truncated | (state._step_count >= params.max_steps_in_episode)

    def is_terminated(self, state: Any, params: PgxParams) -> Array:
        return state.terminated


def names() -> list[str]:
    """The games for one player, and those of `TWO_PLAYERS`."""
    games = ("2048", *TWO_PLAYERS)
    return [name for name in pgx.available_envs() if name in games or name.startswith("minatar-")]


def make(name: str) -> PgxEnv:
    """The game of that name.

    Raises:
        ConfigError: there is no such game, or it is none of these.
    """
    return PgxEnv(name)


@functools.cache
def _load(env_name: str) -> Any:
    """The package's game."""
    # What is kept must not hold tracers of a program that happens to be traced now.
    with jax.ensure_compile_time_eval():
        return pgx.make(env_name)


@functools.cache
def _shapes(env_name: str) -> Any:
    """Shapes and dtypes of a state."""
    return jax.eval_shape(_load(env_name).init, jax.random.key(0))


def _seen(state: Any) -> dict[str, Array]:
    """What the player sees of a state."""
    return {"observation": state.observation, "legal_action_mask": state.legal_action_mask}
