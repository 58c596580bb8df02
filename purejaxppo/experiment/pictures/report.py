"""Pictures of a report: scores with intervals, every seed's score, curves.

Every function returns its figure and needs no display; `figure.savefig(path)` writes it.
"""

import textwrap
from collections.abc import Sequence
from typing import Any

import matplotlib.ticker
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from purejaxppo.errors import in_one_line
from purejaxppo.experiment.pictures.colors import DARK, LIGHT, MIDDLE, STRONG

NO_INTERVAL = "mean of one or two seeds, no interval"


def intervals(names: Sequence[str], values: Sequence[Any], *, confidence: float) -> Figure:
    """Draw the score of each configuration: the interquartile mean over seeds and its interval.

    Args:
        names: of the configurations.
        values: `(estimate, low, high)` of each; the bounds are NaN where there is no interval.
        confidence: of the intervals.
    """
    figure, axes = _lines(names)
    for line, (estimate, low, high) in enumerate(values):
        axes.plot([low, high], [line, line], color=LIGHT, linewidth=9, solid_capstyle="butt")
        axes.plot([estimate], [line], color=DARK, marker="|", markersize=13, markeredgewidth=2.5)
    axes.set(xlabel=f"score: {_what([low for _, low, _ in values], confidence)}")
    return figure


def seeds(names: Sequence[str], scores: Sequence[np.ndarray], iqm: Sequence[Any]) -> Figure:
    """Draw the score of every seed of each configuration.

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


def curves(
    names: Sequence[str], values: Sequence[Any], *, confidence: float, threshold: float | None = None, window: int = 1
) -> Figure:
    """Draw the return against environment steps: the interquartile mean over seeds and its interval.

    Every configuration has a panel of its own, with all others in grey.

    Args:
        names: of the configurations.
        values: `(steps, estimate, low, high)` of each, `[points]`; the bounds are NaN where there is no interval.
        confidence: of the intervals.
        threshold: a return, drawn as a line.
        window: the most updates that a point averages, for the label.
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
        _draw_panel(axes, values, own, threshold)
        axes.set_title(_wrapped(names[own], 34 if len(names) > 1 else 80), fontsize=8)
        axes.xaxis.set_tick_params(labelbottom=own + columns >= len(names))
    if threshold is not None:
        figure.axes[0].legend(loc="lower right", fontsize=8)
    figure.supxlabel("environment steps of one agent", fontsize=10)
    smoothed = f", mean of up to {window} updates" if window > 1 else ""
    what = _what([low for _, _, low, _ in values], confidence)
    figure.supylabel(f"return of an episode{smoothed}\n{what}", fontsize=9)
    return figure


def _draw_panel(axes: Axes, values: Sequence[Any], own: int, threshold: float | None) -> None:
    """One configuration's curve in front of all."""
    for steps, estimate, _, _ in values:
        axes.plot(steps, estimate, color="#c8c8c8", linewidth=0.7)
    steps, estimate, low, high = values[own]
    axes.fill_between(steps, low, high, color=MIDDLE, alpha=0.35, linewidth=0)
    axes.plot(steps, estimate, color=DARK, linewidth=2)
    if threshold is not None:
        axes.axhline(threshold, color="black", linestyle="--", linewidth=1, label=f"threshold {threshold:.4g}")
    axes.xaxis.set_major_formatter(matplotlib.ticker.EngFormatter(sep=""))
    axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(5))
    axes.grid(alpha=0.3)


def _what(lows: Sequence[Any], confidence: float) -> str:
    """What is drawn, in words."""
    has_any = any(np.isfinite(low).any() for low in lows)
    return f"IQM over seeds, {100 * confidence:g}% interval" if has_any else NO_INTERVAL


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
    """A name in lines; between dollar signs, matplotlib would read it as a formula."""
    text = in_one_line(name).replace("$", r"\$")
    return "\n".join(textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False))
