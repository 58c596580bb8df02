"""Runs that outlive their process: everything about one is kept in a directory.

A run's directory holds `config.toml`, `run.json` (algorithm, keys, options, versions, ...), the record (see `record`),
`checkpoints/` (see `checkpoints`) and, at the end, `summary.json`.
"""

import contextlib
import errno
import functools
import hashlib
import json
import logging
import os
import shlex
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array

from purejaxppo import tables
from purejaxppo.algorithms import PPO, Algorithm
from purejaxppo.errors import ConfigError, RunError
from purejaxppo.evaluation import act
from purejaxppo.experiment.runs import checkpoints, files, loop
from purejaxppo.experiment.runs.files import CHECKPOINTS, CONFIG, CONTENTS, LOCK, RUN, SUMMARY
from purejaxppo.experiment.runs.loggers import MakeLogger
from purejaxppo.experiment.runs.loop import Callback, Job, RunOptions, no_callback
from purejaxppo.experiment.runs.provenance import provenance, warn_of_changes
from purejaxppo.experiment.runs.rows import equal_rows
from purejaxppo.experiment.runs.stopping import Interrupted, signum_of, stop_later
from purejaxppo.keys import is_key, key_from_json, key_to_json
from purejaxppo.user_files import to_path

FORMAT = 3

log = logging.getLogger("purejaxppo")


class Run(NamedTuple):
    """What a directory says of a run."""

    job: Job
    is_single: bool  # whether it was given one key rather than an array of them
    description: dict[str, Any]  # `run.json`


def run(
    config: Any,
    key: Array,
    directory: str | Path,
    *,
    algorithm: Algorithm = PPO,
    params: Any = None,
    options: RunOptions = RunOptions(),  # noqa: B008, it is immutable
    overwrite: bool = False,
    loggers: Sequence[MakeLogger] = (),
    callback: Callback = no_callback,
) -> tuple[Any, dict[str, np.ndarray]]:
    """Train, and keep everything in a directory: the configuration, the metrics, checkpoints, a summary.

    Ctrl-C, SIGTERM, SIGHUP and SIGUSR1 end the run after the chunk of updates at hand, a second or two, with a
    checkpoint; `resume` continues it. An exception of the callback comes after a checkpoint as well.

    Args:
        config: of the algorithm's type; one number per traced field, and an environment that a file can name, see
            `tables.dumps`.
        key: one typed key, as for `train`, or an array of them, `[num_rows]`, which trains as many agents.
        directory: a new or an empty one.
        algorithm: what is run.
        params: from which training starts, in place of fresh ones; all agents start from the same.
        options: evaluations and checkpoints.
        overwrite: whether a run that the directory already holds may be deleted.
        loggers: each makes a logger: `loggers.TensorBoard`, `partial(loggers.WandB, project="...")`, or one of your
            own. One that fails is reported by `logging` and dropped.
        callback: called with a `Progress` after each chunk of updates. Where it returns False the run stops there, with
            a checkpoint, and what is done is returned.

    Returns:
        `(state, metrics)` like those of `train`, or of `jax.vmap(train, in_axes=(None, 0))` for many keys.

    Raises:
        ConfigError: a setting cannot be used, the directory holds something already, or the memory is too small.
        RunError: the directory cannot be written to.
        KeyboardInterrupt: one of these signals; the message says how far the run is.
    """
    _check_keys(key)
    directory = to_path("directory", directory)
    check_arguments(config, algorithm, options)
    check_listeners(callback, loggers)
    text = tables.dumps(config)
    description = {
        "format": FORMAT,
        "algorithm": names_of(algorithm),
        "key": key_to_json(key),
        "options": dict(options.__dict__),
        "params": params is not None,
        **provenance(),
    }
    rows = equal_rows(config, key.reshape(-1))
    job = Job(Path(directory), algorithm, rows, options, _identity(config, description), params)
    with _errors_of(Path(directory)):
        _check_free(Path(directory), overwrite)
        Path(directory).mkdir(parents=True, exist_ok=True)
        files.sync(Path(directory).parent)
        with files.lock(Path(directory)), stop_later() as stop:
            _check_free(Path(directory), overwrite)  # again: nobody else can begin a run here now
            programs = job.compile_to_fit()  # before anything is written, or deleted
            _begin(Path(directory), description, text)
            loop.clean(job, None)
            state, outcome = loop.train(job, None, stop, loggers=loggers, callback=callback, programs=programs)
    return _squeeze(key.ndim == 0, state, outcome.metrics)


