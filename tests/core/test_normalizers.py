"""Running statistics against those of all data at once in float64, and what may see them."""

from functools import partial
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from purejaxppo import MLP, Config, act, evaluate, init, train, update
from purejaxppo.normalizers import (
    Moments,
    init_moments,
    init_reward_scale,
    normalize,
    scale_rewards,
    update_moments,
)
from tests.support import probes
from tests.support.small import assert_trees_close, collect, objective, quickly

KEY = jax.random.key(11)
add_all, scale = (partial(quickly, function) for function in (update_moments, scale_rewards))


@pytest.mark.parametrize("offset", [0.0, -3.0, 1e4])
@pytest.mark.parametrize("spread", [1.0, 1e-2])
def test_moments_are_those_of_everything_seen(offset, spread):
    rng = np.random.default_rng(0)
    # What is seen later is spread otherwise: the means and variances of the batches differ.
    batches = [np.float32(offset + spread * (i % 5 - 2 + rng.normal(size=(64, 3)))) for i in range(40)]
    moments = init_moments({"a": jnp.zeros(3), "b": (jnp.zeros(()),)})
    for i, x in enumerate(batches):
        moments = add_all(moments, {"a": x, "b": (2 * x[:, 0],)})
        if i not in (0, 1, 39):
            continue
        seen = np.float64(np.concatenate(batches[: i + 1]))
        rounding = np.spacing(np.float32(abs(offset) + 3 * spread))
        np.testing.assert_array_equal(moments.seen["a"], len(seen))
        tolerance = {"rtol": 1e-4, "atol": 8 * rounding}
        np.testing.assert_allclose(moments.mean["a"], seen.mean(axis=0), **tolerance)
        np.testing.assert_allclose(np.sqrt(moments.variance["a"]), seen.std(axis=0), **tolerance)
        np.testing.assert_allclose(moments.mean["b"][0], 2 * seen[:, 0].mean(), **tolerance)
        np.testing.assert_allclose(np.sqrt(moments.variance["b"][0]), 2 * seen[:, 0].std(), **tolerance)


