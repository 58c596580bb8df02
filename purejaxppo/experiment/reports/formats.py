"""Write a report as tables for the terminal, as JSON, and as Markdown with pictures."""

import html
import io
import json
import math
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich import box
from rich.table import Table
from rich.text import Text

from purejaxppo.errors import ConfigError, in_one_line
from purejaxppo.experiment.reports.report import Curve, Report, Row
from purejaxppo.experiment.reports.statistics import Interval, as_scores, in_words
from purejaxppo.experiment.runs import files
from purejaxppo.settings import check_kind
from purejaxppo.user_files import to_path

if TYPE_CHECKING:
    from matplotlib.figure import Figure

JSON, MARKDOWN = "report.json", "report.md"

Cells = list[list[str]]  # lines of a table, the header first


def to_json(report: Report) -> str:
    """Write all numbers, every seed's among them; NaN is null."""
    check_kind("report", report, Report)
    return json.dumps(_plain(report), indent=1, allow_nan=False)


def _plain(value: Any) -> Any:
    """Turn records into objects, arrays into lists, NaN into None."""
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
    """Lay out for the terminal a table of configurations and one of seeds, of each environment."""
    check_kind("report", report, Report)
    found = []
    for environment, rows in _by_environment(report):
        found.append(_terminal_table(environment, _summary(report, rows), " ".join(_without_score(rows))))
        found.append(_terminal_table(f"{environment}, by seed", _by_seed(report, rows)))
    return found


def _terminal_table(title: str, cells: Cells, note: str = "") -> Table:
    table = Table(title=Text(title, "table.title"), title_justify="left", box=box.SIMPLE)
    table.caption, table.caption_justify = Text(in_one_line(note), "table.caption") if note else None, "left"
    for number, name in enumerate(cells[0]):
        table.add_column(name, justify="right" if number else "left", overflow="fold")
    for texts in cells[1:]:
        table.add_row(*(Text(in_one_line(text)) for text in texts))
    return table


def to_markdown(report: Report, pictures: Sequence[Sequence[str]] = ()) -> str:
    """Write the tables, with a text that says what the numbers are.

    Args:
        report: to write.
        pictures: the names of the picture files of each environment.
    """
    check_kind("report", report, Report)
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
        f"of the baseline's, with its interval; both after Agarwal et al., 2021. One or two seeds have no interval."
        f"{threshold} Compile and run times are a configuration's share of those of its programs.\n"
    )
    for number, (environment, rows) in enumerate(_by_environment(report)):
        notes = "".join(f"{_as_markdown(note)}\n\n" for note in _without_score(rows))
        links = "".join(f"![{name}]({name})\n" for name in (pictures[number] if pictures else ()))
        text += (
            f"\n## {_as_markdown(environment)}\n\n{_markdown_table(_summary(report, rows))}\n{notes}{links}"
            f"\n<details><summary>Every seed</summary>\n\n{_markdown_table(_by_seed(report, rows))}\n</details>\n"
        )
    return text


def write(report: Report, directory: str | Path, *, overwrite: bool = False) -> list[Path]:
    """Write `report.json`, `report.md` and its pictures; returns their paths.

    Args:
        report: to write.
        directory: made if it is not there; not that of a run.
        overwrite: whether files of these names may be replaced.

    Raises:
        ConfigError: the directory is a run's, or holds such files.
        RunError: it cannot be written to.
    """
    check_kind("report", report, Report)
    path = to_path("directory", directory)
    pictures = [_picture_names(number, rows) for number, (_, rows) in enumerate(_by_environment(report))]
    names = [JSON, MARKDOWN, *(name for group in pictures for name in group)]
    taken = [name for name in names if (path / name).exists()]
    if (path / files.RUN).exists():
        raise ConfigError(f"directory={str(path)!r}: must not be a run's")
    if taken and not overwrite:
        raise ConfigError(f"directory={str(path)!r}: already holds {taken[0]!r}, and nothing is overwritten")
    contents: list[str | bytes] = [to_json(report), to_markdown(report, pictures), *_pictures(report)]
    with files.as_run_error(f"directory={str(path)!r}"):
        path.mkdir(parents=True, exist_ok=True)
        for name, content in zip(names, contents, strict=True):
            files.write(path / name, content)
    return [path / name for name in names]


def _picture_names(number: int, rows: list[Row]) -> list[str]:
    """Name the pictures of the environment with that number."""
    end = f"-{number + 1}.png" if number else ".png"
    has_curves = any(row.curve is not None for row in rows)
    return [f"{name}{end}" for name in ("iqm", "seeds", *(["curves"] if has_curves else []))]


