"""Sweeps that are stopped or killed, and directories that are corrupt, hostile or somebody else's."""

import errno
import functools
import itertools
import json
import logging
import os
import pickle
import random
import re
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from purejaxppo import MLP, Config, ConfigError, GridWorld
from purejaxppo.algorithms import PPO
from purejaxppo.errors import PurejaxppoError, RunError
from purejaxppo.experiment import RunOptions, load_agents, load_trials
from purejaxppo.experiment.runs import checkpoints, files
from purejaxppo.experiment.runs.rows import every_row
from purejaxppo.experiment.sweeps import sweep as sweeps
from purejaxppo.experiment.sweeps.sweep import sweep
from tests.support import probes
from tests.support.runs import checkpoint_always, interrupt, needed_bytes
from tests.support.small import ROOT, leaves_of

NUM_UPDATES = 4
CONFIG = Config(
    env=GridWorld("S.M\n.D."),
    num_envs=2,
    num_steps=8,
    total_timesteps=16 * NUM_UPDATES,
    network=MLP(hidden_sizes=(4,)),
)
ACTIVATION = "network.activation"
ARGUMENTS = {"num_seeds": 3, "over": {"lr": [1e-3, 1e-2], ACTIVATION: ["tanh", "relu"]}}  # 2 programs of 6 rows
KEY = jax.random.key(3)
BATCHES = ["0-0", "0-1", "0-2", "1-0", "1-1", "1-2"]  # 3 of each program, of 2 rows


@pytest.fixture(autouse=True)
def _small_batches(monkeypatch):
    """Batches of 2 rows, whatever the memory."""
    monkeypatch.setattr(sweeps, "available_bytes", available_bytes)


@functools.cache
def available_bytes():
    rows = every_row([CONFIG, CONFIG.replace(lr=0.5)], jax.random.split(KEY, 1))
    return 2 * needed_bytes(rows)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return tmp_path_factory.mktemp("sweep") / "finished"


@pytest.fixture
def directory(finished, tmp_path):
    """A copy of a finished sweep."""
    if not finished.exists():
        sweep(CONFIG, KEY, directory=finished, **ARGUMENTS)
    return shutil.copytree(finished, tmp_path / "copy")


def bits(trials):
    arrays = [(trial.scores, dict(sorted(trial.metrics.items()))) for trial in trials]
    return [leaf.tobytes() for leaf in jax.tree.leaves(arrays)]


def contents(directory):
    return {path: path.read_bytes() for path in sorted(directory.rglob("*")) if path.is_file() and path.name != "lock"}


def go_on(directory, **changes):
    """Call the same sweep again; returns the trials, and `(part, num_updates)` of every chunk."""
    seen = []
    callback = lambda progress: seen.append((progress.part, progress.num_updates))  # noqa: E731
    trials = sweep(CONFIG, KEY, directory=directory, callback=callback, **(ARGUMENTS | changes))
    return trials, seen


def parts(seen):
    return list(dict.fromkeys(part for part, _ in seen))


def check_same(directory, reference):
    """That every batch was recorded, and ended, as in a sweep that never stopped."""
    for batch in BATCHES:
        for name in (files.METRICS, files.TABLE, files.EVALUATIONS):
            path = f"batches/{batch}/{name}"
            texts = [(place / path).read_text() for place in (directory, reference)]
            assert len({re.sub(r'"crc32": \d+', "", text) for text in texts}) == 1  # which are of one sweep only
        path = f"batches/{batch}/{files.SUMMARY}"
        hashes = [json.loads((place / path).read_text())["state_sha256"] for place in (directory, reference)]
        assert hashes[0] == hashes[1]


def test_a_finished_sweep_is_read_and_not_trained_again(directory):
    expected = sweep(CONFIG, KEY, **ARGUMENTS)
    before = contents(directory)
    again, seen = go_on(directory)
    assert seen == []
    for trials in (again, load_trials(directory)):
        assert bits(trials) == bits(expected)
        assert [trial[:2] for trial in trials] == [trial[:2] for trial in expected]
        assert all(trial.compile_seconds > 0 for trial in trials)
        assert all(trial.run_seconds > 0 for trial in trials)
    assert contents(directory) == before


