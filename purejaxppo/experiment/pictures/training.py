"""Pictures of training: learning curves, the clipped surrogate, ratios.

Every function returns its figure and needs no display; `figure.savefig(path)` writes it.
"""

from typing import Any

import jax
import jax.numpy as jnp
import matplotlib.colors
import matplotlib.ticker
import numpy as np
from jax import Array
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from purejaxppo.config import Config
from purejaxppo.experiment.pictures.colors import DARK, LIGHT, MIDDLE, STRONG
from purejaxppo.experiment.reports.statistics import Windows, in_windows
from purejaxppo.losses import clipped_surrogate, standardize
from purejaxppo.ppo import TrainState, bind, check_single, collect, init, learn, rates_at, update

RATIOS = np.linspace(0.0, 2.0, 81)  # edges of the histograms' bins


def learning_curves(
    returns: Any, steps_per_update: int, *, optimum: float | None = None, window: int | None = None
) -> Figure:
    """Draw the return against environment steps: the median over seeds, the middle half, and all of them.

    Args:
        returns: `[num_seeds, num_updates]` or `[num_updates]`; NaN where no episode ended.
        steps_per_update: environment steps of one agent per update, `config.batch_size`.
        optimum: the optimal return, drawn as a line.
        window: updates that each point averages; by default as many as leave at most 200 points.

    Raises:
        ConfigError: the window is not an integer from 1 to the number of updates.
    """
    windows = in_windows(np.atleast_2d(np.asarray(returns, float)), window)
    has_any = np.isfinite(windows.mean).any(axis=0)  # windows in which any episode ended
    steps, curves = steps_per_update * windows.end[has_any], windows.mean[:, has_any]
    is_one = len(curves) == 1
    figure, axes = _figure(width=7)
    if not is_one and len(steps):
        low, quarter, three_quarters, high = np.nanquantile(curves, [0, 0.25, 0.75, 1], axis=0)
        axes.fill_between(steps, low, high, color=LIGHT, label=f"all {len(curves):,} seeds")
        axes.fill_between(steps, quarter, three_quarters, color=MIDDLE, alpha=0.6, label="middle half of the seeds")
    median = np.nanmedian(curves, axis=0) if len(steps) else []
    axes.plot(steps, median, color=DARK, linewidth=2, label="one seed" if is_one else "median over seeds")
    if optimum is not None:
        axes.axhline(optimum, color="black", linestyle="--", label=f"optimum {optimum:.3g}")
    axes.set(ylabel=_label("return of an episode", windows))
    _set_steps_axis(axes)
    axes.legend(loc="lower right")
    return figure


def surrogate(config: Config, state: TrainState, key: Array) -> Figure:
    """Draw the clipped surrogate over the ratio, with the samples of one update on it.

    Both panels are divided by the size of the advantage, so that all samples lie on one curve. Where a sample is
    clipped, the curve is flat: it has no gradient. The clip range is that of the update after `state`.

    Args:
        config: of the agent.
        state: of one agent.
        key: one typed key, consumed: it draws the rollout whose samples are shown, as they stand after learning.

    Raises:
        ConfigError: the state is of many agents.
    """
    check_single(state)
    ratio, advantage = map(np.asarray, _ratios(config, state, key))
    eps = float(_clip_eps(config, state.num_updates))
    dual_clip = None if config.dual_clip is None else float(config.dual_clip)
    figure = Figure(figsize=(11, 4.5), layout="constrained", dpi=110)
    for axes, sign in zip(figure.subplots(1, 2), (1, -1), strict=True):
        _draw_surrogate(axes, ratio[np.sign(advantage) == sign], sign, eps, dual_clip if sign < 0 else None)
    return figure


def ratio_histograms(config: Config, key: Array, *, window: int | None = None) -> Figure:
    """Draw how far the ratios move from 1 in every update of a training run of one agent.

    The agent is trained for it, from `key`; the picture has a column of shares for each window of updates.

    Args:
        config: of the agent.
        key: one typed key, consumed.
        window: updates that each column averages; by default as many as leave at most 200 columns.

    Raises:
        ConfigError: the window is not an integer from 1 to the number of updates.
    """
    windows = in_windows(np.asarray(_ratio_shares(config, key)).T, window)
    figure, axes = _figure(width=8)
    edges = config.batch_size * np.append(0, windows.end)
    norm = matplotlib.colors.LogNorm(vmin=1e-4, vmax=1)
    shares = np.where(windows.mean > 0, windows.mean, np.nan)
    image = axes.pcolormesh(edges, RATIOS, shares, norm=norm, cmap="viridis")
    figure.colorbar(image, ax=axes, label=_label("share of the samples", windows))
    steps = config.batch_size * np.arange(config.num_updates + 1)
    eps = np.broadcast_to(_clip_eps(config, np.arange(config.num_updates)), config.num_updates)
    for edge, label in ((1 - eps, "$1 \\pm$ clip_eps"), (1 + eps, None)):
        axes.step(steps, np.append(edge, edge[-1]), where="post", color="black", linestyle="--", label=label)
    axes.set(ylabel="ratio after the update", ylim=(RATIOS[0], RATIOS[-1]))
    _set_steps_axis(axes)
    axes.legend(loc="upper right")
    return figure


