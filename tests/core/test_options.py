"""Every option changes the result; the defaults are those of CleanRL."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest

from purejaxppo import CNN, GRU, MLP, Config, GridWorldParams, init, ppo, train
from purejaxppo.losses import standardize
from purejaxppo.optimizers import OPTIMIZERS
from tests.support.small import assert_trees_close, collect, gradient_of, quickly

KEY = jax.random.key(7)
SIZES: dict[str, Any] = {
    "num_envs": 8,
    "num_steps": 16,
    "total_timesteps": 8 * 16 * 2,
    "network": MLP(hidden_sizes=(16,)),
}


def warm_up(progress):
    """An optax schedule of progress."""
    return optax.warmup_cosine_decay_schedule(0.5, 1.0, 0.4, 1.0)(progress)


def lion(lr):
    """An optimiser that has no name here, with a decay of all parameters."""
    return optax.chain(optax.add_decayed_weights(0.01), optax.lion(lr))


def monte_carlo(reward, value, next_value, terminated, done, *, gamma, gae_lambda):
    """What follows within the rollout, discounted, up to the end of an episode; the last value where it goes on."""

    def backward(following, step):
        reward, next_value, terminated, done = step
        following = jnp.where(done, (1 - terminated) * next_value, following)
        following = reward + gamma * following
        return following, following

    steps = (reward, next_value, terminated, done)
    _, target = jax.lax.scan(backward, next_value[-1], steps, reverse=True)
    return target - value, target


CHANGES: list[dict[str, Any]] = [
    {"lr": 1e-3},
    {"gamma": 0.5},
    {"gae_lambda": 0.1},
    {"clip_eps": 1e-3},
    {"vf_coef": 2.0},
    {"ent_coef": 0.5},
    {"max_grad_norm": 1e-3},
    {"env_params": GridWorldParams(money=1.0)},
    {"num_epochs": 1},
    {"num_minibatches": 2},
    {"num_steps": 8},
    {"num_envs": 4},
    {"network": MLP(hidden_sizes=(16, 16))},
    {"network": "gru"},
    {"optimizer": "muon"},
    {"optimizer": lion},
    {"advantage": monte_carlo},
    {"lr_schedule": "constant"},
    {"lr_schedule": warm_up},
    {"normalize_advantage": False},
    {"clip_value": False},
    {"normalize_obs": True},
    {"normalize_reward": True},
    {"lr_end": 5e-3},
    {"clip_eps_schedule": "linear"},
    {"clip_eps_end": 0.01},
    {"ent_coef_schedule": "cosine"},
    {"ent_coef_end": 1.0},
    {"target_kl": 1e-5},
    {"dual_clip": 1.001},
    {"huber_delta": 0.01},
    {"kl_coef": 5.0},
    {"reset_pool": 2},
]
# What some options need in order to make a difference.
NEEDS: dict[str, dict[str, Any]] = {
    "normalize_obs": {"env": "CartPole-v1"},
    "ent_coef_schedule": {"ent_coef": 0.5},
    "clip_eps_end": {"clip_eps_schedule": "linear"},
    "ent_coef_end": {"ent_coef_schedule": "linear"},
}


@functools.cache
def last_value_loss(config):
    return float(quickly(train, config, KEY)[1]["value_loss"][-1])


def named(change):
    """The option, and its value where that is a word or a function."""
    ((name, value),) = change.items()
    return f"{name}={getattr(value, '__name__', value)}" if callable(value) or isinstance(value, str) else name


@pytest.mark.few(6)
@pytest.mark.parametrize("change", CHANGES, ids=named)
def test_every_option_changes_the_result(change):
    needs = NEEDS.get(next(iter(change)), {})
    config = Config(**SIZES | {"lr": 1e-2, "clip_eps": 0.05} | needs)
    assert last_value_loss(config) != last_value_loss(config.replace(**change))


def test_every_option_is_among_the_changes():
    names = {field.name for field in dataclasses.fields(Config)}
    others = {"env", "total_timesteps", "exact_return", "info"}  # another problem, more of the same, and diagnostics
    assert {name for change in CHANGES for name in change} == names - others


IMAGES = {"env": "Breakout-MinAtar", "num_envs": 2}
FIELDS = [
    ({}, MLP(hidden_sizes=(16,)), {"activation": "relu"}),
    ({}, MLP(hidden_sizes=(16,)), {"layer_norm": True}),
    ({}, MLP(hidden_sizes=(16,)), {"shared_torso": True}),
    ({}, MLP(hidden_sizes=(16,)), {"dtype": "bfloat16"}),
    ({"env": "Pendulum-v1"}, MLP(hidden_sizes=(16,)), {"distribution": "tanh_gaussian"}),
    (IMAGES, CNN(channels=(1,), hidden_sizes=(4,)), {"channels": (2,)}),
    (IMAGES, CNN(channels=(1,), hidden_sizes=(4,)), {"hidden_sizes": (5,)}),
    ({}, GRU(hidden_sizes=(4,)), {"hidden_sizes": (5,)}),
]


@pytest.mark.few(2)
@pytest.mark.parametrize(("needs", "network", "change"), FIELDS, ids=[f"{type(n).__name__} {c}" for _, n, c in FIELDS])
def test_every_field_of_a_network_changes_the_result(needs, network, change):
    config = Config(**SIZES | {"lr": 1e-2, "clip_eps": 0.05} | needs | {"network": network})
    assert last_value_loss(config) != last_value_loss(config.replace(network=network.replace(**change)))


def test_every_field_of_a_network_is_among_the_changes():
    changed = {(type(network), name) for _, network, change in FIELDS for name in change} | {(MLP, "hidden_sizes")}
    inherited = {field.name for field in dataclasses.fields(MLP)}
    for cls in (MLP, CNN, GRU):
        own = {field.name for field in dataclasses.fields(cls)} - (
            set() if cls is MLP else inherited - {"hidden_sizes"}
        )
        assert {name for of, name in changed if of is cls} == own


def test_defaults_are_those_of_cleanrl_and_every_addition_is_off():
    """Those of its `ppo.py`."""
    values = {field.name: getattr(Config(), field.name) for field in dataclasses.fields(Config)}
    cleanrl = {
        "total_timesteps": 500_000,
        "num_envs": 4,
        "num_steps": 128,
        "num_epochs": 4,
        "num_minibatches": 4,
        "network": MLP(hidden_sizes=(64, 64), activation="tanh"),
        "optimizer": "adam",
        "advantage": "gae",
        "normalize_advantage": True,
        "clip_value": True,
        "lr": 2.5e-4,
        "lr_schedule": "linear",
        "gamma": 0.99,
        "gae_lambda": 0.95,
        "clip_eps": 0.2,
        "vf_coef": 0.5,
        "ent_coef": 0.01,
        "max_grad_norm": 0.5,
    }
    off = {"clip_eps_schedule": "constant", "ent_coef_schedule": "constant"}
    assert values.pop("env") == "GridWorld-treasure"
    for name, value in (cleanrl | off).items():
        assert values.pop(name) == value, name
    assert not any(values.values()), values
    networks = {field.name: getattr(Config().network, field.name) for field in dataclasses.fields(MLP)}
    assert [networks.pop(name) for name in ("hidden_sizes", "activation")] == [(64, 64), "tanh"]
    assert [networks.pop(name) for name in ("distribution", "dtype")] == ["auto", "float32"]
    assert not any(networks.values()), networks


OF_OPTAX = {
    "adam": optax.adam(0.01, eps=1e-5),
    "adamw": optax.adamw(0.01, eps=1e-5, weight_decay=1e-4),
    "muon": optax.contrib.muon(0.01),
    "rmsprop": optax.rmsprop(0.01, decay=0.99, eps=1e-5),
    "sgd": optax.sgd(0.01),
    lion: optax.chain(optax.add_decayed_weights(0.01), optax.lion(0.01)),
}


@pytest.mark.few(2)
@pytest.mark.parametrize("optimizer", OF_OPTAX, ids=lambda x: getattr(x, "__name__", x))
def test_an_optimizer_is_that_of_optax(optimizer):
    """One step on a whole batch, behind a clip that binds."""
    adam = Config(**SIZES | {"num_epochs": 1, "num_minibatches": 1, "lr": 0.01, "max_grad_norm": 0.1})
    state, config = init(adam, KEY), adam.replace(optimizer=optimizer)
    *_, batch = collect(adam, state)
    gradient, _ = gradient_of(adam, state, batch._replace(advantage=standardize(batch.advantage)))
    assert optax.tree.norm(gradient) > 0.2
    expected = optax.chain(optax.clip_by_global_norm(0.1), OF_OPTAX[optimizer])
    changes, _ = expected.update(gradient, expected.init(state.params), state.params)
    learned, _ = quickly(ppo.learn, config, init(config, KEY), batch, KEY)
    assert_trees_close(learned.params, optax.apply_updates(state.params, changes), rtol=1e-4, atol=2e-5)


def test_every_name_of_an_optimizer_is_tested():
    assert set(OPTIMIZERS) < set(OF_OPTAX)


def test_an_estimator_is_called_where_its_inputs_are():
    """Returns by a plain loop over what was seen, and the values that the batch holds."""
    config = Config(**SIZES, advantage=monte_carlo, env_params=GridWorldParams(max_steps_in_episode=6))
    state = init(config, KEY)
    after, t, batch = collect(config, state)
    value = np.asarray(batch.value).reshape(16, 8)
    _, next_value = quickly(
        functools.partial(ppo.bind(config).values, piece=1), state.agent, t, state.runners, after.runners
    )
    assert np.any(t.done & ~t.terminated)
    assert np.any(t.terminated)
    expected, following = np.zeros((16, 8)), np.float64(next_value[-1])
    for i in reversed(range(16)):
        following = np.where(t.terminated[i], 0, np.where(t.done[i], next_value[i], following))
        following = expected[i] = t.reward[i] + 0.99 * following
    np.testing.assert_allclose(batch.target.reshape(16, 8), expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(batch.advantage.reshape(16, 8), expected - value, rtol=1e-4, atol=1e-4)
    *_, with_gae = collect(config.replace(advantage="gae"), state)
    assert np.all(with_gae.value == batch.value)
    assert np.any(with_gae.advantage != batch.advantage)
    # And lambda = 1 is the same by another way.
    *_, with_lambda_1 = collect(config.replace(advantage="gae", gae_lambda=1.0), state)
    np.testing.assert_allclose(with_lambda_1.advantage, batch.advantage, rtol=1e-4, atol=1e-4)
