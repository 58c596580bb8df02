"""Gridworlds that are drawn anew at every reset."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from gymnax.environments import spaces
from jax import Array

from purejaxppo.environments.base import Environment
from purejaxppo.environments.gridworld import blown
from purejaxppo.environments.maps import ACTIONS, MOVES
from purejaxppo.errors import ConfigError
from purejaxppo.settings import COUNT, FINITE, SWITCH, UNIT_INTERVAL, Number, Settings, check_static, traced


class RandomGridWorldParams(Settings):
    """Traced parameters of a random gridworld.

    Raises:
        ConfigError: a field is unknown or its value is not allowed. Tracers are not checked.
    """

    lots_of_money: Number = traced(5.0, "reward for entering the goal", FINITE)
    dragon: Number = traced(-5.0, "reward for entering a dragon's cell", FINITE)
    step_cost: Number = traced(0.1, "cost of every step", FINITE)
    slip: Number = traced(0.0, "probability of being blown to one of the two perpendicular moves", UNIT_INTERVAL)
    wall_density: Number = traced(0.3, "share of the cells off the guaranteed way that are walls", UNIT_INTERVAL)
    dragon_density: Number = traced(0.05, "share of the cells off that way that hold dragons", UNIT_INTERVAL)
    max_steps_in_episode: int | Array = traced(100, "steps after which an episode is cut short", COUNT)


class RandomGridWorldState(NamedTuple):
    """One layout, and the agent in it."""

    walls: Array  # [H, W], bool
    dragons: Array  # [H, W], bool
    goal: Array  # [2], int32, row and column
    agent: Array  # [2], int32
    time: Array  # [], int32


@dataclass(frozen=True)
class RandomGridWorld(Environment):
    """A fresh solvable layout at every reset: reach the money, around walls and dragons.

    Start and goal are two different cells joined by a random way that is kept clear; every other cell is a wall or a
    dragon by chance. Entering the goal or a dragon's cell pays its reward minus the step cost and terminates;
    `max_steps_in_episode` truncates. The actions are up, right, down, left; a blocked move stays in place.

    The observation is `[H, W, 4]` float32: planes of walls, dragons, the goal and the agent.

    Attributes:
        height, width: the size of the map in cells, at least two cells in all.
        features_as: what the networks read, "egocentric" (the map around the agent, `[2H-1, 2W-1, 3]`, walls beyond its
            border) or "planes" (the observation).
        mask_blocked: whether moves that are blocked are masked; otherwise they are offered, and bump.
    """

    height: int = 7
    width: int = 7
    features_as: str = "egocentric"
    mask_blocked: bool = True

    def __post_init__(self) -> None:
        for field in ("height", "width"):
            object.__setattr__(self, field, check_static(field, getattr(self, field), COUNT))
        check_static("mask_blocked", self.mask_blocked, SWITCH)
        if self.features_as not in ("egocentric", "planes"):
            raise ConfigError.of("features_as", self.features_as, "one of 'egocentric', 'planes'")
        if self.height * self.width < 2:
            raise ConfigError.of("width", self.width, "at least 2 where height=1: start and goal differ")

    @property
    def name(self) -> str:
        return "RandomGridWorld"

    @property
    def default_params(self) -> RandomGridWorldParams:
        return RandomGridWorldParams()

    @property
    def num_actions(self) -> int:
        return len(ACTIONS)

    def action_space(self, params: RandomGridWorldParams | None = None) -> spaces.Discrete:
        return spaces.Discrete(self.num_actions)

    def observation_space(self, params: RandomGridWorldParams | None = None) -> spaces.Box:
        return spaces.Box(0.0, 1.0, (self.height, self.width, 4), jnp.float32)

    def state_space(self, params: RandomGridWorldParams) -> spaces.Dict:
        plane = spaces.Box(0, 1, (self.height, self.width), jnp.bool_)
        place = spaces.Box(0, max(self.height, self.width) - 1, (2,), jnp.int32)
        time = spaces.Discrete(params.max_steps_in_episode + 1)
        return spaces.Dict({"walls": plane, "dragons": plane, "goal": place, "agent": place, "time": time})

    def features(self, obs: Array) -> Array:
        if self.features_as == "planes":
            return jnp.ravel(obs)
        row, column = divmod(jnp.argmax(obs[..., 3]), self.width)
        above, beside = self.height - 1, self.width - 1
        padding = ((above, above), (beside, beside))
        walls = jnp.pad(obs[..., 0], padding, constant_values=1)
        planes = jnp.stack([walls, jnp.pad(obs[..., 1], padding), jnp.pad(obs[..., 2], padding)], axis=-1)
        return jax.lax.dynamic_slice(planes, (row, column, 0), (2 * above + 1, 2 * beside + 1, 3)).reshape(-1)

    def action_mask(self, obs: Array, params: RandomGridWorldParams) -> Array | None:
        if not self.mask_blocked:
            return None
        is_open = jnp.pad(obs[..., 0] == 0, 1)  # off the map is as good as a wall
        agent = jnp.pad(obs[..., 3] == 1, 1)
        mask = jnp.stack([jnp.any(agent & jnp.roll(is_open, -move, axis=(0, 1))) for move in MOVES])
        return mask | ~jnp.any(mask)

    def reset_env(self, key: Array, params: RandomGridWorldParams) -> tuple[Array, RandomGridWorldState]:
        key_ends, key_way, key_cells = jax.random.split(key, 3)
        start, goal = self._ends(key_ends)
        way = self._way(key_way, start, goal)
        uniform = jax.random.uniform(key_cells, (self.height, self.width))
        walls = (uniform < params.wall_density) & ~way
        dragons = (uniform >= 1.0 - params.dragon_density) & ~way & ~walls
        state = RandomGridWorldState(walls, dragons, goal, start, jnp.zeros((), jnp.int32))
        return self.observe(key, state, None, params), state

    def step_env(
        self, key: Array, state: RandomGridWorldState, action: Any, params: RandomGridWorldParams
    ) -> tuple[Array, RandomGridWorldState, Array, Array, dict[Any, Any]]:
        uniform = jax.random.uniform(key)
        direction = blown(action, uniform, params.slip)
        size = jnp.array([self.height, self.width])
        target = jnp.clip(state.agent + jnp.asarray(MOVES, jnp.int32)[direction], 0, size - 1)
        agent = jnp.where(state.walls[target[0], target[1]], state.agent, target)
        state = state._replace(agent=agent, time=state.time + 1)
        prize = jnp.where(self._at_goal(state), params.lots_of_money, 0.0)
        prize = jnp.where(self._at_dragon(state), params.dragon, prize)
        reward = jnp.asarray(prize - params.step_cost, jnp.float32)
        return self.observe(key, state, action, params), state, reward, self.is_terminated(state, params), {}

    def observe(self, key: Array, state: RandomGridWorldState, action: Any, params: RandomGridWorldParams) -> Array:
        planes = [state.walls, state.dragons, self._plane(state.goal), self._plane(state.agent)]
        return jnp.stack(planes, axis=-1).astype(jnp.float32)

    def is_terminated(self, state: RandomGridWorldState, params: RandomGridWorldParams) -> Array:
        return self._at_goal(state) | self._at_dragon(state)

    def _at_goal(self, state: RandomGridWorldState) -> Array:
        return jnp.all(state.agent == state.goal)

    def _at_dragon(self, state: RandomGridWorldState) -> Array:
        return state.dragons[state.agent[0], state.agent[1]]

    def _plane(self, place: Array) -> Array:
        """`[H, W]`, true at one cell."""
        rows, columns = np.arange(self.height)[:, None], np.arange(self.width)[None, :]
        return (rows == place[0]) & (columns == place[1])

    def _ends(self, key: Array) -> tuple[Array, Array]:
        """Two different cells, every ordered pair with equal probability."""
        key_start, key_offset = jax.random.split(key)
        cells = self.height * self.width
        start = jax.random.randint(key_start, (), 0, cells)
        goal = (start + jax.random.randint(key_offset, (), 1, cells)) % cells
        return jnp.stack(divmod(start, self.width)), jnp.stack(divmod(goal, self.width))

    def _way(self, key: Array, start: Array, goal: Array) -> Array:
        """The cells of a random way from `start` to `goal`, `[H, W]`, bool.

        It crosses from column to column at a random row each time, and runs along the columns in between.
        """
        left, right = jnp.minimum(start[1], goal[1]), jnp.maximum(start[1], goal[1])
        left_row = jnp.where(start[1] <= goal[1], start[0], goal[0])
        right_row = jnp.where(start[1] <= goal[1], goal[0], start[0])
        columns = jnp.arange(self.width)
        crossing = jax.random.randint(key, (self.width,), 0, self.height)  # the row of the step from column to column+1
        leaves = jnp.where(columns == right, right_row, crossing)
        enters = jnp.where(columns == left, left_row, jnp.roll(crossing, 1))
        top, bottom = jnp.minimum(enters, leaves), jnp.maximum(enters, leaves)
        rows = jnp.arange(self.height)[:, None]
        between = (rows >= top[None, :]) & (rows <= bottom[None, :])
        return between & ((columns >= left) & (columns <= right))[None, :]
