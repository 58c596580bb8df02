"""Compare runs and sweeps, with intervals."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from purejaxppo import tables
from purejaxppo.algorithms import PPO, Algorithm
from purejaxppo.environments import name_of
from purejaxppo.errors import ConfigError
from purejaxppo.experiment.reports.statistics import (
    Interval,
    in_windows,
    last_known,
    probability_of_improvement,
    steps_to_threshold,
    stratified_bootstrap,
    summarize,
)
from purejaxppo.experiment.runs import files
from purejaxppo.experiment.sweeps.sweep import Trial, load_trials
from purejaxppo.settings import FINITE

MOST_CURVE_RESAMPLES = 500  # for each point of a curve
RETURNS = ("expected_return", "episode_return")  # metrics that a curve may show, the exact one first


class Curve(NamedTuple):
    """The return while training, from where every seed has finished an episode."""

    steps: np.ndarray  # [points], environment steps of one agent
    returns: np.ndarray  # [num_seeds, points], means over windows of updates; the last known one where no episode ended
    iqm: Interval  # [points] each
    window: int  # updates that a point averages


class Row(NamedTuple):
    """One configuration."""

    name: str
    environment: str  # where its configuration has none, the name of that configuration's type
    config: dict[str, Any] | None  # as `tables.dumps` writes it; None if its environment is an object of a program
    steps: int  # that each agent was trained for
    scores: np.ndarray  # [num_seeds], NaN for one that has none
    iqm: Interval  # [], of the scores; without an interval where there are one or two seeds
    baseline: str | None  # the configuration that it is compared with, the first one on its environment
    improvement: Interval | None  # [], the probability that one of its seeds is better than one of the baseline's
    steps_to_threshold: np.ndarray  # [num_seeds], NaN where it is never reached
    seconds_to_threshold: np.ndarray  # [num_seeds], of a training of all seeds at once, without compiling
    compile_seconds: float
    run_seconds: float
    curve: Curve | None  # None if its algorithm measures no returns


class Report(NamedTuple):
    """Configurations compared with each other."""

    rows: list[Row]
    threshold: float | None
    window: int
    confidence: float
    num_resamples: int
    seed: int  # of the bootstrap


def report(
    *sources: Any,
    algorithm: Algorithm = PPO,
    imports: Sequence[str] = (),
    threshold: float | None = None,
    window: int = 1,
    confidence: float = 0.95,
    num_resamples: int = 2000,
    seed: int = 0,
) -> Report:
    """Compare configurations by the scores of their seeds.

    The estimate of a configuration is the interquartile mean, its interval a stratified bootstrap's; see `statistics`.
    On each environment the first configuration is the baseline: of every other, the report has the probability that
    one of its seeds is better than one of the baseline's. Scores that differ by less than their rounding are equal. One
    that is not finite, as its seed diverged, counts as worse than any, and is told. A curve shows the metric
    `expected_return`, or else `episode_return`.

    Args:
        sources: directories of runs and of sweeps, and what `sweep` returned.
        algorithm: what the directories were made with.
        imports: modules of yours that their configurations name, see `import_paths`.
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
    read = partial(load_trials, algorithm=algorithm, imports=imports)
    trials = [trial for source in sources for trial in _read(source, len(sources) > 1, read)]
    if not trials:
        raise ConfigError("sources: must hold at least one run or sweep")
    for i, trial in enumerate(trials):
        if trial.name in [other.name for other in trials[:i]]:
            raise ConfigError(f"sources: {trial.name!r} occurs twice; trial._replace(name=...) gives it another name")
    result = Report([], threshold, window, confidence, num_resamples, seed)
    baselines: dict[Any, Trial] = {}
    for trial in trials:
        result.rows.append(_row(result, trial, baselines.setdefault(_task(trial.config), trial)))
    return result


def check_threshold(threshold: Any) -> None:
    """Refuse what no return can reach.

    Raises:
        ConfigError: it is neither None nor a finite number.
    """
    if threshold is not None and not (isinstance(threshold, int | float) and math.isfinite(threshold)):
        raise ConfigError.of("threshold", threshold, f"None, or {FINITE.text}")


