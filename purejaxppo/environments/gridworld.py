"""A gridworld with money, dragons and walls, drawn as text."""

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from gymnax.environments import spaces
from jax import Array

from purejaxppo.environments import maps
from purejaxppo.environments.base import Environment
from purejaxppo.errors import ConfigError
from purejaxppo.planning import TabularModel
from purejaxppo.settings import COUNT, FINITE, SWITCH, UNIT_INTERVAL, Number, Settings, check_static, traced

TURNS = (0, 1, len(maps.ACTIONS) - 1)  # how the wind turns a move: not at all, to its right, to its left


class GridWorldParams(Settings):
    """Traced parameters of a gridworld: `jax.vmap` maps over every one of them.

    Raises:
        ConfigError: a field is unknown or its value is not allowed. Tracers are not checked.
    """

    lots_of_money: Number = traced(5.0, "reward for entering a cell M", FINITE)
    money: Number = traced(4.0, "reward for entering a cell m", FINITE)
    dragon: Number = traced(-5.0, "reward for entering a cell D", FINITE)
    step_cost: Number = traced(1.0, "cost of every step", FINITE)
    slip: Number = traced(0.0, "probability of being blown to one of the two perpendicular moves", UNIT_INTERVAL)
    max_steps_in_episode: int | Array = traced(100, "steps after which an episode is cut short", COUNT)


class GridWorldState(NamedTuple):
    """Where the agent is, and for how long it has been under way."""

    cell: Array  # [], int32
    time: Array  # [], int32, steps taken in this episode


