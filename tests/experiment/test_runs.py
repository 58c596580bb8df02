"""Runs: what they compute, and what they leave behind."""

import json
import logging
import os
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from purejaxppo import GRU, MLP, Config, ConfigError, GridWorldParams, act, init, optimality, preset, train
from purejaxppo.algorithms import PPO
from purejaxppo.experiment import RunOptions, load, load_policy, resume, run
from purejaxppo.experiment.runs import devices, files, loop
from purejaxppo.experiment.runs.checkpoints import fingerprint
from purejaxppo.experiment.runs.provenance import provenance
from purejaxppo.experiment.runs.rows import Programs, equal_rows
from tests.support import probes
from tests.support.runs import (
    CONFIG,
    KEYS,
    NUM_UPDATES,
    ONE_AND_MANY,
    QUIET,
    RECORD,
    begin_and_stop,
    check_same,
    checkpoint_always,
    interrupt,
    numbers,
    read_evaluations,
    read_metrics,
    uninterrupted,
)
from tests.support.small import FAST_COMPILING, ROOT, assert_trees_equal, names


@ONE_AND_MANY
def test_a_run_is_a_training(key, tmp_path):
    state, metrics = run(CONFIG, key, tmp_path / "run", options=QUIET)
    expected_state, expected = (jax.vmap(train, in_axes=(None, 0)) if key.ndim else train)(CONFIG, key)
    assert metrics.keys() == expected.keys()
    for name in expected:
        assert metrics[name].shape == expected[name].shape
        np.testing.assert_allclose(metrics[name], expected[name], rtol=1e-3, atol=1e-5)
    for leaf, other in zip(jax.tree.leaves(state.params), jax.tree.leaves(expected_state.params), strict=True):
        np.testing.assert_allclose(leaf, other, rtol=1e-3, atol=1e-5)
    assert np.all(state.num_updates == NUM_UPDATES)


def test_what_a_run_leaves_behind(tmp_path):
    directory, _ = uninterrupted(KEYS)
    assert names(directory) == sorted([*RECORD, "checkpoints", "config.toml", "lock", "summary.json", "run.json"])
    assert preset(directory / "config.toml") == CONFIG
    description = json.loads((directory / "run.json").read_text())
    assert description["key"]["data"] == jax.random.key_data(KEYS).tolist()
    assert description["versions"]["jax"] == jax.__version__
    assert description["devices"] == [device.device_kind for device in jax.devices()]
    assert description["command"]
    head = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True)
    assert (description["git"] or {"commit": ""})["commit"] == head.stdout.strip()
    summary = json.loads((directory / "summary.json").read_text())
    assert (summary["num_updates"], summary["steps"]) == (NUM_UPDATES, 3 * 32 * NUM_UPDATES)
    assert len(summary["metrics"]["episode_return"]) == 3
    assert len((directory / files.METRICS).read_text().splitlines()) == NUM_UPDATES
    assert len((directory / files.TABLE).read_text().splitlines()) == 1 + 3 * NUM_UPDATES


WIDE = """
import sys
import numpy as np
from purejaxppo.experiment import resume, run
from tests.support.runs import CONFIG, KEYS, NUM_UPDATES
run(CONFIG, KEYS[0], sys.argv[1])
state, metrics = resume(sys.argv[1], total_timesteps=CONFIG.total_timesteps + CONFIG.batch_size)
assert state.num_updates == NUM_UPDATES + 1
assert np.all(np.isfinite(metrics["value_loss"]))
"""


@pytest.mark.long
def test_with_64_bits_a_run_is_trained_and_goes_on(tmp_path):
    """In a process of its own: what was traced with 32 bits does not fit."""
    environment = {**os.environ, **FAST_COMPILING, "JAX_ENABLE_X64": "1"}
    subprocess.run([sys.executable, "-c", WIDE, str(tmp_path / "run")], check=True, env=environment, cwd=ROOT)


