"""The host layer knows an `Algorithm` and nothing else: a second one runs, stops, resumes, sweeps and loads."""

import functools
import json
import os
import signal
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from purejaxppo import Config, ConfigError
from purejaxppo.errors import RunError
from purejaxppo.experiment import RunOptions, load, load_trials, report, resume, run, sweep
from purejaxppo.experiment.runs import checkpoints, files
from purejaxppo.experiment.runs.checkpoints import fingerprint
from tests.support.cloning import CLONING, CloningConfig, init, update
from tests.support.runs import (
    ONE_AND_MANY,
    QUIET,
    Crash,
    checkpoint_always,
    crash_at,
    interrupt,
    numbers,
    read_evaluations,
    read_metrics,
)
from tests.support.small import ROOT

CONFIG = CloningConfig(lr=0.05, hidden_sizes=(6,))
KEYS = jax.random.split(jax.random.key(3), 3)
OPTIONS = RunOptions(num_evaluations=2, evaluation_episodes=64)


def by_hand(config, key, **start):
    """The updates one after the other."""
    state, rows = init(config, key, **start), []
    for _ in range(config.num_updates):
        state, metrics = jax.jit(update)(config, state)
        rows.append(metrics)
    return state, {name: np.array([row[name] for row in rows]) for name in rows[0]}


@ONE_AND_MANY
def test_a_run_is_its_updates_one_after_the_other(key, tmp_path):
    state, metrics = run(CONFIG, key, tmp_path, algorithm=CLONING, options=OPTIONS)
    for row, single in enumerate(key.reshape(-1)):
        expected_state, expected = by_hand(CONFIG, single)
        for name in expected:
            np.testing.assert_allclose(np.atleast_2d(metrics[name])[row], expected[name], rtol=1e-4)
        for leaf, other in zip(jax.tree.leaves(state.params), expected_state.params, strict=True):
            np.testing.assert_allclose(leaf[row] if key.ndim else leaf, other, rtol=1e-3, atol=1e-5)
    assert read_metrics(tmp_path, CLONING)["num_right"].dtype == np.float32
    found = read_evaluations(tmp_path, CLONING)
    assert (sorted(found), found["update"].tolist()) == (["loss", "score", "update"], [4, 8])
    config, loaded = load(tmp_path, algorithm=CLONING)
    assert config == CONFIG
    assert fingerprint(loaded) == fingerprint(state)


@ONE_AND_MANY
def test_stopped_after_every_chunk_it_is_the_same(key, tmp_path):
    outcome = run(CONFIG, key, tmp_path / "whole", algorithm=CLONING, options=OPTIONS)
    begin = functools.partial(run, CONFIG, key, tmp_path / "stopped", options=OPTIONS)
    for _ in range(CONFIG.num_updates - 1):
        with pytest.raises(KeyboardInterrupt):
            begin(algorithm=CLONING, callback=interrupt)
        begin = functools.partial(resume, tmp_path / "stopped")
    assert fingerprint(begin(algorithm=CLONING)) == fingerprint(outcome)
    for name in (files.METRICS, files.TABLE, files.EVALUATIONS):
        assert (tmp_path / "stopped" / name).read_text() == (tmp_path / "whole" / name).read_text()


PROGRAM = """
import sys, time
from purejaxppo.experiment import resume, run
from purejaxppo.experiment.runs import loop
from tests.experiment.test_algorithms import CLONING, CONFIG, KEYS, OPTIONS
loop.HOST_SHARE, loop.CHUNK_SECONDS = float("inf"), (0.0, 0.0)
callback = lambda progress: print("a chunk", flush=True) or time.sleep(0.05)
run(CONFIG, KEYS, sys.argv[1], algorithm=CLONING, options=OPTIONS.replace(checkpoint_seconds=0.0), callback=callback)
"""


