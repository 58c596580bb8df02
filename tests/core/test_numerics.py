"""Long sums against float64, and where they are used."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from purejaxppo import Config, evaluate, init
from purejaxppo.normalizers import init_moments, update_moments
from purejaxppo.numerics import add, root
from tests.support import probes
from tests.support.small import SMALL, collect, quickly

KEY = jax.random.key(2)


def test_a_root_and_its_slope():
    x = jnp.array([0.0, 1e-30, 0.25, 4.0, jnp.inf])
    np.testing.assert_array_equal(root(x), jnp.sqrt(x))
    assert np.all(np.isnan(root(jnp.array([-1.0, jnp.nan]))))
    np.testing.assert_allclose(jax.vmap(jax.grad(root))(x[:4]), [0.0, 5e14, 1.0, 0.25], rtol=1e-6)


RNG = np.random.default_rng(0)
TERMS = {
    "tenths": np.full(1_000_000, 0.1, np.float32),
    "ones after many": np.concatenate([np.float32([2**24]), np.ones(1001, np.float32)]),
    "a small one first": np.float32([1.0, *[1e8] * 100]),
    "both signs": np.float32(RNG.normal(size=100_000) * np.exp(3 * RNG.normal(size=100_000))),
}


@pytest.mark.parametrize("name", TERMS)
def test_a_long_sum_is_that_in_float64(name):
    def step(carry, x):
        return add(*carry, x), None

    def total(terms):
        return jax.lax.scan(step, (jnp.zeros(()), jnp.zeros(())), terms)[0]

    got, lost = quickly(total, TERMS[name])
    exact = np.sum(np.float64(TERMS[name]))
    assert got == np.float32(exact)
    np.testing.assert_allclose(np.float64(got) + np.float64(lost), exact, rtol=1e-8)


class Endless(probes.Probe):
    """Pays one tenth for each of 30,000 steps."""

    def is_terminated(self, state, params):
        return state.time >= 30_000

    def is_truncated(self, state, params):
        return jnp.array(False)

    def reward(self, state, action):
        return jnp.float32(0.1)


def test_a_return_goes_on_growing():
    """Beyond 2^24, plain float32 does not know odd numbers, and stops at them."""
    config = Config(env=Endless(), **SMALL)
    state = init(config, KEY)
    far = jnp.full(config.num_envs, 2.0**20)
    state = state._replace(runners=state.runners._replace(episode_return=far))
    for i in range(1, 6):
        state, t, _ = collect(config, state)
        exact = 2**20 + np.float64(np.float32(0.1)) * config.num_steps * i
        np.testing.assert_array_equal(t.episode_return[-1], np.float32(exact))


def test_the_return_of_a_long_episode_is_that_in_float64():
    config = Config(env=Endless(), **SMALL)
    episodes = quickly(lambda state: evaluate(config, state, KEY, num_episodes=1), init(config, KEY))
    exact = 30_000 * np.float64(np.float32(0.1))
    assert np.cumsum(np.full(30_000, 0.1, np.float32), dtype=np.float32)[-1] != np.float32(exact)
    np.testing.assert_array_equal(episodes.episode_return, np.float32(exact))


def test_what_begins_again_has_lost_nothing():
    config = Config(env=probes.ConstantReward(), **SMALL)  # every step is an episode that returns 1
    state = init(config, KEY)
    far = jnp.full(config.num_envs, 2.0**24)
    _, t, _ = collect(config, state._replace(runners=state.runners._replace(episode_return=far)))
    np.testing.assert_array_equal(t.episode_return[0], far)  # 1 is lost
    np.testing.assert_array_equal(t.episode_return[1:], 1)


def test_a_count_goes_on_beyond_2_to_24():
    start = init_moments(jnp.zeros(1))._replace(seen=jnp.full(1, 2.0**24))
    x = jnp.ones((1, 1))
    final = quickly(lambda m: jax.lax.scan(lambda m, _: (update_moments(m, x), None), m, length=1001)[0], start)
    assert np.float64(final.seen[0]) + np.float64(final.lost[0][0]) == 2**24 + 1001


def after_all(batches):
    start = init_moments(jnp.zeros(1))
    return jax.lax.scan(lambda moments, x: (update_moments(moments, x), None), start, batches)[0]


@pytest.mark.parametrize("offset", [0.0, 1e3, 1e6])
def test_moments_of_many_batches_are_those_in_float64(offset):
    """The later ones move the mean by less than rounding would let through."""
    rng = np.random.default_rng(3)
    batches = np.float32(offset + rng.normal(size=(20_000, 4, 1)) + np.linspace(0, 1, 20_000)[:, None, None])
    moments = quickly(after_all, batches)
    exact = np.float64(batches)
    np.testing.assert_array_max_ulp(np.asarray(moments.mean), np.float32(exact.mean(axis=(0, 1))), 2)
    np.testing.assert_allclose(moments.variance, exact.var(axis=(0, 1)), rtol=1e-5 if offset < 1e6 else 2e-2)


def test_a_constant_has_exactly_its_mean_and_no_variance():
    x = jnp.full((7, 3), jnp.float32(1e6 + 0.3))
    moments = init_moments(jnp.zeros(3))
    for _ in range(3):
        moments = update_moments(moments, x)
    np.testing.assert_array_equal(moments.mean, x[0])
    np.testing.assert_array_equal(moments.variance, 0)


def test_what_is_never_seen_keeps_its_moments():
    moments = update_moments(init_moments(jnp.zeros(2)), jnp.array([[1.0, jnp.nan], [3.0, jnp.nan]]))
    np.testing.assert_array_equal(moments.mean, [2, 0])
    np.testing.assert_array_equal(moments.variance, [1, 1])