def resume(
    directory: str | Path,
    *,
    total_timesteps: int | None = None,
    algorithm: Algorithm = PPO,
    imports: Sequence[str] = (),
    loggers: Sequence[MakeLogger] = (),
    callback: Callback = no_callback,
) -> tuple[Any, dict[str, np.ndarray]]:
    """Resume an interrupted run from its newest whole checkpoint; the result is bit-identical.

    That holds on the same machine with the same versions; of others, `logging` warns. A run that is finished is
    returned as it is. What is damaged of the record is left out, with a warning: NaN stands for it.

    Args:
        directory: of the run.
        total_timesteps: of the whole run, in place of those that it was begun with: more, to go on with a finished one,
            or fewer. Schedules and evaluations are then those of a run of this length; what is done stays as it is.
        algorithm: what the run was made with.
        imports: modules of yours that the configuration names, see `import_paths`.
        loggers: as for `run`.
        callback: as for `run`.

    Returns:
        As `run`.

    Raises:
        ConfigError: the run was made with another algorithm, or more steps are done than it shall have.
        RunError: the directory holds no run, or one that is corrupt or that another process is running.
        KeyboardInterrupt: as `run`.
    """
    check_listeners(callback, loggers)
    found = open_run(directory, algorithm, imports)
    job, path = found.job, Path(directory)
    with _errors_of(path), files.lock(path), stop_later() as stop:
        newest = loop.newest(job)
        if total_timesteps is not None:
            config = job.rows.config.replace(total_timesteps=total_timesteps)
            job = job._replace(rows=job.rows._replace(config=config))
        _check_length(job, newest)
        if total_timesteps is not None:
            files.write(path / CONFIG, tables.dumps(job.rows.config))
        outcome = _finished(job, newest)
        if newest is not None and outcome is not None:
            return _squeeze(found.is_single, newest.state, outcome.metrics)
        if newest is None and found.description.get("params"):
            raise RunError(f"directory={str(directory)!r}: was stopped before its params were saved; run it again")
        loop.clean(job, newest)
        warn_of_changes(path, found.description)
        state, outcome = loop.train(job, newest, stop, loggers=loggers, callback=callback)
    return _squeeze(found.is_single, state, outcome.metrics)


def load(directory: str | Path, *, algorithm: Algorithm = PPO, imports: Sequence[str] = ()) -> tuple[Any, Any]:
    """Load the configuration of a run, and its state in the newest checkpoint that is whole.

    Args:
        directory: of the run.
        algorithm: what the run was made with.
        imports: modules of yours that the configuration names, see `import_paths`.

    Returns:
        `(config, state)`; the state has a leading axis `[num_rows]` if the run has many keys.

    Raises:
        ConfigError: the run was made with another algorithm.
        RunError: the directory holds no run, or no checkpoint that can be used.
    """
    found = open_run(directory, algorithm, imports)
    return found.job.rows.config, _squeeze(found.is_single, newest_state(found.job))[0]


def load_policy(
    directory: str | Path, row: int = 0, *, algorithm: Algorithm = PPO, imports: Sequence[str] = ()
) -> Callable[..., tuple[Array, Any]]:
    """Load the trained policy of a run, for use elsewhere: a function from observation to action.

    Args:
        directory: of the run.
        row: which agent, where there are many.
        algorithm: what the run was made with: PPO, or one with the same configuration and state.
        imports: modules of yours that the configuration names, see `import_paths`.

    Returns:
        `policy(obs, memory=None, key=None) -> (action, memory)`, see `act`: greedy without a key, sampled with one.

    Raises:
        ConfigError: there is no such row, or the run was made with another algorithm.
        RunError: the directory holds no run, or no checkpoint that can be used.
    """
    job = open_run(directory, algorithm, imports).job
    num_rows = len(job.rows.keys)
    if not 0 <= row < num_rows:
        raise ConfigError.of("row", row, f"an integer in [0, {num_rows})")
    state = jax.tree.map(lambda leaf: leaf[row], newest_state(job))
    return functools.partial(act, job.rows.config, state)


