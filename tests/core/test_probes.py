"""Probe environments of rising difficulty are learned; each failure points at one part of the algorithm."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from purejaxppo import GRU, MLP, Config, act, train
from purejaxppo.ppo import bind
from tests.support import probes

GAMMA = 0.9


def learn(env):
    config = Config(
        env=env,
        num_envs=16,
        num_steps=16,
        total_timesteps=16 * 16 * 150,
        lr=5e-3,
        gamma=GAMMA,
        network=MLP(hidden_sizes=(16,)),
    )
    state, _ = train(config, jax.random.key(0))

    def value(obs):
        return bind(config).step(state.agent, jnp.float32([[obs]]))[0].value.item()

    def best(obs):
        return int(act(config, state, jnp.float32([obs]))[0])

    return value, best


@pytest.mark.long
def test_constant_reward():
    value, _ = learn(probes.ConstantReward())
    np.testing.assert_allclose(value(0), 1, atol=0.02)


def test_reward_by_observation():
    value, _ = learn(probes.RewardByObservation())
    np.testing.assert_allclose([value(1), value(-1)], [1, -1], atol=0.05)


def test_delayed_reward():
    value, _ = learn(probes.DelayedReward())
    np.testing.assert_allclose([value(0), value(1)], [GAMMA, 1], atol=0.05)


def test_reward_by_action():
    value, best = learn(probes.RewardByAction())
    assert best(0) == 1
    assert value(0) > 0.9


@pytest.mark.few(1)
@pytest.mark.parametrize("network", [MLP(hidden_sizes=(8,)), GRU(hidden_sizes=(8,))])
def test_one_sample_at_a_time(network):
    """One alone cannot be standardised: that would be 0, whatever it is."""
    config = Config(env=probes.RewardByAction(), network=network, num_envs=1, num_steps=1, num_minibatches=1, lr=3e-3)
    config = config.replace(total_timesteps=600, num_epochs=1, ent_coef=0.0)
    _, metrics = train(config, jax.random.key(0))
    assert config.minibatch_size == 1
    assert np.mean(metrics["policy_loss"] != 0) > 0.9
    assert np.mean(metrics["episode_return"][-100:]) > 0.8


@pytest.mark.long
def test_reward_by_both():
    value, best = learn(probes.RewardByBoth())
    assert [best(1), best(-1)] == [1, 0]
    assert min(value(1), value(-1)) > 0.9


@pytest.mark.few(1)
@pytest.mark.parametrize("gae_lambda", [0.0, 0.95, 1.0])
def test_truncation_is_bootstrapped(gae_lambda):
    config = Config(
        env=probes.TruncationOnly(),
        num_envs=16,
        num_steps=16,
        total_timesteps=16 * 16 * 300,
        lr=1e-2,
        gamma=GAMMA,
        gae_lambda=gae_lambda,
        network=MLP(hidden_sizes=(16,)),
    )
    state, _ = train(config, jax.random.key(0))
    value = bind(config).step(state.agent, jnp.zeros((1, 1)))[0].value[0]
    np.testing.assert_allclose(value, 1 / (1 - GAMMA), rtol=0.03)