def test_the_agents_of_every_trial_are_loaded(directory):
    for trial in load_trials(directory):
        config, state = load_agents(directory, trial.name)
        assert config == trial.config
        for seed in range(3):
            agent = leaves_of(state, seed)
            score = PPO.score(config, agent, KEY, num_episodes=1)["score"]  # exact
            np.testing.assert_allclose(trial.scores[seed], score, rtol=1e-4)
    with pytest.raises(ConfigError, match=r"unknown trial 'lr=0\.5'"):
        load_agents(directory, "lr=0.5")
    shutil.rmtree(directory / "batches" / "0-1" / "checkpoints")
    with pytest.raises(RunError, match="0-1: is not finished"):
        load_agents(directory, f"lr=0.001, {ACTIVATION}=tanh")


def test_progress_has_every_part(tmp_path):
    _, seen = go_on(tmp_path / "new")
    assert parts(seen) == [f"program {p} of 2, batch {b} of 3" for p in (1, 2) for b in (1, 2, 3)]
    for part in parts(seen):
        updates = [num_updates for one, num_updates in seen if one == part]
        assert updates == sorted(set(updates))
        assert updates[-1] == NUM_UPDATES


def test_stopped_after_every_chunk_it_is_the_same(directory, tmp_path, monkeypatch):
    """Ctrl-C, inside of every batch; each time all that was done is saved, and the same call goes on from there."""
    expected = bits(load_trials(directory))
    stopped, said = tmp_path / "stopped", []
    while True:
        try:
            trials = sweep(CONFIG, KEY, directory=stopped, callback=interrupt, **ARGUMENTS)
            break
        except KeyboardInterrupt as stop:
            said.append(str(stop))
            with pytest.raises(RunError, match=r"must hold a finished run|is not finished"):
                load_trials(stopped)
    how = "; to continue, sweep again into the same directory"
    assert said[0] == f"program 1 of 2, batch 1 of 3: stopped after 1 of 4 updates, all of them saved{how}"
    assert len(said) >= 6 * (NUM_UPDATES - 1) - 1
    assert bits(trials) == bits(load_trials(stopped)) == expected
    check_same(stopped, directory)


def test_ctrl_c_without_a_directory_keeps_nothing():
    with pytest.raises(KeyboardInterrupt, match=r"^program 1 of 2, batch 1 of 3: stopped after 1 of 4 updates$"):
        sweep(CONFIG, KEY, callback=interrupt, **ARGUMENTS)


def test_a_crash_loses_only_what_came_after_the_checkpoint(directory, tmp_path, monkeypatch):
    """The process dies inside of the second batch, which it had saved twice, while it writes the third time."""
    checkpoint_always(monkeypatch)
    options = sweeps.OPTIONS.replace(checkpoint_seconds=0)
    saved, save = [], checkpoints.save

    def save_or_die(place, num_updates, *args, **named):
        saved.append((place.parent.name, num_updates))
        if saved[-1] == ("0-1", 3):
            (place / f"{files.TEMPORARY}3").mkdir()
            raise RuntimeError("crash")
        save(place, num_updates, *args, **named)

    monkeypatch.setattr(checkpoints, "save", save_or_die)
    with pytest.raises(RuntimeError, match="crash"):
        go_on(tmp_path / "new", options=options)
    monkeypatch.setattr(checkpoints, "save", save)
    batch = tmp_path / "new" / "batches" / "0-1"
    with (batch / files.METRICS).open("a") as file:
        file.write('{"update": 4, "st')
    trials, seen = go_on(tmp_path / "new", options=options)
    assert seen[:2] == [("program 1 of 2, batch 2 of 3", 3), ("program 1 of 2, batch 2 of 3", 4)]
    assert bits(trials) == bits(load_trials(directory))
    check_same(tmp_path / "new", directory)
    assert not list((tmp_path / "new").rglob(f"{files.TEMPORARY}*"))


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


BREAKAGES = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-10]),
    "flipped": flip,
    "empty": lambda path: path.write_bytes(b""),
    "missing": lambda path: path.unlink(),
    "of another batch": lambda path: shutil.copy(path.parents[1] / "0-0" / path.name, path),
}


