"""Proximal Policy Optimization (Schulman et al., 2017), Algorithm 1: train, init, update, learn."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from purejaxppo.acting import Runner, Transition, rollout, start, values
from purejaxppo.advantages import gae
from purejaxppo.config import Config, check_config
from purejaxppo.keys import check_key
from purejaxppo.losses import Batch, explained_variance, ppo_loss, standardize
from purejaxppo.normalizers import Moments, add, no_moments, no_reward_scale, scale_rewards
from purejaxppo.planning import expected_return
from purejaxppo.policies import (
    Agent,
    environment,
    initial_params,
    is_recurrent,
    judge,
    network_input,
    policy_in,
    rows_at_once,
    tabular_model,
)
from purejaxppo.schedules import scheduled
from purejaxppo.shuffling import random_permutation

Metrics = dict[str, Array]


class TrainState(NamedTuple):
    """A training run between two updates: arrays only."""

    params: Any
    opt_state: Any
    runners: Runner  # [N]
    key: Array
    num_updates: Array  # [], int32, updates done
    obs_moments: Any = ()  # `Moments`, with normalize_obs
    reward_scale: Any = ()  # `RewardScale`, with normalize_reward

    @property
    def agent(self) -> Agent:
        """What the networks need of it."""
        return Agent(self.params, self.obs_moments)


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
        - `num_stopped`, with `target_kl`: gradient steps left out because of it. They are computed all the same.
        - `expected_return`, with `exact_return`: of the sampled policy after the update, see `planning`.

    Raises:
        ConfigError: the configuration or the key is not a single one.
    """
    return jax.lax.scan(lambda state, _: update(config, state), init(config, key), length=config.num_updates)


@jax.jit
def init(config: Config, key: Array) -> TrainState:
    """The state before the first update: fresh networks, optimiser and environments.

    Raises:
        ConfigError: the configuration or the key is not a single one, or a network of the user's does not give what it
            must.
    """
    check_config(config)
    check_key(key)
    key_params, key_runners, key = jax.random.split(key, 3)
    runners = jax.vmap(partial(start, config))(jax.random.split(key_runners, config.num_envs))
    x = network_input(config, jax.tree.map(lambda leaf: leaf[0], runners.obs))
    params = initial_params(config, key_params, x)
    return TrainState(
        params=params,
        opt_state=_optimizer(config).init(params),
        runners=runners,
        key=key,
        num_updates=jnp.zeros((), jnp.int32),
        obs_moments=no_moments(x) if config.normalize_obs else (),
        reward_scale=no_reward_scale(config.num_envs) if config.normalize_reward else (),
    )


@jax.jit
def update(config: Config, state: TrainState) -> tuple[TrainState, Metrics]:
    """One iteration of Algorithm 1: act for `T` steps in `N` environments, then learn from them.

    Returns:
        `(state, metrics)`, the metrics of `train` as scalars.
    """
    key_rollout, key_learn, key = jax.random.split(state.key, 3)
    state, transitions, batch = collect(config, state, key_rollout)
    params, opt_state, metrics = learn(config, state, batch, key_learn)
    metrics |= _episode_metrics(transitions)
    metrics["explained_variance"] = explained_variance(batch.value, batch.target)
    state = state._replace(params=params, opt_state=opt_state, key=key, num_updates=state.num_updates + 1)
    if config.normalize_obs:  # only now: what acted and what learned must see the same
        state = state._replace(obs_moments=add_observations(config, state.obs_moments, transitions))
    if config.exact_return:
        metrics["expected_return"] = _expected_return(config, state.agent)
    return state, metrics


def at_update(config: Config, num_updates: Array) -> Config:
    """The configuration with what its schedules say after some updates."""
    progress = num_updates / config.num_updates
    return config.replace(
        lr=scheduled(config.lr_schedule, config.lr, config.lr_end, progress),
        clip_eps=scheduled(config.clip_eps_schedule, config.clip_eps, config.clip_eps_end, progress),
        ent_coef=scheduled(config.ent_coef_schedule, config.ent_coef, config.ent_coef_end, progress),
    )


def collect(config: Config, state: TrainState, key: Array) -> tuple[TrainState, Transition, Batch]:
    """A rollout of `T` steps in `N` environments, and what there is to learn from it."""
    runners, transitions = rollout(config, state.agent, state.runners, key)
    value, next_value = values(config, state.agent, runners, transitions)
    state = state._replace(runners=runners)
    if config.normalize_reward:
        scale, reward = scale_rewards(state.reward_scale, transitions.reward, transitions.done, config.gamma)
        state, transitions = state._replace(reward_scale=scale), transitions._replace(reward=reward)
    return state, transitions, to_batch(config, transitions, value, next_value)


