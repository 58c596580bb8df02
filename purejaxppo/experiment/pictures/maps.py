"""Pictures of gridworlds: values and policies on the map."""

from typing import Any

import jax
import matplotlib.colors
import matplotlib.patches
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from purejaxppo.config import Config
from purejaxppo.environments import GridWorld, make, maps
from purejaxppo.errors import ConfigError
from purejaxppo.experiment.pictures.colors import PRIZES, STRONG, ink
from purejaxppo.planning import value_iteration
from purejaxppo.ppo import TrainState, bind, check_single

WALL = "#9a9a9a"
NUMBERED = 10  # rows or columns up to which numbers fit into the cells


def gridworld(config: Config, state: TrainState) -> Figure:
    """Draw what one agent learned beside the exact solution, and the difference.

    Colour is the value of a cell; arrows are the policy, as long as their move is probable. Cells that no agent acts
    in have no value. The figure needs no display; `figure.savefig(path)` writes it.

    Raises:
        ConfigError: the environment is not a `GridWorld`, or the state is of many agents.
    """
    env = check_drawn_as_map(config)
    check_single(state)
    policy, value, solution = jax.tree.map(np.asarray, _learned_and_exact(config, state))
    best = solution.is_optimal / solution.is_optimal.sum(axis=1, keepdims=True)
    is_free = env.map.is_free
    shown = np.concatenate([value[is_free], solution.value[is_free]])
    scale = {"vmin": shown.min(), "vmax": shown.max(), "cmap": "viridis"}
    error = value - solution.value
    extent = max(np.abs(error[is_free]).max(), 1e-3)

    figure = Figure(figsize=(15, 0.5 + 4.3 * tallness(env)), layout="constrained", dpi=110)
    learned, exact, difference = figure.subplots(1, 3)
    _draw_cells(env, learned, value, figure, "value", **scale)
    _draw_arrows(env, learned, policy)
    learned.set_title("learned: value $V$ and policy $\\pi$")
    _draw_cells(env, exact, solution.value, figure, "value", **scale)
    _draw_arrows(env, exact, best)
    exact.set_title("exact: $V^*$ and every optimal move")
    _draw_cells(env, difference, error, figure, "$V - V^*$", vmin=-extent, vmax=extent, cmap="PuOr")
    is_wrong = is_free & ~solution.is_optimal[np.arange(len(value)), policy.argmax(axis=1)]
    row, column = env.map.position[is_wrong].T
    difference.scatter(column, row, marker="x", s=8e3 / max(env.map.shape) ** 2, color="black", linewidth=2, zorder=5)
    difference.set_title(f"$V - V^*$; $\\times$: greedy move not optimal ({is_wrong.sum()})")
    return figure


def check_drawn_as_map(config: Config) -> GridWorld:
    """Return the environment, if it can be drawn as a map.

    Raises:
        ConfigError: it is not a `GridWorld`.
    """
    env = make(config.env)
    if not isinstance(env, GridWorld):
        raise ConfigError.of("env", config.env, "a GridWorld, to be drawn as a map")
    return env


@jax.jit
def _learned_and_exact(config: Config, state: TrainState) -> Any:
    networks = bind(config)
    model = networks.task.tabular_model()
    return *networks.in_model(state.agent, model), value_iteration(model, config.gamma)


def tallness(env: GridWorld) -> float:
    """Return the height of the map's picture over its width; a very long map does not fill its picture."""
    rows, columns = env.map.shape
    return min(max(rows / columns, 0.4), 2.5)


def draw_walls(env: GridWorld, axes: Axes) -> None:
    """Draw walls, money, dragons and starts, one unit per cell, row 0 at the top."""
    rows, columns = env.map.shape
    axes.set(xlim=(-0.5, columns - 0.5), ylim=(rows - 0.5, -0.5), aspect="equal", xticks=[], yticks=[])
    axes.set_facecolor(WALL)
    for (row, column), symbol in zip(env.map.position.tolist(), env.map.symbol.tolist(), strict=True):
        color = PRIZES.get(symbol, "white")
        axes.add_patch(
            matplotlib.patches.Rectangle((column - 0.5, row - 0.5), 1, 1, facecolor=color, edgecolor="white")
        )
        if symbol in PRIZES:
            axes.text(column, row, symbol, ha="center", va="center", fontweight="bold", color=ink(color))
        elif symbol == maps.START:
            axes.text(column - 0.45, row - 0.42, "S", ha="left", va="top", fontsize=7)


def _draw_cells(env: GridWorld, axes: Axes, value: np.ndarray, figure: Figure, label: str, **scale: Any) -> None:
    """Draw the map with a colour, and where there is room a number, in every cell that agents act in."""
    draw_walls(env, axes)
    grid = np.full(env.map.shape, np.nan)
    is_free = env.map.is_free
    grid[tuple(env.map.position[is_free].T)] = value[is_free]
    image = axes.imshow(grid, zorder=2, **scale)
    figure.colorbar(image, ax=axes, label=label, shrink=0.8)
    if max(env.map.shape) > NUMBERED:
        return
    for (row, column), number in zip(env.map.position[is_free].tolist(), value[is_free].tolist(), strict=True):
        background: Any = image.cmap(image.norm(number))
        color = ink(matplotlib.colors.to_hex(background))
        text = f"{number:.2f}".replace("-0.00", "0.00")
        axes.text(column, row + 0.43, text, ha="center", va="bottom", fontsize=7, color=color, zorder=4)


def _draw_arrows(env: GridWorld, axes: Axes, policy: np.ndarray) -> None:
    """Draw an arrow for each move from the middle of every cell, as long as the move is probable."""
    for action, (down, right) in enumerate(maps.MOVES):
        probability = policy[:, action]
        shown = env.map.is_free & (probability > 0.02)
        row, column = env.map.position[shown].T
        length = 0.36 * probability[shown]
        at = column, row - (0.1 if max(env.map.shape) <= NUMBERED else 0)  # above the number
        scale: Any = {"angles": "xy", "scale_units": "xy", "scale": 1, "width": 0.008, "minlength": 0}
        axes.quiver(
            *at, right * length, down * length, color=STRONG, edgecolor="white", linewidth=0.4, zorder=3, **scale
        )