def returns_of(metrics: Mapping[str, Any]) -> np.ndarray | None:
    """Pick the returns while training from metrics, `[num_seeds, num_updates]`; None if there are none."""
    name = next((name for name in RETURNS if name in metrics), None)
    return None if name is None else np.asarray(metrics[name], float)


def _task(config: Any) -> Any:
    """What configurations must share to be compared: the environment, or else their type."""
    return getattr(config, "env", type(config).__name__)


def _row(report: Report, trial: Trial, baseline: Trial) -> Row:
    """Summarize a configuration."""
    config, scores, curves = trial.config, np.asarray(trial.scores, float), returns_of(trial.metrics)
    has_shape = curves is None or curves.shape == (len(scores), config.num_updates)
    if not has_shape:
        raise ConfigError(f"{trial.name}: must have metrics [num_seeds, num_updates]")
    steps = config.batch_size * np.arange(1, config.num_updates + 1)
    reached = np.full(len(scores), np.nan)
    if report.threshold is not None:
        if curves is None:
            raise ConfigError(f"threshold={report.threshold}: needs returns while training, which {trial.name} has not")
        reached = steps_to_threshold(curves, steps, report.threshold, window=report.window)
    improvement = None
    if trial is not baseline:
        compared = _without_rounding_errors(scores, np.asarray(baseline.scores, float))
        improvement = stratified_bootstrap(*compared, statistic=probability_of_improvement, **_bootstrap(report))
    return Row(
        name=trial.name,
        environment=name_of(_task(config)),
        config=_table(trial),
        steps=int(steps[-1]),
        scores=scores,
        iqm=summarize(scores, **_bootstrap(report)),
        baseline=None if trial is baseline else baseline.name,
        improvement=improvement,
        steps_to_threshold=reached,
        seconds_to_threshold=reached / steps[-1] * trial.run_seconds,
        compile_seconds=trial.compile_seconds,
        run_seconds=trial.run_seconds,
        curve=None if curves is None else _curve(report, curves, config.batch_size),
    )


def _bootstrap(report: Report) -> dict[str, Any]:
    return {"num_resamples": report.num_resamples, "confidence": report.confidence, "seed": report.seed}


def _without_rounding_errors(*samples: np.ndarray) -> list[np.ndarray]:
    """Round scores to 1e-5 of the largest, as integers: two programs may compute the same score differently."""
    known = np.concatenate([sample[np.isfinite(sample)] for sample in samples])
    unit = 1e-5 * np.abs(known).max(initial=0.0) or 1.0
    return [np.round(sample / unit) for sample in samples]


def _table(trial: Trial) -> dict[str, Any] | None:
    try:
        return tables.to_table(trial.config)
    except ConfigError:
        return None


def _curve(report: Report, curves: np.ndarray, steps_per_update: int) -> Curve:
    """Average the curves of all seeds over windows of updates, and take their interquartile mean."""
    windows = in_windows(last_known(curves))
    is_known = np.isfinite(windows.mean).all(axis=0)
    steps, returns = steps_per_update * windows.end[is_known], windows.mean[:, is_known]
    nothing = np.empty(0)
    mean = Interval(nothing, nothing, nothing)
    if len(steps):
        settings = _bootstrap(report) | {"num_resamples": min(report.num_resamples, MOST_CURVE_RESAMPLES)}
        mean = stratified_bootstrap(returns.T[:, None, :], **settings)
    return Curve(steps, returns, mean, windows.size)


def _read(source: Any, is_one_of_many: bool, read: Callable[[str | Path], list[Trial]]) -> list[Trial]:
    """Read the trials of a source.

    Raises:
        ConfigError: it is none, or cannot be read.
    """
    if isinstance(source, Trial):
        return [source]
    if isinstance(source, Sequence) and not isinstance(source, str) and all(isinstance(x, Trial) for x in source):
        return list(source)
    if not isinstance(source, str | Path):
        raise ConfigError.of("sources", source, "directories of runs or sweeps, or what sweep returned")
    trials = read(source)
    if not is_one_of_many or (Path(source) / files.RUN).exists():
        return trials
    return [trial._replace(name=f"{source}: {trial.name}") for trial in trials]
