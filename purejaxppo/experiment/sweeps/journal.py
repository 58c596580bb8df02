"""The finished batches of a sweep, kept in a directory so that an interrupted sweep can go on.

The directory holds `sweep.json`, the manifest: what is trained, from which seeds, where it came from, and of every
finished batch its SHA-256 and the seconds it took. `batches/PROGRAM-BATCH.npz` are the batches themselves. A batch is
written first and entered in the manifest then, each at once or not at all; what is not entered does not count.
"""

import contextlib
import hashlib
import io
import itertools
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jax import Array

from purejaxppo import presets
from purejaxppo.config import Config
from purejaxppo.errors import ConfigError
from purejaxppo.experiment.runs import files
from purejaxppo.experiment.runs.provenance import provenance, warn_of_changes
from purejaxppo.keys import key_to_json

FORMAT = 1
MANIFEST = "sweep.json"
BATCHES = "batches"
SCORE = "score"

Arrays = dict[str, np.ndarray]  # the score `[rows]` and the metrics `[rows, num_updates]` of some trainings

log = logging.getLogger("purejaxppo")


class Journal(NamedTuple):
    """What is finished."""

    directory: Path | None  # None keeps nothing
    manifest: dict[str, Any]


@contextlib.contextmanager
def opened(
    directory: str | Path | None, trials: list[tuple[str, Config]], num_seeds: int, key: Array, num_programs: int
) -> Iterator[Journal]:
    """The journal of a sweep: a new one, or that of the same sweep in its directory, locked.

    Raises:
        ConfigError: the directory holds something else, another sweep or a broken one, is in use, or cannot be written.
    """
    programs: list[dict[str, Any]] = [
        {"batch_size": None, "compile_seconds": 0.0, "batches": {}} for _ in range(num_programs)
    ]
    if directory is None:
        yield Journal(None, {"programs": programs})
        return
    path = Path(directory)
    sweep = {
        "trials": [{"name": name, "config": presets.to_table(config)} for name, config in trials],
        "num_seeds": num_seeds,
        "key": key_to_json(key),
    }
    with files.written(f"directory={str(path)!r}"):
        _make(path)
        lock = contextlib.ExitStack()
        lock.enter_context(files.locked(path))
    with lock:
        if (path / MANIFEST).exists():
            journal = Journal(path, _read_manifest(path))
            _check_same(path, journal.manifest, sweep)
            check_programs(journal, num_programs)
            warn_of_changes(path, journal.manifest)
        else:
            journal = Journal(path, {"format": FORMAT, **sweep, **provenance(), "programs": programs})
            _write_manifest(journal)
        yield journal


def find(journal: Journal, program: int, batch: int, num_updates: int) -> Arrays | None:
    """A finished batch; None where it is not finished or, which is said, no longer as it was written."""
    if str(batch) not in journal.manifest["programs"][program]["batches"]:
        return None
    try:
        return _read_batch(journal, program, batch, num_updates)
    except ConfigError as error:
        log.warning("%s; it is trained anew", error)
        return None


def batch_size(journal: Journal, program: int) -> int | None:
    """The rows of each of a program's batches; None before it was compiled for the first time."""
    return journal.manifest["programs"][program]["batch_size"]


def compiled(journal: Journal, program: int, batch_size: int, seconds: float) -> None:
    """Enter that a program was compiled, once more perhaps; it is kept together with its next batch."""
    record = journal.manifest["programs"][program]
    record["batch_size"] = batch_size
    record["compile_seconds"] += seconds


def add(journal: Journal, program: int, batch: int, arrays: Arrays, run_seconds: float) -> None:
    """Enter a finished batch, and keep it if there is a directory.

    Raises:
        ConfigError: it cannot be written; what was written before is untouched.
    """
    entry: dict[str, Any] = {"run_seconds": run_seconds}
    if journal.directory is not None:
        content = io.BytesIO()
        np.savez(content, allow_pickle=False, **arrays)
        entry["sha256"] = hashlib.sha256(content.getvalue()).hexdigest()
        with files.written(f"directory={str(journal.directory)!r}"):
            files.write(_path(journal.directory, program, batch), content.getvalue())
    journal.manifest["programs"][program]["batches"][str(batch)] = entry
    _write_manifest(journal)


def read(directory: str | Path) -> tuple[Journal, list[tuple[str, Config]], int]:
    """The journal of a sweep, its `(name, config)`, and the number of seeds.

    Raises:
        ConfigError: the directory holds no sweep, or a broken one.
    """
    path = Path(directory)
    manifest = _read_manifest(path)
    trials = [(trial["name"], presets.from_table(trial["config"])) for trial in manifest["trials"]]
    return Journal(path, manifest), trials, manifest["num_seeds"]


def check_programs(journal: Journal, num_programs: int) -> None:
    """Refuse a manifest of which the trials need another number of programs than it has.

    Raises:
        ConfigError: that is so.
    """
    if len(journal.manifest["programs"]) != num_programs:
        raise ConfigError(f"{journal.directory}/{MANIFEST}: is broken")


