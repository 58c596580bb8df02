"""Checkpoints on disk, by Orbax, which only this module knows.

A checkpoint is a directory with a number of updates as its name. It holds what Orbax wrote, and `manifest.json`: the
SHA-256 of every file, and which run it belongs to. It is written under another name, brought to the disk, and then
renamed; so what has a checkpoint's name was written to its end, and the manifest tells whether it is still unchanged.
"""

import contextlib
import errno
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from purejaxppo.errors import RunError
from purejaxppo.experiment.runs import files
from purejaxppo.experiment.runs.devices import default_device
from purejaxppo.keys import is_key

FORMAT = 1
MANIFEST = "manifest.json"
STATE = "state"
LEAST_SPACE = 2**16  # bytes; where not even its smallest files can be written, Orbax prints tracebacks from its threads


class Loaded(NamedTuple):
    """The newest whole checkpoint."""

    state: Any
    num_updates: int
    broken: list[str]  # what is wrong with newer ones


def save(directory: Path, num_updates: int, state: Any, *, run: str, score: float) -> None:
    """Write a checkpoint; when this returns, it is on the disk.

    Args:
        directory: of all checkpoints of a run; it must exist.
        num_updates: the checkpoint's name. If there is one already, it is replaced.
        state: a pytree of arrays, typed keys among them.
        run: identifies the run, to be asked for on loading.
        score: by which the best checkpoint is kept; NaN is worse than any.

    Raises:
        OSError: it cannot be written; what was there is untouched.
    """
    from orbax.checkpoint import v1 as ocp  # imported here: it takes half a second, and a run can begin without it

    directory = directory.absolute()  # as Orbax demands
    temporary = directory / f"{files.TEMPORARY}{num_updates}"
    files.delete(temporary)
    if shutil.disk_usage(directory).free < LEAST_SPACE:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    try:
        temporary.mkdir()
        with _quiet():
            ocp.save(temporary / STATE, state)
        paths = list(_files(temporary))
        manifest = {
            "format": FORMAT,
            "run": run,
            "num_updates": num_updates,
            "score": score if score == score else None,
            "leaves": _leaves(state),
            "files": {str(path.relative_to(temporary)): files.hash_file(path) for path in paths},
        }
        for path in {*paths, *(path.parent for path in paths)}:
            files.sync(path)
        files.write(temporary / MANIFEST, json.dumps(manifest, indent=1))
        files.delete(directory / str(num_updates))
        temporary.rename(directory / str(num_updates))
        files.sync(directory)
    except Exception as error:  # Orbax and its storage have errors of several kinds
        with contextlib.suppress(OSError):
            files.delete(temporary)
        raise error if isinstance(error, OSError) else OSError(str(error)) from None


def load(directory: Path, like: Callable[[], Any], *, run: str) -> Loaded | None:
    """Load the newest checkpoint that is whole; None where there is none at all.

    Nothing in a checkpoint is executed, and no name in it is followed out of it.

    Args:
        directory: of all checkpoints of a run.
        like: gives a pytree of `jax.ShapeDtypeStruct`, as the state must be.
        run: the run that the checkpoint must belong to.

    Raises:
        RunError: there are checkpoints, but none that can be used; it says what is wrong with each.
    """
    if not os.path.isdir(directory):
        return None
    broken: list[str] = []
    with files.reading(directory):  # another process may be training here, and prune
        for num_updates in reversed(numbers(directory)):
            try:
                return Loaded(_load(directory / str(num_updates), num_updates, like, run), num_updates, broken)
            except RunError as error:
                broken.append(str(error))
    if broken:
        raise RunError(f"{directory}: no checkpoint can be used: {'; '.join(broken)}")
    return None


def numbers(directory: Path) -> list[int]:
    """List the numbers of updates after which there are checkpoints, whole or broken, in order."""
    names = os.listdir(directory) if os.path.isdir(directory) else []
    return sorted(int(name) for name in names if name.isdecimal() and name == str(int(name)))