def _pictures(report: Report) -> Iterator[bytes]:
    """Draw one environment after the other, in the order of their names."""
    # Imported here: matplotlib takes a while, and not every report is drawn.
    from purejaxppo.experiment.pictures import report as pictures

    confidence = report.confidence
    for _, rows in _by_environment(report):
        names = [row.name for row in rows]
        yield _png(pictures.intervals(names, [row.iqm for row in rows], confidence=confidence))
        yield _png(pictures.seeds(names, [row.scores for row in rows], [row.iqm.estimate for row in rows]))
        curves = {row.name: row.curve for row in rows if row.curve is not None}
        if curves:
            values = [(curve.steps, *curve.iqm) for curve in curves.values()]
            window = max(curve.window for curve in curves.values())
            returns = partial(pictures.curves, confidence=confidence, threshold=report.threshold, window=window)
            yield _png(returns(list(curves), values))


def _png(figure: "Figure") -> bytes:
    content = io.BytesIO()
    figure.savefig(content, format="png")
    return content.getvalue()


def _by_environment(report: Report) -> list[tuple[str, list[Row]]]:
    """Group rows that can be compared: returns on different environments cannot."""
    groups: dict[str, list[Row]] = {}
    for row in report.rows:
        groups.setdefault(row.baseline or row.name, []).append(row)
    return [(rows[0].environment, rows) for rows in groups.values()]


def _summary(report: Report, rows: list[Row]) -> Cells:
    """Write one line per configuration, below the header."""
    header = ["configuration", f"IQM [{100 * report.confidence:g}% interval]", "worst", "best", "P(better)"]
    header += ["reached", "steps", "seconds"] if report.threshold is not None else []
    return [[*header, "compile s", "run s"], *(_summary_of(report, row) for row in rows)]


def _summary_of(report: Report, row: Row) -> list[str]:
    worth = in_words(row.iqm, len(row.scores), _number)
    better = "baseline" if row.improvement is None else _probability(row.improvement)
    scores = as_scores(row.scores)
    cells = [row.name, worth, _number(scores.min()), _number(scores.max()), better]
    if report.threshold is not None:
        num_reached = np.isfinite(row.steps_to_threshold).sum()
        steps, seconds = map(_median, (row.steps_to_threshold, row.seconds_to_threshold))
        cells += [f"{num_reached}/{len(row.scores)}", _count(steps), _seconds(seconds)]
    return [*cells, _seconds(row.compile_seconds), _seconds(row.run_seconds)]


def _without_score(rows: list[Row]) -> Iterator[str]:
    """Name the seeds that have no score, in a sentence for each configuration."""
    for row in rows:
        seeds = [str(seed) for seed in np.flatnonzero(~np.isfinite(row.scores))]
        if seeds:
            which = f"seed {seeds[0]} has" if len(seeds) == 1 else f"seeds {', '.join(seeds)} have"
            yield f"{row.name}: {which} no score, which counts as worse than any."


def _by_seed(report: Report, rows: list[Row]) -> Cells:
    """Write one line per seed, below the header."""
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
    header, *lines = [list(map(_as_markdown, line)) for line in cells]
    rule = ["---", *("---:" for _ in header[1:])]
    return "".join(f"| {' | '.join(line)} |\n" for line in (header, rule, *lines))


def _as_markdown(name: str) -> str:
    """A name, or whatever else was not written for Markdown, as a text that is no link, no HTML and one cell."""
    text = html.escape(in_one_line(name), quote=False)
    for meant, written in (("\\", "\\\\"), ("|", "\\|"), ("](", "]\\(")):
        text = text.replace(meant, written)
    return text


def _median(values: np.ndarray) -> float:
    """Take the median, where seeds that never reach it are beyond any other; NaN if that is where the median is."""
    median = np.median(np.where(np.isnan(values), np.inf, values))
    return float(median) if np.isfinite(median) else math.nan


def _probability(interval: Interval) -> str:
    estimate, low, high = map(float, interval)
    return f"{estimate:.2f}" if math.isnan(low) else f"{estimate:.2f} [{low:.2f}, {high:.2f}]"


def _number(value: float) -> str:
    if not math.isfinite(value):
        return "-"
    return f"{value:z.4g}" if abs(value) < 1e4 else f"{value:,.0f}"


def _count(steps: float) -> str:
    return "-" if math.isnan(steps) else f"{steps:,.0f}"


def _seconds(seconds: float) -> str:
    return "-" if math.isnan(seconds) else f"{seconds:,.2f}"
