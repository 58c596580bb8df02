"""Atomic writes, locks, and reading files that may be corrupt or hostile."""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from purejaxppo.errors import RunError
from purejaxppo.user_files import plain_lines

# The names in a run's directory.
CONFIG, RUN, LOCK, SUMMARY, CHECKPOINTS = "config.toml", "run.json", "lock", "summary.json", "checkpoints"
METRICS, TABLE, EVALUATIONS = "metrics.jsonl", "metrics.csv", "evaluations.jsonl"
TENSORBOARD, WANDB, PICTURES = "tensorboard", "wandb", "pictures"
# All of them but the lock, in the order in which they are deleted: what makes it a run goes first.
CONTENTS = (RUN, CHECKPOINTS, TENSORBOARD, WANDB, PICTURES, SUMMARY, METRICS, TABLE, EVALUATIONS, CONFIG)
TEMPORARY = ".tmp-"  # begins the names of files and directories that are being written or deleted
PATIENCE = 100  # times that a reader asks whether a directory is free
BEGINNING = TEMPORARY + "begun-run.json"  # there while a run's directory is being made, and no `run.json` yet


def write(path: Path, content: str | bytes) -> None:
    """Write a file so that after a crash or a power cut it holds the old content or the new one, and nothing between.

    Raises:
        OSError: it cannot be written; the old content is untouched.
    """
    temporary = path.with_name(TEMPORARY + path.name)
    try:
        with temporary.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    sync(path.parent)


@contextlib.contextmanager
def as_run_error(what: str) -> Iterator[None]:
    """Turn what the system says while writing into one clear error that begins with what is written.

    Raises:
        RunError: something could not be written.
    """
    try:
        yield
    except RunError:
        raise
    except OSError as error:
        raise RunError(f"{what}: cannot be written to ({error.strerror or error})") from None


def sync(path: Path) -> None:
    """Bring a file, or the names in a directory, from the system's buffers to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def delete(path: Path) -> None:
    """Delete a file or a directory; a directory goes at once, by a change of its name, whenever the power goes."""
    if not path.is_dir() or path.is_symlink():
        path.unlink(missing_ok=True)
        return
    leaving = path.with_name(f"{TEMPORARY}leaving-{path.name.removeprefix(TEMPORARY)}")
    path.rename(leaving)
    shutil.rmtree(leaving)


def delete_temporary(directory: Path, but: Path | None = None) -> None:
    """Delete what an earlier process left half-written, or half-deleted, but for one file."""
    for path in directory.glob(f"{TEMPORARY}*"):
        if path != but:
            delete(path)


def check_no_links(directory: Path) -> None:
    """Refuse symbolic links, which might lead anywhere, in a run's directory.

    Raises:
        RunError: there is one.
    """
    for name in (*CONTENTS, LOCK):
        if (directory / name).is_symlink():
            raise RunError(f"{directory / name}: must not be a symbolic link")


def read_bytes(path: Path) -> bytes:
    """Read a file.

    Raises:
        RunError: it cannot be read, or is no file, such as a symbolic link, which might lead anywhere.
    """
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise RunError(f"{path}: must be a file, not a link or anything else")
    try:
        return path.read_bytes()
    except OSError as error:
        raise RunError(f"{path}: cannot be read ({error})") from None


def read(path: Path) -> str:
    """Read a text file.

    Raises:
        RunError: it cannot be read, is not text, or is no file.
    """
    try:
        return plain_lines(read_bytes(path).decode())
    except UnicodeDecodeError as error:
        raise RunError(f"{path}: cannot be read ({error})") from None


def read_json(path: Path, format: int | None = None) -> dict[str, Any]:
    """Read a JSON file that holds an object.

    Raises:
        RunError: it cannot be read, holds something else, or its entry `format` is another.
    """
    text = read(path)
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RunError(f"{path}: is corrupt ({error})") from None
    if not isinstance(value, dict):
        raise RunError(f"{path}: is corrupt (not an object)")
    found = value.get("format")
    if format is not None and found != format:
        raise RunError(f"{path}: format={found!r}: must be {format}; another version of purejaxppo wrote it")
    return value


def hash_file(path: Path) -> str:
    """Hash a file's content by SHA-256."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def lock(directory: Path) -> Iterator[None]:
    """Hold the directory's lock, which the system releases however the process ends.

    Raises:
        RunError: another process holds it, or it is no file.
    """
    path = directory / LOCK
    # A pipe in its place would keep us waiting for whoever reads it.
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise RunError(f"{path}: must be a file, not a link or anything else")
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunError(f"directory={str(directory)!r}: is locked by another process") from None
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def reading(directory: Path) -> Iterator[None]:
    """Keep `deleting` from what is in a directory, which must be there, while it is read."""
    with _open(directory) as descriptor:
        for _ in range(PATIENCE):  # deleting takes an instant; nobody may keep us for ever
            if _try_lock(descriptor, fcntl.LOCK_SH):
                break
            time.sleep(0.05)
        yield


@contextlib.contextmanager
def deleting(directory: Path) -> Iterator[bool]:
    """Whether something in a directory can be deleted now, since nobody is `reading` there."""
    with _open(directory) as descriptor:
        yield _try_lock(descriptor, fcntl.LOCK_EX)


@contextlib.contextmanager
def _open(directory: Path) -> Iterator[int]:
    descriptor = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int, kind: int) -> bool:
    """Lock a directory until it is closed; whether that was possible at once. Where the disk has no locks, it is."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True
