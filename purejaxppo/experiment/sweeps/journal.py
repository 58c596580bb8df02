"""What a sweep's directory says of it, so that an interrupted sweep can be resumed.

The directory holds `sweep.json`, the manifest: what is trained, from which seeds, where it came from, and of every
program how many rows it trains at once. `batches/PROGRAM-BATCH/` is what a program trained at once: the record, the
checkpoints and, once it is finished, the summary, as a run has them.
"""

import contextlib
import hashlib
import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jax import Array

from purejaxppo import tables
from purejaxppo.algorithms import Algorithm
from purejaxppo.errors import ConfigError, RunError
from purejaxppo.experiment.runs import files
from purejaxppo.experiment.runs.loop import RunOptions
from purejaxppo.experiment.runs.provenance import provenance, warn_of_changes
from purejaxppo.experiment.runs.run import check_algorithm, names_of
from purejaxppo.keys import key_from_json, key_to_json
from purejaxppo.user_files import to_path

FORMAT = 2
MANIFEST = "sweep.json"
BATCHES = "batches"
SWEPT = ("trials", "num_seeds", "key", "algorithm", "options")  # of the manifest: what makes it this sweep


class Journal(NamedTuple):
    """A sweep's manifest, and where it is kept."""

    directory: Path | None  # None keeps nothing
    manifest: dict[str, Any]

    def num_rows(self, program: int) -> int | None:
        """Look up the rows that a program trains at once; None before it was compiled for the first time."""
        return self.manifest["programs"][program]["num_rows"]

    def compile_seconds(self, program: int) -> float:
        """Look up the time in which a program was compiled, by all processes."""
        return self.manifest["programs"][program]["compile_seconds"]

    def enter(self, program: int, num_rows: int, seconds: float) -> None:
        """Enter that a program was compiled, once more perhaps.

        Raises:
            RunError: it cannot be written.
        """
        entry = self.manifest["programs"][program]
        entry["num_rows"] = num_rows
        entry["compile_seconds"] += seconds
        self.write()

    def write(self) -> None:
        """Write the manifest, if there is a directory.

        Raises:
            RunError: it cannot be written; the old one is untouched.
        """
        if self.directory is not None:
            with files.as_run_error(f"directory={str(self.directory)!r}"):
                files.write(self.directory / MANIFEST, json.dumps(self.manifest, indent=1))

    def batch(self, program: int, batch: int) -> Path | None:
        """Name the directory of a batch, if there is one."""
        return None if self.directory is None else self.directory / BATCHES / f"{program}-{batch}"

    def identity(self, program: int, batch: int) -> str:
        """Hash what tells a batch from any other, of this sweep or another."""
        swept = [self.manifest.get(name) for name in SWEPT]
        parts = json.dumps([swept, self.num_rows(program), program, batch], sort_keys=True)
        return hashlib.sha256(parts.encode()).hexdigest()


class Sweep(NamedTuple):
    """What is swept."""

    trials: list[tuple[str, Any]]  # `(name, config)`
    num_seeds: int
    key: Array
    algorithm: Algorithm
    options: RunOptions


@contextlib.contextmanager
def open_journal(directory: str | Path | None, sweep: Sweep, num_programs: int) -> Iterator[Journal]:
    """Hold the journal of a sweep: a new one, or that of the same sweep in its directory, locked.

    Raises:
        ConfigError: the directory holds something else or another sweep.
        RunError: it is corrupt, in use, or cannot be written.
    """
    programs = [{"num_rows": None, "compile_seconds": 0.0} for _ in range(num_programs)]
    if directory is None:
        yield Journal(None, {"programs": programs})
        return
    path = to_path("directory", directory)
    swept = {
        "trials": [{"name": name, "config": tables.to_table(config)} for name, config in sweep.trials],
        "num_seeds": sweep.num_seeds,
        "key": key_to_json(sweep.key),
        "algorithm": names_of(sweep.algorithm),
        "options": dict(sweep.options.__dict__),
    }
    with files.as_run_error(f"directory={str(path)!r}"):
        _make(path)
        lock = contextlib.ExitStack()
        lock.enter_context(files.lock(path))
    with lock:
        if (path / MANIFEST).exists():
            journal = Journal(path, _read_manifest(path))
            check_algorithm(path, journal.manifest["algorithm"], sweep.algorithm)
            _check_same(path, journal.manifest, swept)
            check_programs(journal, num_programs)
            warn_of_changes(path, journal.manifest)
        else:
            journal = Journal(path, {"format": FORMAT, **swept, **provenance(), "programs": programs})
            journal.write()
        yield journal


