"""What came of runs and sweeps, with intervals."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from purejaxppo import presets
from purejaxppo.environments import name_of
from purejaxppo.errors import ConfigError
from purejaxppo.experiment.reports.statistics import (
    Interval,
    last_known,
    probability_of_improvement,
    steps_to_threshold,
    stratified_bootstrap,
)
from purejaxppo.experiment.runs import files
from purejaxppo.experiment.sweeps.sweep import Trial, load_trials
from purejaxppo.settings import FINITE

MOST_POINTS = 100  # of a curve in a report
MOST_CURVE_RESAMPLES = 500  # for each of its points


class Curve(NamedTuple):
    """The return while training, at some of the updates: those at which every seed has finished an episode."""

    steps: np.ndarray  # [points], environment steps of one agent
    returns: np.ndarray  # [num_seeds, points], the last known one where no episode ended
    iqm: Interval  # [points] each


class Row(NamedTuple):
    """One configuration."""

    name: str
    environment: str
    config: dict[str, Any] | None  # as `presets.dumps` writes it; None if its environment is an object of a program
    steps: int  # that each agent was trained for
    scores: np.ndarray  # [num_seeds]
    iqm: Interval  # [], of the scores; without an interval where there is one seed
    baseline: str | None  # the configuration that it is compared with, the first one on its environment
    improvement: Interval | None  # [], the probability that one of its seeds is better than one of the baseline's
    steps_to_threshold: np.ndarray  # [num_seeds], NaN where it is never reached
    seconds_to_threshold: np.ndarray  # [num_seeds], of a training of all seeds at once, without compiling
    compile_seconds: float
    run_seconds: float
    curve: Curve


class Report(NamedTuple):
    """What came of some configurations."""

    rows: list[Row]
    threshold: float | None
    window: int
    confidence: float
    num_resamples: int
    seed: int  # of the bootstrap


def report(
    *sources: Any,
    threshold: float | None = None,
    window: int = 1,
    confidence: float = 0.95,
    num_resamples: int = 2000,
    seed: int = 0,
) -> Report:
    """Compare configurations by the scores of their seeds.

    The estimate of a configuration is the interquartile mean, its interval a stratified bootstrap's; see `statistics`.
    On each environment the first configuration is the baseline: of every other, the report has the probability that
    one of its seeds is better than one of the baseline's. Scores that differ by less than their rounding are equal.

    Args:
        sources: directories of runs and of sweeps, and what `sweep` returned.
        threshold: a return; the report says how many steps and seconds each seed took to it.
        window: updates over which the return is averaged before it is compared with the threshold.
        confidence: the intervals' nominal coverage.
        num_resamples: of the bootstrap; a point of a curve has at most 500.
        seed: of the bootstrap.

    Raises:
        ConfigError: a source cannot be read or is not finished, a name occurs twice, or an argument is not allowed.
    """
    check_threshold(threshold)
    if threshold is None and window != 1:
        raise ConfigError.of("window", window, "1 without a threshold, as it would change nothing")
    trials = [trial for source in sources for trial in _read(source, len(sources) > 1)]
    if not trials:
        raise ConfigError("sources: must hold at least one run or sweep")
    for i, trial in enumerate(trials):
        if trial.name in [other.name for other in trials[:i]]:
            raise ConfigError(f"sources: {trial.name!r} occurs twice; trial._replace(name=...) gives it another name")
    result = Report([], threshold, window, confidence, num_resamples, seed)
    baselines: dict[Any, Trial] = {}
    for trial in trials:
        result.rows.append(_row(result, trial, baselines.setdefault(trial.config.env, trial)))
    return result


def check_threshold(threshold: Any) -> None:
    """Refuse what no return can reach.

    Raises:
        ConfigError: it is neither None nor a finite number.
    """
    if threshold is not None and not (isinstance(threshold, int | float) and math.isfinite(threshold)):
        raise ConfigError.of("threshold", threshold, f"None, or {FINITE.text}")


def _row(report: Report, trial: Trial, baseline: Trial) -> Row:
    """What there is to say about a configuration."""
    config = trial.config
    scores = np.asarray(trial.scores, float)
    curves = np.asarray(trial.metrics.get("expected_return", trial.metrics["episode_return"]), float)
    if curves.shape != (len(scores), config.num_updates) or not np.isfinite(scores).all():
        raise ConfigError(f"{trial.name}: must have a finite score of each seed, and metrics [num_seeds, num_updates]")
    steps = config.batch_size * np.arange(1, config.num_updates + 1)
    reached = np.full(len(scores), np.nan)
    if report.threshold is not None:
        reached = steps_to_threshold(curves, steps, report.threshold, window=report.window)
    improvement = None
    if trial is not baseline:
        compared = _without_rounding_errors(scores, np.asarray(baseline.scores, float))
        improvement = _bootstrap(report, *compared, statistic=probability_of_improvement)
    return Row(
        name=trial.name,
        environment=name_of(config.env),
        config=_table(trial),
        steps=int(steps[-1]),
        scores=scores,
        iqm=_bootstrap(report, scores),
        baseline=None if trial is baseline else baseline.name,
        improvement=improvement,
        steps_to_threshold=reached,
        seconds_to_threshold=reached / steps[-1] * trial.run_seconds,
        compile_seconds=trial.compile_seconds,
        run_seconds=trial.run_seconds,
        curve=_curve(report, curves, steps),
    )


def _bootstrap(report: Report, *samples: Any, **options: Any) -> Interval:
    settings = {"num_resamples": report.num_resamples, "confidence": report.confidence, "seed": report.seed}
    return stratified_bootstrap(*samples, **(settings | options))


def _without_rounding_errors(*samples: np.ndarray) -> list[np.ndarray]:
    """Scores in units of 1e-5 of the largest, as integers: two programs may compute the same score differently."""
    unit = 1e-5 * max(np.abs(sample).max() for sample in samples) or 1.0
    return [np.round(sample / unit) for sample in samples]


def _table(trial: Trial) -> dict[str, Any] | None:
    try:
        return presets.to_table(trial.config)
    except ConfigError:
        return None


def _curve(report: Report, curves: np.ndarray, steps: np.ndarray) -> Curve:
    """The curves of all seeds at some points, and their interquartile mean."""
    known = last_known(curves)
    points = np.flatnonzero(np.isfinite(known).all(axis=0))
    if not len(points):
        empty = np.empty(0)
        return Curve(empty, np.empty((len(curves), 0)), Interval(empty, empty, empty))
    points = points[np.unique(np.linspace(0, len(points) - 1, MOST_POINTS).round().astype(int))]
    returns = known[:, points]
    num_resamples = min(report.num_resamples, MOST_CURVE_RESAMPLES)
    return Curve(steps[points], returns, _bootstrap(report, returns.T[:, None, :], num_resamples=num_resamples))


def _read(source: Any, is_one_of_many: bool) -> list[Trial]:
    """The trials of a source.

    Raises:
        ConfigError: it is none, or cannot be read.
    """
    if isinstance(source, Trial):
        return [source]
    if isinstance(source, Sequence) and not isinstance(source, str) and all(isinstance(x, Trial) for x in source):
        return list(source)
    if not isinstance(source, str | Path):
        raise ConfigError.of("sources", source, "directories of runs or sweeps, or what sweep returned")
    trials = load_trials(source)
    if not is_one_of_many or (Path(source) / files.RUN).exists():
        return trials
    return [trial._replace(name=f"{source}: {trial.name}") for trial in trials]
