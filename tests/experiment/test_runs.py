"""Runs: what they leave behind, and that stopping and going on changes nothing, bit for bit."""

import errno
import functools
import json
import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from purejaxppo import Config, ConfigError, GridWorld, GridWorldParams, act, evaluate, optimality, preset, train
from purejaxppo.experiment import Schedule, load, load_policy, resume, run
from purejaxppo.experiment.runs import checkpoints, files, logs, loop
from purejaxppo.experiment.runs.loop import fingerprint
from purejaxppo.experiment.runs.provenance import provenance
from tests.support import probes
from tests.support.small import names

NUM_UPDATES = 8
CONFIG = Config(
    env=GridWorld("S.M\n.D."),
    env_params=GridWorldParams(slip=0.1, max_steps_in_episode=5),
    num_envs=4,
    num_steps=8,
    total_timesteps=32 * NUM_UPDATES + 3,
    hidden_sizes=(8,),
    lr=0.02,
)
KEYS = jax.random.split(jax.random.key(3), 3)
ONE_AND_MANY = pytest.mark.parametrize("key", [KEYS[0], KEYS], ids=["one", "many"])
QUIET = Schedule(num_evaluations=0)
RECORD = (files.METRICS, files.TABLE, files.EVALUATIONS)


def interrupt(progress):
    signal.raise_signal(signal.SIGINT)


def numbers(directory):
    return checkpoints.numbers(directory / files.CHECKPOINTS)


@functools.cache
def _uninterrupted(is_many, schedule):
    directory = Path(tempfile.mkdtemp()) / "run"
    state, metrics = run(CONFIG, KEYS if is_many else KEYS[0], directory, schedule=schedule)
    return directory, fingerprint((state, metrics))


def uninterrupted(key, schedule=QUIET):
    """The directory of a run that never stopped, and the hash of what it returned."""
    return _uninterrupted(key.ndim > 0, schedule)


def check_same(directory, outcome, key, schedule=QUIET):
    """That a run is the uninterrupted one: what it returns, and its record, to the last bit."""
    reference, expected = uninterrupted(key, schedule)
    assert fingerprint(outcome) == expected
    for name in RECORD:
        assert (directory / name).read_text() == (reference / name).read_text()
    reports = [json.loads((place / files.ACCOUNT).read_text()) for place in (directory, reference)]
    assert reports[0]["state_sha256"] == reports[1]["state_sha256"] == fingerprint(outcome[0])


def begin_and_stop(directory, key=KEYS[0], schedule=QUIET, watch=interrupt):
    with pytest.raises(KeyboardInterrupt):
        run(CONFIG, key, directory, schedule=schedule, watch=watch)
    return directory


def crash_at(update):
    def watch(progress):
        if progress.num_updates >= update:
            raise RuntimeError("crash")

    return watch


def checkpoint_always(monkeypatch):
    """And let the chunks be short: of one update."""
    monkeypatch.setattr(loop, "HOST_SHARE", float("inf"))
    monkeypatch.setattr(loop, "CHUNK_SECONDS", (0.0, 0.0))
    return QUIET.replace(checkpoint_seconds=0)


@ONE_AND_MANY
def test_a_run_is_a_training(key, tmp_path):
    state, metrics = run(CONFIG, key, tmp_path / "run", schedule=QUIET)
    expected_state, expected = (jax.vmap(train, in_axes=(None, 0)) if key.ndim else train)(CONFIG, key)
    assert metrics.keys() == expected.keys()
    for name in expected:
        assert metrics[name].shape == expected[name].shape
        np.testing.assert_allclose(metrics[name], expected[name], rtol=1e-3, atol=1e-5)
    for leaf, other in zip(jax.tree.leaves(state.params), jax.tree.leaves(expected_state.params), strict=True):
        np.testing.assert_allclose(leaf, other, rtol=1e-3, atol=1e-5)
    assert np.all(state.num_updates == NUM_UPDATES)