@pytest.mark.parametrize("name", [files.METRICS, files.EVALUATIONS])
@pytest.mark.parametrize("breakage", BREAKAGES)
def test_a_batch_with_a_damaged_record_keeps_its_agents(directory, caplog, breakage, name):
    """What is damaged is NaN, which is said, and the score is made again: nothing is trained."""
    expected = load_trials(directory)
    path = directory / "batches" / "0-1" / name
    BREAKAGES[breakage](path)
    with pytest.raises(RunError, match=r"0-1: its record is corrupt"):
        load_trials(directory)
    caplog.set_level(logging.WARNING, "purejaxppo")
    trials, seen = go_on(directory)
    assert not seen
    assert bits(load_trials(directory)) == bits(trials)
    assert "0-1: its record is corrupt" in caplog.messages[0]
    num_lost = sum(np.isnan(trial.metrics["entropy"]).sum() for trial in trials)
    if name == files.EVALUATIONS:
        assert bits(trials) == bits(expected)
    else:
        assert num_lost == 2 * {"truncated": 1, "flipped": 1}.get(breakage, NUM_UPDATES)
        assert "are damaged or lost" in caplog.messages[1]
    for trial, whole in zip(trials, expected, strict=True):
        np.testing.assert_array_equal(trial.scores, whole.scores)
        kept = ~np.isnan(trial.metrics["entropy"])
        np.testing.assert_array_equal(trial.metrics["entropy"][kept], whole.metrics["entropy"][kept])


def test_an_unfinished_batch_without_a_whole_checkpoint_is_trained_anew_and_reported(directory, caplog):
    expected = bits(load_trials(directory))
    batch = directory / "batches" / "0-1"
    (batch / files.SUMMARY).unlink()
    for path in (batch / files.CHECKPOINTS).rglob(checkpoints.MANIFEST):
        path.write_text("{}")
    caplog.set_level(logging.WARNING, "purejaxppo")
    trials, seen = go_on(directory)
    assert bits(trials) == bits(load_trials(directory)) == expected
    assert parts(seen) == ["program 1 of 2, batch 2 of 3"]
    assert [message.count("trained anew") for message in caplog.messages] == [1]


def test_a_summary_that_was_not_written_is(directory):
    """The process died between the last checkpoint and the summary."""
    expected = bits(load_trials(directory))
    (directory / "batches" / "0-1" / files.SUMMARY).unlink()
    trials, seen = go_on(directory)
    assert (bits(trials), seen) == (expected, [])


@pytest.mark.parametrize("name", [".", files.METRICS, files.TABLE, files.CHECKPOINTS, files.SUMMARY])
def test_links_in_place_of_a_batch_are_replaced_and_what_they_lead_to_is_untouched(directory, name):
    expected = bits(load_trials(directory))
    path = directory / "batches" / "0-1" / name
    elsewhere = directory / "elsewhere"
    shutil.move(path, elsewhere)
    before = contents(elsewhere) if elsewhere.is_dir() else elsewhere.read_bytes()
    path.symlink_to(elsewhere)
    with pytest.raises(RunError, match=r"must not be a symbolic link"):
        load_trials(directory)
    trials, seen = go_on(directory)
    assert bits(trials) == expected
    assert parts(seen) == ["program 1 of 2, batch 2 of 3"]
    assert not path.is_symlink()
    assert (contents(elsewhere) if elsewhere.is_dir() else elsewhere.read_bytes()) == before


def hostile(batch, name, content):
    """A file whose hash the summary confirms."""
    (batch / name).write_bytes(content)
    summary = json.loads((batch / files.SUMMARY).read_text())
    summary["sha256"][name] = files.hash_file(batch / name)
    (batch / files.SUMMARY).write_text(json.dumps(summary))


class Bomb:
    """What is executed when it is unpickled."""

    def __reduce__(self):
        return os.system, ("touch exploded",)


LINE = '{{"update": {}, "steps": 16, "entropy": {}}}\n'
ROWS = [LINE.format(update, "[1, 2]") for update in range(1, NUM_UPDATES + 1)]


