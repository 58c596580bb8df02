"""Sweeps: what a trial is, how many programs and batches there are, and that nothing depends on them."""

import functools
import logging
import math
from pathlib import Path

import jax
import numpy as np
import pytest

from purejaxppo import Config, ConfigError, GridWorld, evaluate, optimality, ppo, train
from purejaxppo.experiment.sweeps import sweep as sweeps
from purejaxppo.experiment.sweeps.sweep import sweep
from tests.support.programs import compiled_once

CONFIG = Config(env=GridWorld("S.M\n.D."), num_envs=2, num_steps=8, total_timesteps=48, hidden_sizes=(4,))
KEY = jax.random.key(3)
NUM_SEEDS = 3
OVER = {"lr": [1e-3, 3e-2], "env_params.slip": [0.0, 0.3]}
ROUNDING = {"rtol": 1e-3, "atol": 1e-4}  # of programs that are vmapped to different widths


@pytest.fixture
def trials():
    return trained()


@functools.cache  # not a fixture of the module, which would be compiled before the test's own settings hold
def trained():
    return sweep(CONFIG, KEY, num_seeds=NUM_SEEDS, over=OVER)


@pytest.fixture(autouse=True)
def _compile_once(monkeypatch):
    """Equal programs are compiled once for all tests."""
    monkeypatch.setattr(sweeps, "_compile", compiled_once)


@pytest.fixture
def programs(monkeypatch):
    """Every program that is compiled, or was by another test, and every call, by the size of its batch."""
    compiled, calls = [], []
    compile_, call = sweeps._compile, sweeps._call

    def compile_and_note(*args):
        compiled.append(compile_(*args))
        return compiled[-1]

    def call_and_note(program, *args):
        calls.append(program.batch_size)
        return call(program, *args)

    monkeypatch.setattr(sweeps, "_compile", compile_and_note)
    monkeypatch.setattr(sweeps, "_call", call_and_note)
    return compiled, calls


def assert_same(actual, expected, **tolerance):
    compare = functools.partial(np.testing.assert_allclose if tolerance else np.testing.assert_array_equal, **tolerance)
    for one, other in zip(actual, expected, strict=True):
        assert (one.name, one.config) == (other.name, other.config)
        jax.tree.map(compare, (one.scores, one.metrics), (other.scores, other.metrics))


def test_a_trial_is_what_training_gives(trials):
    """Every seed of every combination, by `train` and `optimality` alone."""
    key_train, _ = jax.random.split(KEY)
    keys = jax.random.split(key_train, NUM_SEEDS)
    assert [trial.config.lr for trial in trials] == [1e-3, 1e-3, 3e-2, 3e-2]
    assert [trial.config.env_params.slip for trial in trials] == [0, 0.3, 0, 0.3]
    for trial in trials:
        for seed, key in enumerate(keys):
            state, metrics = train(trial.config, key)
            own = {name: values[seed] for name, values in trial.metrics.items()}
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **ROUNDING), own, dict(metrics))
            score = optimality(trial.config, state).expected_return
            np.testing.assert_allclose(trial.scores[seed], score, **ROUNDING)
        assert trial.scores.shape == (NUM_SEEDS,)
        assert all(values.shape == (NUM_SEEDS, 3) for values in trial.metrics.values())
    assert len({score for trial in trials for score in trial.scores.tolist()}) > 2


def test_an_environment_without_a_model_is_evaluated_on_the_same_episodes():
    config = CONFIG.replace(env="CartPole-v1")
    (trial,) = sweep(config, KEY, num_seeds=2, over={})
    key_train, key_evaluate = jax.random.split(KEY)
    for seed, key in enumerate(jax.random.split(key_train, 2)):
        state, _ = train(config, key)
        episodes = evaluate(config, state, key_evaluate, num_episodes=128)
        np.testing.assert_allclose(trial.scores[seed], episodes.episode_return.mean(), rtol=0.01)


def test_a_trial_does_not_depend_on_the_others(trials):
    alone = sweep(CONFIG, KEY, num_seeds=NUM_SEEDS, over={"env_params.slip": [0.3], "lr": [3e-2]})
    np.testing.assert_allclose(alone[0].scores, trials[3].scores, **ROUNDING)


def test_traced_fields_share_a_program_and_static_ones_do_not(programs, caplog):
    caplog.set_level(logging.INFO, "purejaxppo")
    over = {"lr": [1e-3, 1e-2], "total_timesteps": [32, 48], "gamma": [0.9, 0.99]}
    trials = sweep(CONFIG, KEY, num_seeds=2, over=over)
    compiled, calls = programs
    assert len(compiled) == 2
    assert calls == [8] * 2
    assert "2 programs, since these fields shape it: total_timesteps" in caplog.messages
    assert len(trials) == 8
    for trial in trials:
        assert trial.metrics["entropy"].shape == (2, trial.config.num_updates)
        config = trial.config
        assert trial.name == f"lr={config.lr}, total_timesteps={config.total_timesteps}, gamma={config.gamma}"
    total = sum(program.seconds for program in compiled)
    assert sum(trial.compile_seconds for trial in trials) == pytest.approx(total)


def test_each_program_is_traced_once(monkeypatch, programs):
    """However many combinations, seeds and sizes of batches there are."""
    traces = []
    learn = ppo.learn
    monkeypatch.setattr(ppo, "learn", lambda *args: traces.append(args) or learn(*args))
    config = CONFIG.replace(hidden_sizes=(5,))  # a size that no other test has traced
    over = {"lr": [1e-3, 1e-2, 1e-1], "gamma": [0.8, 0.9]}
    sweep(config, KEY, num_seeds=2, over=over, max_bytes=30_000)
    compiled, calls = programs
    assert len(compiled) > 1
    assert len(calls) > 1
    assert len(traces) == 1