@ONE_AND_MANY
def test_stopped_after_every_chunk_it_is_the_same(key, tmp_path):
    schedule = Schedule(num_evaluations=3, evaluation_episodes=4)
    begin_and_stop(tmp_path / "run", key, schedule)
    stops = 1
    while True:
        try:
            outcome = resume(tmp_path / "run", watch=interrupt)
            break
        except KeyboardInterrupt:
            stops += 1
            assert numbers(tmp_path / "run")[-1] == stops
    assert stops == NUM_UPDATES - 1  # each process begins with a chunk of one update
    check_same(tmp_path / "run", outcome, key, schedule)
    again = resume(tmp_path / "run")  # there is nothing left to do
    check_same(tmp_path / "run", again, key, schedule)


@pytest.mark.parametrize("length", [1, 3, 100])
def test_the_length_of_the_chunks_makes_no_difference(length, tmp_path, monkeypatch):
    monkeypatch.setattr(loop._Session, "next_length", lambda self, *_: min(length, self.size))
    seen = []
    outcome = run(CONFIG, KEYS, tmp_path, schedule=QUIET, watch=lambda progress: seen.append(progress.num_updates))
    assert seen == [1, *range(1 + length, NUM_UPDATES, length), NUM_UPDATES]
    check_same(tmp_path, outcome, KEYS)


@ONE_AND_MANY
def test_a_crash_loses_only_what_came_after_the_checkpoint(key, tmp_path, monkeypatch):
    schedule = checkpoint_always(monkeypatch)
    with pytest.raises(RuntimeError, match="crash"):
        run(CONFIG, key, tmp_path, schedule=schedule, watch=crash_at(6))
    assert numbers(tmp_path) == [3, 4, 5]
    with (tmp_path / files.METRICS).open("a") as file:
        file.write('{"update": 6, "st')  # as the process was killed
    (tmp_path / files.CHECKPOINTS / f"{files.TEMPORARY}6").mkdir()
    began = []
    outcome = resume(tmp_path, watch=lambda progress: began.append(progress.num_updates))
    assert began[0] == 6
    check_same(tmp_path, outcome, key)
    assert not list(tmp_path.rglob(f"{files.TEMPORARY}*"))


def test_a_run_that_has_no_checkpoint_yet_begins_anew(tmp_path):
    with pytest.raises(RuntimeError, match="crash"):
        run(CONFIG, KEYS, tmp_path, schedule=QUIET, watch=crash_at(2))
    assert numbers(tmp_path) == []
    with pytest.raises(ConfigError, match="has no checkpoint yet"):
        load(tmp_path)
    check_same(tmp_path, resume(tmp_path), KEYS)


def test_a_broken_checkpoint_costs_the_time_since_the_one_before(tmp_path, monkeypatch, caplog):
    schedule = checkpoint_always(monkeypatch)
    with pytest.raises(RuntimeError, match="crash"):
        run(CONFIG, KEYS[0], tmp_path, schedule=schedule, watch=crash_at(6))
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


def test_a_run_killed_before_its_account_gets_one(tmp_path):
    directory = shutil.copytree(uninterrupted(KEYS)[0], tmp_path / "run")
    (directory / files.ACCOUNT).unlink()
    check_same(directory, resume(directory), KEYS)
    account = json.loads((directory / files.ACCOUNT).read_text())
    assert (account["resumed_after"], account["steps_per_second"]) == (NUM_UPDATES, 0)


def test_what_a_run_leaves_behind(tmp_path):
    directory, _ = uninterrupted(KEYS)
    assert names(directory) == sorted([*RECORD, "checkpoints", "config.toml", "lock", "account.json", "run.json"])
    assert preset(directory / "config.toml") == CONFIG
    description = json.loads((directory / "run.json").read_text())
    assert description["key"]["data"] == jax.random.key_data(KEYS).tolist()
    assert description["versions"]["jax"] == jax.__version__
    assert description["devices"] == [device.device_kind for device in jax.devices()]
    assert description["command"]
    head = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True)
    assert (description["git"] or {"commit": ""})["commit"] == head.stdout.strip()
    account = json.loads((directory / "account.json").read_text())
    assert (account["num_updates"], account["steps"]) == (NUM_UPDATES, 3 * 32 * NUM_UPDATES)
    assert len(account["episode_return"]) == 3
    assert len((directory / files.METRICS).read_text().splitlines()) == NUM_UPDATES
    assert len((directory / files.TABLE).read_text().splitlines()) == 1 + 3 * NUM_UPDATES


