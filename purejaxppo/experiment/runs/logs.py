"""What happens in a run, as files: the record, which every run keeps, and loggers that may come on top.

The record is `metrics.jsonl`, one line per update, with a list of one number per agent where there are many;
`metrics.csv`, the same as one line per update and agent; and `evaluations.jsonl`. Numbers are exact: reading them gives
the same float32. JSON has no NaN; it is null there, and infinity is 1e999.
"""

import contextlib
import csv
import io
import itertools
import json
import logging
import math
import os
import tomllib
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np

from purejaxppo.errors import ConfigError
from purejaxppo.experiment.runs import files
from purejaxppo.experiment.runs.files import CONFIG, EVALUATIONS, METRICS, TABLE, TENSORBOARD, WANDB

Values = Mapping[str, np.ndarray]

log = logging.getLogger("purejaxppo")


class Logger(Protocol):
    """What a run can report to, beside its own record."""

    def write(self, update: int, steps: int, values: Values) -> None:
        """Take the numbers after some updates and as many environment steps of one agent.

        Args:
            update: updates done.
            steps: environment steps of one agent.
            values: one number each, `[]`, or one per agent, `[num_seeds]`.
        """

    def close(self) -> None:
        """The run is over or stops here."""


MakeLogger = Callable[[Path, int], Logger]  # from a run's directory and the number of updates already done


class Loggers:
    """Some loggers, of which one that fails is reported, once, and dropped."""

    def __init__(self, makers: Sequence[MakeLogger], directory: Path, num_updates: int) -> None:
        self._loggers: list[Logger] = []
        for make in makers:
            with _reported(make):
                self._loggers.append(make(directory, num_updates))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: Any) -> None:
        for logger in self._loggers:
            with _reported(logger):
                logger.close()

    def __bool__(self) -> bool:
        return bool(self._loggers)

    def write(self, update: int, steps: int, values: Values) -> None:
        for logger in list(self._loggers):
            self._loggers.remove(logger)
            with _reported(logger):
                logger.write(update, steps, values)
                self._loggers.append(logger)


@contextlib.contextmanager
def _reported(logger: Any) -> Iterator[None]:
    """Whatever goes wrong in somebody else's code must not end a run."""
    try:
        yield
    except Exception as error:
        log.warning("the logger %r failed, and is dropped: %r", logger, error)


class TensorBoard:
    """Events that `tensorboard --logdir DIRECTORY` shows, one curve per agent; needs `tensorboardX`."""

    def __init__(self, directory: Path, num_updates: int) -> None:
        """Go on after some updates; what an earlier process wrote of later ones is no longer shown."""
        from tensorboardX import SummaryWriter

        self._writer = SummaryWriter(str(directory / TENSORBOARD), purge_step=num_updates + 1)

    def write(self, update: int, steps: int, values: Values) -> None:
        for tag, number in _curves(values):
            self._writer.add_scalar(tag, number, update)

    def close(self) -> None:
        self._writer.close()


class WandB:
    """A run of Weights & Biases, one curve per agent; needs `wandb`, and obeys its variables, such as `WANDB_MODE`."""

    def __init__(self, directory: Path, num_updates: int, *, project: str = "purejaxppo", silent: bool = False) -> None:
        import wandb

        place = directory / WANDB
        place.mkdir(exist_ok=True)
        name = place / "id"  # a run that is resumed is the same run there
        if not name.exists():
            files.write(name, uuid.uuid4().hex)
        config = tomllib.loads(files.read(directory / CONFIG))
        settings = wandb.Settings(silent=True) if silent else None  # None obeys WANDB_SILENT
        self._run = wandb.init(
            project=project, dir=str(place), id=files.read(name), resume="allow", config=config, settings=settings
        )

    def write(self, update: int, steps: int, values: Values) -> None:
        self._run.log({**dict(_curves(values)), "steps": steps}, step=update)

    def close(self) -> None:
        self._run.finish()


class Record:
    """The files that every run keeps. It must not fail silently: an error stops the run."""

    def __init__(self, directory: Path, batch_size: int) -> None:
        """Continue the files in that directory.

        Args:
            directory: of the run.
            batch_size: environment steps of one agent per update.

        Raises:
            OSError: they cannot be written.
        """
        self._batch_size = batch_size
        with contextlib.ExitStack() as stack:
            names = (METRICS, TABLE, EVALUATIONS)
            self._files = [stack.enter_context((directory / name).open("a", encoding="utf-8")) for name in names]
            self._stack = stack.pop_all()
        self._metrics, self._table, self._evaluations = self._files
        self._has_header = self._table.tell() > 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: Any) -> None:
        self._stack.close()

    def write_metrics(self, num_before: int, metrics: Values) -> None:
        """Some updates' metrics, `[n]` or `[n, num_seeds]`, after `num_before` that came before."""
        if not self._has_header:
            self._table.write(_lines([_header(metrics)]))
            self._has_header = True
        rows = list(_rows(num_before, self._batch_size, metrics))
        self._metrics.write("".join(map(_line, rows)))
        self._table.write(_lines(itertools.chain.from_iterable(map(_by_agent, rows))))
        self._metrics.flush()
        self._table.flush()

    def write_evaluation(self, update: int, values: Values) -> None:
        """An evaluation after so many updates: `[]`, or `[num_seeds]`."""
        row = {"update": update, "steps": update * self._batch_size}
        self._evaluations.write(_line(row | {name: value.tolist() for name, value in values.items()}))
        self._evaluations.flush()

    def sync(self) -> None:
        """Bring all of it to the disk."""
        for file in self._files:
            os.fsync(file.fileno())


