"""Numbers that cannot be used are left out where they enter, and learning goes on from the rest."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnax.environments import spaces

from purejaxppo import GRU, MLP, Config, Environment, act, evaluate, gae, train
from purejaxppo.advantages import expected_reward
from purejaxppo.normalizers import init_moments, init_reward_scale, normalize, scale_rewards, update_moments
from purejaxppo.usable import are_usable, is_usable, usable
from tests.support.small import assert_trees_close

KEY = jax.random.key(0)
BAD = {"nan": np.nan, "inf": np.inf, "-inf": -np.inf, "too large": 1e20}


class Params(NamedTuple):
    max_steps_in_episode: int = 10
    rate: float = 0.0


class State(NamedTuple):
    time: Any
    sign: Any


@dataclasses.dataclass(frozen=True)
class Sign(Environment):
    """Shows a fresh sign, 1000 away from 0, and pays 1 for telling it; its sensor fails at a rate."""

    default_params = Params()
    where: str = "obs"
    bad: float = 0.0

    def action_space(self, params):
        return spaces.Discrete(2)

    def observation_space(self, params):
        return spaces.Box(-jnp.inf, jnp.inf, (2,))

    def observe(self, state):
        return jnp.array([1000.0, 0.0]) + state.sign

    def reset_env(self, key, params):
        state = State(jnp.int32(0), jax.random.rademacher(key, (), jnp.float32))
        return self.observe(state), state

    def step_env(self, key, state, action, params):
        key_sign, key_fails = jax.random.split(key)
        reward = jnp.where((action == 1) == (state.sign > 0), 1.0, 0.0)
        state = State(state.time + 1, jax.random.rademacher(key_sign, (), jnp.float32))
        fails = jax.random.uniform(key_fails) < params.rate
        obs = self.observe(state)
        obs = obs.at[0].set(jnp.where(fails & (self.where == "obs"), self.bad, obs[0]))
        return obs, state, jnp.where(fails & (self.where == "reward"), self.bad, reward), False, {}


LEARN = {
    "num_envs": 16,
    "num_steps": 32,
    "lr": 3e-3,
    "total_timesteps": 16 * 32 * 60,
    "network": MLP(hidden_sizes=(16,)),
    "normalize_obs": True,
    "normalize_reward": True,
}


@pytest.mark.few(2)
@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
@pytest.mark.parametrize("where", ["obs", "reward"])
def test_it_learns_what_it_would_without_them(where, bad):
    rate = 0.002
    config = Config(env=Sign(where, bad), env_params=Params(rate=rate), **LEARN)
    state, metrics = train(config, KEY)
    expected = rate * config.batch_size * config.num_updates
    assert abs(np.sum(metrics["num_unusable"]) - expected) < 5 * np.sqrt(expected)
    assert np.all(metrics["num_skipped"] == 0)
    for name, values in metrics.items():
        assert np.all(np.isfinite(values)), name
    clean = evaluate(config.replace(env_params=Params()), state, KEY, num_episodes=32)
    np.testing.assert_array_equal(clean.episode_return, 10)
    with_failures = evaluate(config.replace(env_params=Params(rate=0.2)), state, KEY, num_episodes=32)
    assert np.all(np.isfinite(with_failures.episode_return))
    np.testing.assert_allclose(state.obs_moments.mean, [1000, 0], atol=0.1)
    np.testing.assert_allclose(state.obs_moments.variance, 1, rtol=0.01)


@pytest.mark.few(1)
@pytest.mark.parametrize("changes", [{"network": GRU(hidden_sizes=(4,))}, {"reset_pool": 3}, {}], ids=str)
def test_nothing_unusable_stays(changes):
    sizes = {
        "num_envs": 4,
        "num_steps": 8,
        "total_timesteps": 128,
        "num_minibatches": 2,
        "network": MLP(hidden_sizes=(4,)),
    }
    config = Config(env=Sign("obs", np.nan), env_params=Params(rate=0.3), **sizes | changes)
    state, metrics = train(config, KEY)
    assert np.sum(metrics["num_unusable"]) > 10
    assert np.all(metrics["num_skipped"] == 0)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves((state.params, state.runners.memory)))
    at_failure, at_0 = (act(config, state, jnp.array([x, 1.0]), key=KEY)[0] for x in (jnp.nan, 0.0))
    assert at_failure == at_0


def test_which_numbers_can_be_used():
    x = jnp.array([0.0, -1e15, 1e17, jnp.inf, -jnp.inf, jnp.nan])
    np.testing.assert_array_equal(is_usable(x), [True, True, False, False, False, False])
    assert np.all(is_usable(jnp.array([2**31 - 1, -5])))
    filled = usable({"a": x, "b": jnp.array([True, False])}, 7.0)
    np.testing.assert_array_equal(filled["a"], np.float32([0, -1e15, 7, 7, 7, 7]))
    np.testing.assert_array_equal(filled["b"], [True, False])
    assert are_usable(())
    assert are_usable((x[:2], jnp.array(3)))
    assert not are_usable((x[:2], {"a": x[3]}))
    assert np.isfinite(np.float32(1e6) * np.float32(1e16) ** 2)  # what the bound is for


def test_statistics_are_those_of_the_rest():
    rng = np.random.default_rng(0)
    x = np.float32(3 + rng.normal(size=(3, 50, 2)))
    bad = rng.uniform(size=x.shape) < 0.2
    bad[0, :, 1] = True  # a whole batch of one number
    x[bad] = rng.choice(list(BAD.values()), bad.sum())
    moments = init_moments(jnp.zeros(2))
    for batch in x:
        moments = update_moments(moments, jnp.asarray(batch))
    for i in range(2):
        rest = np.float64(x[..., i][~bad[..., i]])
        assert moments.seen[i] == len(rest)
        np.testing.assert_allclose(moments.mean[i], rest.mean(), rtol=1e-5)
        np.testing.assert_allclose(moments.variance[i], rest.var(), rtol=1e-5)
    np.testing.assert_array_equal(normalize(moments, jnp.array([jnp.nan, jnp.inf])), 0)


def test_returns_are_added_up_without_them():
    reward = jnp.array([[1.0], [jnp.nan], [2.0], [1e20]])
    done = jnp.zeros((4, 1), bool)
    scale, scaled = scale_rewards(init_reward_scale(1), reward, done, 0.5)
    assert scale.moments.seen == 2
    np.testing.assert_allclose(scale.moments.mean, (1 + 2.25) / 2)
    np.testing.assert_allclose(scale.discounted, 0.5 * 2.25)
    np.testing.assert_array_equal(np.isnan(scaled[:, 0]), [False, True, False, False])
    assert not is_usable(scaled[3, 0])


def test_what_does_not_count_for_an_advantage_may_be_anything():
    rng = np.random.default_rng(1)
    reward, value, next_value = (jnp.asarray(rng.normal(size=(6, 2)), jnp.float32) for _ in range(3))
    terminated = jnp.array([[0, 0], [1, 0], [0, 0], [0, 1], [0, 0], [0, 0]], bool)
    done = terminated | jnp.array([[0, 1], [0, 0], [0, 0], [1, 0], [0, 0], [0, 0]], bool)
    discounts = {"gamma": 0.9, "gae_lambda": 0.8}
    plain = gae(reward, value, next_value, terminated, done, **discounts)
    for x in BAD.values():
        found = gae(reward, value, jnp.where(terminated, x, next_value), terminated, done, **discounts)
        assert_trees_close(found, plain)
        later = jnp.tile(jnp.arange(6)[:, None] > 3, 2)  # after the last end of both
        found = gae(jnp.where(later, x, reward), value, next_value, terminated, done, **discounts)
        assert_trees_close(jax.tree.map(lambda leaf: leaf[:4], found), jax.tree.map(lambda leaf: leaf[:4], plain))


def test_the_expected_reward_is_no_surprise():
    rng = np.random.default_rng(2)
    value, next_value = (jnp.asarray(rng.normal(size=(5, 3)), jnp.float32) for _ in range(2))
    terminated = jnp.asarray(rng.uniform(size=(5, 3)) < 0.3)
    reward = expected_reward(value, jnp.where(terminated, jnp.nan, next_value), terminated, gamma=0.9)
    advantage, target = gae(reward, value, next_value, terminated, terminated, gamma=0.9, gae_lambda=0.7)
    np.testing.assert_allclose(advantage, 0, atol=1e-6)
    np.testing.assert_allclose(target, value, atol=1e-6)