def test_outside_of_a_repository_there_is_no_git_state(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert provenance()["git"] is None


def test_the_newest_and_the_best_checkpoints_stay(tmp_path, monkeypatch):
    schedule = checkpoint_always(monkeypatch).replace(keep_checkpoints=2)
    returns = iter([1.0, 5.0, 2.0, float("nan"), 3.0, 0.0, 0.0, 0.0])
    scores = {}

    def scripted(session):
        if session.done not in scores:
            scores[session.done] = next(returns)
        return np.array([scores[session.done]])

    monkeypatch.setattr(loop._Session, "recent_return", scripted)
    run(CONFIG, KEYS[0], tmp_path, schedule=schedule)
    assert numbers(tmp_path) == [2, 7, 8]


def test_progress_is_told_after_every_chunk(tmp_path):
    seen = []
    run(CONFIG, KEYS, tmp_path, schedule=QUIET, watch=seen.append)
    last = seen[-1]
    assert [progress.num_updates for progress in seen] == sorted({progress.num_updates for progress in seen})
    assert (last.num_updates, last.total_updates) == (NUM_UPDATES, NUM_UPDATES)
    assert last.num_steps == last.total_steps == 3 * 32 * NUM_UPDATES
    assert last.seconds_left == 0
    assert last.steps_per_second > 0
    metrics = logs.read_metrics(tmp_path)
    np.testing.assert_allclose(last.episode_return, np.nanmean(metrics["episode_return"], axis=1), rtol=1e-5)
    assert last.episode_return.shape == (3,)


def test_chunks_are_as_long_as_makes_the_host_cheap_and_a_stop_prompt():
    session = object.__new__(loop._Session)
    session.size = 1000
    shortest, longest = loop.CHUNK_SECONDS
    assert session.next_length(shortest / 100, host_seconds=0) == 100
    assert session.next_length(0.01, host_seconds=1.0 * loop.HOST_SHARE) == 100
    assert session.next_length(0.01, host_seconds=1e3) == longest / 0.01
    assert session.next_length(1e-9, host_seconds=0) == 1000  # as many as the buffer holds
    assert session.next_length(60, host_seconds=0) == 1


def test_evaluations_come_evenly_and_are_of_the_agents_of_that_moment(tmp_path):
    schedule = Schedule(num_evaluations=3, evaluation_episodes=4)
    directory, _ = uninterrupted(KEYS, schedule)
    found = logs.read_evaluations(directory)
    np.testing.assert_array_equal(found["update"], [3, 5, 8])
    _, state = load(directory)
    exact = jax.vmap(lambda state: optimality(CONFIG, state))(state)
    for name in ("gap", "expected_return", "value_error"):
        np.testing.assert_allclose(found[name][:, -1], getattr(exact, name), rtol=1e-5, atol=1e-6)
    assert not np.allclose(found["value_error"][:, 0], found["value_error"][:, -1])
    for name in ("greedy", "sampled"):
        assert found[f"{name}_return"].shape == (3, 3)
        assert np.all((found[f"{name}_length"] >= 1) & (found[f"{name}_length"] <= 5))
    assert not np.array_equal(found["greedy_return"], found["sampled_return"])


@pytest.mark.parametrize(
    ("count", "expected"), [(0, []), (1, [8]), (2, [4, 8]), (8, [*range(1, 9)]), (99, [*range(1, 9)])]
)
def test_when_evaluations_are_due(count, expected):
    assert loop.Job(Path(), CONFIG, KEYS, Schedule(num_evaluations=count), "").evaluations == expected


def test_evaluations_use_random_numbers_of_their_own(tmp_path):
    """Training is the same without them; and they play other episodes at every time and for every agent."""
    schedule = Schedule(num_evaluations=3, evaluation_episodes=4)
    assert uninterrupted(KEYS, schedule)[1] == uninterrupted(KEYS)[1]
    seen = []
    state = loop.init(CONFIG, KEYS[0])
    for key, update in ((KEYS[0], 1), (KEYS[0], 2), (KEYS[1], 1)):
        found = loop._evaluate(CONFIG, state, key, update, num_episodes=64, is_many=False)
        seen.append(float(found["sampled_return"]))
    plain = evaluate(CONFIG, state, KEYS[0], num_episodes=64, greedy=False).episode_return.mean()
    assert len({*seen, float(plain)}) == 4


def test_without_a_model_there_is_no_gap(tmp_path):
    config = Config(env="CartPole-v1", num_envs=2, num_steps=8, total_timesteps=16, hidden_sizes=(4,))
    run(config, KEYS[0], tmp_path, schedule=Schedule(num_evaluations=1, evaluation_episodes=2))
    found = logs.read_evaluations(tmp_path)
    assert sorted(found) == ["greedy_length", "greedy_return", "sampled_length", "sampled_return", "update"]
    np.testing.assert_array_equal(found["greedy_return"], found["greedy_length"])  # a reward of 1 for every step


def test_loggers_get_every_update_and_evaluation(tmp_path):
    rows, begun = [], []

    class Logger:
        def __init__(self, directory, num_updates):
            begun.append((directory, num_updates))

        def write(self, update, steps, values):
            rows.append((update, steps, {name: np.array(value) for name, value in values.items()}))

        def close(self):
            rows.append("closed")

    schedule = Schedule(num_evaluations=3, evaluation_episodes=4)
    with pytest.raises(KeyboardInterrupt):
        run(CONFIG, KEYS, tmp_path, schedule=schedule, loggers=[Logger], watch=interrupt)
    assert (begun, rows[1:]) == ([(tmp_path, 0)], ["closed"])
    resume(tmp_path, loggers=[Logger])
    assert begun[1] == (tmp_path, 1)
    rows = [row for row in rows if row != "closed"]
    assert [row[0] for row in rows] == sorted(row[0] for row in rows)  # as Weights & Biases needs it
    updates = [row for row in rows if "episode_return" in row[2]]
    assert [(update, steps) for update, steps, _ in updates] == [(n, 32 * n) for n in range(1, NUM_UPDATES + 1)]
    metrics = logs.read_metrics(tmp_path)
    np.testing.assert_array_equal(np.stack([row["entropy"] for *_, row in updates]).T, metrics["entropy"])
    found = [(update, row["evaluation/greedy_return"]) for update, _, row in rows if "evaluation/greedy_return" in row]
    assert [update for update, _ in found] == [3, 5, 8]
    np.testing.assert_array_equal(
        np.stack([value for _, value in found]).T, logs.read_evaluations(tmp_path)["greedy_return"]
    )


def test_a_logger_that_fails_does_not_kill_the_run(tmp_path, caplog):
    def fail(directory, num_updates):
        raise RuntimeError("no network")

    run(CONFIG, KEYS, tmp_path, schedule=QUIET, loggers=[fail])
    assert "no network" in caplog.text


def test_the_library_logs_and_does_not_print(tmp_path, caplog, capsys):
    with caplog.at_level(logging.INFO, "purejaxppo"):
        run(CONFIG, KEYS[0], tmp_path, schedule=Schedule(num_evaluations=1, evaluation_episodes=4))
    assert "at update 0 of 8" in caplog.text
    assert "evaluation after update 8: greedy return" in caplog.text
    assert "checkpoint after update 8" in caplog.text
    assert capsys.readouterr() == ("", "")


def test_ctrl_c_saves_and_says_how_to_go_on(tmp_path):
    directory = tmp_path / "a run"
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt) as stop:
        run(CONFIG, KEYS, directory, schedule=QUIET, watch=interrupt)
    expected = f"stopped after 1 of 8 updates, all of them saved; to go on: purejaxppo resume '{directory}'"
    assert str(stop.value) == expected
    assert numbers(directory) == [1]
    assert signal.getsignal(signal.SIGINT) is before


