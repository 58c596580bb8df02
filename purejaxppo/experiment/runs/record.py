"""The record of a run: the metrics of every update and the evaluations, in memory and in its directory.

There they are `metrics.jsonl`, one line per update with a list of one number per row; `metrics.csv`, the same as one
line per update and row; and `evaluations.jsonl`. Numbers are exact: reading them gives the same float32. JSON has no
NaN; it is null there, and infinity is 1e999.

Each line of JSON ends with a checksum of it and of the run, so damage is noticed, and so is a line of another run.
Reading then fails; `truncate`, with which a run is resumed, puts NaN in place of what is damaged or lost.
"""

import contextlib
import csv
import io
import itertools
import json
import logging
import math
import os
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np

from purejaxppo.errors import RunError
from purejaxppo.experiment.runs import files
from purejaxppo.experiment.runs.files import EVALUATIONS, METRICS, TABLE
from purejaxppo.experiment.runs.loggers import Loggers, Values

COLUMNS = ("update", "steps", "row")  # of the table, before the metrics
RESERVED = (*COLUMNS, "crc32")  # what no metric can be called
CHECKSUM = ', "crc32": '  # begins what a line ends with

log = logging.getLogger("purejaxppo")


class MetricsLog:
    """The metrics and evaluations of a run. It must not fail silently: an error stops the run."""

    def __init__(
        self, directory: Path | None, batch_size: int, loggers: Loggers | None = None, *, run: str = ""
    ) -> None:
        """Continue the record in a directory.

        Args:
            directory: of the run; None keeps the numbers in memory only.
            batch_size: environment steps of one row per update.
            loggers: these get the same numbers.
            run: identifies the run.

        Raises:
            OSError: the files cannot be read or written.
        """
        self._batch_size, self._loggers, self._run = batch_size, loggers, run
        earlier = read_metrics(directory, run=run) if directory else {}
        self._chunks = [{name: values.T for name, values in earlier.items()}] if earlier else []
        self._evaluations = [] if directory is None else _read(directory / EVALUATIONS, run)
        self._unwritten: list[tuple[int, Values]] = []
        self._num_updates = len(next(iter(self._chunks[0].values()))) if earlier else 0
        with contextlib.ExitStack() as stack:
            paths = [directory / name for name in (METRICS, TABLE, EVALUATIONS)] if directory else []
            self._files = [stack.enter_context(path.open("a", encoding="utf-8")) for path in paths]
            self._stack = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: Any) -> None:
        self._stack.close()

    def append(self, metrics: Values) -> None:
        """Take some updates' metrics, `[n, num_rows]`; `write` brings them into the files."""
        self._unwritten.append((self._num_updates, metrics))
        self._chunks.append(dict(metrics))
        self._num_updates += len(next(iter(metrics.values())))

    def write(self) -> None:
        """Write what was appended, and hand it to the loggers."""
        for num_before, metrics in self._unwritten:
            rows = list(_rows(num_before, self._batch_size, metrics))
            if self._files:
                log, table, _ = self._files
                header = [] if table.tell() else [_header(metrics)]
                table.write(_lines(itertools.chain(header, *map(_by_row, rows))))
                log.write("".join(_line(row, self._run) for row in rows))
                log.flush()
                table.flush()
            if self._loggers:
                for index, row in enumerate(rows):
                    values = {name: numbers[index] for name, numbers in metrics.items()}
                    self._loggers.write(row["update"], row["steps"], values)
        self._unwritten.clear()

    def write_evaluation(self, values: Values) -> None:
        """Write an evaluation of each row, `[num_rows]`, after the updates so far."""
        self.write()  # before it, as some loggers lose what comes out of order
        update, steps = self._num_updates, self._num_updates * self._batch_size
        row = {"update": update, "steps": steps} | {name: value.tolist() for name, value in values.items()}
        self._evaluations.append(row)
        if self._files:
            self._files[-1].write(_line(row, self._run))
            self._files[-1].flush()
        if self._loggers:
            self._loggers.write(update, steps, {f"evaluation/{name}": value for name, value in values.items()})

    @property
    def evaluated_update(self) -> int:
        """After how many updates the last evaluation was."""
        return self._evaluations[-1]["update"] if self._evaluations else 0

    def sync(self) -> None:
        """Bring all of it to the disk."""
        self.write()
        for file in self._files:
            os.fsync(file.fileno())

    def recent(self, num_updates: int) -> dict[str, np.ndarray]:
        """Average the last updates' metrics over what is a number, `[num_rows]`."""
        last = self._chunks[-num_updates:]
        return {name: _mean(np.concatenate([chunk[name] for chunk in last])[-num_updates:]) for name in last[0]}

    def metrics(self) -> dict[str, np.ndarray]:
        """Join those of the whole run, `[num_rows, num_updates]`."""
        return {name: np.concatenate([chunk[name] for chunk in self._chunks]).T for name in self._chunks[0]}

    def evaluations(self) -> dict[str, np.ndarray]:
        """Give what `read_evaluations` reads."""
        return _evaluations(self._evaluations)