def prune(directory: Path, keep: int) -> None:
    """Delete all checkpoints but the newest `keep` and the one with the best score; broken ones stay.

    While another process reads there, nothing is deleted: the next call will.

    Raises:
        OSError: one cannot be deleted.
    """
    scores: dict[int, float] = {}
    for num_updates in numbers(directory):
        with contextlib.suppress(RunError):
            score = _manifest(directory / str(num_updates)).get("score")
            scores[num_updates] = float("-inf") if score is None else score
    best = max(scores, key=lambda num_updates: (scores[num_updates], num_updates), default=None)
    with files.deleting(directory) as is_free:
        for num_updates in sorted(scores)[:-keep] if is_free else []:
            if num_updates != best:
                files.delete(directory / str(num_updates))


def fingerprint(tree: Any) -> str:
    """Hash a pytree's arrays by SHA-256, typed keys included: equal only for equal bits."""
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(tree):
        array = np.asarray(jax.random.key_data(leaf) if is_key(leaf) else leaf)
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _load(path: Path, num_updates: int, like: Callable[[], Any], run: str) -> Any:
    """Load the state in one checkpoint.

    Raises:
        RunError: it is not exactly what was written, or not what is looked for.
    """
    manifest = _manifest(path)
    if manifest.get("run") != run or manifest.get("num_updates") != num_updates:
        raise RunError(f"{path}: belongs to another run or another configuration")
    try:
        found = {str(file.relative_to(path)): files.hash_file(file) for file in _files(path)}
    except OSError as error:
        raise RunError(f"{path}: cannot be read ({error})") from None
    found.pop(MANIFEST)
    expected = manifest["files"]
    if found != expected:
        names = sorted(name for name in {*found, *expected} if found.get(name) != expected.get(name))
        raise RunError(f"{path}: is corrupt (checksum mismatch: {', '.join(names)})")
    shapes, saved = like(), manifest["leaves"]
    if _leaves(shapes) != saved:
        missing = next((leaf for leaf in _leaves(shapes) if leaf not in saved), "fewer arrays")
        raise RunError(f"{path}: does not fit the configuration, which asks for {missing}")
    return _restore(path / STATE, shapes)


def _manifest(path: Path) -> dict[str, Any]:
    """Read a checkpoint's manifest.

    Raises:
        RunError: it is not there, broken, or of a newer format.
    """
    if path.is_symlink():
        raise RunError(f"{path}: must not be a symbolic link")
    manifest = files.read_json(path / MANIFEST, FORMAT)
    kinds = {"files": dict, "leaves": list, "score": int | float | None}
    if not all(isinstance(manifest.get(name), kind) for name, kind in kinds.items()):
        raise RunError(f"{path / MANIFEST}: is corrupt")
    return manifest


def _restore(path: Path, like: Any) -> Any:
    """Read what Orbax wrote, of the shapes and dtypes of `like`, onto the device."""
    from orbax.checkpoint import v1 as ocp

    sharding = jax.sharding.SingleDeviceSharding(default_device())
    placed = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), like)
    try:
        with _quiet():
            state = ocp.load(path.absolute(), placed)
    except Exception as error:  # Orbax and its storage have errors of several kinds
        raise RunError(f"{path}: does not fit the configuration ({_first_line(error)})") from None
    if _leaves(state) != _leaves(like):
        raise RunError(f"{path}: does not fit the configuration")
    return state


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep Orbax from logging the traceback of an error that it raises as well."""
    log = logging.getLogger("absl")
    before, log.disabled = log.disabled, True
    try:
        yield
    finally:
        log.disabled = before


def _leaves(tree: Any) -> list[str]:
    """Describe the place, dtype and shape of each array in a pytree."""
    paths, _ = jax.tree_util.tree_flatten_with_path(tree)
    return [f"{jax.tree_util.keystr(path)}: {leaf.dtype}{list(leaf.shape)}" for path, leaf in paths]


def _files(path: Path) -> Iterator[Path]:
    """Every file under a directory.

    Raises:
        RunError: there is something else, such as a symbolic link.
    """
    for entry in sorted(os.scandir(path), key=lambda entry: entry.name):
        if entry.is_dir(follow_symlinks=False):
            yield from _files(Path(entry.path))
        elif entry.is_file(follow_symlinks=False):
            yield Path(entry.path)
        else:
            raise RunError(f"{entry.path}: must be a file, not a link or anything else")


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