def read_metrics(directory: Path) -> dict[str, np.ndarray]:
    """The metrics in a run's record, float32, `[num_updates]` or `[num_seeds, num_updates]`; empty before the first.

    Raises:
        ConfigError: the record is broken.
    """
    path = directory / METRICS
    return _columns(path, _read(path))


def read_evaluations(directory: Path) -> dict[str, np.ndarray]:
    """The evaluations in a run's record, like metrics, and the `update` of each; empty before the first.

    Raises:
        ConfigError: the record is broken.
    """
    path = directory / EVALUATIONS
    rows = _read(path)
    return {"update": np.array([row["update"] for row in rows]), **_columns(path, rows)} if rows else {}


def cut(directory: Path, num_updates: int, num_evaluations: int) -> None:
    """Cut what comes after so many updates and evaluations off the record; the table is made anew.

    Raises:
        ConfigError: the record is broken, or does not reach so far.
        OSError: it cannot be written; it is then as it was.
    """
    rows = _read(directory / METRICS, num_updates)
    evaluations = _read(directory / EVALUATIONS, num_evaluations)
    if len(rows) < num_updates or len(evaluations) < num_evaluations:
        raise ConfigError(f"{directory}: the record in {METRICS} and {EVALUATIONS} ends before update {num_updates}")
    table = [_header(rows[0])] if rows else []
    files.write(directory / TABLE, _lines(itertools.chain(table, *map(_by_agent, rows))))
    files.write(directory / METRICS, "".join(map(_line, rows)))
    files.write(directory / EVALUATIONS, "".join(map(_line, evaluations)))


def _curves(values: Values) -> Iterator[tuple[str, float]]:
    """One name and number per curve."""
    for name, value in values.items():
        if value.ndim == 0:
            yield name, float(value)
        else:
            yield from ((f"{name}/seed_{seed}", number) for seed, number in enumerate(value.tolist()))


def _rows(num_before: int, batch_size: int, metrics: Values) -> Iterator[dict[str, Any]]:
    """One dictionary per update."""
    columns = {name: values.tolist() for name, values in metrics.items()}
    for index, numbers in enumerate(zip(*columns.values(), strict=True)):
        update = num_before + index + 1
        yield {"update": update, "steps": update * batch_size, **dict(zip(columns, numbers, strict=True))}


def _line(row: dict[str, Any]) -> str:
    """A row as a line of JSON."""
    return json.dumps(row).replace("-Infinity", "-1e999").replace("Infinity", "1e999").replace("NaN", "null") + "\n"


def _names(row: Mapping[str, Any]) -> list[str]:
    """The names of a row's values, in the order of the table's columns."""
    return sorted(row.keys() - {"update", "steps"})


def _header(row: Mapping[str, Any]) -> list[str]:
    return ["update", "steps", "seed", *_names(row)]


def _by_agent(row: dict[str, Any]) -> Iterator[list[Any]]:
    """A row as one list of cells per agent, below `_header`; a single one has the number 0."""
    lists = [value if isinstance(value, list) else [value] for value in (row[name] for name in _names(row))]
    for seed, numbers in enumerate(zip(*lists, strict=True)):
        yield [row["update"], row["steps"], seed, *(math.nan if number is None else number for number in numbers)]


def _lines(rows: Any) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _read(path: Path, limit: int | None = None) -> list[dict[str, Any]]:
    """The first rows, or all; a line without an end, which a killed process left, is not one.

    Raises:
        ConfigError: a row is broken, or they are not those of updates in order.
    """
    lines = files.read(path).split("\n")[:-1] if path.exists() else []
    rows = [_parse(path, number, line) for number, line in enumerate(lines[:limit], 1)]
    updates = [row["update"] for row in rows]
    expected = range(1, len(rows) + 1) if path.name == METRICS else sorted(set(updates))
    if updates != list(expected) or any(row.keys() != rows[0].keys() for row in rows):
        raise ConfigError(f"{path}: is broken: its rows are not those of one update after the other")
    return rows


def _parse(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: line {number} is broken ({error})") from None
    if not isinstance(row, dict) or not all(type(row.get(name)) is int for name in ("update", "steps")):
        raise ConfigError(f"{path}: line {number} is broken")
    return row


def _columns(path: Path, rows: list[dict[str, Any]]) -> dict[str, np.ndarray]:
    """The values of all rows by name, the updates as the last axis."""
    names = _names(rows[0]) if rows else []
    try:
        return {name: np.array([row[name] for row in rows], np.float32).T for name in names}
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{path}: is broken ({error})") from None
