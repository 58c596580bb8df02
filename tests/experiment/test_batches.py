"""Sweeps that are interrupted, and directories that are broken, hostile or somebody else's."""

import hashlib
import io
import itertools
import json
import logging
import os
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import jax
import numpy as np
import pytest

from purejaxppo import Config, ConfigError, GridWorld
from purejaxppo.experiment.runs import files
from purejaxppo.experiment.sweeps import journal as batches
from purejaxppo.experiment.sweeps import sweep as sweeps
from purejaxppo.experiment.sweeps.sweep import sweep
from tests.support import probes
from tests.support.programs import compiled_once

CONFIG = Config(env=GridWorld("S.M\n.D."), num_envs=2, num_steps=8, total_timesteps=32, hidden_sizes=(4,))
ARGUMENTS = {"num_seeds": 3, "over": {"lr": [1e-3, 1e-2], "activation": ["tanh", "relu"]}}  # 2 programs of 6 rows
KEY = jax.random.key(3)
NUM_BATCHES = 6  # 3 of each program


@pytest.fixture(autouse=True)
def _small_batches(monkeypatch):
    """Batches of 2 rows, whatever the memory; equal programs are compiled once for all tests."""
    monkeypatch.setattr(sweeps, "_compile", compiled_once)
    monkeypatch.setattr(sweeps, "_largest", lambda inputs, bound: sweeps._compile(inputs, 2))


@pytest.fixture
def calls(monkeypatch):
    """Every batch that is trained."""
    made = []
    call = sweeps._call
    monkeypatch.setattr(sweeps, "_call", lambda *args: made.append(args[-1]) or call(*args))
    return made


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return tmp_path_factory.mktemp("sweep") / "finished"


@pytest.fixture
def directory(finished, tmp_path):
    """A copy of a finished sweep."""
    if not finished.exists():
        sweep(CONFIG, KEY, directory=finished, **ARGUMENTS)
    copy = tmp_path / "copy"
    (copy / "batches").mkdir(parents=True)
    for path in [finished / "sweep.json", *(finished / "batches").iterdir()]:
        (copy / path.relative_to(finished)).write_bytes(path.read_bytes())
    return copy


def bits(trials):
    arrays = [(trial.scores, dict(sorted(trial.metrics.items()))) for trial in trials]
    return [leaf.tobytes() for leaf in jax.tree.leaves(arrays)]


def contents(directory):
    return {path: path.read_bytes() for path in sorted(directory.rglob("*")) if path.is_file() and path.name != "lock"}


def test_a_finished_sweep_is_read_and_not_trained_again(directory, calls, monkeypatch):
    expected = sweep(CONFIG, KEY, **ARGUMENTS)
    assert len(calls) == NUM_BATCHES
    monkeypatch.setattr(sweeps, "_compile", lambda *_: pytest.fail("it compiled"))
    for trials in (sweep(CONFIG, KEY, directory=directory, **ARGUMENTS), sweeps.load(directory)):
        assert bits(trials) == bits(expected)
        assert [trial[:2] for trial in trials] == [trial[:2] for trial in expected]
        assert all(trial.compile_seconds > 0 for trial in trials)
        assert all(trial.run_seconds > 0 for trial in trials)


def test_a_sweep_that_is_cut_after_every_batch_gives_the_same_bits(directory, tmp_path, calls, monkeypatch):
    add = batches.add

    def add_and_die(journal, program, batch, *rest):
        add(journal, program, batch, *rest)
        raise KeyboardInterrupt

    expected = bits(sweeps.load(directory))
    cut = tmp_path / "cut"
    for number in range(NUM_BATCHES):
        monkeypatch.setattr(batches, "add", add_and_die)
        with pytest.raises(KeyboardInterrupt):
            sweep(CONFIG, KEY, directory=cut, **ARGUMENTS)
        assert len(calls) == number + 1
        if number < NUM_BATCHES - 1:
            with pytest.raises(ConfigError, match="is not finished"):
                sweeps.load(cut)
    monkeypatch.setattr(batches, "add", add)
    assert bits(sweep(CONFIG, KEY, directory=cut, **ARGUMENTS)) == expected
    assert len(calls) == NUM_BATCHES


