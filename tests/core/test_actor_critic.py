"""Networks in a task: their table, their pieces, and their two readings."""

from functools import partial

import jax
import numpy as np
import pytest

from purejaxppo import MLP, Config, GridWorld, GridWorldParams, actor_critic, init, learn
from purejaxppo.actor_critic import ActorCritic
from purejaxppo.ppo import bind, ppo_objective, rates_at
from tests.support.small import assert_trees_close, collect, quickly

KEY = jax.random.key(7)
SIZES = {"num_envs": 8, "num_steps": 16, "total_timesteps": 8 * 16, "network": MLP(hidden_sizes=(16,)), "lr": 2.5e-3}
TABLE, PER_SAMPLE = Config(**SIZES), Config(env="CartPole-v1", **SIZES)


def values(config, state, transitions, after, *, piece=1):
    """`(value, next_value)` of a rollout, from the state before it and the runners after it."""
    evaluate = partial(bind(config).values, piece=piece)
    return quickly(evaluate, state.agent, transitions, state.runners, after)


def test_table_gives_the_loss_and_gradient_of_the_networks(monkeypatch):
    for config in (TABLE, TABLE.replace(env=GridWorld("treasure", features_as="coordinates"))):
        state, networks, rates = init(config, KEY), bind(config), rates_at(config, 0)
        *_, batch = collect(config, state)
        params = jax.tree.map(lambda leaf: leaf + 0.1 * jax.random.normal(KEY, leaf.shape), state.params)

        def loss(params, batch):
            agent = state.agent._replace(params=params)  # noqa: B023, called below
            return ppo_objective(config, networks, agent, batch, rates)  # noqa: B023

        gradient = jax.value_and_grad(loss, has_aux=True)
        assert networks.uses_table(config.minibatch_size)
        with_table = gradient(params, batch)
        with monkeypatch.context() as patch:
            patch.setattr(ActorCritic, "uses_table", lambda self, num_rows: False)
            per_sample = gradient(params, batch)
        assert_trees_close(with_table, per_sample, rtol=1e-4, atol=1e-6)


def test_what_is_learned_in_pieces_is_what_is_learned_at_once(monkeypatch):
    config = PER_SAMPLE.replace(num_minibatches=1, num_epochs=2)
    state = init(config, KEY)
    *_, batch = collect(config, state)
    assert bind(config).microbatch_size(state.params, config.minibatch_size) == config.minibatch_size
    whole, metrics = jax.jit(lambda *args: learn(*args))(config, state, batch, KEY)  # a program of its own
    monkeypatch.setattr(actor_critic, "CACHED_ACTIVATIONS", 16 * config.minibatch_size // 4)
    assert bind(config).microbatch_size(state.params, config.minibatch_size) == config.minibatch_size // 4
    in_pieces, same_metrics = jax.jit(lambda *args: learn(*args))(config, state, batch, KEY)
    assert_trees_close((in_pieces.params, same_metrics), (whole.params, metrics), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("size", "limit", "chunks"), [(96, 96, 1), (96, 95, 2), (96, 20, 6), (97, 20, 1), (97, 1, 97)])
def test_chunks_are_equal_and_not_much_smaller_than_they_may_be(size, limit, chunks, monkeypatch):
    config = Config(env="CartPole-v1")
    monkeypatch.setattr(actor_critic, "CACHED_ACTIVATIONS", 64 * limit)
    assert bind(config).microbatch_size({"kernel": np.zeros((64, 4))}, size) == size // chunks


def test_next_value_is_that_of_the_true_successor():
    env = GridWorld("treasure", mask_blocked=False)
    config = Config(env=env, env_params=GridWorldParams(max_steps_in_episode=3), **SIZES)
    state = init(config, KEY)
    after, t, _ = collect(config, state)
    seen, next_value = map(np.asarray, values(config, state, t, after.runners))
    assert np.sum(t.done & ~t.terminated) > 5
    assert np.sum(t.terminated) > 5
    successor = env.map.next_cell[np.asarray(t.obs), np.asarray(t.action)]
    value = np.asarray(bind(config).table(state.agent).value)
    np.testing.assert_array_equal(t.next_obs, successor)
    goes_on = ~np.asarray(t.terminated)
    np.testing.assert_allclose(next_value[goes_on], value[successor][goes_on], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(seen, value[np.asarray(t.obs)], rtol=1e-5, atol=1e-6)
    # Where no episode ended, the successor is what is seen next.
    stays = ~np.asarray(t.done)[:-1]
    np.testing.assert_array_equal(successor[:-1][stays], np.asarray(t.obs)[1:][stays])


@pytest.mark.long
def test_values_in_pieces_are_those_of_every_sample():
    config = Config(env="CartPole-v1", num_envs=3, num_steps=7, num_minibatches=1, total_timesteps=21)
    state = init(config, KEY)
    after, t, _ = collect(config, state)
    t = t._replace(done=t.done.at[2].set(True))  # as if a time limit cut all three
    value, next_value = values(config, state, t, after.runners, piece=3)
    for i, j in np.ndindex(7, 3):
        (expected,) = bind(config).step(state.agent, t.obs[i, j][None])[0].value
        np.testing.assert_allclose(value[i, j], expected, rtol=1e-5, atol=1e-6)
        (expected,) = bind(config).step(state.agent, t.next_obs[i, j][None])[0].value
        np.testing.assert_allclose(next_value[i, j], expected, rtol=1e-5, atol=1e-6)
