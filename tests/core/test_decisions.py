"""A step with one available action is no decision: nothing but the value learns from it."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from purejaxppo import MLP, Config, Environment, GridWorld, init, ppo, train, update
from purejaxppo.environments import MultiDiscrete, make_task
from purejaxppo.losses import standardize
from tests.support.probes import Probe
from tests.support.reference import parsed
from tests.support.small import assert_trees_close, collect, objective, quickly

SIZES: dict[str, Any] = {
    "num_envs": 16,
    "num_steps": 16,
    "total_timesteps": 16 * 16 * 3,
    "network": MLP(hidden_sizes=(16,)),
    "lr": 1e-2,
}
DEAD_ENDS = GridWorld("S....m\n.#.#.D\n.#.#..")


class Signs(Probe, Environment):
    """Two actions, of which an observation of -1 offers only the second."""

    def action_mask(self, obs, params):
        return jnp.stack([obs[0] > 0, True])

    def observe(self, key, state, action, params):
        return state.sign[None]

    def reward(self, state, action):
        return jnp.where(action == 0, 1.0, 0.3)


class Choices(Signs):
    """Two choices at once: an observation of -1 offers one category of each, that of 1 two of the last."""

    def action_space(self, params=None):
        return MultiDiscrete([2, 3])

    def action_mask(self, obs, params):
        return jnp.array([[True, False, False], [False, False, True]]).at[1, 0].set(obs[0] > 0)

    def reward(self, state, action):
        return jnp.float32(action[1] > 0)


CASES = {
    "table": DEAD_ENDS,
    "per sample": GridWorld(DEAD_ENDS.layout, features_as="coordinates"),
    "boxes": Signs(),
    "choices": Choices(),
}


def is_choice(env, obs):
    """Whether there is one, by hand."""
    if isinstance(env, Signs):
        return np.asarray(obs)[:, 0] > 0
    cells, leads_to, *_ = parsed(env.layout)
    ways = [len({to for to in leads_to[cell] if to != cell}) for cell in cells]
    return np.array(ways)[np.asarray(obs)] > 1


@pytest.fixture(scope="module", params=CASES)
def learned(request):
    """A configuration, the state after an update, and what was learned in it."""
    config = Config(env=CASES[request.param], **SIZES)
    state = init(config, jax.random.key(3))
    return config, update(config, state)[0], collect(config, state)[-1]


@pytest.mark.few(2)
def test_decisions_are_the_steps_with_more_than_one_action(learned):
    config, _, batch = learned
    expected = is_choice(config.env, batch.obs)
    assert 0.1 < np.mean(expected) < 0.9
    np.testing.assert_array_equal(batch.weight, expected)


@pytest.mark.few(2)
def test_all_but_the_value_is_as_if_only_decisions_had_been_seen(learned):
    config, state, batch = learned
    decisions = jax.tree.map(lambda leaf: leaf[is_choice(config.env, batch.obs)], batch._replace(weight=()))
    prepared = quickly(ppo._prepared, config, batch)
    found, expected = (
        objective(config, state.agent, each)[1]
        for each in (prepared, decisions._replace(advantage=standardize(decisions.advantage)))
    )
    for name in ("policy_loss", "entropy", "approx_kl", "clip_fraction"):
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-4, atol=1e-6, err_msg=name)
    assert expected["approx_kl"] > 1e-4
    of_all = objective(config, state.agent, batch._replace(weight=()))[1]["value_loss"]
    np.testing.assert_allclose(found["value_loss"], of_all, rtol=1e-6)
    assert abs(of_all - expected["value_loss"]) > 1e-4


def test_where_nothing_is_decided_the_value_is_learned_and_the_policy_stays():
    config = Config(env=GridWorld("Sm"), **SIZES)
    state = init(config, jax.random.key(0))
    after, metrics = quickly(train, config, jax.random.key(0))
    before, after = (dict(jax.tree_util.tree_leaves_with_path(each.params)) for each in (state, after))
    for path, leaf in before.items():
        name = jax.tree_util.keystr(path)
        is_values = ".value" in name or ".torsos[1]" in name
        assert np.array_equal(leaf, after[path]) != is_values, name
    for name in ("policy_loss", "entropy", "approx_kl", "clip_fraction"):
        assert np.all(metrics[name] == 0), name
    assert metrics["value_loss"][-1] < 0.5 * metrics["value_loss"][0]


@pytest.mark.parametrize(
    ("env", "is_known"),
    [
        ("CartPole-v1", True),
        (GridWorld("S.m", mask_blocked=False), True),
        (GridWorld("treasure"), True),
        (DEAD_ENDS, False),
        (Signs(), False),
    ],
)
def test_no_weights_where_every_step_is_known_to_be_a_decision(env, is_known):
    config = Config(env=env, **SIZES)
    assert make_task(config.env).always_decides == is_known
    assert isinstance(collect(config, init(config, jax.random.key(0)))[-1].weight, tuple) == is_known


class Narrowing(GridWorld):
    """A grid on which, with a time limit of 5, only the first of the open moves is offered."""

    def action_mask(self, obs, params):
        mask = super().action_mask(obs, params)
        return jnp.where(params.max_steps_in_episode == 5, mask & (jnp.cumsum(mask) == 1), mask)


@pytest.mark.long
def test_a_mask_may_depend_on_parameters_that_are_mapped_over():
    env = Narrowing("treasure")
    config = Config(env=env, **SIZES)
    limits = jnp.array([5, 100])
    params = jax.vmap(lambda limit: env.default_params.replace(max_steps_in_episode=limit))(limits)

    def trained(env_params):
        return train(config.replace(env_params=env_params), jax.random.key(1))[1]

    together = quickly(jax.vmap(trained), params)
    assert together["entropy"].min(axis=1).tolist()[0] == 0
    assert together["entropy"][1].min() > 0.1
    for i in range(2):
        alone = quickly(trained, jax.tree.map(lambda leaf, i=i: leaf[i], params))
        assert_trees_close(jax.tree.map(lambda leaf, i=i: leaf[i], together), alone, rtol=1e-3, atol=1e-4)
