"""Pictures of training: learning curves, values and policies on the map, the clipped surrogate, ratios.

Every function returns its figure and needs no display; `figure.savefig(path)` writes it.
"""

import textwrap
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib.colors
import matplotlib.patches
import matplotlib.ticker
import numpy as np
from jax import Array
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from purejaxppo.config import Config
from purejaxppo.environments import GridWorld, make, maps
from purejaxppo.errors import ConfigError
from purejaxppo.experiment.pictures.colors import PRIZES, ink
from purejaxppo.losses import standardize
from purejaxppo.planning import value_iteration
from purejaxppo.policies import judge, policy_in, tabular_model
from purejaxppo.ppo import TrainState, collect, init, learn, update

DARK, MIDDLE, LIGHT = "#08306b", "#2171b5", "#c6dbef"  # one hue, so that the picture survives without colour
STRONG = "#b35806"
WALL = "#9a9a9a"
NUMBERED = 10  # rows or columns up to which numbers fit into the cells
RATIOS = np.linspace(0.0, 2.0, 81)  # edges of the histograms' bins


def learning_curves(returns: Any, steps_per_update: int, *, optimum: float | None = None) -> Figure:
    """Return against environment steps: the median over seeds, the middle half, and all of them.

    Args:
        returns: `[num_seeds, num_updates]` or `[num_updates]`; NaN where no episode ended.
        steps_per_update: environment steps of one agent per update, `config.batch_size`.
        optimum: the optimal return, drawn as a line.
    """
    returns = np.atleast_2d(np.asarray(returns, float))
    has_any = np.isfinite(returns).any(axis=0)  # updates in which any episode ended
    steps = steps_per_update * np.arange(1, returns.shape[1] + 1)[has_any]
    shares = [0, 0.25, 0.5, 0.75, 1]
    curves = np.nanquantile(returns[:, has_any], shares, axis=0) if has_any.any() else np.empty((len(shares), 0))
    low, quarter, median, three_quarters, high = curves
    figure, (axes,) = _figure(1, width=7)
    if len(returns) > 1:
        axes.fill_between(steps, low, high, color=LIGHT, label=f"all {len(returns):,} seeds")
        axes.fill_between(steps, quarter, three_quarters, color=MIDDLE, alpha=0.6, label="middle half of the seeds")
    axes.plot(steps, median, color=DARK, linewidth=2, label="median over seeds" if len(returns) > 1 else "one seed")
    if optimum is not None:
        axes.axhline(optimum, color="black", linestyle="--", label=f"optimum {optimum:.3g}")
    axes.set(xlabel="environment steps of one agent", ylabel="return of an episode")
    axes.xaxis.set_major_formatter(matplotlib.ticker.EngFormatter(sep=""))
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    return figure


def gridworld(config: Config, state: TrainState) -> Figure:
    """What one agent learned beside the exact solution, and the difference.

    Colour is the value of a cell; arrows are the policy, as long as their move is probable. Cells that no agent acts
    in have no value.

    Raises:
        ConfigError: the environment is not a `GridWorld`.
    """
    env = check_drawn_as_map(config)
    policy, value, solution = jax.tree.map(np.asarray, _learned_and_exact(config, state))
    best = solution.is_optimal / solution.is_optimal.sum(axis=1, keepdims=True)
    is_free = env.map.is_free
    shown = np.concatenate([value[is_free], solution.value[is_free]])
    scale = {"vmin": shown.min(), "vmax": shown.max(), "cmap": "viridis"}
    error = value - solution.value
    extent = max(np.abs(error[is_free]).max(), 1e-3)

    figure, (learned, exact, difference) = _figure(3, width=15, height=0.5 + 4.3 * tallness(env))
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


def surrogate(config: Config, state: TrainState, key: Array) -> Figure:
    """The clipped surrogate over the ratio, with the samples of one update on it.

    Both panels are divided by the size of the advantage, so that all samples lie on one curve. Where a sample is
    clipped, the curve is flat: it has no gradient.

    Args:
        key: one typed key, consumed: it draws the rollout whose samples are shown, as they stand after learning.
    """
    ratio, advantage = map(np.asarray, _ratios(config, state, key))
    eps = float(config.clip_eps)
    figure, panels = _figure(2, width=11)
    reach = max(2 * eps, float(np.abs(ratio - 1).max())) * 1.1
    curve = np.linspace(max(0.0, 1 - reach), 1 + reach, 401)
    for axes, sign, title in zip(panels, (1, -1), ("advantage $A > 0$", "advantage $A < 0$"), strict=True):
        chosen = ratio[np.sign(advantage) == sign]
        flat = sign * (chosen - 1) > eps
        label = "min(ratio A, clip(ratio) A) / |A|"
        axes.plot(curve, _surrogate(curve, sign, eps), color=DARK, linewidth=2, label=label)
        _scatter(axes, chosen[~flat], sign, eps, "learn", color=MIDDLE, marker="o")
        _scatter(axes, chosen[flat], sign, eps, "are clipped: no gradient", color=STRONG, marker="x")
        for edge in (1 - eps, 1 + eps):
            axes.axvline(edge, color="black", linestyle=":", linewidth=1)
        axes.set(title=title, xlabel="ratio $\\pi(a|s)\\ /\\ \\pi_{old}(a|s)$", ylabel="surrogate / |A|, maximised")
        axes.grid(alpha=0.3)
        axes.legend(loc="lower right" if sign > 0 else "lower left", fontsize=9)
    return figure