def test_killed_it_is_the_same(tmp_path):
    outcome = run(CONFIG, KEYS, tmp_path / "whole", algorithm=CLONING, options=OPTIONS)
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "killed")]
    compiled_alike = {"JAX_DISABLE_MOST_OPTIMIZATIONS": str(jax.config.read("jax_disable_most_optimizations"))}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT, env=os.environ | compiled_alike)
    for _ in range(4):
        process.stdout.readline()
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert 1 <= numbers(tmp_path / "killed")[-1] < CONFIG.num_updates
    assert fingerprint(resume(tmp_path / "killed", algorithm=CLONING)) == fingerprint(outcome)


def test_a_crash_loses_only_what_came_after_the_checkpoint(tmp_path, monkeypatch):
    outcome = run(CONFIG, KEYS, tmp_path / "whole", algorithm=CLONING, options=QUIET)
    options = checkpoint_always(monkeypatch)
    with pytest.raises(Crash):
        run(CONFIG, KEYS, tmp_path / "run", algorithm=CLONING, options=options, callback=crash_at(5))
    assert numbers(tmp_path / "run") == [2, 3, 4]
    assert fingerprint(resume(tmp_path / "run", algorithm=CLONING)) == fingerprint(outcome)


def test_it_sweeps_and_is_loaded_and_reported(tmp_path):
    over = {"lr": [1e-3, 0.1], "hidden_sizes": [(4,), (3, 3)], "decay": [0.0, 0.1]}
    trials = sweep(CONFIG, KEYS[0], num_seeds=2, over=over, algorithm=CLONING, directory=tmp_path / "sweep")
    assert [trial.config for trial in trials] == [
        CloningConfig(lr=lr, hidden_sizes=sizes, decay=decay)
        for lr in (1e-3, 0.1)
        for sizes in ((4,), (3, 3))
        for decay in (0.0, 0.1)
    ]
    keys = jax.random.split(jax.random.split(KEYS[0])[0], 2)
    for trial in trials:
        for seed, key in enumerate(keys):
            _, expected = by_hand(trial.config, key)
            np.testing.assert_allclose(trial.metrics["loss"][seed], expected["loss"], rtol=1e-4)
    found = load_trials(tmp_path / "sweep", algorithm=CLONING)
    assert [(trial.name, trial.config) for trial in found] == [(trial.name, trial.config) for trial in trials]
    for trial, other in zip(trials, found, strict=True):
        np.testing.assert_array_equal(trial.scores, other.scores)
    run(CONFIG, KEYS, tmp_path / "run", algorithm=CLONING, options=OPTIONS)
    rows = report(found, *load_trials(tmp_path / "run", algorithm=CLONING), num_resamples=50).rows
    assert [row.name for row in rows] == [*(trial.name for trial in trials), str(tmp_path / "run")]


def test_a_sweep_stopped_inside_of_a_batch_goes_on(tmp_path):
    arguments = {"num_seeds": 2, "over": {"lr": [1e-3, 0.1]}, "algorithm": CLONING}
    expected = sweep(CONFIG, KEYS[0], **arguments)
    with pytest.raises(KeyboardInterrupt, match="stopped after 1 of 8 updates"):
        sweep(CONFIG, KEYS[0], directory=tmp_path, callback=interrupt, **arguments)
    for trial, other in zip(sweep(CONFIG, KEYS[0], directory=tmp_path, **arguments), expected, strict=True):
        np.testing.assert_array_equal(trial.metrics["loss"], other.metrics["loss"])
        np.testing.assert_array_equal(trial.scores, other.scores)


PARAMS = init(CONFIG, jax.random.key(99)).params


@ONE_AND_MANY
def test_a_run_starts_from_parameters_and_survives_a_kill_before_its_first_checkpoint(key, tmp_path):
    state, metrics = run(CONFIG, key, tmp_path / "whole", algorithm=CLONING, params=PARAMS)
    for row, single in enumerate(key.reshape(-1)):
        expected = by_hand(CONFIG, single, params=PARAMS)[1]["loss"]
        np.testing.assert_allclose(np.atleast_2d(metrics["loss"])[row], expected, rtol=1e-4)
    assert not np.allclose(metrics["loss"], run(CONFIG, key, tmp_path / "fresh", algorithm=CLONING)[1]["loss"])
    with pytest.raises(Crash):
        run(CONFIG, key, tmp_path / "run", algorithm=CLONING, params=PARAMS, callback=crash_at(1))
    assert numbers(tmp_path / "run") == [0]
    assert fingerprint(resume(tmp_path / "run", algorithm=CLONING)) == fingerprint((state, metrics))