@pytest.mark.parametrize(
    "content",
    [
        pickle.dumps(Bomb()),
        b"[" * 100_000 + b"\n",
        b"",
        "".join(ROWS[:-1]).encode(),
        "".join(LINE.format(update, "[1]") for update in range(1, NUM_UPDATES + 1)).encode(),
        "".join(LINE.format(update, '["x", 1]') for update in range(1, NUM_UPDATES + 1)).encode(),
        "".join(LINE.format(update, 1) for update in range(1, NUM_UPDATES + 1)).encode(),
    ],
    ids=["pickle", "deep", "empty", "short", "fewer rows", "words", "no rows"],
)
def test_a_hostile_batch_with_the_right_hash_is_refused(directory, content, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    hostile(directory / "batches" / "0-1", files.METRICS, content)
    with pytest.raises(RunError, match=r"0-1.*(is damaged|does not fit)"):
        load_trials(directory)
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("values", ['"score": ["x", 1]', '"score": [1, 2, 3]', '"gap": [1, 2]', '"score": null'])
def test_a_hostile_evaluation_with_the_right_hash_is_refused(directory, values):
    line = f'{{"update": {NUM_UPDATES}, "steps": 16, {values}}}\n'
    hostile(directory / "batches" / "0-1", files.EVALUATIONS, line.encode())
    with pytest.raises(RunError, match=r"0-1.*(is damaged|does not fit)"):
        load_trials(directory)


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
        (edit("format", value=1), "format=1: must be 2; another version of purejaxppo"),
        (edit("format"), "format=None: must be 2"),
        (edit("programs"), "sweep.json: is corrupt"),
        (edit("programs", 1), "sweep.json: is corrupt"),
        (edit("programs", 0, "num_rows", value=0), "sweep.json: is corrupt"),
        (edit("programs", 0, "num_rows", value="2"), "sweep.json: is corrupt"),
        (edit("programs", 0, "compile_seconds", value="2"), "sweep.json: is corrupt"),
        (edit("programs", value=[]), "sweep.json: is corrupt"),
        (edit("num_seeds", value=0), "sweep.json: is corrupt"),
        (edit("num_seeds", value=True), "sweep.json: is corrupt"),
        (edit("key"), "sweep.json: is corrupt"),
        (edit("algorithm"), "sweep.json: is corrupt"),
        (edit("algorithm", value=7), "is corrupt"),
        (edit("options"), "sweep.json: is corrupt"),
        (edit("trials", 0, "name", value=1), "sweep.json: is corrupt"),
        (edit("trials", 0, "config", value="lr = 1"), "sweep.json: is corrupt"),
    ],
)
def test_a_corrupt_manifest_is_refused_and_nothing_is_lost(directory, change, said):
    manifest = json.loads((directory / "sweep.json").read_text())
    change(manifest)
    (directory / "sweep.json").write_text(json.dumps(manifest))
    before = contents(directory)
    for read in (go_on, load_trials):
        with pytest.raises(RunError, match=said):
            read(directory)
    assert contents(directory) == before


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (edit("trials", 0, "config", "lr", value=-1), "lr=-1: must be"),
        (edit("trials", 0, "config", "env", "type", value="os.system"), r"env\.type='os\.system': must be one of"),
        (edit("trials", 0, "config", "network", value="os:system"), "network='os:system': must be a class"),
        (edit("options", "num_evaluations", value=-1), "num_evaluations=-1: must be"),
        (edit("options", value=[]), r"is corrupt \("),
        (edit("key", "impl", value="nope"), r"is corrupt \("),
        (edit("key", "data", value="x"), r"is corrupt \("),
    ],
)
def test_a_manifest_that_cannot_be_used_is_refused(directory, change, said):
    manifest = json.loads((directory / "sweep.json").read_text())
    change(manifest)
    (directory / "sweep.json").write_text(json.dumps(manifest))
    with pytest.raises(RunError, match=f"sweep.json: {said}"):
        load_trials(directory)


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\xfe", b"{}"])
def test_a_manifest_that_is_none_is_refused(directory, content):
    (directory / "sweep.json").write_bytes(content)
    with pytest.raises(RunError, match=r"sweep.json: "):
        go_on(directory)
    assert (directory / "sweep.json").read_bytes() == content


