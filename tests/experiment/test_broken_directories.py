"""Runs' directories that are corrupt, hostile, full or somebody else's."""

import errno
import json
import shutil
import subprocess

import pytest

from purejaxppo.errors import RunError
from purejaxppo.experiment import load, resume, run
from purejaxppo.experiment.runs import files, record
from tests.support.runs import (
    CONFIG,
    KEYS,
    QUIET,
    RECORD,
    begin_and_stop,
    check_same,
    checkpoint_always,
    numbers,
    uninterrupted,
)


def edit(name, **changes):
    def break_(directory):
        path = directory / name
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return break_


def overwrite(name, content):
    return lambda directory: (directory / name).write_bytes(content)


def link(name):
    def break_(directory):
        elsewhere = directory.parent / "elsewhere"
        shutil.move(directory / name, elsewhere)
        (directory / name).symlink_to(elsewhere)

    return break_


def replace_in_config(old, new):
    def break_(directory):
        path = directory / files.CONFIG
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))

    return break_


KEY_DATA = {"impl": "threefry2x32", "data": [1, 2]}


@pytest.mark.parametrize(
    ("break_", "said"),
    [
        (lambda directory: (directory / files.RUN).unlink(), r"must be a run's directory; it has no run\.json"),
        (overwrite(files.RUN, b""), r"run\.json: is corrupt"),
        (overwrite(files.RUN, b'{"format": 2'), r"run\.json: is corrupt"),
        (overwrite(files.RUN, b"\xff"), r"run\.json: cannot be read"),
        (overwrite(files.RUN, b"[" * 100_000), r"run\.json: is corrupt"),
        (overwrite(files.RUN, b"{}"), r"run\.json: format=None: must be 2"),
        (edit(files.RUN, format=1), r"run\.json: format=1: must be 2; another version of purejaxppo"),
        (edit(files.RUN, key=None), r"run\.json: is corrupt"),
        (edit(files.RUN, key=KEY_DATA | {"data": [1]}), r"run\.json: is corrupt"),
        (edit(files.RUN, key=KEY_DATA | {"data": "x"}), r"run\.json: is corrupt"),
        (edit(files.RUN, key=KEY_DATA | {"data": [-1, 2]}), r"run\.json: is corrupt"),
        (edit(files.RUN, key=KEY_DATA | {"impl": "nope"}), r"run\.json: is corrupt"),
        (edit(files.RUN, key=KEY_DATA | {"impl": ["x"]}), r"run\.json: is corrupt"),
        (edit(files.RUN, key=KEY_DATA), "belongs to another run or another configuration"),
        (edit(files.RUN, options={"num_evaluations": -1}), r"run\.json: is corrupt"),
        (edit(files.RUN, options={"nope": 1}), r"run\.json: is corrupt"),
        (edit(files.RUN, options=[]), r"run\.json: is corrupt"),
        (edit(files.RUN, algorithm=None), r"is corrupt \(it does not name its algorithm\)"),
        (overwrite(files.CONFIG, b"lr = "), "config: cannot be read as TOML"),
        (overwrite(files.CONFIG, b"lr = [" + b"[" * 100_000), "config: cannot be read as TOML"),
        (overwrite(files.CONFIG, b"\xff"), r"config\.toml: cannot be read"),
        (overwrite(files.CONFIG, b"lr = -1"), "lr=-1: must be"),
        (replace_in_config("lr = 0.02", "lr = 0.03"), "belongs to another run or another configuration"),
        (replace_in_config("num_envs = 4", "num_envs = 1000000000000"), r"num_envs=1000000000000: must be an integer"),
        (replace_in_config('type = "GridWorld"', 'type = "os.system"'), r"env\.type='os\.system': must be one of"),
        (replace_in_config('type = "GridWorld"', 'type = "GridWorld"\nmore = 1'), "unknown GridWorld field 'more'"),
        (replace_in_config("mask_blocked = true", 'mask_blocked = "yes"'), r"env\.mask_blocked='yes': must be of type"),
        (overwrite(files.METRICS, b""), "the record .* ends before update"),
        (overwrite(files.METRICS, b"{}\n" * 8), r"metrics\.jsonl: line 1 is corrupt"),
        *[
            (link(name), f"{name}: must not be a symbolic link")
            for name in (*RECORD, "config.toml", "run.json", "lock")
        ],
        (link(files.CHECKPOINTS), "checkpoints: must not be a symbolic link"),
    ],
)
def test_a_broken_or_hostile_directory_is_one_clear_error(break_, said, tmp_path):
    directory = shutil.copytree(uninterrupted(KEYS)[0], tmp_path / "run")
    (directory / files.SUMMARY).unlink()  # so that there is something left to do
    break_(directory)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(RunError, match=said) as error:
        resume(directory)
    assert "\n" not in str(error.value)
    after = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert after == before  # nothing is lost


