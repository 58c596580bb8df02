"""What the commands share that start, resume or read runs."""

import dataclasses
import importlib.util
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array
from rich.console import Console
from tyro.conf import Positional

from purejaxppo.cli import progress, summary
from purejaxppo.cli.flags import IMPORT_FLAG, flag, with_cwd
from purejaxppo.config import Config
from purejaxppo.errors import ConfigError, RunError
from purejaxppo.experiment.runs import files, record
from purejaxppo.experiment.runs.loggers import MakeLogger, TensorBoard, WandB
from purejaxppo.experiment.runs.run import newest_state, open_run
from purejaxppo.ppo import TrainState

DIRECTORY_FLAGS = [flag("directory", Positional[Path], dataclasses.MISSING, "the run's directory"), IMPORT_FLAG]
LOGGER_FLAGS = [
    flag("tensorboard", bool, False, "also log to TensorBoard, into the directory"),
    flag("wandb", str | None, None, "also log to this project of Weights & Biases"),
]
SCORE = 0x73756D  # folded into the first agent's key, for random numbers that training does not draw
SILENT_FLAG = flag("silent", bool, False, "print nothing")


class Result(NamedTuple):
    """A training run that came to its end."""

    config: Config
    keys: Array  # [num_seeds]
    state: TrainState  # [num_seeds]
    metrics: dict[str, np.ndarray]  # [num_seeds, num_updates]
    compile_seconds: float
    run_seconds: float
    steps_per_second: float


def finish(begin: Callable[..., Any], config: Config, keys: Array, flags: Any) -> Result:
    """Let a run run to its end, with its progress shown.

    Args:
        begin: starts or resumes the run.
        config: of the run.
        keys: of the run, `[num_seeds]`.
        flags: of the command.

    Raises:
        RunError: the run was finished before, and its summary is corrupt.
    """
    with progress.show(silent=flags.silent) as callback:
        state, metrics = begin(callback=callback)
    path = flags.directory / files.SUMMARY
    found = files.read_json(path)
    try:
        speed, compiling = float(found["steps_per_second"]), float(found["seconds"]["compile"])
        running = float(found["seconds"]["total"]) - compiling
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(f"{path}: is corrupt ({error})") from None
    if not state.num_updates.ndim:
        state, metrics = jax.tree.map(lambda leaf: leaf[None], (state, metrics))
    return Result(config, keys, state, metrics, compiling, running, speed)


def show(result: Result, console: Console) -> summary.Scores:
    """Print the times and the agents' scores, which are returned."""
    scores = score(result.config, result.state, result.keys)
    steps = len(result.keys) * result.config.num_updates * result.config.batch_size
    console.print(f"\ncompile time       {result.compile_seconds:.1f} s")
    console.print(f"run time           {result.run_seconds:.1f} s")
    speed = f"{result.steps_per_second:,.0f} environment steps/s ({steps:,} steps over all agents)"
    console.print(f"throughput         {speed}")
    summary.show(result.config, result.state, scores, console)
    return scores


def score(config: Config, state: TrainState, keys: Array) -> summary.Scores:
    """Score the agents of a run, on episodes that only its first key determines."""
    return summary.score(config, state, jax.random.fold_in(keys[0], SCORE))


def read(flags: Any) -> tuple[Config, Array, TrainState]:
    """Read `(config, keys, state)` of the run that flags name, finished or not, with a leading axis `[num_seeds]`.

    Raises:
        RunError: it cannot be read.
    """
    with_cwd(flags.imports)
    job = open_run(flags.directory, imports=flags.imports).job
    return job.rows.config, job.rows.keys, newest_state(job)


def read_metrics(flags: Any, state: TrainState) -> dict[str, np.ndarray]:
    """Read the metrics of the run that flags name, which led to `state`, `[num_seeds, num_updates]`.

    Raises:
        RunError: they cannot be read, or are not all there.
    """
    directory = flags.directory
    metrics = record.read_metrics(directory, run=open_run(directory, imports=flags.imports).job.identity)
    returns = metrics.get("episode_return", np.empty((0, 0)))
    if len(returns) != len(state.num_updates) or returns.shape[-1] < state.num_updates[0]:
        raise RunError(f"directory={str(directory)!r}: has a corrupt record: there are not all returns in it")
    return metrics


def loggers(flags: Any) -> list[MakeLogger]:
    """Choose the loggers that the flags ask for.

    Raises:
        ConfigError: one is not installed.
    """
    known: list[tuple[bool, str, str, MakeLogger]] = [
        (flags.tensorboard, "tensorboard", "tensorboardX", TensorBoard),
        (flags.wandb is not None, "wandb", "wandb", partial(WandB, project=flags.wandb, silent=flags.silent)),
    ]
    for is_wanted, name, package, _ in known:
        if is_wanted and importlib.util.find_spec(package) is None:
            raise ConfigError(f"{name}: needs pip install 'purejaxppo[{name}]'")
    return [make for is_wanted, _, _, make in known if is_wanted]