@pytest.mark.parametrize(
    ("config", "key", "arguments", "said"),
    [
        (
            CONFIG,
            KEY,
            {"num_seeds": 4},
            r"num_seeds=4: must be 3 as in the sweep in '.*copy', or the directory",
        ),
        (CONFIG, jax.random.key(4), {}, r"key: must be the same \(on the command line --seed\) as in the sweep"),
        (CONFIG.replace(gamma=0.5), KEY, {}, "gamma=0.5: must be 0.99 as in the sweep"),
        (CONFIG.replace(num_epochs=1), KEY, {}, "num_epochs=1: must be 4 as in the sweep"),
        (CONFIG.replace(env=GridWorld("S.M")), KEY, {}, r"env=\{.*'S.M'.*\}: must be \{.*\} as in the sweep"),
        (CONFIG, KEY, {"over": {"lr": [0.5]}}, r"over='lr=0.5': must be 'lr=0.001, .*activation=tanh' as in the sweep"),
        (CONFIG, KEY, {"options": RunOptions()}, r"options=\{'num_evaluations': 10.*\}: must be .* as in the sweep"),
        (
            CONFIG,
            KEY,
            {"algorithm": PPO._replace(score=bits)},
            "was made with the score purejaxppo.evaluation.score",
        ),
    ],
)
def test_another_sweep_in_the_directory_is_refused_by_what_differs(directory, config, key, arguments, said):
    before = contents(directory)
    with pytest.raises(ConfigError, match=said):
        sweep(config, key, directory=directory, **(ARGUMENTS | arguments))
    assert contents(directory) == before


def test_other_versions_are_warned_of(directory, caplog):
    manifest = json.loads((directory / "sweep.json").read_text())
    manifest["versions"]["jax"] = "0.1"
    (directory / "sweep.json").write_text(json.dumps(manifest))
    go_on(directory)
    assert len(caplog.messages) == 1
    assert "started with other versions" in caplog.text


def test_what_a_directory_records(directory):
    manifest = json.loads((directory / "sweep.json").read_text())
    assert manifest["trials"][1]["name"] == f"lr=0.001, {ACTIVATION}=relu"
    assert manifest["trials"][1]["config"]["network"]["activation"] == "relu"
    assert manifest["trials"][1]["config"]["env"]["layout"] == CONFIG.env.layout
    assert (manifest["num_seeds"], manifest["key"]["data"]) == (3, [0, 3])
    assert manifest["versions"]["jax"] == jax.__version__
    assert [program["num_rows"] for program in manifest["programs"]] == [2, 2]
    assert sorted(path.name for path in (directory / "batches").iterdir()) == BATCHES
    lines = (directory / "batches" / "1-2" / files.METRICS).read_text().splitlines()
    assert [len(json.loads(line)["entropy"]) for line in lines] == [2] * NUM_UPDATES


@pytest.mark.parametrize("name", ["notes.txt", "run.json"])
def test_a_directory_with_something_else_is_refused_and_untouched(tmp_path, name):
    (tmp_path / name).write_text("mine")
    with pytest.raises(ConfigError, match=r"directory='.*': must be new or empty, or hold a sweep"):
        go_on(tmp_path)
    assert contents(tmp_path) == {tmp_path / name: b"mine"}
    with pytest.raises(RunError):
        load_trials(tmp_path)


def test_links_are_not_followed(directory, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "batches").symlink_to(directory / "batches")
    with pytest.raises(RunError, match="batches: must not be a symbolic link"):
        go_on(other)
    (directory / "sweep.json").rename(tmp_path / "sweep.json")
    (directory / "sweep.json").symlink_to(tmp_path / "sweep.json")
    with pytest.raises(RunError, match=r"sweep.json: must be a file, not a link"):
        load_trials(directory)


def test_a_directory_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(RunError, match=r"directory='.*': cannot be written to \(.*\)"):
            go_on(path)
    with pytest.raises(RunError, match="must hold a sweep"):
        load_trials(tmp_path / "file")


@pytest.mark.parametrize("name", ["write", "hash_file"])
def test_a_full_disk_is_reported_and_the_sweep_goes_on_later(name, tmp_path, directory, monkeypatch):
    genuine, num_calls = getattr(files, name), itertools.count()

    def call_until_full(*args):
        if next(num_calls) > 20:
            raise OSError(errno.ENOSPC, "No space left on device")
        return genuine(*args)

    monkeypatch.setattr(files, name, call_until_full)
    with pytest.raises(RunError, match=r"directory='.*': cannot be written to \(No space left on device\)"):
        go_on(tmp_path / "new")
    monkeypatch.setattr(files, name, genuine)
    assert bits(go_on(tmp_path / "new")[0]) == bits(load_trials(directory))