def test_ctrl_c_while_it_compiles(tmp_path, monkeypatch):
    init = loop.init
    monkeypatch.setattr(loop, "init", lambda *args: interrupt(None) or init(*args))
    with pytest.raises(KeyboardInterrupt, match=r"stopped after 0 of 8 updates, .* purejaxppo resume"):
        run(CONFIG, KEYS, tmp_path, schedule=QUIET)
    monkeypatch.undo()
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

    with pytest.raises(KeyboardInterrupt, match=f"^interrupted; to go on: purejaxppo resume {tmp_path}$"):
        run(CONFIG, KEYS, tmp_path, schedule=QUIET, watch=twice)
    assert numbers(tmp_path) == []
    check_same(tmp_path, resume(tmp_path), KEYS)


def test_a_run_in_another_thread(tmp_path):
    outcome = []
    thread = threading.Thread(target=lambda: outcome.append(run(CONFIG, KEYS, tmp_path, schedule=QUIET)))
    thread.start()
    thread.join()
    check_same(tmp_path, outcome[0], KEYS)


def test_only_one_process_runs_a_run(tmp_path):
    said = []

    def try_both(progress):
        for begin in (lambda: resume(tmp_path), lambda: run(CONFIG, KEYS, tmp_path, overwrite=True)):
            with pytest.raises(ConfigError, match="another process is at work") as error:
                begin()
            said.append(str(error.value))

    outcome = run(CONFIG, KEYS, tmp_path, schedule=QUIET, watch=try_both)
    assert said
    check_same(tmp_path, outcome, KEYS)