def read_metrics(directory: Path, *, run: str = "") -> dict[str, np.ndarray]:
    """Read the metrics in a run's record, float32, `[num_rows, num_updates]`; none before the first.

    Args:
        directory: of the run.
        run: identifies it.

    Raises:
        RunError: the record is damaged, or of another run.
    """
    return _columns(_read(directory / METRICS, run))


def read_evaluations(directory: Path, *, run: str = "") -> dict[str, np.ndarray]:
    """Read the evaluations in a run's record, like metrics, and the `update` of each; none before the first.

    Args:
        directory: of the run.
        run: identifies it.

    Raises:
        RunError: the record is damaged, or of another run.
    """
    return _evaluations(_read(directory / EVALUATIONS, run))


def truncate(directory: Path, num_updates: int, batch_size: int, like: Callable[[], Values], *, run: str = "") -> None:
    """Remove what comes after so many updates from the record; the table is made anew.

    Updates that are damaged or lost get NaN, and such evaluations are left out, both with a warning.

    Args:
        directory: of the run.
        num_updates: that are to stay.
        batch_size: environment steps of one row per update.
        like: gives metrics of one update, `[1, num_rows]`, for their names where no line tells them.
        run: identifies the run.

    Raises:
        RunError: the record cannot be read.
        OSError: it cannot be written; it is then unchanged.
    """
    metrics, evaluations = (_whole_lines(directory / name, num_updates, run) for name in (METRICS, EVALUATIONS))
    if len(metrics) < num_updates:
        lost = num_updates - len(metrics)
        log.warning("%s: of %d updates %d are damaged or lost; NaN stands for them", directory, num_updates, lost)
        metrics = _filled(metrics, num_updates, batch_size, like)
    lines = list(metrics.values())
    table = [_header(lines[0])] if lines else []
    files.write(directory / TABLE, _lines(itertools.chain(table, *map(_by_row, lines))))
    files.write(directory / METRICS, "".join(_line(row, run) for row in lines))
    files.write(directory / EVALUATIONS, "".join(_line(row, run) for row in evaluations.values()))


def _filled(
    lines: dict[int, dict[str, Any]], num_updates: int, batch_size: int, like: Callable[[], Values]
) -> dict[int, dict[str, Any]]:
    """Put NaN in place of missing updates."""
    one = next(iter(lines.values()), None) or next(_rows(0, batch_size, like()))
    nothing = {name: [math.nan] * len(one[name]) for name in _names(one)}
    updates = range(1, num_updates + 1)
    return {update: lines.get(update, {"update": update, "steps": update * batch_size} | nothing) for update in updates}


def _rows(num_before: int, batch_size: int, metrics: Values) -> Iterator[dict[str, Any]]:
    """Make one dictionary per update."""
    columns = {name: values.tolist() for name, values in metrics.items()}
    for index, numbers in enumerate(zip(*columns.values(), strict=True)):
        update = num_before + index + 1
        yield {"update": update, "steps": update * batch_size, **dict(zip(columns, numbers, strict=True))}