def _clip_eps(config: Config, num_updates: Any) -> Any:
    """The clip range after so many updates."""
    return rates_at(config, num_updates).clip_eps


@jax.jit
def _ratios(config: Config, state: TrainState, key: Array) -> tuple[Array, Array]:
    """Ratio and advantage of every sample of a batch after learning from it, `[B]` each.

    Advantages are standardised over the batch, where the loss does so over each minibatch.
    """
    key_rollout, key_learn = jax.random.split(key)
    state, _, batch = collect(config, state, key_rollout)
    state, _ = learn(config, state, batch, key_learn)
    log_prob, *_ = bind(config).evaluate_actions(state.agent, batch.obs, batch.action, batch.done, batch.memory)
    advantage = standardize(batch.advantage) if config.normalize_advantage else batch.advantage
    return jnp.exp(log_prob - batch.log_prob).reshape(-1), advantage.reshape(-1)


@jax.jit
def _ratio_shares(config: Config, key: Array) -> Array:
    """The histogram of the ratios after each update, as shares, `[num_updates, bins]`."""
    key_train, key_ratios = jax.random.split(key)

    def step(state: TrainState, key: Array) -> tuple[TrainState, Array]:
        ratio, _ = _ratios(config, state, key)
        counts, _ = jnp.histogram(jnp.clip(ratio, RATIOS[0], RATIOS[-1]), jnp.asarray(RATIOS))
        return update(config, state)[0], counts / config.batch_size

    return jax.lax.scan(step, init(config, key_train), jax.random.split(key_ratios, config.num_updates))[1]


def _draw_surrogate(axes: Axes, ratio: np.ndarray, sign: int, eps: float, dual_clip: float | None) -> None:
    """The objective for advantages of one sign, its edges, and the samples on it."""

    def objective(ratio: Any) -> Array:
        return clipped_surrogate(ratio, jnp.float32(sign), eps, dual_clip)

    edges: dict[float, str | None] = {1 - eps: f"$1 \\pm {eps:.3g}$: clip range", 1 + eps: None}
    if dual_clip is not None:
        edges[dual_clip] = f"{dual_clip:.3g}: dual clip"
    is_flat = np.asarray(jax.vmap(jax.grad(objective))(ratio)) == 0
    reach = 1.1 * max([2 * eps, *np.abs(ratio - 1), *np.abs(np.array([*edges]) - 1)])
    curve = np.linspace(max(0.0, 1 - reach), 1 + reach, 401)
    axes.plot(curve, objective(curve), color=DARK, linewidth=2, label="clipped surrogate / |A|")
    for chosen, what, color, marker in (
        (ratio[~is_flat], "learn", MIDDLE, "o"),
        (ratio[is_flat], "are clipped: no gradient", STRONG, "x"),
    ):
        label = f"{len(chosen):,} samples {what}"
        axes.scatter(chosen, objective(chosen), s=28, alpha=0.5, color=color, marker=marker, label=label)
    for (edge, name), style in zip(edges.items(), (":", ":", "-."), strict=False):
        axes.axvline(edge, color="black", linestyle=style, linewidth=1, label=name)
    title = f"advantage $A {'>' if sign > 0 else '<'} 0$"
    axes.set(title=title, xlabel="ratio $\\pi(a|s)\\ /\\ \\pi_{old}(a|s)$", ylabel="surrogate / |A|, maximised")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right" if sign > 0 else "lower left", fontsize=9)


def _label(what: str, windows: Windows) -> str:
    return what + (f", mean of {windows.size} updates" if windows.size > 1 else "")


def _figure(width: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, 4.5), layout="constrained", dpi=110)
    return figure, figure.subplots()


def _set_steps_axis(axes: Axes) -> None:
    axes.set(xlabel="environment steps of one agent")
    axes.xaxis.set_major_formatter(matplotlib.ticker.EngFormatter(sep=""))
    axes.grid(alpha=0.3)