def test_a_run_is_overwritten_only_when_that_is_said(tmp_path):
    directory = begin_and_stop(tmp_path / "run", KEYS[0])
    before = {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}
    with pytest.raises(ConfigError, match=r"holds a run; resume it, or say that it is to be overwritten"):
        run(CONFIG, KEYS, directory)
    assert {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()} == before
    check_same(directory, run(CONFIG, KEYS, directory, schedule=QUIET, overwrite=True), KEYS)


@pytest.mark.parametrize("is_run", [False, True])
def test_what_is_not_a_runs_is_never_overwritten(is_run, tmp_path):
    directory = shutil.copytree(uninterrupted(KEYS)[0], tmp_path / "run") if is_run else tmp_path
    (directory / "thesis.tex").write_text("mine")
    before = names(directory)
    with pytest.raises(ConfigError, match=r"it holds 'thesis\.tex', and nothing is overwritten"):
        run(CONFIG, KEYS, directory, overwrite=True)
    assert names(directory) == before


def test_a_beginning_that_was_cut_short_can_be_overwritten(tmp_path, monkeypatch):
    write = files.write

    def crash(path, text):
        if path.name == files.CONFIG:
            raise RuntimeError("crash")
        write(path, text)

    monkeypatch.setattr(files, "write", crash)
    with pytest.raises(RuntimeError, match="crash"):
        run(CONFIG, KEYS, tmp_path)
    monkeypatch.undo()
    with pytest.raises(ConfigError, match=r"config\.toml: cannot be read"):
        resume(tmp_path)
    check_same(tmp_path, run(CONFIG, KEYS, tmp_path, schedule=QUIET, overwrite=True), KEYS)


@pytest.mark.parametrize(
    ("config", "key", "said"),
    [
        (CONFIG.replace(lr=jnp.ones(2)), KEYS, r"lr=.*: must be a single number"),
        (CONFIG.replace(env_params=GridWorldParams(slip=jnp.zeros(2))), KEYS, r"env_params\.slip=.*: must be a single"),
        (Config(env=probes.ConstantReward(), env_params=None), KEYS, r"env=.*must be an id.*gymnax\.register"),
        (CONFIG, jax.random.PRNGKey(0), "key: must be a typed key"),
        (CONFIG, KEYS[None], "key: must be a typed key"),
        (CONFIG, KEYS[:0], "key: must be a typed key"),
        (CONFIG, None, "key: must be a typed key"),
    ],
)
def test_what_cannot_be_run_is_told_before_anything_is_written(config, key, said, tmp_path):
    with pytest.raises(ConfigError, match=said):
        run(config, key, tmp_path / "run")
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("num_evaluations", -1),
        ("evaluation_episodes", 0),
        ("checkpoint_seconds", -1.0),
        ("checkpoint_seconds", "60"),
        ("checkpoint_seconds", float("inf")),
        ("checkpoint_seconds", None),
        ("keep_checkpoints", 0),
    ],
)
def test_a_schedule_is_checked(field, value):
    with pytest.raises(ConfigError, match=f"{field}={value!r}: must be"):
        Schedule(**{field: value})


