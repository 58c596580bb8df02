"""The gridworlds for gymnasium, with one-hot observations, registered as `purejaxppo/<map>-v0`."""

from typing import Any

import gridworlds
import gymnasium
import numpy as np
from protocol import GRIDWORLDS


class GridWorld(gymnasium.Env):
    """A map that comes with purejaxppo."""

    def __init__(self, name: str) -> None:
        self.tables = gridworlds.tables(name)
        self.observations = np.eye(len(self.tables.reward), dtype=np.float32)
        self.observation_space = gymnasium.spaces.Box(0.0, 1.0, self.observations[0].shape, np.float32)
        self.action_space = gymnasium.spaces.Discrete(len(gridworlds.MOVES))
        self.cell = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.cell = self.np_random.choice(self.tables.starts)
        return self.observations[self.cell], {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.cell = self.tables.next_cell[self.cell, action]
        reward, terminated = float(self.tables.reward[self.cell]), bool(self.tables.terminal[self.cell])
        return self.observations[self.cell], reward, terminated, False, {}


def env_id(env: str) -> str:
    """The id under which gymnasium knows an environment of a task; its own environments keep their names."""
    return f"purejaxppo/{env}-v0" if env in GRIDWORLDS else env


for _name in GRIDWORLDS:
    # The limit of steps is gymnasium's own wrapper, which tells a truncation from a termination.
    gymnasium.register(env_id(_name), GridWorld, kwargs={"name": _name}, max_episode_steps=gridworlds.MAX_STEPS)
