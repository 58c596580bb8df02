"""The configuration: what is refused and how it is said, and its sizes."""

import dataclasses
from functools import partial

import gymnax
import numpy as np
import optax
import pytest

from purejaxppo import CNN, GRU, MLP, Config, Recurrent
from purejaxppo.environments import GridWorldParams, RandomGridWorldParams
from tests.support.odd import FiveValues, SixValues
from tests.support.small import refused

OPTIMIZERS = "'adam', 'adamw', 'muon', 'rmsprop', 'sgd'"


@pytest.mark.parametrize("cls", [Config, GridWorldParams, RandomGridWorldParams, MLP, CNN, GRU])
def test_every_field_says_what_it_is(cls):
    for field in dataclasses.fields(cls):
        assert isinstance(field.metadata["static"], bool), field.name
        assert isinstance(field.metadata["help"], str), field.name
        assert len(field.metadata["help"]) > 5, field.name
        getattr(cls(), field.name)


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("total_timesteps", 0, "an integer >= 1"),
        ("num_envs", 2.5, "an integer >= 1"),
        ("num_steps", -1, "an integer >= 1"),
        ("num_epochs", 0, "an integer >= 1"),
        ("num_minibatches", "4", "an integer >= 1"),
        ("normalize_advantage", None, "True or False"),
        ("clip_value", "no", "True or False"),
        ("lr", 0.0, "a finite number > 0"),
        ("gamma", 1.01, "a number in [0, 1]"),
        ("gae_lambda", -0.01, "a number in [0, 1]"),
        ("clip_eps", 0, "a finite number > 0"),
        ("vf_coef", -1, "a finite number >= 0"),
        ("ent_coef", -0.1, "a finite number >= 0"),
        ("max_grad_norm", np.inf, "a finite number > 0"),
        ("num_minibatches", 3, "a divisor of num_envs * num_steps = 512"),
        ("num_minibatches", 1024, "a divisor of num_envs * num_steps = 512"),
        ("total_timesteps", 511, "at least num_envs * num_steps = 512, one update"),
        ("optimizer", "adan", f"one of {OPTIMIZERS}, or a module-level function from a learning rate to an optax"),
        ("optimizer", optax.adam(1e-3), f"one of {OPTIMIZERS}, or a module-level function from a learning rate"),
        ("advantage", "vtrace", "one of 'gae', or a module-level function with the arguments of gae"),
        ("lr_schedule", "step", "one of 'constant', 'linear', 'cosine', or a module-level function of progress"),
        ("info", "discount", "a sequence of words"),
        ("info", (1,), "a sequence of words"),
        ("env_params", 1.0, "None, or parameters of GridWorld (GridWorldParams)"),
    ],
)
def test_config_names_field_value_and_what_is_allowed(name, value, allowed):
    assert refused(Config, **{name: value}).startswith(allowed)


CARTPOLE = {"env": "CartPole-v1"}


class Remembering(Recurrent):
    """Never called."""


@pytest.mark.parametrize(
    ("others", "name", "value", "allowed"),
    [
        (CARTPOLE, "network", "cnn", "for images of at least 3x3, but the environment observes (4,)"),
        ({}, "network", "cnn", "for images of at least 3x3, but the environment observes ()"),
        ({"network": "gru"}, "num_minibatches", 8, "a divisor of num_envs = 4, as a network with a memory learns from"),
        ({"network": Remembering()}, "num_minibatches", 8, "a divisor of num_envs = 4, as a network with a memory"),
        ({}, "network", 3, "one of 'mlp', 'cnn', 'gru', a Network such as MLP(), or a hashable flax module"),
        ({}, "normalize_obs", True, "False: the observations of env='GridWorld-treasure' are indices"),
        (CARTPOLE, "exact_return", True, "False: no model is known of env='CartPole-v1'"),
        (CARTPOLE, "reset_pool", -1, "an integer >= 0"),
        (CARTPOLE, "reset_pool", 1.5, "an integer >= 0"),
        ({}, "target_kl", 0, "a finite number > 0, or None"),
        ({}, "target_kl", -0.1, "a finite number > 0, or None"),
        ({}, "dual_clip", 1.0, "a finite number > 1, or None"),
        ({}, "dual_clip", "3", "a finite number > 1, or None"),
        ({}, "huber_delta", 0.0, "a finite number > 0, or None"),
        ({}, "huber_delta", np.nan, "a finite number > 0, or None"),
    ],
)
def test_config_names_what_does_not_fit_together(others, name, value, allowed):
    assert refused(partial(Config, **others), **{name: value}).startswith(allowed)


class Wrapped:
    """As gymnax's wrappers: `step_env` is that of the environment inside, whatever the wrapper does in `step`."""

    def __init__(self, env):
        self.env = env

    def __getattr__(self, name):
        return getattr(self.env, name)


def test_pools_need_an_environment_that_does_not_reset_itself():
    for env in (FiveValues(), SixValues(), Wrapped(gymnax.make("CartPole-v1")[0])):
        assert "has no step without a reset" in refused(partial(Config, env=env), reset_pool=4)


def test_sizes():
    config = Config(num_envs=6, num_steps=10, num_minibatches=4, total_timesteps=200)
    assert (config.batch_size, config.minibatch_size, config.num_updates) == (60, 15, 3)
    assert Config().replace(total_timesteps=512).num_updates == 1
    assert Config().replace(total_timesteps=1023).num_updates == 1
    assert Config().replace(total_timesteps=1024).num_updates == 2
    single = Config(num_envs=1, num_steps=1, num_minibatches=1, total_timesteps=1)
    assert (single.batch_size, single.minibatch_size, single.num_updates) == (1, 1, 1)


def test_more_updates_than_can_be_counted_are_refused():
    sizes = {"env": "CartPole-v1", "num_envs": 1, "num_steps": 4, "num_minibatches": 1}
    assert Config(total_timesteps=4 * 2**31 - 1, **sizes).num_updates == 2**31 - 1
    with pytest.raises(ValueError, match=r"^total_timesteps=8589934592: must be below 2\*\*31 updates of .* = 4"):
        Config(total_timesteps=4 * 2**31, **sizes)
