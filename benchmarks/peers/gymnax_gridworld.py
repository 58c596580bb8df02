"""The gridworlds for gymnax 0.0.9, whose `step` returns five values, with one-hot observations."""

from typing import Any

import gridworlds
import gymnax
import jax
import jax.numpy as jnp
from flax import struct
from gymnax.environments import environment, spaces
from protocol import GRIDWORLDS


@struct.dataclass
class State(environment.EnvState):
    cell: jax.Array


class GridWorld(environment.Environment):
    """A map that comes with purejaxppo."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.tables = gridworlds.tables(name)

    @property
    def default_params(self) -> environment.EnvParams:
        return environment.EnvParams(max_steps_in_episode=gridworlds.MAX_STEPS)

    @property
    def num_actions(self) -> int:
        return len(gridworlds.MOVES)

    def reset_env(self, key: jax.Array, params: environment.EnvParams) -> tuple[jax.Array, State]:
        cell = jax.random.choice(key, jnp.asarray(self.tables.starts))
        return self.get_obs(cell), State(time=jnp.zeros((), jnp.int32), cell=cell)

    def step_env(self, key: jax.Array, state: State, action: Any, params: environment.EnvParams) -> tuple:
        cell = jnp.asarray(self.tables.next_cell)[state.cell, action]
        state = State(time=state.time + 1, cell=cell)
        # This gymnax has one flag for the end of an episode, whatever ended it.
        done = self.is_terminal(state, params)
        return self.get_obs(cell), state, jnp.asarray(self.tables.reward)[cell], done, {}

    def get_obs(self, cell: jax.Array) -> jax.Array:
        return jax.nn.one_hot(cell, len(self.tables.reward), dtype=jnp.float32)

    def is_terminal(self, state: State, params: environment.EnvParams) -> jax.Array:
        return jnp.asarray(self.tables.terminal)[state.cell] | (state.time >= params.max_steps_in_episode)

    def action_space(self, params: environment.EnvParams) -> spaces.Discrete:
        return spaces.Discrete(self.num_actions)

    def observation_space(self, params: environment.EnvParams) -> spaces.Box:
        return spaces.Box(0.0, 1.0, (len(self.tables.reward),), jnp.float32)


def make(name: str) -> tuple[environment.Environment, environment.EnvParams]:
    """`gymnax.make`, which also knows the gridworlds."""
    if name not in GRIDWORLDS:
        return _make(name)
    env = GridWorld(name)
    return env, env.default_params


_make = gymnax.make  # kept, because the runner of PureJaxRL puts the function above in its place
