"""KL-regularised training: the price in the reward, and the exact optimum that it leads to."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from purejaxppo import GRU, MLP, Config, ConfigError, GridWorld, init, planning, ppo, train, update
from tests.core.test_planning import GAMMA
from tests.core.test_regularised import evaluated, solved
from tests.support.small import assert_trees_close, assert_trees_equal, collect, quickly

SIZES: dict[str, Any] = {
    "num_envs": 8,
    "num_steps": 16,
    "total_timesteps": 8 * 16 * 4,
    "network": MLP(hidden_sizes=(16,)),
    "lr": 2e-2,
    "kl_coef": 0.3,
}
WORLD = GridWorld("S.m\n.#.\n..D")
KINDS = {
    "table": Config(env=WORLD, **SIZES),
    "per sample": Config(env="CartPole-v1", **SIZES),
    "continuous, standardised": Config(env="Pendulum-v1", normalize_obs=True, **SIZES),
    "memory": Config(env=GridWorld("treasure"), **{**SIZES, "network": GRU(hidden_sizes=(8,))}),
}
EXACT = Config(env=WORLD, exact_return=True, gamma=GAMMA, **SIZES)


@pytest.fixture(scope="module", params=KINDS)
def run(request):
    """A configuration, and its states before each of some updates."""
    config = KINDS[request.param]
    states = [init(config, jax.random.key(2))]
    for _ in range(3):
        states.append(update(config, states[-1])[0])
    return config, states


def log_probs(config, agent, obs, action, done, memory):
    """`[T, N]`, of the actions taken, by acting step by step; and the memory after them."""
    networks = ppo.bind(config)

    def read(memory, step):
        obs, action, done = step
        policy, memory = networks.step(agent, obs, memory)
        return ppo_reset(networks, memory, done), policy.distribution.log_prob(action)

    memory, found = jax.lax.scan(read, memory, (obs, action, done))
    return found, memory


def ppo_reset(networks, memory, done):
    """At their beginning where an episode ended."""
    return jax.tree.map(lambda leaf, first: jnp.where(done[:, None], first, leaf), memory, networks.initial_memory)


@pytest.mark.few(2)
def test_straying_costs_reward_and_is_summed_over_episodes(run):
    config, states = run
    so_far, memory = np.zeros(config.num_envs), states[0].runners.memory
    for number, state in enumerate(states):
        _, t, batch = collect(config, state)
        read = partial(log_probs, config)
        mine, _ = quickly(read, state.agent, t.obs, t.action, t.done, state.runners.memory)
        reference, memory = quickly(read, states[0].agent, t.obs, t.action, t.done, memory)
        ratio = np.float64(mine) - np.float64(reference)
        if number == 0:
            assert np.all(t.info["kl"] == 0)  # exactly
        else:
            assert np.abs(ratio).max() > 0.01
        for step, kl in enumerate(t.info["kl"]):
            so_far = so_far + ratio[step]
            np.testing.assert_allclose(kl, so_far, rtol=1e-3, atol=1e-3)
            so_far = np.where(t.done[step], 0, so_far)
        free = collect(config.replace(kl_coef=None), state._replace(reference=()))[-1]
        target = np.asarray(batch.target - batch.value - (free.target - free.value))
        expected = np.zeros(ratio.shape)  # the advantage of the price alone
        for step in reversed(range(config.num_steps)):
            later = 0 if step + 1 == config.num_steps else expected[step + 1]
            decay = config.gamma * config.gae_lambda * (1 - np.asarray(t.done[step]))
            expected[step] = -config.kl_coef * ratio[step] + decay * later
        expected = expected.T if ppo.bind(config).is_recurrent else expected.reshape(-1)
        np.testing.assert_allclose(target, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.few(2)
def test_the_reference_does_not_move(run):
    _, states = run
    for state in states:
        assert_trees_equal(state.reference.agent, states[0].agent)
    assert not np.array_equal(*(jax.tree.leaves(state.params)[0] for state in (states[0], states[-1])))


def test_without_a_price_there_is_no_reference():
    config = KINDS["table"].replace(kl_coef=None)
    state, metrics = update(config, init(config, jax.random.key(0)))
    assert state.reference == ()
    assert not {"kl", "regularised_return", "gap"} & metrics.keys()


def test_training_begins_at_its_reference():
    config = KINDS["table"]
    params = init(config, jax.random.key(5)).params
    state = init(config, jax.random.key(6), params)
    assert_trees_equal(state.reference.agent.params, params)


def test_rewards_are_scaled_with_their_price():
    config = KINDS["per sample"].replace(normalize_reward=True)
    state = update(config, init(config, jax.random.key(0)))[0]
    _, t, batch = collect(config, state)
    before = jnp.concatenate([state.reference.kl[None], jnp.where(t.done, 0, t.info["kl"])[:-1]])
    price = config.kl_coef * (t.info["kl"] - before)
    assert jnp.abs(price).max() > 1e-3

    def unpriced(state, price):
        without = config.replace(kl_coef=None), state._replace(reference=())
        return ppo.collect(*without, jax.random.split(state.key, 3)[0], reward=lambda t: t.reward - price)[-1]

    assert_trees_close(batch.target, quickly(unpriced, state, price).target, rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def exact():
    """The states and metrics of a training whose optimum is known."""
    config = EXACT.replace(ent_coef=0.0)
    states, metrics = [init(config, jax.random.key(1))], []
    for _ in range(3):
        state, of_update = update(config, states[-1])
        states.append(state)
        metrics.append(of_update)
    return config, states, metrics


def test_the_gap_is_that_of_a_plain_loop(exact):
    config, states, metrics = exact
    networks = ppo.bind(config)
    model = networks.task.tabular_model()
    reference = networks.in_model(states[0].agent, model)[0]
    start = np.float64(model.start)
    best = start @ solved(model, reference, config.kl_coef, GAMMA, sweeps=300)[0]
    np.testing.assert_allclose(states[0].reference.optimum, best, rtol=1e-5)
    for state, of_update in zip(states[1:], metrics, strict=True):
        policy = networks.in_model(state.agent, model)[0]
        value = start @ evaluated(model, policy, reference, config.kl_coef, GAMMA)
        np.testing.assert_allclose(of_update["gap"], best - value, rtol=1e-3, atol=1e-5)
        assert of_update["gap"] > 0


def test_regularised_returns_are_returns_less_the_price_of_straying(exact):
    config, _, metrics = exact
    for of_update in metrics:
        expected = of_update["episode_return"] - config.kl_coef * of_update["kl"]
        np.testing.assert_allclose(of_update["regularised_return"], expected, rtol=1e-6)
    assert metrics[0]["kl"] == 0
    assert metrics[-1]["kl"] != 0


def test_the_divergence_of_episodes_is_the_exact_one():
    """Within four standard errors, on a world that ends before the time limit."""
    config = Config(env=WORLD, **{**SIZES, "num_envs": 512, "num_steps": 128, "total_timesteps": 512 * 128})
    networks = ppo.bind(config)
    model = networks.task.tabular_model()
    state, other = (init(config, jax.random.key(seed)) for seed in (0, 1))
    moved = jax.tree.map(lambda leaf, more: leaf + 40 * more, state.params, other.params)
    _, t, _ = collect(config, state._replace(params=moved))
    policies = [networks.in_model(agent, model)[0] for agent in (state.agent._replace(params=moved), state.agent)]
    expected = jnp.sum(model.start * planning.kl_to_reference(model, *policies))
    first = np.argmax(t.done, axis=0)  # only first episodes: later ones are more often short
    assert np.all(np.any(t.done, axis=0))
    kl = np.asarray(t.info["kl"])[first, np.arange(config.num_envs)]
    error = kl.std() / np.sqrt(len(kl))
    assert abs(kl.mean() - expected) < 4 * error
    assert expected > 8 * error


@pytest.mark.long
def test_prices_are_mapped_over():
    config = EXACT.replace(total_timesteps=8 * 16 * 2)
    prices = jnp.array([0.1, 2.0])

    def trained(price):
        return train(config.replace(kl_coef=price), jax.random.key(0))

    together = quickly(jax.vmap(trained), prices)
    for i, price in enumerate(prices):
        alone = quickly(trained, price)
        assert_trees_close(jax.tree.map(lambda leaf, i=i: leaf[i], together[1]), alone[1], rtol=1e-3, atol=1e-4)
    assert np.all(np.diff(together[0].reference.optimum) < 0)


@pytest.mark.parametrize("price", [0, -1.0, float("nan"), "much"])
def test_a_price_is_a_positive_number(price):
    with pytest.raises(ConfigError, match=r"kl_coef=.*: must be a finite number > 0, or None"):
        Config(kl_coef=price)


@pytest.mark.slow
@pytest.mark.parametrize("price", [0.3, 3.0])
def test_reaches_the_optimum_near_the_reference(price):
    """The gap falls below 1% of the reference's on 30 of 32 seeds."""
    sizes = {"num_envs": 256, "num_steps": 32, "total_timesteps": 256 * 32 * 200, "lr": 1e-2, "ent_coef": 0.0}
    config = Config(env="GridWorld-treasure", kl_coef=price, exact_return=True, **sizes)
    keys = jax.random.split(jax.random.key(0), 32)
    states, metrics = jax.jit(jax.vmap(partial(train, config)))(keys)
    networks = ppo.bind(config)
    model = networks.task.tabular_model()

    def of_reference(state):
        value = planning.policy_evaluation(model, networks.in_model(state.reference.agent, model)[0], config.gamma)
        return state.reference.optimum - jnp.sum(model.start * value)

    gaps = np.asarray(metrics["gap"][:, -1] / jax.vmap(of_reference)(states))
    print(f"kl_coef={price}: gap / gap of the reference, sorted:", *np.sort(gaps).round(5))
    assert np.sum(gaps < 0.01) >= 30