def test_a_run_that_does_not_fit_into_the_memory_leaves_what_is_there(tmp_path, monkeypatch):
    kept = shutil.copytree(uninterrupted(KEYS)[0], tmp_path / "kept")
    monkeypatch.setattr(devices, "available_bytes", lambda: 5)
    for directory in (kept, tmp_path / "new"):
        with pytest.raises(ConfigError, match=r"num_seeds=3: needs [\d,]+ bytes of memory, but 5 are free"):
            run(CONFIG, KEYS, directory, options=QUIET, overwrite=True)
    monkeypatch.undo()
    assert load(kept)[1].num_updates[0] == NUM_UPDATES
    assert run(CONFIG, KEYS, tmp_path / "new", options=QUIET)[0].num_updates[0] == NUM_UPDATES


def test_outside_of_a_repository_there_is_no_git_state(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert provenance()["git"] is None


def test_the_newest_and_the_best_checkpoints_stay(tmp_path, monkeypatch):
    options = checkpoint_always(monkeypatch).replace(keep_checkpoints=2)
    scores = jnp.array([1.0, 5.0, 2.0, jnp.nan, 3.0, 0.0, 0.0, 0.0])

    def scripted(config, state, key, *, num_episodes):
        return {"score": scores[state.num_updates - 1]}

    options = options.replace(num_evaluations=8)
    run(CONFIG, KEYS[0], tmp_path, options=options, algorithm=PPO._replace(score=scripted))
    assert numbers(tmp_path) == [2, 7, 8]


def test_the_best_state_is_saved_when_it_is_evaluated(tmp_path, monkeypatch):
    """However long the time between checkpoints is."""
    options = checkpoint_always(monkeypatch).replace(num_evaluations=4, checkpoint_seconds=1e9)
    scores = jnp.array([0.0, 1.0, 0.0, 5.0, 0.0, 2.0, 0.0, 3.0])

    def scripted(config, state, key, *, num_episodes):
        return {"score": scores[state.num_updates - 1]}

    run(CONFIG, KEYS[0], tmp_path, options=options, algorithm=PPO._replace(score=scripted))
    assert numbers(tmp_path) == [2, 4, 8]


def test_progress_is_reported_after_every_chunk(tmp_path):
    seen = []
    run(CONFIG, KEYS, tmp_path, options=QUIET, callback=seen.append)
    last = seen[-1]
    assert [progress.num_updates for progress in seen] == sorted({progress.num_updates for progress in seen})
    assert (last.num_updates, last.total_updates) == (NUM_UPDATES, NUM_UPDATES)
    assert last.num_steps == last.total_steps == 3 * 32 * NUM_UPDATES
    assert last.seconds_left == 0
    assert last.steps_per_second > 0
    metrics = read_metrics(tmp_path)
    assert last.metrics.keys() == metrics.keys()
    np.testing.assert_allclose(last.metrics["entropy"], metrics["entropy"].mean(axis=1), rtol=1e-5)
    np.testing.assert_allclose(last.metrics["episode_return"], np.nanmean(metrics["episode_return"], axis=1), rtol=1e-5)


def test_chunks_are_as_long_as_makes_the_host_cheap_and_a_stop_prompt():
    shortest, longest = loop.CHUNK_SECONDS
    assert loop.next_length(shortest / 100, 0.0, 1000) == 100
    assert loop.next_length(0.01, 1.0 * loop.HOST_SHARE, 1000) == 100
    assert loop.next_length(0.01, 1e3, 1000) == longest / 0.01
    assert loop.next_length(1e-9, 0.0, 1000) == 1000  # as many as the buffer holds
    assert loop.next_length(60, 0.0, 1000) == 1


def test_evaluations_come_evenly_and_are_of_the_agents_of_that_moment(tmp_path):
    options = RunOptions(num_evaluations=3, evaluation_episodes=4)
    directory, _ = uninterrupted(KEYS, options)
    found = read_evaluations(directory)
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
    ("count", "expected"), [(0, []), (1, [8]), (2, [4, 8]), (8, [*range(1, 9)]), (2**31 - 1, [*range(1, 9)])]
)
def test_when_evaluations_are_due(count, expected):
    job = loop.Job(None, PPO, equal_rows(CONFIG, KEYS), RunOptions(num_evaluations=count))
    found, update = [], 0
    while (update := job.next_evaluation(update)) is not None:
        found.append(update)
    assert found == expected
    assert [update for update in range(10) if job.is_evaluated(update)] == expected


