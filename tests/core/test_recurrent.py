"""Networks with a memory, against episodes that are run apart, in NumPy and in plain Python loops."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from purejaxppo import (
    GRU,
    MLP,
    Categorical,
    Config,
    ConfigError,
    Recurrent,
    act,
    evaluate,
    init,
    optimality,
    ppo,
    train,
    update,
)
from purejaxppo.actor_critic import Agent
from purejaxppo.ppo import bind
from tests.support import probes
from tests.support.reference import gru
from tests.support.small import assert_trees_close, assert_trees_equal, collect, objective, quickly

KEY = jax.random.key(5)
CONFIG = Config(
    env=probes.RandomEnds(),
    network=GRU(hidden_sizes=(6,)),
    num_envs=4,
    num_steps=8,
    total_timesteps=4 * 8 * 4,
    num_epochs=2,
    num_minibatches=2,
    lr=1e-2,
)


def values(config, before, transitions, after):
    """`(value, next_value)` of a rollout, from the states before and after it."""
    evaluate = partial(bind(config).values, piece=1)
    return quickly(evaluate, before.agent, transitions, before.runners, after.runners)


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
            ((kernel, bias),) = torso.hidden.layers
            after.append(gru(np.tanh(x @ kernel + bias), before, torso.cell))
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
            memories = [[np.zeros(6), np.zeros(6)]]
            for i, (log_probs, v, memory) in enumerate(in_numpy(networks, t.obs[steps, env]), start):
                np.testing.assert_allclose(t.log_prob[i, env], log_probs[t.action[i, env]], rtol=1e-3, atol=1e-4)
                np.testing.assert_allclose(value[i, env], v, rtol=1e-3, atol=1e-4)
                memories.append(memory)
            for i, (before, _, _, batch) in enumerate(rollouts):  # the memories that are kept are those before rollouts
                if start <= 8 * i <= end:
                    kept = [*zip(before.runners.memory, memories[8 * i - start], strict=True)]
                    assert_trees_equal(batch.memory, before.runners.memory)
                    for leaf, expected in kept:
                        np.testing.assert_allclose(leaf[env], expected, rtol=1e-3, atol=1e-4)
    assert max(lengths) == 5


def test_successors_are_judged_with_the_memory_after_the_step(rollouts, initial):
    networks, num_truncated = networks_of(initial), 0
    for before, after, t, _ in rollouts:
        value, next_value = map(np.asarray, values(CONFIG, before, t, after))
        for env in range(4):
            memory = [np.float64(leaf[env]) for leaf in before.runners.memory]
            for i in range(8):
                ((_, _, memory),) = in_numpy(networks, t.obs[i, env][None], memory)
                ((_, expected, _),) = in_numpy(networks, t.next_obs[i, env][None], memory)
                if not t.terminated[i, env]:
                    np.testing.assert_allclose(next_value[i, env], expected, rtol=1e-3, atol=1e-4)
                    num_truncated += t.done[i, env]
                if i < 7 and not t.done[i, env]:
                    np.testing.assert_array_equal(next_value[i, env], value[i + 1, env])
                if t.done[i, env]:
                    memory = [np.zeros(6), np.zeros(6)]
    assert num_truncated > 5


@pytest.mark.long
def test_ratio_is_one_at_the_first_minibatch_of_every_update(initial):
    state, carried = initial, 0
    for _ in range(4):
        carried += np.any(state.runners.memory[0] != 0)
        _, t, batch = collect(CONFIG, state)
        assert np.any(t.done[:-1])
        for indices in ([0, 1], [3, 2]):
            _, metrics = objective(CONFIG, state.agent, jax.tree.map(lambda leaf: leaf[np.array(indices)], batch))  # noqa: B023
            assert abs(metrics["approx_kl"]) < 1e-6
            assert metrics["clip_fraction"] == 0
        new, _ = quickly(update, CONFIG, state)
        _, metrics = objective(CONFIG, new.agent, batch)
        assert metrics["approx_kl"] > 1e-6
        state = new
    assert carried == 3  # all but the first begin with memories of episodes under way


def spied(config, networks, agent, batch, rates):
    """The loss of PPO; what it is given is told to `SEEN`."""
    jax.debug.callback(lambda batch: SEEN.append(jax.device_get(batch)), batch, ordered=True)
    return ppo.ppo_objective(config, networks, agent, batch, rates)


SEEN: list[Any] = []


def test_minibatches_are_whole_sequences(rollouts):
    before, _, t, batch = rollouts[1]
    SEEN.clear()
    jax.block_until_ready(quickly(partial(ppo.learn, objective=spied), CONFIG, before, batch, KEY))
    jax.effects_barrier()
    orders = np.array([jax.random.permutation(key, 4) for key in jax.random.split(KEY, 2)])
    assert np.any(orders[0] != orders[1])
    assert len(SEEN) == 4
    for minibatch, envs in zip(SEEN, orders.reshape(4, 2), strict=True):
        for row, env in enumerate(envs):
            for name in ("obs", "action", "log_prob", "done"):
                np.testing.assert_array_equal(getattr(minibatch, name)[row], getattr(t, name)[:, env])
            for leaf, expected in zip(minibatch.memory, before.runners.memory, strict=True):
                np.testing.assert_array_equal(leaf[row], expected[env])
        advantage = np.float64(batch.advantage[envs])
        standardised = (advantage - advantage.mean()) / advantage.std()
        np.testing.assert_allclose(minibatch.advantage, standardised, rtol=1e-3, atol=1e-4)


def test_gradient_is_that_of_an_unrolled_loop(rollouts):
    before, _, _, batch = rollouts[1]
    batch = jax.tree.map(lambda leaf: leaf[:2, :5] if leaf.shape[:2] == (4, 8) else leaf[:2], batch)
    done = np.asarray(batch.done)
    assert np.any(done[:, :4])
    networks = bind(CONFIG)
    weights = jnp.asarray(np.random.default_rng(0).normal(size=(3, 2, 5)), jnp.float32)

    def replayed(params):
        samples = batch.obs, batch.action, batch.done, batch.memory
        parts = networks.evaluate_actions(before.agent._replace(params=params), *samples)
        return sum(jnp.sum(w * part) for w, part in zip(weights, parts, strict=True))

    def unrolled(params):
        total = 0.0
        for env in range(2):
            memory = [leaf[env] for leaf in batch.memory]
            for i in range(5):
                dist, value, memory = networks.module.apply(params, batch.obs[env, i], memory)
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
        action, memory = act(config, state, jnp.zeros(1), memory)
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
    action, memory = act(CONFIG, initial, obs)
    action2, memory2 = act(CONFIG, initial, obs, memory)
    assert action.shape == action2.shape == (2, 3)
    assert all(leaf.shape == (2, 3, 6) for leaf in memory2)
    for index in np.ndindex(2, 3):
        first, second = in_numpy(networks_of(initial), [obs[index], obs[index]])
        assert (action[index], action2[index]) == (np.argmax(first[0]), np.argmax(second[0]))
        for leaf, one in zip(memory2, second[2], strict=True):
            np.testing.assert_allclose(leaf[index], one, rtol=1e-3, atol=1e-4)
    many = jnp.broadcast_to(obs[0, 0], (4000, 2))
    drawn, _ = act(CONFIG, initial, many, key=KEY)
    ((log_probs, _, _),) = in_numpy(networks_of(initial), [obs[0, 0]])
    np.testing.assert_allclose(np.mean(np.asarray(drawn) == 1), np.exp(log_probs[1]), atol=0.04)


def test_a_network_without_memory_passes_none_on():
    config = CONFIG.replace(network="mlp")
    state = init(config, KEY)
    action, memory = act(config, state, jnp.zeros(2))
    assert memory == ()
    assert act(config, state, jnp.zeros(2), memory) == (action, ())


def test_exact_solutions_refuse_a_memory():
    config = Config(network="gru", num_envs=4)
    with pytest.raises(ConfigError, match=r"network=GRU\(.*without a memory"):
        optimality(config, jax.eval_shape(partial(init, config), KEY))


@pytest.mark.long
def test_a_memory_recalls_what_is_no_longer_seen():
    settings = {"env": probes.Recall(), "num_envs": 32, "num_steps": 12, "total_timesteps": 32 * 12 * 50, "lr": 1e-2}
    config = Config(**settings, network=GRU(hidden_sizes=(8,)), num_minibatches=2)
    assert quickly(train, config, KEY)[1]["episode_return"][-1] > 0.9
    without = Config(**settings, network=MLP(hidden_sizes=(8,)), num_minibatches=2)
    assert abs(quickly(train, without, KEY)[1]["episode_return"][-1]) < 0.5


def test_initial_memory_is_that_of_the_network():
    assert [leaf.shape for leaf in bind(CONFIG).initial_memory] == [(6,), (6,)]
    shared = bind(CONFIG.replace(network=GRU(hidden_sizes=(6,), shared_torso=True))).initial_memory
    assert [leaf.shape for leaf in shared] == [(6,)]
    assert bind(CONFIG.replace(network="mlp")).initial_memory == ()


# Two readings of one network


class Sum(Recurrent):
    """A sum of what was seen that decays, and the number of steps so far, in a memory of two parts."""

    @nn.compact
    def __call__(self, obs, memory):
        total = 0.5 * memory["total"] + nn.Dense(3, name="inputs")(obs)
        age = memory["age"] + 1
        return *self.heads(total, age), {"total": total, "age": age}

    def heads(self, total, age):
        """The same for one step and for many."""
        outputs = nn.Dense(3, name="outputs")(nn.tanh(total))
        return Categorical.from_logits(outputs[..., :2]), outputs[..., 2] + 0.1 * age

    def initial_memory(self):
        return {"total": jnp.ones(3), "age": jnp.zeros(())}  # not zeros: a reset is seen


class AtOnce(Sum):
    """Reads all steps at once, by products instead of a loop."""

    @nn.compact
    def sequence(self, obs, done, memory):
        time = jnp.arange(len(done))
        lag = time[:, None] - time[None, :]
        episode = jnp.cumsum(done) - done  # how many have ended before each step
        weights = jnp.where((episode[:, None] == episode[None, :]) & (lag >= 0), 0.5 ** lag.clip(0), 0)
        age = time - jax.lax.cummax(jnp.where(jnp.append(False, done[:-1]), time, 0)) + 1
        is_first = jnp.broadcast_to(episode[:, None] == 0, (len(done), 3))
        start = jnp.where(is_first, memory["total"][None], self.initial_memory()["total"][None])
        total = weights @ nn.Dense(3, name="inputs")(obs) + 0.5 ** age[:, None] * start
        return self.heads(total, age + jnp.where(episode == 0, memory["age"], 0))


def of_user(network):
    return CONFIG.replace(network=network)


NETWORKS = {"gru": CONFIG, "user's": of_user(Sum()), "user's, at once": of_user(AtOnce())}


@pytest.mark.parametrize("config", NETWORKS.values(), ids=NETWORKS)
def test_a_sequence_is_read_as_its_steps(config):
    networks = bind(config)
    rng = np.random.default_rng(1)
    obs, done = np.float32(rng.normal(size=(7, 3, 2))), rng.random((7, 3)) < 0.3
    assert done.sum(axis=0).tolist() == [4, 0, 3]
    agent = Agent(randomized(init(config, KEY)).params)
    before = jax.tree.map(lambda leaf: jnp.float32(rng.normal(size=(3, *leaf.shape))), networks.initial_memory)
    whole = quickly(networks.sequence, agent, obs, done, before)
    apply = jax.jit(networks.module.apply)
    for env in range(3):
        memory = jax.tree.map(lambda leaf: leaf[env], before)  # noqa: B023, called at once
        for i in range(7):
            distribution, value, memory = apply(agent.params, obs[i, env], memory)
            assert_trees_close(
                jax.tree.map(lambda leaf: leaf[i, env], (whole.distribution, whole.value)),  # noqa: B023
                (distribution, value),
                rtol=1e-4,
                atol=1e-5,
            )
            if done[i, env]:
                memory = networks.initial_memory


@pytest.mark.parametrize("config", [of_user(Sum()), of_user(AtOnce())], ids=["step by step", "at once"])
def test_values_are_those_of_steps_and_of_true_successors_where_time_ran_out(config):
    state = randomized(quickly(init, config, KEY))._replace(key=KEY)
    apply, num_truncated = jax.jit(config.network.apply), 0
    for _ in range(2):
        after, t, _ = collect(config, state)
        value, next_value = values(config, state, t, after)
        for env in range(4):
            memory = jax.tree.map(lambda leaf: leaf[env], state.runners.memory)  # noqa: B023, called at once
            for i in range(8):
                _, expected, memory = apply(state.params, t.obs[i, env], memory)
                np.testing.assert_allclose(value[i, env], expected, rtol=1e-3, atol=1e-4)
                _, expected, _ = apply(state.params, t.next_obs[i, env], memory)
                if not t.terminated[i, env]:
                    np.testing.assert_allclose(next_value[i, env], expected, rtol=1e-3, atol=1e-4)
                if t.done[i, env]:
                    num_truncated += not t.terminated[i, env]
                    memory = config.network.initial_memory()
        state = after._replace(key=jax.random.key(1))
    assert num_truncated > 2


def test_reading_at_once_learns_what_reading_step_by_step_does():
    keys = jax.random.split(KEY, 2)
    one, other = (quickly(jax.vmap(train, (None, 0)), of_user(network), keys) for network in (Sum(), AtOnce()))
    assert_trees_close(one, other, rtol=5e-3, atol=1e-4)


class Loud(Sum):
    """Its sequences are worth more by 100 than its steps."""

    def sequence(self, obs, done, memory):
        distribution, value = super().sequence(obs, done, memory)
        return distribution, value + 100


def test_the_reading_of_sequences_is_what_values_and_learning_use():
    quiet, loud = (of_user(network).replace(clip_value=False) for network in (Sum(), Loud()))
    state = quickly(init, quiet, KEY)
    (_, t, batch), (_, same, louder) = collect(quiet, state), collect(loud, state)
    np.testing.assert_array_equal(same.action, t.action)
    np.testing.assert_array_equal(same.log_prob, t.log_prob)  # acting reads steps
    np.testing.assert_allclose(louder.value, batch.value + 100, rtol=1e-5)
    # The target is nearer to where the sequences are.
    losses = [objective(config, state.agent, batch._replace(target=batch.value + 100))[1] for config in (quiet, loud)]
    np.testing.assert_allclose([metrics["value_loss"] for metrics in losses], [5000, 0], rtol=1e-4, atol=1e-3)
