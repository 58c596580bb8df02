"""What came of runs and sweeps, with intervals: as numbers, and rendered for the terminal, as JSON and as Markdown."""

import io
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from rich import box
from rich.table import Table
from rich.text import Text

from purejaxppo import presets
from purejaxppo.experiment import batches, files, logs, sweeps
from purejaxppo.experiment.statistics import (
    Interval,
    last_known,
    probability_of_improvement,
    steps_to_threshold,
    stratified_bootstrap,
)
from purejaxppo.experiment.sweeps import Trial
from purejaxppo.fields import FINITE, ConfigError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_POINTS = 100  # of a curve in a report
MOST_CURVE_RESAMPLES = 500  # for each of its points
JSON, MARKDOWN = "report.json", "report.md"

Cells = list[list[str]]  # lines of a table, the header first


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
        environment=config.env if isinstance(config.env, str) else config.env.name,
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
        return batches.table(trial.config)
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
    directory = Path(source)
    if (directory / files.RUN).exists():
        return [read_run(directory)]
    if not (directory / batches.MANIFEST).exists():
        raise ConfigError(f"directory={str(directory)!r}: must hold a run or a sweep")
    trials = sweeps.load(directory)
    return [trial._replace(name=f"{directory}: {trial.name}") for trial in trials] if is_one_of_many else trials


def read_run(directory: str | Path) -> Trial:
    """A finished run; its scores are those of its last evaluation.

    Raises:
        ConfigError: the directory holds no run, or one that is broken, not finished or not evaluated.
    """
    path = Path(directory)
    if not (path / files.ACCOUNT).exists():
        raise ConfigError(f"directory={str(path)!r}: must hold a finished run; resume goes on with it")
    config = presets.loads(files.read(path / files.CONFIG))
    evaluations, metrics = logs.read_evaluations(path), logs.read_metrics(path)
    if not evaluations or evaluations["update"][-1] != config.num_updates:
        raise ConfigError(f"directory={str(path)!r}: must hold a run that was evaluated at its end (num_evaluations)")
    if "greedy_return" not in evaluations or "episode_return" not in metrics:
        raise ConfigError(f"directory={str(path)!r}: has a broken record: there are no returns in it")
    scores = np.atleast_2d(evaluations.get("expected_return", evaluations["greedy_return"]))[:, -1]
    metrics = {name: np.atleast_2d(values) for name, values in metrics.items()}
    account = files.read_json(path / files.ACCOUNT)
    try:
        compile_seconds, seconds = float(account["seconds"]["compile"]), float(account["seconds"]["chunks"])
        done = config.num_updates - int(account["resumed_after"])
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"{path / files.ACCOUNT}: is broken ({error})") from None
    # Of a run that was resumed, the last process's pace is taken for the whole.
    run_seconds = seconds * config.num_updates / done if done > 0 else math.nan
    return Trial(str(path), config, scores, metrics, compile_seconds, run_seconds)


def to_json(report: Report) -> str:
    """All numbers, every seed's among them; NaN is null."""
    return json.dumps(_plain(report), indent=1, allow_nan=False)


def _plain(value: Any) -> Any:
    """Records as objects, arrays as lists, NaN as None."""
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Report | Row | Curve | Interval):
        return _plain(value._asdict())
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    return [_plain(part) for part in value] if isinstance(value, list | tuple) else value


def tables(report: Report) -> list[Table]:
    """For the terminal: of each environment a table of the configurations, and one of their seeds."""
    found = []
    for environment, rows in _by_environment(report):
        for title, cells in (
            (environment, _summary(report, rows)),
            (f"{environment}, by seed", _by_seed(report, rows)),
        ):
            table = Table(title=title, title_justify="left", box=box.SIMPLE)
            for number, name in enumerate(cells[0]):
                table.add_column(name, justify="right" if number else "left", overflow="fold")
            for texts in cells[1:]:
                table.add_row(*map(Text, texts))
            found.append(table)
    return found


def to_markdown(report: Report, pictures: Sequence[Sequence[str]] = ()) -> str:
    """The tables, with a text that says what the numbers are.

    Args:
        report: what came of some configurations.
        pictures: the names of the picture files of each environment.
    """
    threshold = ""
    if report.threshold is not None:
        mean = f" of {report.window} updates" if report.window > 1 else ""
        threshold = (
            f" *Reached*: the seeds whose mean return{mean} reached {_number(report.threshold)}; steps and seconds to "
            "there are medians over all seeds, the seconds those of a training of all of them at once."
        )
    text = (
        "# Report\n\n"
        f"*IQM*: the interquartile mean over seeds and its {100 * report.confidence:g}% interval, by a stratified "
        f"bootstrap of {report.num_resamples:,} resamples. *P(better)*: the probability that a seed is better than one "
        f"of the baseline's, with its interval; both after Agarwal et al., 2021.{threshold} Seconds of compiling and "
        "running are a configuration's share of those of its programs.\n"
    )
    for number, (environment, rows) in enumerate(_by_environment(report)):
        links = "".join(f"![{name}]({name})\n" for name in (pictures[number] if pictures else ()))
        text += (
            f"\n## {environment}\n\n{_markdown_table(_summary(report, rows))}\n{links}"
            f"\n<details><summary>Every seed</summary>\n\n{_markdown_table(_by_seed(report, rows))}\n</details>\n"
        )
    return text


