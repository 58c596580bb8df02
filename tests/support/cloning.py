"""A second algorithm: fit a linear policy to given actions, from random starts, by minibatches."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from purejaxppo.algorithms import Algorithm
from purejaxppo.settings import COUNT, NON_NEGATIVE, POSITIVE, Settings, static, traced

NUM_FEATURES, NUM_ACTIONS = 3, 4
TEACHER = jax.random.normal(jax.random.key(0), (NUM_FEATURES, NUM_ACTIONS))


class CloningConfig(Settings):
    """Its own settings: a static tuple and two numbers."""

    num_updates: int = static(8, "gradient steps", COUNT)
    batch_size: int = static(16, "samples of each", COUNT)
    hidden_sizes: tuple[int, ...] = static((5,), "widths of the hidden layers")
    lr: float = traced(0.1, "learning rate", POSITIVE)
    decay: float = traced(0.0, "weight decay", NON_NEGATIVE)


class CloningState(NamedTuple):
    """Arrays only."""

    params: list
    opt_state: optax.OptState
    key: jax.Array
    step: jax.Array  # it need not be called like PPO's


def init(config, key, params=None):
    key_params, key = jax.random.split(key)
    if params is None:
        sizes = (NUM_FEATURES, *config.hidden_sizes, NUM_ACTIONS)
        keys = jax.random.split(key_params, len(sizes) - 1)
        params = [jax.random.normal(key, shape) / shape[0] for key, *shape in zip(keys, sizes, sizes[1:], strict=False)]
    return CloningState(params, _optimizer(config).init(params), key, jnp.zeros((), jnp.int32))


def update(config, state):
    key_samples, key = jax.random.split(state.key)
    obs = jax.random.normal(key_samples, (config.batch_size, NUM_FEATURES))
    loss, gradient = jax.value_and_grad(_loss)(state.params, obs)
    changes, opt_state = _optimizer(config).update(gradient, state.opt_state, state.params)
    params = optax.apply_updates(state.params, changes)
    metrics = {"loss": loss, "num_right": jnp.sum(_is_right(params, obs))}  # the latter an integer
    return CloningState(params, opt_state, key, state.step + 1), metrics


def score(config, state, key, *, num_episodes):
    obs = jax.random.normal(key, (num_episodes, NUM_FEATURES))
    return {"score": jnp.mean(_is_right(state.params, obs)), "loss": _loss(state.params, obs)}


CLONING = Algorithm(CloningConfig, init, update, score)


def _logits(params, obs):
    for weights in params[:-1]:
        obs = jnp.tanh(obs @ weights)
    return obs @ params[-1]


def _is_right(params, obs):
    return jnp.argmax(_logits(params, obs), axis=-1) == jnp.argmax(obs @ TEACHER, axis=-1)


def _loss(params, obs):
    labels = jnp.argmax(obs @ TEACHER, axis=-1)
    return optax.softmax_cross_entropy_with_integer_labels(_logits(params, obs), labels).mean()


def _optimizer(config):
    return optax.adamw(config.lr, weight_decay=config.decay)