def ratio_histograms(config: Config, key: Array) -> Figure:
    """How far the ratios move from 1 in every update of a training run of one agent.

    The agent is trained for it, from `key`; the picture has a column of shares for each update.
    """
    shares = np.asarray(_ratio_shares(config, key)).T
    figure, (axes,) = _figure(1, width=8)
    steps = config.batch_size * np.arange(config.num_updates + 1)
    norm = matplotlib.colors.LogNorm(vmin=1e-4, vmax=1)
    image = axes.pcolormesh(steps, RATIOS, np.where(shares > 0, shares, np.nan), norm=norm, cmap="viridis")
    figure.colorbar(image, ax=axes, label="share of the samples")
    for edge, label in ((1 - config.clip_eps, "$1 \\pm$ clip_eps"), (1 + config.clip_eps, None)):
        axes.axhline(float(edge), color="black", linestyle="--", label=label)
    axes.set(xlabel="environment steps of one agent", ylabel="ratio after the update")
    axes.xaxis.set_major_formatter(matplotlib.ticker.EngFormatter(sep=""))
    axes.legend(loc="upper right")
    return figure


@jax.jit
def _learned_and_exact(config: Config, state: TrainState) -> Any:
    model = tabular_model(config)
    return *policy_in(config, state.agent, model), value_iteration(model, config.gamma)


@jax.jit
def _ratios(config: Config, state: TrainState, key: Array) -> tuple[Array, Array]:
    """Ratio and advantage of every sample of a batch after learning from it, `[B]` each.

    Advantages are standardised over the batch, where the loss does so over each minibatch.
    """
    key_rollout, key_learn = jax.random.split(key)
    state, _, batch = collect(config, state, key_rollout)
    params, _, _ = learn(config, state, batch, key_learn)
    now = judge(config, state.agent._replace(params=params), batch)
    advantage = standardize(batch.advantage) if config.normalize_advantage else batch.advantage
    return jnp.exp(now.log_prob - batch.log_prob).reshape(-1), advantage.reshape(-1)


@jax.jit
def _ratio_shares(config: Config, key: Array) -> Array:
    """The histogram of the ratios after each update, as shares, `[num_updates, bins]`."""
    key_train, key_ratios = jax.random.split(key)

    def step(state: TrainState, key: Array) -> tuple[TrainState, Array]:
        ratio, _ = _ratios(config, state, key)
        counts, _ = jnp.histogram(jnp.clip(ratio, RATIOS[0], RATIOS[-1]), jnp.asarray(RATIOS))
        return update(config, state)[0], counts / config.batch_size

    return jax.lax.scan(step, init(config, key_train), jax.random.split(key_ratios, config.num_updates))[1]


def _scatter(axes: Axes, ratio: np.ndarray, sign: int, clip_eps: float, what: str, **look: Any) -> None:
    """Samples on the surrogate's curve."""
    label = f"{len(ratio):,} samples {what}"
    axes.scatter(ratio, _surrogate(ratio, sign, clip_eps), s=28, alpha=0.5, label=label, **look)


def _surrogate(ratio: np.ndarray, advantage: float, clip_eps: float) -> np.ndarray:
    return np.minimum(ratio * advantage, np.clip(ratio, 1 - clip_eps, 1 + clip_eps) * advantage)


def check_drawn_as_map(config: Config) -> GridWorld:
    """The environment, if it can be drawn as a map.

    Raises:
        ConfigError: it is not a `GridWorld`.
    """
    env = make(config.env)
    if not isinstance(env, GridWorld):
        raise ConfigError.of("env", config.env, "a GridWorld, to be drawn as a map")
    return env


def intervals(names: Sequence[str], values: Sequence[Any], *, confidence: float) -> Figure:
    """The score of each configuration: the interquartile mean over seeds and its interval.

    Args:
        names: of the configurations.
        values: `(estimate, low, high)` of each; the bounds are NaN where there is no interval.
        confidence: of the intervals.
    """
    figure, axes = _lines(names)
    for line, (estimate, low, high) in enumerate(values):
        axes.plot([low, high], [line, line], color=LIGHT, linewidth=9, solid_capstyle="butt")
        axes.plot([estimate], [line], color=DARK, marker="|", markersize=13, markeredgewidth=2.5)
    has_any = any(np.isfinite(low) for _, low, _ in values)
    axes.set(
        xlabel="score: " + (f"IQM over seeds, {100 * confidence:g}% interval" if has_any else "one seed, no interval")
    )
    return figure


