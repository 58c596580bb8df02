"""Runs that outlive their process: everything about one is kept in a directory.

A run's directory holds `config.toml`, `run.json` (keys, schedule, versions, ...), the record (see `logs`),
`checkpoints/` (see `checkpoints`) and, at the end, `account.json`.
"""

import contextlib
import errno
import hashlib
import json
import logging
import os
import shlex
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import Array

from purejaxppo import presets
from purejaxppo.config import Config
from purejaxppo.errors import ConfigError
from purejaxppo.evaluation import act
from purejaxppo.experiment.runs import checkpoints, files, logs, loop
from purejaxppo.experiment.runs.files import ACCOUNT, CHECKPOINTS, CONFIG, CONTENTS, LOCK, RUN
from purejaxppo.experiment.runs.loop import Job, Schedule, Watch
from purejaxppo.experiment.runs.provenance import provenance, warn_of_changes
from purejaxppo.keys import is_key, key_from_json, key_to_json
from purejaxppo.ppo import TrainState, init

FORMAT = 1

log = logging.getLogger("purejaxppo")


def run(
    config: Config,
    key: Array,
    directory: str | Path,
    *,
    schedule: Schedule = Schedule(),  # noqa: B008, it is immutable
    overwrite: bool = False,
    loggers: Sequence[logs.MakeLogger] = (),
    watch: Watch = lambda progress: None,
) -> tuple[TrainState, dict[str, np.ndarray]]:
    """Train, and keep everything in a directory: the configuration, the metrics, checkpoints, an account.

    Ctrl-C ends the run after the chunk of updates at hand, a second or two, with a checkpoint; `resume` goes on.

    Args:
        config: one number per traced field, and an environment that a file can name; see `presets.dumps`.
        key: one typed key, as for `train`, or an array of them, `[num_seeds]`, which trains as many agents.
        directory: a new or an empty one.
        schedule: evaluations and checkpoints.
        overwrite: whether a run that the directory already holds may be deleted.
        loggers: each makes a logger: `logs.TensorBoard`, `partial(logs.WandB, project="...")`, or one of your own. One
            that fails is reported by `logging` and dropped.
        watch: called after each chunk.

    Returns:
        `(state, metrics)` like those of `train`, or of `jax.vmap(train, in_axes=(None, 0))` for many keys.

    Raises:
        ConfigError: a setting cannot be used, or the directory cannot be written to.
        KeyboardInterrupt: Ctrl-C; the message says how far the run is.
    """
    _check_keys(key)
    text = presets.dumps(config)
    # What runs is what is written, so that a run that goes on from its files is the same.
    job = Job(Path(directory), presets.loads(text), key, schedule, _identity(text, key_to_json(key)))
    with _told(job.directory):
        _check_free(job.directory, overwrite)
        job.directory.mkdir(parents=True, exist_ok=True)
        with files.locked(job.directory):
            _check_free(job.directory, overwrite)  # again: nobody else can begin a run here now
            _begin(job, text)
            return loop.train(job, None, loggers, watch)


def resume(
    directory: str | Path, *, loggers: Sequence[logs.MakeLogger] = (), watch: Watch = lambda progress: None
) -> tuple[TrainState, dict[str, np.ndarray]]:
    """Go on with a run from its newest checkpoint that is whole, as if it had never stopped, bit for bit.

    That holds on the same machine with the same versions; of others, `logging` warns. A run that is finished is
    returned as it is.

    Returns:
        As `run`.

    Raises:
        ConfigError: the directory holds no run, or one that is broken or that another process is running.
        KeyboardInterrupt: as `run`.
    """
    job = open_job(Path(directory))
    with _told(job.directory), files.locked(job.directory):
        found = _newest(job)
        done = 0 if found is None else found.num_updates
        if found is not None and done == job.config.num_updates and (job.directory / ACCOUNT).exists():
            return found.state, logs.read_metrics(job.directory)
        for place in (job.directory, job.directory / CHECKPOINTS):
            files.delete_temporary(place)
        logs.cut(job.directory, done, sum(update <= done for update in job.evaluations))
        warn_of_changes(job.directory, files.read_json(job.directory / RUN))
        return loop.train(job, found, loggers, watch)


def load(directory: str | Path) -> tuple[Config, TrainState]:
    """The configuration of a run, and its state in the newest checkpoint that is whole.

    Returns:
        `(config, state)`; the state has a leading axis `[num_seeds]` if the run has many seeds.

    Raises:
        ConfigError: the directory holds no run, or no checkpoint that can be used.
    """
    job = open_job(Path(directory))
    return job.config, newest_state(job)


def load_policy(directory: str | Path, seed: int = 0) -> Callable[..., Array]:
    """The trained policy of a run, for use elsewhere: a function from observation to action.

    Args:
        directory: of the run.
        seed: which agent, where there are many.

    Returns:
        `policy(obs, key=None)`, see `act`: greedy without a key, sampled with one.

    Raises:
        ConfigError: the directory holds no run, no checkpoint that can be used, or no such agent.
    """
    config, state = load(directory)
    num_seeds = state.num_updates.size
    if not 0 <= seed < num_seeds:
        raise ConfigError.of("seed", seed, f"an integer in [0, {num_seeds})")
    agent = jax.tree.map(lambda leaf: leaf[seed], state) if state.num_updates.ndim else state
    return lambda obs, key=None: act(config, agent, obs, key)