def to_batch(config: Config, transitions: Transition, value: Array, next_value: Array) -> Batch:
    """Transitions and values `[T, N]`, with their advantages, as one batch of samples `[T * N]`.

    A network with a memory learns from `N` sequences of `T` steps instead.
    """
    estimate = partial(gae, gamma=config.gamma, gae_lambda=config.gae_lambda)
    t = transitions
    advantage, target = jax.vmap(estimate, in_axes=1, out_axes=1)(t.reward, value, next_value, t.terminated, t.done)
    batch = Batch(t.obs, t.action, t.log_prob, value, advantage, target)
    if is_recurrent(config):
        memory = jax.tree.map(lambda leaf: leaf[0], t.memory)
        return jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1), batch._replace(done=t.done))._replace(memory=memory)
    return jax.tree.map(lambda leaf: leaf.reshape(config.batch_size, *leaf.shape[2:]), batch)


def add_observations(config: Config, moments: Any, transitions: Transition) -> Moments:
    """The moments of what the networks read, with those of a rollout."""
    x = jax.vmap(jax.vmap(partial(network_input, config)))(transitions.obs)
    return add(moments, jax.tree.map(lambda leaf: leaf.reshape(config.batch_size, *leaf.shape[2:]), x))


def learn(config: Config, state: TrainState, batch: Batch, key: Array) -> tuple[Any, Any, Metrics]:
    """Some epochs of minibatch gradient steps on one batch."""
    config = at_update(config, state.num_updates)
    optimizer = _optimizer(config)

    def epoch(carry: tuple[Any, Any, Array], key: Array) -> tuple[tuple[Any, Any, Array], Metrics]:
        return jax.lax.scan(gradient_step, carry, _shuffled(config, key).reshape(config.num_minibatches, -1))

    def gradient_step(carry: tuple[Any, Any, Array], indices: Array) -> tuple[tuple[Any, Any, Array], Metrics]:
        params, opt_state, goes_on = carry
        gradient, metrics = _gradient(config, state.agent._replace(params=params), _minibatch(config, batch, indices))
        metrics["grad_norm"] = optax.tree.norm(gradient)
        changes, new_opt_state = optimizer.update(gradient, opt_state)
        # A step that is not finite is left out, and counted: it must not destroy what was learned.
        finite = jnp.isfinite(metrics["grad_norm"])
        metrics["num_skipped"] = 1.0 - finite
        if config.target_kl is not None:
            goes_on &= ~(metrics["approx_kl"] > config.target_kl)  # one that is not finite stops nothing
            metrics["num_stopped"] = 1.0 - goes_on
        new = optax.apply_updates(params, changes), new_opt_state
        params, opt_state = jax.tree.map(partial(jnp.where, finite & goes_on), new, (params, opt_state))
        return (params, opt_state, goes_on), metrics

    keys = jax.random.split(key, config.num_epochs)
    (params, opt_state, _), steps = jax.lax.scan(epoch, (state.params, state.opt_state, jnp.array(True)), keys)
    return params, opt_state, {name: x.sum() if name.startswith("num_") else x.mean() for name, x in steps.items()}


def _shuffled(config: Config, key: Array) -> Array:
    """The indices of all samples in random order."""
    if is_recurrent(config):
        return jax.random.permutation(key, config.num_envs)
    return random_permutation(key, config.num_steps, config.num_envs)


def _minibatch(config: Config, batch: Batch, indices: Array) -> Batch:
    """The samples at `indices`, their advantages standardised if so configured."""
    look_up = partial(jnp.take, indices=indices, axis=0, mode="clip")
    # The barrier keeps XLA from repeating the look-up in every sum that standardising needs.
    minibatch = jax.lax.optimization_barrier(jax.tree.map(look_up, batch))
    if config.normalize_advantage:
        minibatch = minibatch._replace(advantage=standardize(minibatch.advantage))
    return minibatch


def _gradient(config: Config, agent: Agent, minibatch: Batch) -> tuple[Any, Metrics]:
    """The gradient of the loss on a minibatch by the parameters, and the loss's metrics.

    The loss is a mean over samples, so its gradient is the mean of the gradients of equal chunks.
    """
    params = agent.params
    gradient = jax.grad(lambda params, samples: _loss(config, agent._replace(params=params), samples), has_aux=True)
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


def _loss(config: Config, agent: Agent, minibatch: Batch) -> tuple[Array, Metrics]:
    """The PPO loss of the networks on a minibatch."""
    return ppo_loss(
        *judge(config, agent, minibatch),
        minibatch,
        clip_eps=config.clip_eps,
        vf_coef=config.vf_coef,
        ent_coef=config.ent_coef,
        clip_value=config.clip_value,
        dual_clip=config.dual_clip,
        huber_delta=config.huber_delta,
    )


def _optimizer(config: Config) -> optax.GradientTransformation:
    """Adam behind a clip of the global norm."""
    return optax.chain(optax.clip_by_global_norm(config.max_grad_norm), optax.adam(config.lr, eps=1e-5))


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


def _expected_return(config: Config, agent: Agent) -> Array:
    """What an episode of the policy is expected to return, exactly."""
    model = tabular_model(config)
    probabilities, _ = policy_in(config, agent, model)
    horizon = environment(config)[1].max_steps_in_episode
    return expected_return(model, probabilities, horizon).episode_return
