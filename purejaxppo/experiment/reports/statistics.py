"""Summarize few runs, after rliable: point estimates that outliers do not move, with intervals.

Source: Agarwal et al., "Deep Reinforcement Learning at the Edge of the Statistical Precipice", NeurIPS 2021.

Scores are `[..., num_tasks, num_seeds]`: tasks are the strata, and leading axes (the points of a curve, say) are
resampled together. `[num_seeds]` is one task. A seed without a score, NaN since it diverged, is worse than any: it
counts as minus infinity, which an interquartile mean tolerates in a quarter of the seeds.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from purejaxppo.errors import ConfigError
from purejaxppo.settings import COUNT, Constraint, check_static

NUMBERS_AT_ONCE = 2**22  # resampled numbers that are held at a time, which bounds the memory
FEWEST_SEEDS = 3  # for an interval: a resample of two seeds can only repeat them
MOST_POINTS = 200  # of a curve in a picture or a report


class Interval(NamedTuple):
    """A point estimate and its confidence interval."""

    estimate: Any  # [...]
    low: Any  # [...], NaN where there is no interval
    high: Any  # [...]


class Windows(NamedTuple):
    """Curves averaged over successive windows of updates."""

    size: int  # updates in a window; the first may have fewer
    end: np.ndarray  # [num_windows], updates done by the end of each
    mean: np.ndarray  # [..., num_windows], NaN where there is nothing else


def summarize(scores: Any, *, num_resamples: int = 2000, confidence: float = 0.95, seed: int = 0) -> Interval:
    """Summarize what agents are worth: their interquartile mean and its interval, see `stratified_bootstrap`.

    Neither is ever below the lowest score or above the highest.

    Args:
        scores: `[num_seeds]`.
        num_resamples: of the bootstrap.
        confidence: the interval's nominal coverage, in (0, 1).
        seed: of the bootstrap.

    Raises:
        ConfigError: an argument is not allowed, or there are no scores.
    """
    interval = stratified_bootstrap(scores, num_resamples=num_resamples, confidence=confidence, seed=seed)
    # A mean of equal numbers may differ from them by its rounding.
    return Interval(*(np.clip(bound, as_scores(scores).min(), as_scores(scores).max()) for bound in interval))


def in_words(
    interval: Interval, num_seeds: int, spell: Callable[[float], str] = "{:.3f}".format, what: str = ""
) -> str:
    """Write an estimate, and `what` its interval is, or why it has none."""
    estimate, low, high = map(float, interval)
    if num_seeds < FEWEST_SEEDS:
        return f"{spell(estimate)} ({'one seed' if num_seeds == 1 else 'two seeds'}: no interval)"
    return f"{spell(estimate)}{what} [{spell(low)}, {spell(high)}]"


def iqm(scores: Any) -> np.ndarray:
    """Compute the interquartile mean: the mean without the lowest and the highest quarter of all scores, `[...]`.

    With `n` scores over all tasks and seeds in ascending order, and `k = floor(n / 4)`: the mean of
    `x[k], ..., x[n - k - 1]`. As insensitive to outliers as a median, and it uses half of the scores.

    Raises:
        ConfigError: there are none.
    """
    scores = as_scores(scores)
    pooled = scores.reshape(*scores.shape[:-2], -1)
    cut = pooled.shape[-1] // 4
    last = pooled.shape[-1] - cut - 1
    return np.partition(pooled, (cut, last))[..., cut : last + 1].mean(axis=-1)


def probability_of_improvement(x: Any, y: Any) -> np.ndarray:
    """Estimate the probability that a run of `x` beats one of `y` on the same task, the mean over tasks, `[...]`.

    On each task it is `U / (n m)`, the statistic of Mann and Whitney divided by the number of pairs: the share of
    pairs where `x` is larger, with equal ones counted half.

    Raises:
        ConfigError: there are no scores, or the numbers of tasks differ.
    """
    x, y = as_scores(x), as_scores(y)
    if x.shape[:-1] != y.shape[:-1]:
        raise ConfigError(f"scores: must be of the same tasks, not {x.shape[:-1]} and {y.shape[:-1]}")
    share = np.empty(x.shape[:-1])
    for index in np.ndindex(share.shape):
        ordered = np.sort(y[index])
        below, not_above = (np.searchsorted(ordered, x[index], side) for side in ("left", "right"))
        share[index] = (below + not_above).mean() / (2 * len(ordered))
    return share.mean(axis=-1)


def stratified_bootstrap(
    *samples: Any,
    statistic: Callable[..., np.ndarray] = iqm,
    num_resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Compute a statistic and its percentile interval: its quantiles over resamples of the seeds.

    A resample draws, in every task of every sample independently, as many seeds as there are, with replacement.

    Args:
        samples: scores, which `statistic` takes in this order.
        statistic: reduces the last two axes, as `iqm` and `probability_of_improvement` do.
        num_resamples: how many.
        confidence: the interval's nominal coverage, in (0, 1).
        seed: of the resampling.

    Returns:
        `[...]`; the interval is NaN where a sample has only one or two seeds, which say too little about the spread.

    Raises:
        ConfigError: an argument is not allowed, or there are no scores.
    """
    num_resamples = check_static("num_resamples", num_resamples, COUNT)
    if not 0 < confidence < 1:
        raise ConfigError.of("confidence", confidence, "a number in (0, 1)")
    scores = [as_scores(sample) for sample in samples]
    estimate = statistic(*scores)
    if any(sample.shape[-1] < FEWEST_SEEDS for sample in scores):
        return Interval(estimate, np.full_like(estimate, np.nan), np.full_like(estimate, np.nan))
    rng = np.random.default_rng(seed)
    most = max(1, NUMBERS_AT_ONCE // sum(sample.size for sample in scores))
    counts = [min(most, num_resamples - start) for start in range(0, num_resamples, most)]
    drawn = [statistic(*(_resample(sample, count, rng) for sample in scores)) for count in counts]
    tail = (1 - confidence) / 2
    with np.errstate(invalid="ignore"):  # between minus infinity and a number, where a seed has no score
        low, high = np.quantile(np.concatenate(drawn), [tail, 1 - tail], axis=0)
    return Interval(estimate, *(np.where(np.isnan(bound), -np.inf, bound) for bound in (low, high)))


def steps_to_threshold(curves: Any, steps: Any, threshold: float, *, window: int = 1) -> np.ndarray:
    """Find the steps after which the mean return of `window` successive updates first reaches a threshold, `[...]`.

    Args:
        curves: `[..., num_updates]`, returns; NaN where no episode ended, which the mean leaves out.
        steps: `[num_updates]`, the steps taken by the end of each update.
        threshold: the return to reach.
        window: updates; the last of them counts.

    Returns:
        float64; NaN where it is never reached.

    Raises:
        ConfigError: the window is not an integer from 1 to the number of updates.
    """
    curves, steps = np.asarray(curves, float), np.asarray(steps, float)
    window = _check_window(window, curves.shape[-1])
    num_windows = curves.shape[-1] - window + 1
    reached = _mean([curves[..., start : start + num_windows] for start in range(window)]) >= threshold
    return np.where(reached.any(axis=-1), steps[window - 1 :][reached.argmax(axis=-1)], np.nan)


def in_windows(curves: Any, window: int | None = None) -> Windows:
    """Average curves over successive windows of updates, without NaN, so that noise does not hide their course.

    Args:
        curves: `[..., num_updates]`.
        window: updates in each; by default as many as leave at most 200 windows.

    Raises:
        ConfigError: the window is not an integer from 1 to the number of updates.
    """
    curves = np.asarray(curves, float)
    num_updates = curves.shape[-1]
    window = _check_window(max(1, math.ceil(num_updates / MOST_POINTS)) if window is None else window, num_updates)
    missing = np.full((*curves.shape[:-1], -num_updates % window), np.nan)  # in front: the last window is whole
    parts = np.concatenate([missing, curves], axis=-1).reshape(*curves.shape[:-1], -1, window)
    return Windows(window, np.arange(num_updates, 0, -window)[::-1], _mean(np.moveaxis(parts, -1, 0)))


def _check_window(window: Any, num_updates: int) -> int:
    allowed = f"an integer from 1 to the number of updates, {num_updates}"
    return check_static("window", window, Constraint(allowed, lambda x: 1 <= x <= num_updates, number=int))


def _mean(parts: Any) -> np.ndarray:
    """Over the parts, without NaN; NaN where there is nothing else. They are added one by one, which needs no copy."""
    total = sum(np.where(np.isnan(part), 0, part) for part in parts)
    with np.errstate(invalid="ignore"):
        return total / sum(~np.isnan(part) for part in parts)


def last_known(curves: Any) -> np.ndarray:
    """Replace each NaN of curves `[..., num_updates]` by the last number before it, where there is one."""
    curves = np.asarray(curves, float)
    known = np.where(np.isnan(curves), 0, np.arange(curves.shape[-1]))
    return np.take_along_axis(curves, np.maximum.accumulate(known, axis=-1), axis=-1)


def as_scores(scores: Any) -> np.ndarray:
    """Check scores; returns them as float64 `[..., num_tasks, num_seeds]`, minus infinity for what is not finite.

    Raises:
        ConfigError: there are none.
    """
    array = np.atleast_2d(np.asarray(scores, float))
    if array.size == 0:
        raise ConfigError(f"scores: must be numbers, at least one for each task, not {scores!r}")
    return np.where(np.isfinite(array), array, -np.inf)


def _resample(scores: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Draw the seeds of each task anew, the same ones for all leading axes: `[count, ...]`."""
    *leading, num_tasks, num_seeds = scores.shape
    chosen = rng.integers(num_seeds, size=(count, *(1 for _ in leading), num_tasks, num_seeds))
    return np.take_along_axis(scores[None], chosen, axis=-1)