def _check_keys(key: Any) -> None:
    if not is_key(key) or key.ndim > 1 or key.size == 0:
        raise ConfigError("key: must be a typed key, as jax.random.key(seed) makes it, or an array [num_seeds] of them")


def check_free(directory: Path, overwrite: bool) -> None:
    """Refuse a directory that holds anything but, where that is allowed, a run.

    Raises:
        ConfigError: it does, or cannot be read.
    """
    with _told(directory):
        _check_free(directory, overwrite)


def _check_free(directory: Path, overwrite: bool) -> None:
    """As `check_free`, with the errors of the system as they are."""
    _check_place(directory)
    found = os.listdir(directory) if directory.exists() else []
    names = {name for name in found if not name.startswith(files.TEMPORARY)} - {LOCK}
    foreign = sorted(names - set(CONTENTS)) if RUN in names else sorted(names)
    if foreign:
        raise ConfigError(
            f"directory={str(directory)!r}: must be a new or empty directory, or a run's; it holds {foreign[0]!r}, and "
            "nothing is overwritten"
        )
    if names and not overwrite:
        raise ConfigError(
            f"directory={str(directory)!r}: holds a run; resume it, or say that it is to be overwritten (--overwrite)"
        )


def _check_place(directory: Path) -> None:
    """Refuse a place where no directory can be made or written to.

    Raises:
        OSError: it is one.
    """
    nearest = next(place for place in (directory.absolute(), *directory.absolute().parents) if place.exists())
    if not nearest.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def _begin(job: Job, config_text: str) -> None:
    """Make the directory a run's, deleting the one before."""
    files.delete_temporary(job.directory)
    for name in CONTENTS:
        files.delete(job.directory / name)
    fields = job.schedule.__dict__
    description = {"format": FORMAT, "key": key_to_json(job.key), "schedule": fields, **provenance()}
    files.write(job.directory / RUN, json.dumps(description, indent=1))
    files.write(job.directory / CONFIG, config_text)
    (job.directory / CHECKPOINTS).mkdir()
    files.sync(job.directory)


def open_job(directory: Path) -> Job:
    """The run in a directory.

    Raises:
        ConfigError: there is none, or its description is broken or of a newer format.
    """
    if not os.path.exists(directory / RUN):
        raise ConfigError(f"directory={str(directory)!r}: must be a run's directory; it has no {RUN}")
    linked = [name for name in (*CONTENTS, LOCK) if (directory / name).is_symlink()]
    if linked:
        raise ConfigError(f"{directory / linked[0]}: must not be a symbolic link")
    description = files.read_json(directory / RUN, FORMAT)
    text = files.read(directory / CONFIG)
    try:
        config = presets.loads(text)
    except ConfigError as error:
        raise ConfigError(f"{directory / CONFIG}: {error}") from None
    try:
        key, schedule = _read_key(description["key"]), Schedule(**description["schedule"])
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ConfigError(f"{directory / RUN}: is broken ({error})") from None
    return Job(directory, config, key, schedule, _identity(text, description["key"]))


def newest_state(job: Job) -> TrainState:
    """The state in a run's newest checkpoint that is whole.

    Raises:
        ConfigError: there is none.
    """
    found = _newest(job)
    if found is None:
        raise ConfigError(f"directory={str(job.directory)!r}: has no checkpoint yet")
    return found.state


def _newest(job: Job) -> checkpoints.Loaded | None:
    """The newest whole checkpoint; what was passed over is logged."""
    like = partial(jax.eval_shape, job.each(init), job.config, job.key)
    found = checkpoints.load(job.directory / CHECKPOINTS, like, run=job.identity)
    if found is not None:
        for problem in found.broken:
            log.warning("%s; using the checkpoint after update %d", problem, found.num_updates)
    return found


def _read_key(description: Any) -> Array:
    key = key_from_json(description)
    _check_keys(key)
    return key


def _identity(config_text: str, key: Any) -> str:
    """What tells a run from one of another configuration or with other keys."""
    return hashlib.sha256(f"{config_text}\n{json.dumps(key, sort_keys=True)}".encode()).hexdigest()


@contextlib.contextmanager
def _told(directory: Path) -> Iterator[None]:
    """What the disk refuses, as one clear error; after Ctrl-C, how to go on."""
    try:
        yield
    except KeyboardInterrupt as interrupt:
        if not (directory / RUN).exists():
            raise
        how_far = str(interrupt) or "interrupted"
        raise KeyboardInterrupt(f"{how_far}; to go on: purejaxppo resume {shlex.quote(str(directory))}") from None
    except OSError as error:
        newest = checkpoints.numbers(directory / CHECKPOINTS)[-1:]
        kept = f"; the checkpoint after update {newest[0]} is there to resume from" if newest else ""
        reason = error.strerror or str(error)
        raise ConfigError(f"directory={str(directory)!r}: cannot be written to ({reason}){kept}") from error
