"""Runs that are stopped, killed or crash: resuming them changes nothing, bit for bit."""

import contextlib
import functools
import itertools
import json
import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from purejaxppo import update
from purejaxppo.algorithms import PPO
from purejaxppo.errors import ConfigError, RunError
from purejaxppo.experiment import RunOptions, load, resume, run
from purejaxppo.experiment.runs import files, loop
from purejaxppo.experiment.runs.checkpoints import fingerprint
from purejaxppo.experiment.runs.loop import read_outcome
from purejaxppo.experiment.runs.run import open_run
from tests.support.runs import (
    CONFIG,
    KEYS,
    NUM_UPDATES,
    ONE_AND_MANY,
    QUIET,
    RECORD,
    Crash,
    begin_and_stop,
    check_same,
    checkpoint_always,
    crash_at,
    interrupt,
    numbers,
    read_evaluations,
    read_metrics,
    uninterrupted,
)


@ONE_AND_MANY
def test_stopped_after_every_chunk_it_is_the_same(key, tmp_path):
    options = RunOptions(num_evaluations=3, evaluation_episodes=4)
    begin_and_stop(tmp_path / "run", key, options)
    stops = 1
    while True:
        try:
            outcome = resume(tmp_path / "run", callback=interrupt)
            break
        except KeyboardInterrupt:
            stops += 1
            assert numbers(tmp_path / "run")[-1] == stops
    assert stops == NUM_UPDATES  # each process begins with a chunk of one update; the last one has to evaluate only
    check_same(tmp_path / "run", outcome, key, options)
    again = resume(tmp_path / "run")  # there is nothing left to do
    check_same(tmp_path / "run", again, key, options)


@pytest.mark.parametrize("length", [1, 3, 100])
def test_the_length_of_the_chunks_makes_no_difference(length, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "next_length", lambda *arguments: min(length, arguments[-1]))
    seen = []
    outcome = run(CONFIG, KEYS, tmp_path, options=QUIET, callback=lambda progress: seen.append(progress.num_updates))
    assert seen == [1, *range(1 + length, NUM_UPDATES, length), NUM_UPDATES]
    check_same(tmp_path, outcome, KEYS)


@ONE_AND_MANY
def test_a_crash_loses_only_what_came_after_the_checkpoint(key, tmp_path, monkeypatch):
    options = checkpoint_always(monkeypatch)
    with pytest.raises(Crash):
        run(CONFIG, key, tmp_path, options=options, callback=crash_at(6))
    assert numbers(tmp_path) == [3, 4, 5]
    with (tmp_path / files.METRICS).open("a") as file:
        file.write('{"update": 6, "st')  # as the process was killed
    (tmp_path / files.CHECKPOINTS / f"{files.TEMPORARY}6").mkdir()
    began = []
    outcome = resume(tmp_path, callback=lambda progress: began.append(progress.num_updates))
    assert began[0] == 6
    check_same(tmp_path, outcome, key)
    assert not list(tmp_path.rglob(f"{files.TEMPORARY}*"))


def test_a_run_that_has_no_checkpoint_yet_begins_anew(tmp_path):
    with pytest.raises(Crash):
        run(CONFIG, KEYS, tmp_path, options=QUIET, callback=crash_at(2))
    assert numbers(tmp_path) == []
    with pytest.raises(RunError, match="has no checkpoint yet"):
        load(tmp_path)
    check_same(tmp_path, resume(tmp_path), KEYS)


