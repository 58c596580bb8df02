"""Sweeps: what a trial is, how many programs and batches there are, and that nothing depends on them."""

import functools
import logging
from pathlib import Path

import jax
import numpy as np
import pytest

from purejaxppo import MLP, Config, ConfigError, GridWorld, ppo, train
from purejaxppo.algorithms import PPO
from purejaxppo.experiment import RunOptions
from purejaxppo.experiment.runs import devices
from purejaxppo.experiment.runs.rows import EVALUATION, every_row
from purejaxppo.experiment.sweeps import sweep as sweeps
from purejaxppo.experiment.sweeps.combinations import combinations
from purejaxppo.experiment.sweeps.sweep import sweep
from tests.support.runs import needed_bytes

CONFIG = Config(env=GridWorld("S.M\n.D."), num_envs=2, num_steps=8, total_timesteps=48, network=MLP(hidden_sizes=(4,)))
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


class Calls(list):
    """A callback that notes the parts and the sizes of a sweep's batches."""

    def __call__(self, progress):
        if progress.num_updates == progress.total_updates:
            self.append((progress.part, progress.num_steps))


@functools.cache
def num_bytes(num_rows, **over):
    """What a program of some of a sweep's rows needs, according to XLA."""
    configs = [config for _, config in combinations(CONFIG, over)]
    rows = every_row(configs, jax.random.split(KEY, num_rows))
    return needed_bytes(rows.take(np.arange(num_rows)))


def assert_same(actual, expected, **tolerance):
    compare = functools.partial(np.testing.assert_allclose if tolerance else np.testing.assert_array_equal, **tolerance)
    for one, other in zip(actual, expected, strict=True):
        assert (one.name, one.config) == (other.name, other.config)
        jax.tree.map(compare, (one.scores, one.metrics), (other.scores, other.metrics))


def test_a_trial_is_what_training_gives(trials):
    """Every seed of every combination, by `train` and `score` alone."""
    keys = jax.random.split(jax.random.split(KEY)[0], NUM_SEEDS)
    assert [trial.config.lr for trial in trials] == [1e-3, 1e-3, 3e-2, 3e-2]
    assert [trial.config.env_params.slip for trial in trials] == [0, 0.3, 0, 0.3]
    for trial in trials:
        for seed, key in enumerate(keys):
            state, metrics = train(trial.config, key)
            own = {name: values[seed] for name, values in trial.metrics.items()}
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **ROUNDING), own, dict(metrics))
            score = PPO.score(trial.config, state, key, num_episodes=1)["score"]  # exact: the key makes no difference
            np.testing.assert_allclose(trial.scores[seed], score, **ROUNDING)
        assert trial.scores.shape == (NUM_SEEDS,)
        assert all(values.shape == (NUM_SEEDS, 3) for values in trial.metrics.values())
    assert len({score for trial in trials for score in trial.scores.tolist()}) > 2


@pytest.mark.long
def test_combinations_are_evaluated_on_the_same_episodes():
    """Those of a seed; and in no episode is anything drawn that training has drawn."""
    config = CONFIG.replace(env="CartPole-v1")
    trials = sweep(config, KEY, num_seeds=2, over={"gamma": [0.9, 0.99]})
    for seed, key in enumerate(jax.random.split(jax.random.split(KEY)[0], 2)):
        key_evaluate = jax.random.fold_in(jax.random.fold_in(key, EVALUATION), config.num_updates)
        for trial in trials:
            state, _ = train(trial.config, key)
            score = PPO.score(trial.config, state, key_evaluate, num_episodes=128)["score"]
            np.testing.assert_allclose(trial.scores[seed], score, rtol=0.01)


def test_a_trial_does_not_depend_on_the_others(trials):
    alone = sweep(CONFIG, KEY, num_seeds=NUM_SEEDS, over={"env_params.slip": [0.3], "lr": [3e-2]})
    np.testing.assert_allclose(alone[0].scores, trials[3].scores, **ROUNDING)


def test_traced_fields_share_a_program_and_static_ones_do_not(caplog):
    caplog.set_level(logging.INFO, "purejaxppo")
    over = {"lr": [1e-3, 1e-2], "total_timesteps": [32, 48], "gamma": [0.9, 0.99]}
    calls = Calls()
    trials = sweep(CONFIG, KEY, num_seeds=2, over=over, callback=calls)
    assert calls == [("program 1 of 2", 8 * 32), ("program 2 of 2", 8 * 48)]
    assert "2 programs, since these fields shape it: total_timesteps" in caplog.messages
    assert len(trials) == 8
    for trial in trials:
        assert trial.metrics["entropy"].shape == (2, trial.config.num_updates)
        config = trial.config
        assert trial.name == f"lr={config.lr}, total_timesteps={config.total_timesteps}, gamma={config.gamma}"


@pytest.mark.few(1)
@pytest.mark.parametrize(("num_seeds", "num_batches"), [(2, 3), (4, 6)])
def test_a_program_is_traced_once_and_for_its_shapes(num_seeds, num_batches):
    """For each size of batches, of which the first holds all rows and is too large; not for every batch or row."""
    traces, calls = [], Calls()

    def update(config, state):
        traces.append(state)
        return ppo.update(config, state)

    over = {"lr": (1e-3, 1e-2, 1e-1), "gamma": (0.8, 0.9)}
    algorithm, bound = PPO._replace(update=update), num_bytes(4, **over)
    sweep(CONFIG, KEY, num_seeds=num_seeds, over=over, algorithm=algorithm, max_bytes=bound, callback=calls)
    assert len(calls) == num_batches
    assert len(traces) == 2 * 2