@pytest.mark.parametrize("share", [0.6, 0.35])
def test_batches_are_bounded_and_give_the_same(trials, programs, share):
    compiled, calls = programs
    whole = sweep(CONFIG, KEY, num_seeds=NUM_SEEDS, over=OVER)
    assert calls == [12]
    assert_same(whole, trials)  # bit by bit: the program is the same
    bound = int(share * compiled[0].num_bytes)
    assert_same(sweep(CONFIG, KEY, num_seeds=NUM_SEEDS, over=OVER, max_bytes=bound), trials, **ROUNDING)
    used = compiled[-1]
    assert used.num_bytes <= bound
    assert calls[1:] == [used.batch_size] * math.ceil(12 / used.batch_size)
    group = sweeps.Group([0, 1, 2, 3], [trial.config for trial in trials], NUM_SEEDS)
    larger = math.ceil(12 / (len(calls) - 2))  # what one batch fewer would take
    assert sweeps._compile(sweeps._inputs(group, KEY), larger).num_bytes > bound


@pytest.mark.parametrize(
    ("fixed", "bound", "size", "num_compiled"),
    [(0, 1200, 12, 1), (0, 1199, 6, 2), (0, 599, 4, 2), (0, 100, 1, 2), (1000, 1300, 3, 4), (10_000, 10_150, 1, 12)],
)
def test_batches_are_even_and_as_large_as_they_can_be(monkeypatch, fixed, bound, size, num_compiled):
    """Of 12 rows that take 100 bytes each, on top of some that every program takes."""
    made = []

    def compile_(inputs, batch_size):
        made.append(batch_size)
        return sweeps.Program(None, batch_size, fixed + 100 * batch_size, 1.0)

    monkeypatch.setattr(sweeps, "_compile", compile_)
    program = sweeps._largest(sweeps._inputs(sweeps.Group([0], [CONFIG], 12), KEY), bound)
    assert program.batch_size == size
    assert program.seconds == len(made) <= num_compiled


def test_the_account_is_xlas():
    group = sweeps.Group([0], [CONFIG], 2)
    program = sweeps._compile(sweeps._inputs(group, KEY), 2)
    account = program.compiled.memory_analysis()
    parts = [account.argument_size_in_bytes, account.output_size_in_bytes, account.temp_size_in_bytes]
    assert program.num_bytes == sum(parts)
    assert min(parts) > 0


def test_too_little_memory_is_told_with_what_it_takes():
    with pytest.raises(ConfigError, match=r"max_bytes=1: must be at least \d+, the memory of 1 agent$") as error:
        sweep(CONFIG, KEY, num_seeds=2, over={}, max_bytes=1)
    enough = int(str(error.value).split("at least ")[1].split(",")[0])
    assert len(sweep(CONFIG, KEY, num_seeds=2, over={}, max_bytes=enough)) == 1
    with pytest.raises(ConfigError, match="max_bytes="):
        sweep(CONFIG, KEY, num_seeds=2, over={}, max_bytes=enough - 1)


def test_half_of_the_available_memory_is_the_default(programs, monkeypatch):
    sweep(CONFIG, KEY, num_seeds=2, over={})
    compiled, calls = programs
    monkeypatch.setattr(sweeps, "available_bytes", lambda: 2 * compiled[0].num_bytes)
    sweep(CONFIG, KEY, num_seeds=2, over={})
    monkeypatch.setattr(sweeps, "available_bytes", lambda: 2 * compiled[0].num_bytes - 2)
    sweep(CONFIG, KEY, num_seeds=2, over={})
    assert calls == [2, 2, 1, 1]


def test_available_memory_is_the_systems(monkeypatch):
    lines = Path("/proc/meminfo").read_text().splitlines()
    numbers = {line.split(":")[0]: 1024 * int(line.split()[1]) for line in lines}
    assert sweeps.available_bytes() == pytest.approx(numbers["MemAvailable"], rel=0.2)

    def missing(self):
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", missing)
    assert sweeps.available_bytes() == pytest.approx(numbers["MemTotal"], rel=0.01)


def test_a_devices_memory_is_what_it_tells(monkeypatch):
    class Device:
        def memory_stats(self):
            return {"bytes_limit": 1000, "bytes_in_use": 300}

    monkeypatch.setattr(jax, "devices", lambda: [Device()])
    assert sweeps.available_bytes() == 700


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"num_seeds": 0}, "num_seeds=0: must be an integer >= 1"),
        ({"num_seeds": True}, "num_seeds=True: must be an integer >= 1"),
        ({"num_seeds": 1.5}, "num_seeds=1.5: must be an integer >= 1"),
        ({"max_bytes": 0}, "max_bytes=0: must be an integer >= 1"),
        ({"max_bytes": 0.5}, "max_bytes=0.5: must be an integer >= 1"),
        ({"key": 0}, "key: must be a typed key"),
        ({"key": jax.random.split(KEY)}, "key: must be a single key"),
        ({"over": {"lrr": [1]}}, "did you mean 'lr'"),
        ({"over": {"hidden_sizes": [(4,), (0,)]}}, "hidden_sizes="),
    ],
)
def test_mistakes_are_told_before_anything_compiles_or_is_written(arguments, said, monkeypatch, tmp_path):
    monkeypatch.setattr(sweeps, "_compile", lambda *_: pytest.fail("it went on"))
    arguments = {"key": KEY, "num_seeds": 1, "over": {}, "directory": tmp_path / "new"} | arguments
    with pytest.raises(ConfigError, match=said):
        sweep(CONFIG, **arguments)
    assert not (tmp_path / "new").exists()