def read_all(journal: Journal, program: int, num_rows: int, num_updates: int) -> Arrays:
    """At least all rows of one program, see `joined`.

    Raises:
        ConfigError: a batch is not finished, or not as it was written.
    """
    size = batch_size(journal, program)
    if size is None:
        raise ConfigError(f"{journal.directory}: is not finished; the same call of sweep goes on with it")
    numbers = range(-(-num_rows // size))
    return joined([_read_batch(journal, program, batch, num_updates) for batch in numbers])


def joined(parts: list[Arrays]) -> Arrays:
    """The rows of all batches; those that fill up the last one come at the end."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _read_batch(journal: Journal, program: int, batch: int, num_updates: int) -> Arrays:
    assert journal.directory is not None
    path = _path(journal.directory, program, batch)
    record = journal.manifest["programs"][program]
    if str(batch) not in record["batches"]:
        raise ConfigError(f"{path}: is not finished; the same call of sweep goes on with it")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None
    if hashlib.sha256(content).hexdigest() != record["batches"][str(batch)]["sha256"]:
        raise ConfigError(f"{path}: is broken (not as it was written)")
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as stored:
            arrays = dict(stored)
    except Exception as error:  # NumPy's and zipfile's errors are of many kinds
        raise ConfigError(f"{path}: is broken ({error})") from None
    for name, array in arrays.items():
        shape = (record["batch_size"],) if name == SCORE else (record["batch_size"], num_updates)
        if array.shape != shape or array.dtype.kind != "f" or SCORE not in arrays:
            raise ConfigError(f"{path}: is broken (does not fit the configuration)")
    return arrays


def _path(directory: Path, program: int, batch: int) -> Path:
    return directory / BATCHES / f"{program}-{batch}.npz"


def _make(path: Path) -> None:
    """The directory, new or with a sweep in it."""
    names = {entry.name for entry in path.iterdir()} if path.exists() else set()
    if MANIFEST not in names and names - {files.LOCK, BATCHES, files.TEMPORARY + MANIFEST}:
        raise ConfigError(f"directory={str(path)!r}: must be new or empty, or hold a sweep; nothing is overwritten")
    if (path / BATCHES).is_symlink():
        raise ConfigError(f"{path / BATCHES}: must not be a symbolic link")
    (path / BATCHES).mkdir(parents=True, exist_ok=True)


def _write_manifest(journal: Journal) -> None:
    if journal.directory is not None:
        with files.written(f"directory={str(journal.directory)!r}"):
            files.write(journal.directory / MANIFEST, json.dumps(journal.manifest, indent=1))


def _read_manifest(path: Path) -> dict[str, Any]:
    """The manifest, of the form that this module writes.

    Raises:
        ConfigError: it is not there, broken, or of a newer format.
    """
    if not (path / MANIFEST).exists():
        raise ConfigError(f"directory={str(path)!r}: must hold a sweep; there is no {MANIFEST}")
    manifest = files.read_json(path / MANIFEST, FORMAT)
    if not _is_whole(manifest):
        raise ConfigError(f"{path / MANIFEST}: is broken")
    return manifest


def _is_whole(manifest: Any) -> bool:
    """Whether everything is there that is read of a manifest, and of the right type."""
    try:
        entries = [entry for program in manifest["programs"] for entry in program["batches"].values()]
        seconds = [program["compile_seconds"] for program in manifest["programs"]]
        sizes = [program["batch_size"] for program in manifest["programs"] if program["batch_size"] is not None]
        texts = [trial["name"] for trial in manifest["trials"]]
        return (
            all(type(count) is int and count >= 1 for count in [manifest["num_seeds"], *sizes])
            and all(type(number) in (int, float) for number in [*seconds, *(entry["run_seconds"] for entry in entries)])
            and all(isinstance(text, str) for text in [*texts, *(entry["sha256"] for entry in entries)])
            and all(isinstance(trial["config"], dict) for trial in manifest["trials"])
            and "key" in manifest
        )
    except (KeyError, TypeError, AttributeError):
        return False


def _check_same(path: Path, found: dict[str, Any], asked: dict[str, Any]) -> None:
    """Refuse to go on with another sweep, naming what differs."""
    where = f"as in the sweep in {str(path)!r}, or the directory another one"
    if found["num_seeds"] != asked["num_seeds"]:
        raise ConfigError.of("num_seeds", asked["num_seeds"], f"{found['num_seeds']} {where}")
    if found["key"] != asked["key"]:
        raise ConfigError(f"key: must be the same (on the command line --seed) {where}")
    names = [[trial["name"] for trial in sweep["trials"]] for sweep in (found, asked)]
    for old, new in itertools.zip_longest(*names, fillvalue="no more"):
        if old != new:
            raise ConfigError.of("over", new, f"{old!r} {where}")
    for old, new in zip(found["trials"], asked["trials"], strict=True):
        _check_same_config(old["config"], new["config"], where)


def _check_same_config(old: dict[str, Any], new: dict[str, Any], where: str) -> None:
    for name in {**old, **new}:
        if old.get(name) != new.get(name):
            raise ConfigError.of(name, new.get(name), f"{old.get(name)!r} {where}")