def test_load_gives_the_newest_state_and_policy(tmp_path):
    directory, _ = uninterrupted(KEYS)
    config, state = load(directory)
    assert config == CONFIG
    assert fingerprint(state) == json.loads((directory / files.ACCOUNT).read_text())["state_sha256"]
    obs = jnp.arange(5)
    for seed in range(3):
        agent = jax.tree.map(lambda leaf, seed=seed: leaf[seed], state)
        policy = load_policy(str(directory), seed)
        np.testing.assert_array_equal(policy(obs), act(CONFIG, agent, obs))
        key = jax.random.key(seed)
        np.testing.assert_array_equal(policy(obs, key), act(CONFIG, agent, obs, key))
    assert load_policy(uninterrupted(KEYS[0])[0])(0).shape == ()
    for seed in (-1, 3):
        with pytest.raises(ConfigError, match=rf"seed={seed}: must be an integer in \[0, 3\)"):
            load_policy(directory, seed)


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
        (overwrite(files.RUN, b""), r"run\.json: is broken"),
        (overwrite(files.RUN, b'{"format": 1'), r"run\.json: is broken"),
        (overwrite(files.RUN, b"\xff"), r"run\.json: cannot be read"),
        (overwrite(files.RUN, b"[" * 100_000), r"run\.json: is broken"),
        (overwrite(files.RUN, b"{}"), r"run\.json: format=None: must be 1"),
        (edit(files.RUN, format=2), r"run\.json: format=2: must be 1; a newer purejaxppo"),
        (edit(files.RUN, key=None), r"run\.json: is broken"),
        (edit(files.RUN, key=KEY_DATA | {"data": [1]}), r"run\.json: is broken"),
        (edit(files.RUN, key=KEY_DATA | {"data": "x"}), r"run\.json: is broken"),
        (edit(files.RUN, key=KEY_DATA | {"data": [-1, 2]}), r"run\.json: is broken"),
        (edit(files.RUN, key=KEY_DATA | {"impl": "nope"}), r"run\.json: is broken"),
        (edit(files.RUN, key=KEY_DATA | {"impl": ["x"]}), r"run\.json: is broken"),
        (edit(files.RUN, key=KEY_DATA), "belongs to another run or another configuration"),
        (edit(files.RUN, schedule={"num_evaluations": -1}), r"run\.json: is broken"),
        (edit(files.RUN, schedule={"nope": 1}), r"run\.json: is broken"),
        (edit(files.RUN, schedule=[]), r"run\.json: is broken"),
        (overwrite(files.CONFIG, b"lr = "), "config: cannot be read as TOML"),
        (overwrite(files.CONFIG, b"lr = [" + b"[" * 100_000), "config: cannot be read as TOML"),
        (overwrite(files.CONFIG, b"\xff"), r"config\.toml: cannot be read"),
        (overwrite(files.CONFIG, b"lr = -1"), "lr=-1: must be"),
        (replace_in_config("lr = 0.02", "lr = 0.03"), "belongs to another run or another configuration"),
        (replace_in_config("num_envs = 4", "num_envs = 1000000000000"), r"num_envs=1000000000000: must be below"),
        (replace_in_config('type = "GridWorld"', 'type = "os.system"'), r"env\.type='os\.system': must be one of"),
        (replace_in_config('type = "GridWorld"', 'type = "GridWorld"\nmore = 1'), "unknown GridWorld field 'more'"),
        (replace_in_config("mask_blocked = true", 'mask_blocked = "yes"'), r"env\.mask_blocked='yes': must be of type"),
        (overwrite(files.METRICS, b""), "the record .* ends before update"),
        (overwrite(files.METRICS, b"{}\n" * 8), r"metrics\.jsonl: line 1 is broken"),
        *[
            (link(name), f"{name}: must not be a symbolic link")
            for name in (*RECORD, "config.toml", "run.json", "lock")
        ],
        (link(files.CHECKPOINTS), "checkpoints: must not be a symbolic link"),
    ],
)
def test_a_broken_or_hostile_directory_is_one_clear_error(break_, said, tmp_path):
    directory = shutil.copytree(uninterrupted(KEYS)[0], tmp_path / "run")
    (directory / files.ACCOUNT).unlink()  # so that there is something left to do
    break_(directory)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(ConfigError, match=said) as error:
        resume(directory)
    assert "\n" not in str(error.value)
    after = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert after == before  # nothing is lost


