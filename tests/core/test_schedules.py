"""Schedules against their closed forms, and what becomes of them in a run."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from purejaxppo import MLP, Config, ConfigError, ppo, train
from purejaxppo.schedules import scheduled
from tests.support import probes
from tests.support.small import quickly

KEY = jax.random.key(2)
CONFIG = Config(
    env=probes.RewardByBoth(), num_envs=4, num_steps=4, total_timesteps=64, network=MLP(hidden_sizes=(4,)), lr=1e-2
)
NAMES = "lr", "clip_eps", "ent_coef"
CLOSED_FORMS = {
    "constant": lambda start, end, progress: start + 0 * progress,
    "linear": lambda start, end, progress: start + (end - start) * progress,
    "cosine": lambda start, end, progress: end + (start - end) * np.cos(np.pi * progress / 2) ** 2,
}


@pytest.mark.parametrize("kind", CLOSED_FORMS)
@pytest.mark.parametrize(("start", "end"), [(2.5e-4, 0.0), (0.2, 0.05), (0.01, 0.3), (0.1, 0.1)])
def test_closed_forms(kind, start, end):
    progress = np.linspace(0, 1, 101)
    actual = jnp.broadcast_to(scheduled(kind, start, end, jnp.float32(progress)), (101,))
    np.testing.assert_allclose(actual, CLOSED_FORMS[kind](start, end, progress), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("kind", ["linear", "cosine"])
def test_ends_are_exact_and_it_stays_at_the_last(kind):
    first, last, later = scheduled(kind, 0.25, 0.125, jnp.array([0.0, 1.0, 1.5]))
    assert (first, last, later) == (0.25, 0.125, 0.125)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["linear", "cosine"])
def test_every_scheduled_number_reaches_its_end_after_the_last_update(name, kind):
    changes = {"lr_schedule": "constant"} | {f"{name}_schedule": kind, f"{name}_end": 0.5, name: 0.1}
    config = CONFIG.replace(**changes)
    at = jax.jit(ppo.rates_at)
    for num_updates in range(6):
        now = at(config, jnp.int32(num_updates))
        expected = CLOSED_FORMS[kind](0.1, 0.5, min(num_updates / 4, 1))  # there are 4 updates
        np.testing.assert_allclose(getattr(now, name), expected, rtol=1e-6)
        for other in set(NAMES) - {name}:
            np.testing.assert_allclose(getattr(now, other), getattr(config, other), rtol=1e-6)


def test_ends_may_be_traced_and_mapped_over():
    ends = jnp.array([0.0, 5e-3, 1e-2])
    losses = quickly(jax.vmap(lambda end: train(CONFIG.replace(lr_end=end), KEY)[1]["value_loss"]), ends)
    assert len(np.unique(losses[:, -1])) == 3
    np.testing.assert_allclose(losses[:, 0], losses[0, 0], rtol=1e-6)  # the first update is at the start
    constant = quickly(train, CONFIG.replace(lr_schedule="constant"), KEY)[1]["value_loss"]
    np.testing.assert_allclose(losses[2], constant, rtol=1e-4)
    alone = quickly(train, CONFIG.replace(lr_end=5e-3), KEY)[1]["value_loss"]
    np.testing.assert_allclose(losses[1], alone, rtol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_an_end_without_a_schedule_is_refused(name):
    constant = {f"{name}_schedule": "constant"}
    for end in (0.1, jnp.array([0.0, 0.1])):
        with pytest.raises(ConfigError, match=rf"{name}_end=.*0 unless {name}_schedule goes to it"):
            Config(**constant, **{f"{name}_end": end})
    assert getattr(Config(**constant, **{f"{name}_end": 0}), f"{name}_end") == 0
    with pytest.raises(ConfigError, match=rf"{name}_schedule='step': must be one of 'constant', 'linear', 'cosine'"):
        Config(**{f"{name}_schedule": "step"})
    with pytest.raises(ConfigError, match=rf"{name}_end=-0.1: must be a finite number >= 0"):
        Config(**{f"{name}_schedule": "linear", f"{name}_end": -0.1})