def test_evaluations_use_random_numbers_of_their_own(tmp_path):
    """Training is the same without them; and they play other episodes at every time and for every key."""
    options = RunOptions(num_evaluations=3, evaluation_episodes=4)
    assert uninterrupted(KEYS, options)[1] == uninterrupted(KEYS)[1]
    rows = equal_rows(CONFIG, jnp.stack([KEYS[0], KEYS[1], KEYS[0]]))
    programs = Programs(PPO, rows, num_episodes=64)
    state = jax.tree.map(lambda leaf: jnp.stack([leaf] * 3), init(CONFIG, KEYS[0]))
    seen = [programs.evaluate(rows, state, num_updates)["sampled_return"] for num_updates in (1, 2)]
    np.testing.assert_array_equal([found[0] for found in seen], [found[2] for found in seen])  # the same key
    plain = PPO.score(CONFIG, init(CONFIG, KEYS[0]), KEYS[0], num_episodes=64)["sampled_return"]
    assert len({*np.ravel(seen).tolist(), float(plain)}) == 5


def test_without_a_model_there_is_no_gap(tmp_path):
    config = Config(env="CartPole-v1", num_envs=2, num_steps=8, total_timesteps=16, network=MLP(hidden_sizes=(4,)))
    run(config, KEYS[0], tmp_path, options=RunOptions(num_evaluations=1, evaluation_episodes=2))
    found = read_evaluations(tmp_path)
    expected = [
        "greedy_length",
        "greedy_return",
        "num_unfinished",
        "sampled_length",
        "sampled_return",
        "score",
        "update",
    ]
    assert sorted(found) == expected
    np.testing.assert_array_equal(found["greedy_return"], found["greedy_length"])  # a reward of 1 for every step
    np.testing.assert_array_equal(found["score"], found["greedy_return"])


def test_loggers_get_every_update_and_evaluation(tmp_path):
    rows, begun = [], []

    class Logger:
        def __init__(self, directory, num_updates):
            begun.append((directory, num_updates))

        def write(self, update, steps, values):
            rows.append((update, steps, {name: np.array(value) for name, value in values.items()}))

        def close(self):
            rows.append("closed")

    options = RunOptions(num_evaluations=3, evaluation_episodes=4)
    with pytest.raises(KeyboardInterrupt):
        run(CONFIG, KEYS, tmp_path, options=options, loggers=[Logger], callback=interrupt)
    assert (begun, rows[1:]) == ([(tmp_path, 0)], ["closed"])
    resume(tmp_path, loggers=[Logger])
    assert begun[1] == (tmp_path, 1)
    rows = [row for row in rows if row != "closed"]
    assert [row[0] for row in rows] == sorted(row[0] for row in rows)  # as Weights & Biases needs it
    updates = [row for row in rows if "episode_return" in row[2]]
    assert [(update, steps) for update, steps, _ in updates] == [(n, 32 * n) for n in range(1, NUM_UPDATES + 1)]
    metrics = read_metrics(tmp_path)
    np.testing.assert_array_equal(np.stack([row["entropy"] for *_, row in updates]).T, metrics["entropy"])
    found = [(update, row["evaluation/greedy_return"]) for update, _, row in rows if "evaluation/greedy_return" in row]
    assert [update for update, _ in found] == [3, 5, 8]
    np.testing.assert_array_equal(
        np.stack([value for _, value in found]).T, read_evaluations(tmp_path)["greedy_return"]
    )


def test_a_logger_that_fails_does_not_kill_the_run(tmp_path, caplog):
    def fail(directory, num_updates):
        raise RuntimeError("no network")

    run(CONFIG, KEYS, tmp_path, options=QUIET, loggers=[fail])
    assert "no network" in caplog.text


