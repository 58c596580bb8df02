"""Networks with a memory, against episodes that are run apart, in NumPy and in plain Python loops."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from purejaxppo import (
    MLP,
    Config,
    ConfigError,
    act,
    act_with_memory,
    acting,
    evaluate,
    init,
    optimality,
    policies,
    ppo,
    train,
    update,
)
from purejaxppo.networks import RecurrentActorCritic
from tests.support import probes
from tests.support.reference import gru
from tests.support.small import assert_trees_close, collect, quickly

KEY = jax.random.key(5)
CONFIG = Config(
    env=probes.RandomEnds(),
    network="gru",
    num_envs=4,
    num_steps=8,
    total_timesteps=4 * 8 * 4,
    num_epochs=2,
    num_minibatches=2,
    network=MLP(hidden_sizes=(6,)),
    lr=1e-2,
)
values, learn_once, loss = (partial(quickly, function) for function in (acting.values, update, ppo._loss))


def randomized(state, seed=0):
    """Parameters of size 1, so that neither a bias nor the policy's small kernel hides what matters."""
    leaves, structure = jax.tree.flatten(state.params)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    normals = [jax.random.normal(key, leaf.shape) for key, leaf in zip(keys, leaves, strict=True)]
    return state._replace(params=jax.tree.unflatten(structure, normals))


@pytest.fixture(scope="module")
def initial():
    return randomized(quickly(init, CONFIG, KEY))


@pytest.fixture(scope="module")
def rollouts(initial):
    """Three rollouts one after the other, without learning: the state before each, and its transitions and batch."""
    state, rows = initial, []
    for i in range(3):
        state = state._replace(key=jax.random.key(i))
        after, transitions, batch = collect(CONFIG, state)
        rows.append((state, after, transitions, batch))
        state = after
    return rows


def in_numpy(networks, obs, memory=None):
    """One episode: `(log_probs, value, memory)` after every observation, in float64."""
    memory = [np.zeros(6), np.zeros(6)] if memory is None else memory
    for x in np.float64(obs):
        after = []
        for torso, before in zip(networks.torsos, memory, strict=True):
            ((kernel, bias),) = torso.hidden
            after.append(gru(np.tanh(x @ kernel + bias), before, torso.gates))
        memory = after
        logits = memory[0] @ networks.policy.kernel + networks.policy.bias
        value = memory[1] @ networks.value.kernel[:, 0] + networks.value.bias[0]
        yield scipy.special.log_softmax(logits), value, memory


def networks_of(state):
    return jax.tree.map(np.float64, state.params["params"]["networks"])


def joined(rollouts):
    """Transitions and values `[3 T, N]`."""
    transitions = jax.tree.map(lambda *leaves: np.concatenate(leaves), *[row[2] for row in rollouts])
    return transitions, np.concatenate([np.asarray(row[3].value).T for row in rollouts])


def test_every_episode_is_one_that_is_run_apart(rollouts, initial):
    t, value = joined(rollouts)
    networks, lengths = networks_of(initial), []
    assert np.sum(t.terminated) > 5
    assert np.sum(t.done & ~t.terminated) > 5
    assert not np.all(t.done[[7, 15]])  # some episodes go on from one rollout to the next
    for env in range(4):
        ends = sorted({*np.flatnonzero(t.done[:, env]), 23})
        for start, end in zip([0, *(i + 1 for i in ends[:-1])], ends, strict=True):
            steps = slice(start, end + 1)
            lengths.append(end + 1 - start)
            assert all(np.all(leaf[start, env] == 0) for leaf in t.memory)
            before = [np.zeros(6), np.zeros(6)]
            for i, (log_probs, v, memory) in enumerate(in_numpy(networks, t.obs[steps, env]), start):
                for leaf, expected in zip(t.memory, before, strict=True):
                    np.testing.assert_allclose(leaf[i, env], expected, rtol=1e-3, atol=1e-4)
                np.testing.assert_allclose(t.log_prob[i, env], log_probs[t.action[i, env]], rtol=1e-3, atol=1e-4)
                np.testing.assert_allclose(value[i, env], v, rtol=1e-3, atol=1e-4)
                before = memory
    assert max(lengths) == 5