def check_arguments(config: Any, algorithm: Any, options: Any) -> None:
    """Refuse what is no algorithm, options that are none, and the configuration of another algorithm.

    Raises:
        ConfigError: one of them.
    """
    if not isinstance(algorithm, Algorithm):
        raise ConfigError(f"algorithm: must be an Algorithm, not a {type(algorithm).__name__}")
    if not isinstance(options, RunOptions):
        raise ConfigError(f"options: must be RunOptions, not a {type(options).__name__}")
    if not isinstance(config, algorithm.config):
        raise ConfigError(f"config: must be a {algorithm.config.__name__}, not a {type(config).__name__}")


def check_listeners(callback: Any, loggers: Any = ()) -> None:
    """Refuse what cannot be called when there is something to tell.

    Raises:
        ConfigError: there is such.
    """
    if not callable(callback):
        raise ConfigError.of("callback", callback, "a function of a Progress")
    if not isinstance(loggers, Sequence) or not all(map(callable, loggers)):
        raise ConfigError.of("loggers", loggers, "a sequence of functions, each of which makes a logger")


def check_free(directory: Path, overwrite: bool) -> None:
    """Refuse a directory that holds anything but, where that is allowed, a run.

    Raises:
        ConfigError: it does.
        RunError: it cannot be read.
    """
    with _errors_of(directory):
        _check_free(to_path("directory", directory), overwrite)


def open_run(directory: str | Path, algorithm: Algorithm = PPO, imports: Sequence[str] = ()) -> Run:
    """Read what a run's directory says of it.

    Raises:
        ConfigError: the run was made with another algorithm.
        RunError: there is none, or its description is corrupt or of another format.
    """
    path = to_path("directory", directory)
    if not os.path.exists(path / RUN):
        raise RunError(f"directory={str(directory)!r}: must be a run's directory; it has no {RUN}")
    files.check_no_links(path)
    description = files.read_json(path / RUN, FORMAT)
    check_algorithm(path, description.get("algorithm"), algorithm)
    try:
        config = tables.loads(files.read(path / CONFIG), algorithm.config, imports=imports, may_name_files=False)
    except ConfigError as error:
        raise RunError(f"{path / CONFIG}: {error}") from None
    try:
        key, options = key_from_json(description["key"]), RunOptions(**description["options"])
        _check_keys(key)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise RunError(f"{path / RUN}: is corrupt ({error})") from None
    rows = equal_rows(config, key.reshape(-1))
    return Run(Job(path, algorithm, rows, options, _identity(config, description)), key.ndim == 0, description)


def newest_state(job: Job) -> Any:
    """Load the state in a run's newest checkpoint that is whole, `[num_rows]`.

    Raises:
        RunError: there is none.
    """
    found = loop.newest(job)
    if found is None:
        raise RunError(f"directory={str(job.directory)!r}: has no checkpoint yet")
    return found.state


def names_of(algorithm: Algorithm) -> dict[str, str]:
    """List the qualified names of an algorithm's parts."""
    return {name: _qualified_name(part) for name, part in algorithm._asdict().items()}


def check_algorithm(directory: Path, found: Any, algorithm: Algorithm) -> None:
    """Refuse another algorithm than what a run or sweep was made with.

    Raises:
        ConfigError: it is another.
        RunError: it is not said what it was made with.
    """
    names = names_of(algorithm)
    if not isinstance(found, dict) or found.keys() != names.keys():
        raise RunError(f"directory={str(directory)!r}: is corrupt (it does not name its algorithm)")
    others = [f"{part} {found[part]}" for part in names if found[part] != names[part]]
    if others:
        raise ConfigError(
            f"directory={str(directory)!r}: was made with the {', '.join(others)}; pass algorithm= to use it again"
        )