@pytest.mark.few(1)
@pytest.mark.parametrize("at_most", [6, 4, 1])
def test_batches_are_bounded_and_give_the_same(trials, at_most):
    """They are even, and as large as they can be."""
    calls, bound = Calls(), num_bytes(at_most, **{name: tuple(values) for name, values in OVER.items()})
    found = sweep(CONFIG, KEY, num_seeds=NUM_SEEDS, over=OVER, max_bytes=bound, callback=calls)
    assert_same(found, trials, **ROUNDING)
    num_batches = 12 // at_most
    assert calls == [(f"batch {i + 1} of {num_batches}", at_most * 48) for i in range(num_batches)]


def test_the_same_program_gives_the_same_bits(trials):
    assert_same(sweep(CONFIG, KEY, num_seeds=NUM_SEEDS, over=OVER), trials)


def test_the_last_batch_is_filled_up():
    calls = Calls()
    found = sweep(CONFIG, KEY, num_seeds=5, over={}, max_bytes=num_bytes(3), callback=calls)
    assert calls == [("batch 1 of 2", 3 * 48), ("batch 2 of 2", 3 * 48)]
    whole = sweep(CONFIG, KEY, num_seeds=5, over={})
    assert_same(found, whole, **ROUNDING)
    assert found[0].scores.shape == (5,)


def test_too_little_memory_is_refused_with_what_it_takes():
    with pytest.raises(ConfigError, match=r"max_bytes=1: must be at least \d+, the memory of 1 agent$") as error:
        sweep(CONFIG, KEY, num_seeds=2, over={}, max_bytes=1)
    enough = int(str(error.value).split("at least ")[1].split(",")[0])
    assert len(sweep(CONFIG, KEY, num_seeds=2, over={}, max_bytes=enough)) == 1
    with pytest.raises(ConfigError, match="max_bytes="):
        sweep(CONFIG, KEY, num_seeds=2, over={}, max_bytes=enough - 1)


def test_half_of_the_available_memory_is_the_default(monkeypatch):
    enough = num_bytes(2)
    for available, num_batches in ((2 * enough, 1), (2 * enough - 2, 2)):
        calls = Calls()
        monkeypatch.setattr(sweeps, "available_bytes", lambda available=available: available)
        sweep(CONFIG, KEY, num_seeds=2, over={}, callback=calls)
        assert len(calls) == num_batches


def test_more_rows_need_more_memory():
    assert 0 < num_bytes(1) < num_bytes(2) < num_bytes(4)


def test_available_memory_is_the_systems(monkeypatch):
    lines = Path("/proc/meminfo").read_text().splitlines()
    numbers = {line.split(":")[0]: 1024 * int(line.split()[1]) for line in lines}
    assert devices.available_bytes() == pytest.approx(numbers["MemAvailable"], rel=0.2)

    def missing(self):
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", missing)
    assert devices.available_bytes() == pytest.approx(numbers["MemTotal"], rel=0.01)


def test_a_devices_memory_is_what_it_reports(monkeypatch):
    class Device:
        def memory_stats(self):
            return {"bytes_limit": 1000, "bytes_in_use": 300}

    monkeypatch.setattr(jax, "devices", lambda: [Device()])
    assert devices.available_bytes() == 700


def test_without_a_directory_no_file_is_written(monkeypatch):
    genuine = open

    def refuse(file, mode="r", *args, **options):
        assert not set(mode) & set("wax+"), file
        return genuine(file, mode, *args, **options)

    sweep(CONFIG, KEY, num_seeds=2, over={})  # JAX's own cache is written now
    monkeypatch.setattr("builtins.open", refuse)
    monkeypatch.setattr("io.open", refuse)
    monkeypatch.setattr(Path, "mkdir", lambda *_, **__: pytest.fail("a directory"))
    sweep(CONFIG, KEY, num_seeds=2, over={})


def test_evaluations_inside_a_sweep_do_not_change_it(trials):
    options = RunOptions(num_evaluations=3, evaluation_episodes=4)
    assert_same(sweep(CONFIG, KEY, num_seeds=NUM_SEEDS, over=OVER, options=options), trials, **ROUNDING)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"num_seeds": 0}, "num_seeds=0: must be an integer >= 1"),
        ({"num_seeds": True}, "num_seeds=True: must be an integer >= 1"),
        ({"num_seeds": 1.5}, "num_seeds=1.5: must be an integer >= 1"),
        ({"max_bytes": 0}, "max_bytes=0: must be an integer >= 1"),
        ({"max_bytes": 0.5}, "max_bytes=0.5: must be an integer >= 1"),
        ({"options": RunOptions(num_evaluations=0)}, "num_evaluations=0: must be an integer >= 1"),
        ({"key": 0}, "key: must be a typed key"),
        ({"key": jax.random.split(KEY)}, "key: must be a single key"),
        ({"over": {"lrr": [1]}}, "did you mean 'lr'"),
        ({"over": {"network.hidden_sizes": [(4,), (0,)]}}, "hidden_sizes="),
    ],
)
def test_mistakes_are_refused_before_anything_compiles_or_is_written(arguments, said, tmp_path):
    algorithm = PPO._replace(update=lambda *_: pytest.fail("it went on"))
    arguments = {"key": KEY, "num_seeds": 1, "over": {}, "directory": tmp_path / "new"} | arguments
    with pytest.raises(ConfigError, match=said):
        sweep(CONFIG, algorithm=algorithm, **arguments)
    assert not (tmp_path / "new").exists()
