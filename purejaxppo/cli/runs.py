"""What the commands share that begin, resume or read runs."""

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
from purejaxppo.cli.flags import flag
from purejaxppo.config import Config
from purejaxppo.errors import ConfigError
from purejaxppo.experiment.runs import files, logs
from purejaxppo.experiment.runs.run import newest_state, open_job
from purejaxppo.ppo import TrainState

DIRECTORY_FLAG = flag("directory", Positional[Path], dataclasses.MISSING, "the run's directory")
LOGGER_FLAGS = [
    flag("tensorboard", bool, False, "also log to TensorBoard, into the directory"),
    flag("wandb", str | None, None, "also log to this project of Weights & Biases"),
]
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


def go(begin: Callable[..., Any], config: Config, keys: Array, flags: Any) -> Result:
    """Let a run run to its end, with its progress shown.

    Raises:
        ConfigError: the run was finished before, and its account is broken.
    """
    with progress.shown(silent=flags.silent) as watch:
        state, metrics = begin(watch=watch)
    path = flags.directory / files.ACCOUNT
    account = files.read_json(path)
    try:
        speed, compiling = float(account["steps_per_second"]), float(account["seconds"]["compile"])
        running = float(account["seconds"]["total"]) - compiling
    except (KeyError, TypeError, ValueError):
        raise ConfigError(f"{path}: is broken") from None
    keys, state, metrics = _many(keys, state, metrics)
    return Result(config, keys, state, metrics, compiling, running, speed)


def show(result: Result, console: Console) -> summary.Verdict:
    """Print the times, and what the agents are worth, which is returned."""
    verdict = summary.assess(result.config, result.state, result.keys)
    steps = len(result.keys) * result.config.num_updates * result.config.batch_size
    console.print(f"\ncompile time       {result.compile_seconds:.1f} s")
    console.print(f"run time           {result.run_seconds:.1f} s")
    speed = f"{result.steps_per_second:,.0f} environment steps/s ({steps:,} steps over all agents)"
    console.print(f"throughput         {speed}")
    summary.show(result.config, result.state, verdict, console)
    return verdict


def read(directory: Path) -> tuple[Config, Array, TrainState]:
    """`(config, keys, state)` of a run, finished or not, with a leading axis `[num_seeds]`.

    Raises:
        ConfigError: it cannot be read.
    """
    job = open_job(directory)
    return job.config, *_many(job.key, newest_state(job))


def read_metrics(directory: Path, state: TrainState) -> dict[str, np.ndarray]:
    """The metrics of a run that led to `state`, `[num_seeds, num_updates]`.

    Raises:
        ConfigError: they cannot be read, or are not all there.
    """
    metrics = {name: np.atleast_2d(values) for name, values in logs.read_metrics(directory).items()}
    returns = metrics.get("episode_return", np.empty((0, 0)))
    if len(returns) != len(state.num_updates) or returns.shape[-1] < state.num_updates[0]:
        raise ConfigError(f"directory={str(directory)!r}: has a broken record: there are not all returns in it")
    return metrics


def _many(keys: Array, *trees: Any) -> Any:
    """With a leading axis for the agents, even for a run of one."""
    return (keys, *trees) if keys.ndim else jax.tree.map(lambda leaf: leaf[None], (keys, *trees))


def loggers(flags: Any) -> list[logs.MakeLogger]:
    """The loggers that the flags ask for.

    Raises:
        ConfigError: one is not installed.
    """
    known: list[tuple[bool, str, str, logs.MakeLogger]] = [
        (flags.tensorboard, "tensorboard", "tensorboardX", logs.TensorBoard),
        (flags.wandb is not None, "wandb", "wandb", partial(logs.WandB, project=flags.wandb, silent=flags.silent)),
    ]
    for is_wanted, name, package, _ in known:
        if is_wanted and importlib.util.find_spec(package) is None:
            raise ConfigError(f"{name}: needs pip install 'purejaxppo[{name}]'")
    return [make for is_wanted, _, _, make in known if is_wanted]
