"""Draw maps in the terminal."""

import itertools

import numpy as np
from rich.style import Style
from rich.text import Text

from purejaxppo.environments import GridWorld
from purejaxppo.environments.maps import ACTIONS, START
from purejaxppo.experiment.pictures.colors import PRIZES, ink

ARROWS = dict(zip(ACTIONS, "↑→↓←", strict=True))
WALL = "#808080 on #808080"
LOW, MIDDLE, HIGH = np.array([(68, 1, 84), (33, 145, 140), (180, 222, 44)])  # of the viridis colour map

Cell = tuple[str, str, str | Style]  # two lines of text, and how they look


def map_text(env: GridWorld, value: np.ndarray, action: np.ndarray, width: int) -> Text:
    """Draw the map with the value and the best move of every cell, as coloured text.

    Args:
        env: the gridworld.
        value: `[S]`, the value of each cell.
        action: `[S]`, the move to show in each cell.
        width: columns of the terminal; where the numbers do not fit, the arrows alone are drawn.
    """
    rows, columns = env.map.shape
    is_free = env.map.is_free
    low, high = value[is_free].min(), value[is_free].max()
    cells: dict[tuple[int, int], Cell] = {}
    for cell, (row, column) in enumerate(env.map.position.tolist()):
        symbol = str(env.map.symbol[cell])
        arrow = ARROWS[ACTIONS[action[cell]]]
        shade = (value[cell] - low) / max(high - low, 1e-9)
        cells[row, column] = (
            (arrow + (" " + START if symbol == START else ""), f"{value[cell]:.2f}", _shade(shade))
            if is_free[cell]
            else (symbol, "", _on(PRIZES[symbol], "bold"))
        )
    cell_width, lines = (6, (0, 1)) if 6 * columns <= width else (3, (0,))
    picture, wall = Text(), ("█" * cell_width, "█" * cell_width, WALL)
    for row, line, column in itertools.product(range(rows), lines, range(columns)):
        *texts, look = cells.get((row, column), wall)
        picture.append(str(texts[line]).center(cell_width), style=look)
        picture.append("\n" if column == columns - 1 else "")
    return picture


def _shade(share: float) -> Style:
    """Style text on a background from dark (0, the lowest value) to bright (1, the highest)."""
    share = float(np.clip(share, 0, 1))
    low, high, part = (LOW, MIDDLE, 2 * share) if share < 0.5 else (MIDDLE, HIGH, 2 * share - 1)
    red, green, blue = np.rint(low + (high - low) * part).astype(int)
    return _on(f"#{red:02x}{green:02x}{blue:02x}")


def _on(background: str, weight: str = "") -> Style:
    return Style.parse(f"{weight} {ink(background)} on {background}")
