"""The gridworlds as tables of NumPy, for the adapters; the peers' environments lack purejaxppo.

It is purejaxppo's `GridWorld(name, mask_blocked=False)`: a move into a wall or off the map stays in place.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np

MAPS = Path(__file__).parents[2] / "purejaxppo" / "environments" / "shipped_maps"
MOVES = ((-1, 0), (0, 1), (1, 0), (0, -1))  # up, right, down, left
PRIZES = {"M": 5.0, "m": 4.0, "D": -5.0}  # for entering, and the episode is over
STEP_COST = 1.0
MAX_STEPS = 100


class Tables(NamedTuple):
    """A gridworld of `S` cells, numbered row by row over all that are not walls."""

    next_cell: np.ndarray  # [S, 4] int32
    reward: np.ndarray  # [S] float32, for entering the cell
    terminal: np.ndarray  # [S] bool
    starts: np.ndarray  # [number of starts] int32, equally likely


def tables(name: str) -> Tables:
    """The tables of a map that comes with purejaxppo."""
    lines = (MAPS / f"{name}.txt").read_text().split()
    symbols = {
        (row, column): symbol for row, line in enumerate(lines) for column, symbol in enumerate(line) if symbol != "#"
    }
    index = {place: number for number, place in enumerate(symbols)}
    next_cell = [
        [index.get((row + down, column + right), here) for down, right in MOVES]
        for (row, column), here in index.items()
    ]
    starts = [here for place, here in index.items() if symbols[place] == "S"]
    floor = [here for place, here in index.items() if symbols[place] == "."]
    return Tables(
        next_cell=np.array(next_cell, np.int32),
        reward=np.array([PRIZES.get(symbol, 0.0) - STEP_COST for symbol in symbols.values()], np.float32),
        terminal=np.array([symbol in PRIZES for symbol in symbols.values()]),
        starts=np.array(starts or floor, np.int32),
    )