@pytest.mark.parametrize("where", ["batch", "manifest"])
def test_a_crash_while_writing_costs_one_batch(directory, tmp_path, calls, monkeypatch, where):
    """The writer dies before its file has its name: of the third batch, or of the manifest that enters it."""
    expected = bits(sweeps.load(directory))
    write, written = files.write, []

    def write_or_die(path, content):
        written.append(path.name)
        if written[-1] == "0-2.npz" if where == "batch" else written.count("sweep.json") == 4:
            path.with_name(files.TEMPORARY + path.name).write_bytes(b"half")
            raise KeyboardInterrupt
        write(path, content)

    cut = tmp_path / "cut"
    monkeypatch.setattr(files, "write", write_or_die)
    with pytest.raises(KeyboardInterrupt):
        sweep(CONFIG, KEY, directory=cut, **ARGUMENTS)
    monkeypatch.setattr(files, "write", write)
    done = len(calls)
    assert done == 3
    assert bits(sweep(CONFIG, KEY, directory=cut, **ARGUMENTS)) == expected
    assert len(calls) == NUM_BATCHES + 1
    assert not list(cut.rglob(f"{files.TEMPORARY}*"))


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def as_link(path):
    target = path.parent.parent / "elsewhere"
    path.rename(target)
    target.write_bytes(b"precious")
    path.symlink_to(target)


BREAKAGES = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-10]),
    "flipped": flip,
    "empty": lambda path: path.write_bytes(b""),
    "missing": lambda path: path.unlink(),
    "of another batch": lambda path: path.write_bytes(path.with_name("0-0.npz").read_bytes()),
}


@pytest.mark.parametrize("breakage", BREAKAGES)
def test_a_broken_batch_is_trained_anew_and_said(directory, calls, caplog, breakage):
    expected = bits(sweeps.load(directory))
    path = directory / "batches" / "0-1.npz"
    BREAKAGES[breakage](path)
    with pytest.raises(ConfigError, match=r"0-1.npz: (is broken|cannot be read)"):
        sweeps.load(directory)
    caplog.set_level(logging.WARNING, "purejaxppo")
    assert bits(sweep(CONFIG, KEY, directory=directory, **ARGUMENTS)) == expected
    assert calls == [1]
    assert [message.count("0-1.npz") for message in caplog.messages] == [1]
    assert "is trained anew" in caplog.text
    assert bits(sweeps.load(directory)) == expected


def test_a_link_in_place_of_a_batch_is_replaced_and_what_it_leads_to_untouched(directory):
    expected = bits(sweeps.load(directory))
    as_link(directory / "batches" / "0-1.npz")
    assert bits(sweep(CONFIG, KEY, directory=directory, **ARGUMENTS)) == expected
    assert (directory / "elsewhere").read_bytes() == b"precious"
    assert not (directory / "batches" / "0-1.npz").is_symlink()


class Bomb:
    """What is executed when it is unpickled."""

    def __reduce__(self):
        return os.system, ("touch exploded",)


def poisoned():
    content = io.BytesIO()
    np.savez(content, score=np.array([Bomb()], dtype=object))
    return content.getvalue()


def archive(**arrays):
    content = io.BytesIO()
    np.savez(content, **arrays)
    return content.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        poisoned(),
        archive(score=np.zeros(3, np.float32)),
        archive(score=np.zeros(2, np.int32)),
        archive(entropy=np.zeros((2, 2), np.float32)),
        archive(score=np.zeros(2, np.float32), entropy=np.zeros((2, 3), np.float32)),
        b"not an archive",
    ],
    ids=["pickle", "another size", "another kind", "no score", "another length", "no archive"],
)
def test_a_hostile_batch_with_the_right_hash_is_refused(directory, content, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (directory / "batches" / "0-1.npz").write_bytes(content)
    manifest = json.loads((directory / "sweep.json").read_text())
    manifest["programs"][0]["batches"]["1"]["sha256"] = hashlib.sha256(content).hexdigest()
    (directory / "sweep.json").write_text(json.dumps(manifest))
    with pytest.raises(ConfigError, match=r"0-1.npz: (is broken|cannot be read)"):
        sweeps.load(directory)
    assert not (tmp_path / "exploded").exists()


def edit(*path, value=None):
    """A change of the manifest: a value, or with None a deletion."""

    def change(manifest):
        *parents, name = path
        for parent in parents:
            manifest = manifest[parent]
        if value is None:
            del manifest[name]
        else:
            manifest[name] = value

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (edit("format", value=2), "format=2: must be 1; a newer purejaxppo"),
        (edit("format"), "format=None: must be 1"),
        (edit("programs"), "sweep.json: is broken"),
        (edit("programs", 1), "sweep.json: is broken"),
        (edit("programs", 0, "batch_size", value=0), "sweep.json: is broken"),
        (edit("programs", 0, "batch_size", value="2"), "sweep.json: is broken"),
        (edit("programs", 0, "batches", "1", "sha256", value=7), "sweep.json: is broken"),
        (edit("programs", 0, "batches", "1", "run_seconds"), "sweep.json: is broken"),
        (edit("programs", 0, "batches", value=[]), "sweep.json: is broken"),
        (edit("num_seeds", value=0), "sweep.json: is broken"),
        (edit("num_seeds", value=True), "sweep.json: is broken"),
        (edit("key"), "sweep.json: is broken"),
        (edit("trials", 0, "name", value=1), "sweep.json: is broken"),
        (edit("trials", 0, "config", value="lr = 1"), "sweep.json: is broken"),
    ],
)
def test_a_broken_manifest_is_told_and_nothing_is_lost(directory, change, said):
    manifest = json.loads((directory / "sweep.json").read_text())
    change(manifest)
    (directory / "sweep.json").write_text(json.dumps(manifest))
    before = contents(directory)
    for act in (lambda: sweep(CONFIG, KEY, directory=directory, **ARGUMENTS), lambda: sweeps.load(directory)):
        with pytest.raises(ConfigError, match=said):
            act()
    assert contents(directory) == before


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\xfe", b"{}"])
def test_a_manifest_that_is_none_is_told(directory, content):
    (directory / "sweep.json").write_bytes(content)
    with pytest.raises(ConfigError, match=r"sweep.json: "):
        sweep(CONFIG, KEY, directory=directory, **ARGUMENTS)
    assert (directory / "sweep.json").read_bytes() == content