def _check_length(job: Job, newest: checkpoints.Loaded | None) -> None:
    """Refuse a length that a run is beyond already.

    Raises:
        ConfigError: it is.
    """
    config = job.rows.config
    if newest is not None and newest.num_updates > job.num_updates:
        done = newest.num_updates * config.batch_size
        raise ConfigError.of("total_timesteps", config.total_timesteps, f"at least {done}, which are done")


def _finished(job: Job, newest: checkpoints.Loaded | None) -> loop.Outcome | None:
    """Read what came of a run that is finished; None for one that is not, or, with a warning, has a damaged record."""
    assert job.directory is not None
    if newest is None or newest.num_updates < job.num_updates or not (job.directory / SUMMARY).exists():
        return None
    try:
        return loop.read_outcome(job)
    except RunError as error:
        log.warning("%s", error)
        return None


def _qualified_name(part: Any) -> str:
    if isinstance(part, functools.partial):
        return f"partial({_qualified_name(part.func)})"
    return f"{part.__module__}.{getattr(part, '__qualname__', type(part).__qualname__)}"


def _squeeze(is_single: bool, *trees: Any) -> Any:
    """Drop the leading axis of trees of rows where there is a single one."""
    return tuple(jax.tree.map(lambda leaf: leaf[0], tree) if is_single else tree for tree in trees)


def _check_keys(key: Any) -> None:
    if not is_key(key) or key.ndim > 1 or key.size == 0:
        raise ConfigError("key: must be a typed key, as jax.random.key(seed) makes it, or an array [num_rows] of them")


def _check_free(directory: Path, overwrite: bool) -> None:
    """As `check_free`, with the errors of the system as they are."""
    _check_place(directory)
    found = os.listdir(directory) if directory.exists() else []
    names = {name for name in found if not name.startswith(files.TEMPORARY)} - {LOCK}
    is_run, was_begun = RUN in names, files.BEGINNING in found
    foreign = sorted(names - set(CONTENTS)) if is_run or was_begun else sorted(names)
    if foreign:
        raise ConfigError(
            f"directory={str(directory)!r}: must be a new or empty directory, or a run's; it holds {foreign[0]!r}, and "
            "nothing is overwritten"
        )
    if is_run and not overwrite:
        raise ConfigError(f"directory={str(directory)!r}: holds a run; resume it, or overwrite it (--overwrite)")


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


def _begin(directory: Path, description: dict[str, Any], config_text: str) -> None:
    """Make the directory a run's, deleting the one before: what makes it a run goes first, and comes last."""
    beginning = directory / files.BEGINNING
    files.write(beginning, json.dumps(description, indent=1))
    files.delete_temporary(directory, but=beginning)
    for name in CONTENTS:
        files.delete(directory / name)
    files.write(directory / CONFIG, config_text)
    beginning.rename(directory / RUN)
    files.sync(directory)


def _identity(config: Any, description: dict[str, Any]) -> str:
    """Hash what tells a run from one of another configuration, algorithm or with other keys; its length may change."""
    fields = {name: value for name, value in tables.to_table(config).items() if name != "total_timesteps"}
    parts = json.dumps([fields, description["key"], description["algorithm"]], sort_keys=True)
    return hashlib.sha256(parts.encode()).hexdigest()


@contextlib.contextmanager
def _errors_of(directory: Path) -> Iterator[None]:
    """Turn what the disk refuses into one clear error; after Ctrl-C, say how to continue.

    Raises:
        RunError: the disk refused something.
    """
    try:
        yield
    except KeyboardInterrupt as interrupt:
        if not (directory / RUN).exists():
            raise
        how_far = str(interrupt) or "interrupted"
        how = f"to continue: purejaxppo resume {shlex.quote(str(directory))}"
        raise Interrupted(f"{how_far}; {how}", signum_of(interrupt)) from None
    except RunError:
        raise
    except OSError as error:
        newest = checkpoints.numbers(directory / CHECKPOINTS)[-1:]
        kept = f"; the checkpoint after update {newest[0]} is there to resume from" if newest else ""
        reason = error.strerror or str(error)
        raise RunError(f"directory={str(directory)!r}: cannot be written to ({reason}){kept}") from error
