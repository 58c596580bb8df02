"""Proximal Policy Optimization (Schulman et al., 2017), Algorithm 1: train, init, update, learn."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from purejaxppo.acting import (
    Runner,
    Transition,
    environment,
    judge,
    network,
    policy_in,
    rollout,
    rows_at_once,
    start,
    tabular_model,
    values,
)
from purejaxppo.advantages import gae
from purejaxppo.config import Config
from purejaxppo.environments import interface
from purejaxppo.fields import check_key
from purejaxppo.losses import Batch, explained_variance, ppo_loss, standardize
from purejaxppo.planning import expected_return
from purejaxppo.shuffling import random_permutation

Metrics = dict[str, Array]


class TrainState(NamedTuple):
    """A training run between two updates: arrays only."""

    params: Any
    opt_state: Any
    runners: Runner  # [N]
    key: Array
    num_updates: Array  # [], int32, updates done


@jax.jit
def train(config: Config, key: Array) -> tuple[TrainState, Metrics]:
    """Train one agent, from initialisation to the last update, in one compiled program.

    `jax.vmap` maps it over keys (seeds) and over any traced field of `config`.

    Args:
        config: the run's configuration.
        key: one typed key (`jax.random.key(seed)`), consumed.

    Returns:
        `(state, metrics)`. Each metric is `[num_updates]`:

        - `episode_return`, `episode_length`: means over the `num_episodes` episodes that ended in that update; NaN
          if none did.
        - `policy_loss`, `value_loss`, `entropy`, `approx_kl`, `clip_fraction`, `grad_norm` (before clipping): means
          over the update's gradient steps, see `ppo_loss`.
        - `explained_variance`: of the targets by the values, over the batch, before learning.
        - `num_skipped`: gradient steps left out because the gradient was not finite.
        - `expected_return`, with `exact_return`: of the sampled policy after the update, see `planning`.

    Raises:
        ConfigError: the key is not a single typed key.
    """
    return jax.lax.scan(lambda state, _: update(config, state), init(config, key), length=config.num_updates)


@jax.jit
def init(config: Config, key: Array) -> TrainState:
    """The state before the first update: fresh networks, optimiser and environments.

    Raises:
        ConfigError: the key is not a single typed key.
    """
    check_key(key)
    key_params, key_runners, key = jax.random.split(key, 3)
    runners = jax.vmap(partial(start, config))(jax.random.split(key_runners, config.num_envs))
    obs = jax.tree.map(lambda leaf: leaf[0], runners.obs)
    params = network(config).init(key_params, interface.features(environment(config)[0], obs))
    return TrainState(params, _optimizer(config, 0).init(params), runners, key, jnp.zeros((), jnp.int32))


@jax.jit
def update(config: Config, state: TrainState) -> tuple[TrainState, Metrics]:
    """One iteration of Algorithm 1: act for `T` steps in `N` environments, then learn from them.

    Returns:
        `(state, metrics)`, the metrics of `train` as scalars.
    """
    key_rollout, key_learn, key = jax.random.split(state.key, 3)
    runners, transitions, batch = collect(config, state, key_rollout)
    params, opt_state, metrics = learn(config, state, batch, key_learn)
    metrics |= _episode_metrics(transitions)
    metrics["explained_variance"] = explained_variance(batch.value, batch.target)
    if config.exact_return:
        metrics["expected_return"] = _expected_return(config, params)
    return TrainState(params, opt_state, runners, key, state.num_updates + 1), metrics


def collect(config: Config, state: TrainState, key: Array) -> tuple[Runner, Transition, Batch]:
    """A rollout of `T` steps in `N` environments, and what there is to learn from it."""
    runners, transitions = rollout(config, state.params, state.runners, key)
    value, next_value = values(config, state.params, runners, transitions)
    return runners, transitions, to_batch(config, transitions, value, next_value)


def to_batch(config: Config, transitions: Transition, value: Array, next_value: Array) -> Batch:
    """Transitions and values `[T, N]`, with their advantages, as one batch `[T * N]`."""
    estimate = partial(gae, gamma=config.gamma, gae_lambda=config.gae_lambda)
    t = transitions
    advantage, target = jax.vmap(estimate, in_axes=1, out_axes=1)(t.reward, value, next_value, t.terminated, t.done)
    batch = Batch(t.obs, t.action, t.log_prob, value, advantage, target)
    return jax.tree.map(lambda leaf: leaf.reshape(config.batch_size, *leaf.shape[2:]), batch)


def learn(config: Config, state: TrainState, batch: Batch, key: Array) -> tuple[Any, Any, Metrics]:
    """Some epochs of minibatch gradient steps on one batch."""
    optimizer = _optimizer(config, state.num_updates)

    def epoch(carry: tuple[Any, Any], key: Array) -> tuple[tuple[Any, Any], Metrics]:
        permutation = random_permutation(key, config.num_steps, config.num_envs)
        return jax.lax.scan(gradient_step, carry, permutation.reshape(config.num_minibatches, -1))

    def gradient_step(carry: tuple[Any, Any], indices: Array) -> tuple[tuple[Any, Any], Metrics]:
        params, opt_state = carry
        gradient, metrics = _gradient(config, params, _minibatch(config, batch, indices))
        metrics["grad_norm"] = optax.tree.norm(gradient)
        changes, new_opt_state = optimizer.update(gradient, opt_state)
        # A step that is not finite is left out, and counted: it must not destroy what was learned.
        finite = jnp.isfinite(metrics["grad_norm"])
        metrics["num_skipped"] = 1.0 - finite
        new = optax.apply_updates(params, changes), new_opt_state
        return jax.tree.map(partial(jnp.where, finite), new, carry), metrics

    keys = jax.random.split(key, config.num_epochs)
    (params, opt_state), metrics = jax.lax.scan(epoch, (state.params, state.opt_state), keys)
    num_skipped = metrics.pop("num_skipped").sum()
    return params, opt_state, jax.tree.map(jnp.mean, metrics) | {"num_skipped": num_skipped}


def _minibatch(config: Config, batch: Batch, indices: Array) -> Batch:
    """The samples at `indices`, their advantages standardised if so configured."""
    look_up = partial(jnp.take, indices=indices, axis=0, mode="clip")
    # The barrier keeps XLA from repeating the look-up in every sum that standardising needs.
    minibatch = jax.lax.optimization_barrier(jax.tree.map(look_up, batch))
    if config.normalize_advantage:
        minibatch = minibatch._replace(advantage=standardize(minibatch.advantage))
    return minibatch


def _gradient(config: Config, params: Any, minibatch: Batch) -> tuple[Any, Metrics]:
    """The gradient of the loss on a minibatch, and the loss's metrics.

    The loss is a mean over samples, so its gradient is the mean of the gradients of equal chunks.
    """
    gradient = jax.grad(partial(_loss, config), has_aux=True)
    num_chunks = config.minibatch_size // rows_at_once(config, params)
    if num_chunks == 1:
        return gradient(params, minibatch)
    chunks = jax.tree.map(lambda leaf: leaf.reshape(num_chunks, -1, *leaf.shape[1:]), minibatch)

    def add(total: Any, chunk: Batch) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, gradient(params, chunk)), None

    shapes = jax.eval_shape(gradient, params, minibatch)
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    # Two chunks at a time: XLA runs the small operations of one beside those of the other.
    total, _ = jax.lax.scan(add, zeros, chunks, unroll=2)
    return jax.tree.map(lambda leaf: leaf / num_chunks, total)


def _loss(config: Config, params: Any, minibatch: Batch) -> tuple[Array, Metrics]:
    """The PPO loss of the networks on a minibatch."""
    return ppo_loss(
        *judge(config, params, minibatch.obs, minibatch.action),
        minibatch,
        clip_eps=config.clip_eps,
        vf_coef=config.vf_coef,
        ent_coef=config.ent_coef,
        clip_value=config.clip_value,
    )


def _optimizer(config: Config, num_updates: Any) -> optax.GradientTransformation:
    """Adam behind a clip of the global norm, at the learning rate of the update at hand."""
    remaining = jnp.maximum(1.0 - num_updates / config.num_updates, 0.0) if config.anneal_lr else 1.0
    return optax.chain(optax.clip_by_global_norm(config.max_grad_norm), optax.adam(config.lr * remaining, eps=1e-5))


def _episode_metrics(transitions: Transition) -> Metrics:
    """Means over the episodes that ended."""
    num_episodes = jnp.sum(transitions.done, dtype=jnp.float32)

    def mean(x: Array) -> Array:
        return jnp.sum(jnp.where(transitions.done, x, 0)) / num_episodes

    return {
        "episode_return": mean(transitions.episode_return),
        "episode_length": mean(transitions.episode_length),
        "num_episodes": num_episodes,
    }


def _expected_return(config: Config, params: Any) -> Array:
    """What an episode of the policy is expected to return, exactly."""
    model = tabular_model(config)
    probabilities, _ = policy_in(config, params, model)
    horizon = environment(config)[1].max_steps_in_episode
    return expected_return(model, probabilities, horizon).episode_return
