"""What a run can report to beside its own record: TensorBoard, Weights & Biases, or a logger of one's own."""

import logging
import tomllib
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np

from purejaxppo.experiment.runs import files
from purejaxppo.experiment.runs.files import CONFIG, TENSORBOARD, WANDB

Values = Mapping[str, np.ndarray]

log = logging.getLogger("purejaxppo")


class Logger(Protocol):
    """What a run can report to, beside its own record."""

    def write(self, update: int, steps: int, values: Values) -> None:
        """Take the numbers after some updates.

        Args:
            update: updates done.
            steps: environment steps of one row.
            values: one number per row, `[num_rows]`.
        """

    def close(self) -> None:
        """Close: the run is over or stops here."""


MakeLogger = Callable[[Path, int], Logger]  # from a run's directory and the number of updates already done


class Loggers:
    """Some loggers, of which one that fails is reported, once, and dropped."""

    def __init__(self, makers: Sequence[MakeLogger], directory: Path, num_updates: int) -> None:
        self._loggers: list[Logger] = []
        for make in makers:
            _succeeds(make, lambda make: self._loggers.append(make(directory, num_updates)))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: Any) -> None:
        for logger in self._loggers:
            _succeeds(logger, lambda logger: logger.close())

    def __bool__(self) -> bool:
        return bool(self._loggers)

    def write(self, update: int, steps: int, values: Values) -> None:
        self._loggers = [
            logger for logger in self._loggers if _succeeds(logger, lambda logger: logger.write(update, steps, values))
        ]


def _succeeds(logger: Any, call: Callable[[Any], Any]) -> bool:
    """Call with a logger, and report what goes wrong: somebody else's code must not end a run."""
    try:
        call(logger)
    except Exception as error:
        log.warning("the logger %r failed and is dropped: %r", logger, error)
        return False
    return True


class TensorBoard:
    """Events that `tensorboard --logdir DIRECTORY` shows, one curve per row; needs `tensorboardX`."""

    def __init__(self, directory: Path, num_updates: int) -> None:
        """Continue after some updates; TensorBoard hides what an earlier process wrote of later ones."""
        from tensorboardX import SummaryWriter

        self._writer = SummaryWriter(str(directory / TENSORBOARD), purge_step=num_updates + 1)

    def write(self, update: int, steps: int, values: Values) -> None:
        for tag, number in _curves(values):
            self._writer.add_scalar(tag, number, update)

    def close(self) -> None:
        self._writer.close()


class WandB:
    """A run of Weights & Biases, one curve per row; needs `wandb`, and obeys its variables, such as `WANDB_MODE`."""

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


def _curves(values: Values) -> Iterator[tuple[str, float]]:
    """One name and number per curve."""
    for name, value in values.items():
        numbers = value.tolist()
        names = [name] if len(numbers) == 1 else [f"{name}/row_{row}" for row in range(len(numbers))]
        yield from zip(names, numbers, strict=True)