@dataclass(frozen=True)
class GridWorld(Environment):
    """A gymnax environment on a map of text.

    Symbols: `#` wall, `.` floor, `S` start, `M` lots of money, `m` money, `D` dragon. An episode starts uniformly
    over the cells `S`, or over the floor where there is no `S`. Entering `M`, `m` or `D` pays its reward minus the
    step cost and terminates; every other step costs the step cost; `max_steps_in_episode` truncates. The actions are
    up, right, down, left; one that leads into a wall or off the map stays in place.

    The observation is the index of the cell (row by row over all cells that are not walls), `Discrete(S)`.

    Attributes:
        layout: the name of a shipped map, the path of a file, or the text itself; kept as text, so that equal maps
            are equal environments and share one compiled program.
        features_as: what the networks read, "one-hot" or "coordinates" (row and column, each scaled to [-1, 1]).
        mask_blocked: whether moves that are blocked are masked; otherwise they are offered, and bump.

    Raises:
        ConfigError: the map cannot be used; the message shows the line and the column.
    """

    layout: str = "treasure"
    features_as: str = "one-hot"
    mask_blocked: bool = True

    def __post_init__(self) -> None:
        if not isinstance(self.layout, str | Path):
            raise ConfigError.of("layout", self.layout, "the name of a map, a path, or text")
        check_static("mask_blocked", self.mask_blocked, SWITCH)
        if self.features_as not in ("one-hot", "coordinates"):
            raise ConfigError.of("features_as", self.features_as, "one of 'one-hot', 'coordinates'")
        object.__setattr__(self, "layout", maps.read(self.layout))
        maps.parse(self.layout)

    @property
    def map(self) -> maps.Map:
        """The parsed map."""
        return maps.parse(self.layout)

    @property
    def name(self) -> str:
        return "GridWorld"

    @property
    def default_params(self) -> GridWorldParams:
        return GridWorldParams()

    @property
    def num_actions(self) -> int:
        return len(maps.ACTIONS)

    def action_space(self, params: GridWorldParams | None = None) -> spaces.Discrete:
        return spaces.Discrete(self.num_actions)

    def observation_space(self, params: GridWorldParams | None = None) -> spaces.Discrete:
        return spaces.Discrete(len(self.map.symbol))

    def state_space(self, params: GridWorldParams) -> spaces.Dict:
        time = spaces.Discrete(params.max_steps_in_episode + 1)
        return spaces.Dict({"cell": self.observation_space(params), "time": time})

    def features(self, obs: Array) -> Array:
        if self.features_as == "one-hot":
            return obs
        extent = np.maximum(np.array(self.map.shape) - 1, 1)
        return jnp.asarray(2 * self.map.position / extent - 1, jnp.float32)[obs]

    def action_mask(self, obs: Array, params: GridWorldParams) -> Array | None:
        if not self.mask_blocked:
            return None
        # A cell without any way out offers every move: a policy needs something to choose from.
        shut_in = ~self.map.is_open.any(axis=1, keepdims=True)
        return jnp.asarray(self.map.is_open | shut_in)[obs]

    def tabular_model(self, params: GridWorldParams) -> TabularModel:
        """One state per cell; the outcomes of a move are straight on, and blown to its right and to its left."""
        cells, actions = np.indices((len(self.map.symbol), self.num_actions))
        turned = (actions[..., None] + TURNS) % self.num_actions
        next_cell = jnp.asarray(self.map.next_cell[cells[..., None], turned], jnp.int32)
        slip = jnp.asarray(params.slip, jnp.float32)
        probability = jnp.stack([1 - slip, slip / 2, slip / 2])
        obs = jnp.arange(len(self.map.symbol), dtype=jnp.int32)
        mask = self.action_mask(obs, params)
        return TabularModel(
            next_state=next_cell,
            probability=jnp.broadcast_to(probability, next_cell.shape),
            reward=self._rewards(params)[next_cell],
            terminated=jnp.asarray(self._is_special)[next_cell],
            start=jnp.zeros(len(obs)).at[self.map.starts].set(1 / len(self.map.starts)),
            mask=jnp.ones(cells.shape, bool) if mask is None else mask,
            obs=obs,
        )

    def reset_env(self, key: Array, params: GridWorldParams) -> tuple[Array, GridWorldState]:
        return self._start(jax.random.bits(key))

    def step_env(
        self, key: Array, state: GridWorldState, action: Any, params: GridWorldParams
    ) -> tuple[Array, GridWorldState, Array, Array, dict[Any, Any]]:
        return self._move(jax.random.bits(key), state, action, params)

    @functools.partial(jax.jit, static_argnames=("self",))
    def step(
        self, key: Array, state: GridWorldState, action: Any, params: GridWorldParams | None = None
    ) -> tuple[Array, GridWorldState, Array, Array, Array, dict[Any, Any]]:
        """As gymnax's `step`, with one random draw: its high bits decide the slip, its remainder the next start."""
        params = self.default_params if params is None else params
        bits = jax.random.bits(key)
        final_obs, moved, reward, terminated, info = self._move(bits, state, action, params)
        truncated = self.is_truncated(moved, params)
        done = terminated | truncated
        _, started = self._start(bits)
        state = jax.tree.map(functools.partial(jnp.where, done), started, moved)
        info = {**info, "terminated": terminated, "truncated": truncated, "final_observation": final_obs}
        return state.cell, state, reward, terminated, truncated, info

    def observe(self, key: Array, state: GridWorldState, action: Any, params: GridWorldParams) -> Array:
        return state.cell

    def is_terminated(self, state: GridWorldState, params: GridWorldParams) -> Array:
        return jnp.asarray(self._is_special)[state.cell]

    @property
    def _is_special(self) -> np.ndarray:
        return np.isin(self.map.symbol, [maps.LOTS_OF_MONEY, maps.MONEY, maps.DRAGON])

    def _start(self, bits: Array) -> tuple[Array, GridWorldState]:
        """A uniformly chosen start from 32 random bits."""
        starts = jnp.asarray(self.map.starts, jnp.int32)
        cell = starts[bits % len(starts)]
        return cell, GridWorldState(cell, jnp.zeros((), jnp.int32))

    def _move(
        self, bits: Array, state: GridWorldState, action: Any, params: GridWorldParams
    ) -> tuple[Array, GridWorldState, Array, Array, dict[Any, Any]]:
        """One move; 32 random bits decide whether the wind takes it."""
        uniform = (bits >> 8).astype(jnp.float32) * 2.0**-24
        direction = blown(action, uniform, params.slip)
        cell = jnp.asarray(self.map.next_cell, jnp.int32)[state.cell, direction]
        state = GridWorldState(cell, state.time + 1)
        terminated = self.is_terminated(state, params)
        return cell, state, self._rewards(params)[cell], terminated, {}

    def _rewards(self, params: GridWorldParams) -> Array:
        """Reward for entering each cell, `[S]`."""
        by_symbol = {maps.LOTS_OF_MONEY: params.lots_of_money, maps.MONEY: params.money, maps.DRAGON: params.dragon}
        prize = sum((self.map.symbol == symbol) * value for symbol, value in by_symbol.items())
        return jnp.asarray(prize - params.step_cost, jnp.float32)


def blown(action: Any, uniform: Array, slip: Number) -> Array:
    """The move that is made: with probability `slip`, one of the two perpendicular to `action`."""
    straight, right, left = TURNS
    turn = jnp.where(uniform < slip, jnp.where(uniform < slip / 2, left, right), straight)
    return (jnp.asarray(action, jnp.int32) + turn) % len(maps.ACTIONS)