def test_other_versions_are_warned_of(tmp_path, caplog):
    directory = begin_and_stop(tmp_path / "run")
    resume(directory)
    assert "other" not in caplog.text
    (tmp_path / "run" / files.ACCOUNT).unlink()
    edit(files.RUN, versions={"jax": "0.1"})(directory)
    resume(directory)
    assert "was begun with other versions, {'jax': '0.1'}" in caplog.text


@pytest.mark.parametrize("what", ["the record", "a checkpoint", "a checkpoint by Orbax"])
def test_a_full_disk_is_told_and_costs_no_checkpoint(what, tmp_path, monkeypatch):
    from orbax.checkpoint import v1 as ocp

    schedule = checkpoint_always(monkeypatch)
    owner, name = {
        "the record": (logs.Record, "write_metrics"),
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
    watch = lambda told: progress.append(told.num_updates)  # noqa: E731
    with pytest.raises(ConfigError, match=r"No space left on device.*the checkpoint after update 3 is there") as told:
        run(CONFIG, KEYS, tmp_path, schedule=schedule, watch=watch)
    assert "\n" not in str(told.value)
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
            begin = [lambda: run(CONFIG, KEYS, directory, schedule=QUIET)]
        for function in begin:
            with pytest.raises(ConfigError, match="cannot be written to") as told:
                function()
            assert "\n" not in str(told.value)
        assert caplog.text == ""  # nor does Orbax say it a second time
        assert load(directory)[1].num_updates == 1 if kind == "read-only" else numbers(directory) == []
    finally:
        subprocess.run(["umount", tmp_path], check=True)


@pytest.mark.parametrize("place", ["file", "file/deeper", "n" * 300])
def test_a_place_where_no_run_can_be_is_told(place, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ConfigError, match=r"directory=.*: cannot be written to"):
        run(CONFIG, KEYS, tmp_path / place)
    with pytest.raises(ConfigError, match=r"directory=.*: must be a run's directory"):
        resume(tmp_path / place)
    assert (tmp_path / "file").read_text() == "mine"


RUN_IN_A_PROCESS = """
import sys, jax
jax.config.update("jax_compilation_cache_dir", sys.argv[2])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
from pathlib import Path
from purejaxppo import Config
from purejaxppo.experiment import Schedule, resume, run
from purejaxppo.experiment.runs import loop
loop.HOST_SHARE = float("inf")  # checkpoints without end, so that most kills hit one
loop.CHUNK_SECONDS = (0.02, 0.02)
config = Config(env="GridWorld-treasure", num_envs=16, num_steps=32, hidden_sizes=(16,), total_timesteps=512 * 3000)
schedule = Schedule(num_evaluations=7, evaluation_episodes=4, checkpoint_seconds=0.0)
directory = Path(sys.argv[1])
watch = lambda progress: print("a chunk", flush=True)
if (directory / "run.json").exists():
    resume(directory, watch=watch)
else:
    run(config, KEYS, directory, schedule=schedule, watch=watch)
"""


NUM_KILLS = 22


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
        process.kill()
        _, errors = process.communicate()
        assert process.returncode == -signal.SIGKILL, errors.decode()
        during_a_save += any(checkpoints.glob(f"{files.TEMPORARY}*"))
    print(f"killed {NUM_KILLS} times, {during_a_save} times during a save, up to update {numbers(tmp_path / 'killed')}")
    assert during_a_save >= 5
    subprocess.run(command("killed"), check=True, stdout=subprocess.DEVNULL)
    for name in RECORD:
        assert (tmp_path / "killed" / name).read_text() == (tmp_path / "whole" / name).read_text()
    hashes = [json.loads((tmp_path / run / files.ACCOUNT).read_text())["state_sha256"] for run in ("killed", "whole")]
    assert hashes[0] == hashes[1]