def test_a_directory_in_use_is_refused(directory):
    with files.lock(directory), pytest.raises(RunError, match="is locked by another process"):
        go_on(directory)
    go_on(directory)


def test_an_environment_that_no_file_can_hold_is_refused_before_anything_is_written(tmp_path):
    config = CONFIG.replace(env=probes.ConstantReward())
    with pytest.raises(PurejaxppoError, match="env="):
        sweep(config, KEY, directory=tmp_path / "new", num_seeds=1, over={})
    assert not (tmp_path / "new").exists()


def test_the_size_of_the_batches_is_kept_and_must_still_fit(directory, monkeypatch):
    shutil.rmtree(directory / "batches" / "1-0")
    with pytest.raises(ConfigError, match=r"max_bytes=1: must be at least \d+, the memory of 2 agents"):
        go_on(directory, max_bytes=1)
    trials, seen = go_on(directory, max_bytes=10**9)
    assert parts(seen) == ["program 2 of 2, batch 1 of 3"]
    assert len(trials) == 4


PROGRAM = """
import itertools, sys, jax
jax.config.update("jax_compilation_cache_dir", sys.argv[2])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
from purejaxppo.experiment.runs import checkpoints, files, loop
from tests.experiment.test_sweep_directories import ARGUMENTS, CONFIG, KEY, available_bytes, sweeps
loop.HOST_SHARE = float("inf")  # checkpoints without end, so that most kills hit one
loop.CHUNK_SECONDS = (0.0, 0.0)
sweeps.available_bytes = available_bytes
saves, write = itertools.count(1), files.write

def write_or_wait(path, *args):
    if path.name == checkpoints.MANIFEST and next(saves) > 2:
        print("waits", flush=True)
        sys.stdin.read()  # for its end, amid its third save: however fast the machine is, it does not get far
    write(path, *args)

files.write = write_or_wait
print("ready", flush=True)
options = sweeps.OPTIONS.replace(checkpoint_seconds=0.0)
config = CONFIG.replace(total_timesteps=16 * 8)  # 48 updates in all, of which one that is killed makes 3 at most
sweeps.sweep(config, KEY, directory=sys.argv[1], options=options, **ARGUMENTS)
"""


NUM_KILLS = 16
ENDS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM)  # in turn
STOPPED = 1  # as Python has it for an exception that nobody catches


@pytest.mark.slow
def test_a_sweep_that_is_killed_at_random_moments_gives_the_same_bits(tmp_path):
    """`kill -9`, whatever it is doing: every time it has got further than before."""
    moments, batches = random.Random(0), tmp_path / "killed" / "batches"

    def start(directory, stdin=subprocess.PIPE):
        command = [sys.executable, "-c", PROGRAM, str(directory), str(tmp_path / "cache")]
        process = subprocess.Popen(command, stdin=stdin, stdout=subprocess.PIPE, cwd=ROOT)
        process.stdout.readline()  # imports are done
        return process

    def saved():
        return {path for path in batches.glob("*/checkpoints/*") if path.name.isdecimal()}

    assert start(tmp_path / "whole", subprocess.DEVNULL).wait() == 0
    during_a_save = 0
    for number in range(NUM_KILLS):
        before, process = saved(), start(tmp_path / "killed")
        if number % 2:
            process.stdout.readline()  # it waits
        while process.poll() is None and saved() <= before:
            time.sleep(1e-3)  # until there is a checkpoint that was not there, however slow the machine is
        time.sleep(moments.uniform(0, 0.2))
        signum = ENDS[number % len(ENDS)]
        process.send_signal(signum)
        process.communicate()  # which ends its wait
        assert process.returncode == (-signal.SIGKILL if signum == signal.SIGKILL else STOPPED)
        during_a_save += any(batches.glob(f"*/checkpoints/{files.TEMPORARY}*"))
    print(f"killed {NUM_KILLS} times, {during_a_save} times during a save, in {len(list(batches.iterdir()))} batches")
    assert during_a_save >= sum(ENDS[number % len(ENDS)] == signal.SIGKILL for number in range(1, NUM_KILLS, 2))
    with pytest.raises(RunError):
        load_trials(tmp_path / "killed")
    assert start(tmp_path / "killed", subprocess.DEVNULL).wait() == 0
    assert bits(load_trials(tmp_path / "killed")) == bits(load_trials(tmp_path / "whole"))
