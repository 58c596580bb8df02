"""`gae` against its definition as a sum, and against the two estimators at the ends of lambda's range."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from purejaxppo.advantages import gae

LENGTHS = 1, 5, 16


@jax.jit
def estimate(steps, gamma, gae_lambda):
    return gae(*steps, gamma=gamma, gae_lambda=gae_lambda)


def random_steps(seed, length, p_terminated=0.2, p_truncated=0.2):
    rng = np.random.default_rng(seed)
    reward, value, next_value = rng.normal(size=(3, length)).astype(np.float32)
    terminated = rng.random(length) < p_terminated
    truncated = rng.random(length) < p_truncated
    return reward, value, next_value, terminated, terminated | truncated


def definition(steps, gamma, gae_lambda):
    """A_t as the sum over k of (gamma lambda)^k delta_{t+k}, up to the end of the episode, in float64."""
    reward, value, next_value, terminated, done = steps
    advantage = np.zeros(len(reward))
    for t in range(len(reward)):
        for k in range(len(reward) - t):
            i = t + k
            bootstrap = 0.0 if terminated[i] else gamma * float(next_value[i])
            advantage[t] += (gamma * gae_lambda) ** k * (float(reward[i]) + bootstrap - float(value[i]))
            if done[i]:
                break
    return advantage


unit = st.floats(0, 1, width=32)
probability = st.sampled_from([0.0, 0.15, 0.5, 1.0])


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(LENGTHS), probability, probability, unit, unit)
def test_is_the_discounted_sum_of_temporal_differences(seed, length, p_terminated, p_truncated, gamma, gae_lambda):
    steps = random_steps(seed, length, p_terminated, p_truncated)
    advantage, target = estimate(steps, gamma, gae_lambda)
    expected = definition(steps, gamma, gae_lambda)
    np.testing.assert_allclose(advantage, expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(target, expected + steps[1], rtol=1e-4, atol=1e-4)


def test_by_hand():
    reward, value, next_value = np.float32([[1, 2, 3], [10, 20, 30], [100, 200, 300]])
    terminated, done = np.array([[False, True, False], [False, True, False]])
    advantage, target = estimate((reward, value, next_value, terminated, done), 0.5, 0.5)
    # delta = 1 + 50 - 10, 2 - 20, 3 + 150 - 30
    np.testing.assert_array_equal(advantage, [41 - 18 / 4, -18, 123])
    np.testing.assert_array_equal(target, [46.5, 2, 153])


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("gamma", [0.9, 1.0])
def test_lambda_1_is_the_monte_carlo_return(seed, gamma):
    reward, value, next_value, terminated, done = random_steps(seed, 16)
    # Within an episode the successor's value is the value of the next row.
    next_value[:-1] = np.where(done[:-1], next_value[:-1], value[1:])
    expected = np.zeros(16)
    following = float(next_value[-1])
    for t in reversed(range(16)):
        if done[t]:
            following = 0.0 if terminated[t] else float(next_value[t])
        following = expected[t] = reward[t] + gamma * following
    advantage, target = estimate((reward, value, next_value, terminated, done), gamma, 1.0)
    np.testing.assert_allclose(target, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(advantage, expected - value, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("seed", range(5))
def test_lambda_0_is_the_one_step_temporal_difference(seed):
    steps = reward, value, next_value, terminated, _ = random_steps(seed, 16)
    advantage, target = estimate(steps, 0.9, 0.0)
    one_step = reward + 0.9 * np.where(terminated, 0, next_value)
    np.testing.assert_allclose(target, one_step, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(advantage, one_step - value, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("gae_lambda", [0.0, 0.5, 1.0])
def test_gamma_0_sees_only_the_reward(gae_lambda):
    steps = reward, value, *_ = random_steps(0, 16)
    advantage, _ = estimate(steps, 0.0, gae_lambda)
    np.testing.assert_array_equal(advantage, reward - value)


@pytest.mark.parametrize("terminated", [True, False])
def test_nothing_leaks_across_the_end_of_an_episode(terminated):
    steps = reward, value, next_value, _, _ = random_steps(1, 16, 0, 0)
    ends = np.arange(16) == 7
    later = np.arange(16) > 7
    other = [np.where(later, 1e6 * x + 1e6, x).astype(np.float32) for x in (reward, value, next_value)]
    advantage, _ = estimate((*steps[:3], ends & terminated, ends), 0.99, 0.95)
    for later_terminated, later_done in [(False, False), (False, True), (True, True)]:
        flags = ends & terminated | later & later_terminated, ends | later & later_done
        changed, _ = estimate((*other, *flags), 0.99, 0.95)
        np.testing.assert_array_equal(changed[:8], advantage[:8])
        assert np.all(changed[8:] != advantage[8:])
    # Without the end, the change does arrive.
    open_end, open_end_changed = (
        estimate((*x, later & False, later & False), 0.99, 0.95)[0] for x in (steps[:3], other)
    )
    assert np.all(open_end[:8] != open_end_changed[:8])


def test_termination_cuts_the_bootstrap_and_truncation_does_not():
    reward, value, next_value, _, _ = random_steps(2, 5, 0, 0)
    for terminated, truncated in itertools.product([False, True], repeat=2):
        at = np.arange(5) == 2
        flags = at & terminated, at & (terminated | truncated)
        low, _ = estimate((reward, value, next_value, *flags), 0.9, 0.8)
        high, _ = estimate((reward, value, next_value + 10 * at.astype(np.float32), *flags), 0.9, 0.8)
        bootstrapped = 0.0 if terminated else 9.0  # where both are set, the termination wins
        np.testing.assert_allclose(high - low, bootstrapped * 0.72 ** np.array([2, 1, 0, np.inf, np.inf]), atol=1e-5)


def test_truncation_at_the_last_row_changes_nothing():
    reward, value, next_value, terminated, done = random_steps(3, 16, 0.2, 0.2)
    last = np.arange(16) == 15
    terminated &= ~last
    cut, _ = estimate((reward, value, next_value, terminated, done | last), 0.9, 0.8)
    uncut, _ = estimate((reward, value, next_value, terminated, done & ~last), 0.9, 0.8)
    np.testing.assert_array_equal(cut, uncut)


@pytest.mark.parametrize("axis", [0, 1])
def test_vmapped_over_environments(axis):
    envs = [random_steps(seed, 16) for seed in range(6)]
    stacked = [np.stack(x, axis) for x in zip(*envs, strict=True)]
    mapped = jax.vmap(lambda *steps: gae(*steps, gamma=0.9, gae_lambda=0.8), in_axes=axis, out_axes=0)
    for i, (advantage, target) in enumerate(zip(*mapped(*stacked), strict=True)):
        for one, of_all in zip(estimate(envs[i], 0.9, 0.8), (advantage, target), strict=True):
            np.testing.assert_allclose(of_all, one, rtol=1e-6, atol=1e-6)


def test_vmapped_over_gamma_and_lambda():
    steps = random_steps(4, 16)
    gammas, lambdas = jnp.array([0.0, 0.5, 1.0]), jnp.array([1.0, 0.3, 0.0])
    advantage, _ = jax.vmap(estimate, (None, 0, 0))(steps, gammas, lambdas)
    for i in range(3):
        expected = definition(steps, float(gammas[i]), float(lambdas[i]))
        np.testing.assert_allclose(advantage[i], expected, rtol=1e-4, atol=1e-5)
