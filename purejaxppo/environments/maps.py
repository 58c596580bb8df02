"""Maps as text: `#` wall, `.` floor, `S` start, `M` lots of money, `m` money, `D` dragon."""

import functools
from collections import deque
from importlib import resources
from pathlib import Path
from typing import NamedTuple

import numpy as np

from purejaxppo.errors import ConfigError, unknown_name
from purejaxppo.user_files import plain_lines, read_text, to_path

WALL, FLOOR, START, LOTS_OF_MONEY, MONEY, DRAGON = SYMBOLS = "#.SMmD"
GOALS = LOTS_OF_MONEY + MONEY
ACTIONS = ("up", "right", "down", "left")  # clockwise, so that perpendicular moves are neighbours
MOVES = np.array([(-1, 0), (0, 1), (1, 0), (0, -1)])


class Map(NamedTuple):
    """A parsed map of `S` cells that one can stand on, numbered row by row."""

    shape: tuple[int, int]  # rows, columns
    position: np.ndarray  # [S, 2] row and column of each cell
    symbol: np.ndarray  # [S] the cell's character
    next_cell: np.ndarray  # [S, A] where each move leads; blocked moves stay
    is_open: np.ndarray  # [S, A] whether the move leads to another cell
    starts: np.ndarray  # [number of starts] cells where an episode begins

    @property
    def is_free(self) -> np.ndarray:
        """`[S]`: whether an agent acts in the cell, rather than ending its episode there."""
        return np.isin(self.symbol, [FLOOR, START])


def names() -> list[str]:
    """Names of the maps that come with the package."""
    maps = resources.files("purejaxppo.environments") / "shipped_maps"
    return sorted(entry.name.removesuffix(".txt") for entry in maps.iterdir() if entry.name.endswith(".txt"))


def is_path(layout: str | Path) -> bool:
    """Whether it is a file's path, rather than a shipped map's name or a map's text."""
    is_text = isinstance(layout, str) and bool(set("\n\r") & set(layout) or not set(layout) - set(SYMBOLS))
    return not (is_text or layout in names())


def read(layout: str | Path) -> str:
    """The text of a map given by a shipped one's name, a file's path, or as text; without blank lines around it.

    Raises:
        ConfigError: there is no such map, or the file cannot be read.
    """
    if isinstance(layout, str) and layout in names():
        text = (resources.files("purejaxppo.environments") / "shipped_maps" / f"{layout}.txt").read_text()
    elif isinstance(layout, str) and not is_path(layout):
        text = plain_lines(layout)
    else:
        try:
            text = read_text("layout", to_path("layout", layout))
        except FileNotFoundError:
            raise unknown_name("layout or file", str(layout), names()) from None
    return text.strip("\n")


@functools.cache
def parse(text: str) -> Map:
    """Check a map and number its cells.

    Raises:
        ConfigError: the map is empty, ragged, has an unknown character, no floor, or a start without a way to money;
            the message shows the line and the column, counted from 1.
    """
    grid = _check_grid(text)
    position = np.argwhere(grid != WALL)
    symbol = grid[grid != WALL]
    index = np.full(grid.shape, -1)
    index[grid != WALL] = np.arange(len(position))

    targets = position[:, None, :] + MOVES[None, :, :]
    inside = np.all((targets >= 0) & (targets < grid.shape), axis=-1)
    reached = np.where(inside, index[tuple(np.where(inside[..., None], targets, 0).transpose(2, 0, 1))], -1)
    is_open = reached >= 0
    next_cell = np.where(is_open, reached, np.arange(len(position))[:, None])

    starts = np.flatnonzero(symbol == START)
    if not len(starts):
        starts = np.flatnonzero(symbol == FLOOR)
    layout = Map(grid.shape, position, symbol, next_cell, is_open, starts)
    _check_ways(layout)
    return layout


def _check_grid(text: str) -> np.ndarray:
    """The map as an array of characters `[rows, columns]`."""
    lines = text.split("\n")
    if not text.strip():
        raise ConfigError("layout: line 1, column 1: the map is empty")
    for number, line in enumerate(lines, 1):
        _check_line(number, line, len(lines[0]))
    grid = np.array([list(line) for line in lines])
    if not np.any((grid == FLOOR) | (grid == START)):
        raise _error(1, 1, f"the map has no floor ({FLOOR} or {START}) to stand on")
    return grid


def _check_line(number: int, line: str, width: int) -> None:
    """A line of the map has known characters alone, and is as wide as the first one."""
    unknown = next((column for column, character in enumerate(line, 1) if character not in SYMBOLS), None)
    if unknown is not None:
        allowed = " ".join(SYMBOLS)
        raise _error(number, unknown, f"unknown character {line[unknown - 1]!r}; allowed are {allowed}")
    if len(line) != width:
        column = min(len(line), width) + 1
        raise _error(number, column, f"has {len(line)} characters, the first line has {width}")


def _check_ways(layout: Map) -> None:
    """Every start must have a way to money."""
    lost = layout.starts[~_reaches_money(layout)[layout.starts]]
    if len(lost):
        row, column = layout.position[lost[0]] + 1
        raise _error(row, column, f"an episode may start here, but no way leads to money ({' or '.join(GOALS)})")


def _reaches_money(layout: Map) -> np.ndarray:
    """Whether there is a way from each cell; special cells end the episode, so ways lead over floor alone."""
    previous: list[list[int]] = [[] for _ in layout.symbol]
    for cell in np.flatnonzero(layout.is_free).tolist():
        for neighbour in layout.next_cell[cell]:
            previous[neighbour].append(cell)
    reaches = np.isin(layout.symbol, list(GOALS))
    queue = deque(np.flatnonzero(reaches).tolist())
    while queue:
        found = [cell for cell in previous[queue.popleft()] if not reaches[cell]]
        reaches[found] = True
        queue.extend(found)
    return reaches


def _error(line: int, column: int, problem: str) -> ConfigError:
    return ConfigError(f"layout: line {line}, column {column}: {problem}")