def _line(row: dict[str, Any], run: str) -> str:
    """Write a row as a line of JSON, which ends with the checksum of what is before it."""
    text = json.dumps(row).replace("-Infinity", "-1e999").replace("Infinity", "1e999").replace("NaN", "null")
    return f"{text[:-1]}{CHECKSUM}{_checksum(text.encode(), run)}}}\n"


def _checksum(text: bytes, run: str) -> int:
    return zlib.crc32(text, zlib.crc32(run.encode()))


def _names(row: Mapping[str, Any]) -> list[str]:
    """List the names of a row's values, in the order of the table's columns."""
    return sorted(row.keys() - set(RESERVED))


def _header(row: Mapping[str, Any]) -> list[str]:
    return [*COLUMNS, *_names(row)]


def _by_row(line: dict[str, Any]) -> Iterator[list[Any]]:
    """Split the numbers after an update into one list of cells per row, below `_header`."""
    for row, numbers in enumerate(zip(*(line[name] for name in _names(line)), strict=True)):
        yield [line["update"], line["steps"], row, *(math.nan if number is None else number for number in numbers)]


def _lines(rows: Any) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _read(path: Path, run: str) -> list[dict[str, Any]]:
    """Read all lines; one without an end, which a killed process left, does not count.

    Raises:
        RunError: a line is damaged, or they are not those of updates in order.
    """
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(_split(path), 1):
        row = _parse(line, run)
        if row is None:
            raise RunError(f"{path}: line {number} is damaged; resume leaves it out")
        rows.append(row)
    updates = [row["update"] for row in rows]
    expected = list(range(1, len(rows) + 1)) if path.name == METRICS else sorted(set(updates))
    if updates != expected or len(set(map(_form, rows))) > 1:
        raise RunError(f"{path}: is damaged: its lines are not those of one update after the other; resume repairs it")
    return rows


def _whole_lines(path: Path, num_updates: int, run: str) -> dict[int, dict[str, Any]]:
    """Read the lines that are whole, by their updates, up to a number of these; the first counts of two for one update.

    Raises:
        RunError: it cannot be read.
    """
    rows = [row for line in _split(path) if (row := _parse(line, run)) and row["update"] <= num_updates]
    found: dict[int, dict[str, Any]] = {}
    for row in rows:
        if _form(row) == _form(rows[0]):
            found.setdefault(row["update"], row)
    return dict(sorted(found.items()))


def _split(path: Path) -> list[bytes]:
    return files.read_bytes(path).split(b"\n")[:-1] if path.exists() else []


def _parse(line: bytes, run: str) -> dict[str, Any] | None:
    """Lists of numbers by name, and `update` and `steps`; None where the line is not what was written."""
    text, _, checksum = line.removesuffix(b"}").rpartition(CHECKSUM.encode())
    text += b"}"
    if checksum != b"%d" % _checksum(text, run):
        return None
    try:
        row = json.loads(text)
        is_row = type(row["update"]) is int and row["update"] > 0 and type(row["steps"]) is int and len(_names(row)) > 0
        numbers = np.array([row[name] for name in _names(row)], np.float32)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError):
        return None
    return row if is_row and numbers.ndim == 2 else None


def _form(row: Mapping[str, Any]) -> tuple[str | int, ...]:
    """The names of a row's values, and how many numbers each has."""
    return (*_names(row), len(row[_names(row)[0]]))


def _columns(rows: list[dict[str, Any]]) -> dict[str, np.ndarray]:
    """Collect the values of all rows by name, the updates as the last axis."""
    return {name: np.array([row[name] for row in rows], np.float32).T for name in (_names(rows[0]) if rows else [])}


def _evaluations(rows: list[dict[str, Any]]) -> dict[str, np.ndarray]:
    return {"update": np.array([row["update"] for row in rows]), **_columns(rows)} if rows else {}


def _mean(values: np.ndarray) -> np.ndarray:
    """Average over the first axis, without NaN; NaN where there is nothing else."""
    is_number = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return np.where(is_number, values, 0).sum(axis=0) / is_number.sum(axis=0)