def test_batches_of_other_sizes_and_of_one():
    x = np.float32(np.random.default_rng(1).normal(size=(30, 2)))
    moments = init_moments(jnp.zeros(2))
    for part in np.split(x, [1, 2, 17]):
        moments = update_moments(moments, jnp.asarray(part))
    np.testing.assert_allclose(moments.mean, np.float64(x).mean(axis=0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(moments.variance, np.float64(x).var(axis=0), rtol=1e-5)


def test_a_long_run_does_not_drift():
    x = np.float32(5 + np.random.default_rng(2).normal(size=(256, 1)))
    moments = init_moments(jnp.zeros(1))
    final, _ = jax.lax.scan(lambda moments, _: (update_moments(moments, x), None), moments, length=5000)
    assert final.seen == 256 * 5000
    np.testing.assert_allclose(final.mean, np.float64(x).mean(axis=0), rtol=1e-4)
    np.testing.assert_allclose(final.variance, np.float64(x).var(axis=0), rtol=1e-3)


def test_normalized():
    moments = Moments(None, {"a": jnp.array([1.0, -2.0]), "b": jnp.array(0.5)}, None)
    moments = moments._replace(variance={"a": jnp.array([4.0, 0.0]), "b": jnp.array(1.0)})
    x = {"a": jnp.array([4.0, -2.0]), "b": jnp.array(7, jnp.int32)}
    y = normalize(moments, x)
    np.testing.assert_allclose(y["a"], [1.5, 0.0], rtol=1e-6)
    assert y["b"] == 7  # an index stays
    assert y["b"].dtype == jnp.int32
    far = normalize(moments, {"a": jnp.array([1e6, -2.1]), "b": jnp.array(-1e6)})
    np.testing.assert_array_equal(far["a"], [10, -10])
    assert far["b"] == -10


def test_nothing_seen_changes_nothing():
    x = jnp.array([-9.0, 0.0, 3.5])
    np.testing.assert_allclose(normalize(init_moments(x), x), x, rtol=1e-6)


class Returns:
    """Discounted returns of episodes as a plain loop collects them."""

    def __init__(self, num_envs, gamma):
        self.gamma, self.running, self.seen = gamma, [0.0] * num_envs, []

    def scaled(self, reward, done):
        for rewards, dones in zip(np.float64(reward), done, strict=True):
            for env, (r, d) in enumerate(zip(rewards, dones, strict=True)):
                total = self.gamma * self.running[env] + r
                self.seen.append(total)
                self.running[env] = 0.0 if d else total
        return np.clip(np.float64(reward) / np.sqrt(np.var(self.seen) + 1e-8), -10, 10)


@pytest.mark.parametrize("gamma", [0.0, 0.9, 1.0])
@pytest.mark.parametrize("size", [1.0, 1e3])
def test_rewards_are_scaled_as_a_loop_does(gamma, size):
    rng = np.random.default_rng(3)
    loop, state = Returns(4, gamma), init_reward_scale(4)
    for i in range(5):
        reward = np.float32(size * (rng.normal(size=(6, 4)) + 0.3))
        reward[2, 1] += 100 * size * (i == 4)  # one that is clipped
        done = rng.random((6, 4)) < 0.2
        state, actual = scale(state, reward, done, gamma)
        np.testing.assert_allclose(actual, loop.scaled(reward, done), rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(state.discounted, loop.running, rtol=1e-4, atol=1e-4 * size)
        np.testing.assert_allclose(state.moments.variance, np.var(loop.seen), rtol=1e-3)
        assert actual.shape == reward.shape
    assert np.max(actual) == 10 or gamma > 0  # of one that stands out among 120, the score is at most 10.9


def test_nothing_leaks_across_episodes_and_the_last_reward_counts():
    done = np.zeros((4, 1), bool)
    done[1] = True
    one, two = np.float32([[1], [2], [3], [4]]), np.float32([[1], [50], [3], [4]])
    (a, _), (b, _) = (scale(init_reward_scale(1), reward, done, 0.5) for reward in (one, two))
    np.testing.assert_array_equal(a.discounted, b.discounted)
    np.testing.assert_allclose(a.discounted, [4 + 3 / 2])
    for state, totals in ((a, [1, 2.5, 3, 5.5]), (b, [1, 50.5, 3, 5.5])):
        np.testing.assert_allclose(state.moments.variance, np.var(totals), rtol=1e-5)


CONFIG = Config(
    env=probes.RandomEnds(),
    num_envs=4,
    num_steps=8,
    total_timesteps=4 * 8 * 3,
    network=MLP(hidden_sizes=(6,)),
    lr=1e-2,
    normalize_obs=True,
    normalize_reward=True,
)


@pytest.fixture(scope="module")
def run():
    """The states before each update and after the last, and the transitions and batches of each."""
    states, collected = [init(CONFIG, KEY)], []
    for _ in range(3):
        collected.append(collect(CONFIG, states[-1]))
        states.append(update(CONFIG, states[-1])[0])
    return states, collected


def test_moments_are_those_of_all_observations_and_change_between_updates_only(run):
    states, collected = run
    assert np.all(states[0].obs_moments.seen == 0)
    seen = []
    for before, after, (within, t, _) in zip(states, states[1:], collected, strict=False):
        for a, b in zip(jax.tree.leaves(within.obs_moments), jax.tree.leaves(before.obs_moments), strict=True):
            np.testing.assert_array_equal(a, b)
        seen.append(np.float64(t.obs).reshape(-1, 2))
        everything = np.concatenate(seen)
        assert np.all(after.obs_moments.seen == len(everything))
        np.testing.assert_allclose(after.obs_moments.mean, everything.mean(axis=0), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(after.obs_moments.variance, everything.var(axis=0), rtol=1e-4)


def values_in_numpy(state, obs):
    """The network on observations that are standardised by the state's moments, in float64."""
    networks = jax.tree.map(np.float64, state.params["params"]["networks"])
    mean, variance = np.float64(state.obs_moments.mean), np.float64(state.obs_moments.variance)
    x = np.clip((np.float64(obs) - mean) / np.sqrt(variance + 1e-8), -10, 10)
    ends = [np.tanh(x @ torso.layers[0].kernel + torso.layers[0].bias) for torso in networks.torsos]
    return ends[0] @ networks.policy.kernel + networks.policy.bias, (ends[1] @ networks.value.kernel)[
        ..., 0
    ] + networks.value.bias[0]


def test_what_acts_and_what_learns_see_the_same(run):
    states, collected = run
    for state, (_, t, batch) in zip(states, collected, strict=False):
        logits, value = values_in_numpy(state, t.obs)
        np.testing.assert_allclose(batch.value.reshape(8, 4), value, rtol=1e-3, atol=1e-4)
        log_prob = np.take_along_axis(logits, np.asarray(t.action)[..., None], -1)[..., 0]
        log_prob -= np.log(np.exp(logits).sum(axis=-1))
        np.testing.assert_allclose(t.log_prob, log_prob, rtol=1e-3, atol=1e-4)
        _, metrics = objective(CONFIG, state.agent, jax.tree.map(lambda leaf: leaf[:8], batch))
        assert abs(metrics["approx_kl"]) < 1e-6
        assert metrics["clip_fraction"] == 0


def as_rewards(reward, value, next_value, terminated, done, *, gamma, gae_lambda):
    """Advantages and targets that are the rewards, as estimators get them."""
    return reward, reward


def test_rewards_of_a_run(run):
    states, _ = run
    loop = Returns(4, CONFIG.gamma)
    for before, after in pairwise(states):
        _, t, batch = collect(CONFIG.replace(advantage=as_rewards), before)
        np.testing.assert_array_equal(t.reward, 1)  # transitions tell what the environment paid
        np.testing.assert_allclose(batch.target.reshape(8, 4), loop.scaled(t.reward, t.done), rtol=1e-3)
        np.testing.assert_allclose(after.reward_scale.discounted, loop.running, rtol=1e-4)
        ended = np.asarray(t.episode_return)[np.asarray(t.done)]
        assert np.all(ended == np.round(ended))  # episodes are told in the environment's rewards
        assert np.max(ended) > 1


def test_evaluation_uses_the_moments_of_the_state(run):
    state = run[0][-1]
    obs = np.float32(2 * np.random.default_rng(0).normal(size=(200, 2)))
    logits, _ = values_in_numpy(state, obs)
    np.testing.assert_array_equal(act(CONFIG, state, obs)[0], np.argmax(logits, axis=-1))
    moved = state._replace(obs_moments=state.obs_moments._replace(mean=state.obs_moments.mean + 5))
    logits_moved, _ = values_in_numpy(moved, obs)
    assert np.any(np.argmax(logits, axis=-1) != np.argmax(logits_moved, axis=-1))
    np.testing.assert_array_equal(act(CONFIG, moved, obs)[0], np.argmax(logits_moved, axis=-1))


def test_evaluation_plays_by_the_moments_and_returns_rewards_as_they_are():
    config = CONFIG.replace(env=probes.RewardByBoth(), num_envs=16, total_timesteps=16 * 8 * 40, lr=3e-2)
    state, metrics = quickly(train, config, KEY)
    assert metrics["episode_return"][-1] > 0.8
    assert np.mean(evaluate(config, state, KEY, num_episodes=64).episode_return) == 1
    shifted = state.obs_moments._replace(mean=state.obs_moments.mean + 9)  # every sign looks negative
    lost = evaluate(config, state._replace(obs_moments=shifted), KEY, num_episodes=64)
    assert np.mean(lost.episode_return) < 0.6


@pytest.mark.long
def test_under_vmap_over_seeds_and_gammas():
    keys, gammas = jax.random.split(KEY, 2), jnp.array([0.5, 0.99])
    over_keys = jax.vmap(lambda key, gamma: train(CONFIG.replace(gamma=gamma), key), (0, None))
    together = quickly(jax.vmap(over_keys, (None, 0)), keys, gammas)
    variances = together[0].reward_scale.moments.variance
    assert len(np.unique(variances)) == 4
    assert len(np.unique(together[0].obs_moments.mean[..., 1])) >= 2
    for i, j in np.ndindex(2, 2):
        state, metrics = quickly(train, CONFIG.replace(gamma=float(gammas[i])), keys[j])
        one = jax.tree.map(lambda leaf: leaf[i, j], (together[0].obs_moments, together[0].reward_scale, together[1]))  # noqa: B023
        expected = state.obs_moments, state.reward_scale, metrics
        assert_trees_close(one, expected, rtol=2e-3, atol=1e-4)