def read_journal(directory: str | Path, algorithm: Algorithm, imports: Sequence[str] = ()) -> tuple[Journal, Sweep]:
    """Read the journal of a sweep, and what is swept.

    Raises:
        ConfigError: it was made with another algorithm.
        RunError: the directory holds no sweep, or a corrupt one.
    """
    path = to_path("directory", directory)
    manifest = _read_manifest(path)
    check_algorithm(path, manifest["algorithm"], algorithm)
    try:
        configs = [
            tables.from_table(trial["config"], algorithm.config, imports=imports, may_name_files=False)
            for trial in manifest["trials"]
        ]
        options, key = RunOptions(**manifest["options"]), key_from_json(manifest["key"])
    except ConfigError as error:
        raise RunError(f"{path / MANIFEST}: {error}") from None
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise RunError(f"{path / MANIFEST}: is corrupt ({error})") from None
    names = [trial["name"] for trial in manifest["trials"]]
    trials = list(zip(names, configs, strict=True))
    return Journal(path, manifest), Sweep(trials, manifest["num_seeds"], key, algorithm, options)


def check_programs(journal: Journal, num_programs: int) -> None:
    """Refuse a manifest of which the trials need another number of programs than it has.

    Raises:
        RunError: that is so.
    """
    if len(journal.manifest["programs"]) != num_programs:
        raise RunError(f"{journal.directory}/{MANIFEST}: is corrupt (not one program for each set of static fields)")


def _make(path: Path) -> None:
    """Make the directory, unless there is one with a sweep in it.

    Raises:
        ConfigError: it holds something else.
        RunError: it leads elsewhere.
    """
    names = {entry.name for entry in path.iterdir()} if path.exists() else set()
    if MANIFEST not in names and names - {files.LOCK, BATCHES, files.TEMPORARY + MANIFEST}:
        raise ConfigError(f"directory={str(path)!r}: must be new or empty, or hold a sweep; nothing is overwritten")
    if (path / BATCHES).is_symlink():
        raise RunError(f"{path / BATCHES}: must not be a symbolic link")
    (path / BATCHES).mkdir(parents=True, exist_ok=True)


def _read_manifest(path: Path) -> dict[str, Any]:
    """Read the manifest, of the form that this module writes.

    Raises:
        RunError: it is not there, corrupt, or of another format.
    """
    if not (path / MANIFEST).exists():
        raise RunError(f"directory={str(path)!r}: must hold a sweep; there is no {MANIFEST}")
    manifest = files.read_json(path / MANIFEST, FORMAT)
    if not _is_whole(manifest):
        raise RunError(f"{path / MANIFEST}: is corrupt")
    return manifest


def _is_whole(manifest: Any) -> bool:
    """Whether everything is there that is read of a manifest, and of the right type."""
    try:
        counts = [program["num_rows"] for program in manifest["programs"] if program["num_rows"] is not None]
        return (
            all(type(count) is int and count >= 1 for count in [manifest["num_seeds"], *counts])
            and all(type(program["compile_seconds"]) in (int, float) for program in manifest["programs"])
            and all(isinstance(trial["name"], str) for trial in manifest["trials"])
            and all(isinstance(trial["config"], dict) for trial in manifest["trials"])
            and all(name in manifest for name in SWEPT)
        )
    except (KeyError, TypeError, AttributeError):
        return False


def _check_same(path: Path, found: dict[str, Any], asked: dict[str, Any]) -> None:
    """Refuse to resume another sweep, naming what differs.

    Raises:
        ConfigError: something does.
    """
    where = f"as in the sweep in {str(path)!r}, or the directory another one"
    if found["num_seeds"] != asked["num_seeds"]:
        raise ConfigError.of("num_seeds", asked["num_seeds"], f"{found['num_seeds']} {where}")
    if found["key"] != asked["key"]:
        raise ConfigError(f"key: must be the same (on the command line --seed) {where}")
    if found["options"] != asked["options"]:
        raise ConfigError.of("options", asked["options"], f"{found['options']} {where}")
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