def seeds(names: Sequence[str], scores: Sequence[np.ndarray], iqm: Sequence[Any]) -> Figure:
    """The score of every seed of each configuration.

    Args:
        names: of the configurations.
        scores: `[num_seeds]` of each.
        iqm: the interquartile mean of each.
    """
    figure, axes = _lines(names)
    for line, (own, mean) in enumerate(zip(scores, iqm, strict=True)):
        spread = 0.3 if len(own) > 1 else 0  # seeds with the same score stand below each other
        size = np.clip(600 / len(own), 5, 40)
        axes.scatter(own, line + np.linspace(-spread, spread, len(own)), s=size, color=MIDDLE, alpha=0.6, linewidth=0)
        axes.plot([mean, mean], [line - 0.4, line + 0.4], color=STRONG, linewidth=2)
    axes.set(xlabel="score of each seed, and the IQM of all (line)")
    return figure


def curves(names: Sequence[str], values: Sequence[Any], *, confidence: float, threshold: float | None = None) -> Figure:
    """Return against environment steps: the interquartile mean over seeds and its interval.

    Every configuration has a panel of its own, with all others in grey.

    Args:
        names: of the configurations.
        values: `(steps, estimate, low, high)` of each, `[points]`; the bounds are NaN where there is no interval.
        confidence: of the intervals.
        threshold: a return, drawn as a line.
    """
    columns = min(len(names), 2 if len(names) <= 4 else 4)
    lines = -(-len(names) // columns)
    width, height = (7, 4.5) if len(names) == 1 else (3.4 * max(columns, 2), 2.5 * lines + 0.6)
    figure = Figure(figsize=(width, height), layout="constrained", dpi=110)
    panels = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True).flat
    for own, axes in enumerate(panels):
        if own >= len(names):
            axes.set_visible(False)
            continue
        for steps, estimate, _, _ in values:
            axes.plot(steps, estimate, color="#c8c8c8", linewidth=0.7)
        steps, estimate, low, high = values[own]
        axes.fill_between(steps, low, high, color=MIDDLE, alpha=0.35, linewidth=0)
        axes.plot(steps, estimate, color=DARK, linewidth=2)
        if threshold is not None:
            axes.axhline(threshold, color="black", linestyle="--", linewidth=1, label=f"threshold {threshold:.4g}")
        axes.set_title(_wrapped(names[own], 34 if len(names) > 1 else 80), fontsize=8)
        axes.xaxis.set_major_formatter(matplotlib.ticker.EngFormatter(sep=""))
        axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(5))
        axes.xaxis.set_tick_params(labelbottom=own + columns >= len(names))
        axes.grid(alpha=0.3)
    if threshold is not None:
        figure.axes[0].legend(loc="lower right", fontsize=8)
    has_any = any(np.isfinite(low).any() for _, _, low, _ in values)
    figure.supxlabel("environment steps of one agent", fontsize=10)
    what = f"IQM, {100 * confidence:g}% interval" if has_any else "one seed"
    figure.supylabel(f"return of an episode: {what}", fontsize=10)
    return figure


def _lines(names: Sequence[str]) -> tuple[Figure, Axes]:
    """Axes with a line for each name, from the top."""
    labels = [_wrapped(name, 56) for name in names]
    height = max(0.36, 0.16 * max(label.count("\n") + 1 for label in labels))
    figure = Figure(figsize=(9, 1.1 + height * len(names)), layout="constrained", dpi=110)
    axes = figure.subplots()
    axes.set_yticks(range(len(names)), labels, fontsize=8)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(axis="x", alpha=0.3)
    return figure, axes


def _wrapped(name: str, width: int) -> str:
    return "\n".join(textwrap.wrap(name, width, break_long_words=False, break_on_hyphens=False))


def _figure(panels: int, width: float, height: float = 4.5) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(width, height), layout="constrained", dpi=110)
    return figure, list(figure.subplots(1, panels, squeeze=False)[0])


def tallness(env: GridWorld) -> float:
    """Height of the map's picture by its width; a very long map does not fill its picture."""
    rows, columns = env.map.shape
    return min(max(rows / columns, 0.4), 2.5)


def draw_walls(env: GridWorld, axes: Axes) -> None:
    """Walls, money, dragons and starts, one unit per cell, row 0 at the top."""
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
    """The map with a colour, and where there is room a number, in every cell that one acts in."""
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
    """From the middle of every cell an arrow for each move, as long as the move is probable."""
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