def test_a_broken_checkpoint_costs_the_time_since_the_one_before(tmp_path, monkeypatch, caplog):
    options = checkpoint_always(monkeypatch)
    with pytest.raises(Crash):
        run(CONFIG, KEYS[0], tmp_path, options=options, callback=crash_at(6))
    newest = tmp_path / files.CHECKPOINTS / "5"
    victim = max((path for path in newest.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    os.truncate(victim, 10)
    _, state = load(tmp_path)
    assert state.num_updates == 4
    (message,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert str(newest) in message
    assert message.endswith("using the checkpoint after update 4")
    check_same(tmp_path, resume(tmp_path), KEYS[0])
    assert numbers(tmp_path)[-1] == NUM_UPDATES


def test_a_run_killed_before_its_summary_gets_one(tmp_path):
    directory = shutil.copytree(uninterrupted(KEYS)[0], tmp_path / "run")
    (directory / files.SUMMARY).unlink()
    check_same(directory, resume(directory), KEYS)
    summary = json.loads((directory / files.SUMMARY).read_text())
    assert (summary["resumed_after"], summary["steps_per_second"]) == (NUM_UPDATES, 0)


def test_ctrl_c_saves_and_says_how_to_continue(tmp_path):
    directory = tmp_path / "a run"
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt) as stop:
        run(CONFIG, KEYS, directory, options=QUIET, callback=interrupt)
    expected = f"stopped after 1 of 8 updates, all of them saved; to continue: purejaxppo resume '{directory}'"
    assert str(stop.value) == expected
    assert numbers(directory) == [1]
    assert signal.getsignal(signal.SIGINT) is before


def test_ctrl_c_while_it_compiles(tmp_path):
    traced = []

    @functools.wraps(PPO.init)  # so that it has the same name
    def init(*args):
        if not traced:
            interrupt(None)  # once: a second time would end it at once
        traced.append(args)
        return PPO.init(*args)

    with pytest.raises(KeyboardInterrupt, match=r"stopped after 0 of 8 updates, .* purejaxppo resume"):
        run(CONFIG, KEYS, tmp_path, options=QUIET, algorithm=PPO._replace(init=init))
    check_same(tmp_path, resume(tmp_path), KEYS)


@pytest.fixture
def ctrl_c():
    """Ctrl-C raises, as in a terminal; a shell starts what runs in the background without."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c")
def test_a_second_ctrl_c_stops_at_once(tmp_path):
    def twice(progress):
        interrupt(progress)
        interrupt(progress)
        pytest.fail("it went on")

    with pytest.raises(KeyboardInterrupt, match=f"^interrupted; to continue: purejaxppo resume {tmp_path}$"):
        run(CONFIG, KEYS, tmp_path, options=QUIET, callback=twice)
    assert numbers(tmp_path) == []
    check_same(tmp_path, resume(tmp_path), KEYS)


def test_a_run_in_another_thread(tmp_path):
    outcome = []
    thread = threading.Thread(target=lambda: outcome.append(run(CONFIG, KEYS, tmp_path, options=QUIET)))
    thread.start()
    thread.join()
    check_same(tmp_path, outcome[0], KEYS)


def test_only_one_process_runs_a_run(tmp_path):
    said = []

    def try_both(progress):
        for begin in (lambda: resume(tmp_path), lambda: run(CONFIG, KEYS, tmp_path, overwrite=True)):
            with pytest.raises(RunError, match="is locked by another process") as error:
                begin()
            said.append(str(error.value))

    outcome = run(CONFIG, KEYS, tmp_path, options=QUIET, callback=try_both)
    assert said
    check_same(tmp_path, outcome, KEYS)


@pytest.mark.few(1)
@ONE_AND_MANY
def test_a_finished_run_goes_on_for_more_steps(key, tmp_path):
    """Under the schedules of a run of the new length, as if its configuration had been this one from here on."""
    options = RunOptions(num_evaluations=3, evaluation_episodes=4)
    directory = shutil.copytree(uninterrupted(key, options)[0], tmp_path / "run")
    config, state = load(directory)
    before = [read(directory) for read in (read_metrics, read_evaluations)]
    longer = config.replace(total_timesteps=config.batch_size * (NUM_UPDATES + 4))

    got, metrics = resume(directory, total_timesteps=longer.total_timesteps)
    go_on = jax.jit(update) if not key.ndim else jax.jit(jax.vmap(update, (None, 0)))
    for _ in range(4):
        state, _ = go_on(longer, state)
    for leaf, other in zip(jax.tree.leaves(got.params), jax.tree.leaves(state.params), strict=True):
        np.testing.assert_allclose(leaf, other, rtol=1e-3, atol=1e-5)
    assert np.all(metrics["approx_kl"][..., NUM_UPDATES] > 1e-6)  # the learning rate, which came to 0, is not 0 again
    for read, earlier in zip((read_metrics, read_evaluations), before, strict=True):
        for name, values in read(directory).items():
            np.testing.assert_array_equal(values[..., : earlier[name].shape[-1]], earlier[name])
    assert read_evaluations(directory)["update"].tolist() == [3, 5, 8, 12]
    assert load(directory)[0] == longer
    assert np.shape(read_outcome(open_run(directory).job).metrics["entropy"])[-1] == NUM_UPDATES + 4

    again = resume(directory)  # finished, at its new length
    assert fingerprint(again) == fingerprint((got, metrics))


def test_other_lengths(tmp_path):
    directory = shutil.copytree(uninterrupted(KEYS)[0], tmp_path / "run")
    text = (directory / files.CONFIG).read_text()
    for steps, said in ((96, "total_timesteps=96: must be at least 256, which are done"), (0.5, "total_timesteps=0.5")):
        with pytest.raises(ConfigError, match=said):
            resume(directory, total_timesteps=steps)
        assert (directory / files.CONFIG).read_text() == text
    check_same(directory, resume(directory, total_timesteps=32 * NUM_UPDATES), KEYS)  # as many updates as before
    (directory / files.CONFIG).write_text(
        text.replace(f"total_timesteps = {CONFIG.total_timesteps}", "total_timesteps = 288")
    )
    state, metrics = resume(directory)  # who edits the file means it
    assert (state.num_updates.tolist(), metrics["entropy"].shape) == ([9] * 3, (3, 9))


def test_a_run_that_was_stopped_can_end_where_it_is(tmp_path):
    begin_and_stop(tmp_path)
    _, metrics = resume(tmp_path, total_timesteps=32)
    assert metrics["entropy"].shape == (3, 1) or metrics["entropy"].shape == (1,)
    assert (tmp_path / files.SUMMARY).exists()


@pytest.mark.parametrize("is_finished", [True, False])
@pytest.mark.parametrize("name", [files.METRICS, files.EVALUATIONS])
def test_a_damaged_record_keeps_no_checkpoint_from_being_used(name, is_finished, tmp_path, caplog):
    options = RunOptions(num_evaluations=3, evaluation_episodes=4)
    directory = shutil.copytree(uninterrupted(KEYS, options)[0], tmp_path / "run")
    whole = read_metrics(directory), read_evaluations(directory)
    if not is_finished:
        (directory / files.SUMMARY).unlink()
    path = directory / name
    lines = path.read_text().splitlines(keepends=True)
    path.write_text(lines[0] + "".join(lines[2:]))
    state, metrics = resume(directory)
    assert fingerprint(state) == json.loads((directory / files.SUMMARY).read_text())["state_sha256"]
    kept = [update for update in range(NUM_UPDATES) if name != files.METRICS or update != 1]
    np.testing.assert_array_equal(metrics["entropy"][:, kept], whole[0]["entropy"][:, kept])
    assert np.isnan(metrics["entropy"]).sum() == (3 if name == files.METRICS else 0)
    found = read_evaluations(directory)
    assert found["update"].tolist() == ([3, 5, 8] if name == files.METRICS else [3, 8])
    np.testing.assert_array_equal(found["score"][:, -1], whole[1]["score"][:, -1])
    assert ("checksum mismatch" in caplog.text) == is_finished
    read_outcome(open_run(directory).job)  # which report reads


def test_the_last_evaluation_is_made_again_if_it_is_lost(tmp_path):
    options = RunOptions(num_evaluations=3, evaluation_episodes=4)
    directory = shutil.copytree(uninterrupted(KEYS, options)[0], tmp_path / "run")
    path = directory / files.EVALUATIONS
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    check_same(directory, resume(directory), KEYS, options)


@pytest.mark.parametrize("overwrite", [False, True], ids=["new", "overwritten"])
def test_a_beginning_that_was_cut_short_is_no_dead_end(overwrite, tmp_path, monkeypatch):
    """Whichever change of the directory was a process's last, a script gets on that resumes if there is a run."""
    train, moments = loop.train, itertools.count()

    def crash(*args, **kwargs):
        raise Crash

    monkeypatch.setattr(loop, "train", crash)
    is_cut = True
    while is_cut:
        directory = tmp_path / str(moment := next(moments))
        if overwrite:
            shutil.copytree(uninterrupted(KEYS)[0], directory)
        with monkeypatch.context() as patch, contextlib.suppress(Crash):
            changes = crash_after(moment, patch)
            run(CONFIG, KEYS, directory, options=QUIET, overwrite=overwrite)
        is_cut = next(changes) > moment
        with contextlib.suppress(Crash):
            resume(directory) if (directory / files.RUN).exists() else run(CONFIG, KEYS, directory, options=QUIET)
        assert json.loads((directory / files.RUN).read_text())["key"]
    assert moment >= 8
    monkeypatch.setattr(loop, "train", train)
    check_same(directory, resume(directory), KEYS)


def crash_after(moment, patch):
    """Let a process die at its change number `moment` of the disk; returns the counter of its changes."""
    count = itertools.count()

    def counted(change):
        def call(*args, **kwargs):
            if next(count) >= moment:
                raise Crash
            return change(*args, **kwargs)

        return call

    for owner, name in ((files, "write"), (files, "delete"), (Path, "rename"), (Path, "mkdir"), (Path, "replace")):
        patch.setattr(owner, name, counted(getattr(owner, name)))
    return count


RUN_IN_A_PROCESS = """
import sys, jax
jax.config.update("jax_compilation_cache_dir", sys.argv[2])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
from pathlib import Path
from purejaxppo import MLP, Config
from purejaxppo.experiment import RunOptions, resume, run
from purejaxppo.experiment.runs import loop
loop.HOST_SHARE = float("inf")  # checkpoints without end, so that most kills hit one
loop.CHUNK_SECONDS = (0.02, 0.02)
sizes = {"num_envs": 16, "num_steps": 32, "total_timesteps": 512 * 3000}
config = Config(env="GridWorld-treasure", network=MLP(hidden_sizes=(16,)), **sizes)
options = RunOptions(num_evaluations=7, evaluation_episodes=4, checkpoint_seconds=0.0)
directory = Path(sys.argv[1])
callback = lambda progress: print("a chunk", flush=True)
if (directory / "run.json").exists():
    resume(directory, callback=callback)
else:
    run(config, KEYS, directory, options=options, callback=callback)
"""


NUM_KILLS = 24
ENDS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM)  # in turn


@pytest.mark.slow
@pytest.mark.parametrize("keys", ["jax.random.key(5)", "jax.random.split(jax.random.key(5), 3)"], ids=["one", "many"])
def test_killed_at_random_moments_it_is_the_same(keys, tmp_path):
    def command(name):
        return [sys.executable, "-c", RUN_IN_A_PROCESS.replace("KEYS", keys), tmp_path / name, tmp_path / "cache"]

    subprocess.run(command("whole"), check=True, stdout=subprocess.DEVNULL)
    moments, during_a_save = random.Random(0), 0
    checkpoints = tmp_path / "killed" / files.CHECKPOINTS
    for number in range(NUM_KILLS):
        process = subprocess.Popen(command("killed"), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        process.stdout.readline()  # a chunk is done
        while number % 2 and process.poll() is None and not any(checkpoints.glob(f"{files.TEMPORARY}*")):
            time.sleep(1e-3)  # every other time until there is a save under way, however slow the machine is
        time.sleep(moments.uniform(0, 0.02 if number % 2 else 0.4))
        signum = ENDS[number % len(ENDS)]
        process.send_signal(signum)
        _, errors = process.communicate()
        assert process.returncode == -signum or b"Interrupted: stopped after" in errors, errors.decode()
        during_a_save += any(checkpoints.glob(f"{files.TEMPORARY}*"))
    print(f"killed {NUM_KILLS} times, {during_a_save} times during a save, up to update {numbers(tmp_path / 'killed')}")
    assert during_a_save >= 5
    subprocess.run(command("killed"), check=True, stdout=subprocess.DEVNULL)
    for name in RECORD:
        assert (tmp_path / "killed" / name).read_text() == (tmp_path / "whole" / name).read_text()
    hashes = [json.loads((tmp_path / run / files.SUMMARY).read_text())["state_sha256"] for run in ("killed", "whole")]
    assert hashes[0] == hashes[1]