def write(report: Report, directory: str | Path, *, overwrite: bool = False) -> list[Path]:
    """Write `report.json`, `report.md` and its pictures; returns their paths.

    Args:
        report: what came of some configurations.
        directory: made if it is not there; not that of a run.
        overwrite: whether files of these names may be replaced.

    Raises:
        ConfigError: the directory cannot be written to, is a run's, or holds such files.
    """
    from purejaxppo.experiment import plots  # imported here: matplotlib takes a while, and not every report is drawn

    pictures: list[dict[str, Figure]] = []
    for number, (_, rows) in enumerate(_by_environment(report), 1):
        end = f"-{number}.png" if number > 1 else ".png"
        names = [row.name for row in rows]
        curves = [(row.curve.steps, *row.curve.iqm) for row in rows]
        pictures.append(
            {
                f"iqm{end}": plots.intervals(names, [row.iqm for row in rows], confidence=report.confidence),
                f"seeds{end}": plots.seeds(names, [row.scores for row in rows], [row.iqm.estimate for row in rows]),
                f"curves{end}": plots.curves(names, curves, confidence=report.confidence, threshold=report.threshold),
            }
        )
    contents: dict[str, str | bytes] = {JSON: to_json(report), MARKDOWN: to_markdown(report, list(map(list, pictures)))}
    contents |= {name: _png(figure) for group in pictures for name, figure in group.items()}
    path = Path(directory)
    if (path / files.RUN).exists():
        raise ConfigError(f"directory={str(path)!r}: must not be a run's, which has files of these names itself")
    taken = [name for name in contents if (path / name).exists()]
    if taken and not overwrite:
        raise ConfigError(f"directory={str(path)!r}: already holds {taken[0]!r}, and nothing is overwritten")
    try:
        path.mkdir(parents=True, exist_ok=True)
        for name, content in contents.items():
            files.write(path / name, content)
    except OSError as error:
        raise ConfigError(f"directory={str(path)!r}: cannot be written to ({error.strerror or error})") from None
    return [path / name for name in contents]


def _png(figure: "Figure") -> bytes:
    content = io.BytesIO()
    figure.savefig(content, format="png")
    return content.getvalue()


def _by_environment(report: Report) -> list[tuple[str, list[Row]]]:
    """Rows that can be compared: returns on different environments cannot."""
    groups: dict[str, list[Row]] = {}
    for row in report.rows:
        groups.setdefault(row.baseline or row.name, []).append(row)
    return [(rows[0].environment, rows) for rows in groups.values()]


def _summary(report: Report, rows: list[Row]) -> Cells:
    """One line per configuration, below the header."""
    header = ["configuration", f"IQM [{100 * report.confidence:g}% interval]", "worst", "best", "P(better)"]
    header += ["reached", "steps", "seconds"] if report.threshold is not None else []
    return [[*header, "compile s", "run s"], *(_summary_of(report, row) for row in rows)]


def _summary_of(report: Report, row: Row) -> list[str]:
    better = "baseline" if row.improvement is None else _interval(row.improvement, _probability)
    note = " (one seed: no interval)" if len(row.scores) == 1 else ""
    cells = [row.name, _interval(row.iqm, _number) + note, _number(row.scores.min()), _number(row.scores.max()), better]
    if report.threshold is not None:
        num_reached = np.isfinite(row.steps_to_threshold).sum()
        steps, seconds = map(_median, (row.steps_to_threshold, row.seconds_to_threshold))
        cells += [f"{num_reached}/{len(row.scores)}", _count(steps), _seconds(seconds)]
    return [*cells, _seconds(row.compile_seconds), _seconds(row.run_seconds)]


def _by_seed(report: Report, rows: list[Row]) -> Cells:
    """One line per seed, below the header."""
    header = ["configuration", "seed", "score"]
    if report.threshold is None:
        return [header, *([row.name, str(i), _number(score)] for row in rows for i, score in enumerate(row.scores))]
    lines = [[*header, "steps to threshold", "seconds"]]
    for row in rows:
        numbers = zip(row.scores, row.steps_to_threshold, row.seconds_to_threshold, strict=True)
        for i, (score, steps, seconds) in enumerate(numbers):
            lines.append([row.name, str(i), _number(score), _count(steps), _seconds(seconds)])
    return lines


def _markdown_table(cells: Cells) -> str:
    header, *lines = [[text.replace("|", "\\|") for text in line] for line in cells]
    rule = ["---", *("---:" for _ in header[1:])]
    return "".join(f"| {' | '.join(line)} |\n" for line in (header, rule, *lines))


def _median(values: np.ndarray) -> float:
    """Of seeds, where those that never reach it are beyond any other; NaN if that is where the median is."""
    median = np.median(np.where(np.isnan(values), np.inf, values))
    return float(median) if np.isfinite(median) else math.nan


def _interval(interval: Interval, spell: Callable[[float], str]) -> str:
    estimate, low, high = map(float, interval)
    return spell(estimate) if math.isnan(low) else f"{spell(estimate)} [{spell(low)}, {spell(high)}]"


def _probability(value: float) -> str:
    return f"{value:.2f}"


def _number(value: float) -> str:
    return f"{value:z.4g}" if abs(value) < 1e4 else f"{value:,.0f}"


def _count(steps: float) -> str:
    return "-" if math.isnan(steps) else f"{steps:,.0f}"


def _seconds(seconds: float) -> str:
    return "-" if math.isnan(seconds) else f"{seconds:,.2f}"
