"""The record of a run: the metrics of every update and the evaluations, in memory and in its directory.

There they are `metrics.jsonl`, one line per update with a list of one number per row; `metrics.csv`, the same as one
line per update and row; and `evaluations.jsonl`. Numbers are exact: reading them gives the same float32. JSON has no
NaN; it is null there, and infinity is 1e999.
"""

import contextlib
import csv
import io
import itertools
import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np

from purejaxppo.errors import RunError
from purejaxppo.experiment.runs import files
from purejaxppo.experiment.runs.files import EVALUATIONS, METRICS, TABLE
from purejaxppo.experiment.runs.loggers import Loggers, Values

RESERVED = ("update", "steps", "row")  # columns of the table, which no metric can be called


class MetricsLog:
    """The metrics and evaluations of a run. It must not fail silently: an error stops the run."""

    def __init__(self, directory: Path | None, batch_size: int, loggers: Loggers | None = None) -> None:
        """Continue the record in a directory.

        Args:
            directory: of the run; None keeps the numbers in memory only.
            batch_size: environment steps of one row per update.
            loggers: these get the same numbers.

        Raises:
            OSError: the files cannot be read or written.
        """
        self._batch_size, self._loggers = batch_size, loggers
        earlier = read_metrics(directory) if directory else {}
        self._chunks = [{name: values.T for name, values in earlier.items()}] if earlier else []
        self._evaluations = [] if directory is None else _read(directory / EVALUATIONS)
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
                log.write("".join(map(_line, rows)))
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
            self._files[-1].write(_line(row))
            self._files[-1].flush()
        if self._loggers:
            self._loggers.write(update, steps, {f"evaluation/{name}": value for name, value in values.items()})

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
        return _evaluations(Path(EVALUATIONS), self._evaluations)


def read_metrics(directory: Path) -> dict[str, np.ndarray]:
    """Read the metrics in a run's record, float32, `[num_rows, num_updates]`; none before the first.

    Raises:
        RunError: the record is corrupt.
    """
    path = directory / METRICS
    return _columns(path, _read(path))


def read_evaluations(directory: Path) -> dict[str, np.ndarray]:
    """Read the evaluations in a run's record, like metrics, and the `update` of each; none before the first.

    Raises:
        RunError: the record is corrupt.
    """
    path = directory / EVALUATIONS
    return _evaluations(path, _read(path))


def truncate(directory: Path, num_updates: int, num_evaluations: int) -> None:
    """Remove what comes after so many updates and evaluations from the record; the table is made anew.

    Raises:
        RunError: the record is corrupt, or does not reach so far.
        OSError: it cannot be written; it is then unchanged.
    """
    rows = _read(directory / METRICS, num_updates)
    evaluations = _read(directory / EVALUATIONS, num_evaluations)
    if len(rows) < num_updates or len(evaluations) < num_evaluations:
        raise RunError(f"{directory}: the record in {METRICS} and {EVALUATIONS} ends before update {num_updates}")
    table = [_header(rows[0])] if rows else []
    files.write(directory / TABLE, _lines(itertools.chain(table, *map(_by_row, rows))))
    files.write(directory / METRICS, "".join(map(_line, rows)))
    files.write(directory / EVALUATIONS, "".join(map(_line, evaluations)))


def _rows(num_before: int, batch_size: int, metrics: Values) -> Iterator[dict[str, Any]]:
    """Make one dictionary per update."""
    columns = {name: values.tolist() for name, values in metrics.items()}
    for index, numbers in enumerate(zip(*columns.values(), strict=True)):
        update = num_before + index + 1
        yield {"update": update, "steps": update * batch_size, **dict(zip(columns, numbers, strict=True))}


def _line(row: dict[str, Any]) -> str:
    """Write a row as a line of JSON."""
    return json.dumps(row).replace("-Infinity", "-1e999").replace("Infinity", "1e999").replace("NaN", "null") + "\n"


def _names(row: Mapping[str, Any]) -> list[str]:
    """List the names of a row's values, in the order of the table's columns."""
    return sorted(row.keys() - set(RESERVED))


def _header(row: Mapping[str, Any]) -> list[str]:
    return [*RESERVED, *_names(row)]


def _by_row(line: dict[str, Any]) -> Iterator[list[Any]]:
    """Split the numbers after an update into one list of cells per row, below `_header`."""
    for row, numbers in enumerate(zip(*(line[name] for name in _names(line)), strict=True)):
        yield [line["update"], line["steps"], row, *(math.nan if number is None else number for number in numbers)]


def _lines(rows: Any) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _read(path: Path, limit: int | None = None) -> list[dict[str, Any]]:
    """Read the first lines, or all; one without an end, which a killed process left, does not count.

    Raises:
        RunError: a line is corrupt, or they are not those of updates in order.
    """
    lines = files.read(path).split("\n")[:-1] if path.exists() else []
    rows = [_parse(path, number, line) for number, line in enumerate(lines[:limit], 1)]
    updates = [row["update"] for row in rows]
    expected = range(1, len(rows) + 1) if path.name == METRICS else sorted(set(updates))
    if updates != list(expected) or any(row.keys() != rows[0].keys() for row in rows):
        raise RunError(f"{path}: is corrupt: its lines are not those of one update after the other")
    return rows


def _parse(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise RunError(f"{path}: line {number} is corrupt ({error})") from None
    if not isinstance(row, dict) or not all(type(row.get(name)) is int for name in ("update", "steps")):
        raise RunError(f"{path}: line {number} is corrupt")
    if not all(isinstance(row[name], list) for name in _names(row)):
        raise RunError(f"{path}: line {number} is corrupt: not one list of numbers for each name")
    return row


def _columns(path: Path, rows: list[dict[str, Any]]) -> dict[str, np.ndarray]:
    """Collect the values of all rows by name, the updates as the last axis.

    Raises:
        RunError: they are not numbers, or not as many everywhere.
    """
    names = _names(rows[0]) if rows else []
    try:
        columns = {name: np.array([row[name] for row in rows], np.float32).T for name in names}
    except (TypeError, ValueError) as error:
        raise RunError(f"{path}: is corrupt ({error})") from None
    if len({values.shape for values in columns.values()}) > 1 or any(values.ndim != 2 for values in columns.values()):
        raise RunError(f"{path}: is corrupt: not as many numbers everywhere")
    return columns


def _evaluations(path: Path, rows: list[dict[str, Any]]) -> dict[str, np.ndarray]:
    return {"update": np.array([row["update"] for row in rows]), **_columns(path, rows)} if rows else {}


def _mean(values: np.ndarray) -> np.ndarray:
    """Average over the first axis, without NaN; NaN where there is nothing else."""
    is_number = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return np.where(is_number, values, 0).sum(axis=0) / is_number.sum(axis=0)