def test_the_library_logs_and_does_not_print(tmp_path, caplog, capsys):
    with caplog.at_level(logging.INFO, "purejaxppo"):
        run(CONFIG, KEYS[0], tmp_path, options=RunOptions(num_evaluations=1, evaluation_episodes=4))
    assert "at update 0 of 8" in caplog.text
    assert "evaluation after update 8: score" in caplog.text
    assert "checkpoint after update 8" in caplog.text
    assert capsys.readouterr() == ("", "")


def test_a_run_is_overwritten_only_when_that_is_said(tmp_path):
    directory = begin_and_stop(tmp_path / "run", KEYS[0])
    before = {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}
    with pytest.raises(ConfigError, match=r"holds a run; resume it, or overwrite it"):
        run(CONFIG, KEYS, directory)
    assert {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()} == before
    check_same(directory, run(CONFIG, KEYS, directory, options=QUIET, overwrite=True), KEYS)


@pytest.mark.parametrize("is_run", [False, True])
def test_what_is_not_a_runs_is_never_overwritten(is_run, tmp_path):
    directory = shutil.copytree(uninterrupted(KEYS)[0], tmp_path / "run") if is_run else tmp_path
    (directory / "thesis.tex").write_text("mine")
    before = names(directory)
    with pytest.raises(ConfigError, match=r"it holds 'thesis\.tex', and nothing is overwritten"):
        run(CONFIG, KEYS, directory, overwrite=True)
    assert names(directory) == before


@pytest.mark.parametrize(
    ("config", "key", "said"),
    [
        (CONFIG.replace(lr=jnp.ones(2)), KEYS, r"lr=.*: must be a single number"),
        (CONFIG.replace(env_params=GridWorldParams(slip=jnp.zeros(2))), KEYS, r"env_params\.slip=.*: must be a single"),
        (Config(env=probes.ConstantReward(), env_params=None), KEYS, r"env=.*must be an id or a frozen dataclass"),
        (CONFIG, jax.random.PRNGKey(0), "key: must be a typed key"),
        (CONFIG, KEYS[None], "key: must be a typed key"),
        (CONFIG, KEYS[:0], "key: must be a typed key"),
        (CONFIG, None, "key: must be a typed key"),
    ],
)
def test_what_cannot_be_run_is_refused_before_anything_is_written(config, key, said, tmp_path):
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
def test_options_are_checked(field, value):
    with pytest.raises(ConfigError, match=f"{field}={value!r}: must be"):
        RunOptions(**{field: value})


def test_load_gives_the_newest_state_and_policy(tmp_path):
    directory, _ = uninterrupted(KEYS)
    config, state = load(directory)
    assert config == CONFIG
    assert fingerprint(state) == json.loads((directory / files.SUMMARY).read_text())["state_sha256"]
    obs = jnp.arange(5)
    for row in range(3):
        agent = jax.tree.map(lambda leaf, row=row: leaf[row], state)
        policy = load_policy(str(directory), row)
        action, memory = policy(obs)
        np.testing.assert_array_equal(action, act(CONFIG, agent, obs)[0])
        key = jax.random.key(row)
        np.testing.assert_array_equal(policy(obs, memory, key)[0], act(CONFIG, agent, obs, key=key)[0])
    assert load_policy(uninterrupted(KEYS[0])[0])(0)[0].shape == ()
    for row in (-1, 3):
        with pytest.raises(ConfigError, match=rf"row={row}: must be an integer in \[0, 3\)"):
            load_policy(directory, row)


def test_the_policy_of_a_network_with_a_memory_carries_it(tmp_path):
    config = CONFIG.replace(network=GRU(hidden_sizes=(8,)), total_timesteps=32)
    state, _ = run(config, KEYS[0], tmp_path, options=QUIET)
    policy = load_policy(tmp_path)
    memory, expected = None, None
    for obs in (0, 3, 1):
        action, memory = policy(obs, memory)
        expected_action, expected = act(config, state, obs, expected)
        np.testing.assert_array_equal(action, expected_action)
        assert_trees_equal(memory, expected)
    first, again = (jax.tree.leaves(policy(1, start)[1])[0] for start in (None, memory))
    assert not np.array_equal(first, again)  # it makes a difference