@pytest.mark.parametrize(("lr", "said"), [(-1, "lr=-1: must be"), (None, "lr=None: must be")])
def test_a_manifest_with_a_configuration_that_cannot_be_used_is_told(directory, lr, said):
    manifest = json.loads((directory / "sweep.json").read_text())
    manifest["trials"][0]["config"]["lr"] = lr
    (directory / "sweep.json").write_text(json.dumps(manifest))
    with pytest.raises(ConfigError, match=said):
        sweeps.load(directory)


@pytest.mark.parametrize(
    ("config", "key", "arguments", "said"),
    [
        (
            CONFIG,
            KEY,
            {"num_seeds": 4},
            r"num_seeds=4: must be 3 as in the sweep in '.*copy', or the directory another",
        ),
        (
            CONFIG,
            jax.random.key(4),
            {},
            r"key: must be the same \(on the command line --seed\) as in the sweep",
        ),
        (CONFIG.replace(gamma=0.5), KEY, {}, "gamma=0.5: must be 0.99 as in the sweep"),
        (CONFIG.replace(num_epochs=1), KEY, {}, "num_epochs=1: must be 4 as in the sweep"),
        (CONFIG.replace(env=GridWorld("S.M")), KEY, {}, r"env=\{.*'S.M'.*\}: must be \{.*\} as in the sweep"),
        (
            CONFIG,
            KEY,
            {"over": {"lr": [0.5]}},
            r"over='lr=0.5': must be 'lr=0.001, activation=tanh' as in the sweep",
        ),
    ],
)
def test_another_sweep_in_the_directory_is_told_by_what_differs(directory, config, key, arguments, said):
    before = contents(directory)
    with pytest.raises(ConfigError, match=said):
        sweep(config, key, directory=directory, **(ARGUMENTS | arguments))
    assert contents(directory) == before


def test_other_versions_are_said(directory, caplog):
    manifest = json.loads((directory / "sweep.json").read_text())
    manifest["versions"]["jax"] = "0.1"
    (directory / "sweep.json").write_text(json.dumps(manifest))
    sweep(CONFIG, KEY, directory=directory, **ARGUMENTS)
    assert len(caplog.messages) == 1
    assert "begun with other versions" in caplog.text


def test_what_a_directory_records(directory):
    manifest = json.loads((directory / "sweep.json").read_text())
    assert manifest["trials"][1]["name"] == "lr=0.001, activation=relu"
    assert manifest["trials"][1]["config"]["activation"] == "relu"
    assert manifest["trials"][1]["config"]["env"] == {"type": "GridWorld", "layout": CONFIG.env.layout} | {
        "features_as": "one-hot",
        "mask_blocked": True,
    }
    assert (manifest["num_seeds"], manifest["key"]["data"]) == (3, [0, 3])
    assert manifest["versions"]["jax"] == jax.__version__
    with zipfile.ZipFile(directory / "batches" / "1-2.npz") as stored:
        assert "score.npy" in stored.namelist()