def test_a_run_killed_before_its_parameters_were_saved_is_not_begun_from_others(tmp_path, monkeypatch):
    def die(*_, **__):
        raise RuntimeError("crash")

    monkeypatch.setattr(checkpoints, "save", die)
    with pytest.raises(RuntimeError, match="crash"):
        run(CONFIG, KEYS, tmp_path, algorithm=CLONING, params=PARAMS)
    with pytest.raises(RunError, match="was stopped before its params were saved; run it again"):
        resume(tmp_path, algorithm=CLONING)


def test_another_algorithm_is_refused_and_named(tmp_path):
    run(CONFIG, KEYS[0], tmp_path, algorithm=CLONING, options=QUIET)
    parts = ", ".join(f"{part} tests.support.cloning.{name}" for part, name in named(CLONING).items())
    for read in (resume, load, load_trials):
        with pytest.raises(ConfigError) as said:
            read(tmp_path)
        assert (
            str(said.value)
            == f"directory={str(tmp_path)!r}: was made with the {parts}; pass algorithm= to use it again"
        )
        with pytest.raises(
            ConfigError, match=r"was made with the score tests\.support\.cloning\.score; pass algorithm="
        ):
            read(tmp_path, algorithm=CLONING._replace(score=lambda *_, **__: {"score": 0.0}))
    description = json.loads((tmp_path / files.RUN).read_text())
    assert description["algorithm"]["config"] == "tests.support.cloning.CloningConfig"


def named(algorithm):
    return {part: getattr(algorithm, part).__name__ for part in algorithm._fields}


@pytest.mark.parametrize(
    ("config", "algorithm", "said"),
    [
        (Config(), CLONING, "config: must be a CloningConfig, not a Config"),
        (CONFIG, CLONING._replace(update=lambda c, s: (s, {"x": jnp.zeros(2)})), r"metrics\['x'\]: must be a scalar"),
        (CONFIG, CLONING._replace(update=lambda c, s: (s, {"row": 0.0})), r"metrics\['row'\]: must have another name"),
        (CONFIG, CLONING._replace(update=lambda c, s: (s, {})), "metrics: must hold at least one number"),
        (CONFIG, CLONING._replace(score=lambda *_, **__: {"x": 0.0}), "score: must hold a number called 'score', not"),
        (
            CONFIG,
            CLONING._replace(score=lambda *_, **__: {"score": jnp.zeros(2)}),
            r"score\['score'\]: must be a scalar",
        ),
    ],
)
def test_what_an_algorithm_must_give_is_checked(config, algorithm, said, tmp_path):
    with pytest.raises(ConfigError, match=said):
        run(config, KEYS, tmp_path, algorithm=algorithm, options=OPTIONS)


def test_a_summary_has_its_metrics(tmp_path):
    run(CONFIG, KEYS, tmp_path, algorithm=CLONING, options=QUIET)
    summary = json.loads((tmp_path / files.SUMMARY).read_text())
    assert summary["metrics"].keys() == {"loss", "num_right"}
    assert summary["steps"] == 3 * CONFIG.batch_size * CONFIG.num_updates


@pytest.mark.long
def test_without_jit_a_run_is_the_same_and_slow(tmp_path):
    config, options = CloningConfig(num_updates=1, hidden_sizes=()), RunOptions(num_evaluations=1)
    _, expected = run(config, KEYS[0], tmp_path / "compiled", algorithm=CLONING, options=options)
    with jax.disable_jit():
        _, found = run(config, KEYS[0], tmp_path / "not", algorithm=CLONING, options=options)
    for name in expected:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-5)
