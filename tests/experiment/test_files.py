"""Files that are whole or not there."""

import os
import subprocess
import sys

import pytest

from purejaxppo.errors import RunError
from purejaxppo.experiment.runs import files
from tests.support.small import names


def test_a_write_replaces(tmp_path):
    path = tmp_path / "a.txt"
    files.write(path, "one\n")
    files.write(path, "zwei: ü\r\n")
    assert path.read_bytes() == "zwei: ü\r\n".encode()
    assert files.read(path) == "zwei: ü\n"
    assert names(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_a_write_that_fails_leaves_what_was_there(failing, tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    files.write(path, "old")

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, failing, fail)
    with pytest.raises(OSError, match="No space"):
        files.write(path, "new")
    monkeypatch.undo()
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_what_is_deleted_and_what_was_left_over(tmp_path):
    for name in ("keep", f"{files.TEMPORARY}old", "full"):
        (tmp_path / name / "deep").mkdir(parents=True)
        (tmp_path / name / "deep" / "file").write_text(name)
    (tmp_path / f"{files.TEMPORARY}file").write_text("x")
    (tmp_path / f"{files.TEMPORARY}link").symlink_to(tmp_path / "keep")
    files.delete(tmp_path / "full")
    files.delete(tmp_path / "not there")
    files.delete_temporary(tmp_path)
    assert names(tmp_path) == ["keep"]
    assert (tmp_path / "keep" / "deep" / "file").read_text() == "keep"


def test_a_link_is_deleted_and_not_followed(tmp_path):
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "file").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    files.delete(tmp_path / "link")
    assert names(tmp_path) == ["target"]
    assert names(tmp_path / "target") == ["file"]


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\xfe", b"[" * 100_000, b"null", b'{"a": 1'])
def test_json_that_is_corrupt_is_refused(content, tmp_path):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(RunError, match=r"a\.json: (is corrupt|cannot be read)"):
        files.read_json(path)


def test_what_is_no_file_is_not_read(tmp_path):
    (tmp_path / "secret").write_text("{}")
    (tmp_path / "link").symlink_to(tmp_path / "secret")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name in ("link", "pipe", "folder"):
        with pytest.raises(RunError, match=f"{name}: must be a file"):
            files.read_json(tmp_path / name)
    with pytest.raises(RunError, match="missing: cannot be read"):
        files.read(tmp_path / "missing")


def test_a_lock_is_held_once_and_goes_with_its_process(tmp_path):
    with files.lock(tmp_path), pytest.raises(RunError, match="is locked by another process"), files.lock(tmp_path):
        pytest.fail("both hold it")
    with files.lock(tmp_path):
        pass
    hold = (
        f"import fcntl, os; f = open({str(tmp_path / files.LOCK)!r}, 'a'); fcntl.flock(f, fcntl.LOCK_EX); os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", hold]).returncode == 9
    with files.lock(tmp_path):
        pass