@pytest.mark.parametrize("name", ["notes.txt", "run.json"])
def test_a_directory_with_something_else_is_told_and_untouched(tmp_path, name):
    (tmp_path / name).write_text("mine")
    with pytest.raises(ConfigError, match=r"directory='.*': must be new or empty, or hold a sweep"):
        sweep(CONFIG, KEY, directory=tmp_path, **ARGUMENTS)
    assert contents(tmp_path) == {tmp_path / name: b"mine"}
    with pytest.raises(ConfigError, match=r"must hold a sweep; there is no sweep.json"):
        sweeps.load(tmp_path)


def test_links_are_not_followed(directory, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "batches").symlink_to(directory / "batches")
    with pytest.raises(ConfigError, match="batches: must not be a symbolic link"):
        sweep(CONFIG, KEY, directory=other, **ARGUMENTS)
    (directory / "sweep.json").rename(tmp_path / "sweep.json")
    (directory / "sweep.json").symlink_to(tmp_path / "sweep.json")
    with pytest.raises(ConfigError, match=r"sweep.json: must be a file, not a link"):
        sweeps.load(directory)


def test_a_directory_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ConfigError, match=r"directory='.*': cannot be written to \(.*\)"):
            sweep(CONFIG, KEY, directory=path, **ARGUMENTS)
    with pytest.raises(ConfigError, match="must hold a sweep"):
        sweeps.load(tmp_path / "file")


def test_a_full_disk_is_told_and_the_sweep_goes_on_later(tmp_path, directory, calls, monkeypatch):
    expected = bits(sweeps.load(directory))
    write, full = files.write, []

    def write_until_full(path, content):
        if path.name == "0-1.npz":
            full.append(path)
            raise OSError(28, "No space left on device")
        write(path, content)

    monkeypatch.setattr(files, "write", write_until_full)
    with pytest.raises(ConfigError, match=r"directory='.*': cannot be written to \(No space left on device\)"):
        sweep(CONFIG, KEY, directory=tmp_path / "new", **ARGUMENTS)
    monkeypatch.setattr(files, "write", write)
    assert bits(sweep(CONFIG, KEY, directory=tmp_path / "new", **ARGUMENTS)) == expected
    assert len(calls) == NUM_BATCHES + 1


def test_a_directory_in_use_is_told(directory):
    with files.locked(directory), pytest.raises(ConfigError, match="another process"):
        sweep(CONFIG, KEY, directory=directory, **ARGUMENTS)
    sweep(CONFIG, KEY, directory=directory, **ARGUMENTS)


def test_an_environment_that_no_file_can_hold_is_told_before_anything_is_written(tmp_path):
    config = CONFIG.replace(env=probes.ConstantReward())
    with pytest.raises(ConfigError, match="env="):
        sweep(config, KEY, directory=tmp_path / "new", num_seeds=1, over={})
    assert not (tmp_path / "new").exists()


def test_the_size_of_the_batches_is_kept_and_must_still_fit(directory):
    (directory / "batches" / "1-0.npz").unlink()
    with pytest.raises(ConfigError, match=r"max_bytes=1: must be at least \d+, the memory of 2 agents"):
        sweep(CONFIG, KEY, directory=directory, max_bytes=1, **ARGUMENTS)


PROGRAM = """
import sys, jax
jax.config.update("jax_compilation_cache_dir", sys.argv[2])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
from tests.experiment.test_batches import ARGUMENTS, CONFIG, KEY
from purejaxppo.experiment.sweeps import sweep as sweeps
sweeps._largest = lambda inputs, bound: sweeps._compile(inputs, 1)
print("ready", flush=True)
sweeps.sweep(CONFIG, KEY, directory=sys.argv[1], **ARGUMENTS)
"""


@pytest.mark.slow
def test_a_sweep_that_is_killed_at_random_moments_gives_the_same_bits(tmp_path):
    """`kill -9`, whatever it is doing, until it has finished in spite of that."""
    rng = np.random.default_rng(0)

    def start(directory):
        command = [sys.executable, "-c", PROGRAM, str(directory), str(tmp_path / "cache")]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2])
        process.stdout.readline()  # imports are done
        return process

    assert start(tmp_path / "whole").wait() == 0
    num_killed = 0
    for patience in itertools.count(1):
        process = start(tmp_path / "killed")
        try:
            assert process.wait(timeout=rng.uniform(0, 0.15 * patience)) == 0
            break
        except subprocess.TimeoutExpired:
            process.kill()
            num_killed += process.wait() == -signal.SIGKILL
    assert num_killed >= 3
    assert bits(sweeps.load(tmp_path / "killed")) == bits(sweeps.load(tmp_path / "whole"))