def test_successors_are_judged_with_the_memory_after_the_step(rollouts, initial):
    networks, num_truncated = networks_of(initial), 0
    for before, after, t, _ in rollouts:
        value, next_value = map(np.asarray, values(CONFIG, before.agent, after.runners, t))
        for i, env in np.ndindex(8, 4):
            if t.terminated[i, env]:
                continue
            obs = np.stack([t.obs[i, env], t.next_obs[i, env]])
            *_, (_, expected, _) = in_numpy(networks, obs, [np.float64(leaf[i, env]) for leaf in t.memory])
            np.testing.assert_allclose(next_value[i, env], expected, rtol=1e-3, atol=1e-4)
            num_truncated += t.done[i, env]
            if i < 7 and not t.done[i, env]:
                np.testing.assert_array_equal(next_value[i, env], value[i + 1, env])
    assert num_truncated > 5


def test_ratio_is_one_at_the_first_minibatch_of_every_update(initial):
    state, carried = initial, 0
    for _ in range(4):
        carried += np.any(state.runners.memory[0] != 0)
        _, t, batch = collect(CONFIG, state)
        assert np.any(t.done[:-1])
        for indices in ([0, 1], [3, 2]):
            _, metrics = loss(CONFIG, state.agent, ppo._minibatch(CONFIG, batch, jnp.array(indices)))
            assert abs(metrics["approx_kl"]) < 1e-6
            assert metrics["clip_fraction"] == 0
        new, _ = learn_once(CONFIG, state)
        _, metrics = loss(CONFIG, new.agent, batch)
        assert metrics["approx_kl"] > 1e-6
        state = new
    assert carried == 3  # all but the first begin with memories of episodes under way


def test_minibatches_are_whole_sequences(rollouts):
    before, _, t, batch = rollouts[1]
    order = np.asarray(ppo._shuffled(CONFIG, KEY))
    assert sorted(order) == [0, 1, 2, 3]
    minibatch = ppo._minibatch(CONFIG.replace(normalize_advantage=False), batch, jnp.asarray(order[:2]))
    for row, env in enumerate(order[:2]):
        for name in ("obs", "action", "log_prob", "done"):
            np.testing.assert_array_equal(getattr(minibatch, name)[row], getattr(t, name)[:, env])
        np.testing.assert_array_equal(minibatch.advantage[row], batch.advantage[env])
        for leaf, expected in zip(minibatch.memory, before.runners.memory, strict=True):
            np.testing.assert_array_equal(leaf[row], expected[env])
    standardised = ppo._minibatch(CONFIG, batch, jnp.asarray(order[:2])).advantage
    np.testing.assert_allclose([np.mean(standardised), np.std(standardised)], [0, 1], atol=1e-4)


def test_gradient_is_that_of_an_unrolled_loop(rollouts):
    before, _, _, batch = rollouts[1]
    batch = jax.tree.map(lambda leaf: leaf[:2, :5] if leaf.shape[:2] == (4, 8) else leaf[:2], batch)
    done = np.asarray(batch.done)
    assert np.any(done[:, :4])
    net = policies.network(CONFIG)
    weights = jnp.asarray(np.random.default_rng(0).normal(size=(3, 2, 5)), jnp.float32)

    def replayed(params):
        opinion = policies.judge(CONFIG, before.agent._replace(params=params), batch)
        return sum(jnp.sum(w * part) for w, part in zip(weights, opinion, strict=True))

    def unrolled(params):
        total = 0.0
        for env in range(2):
            memory = [leaf[env] for leaf in batch.memory]
            for i in range(5):
                dist, value, memory = net.apply(params, batch.obs[env, i], memory)
                parts = dist.log_probs[batch.action[env, i]], dist.entropy, value
                total += sum(w[env, i] * part for w, part in zip(weights, parts, strict=True))
                if done[env, i]:
                    memory = [jnp.zeros(6), jnp.zeros(6)]
        return total

    actual, expected = (quickly(jax.value_and_grad(f), before.params) for f in (replayed, unrolled))
    assert_trees_close(actual, expected, rtol=1e-3, atol=1e-4)