@pytest.mark.parametrize("what", ["the record", "a checkpoint", "a checkpoint by Orbax"])
def test_a_full_disk_is_reported_and_costs_no_checkpoint(what, tmp_path, monkeypatch):
    from orbax.checkpoint import v1 as ocp

    options = checkpoint_always(monkeypatch)
    owner, name = {
        "the record": (record.MetricsLog, "write"),
        "a checkpoint": (files, "hash_file"),
        "a checkpoint by Orbax": (ocp, "save"),
    }[what]
    genuine, error = getattr(owner, name), OSError(errno.ENOSPC, "No space left on device")
    progress = [0]

    def fail(*args):
        if progress[-1] >= 4:
            raise (
                error if what != "a checkpoint by Orbax" else ValueError("RESOURCE_EXHAUSTED: No space left on device")
            )
        return genuine(*args)

    monkeypatch.setattr(owner, name, fail)
    callback = lambda now: progress.append(now.num_updates)  # noqa: E731
    with pytest.raises(RunError, match=r"No space left on device.*the checkpoint after update 3 is there") as said:
        run(CONFIG, KEYS, tmp_path, options=options, callback=callback)
    assert "\n" not in str(said.value)
    assert numbers(tmp_path)[-1] == 3
    monkeypatch.setattr(owner, name, genuine)
    check_same(tmp_path, resume(tmp_path), KEYS)


@pytest.mark.parametrize("kind", ["read-only", "full"])
def test_a_disk_that_really_refuses(kind, tmp_path, caplog):
    """On a file system of its own, which only root may mount."""
    size = "4m" if kind == "read-only" else "32k"
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", tmp_path], capture_output=True
    ).returncode:
        pytest.skip("mounting is not permitted")
    try:
        directory = tmp_path / "run"
        if kind == "read-only":
            begin_and_stop(directory)
            subprocess.run(["mount", "-o", "remount,ro", tmp_path], check=True)
            begin = [lambda: resume(directory), lambda: run(CONFIG, KEYS, tmp_path / "new")]
        else:
            begin = [lambda: run(CONFIG, KEYS, directory, options=QUIET)]
        for function in begin:
            with pytest.raises(RunError, match="cannot be written to") as said:
                function()
            assert "\n" not in str(said.value)
        assert caplog.text == ""  # nor does Orbax say it a second time
        assert load(directory)[1].num_updates == 1 if kind == "read-only" else numbers(directory) == []
    finally:
        subprocess.run(["umount", tmp_path], check=True)


@pytest.mark.parametrize("place", ["file", "file/deeper", "n" * 300])
def test_a_place_where_no_run_can_be_is_refused(place, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(RunError, match=r"directory=.*: cannot be written to"):
        run(CONFIG, KEYS, tmp_path / place)
    with pytest.raises(RunError, match=r"directory=.*: must be a run's directory"):
        resume(tmp_path / place)
    assert (tmp_path / "file").read_text() == "mine"


def test_other_versions_are_warned_of(tmp_path, caplog):
    directory = begin_and_stop(tmp_path / "run")
    resume(directory)
    assert "other" not in caplog.text
    (tmp_path / "run" / files.SUMMARY).unlink()
    edit(files.RUN, versions={"jax": "0.1"})(directory)
    resume(directory)
    assert "was started with other versions, {'jax': '0.1'}" in caplog.text