class Counting(probes.Probe):
    """The reward is the time where the action is 1; what is seen is always the same, so that only a memory varies."""

    def is_terminated(self, state, params):
        return state.time >= 6

    def reward(self, state, action):
        return jnp.where(action == 1, 1.0 + state.time, 0.0)


def test_evaluation_and_single_actions_are_a_loop():
    config = CONFIG.replace(env=Counting(), num_steps=2)
    state = randomized(init(config, KEY), seed=3)
    memory, total, actions = None, 0.0, []
    expected = in_numpy(networks_of(state), np.zeros((6, 1)))
    for time, (log_probs, _, in_float64) in enumerate(expected):
        action, memory = act_with_memory(config, state, jnp.zeros(1), memory)
        assert action == np.argmax(log_probs)
        for leaf, one in zip(memory, in_float64, strict=True):
            np.testing.assert_allclose(leaf, one, rtol=1e-3, atol=1e-4)
        actions.append(int(action))
        total += (1 + time) * int(action)
    assert 0 < sum(actions) < 6  # the memory makes a difference
    episodes = evaluate(config, state, KEY, num_episodes=3)
    np.testing.assert_array_equal(episodes.episode_return, np.full(3, total))
    np.testing.assert_array_equal(episodes.episode_length, np.full(3, 6))


def test_actions_with_any_leading_axes(initial):
    obs = jax.random.normal(KEY, (2, 3, 2))
    action, memory = act_with_memory(CONFIG, initial, obs)
    action2, memory2 = act_with_memory(CONFIG, initial, obs, memory)
    assert action.shape == action2.shape == (2, 3)
    assert all(leaf.shape == (2, 3, 6) for leaf in memory2)
    for index in np.ndindex(2, 3):
        first, second = in_numpy(networks_of(initial), [obs[index], obs[index]])
        assert (action[index], action2[index]) == (np.argmax(first[0]), np.argmax(second[0]))
        for leaf, one in zip(memory2, second[2], strict=True):
            np.testing.assert_allclose(leaf[index], one, rtol=1e-3, atol=1e-4)
    many = jnp.broadcast_to(obs[0, 0], (4000, 2))
    drawn, _ = act_with_memory(CONFIG, initial, many, None, KEY)
    ((log_probs, _, _),) = in_numpy(networks_of(initial), [obs[0, 0]])
    np.testing.assert_allclose(np.mean(np.asarray(drawn) == 1), np.exp(log_probs[1]), atol=0.04)


def test_a_network_without_memory_passes_none_on():
    config = CONFIG.replace(network="mlp")
    state = init(config, KEY)
    action, memory = act_with_memory(config, state, jnp.zeros(2))
    assert memory == ()
    assert action == act(config, state, jnp.zeros(2))


def test_what_needs_no_memory_refuses_one(initial):
    with pytest.raises(ConfigError, match=r"network='gru'.*act_with_memory"):
        act(CONFIG, initial, jnp.zeros(2))
    config = Config(network="gru", num_envs=4)
    with pytest.raises(ConfigError, match=r"network='gru'.*without a memory"):
        optimality(config, jax.eval_shape(partial(init, config), KEY))


def test_a_memory_recalls_what_is_no_longer_seen():
    settings = {"env": probes.Recall(), "num_envs": 32, "num_steps": 12, "total_timesteps": 32 * 12 * 50, "lr": 1e-2}
    config = Config(**settings, network="gru", network=MLP(hidden_sizes=(8,)), num_minibatches=2)
    assert quickly(train, config, KEY)[1]["episode_return"][-1] > 0.9
    without = Config(**settings, network="mlp", network=MLP(hidden_sizes=(8,)), num_minibatches=2)
    assert abs(quickly(train, without, KEY)[1]["episode_return"][-1]) < 0.5


def test_initial_memory_is_that_of_the_network():
    assert isinstance(policies.network(CONFIG), RecurrentActorCritic)
    shared = policies.initial_memory(CONFIG.replace(shared_torso=True))
    assert [leaf.shape for leaf in shared] == [(6,)]
    assert policies.initial_memory(CONFIG.replace(network="mlp")) == ()
