"""Proximal Policy Optimization (Schulman et al., 2017), Algorithm 1: train, init, update, collect, learn."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from purejaxppo._jit import jit
from purejaxppo.acting import Runner, Transition, rollout, start
from purejaxppo.actor_critic import ActorCritic, Agent, trained
from purejaxppo.advantages import ADVANTAGES, expected_reward
from purejaxppo.config import Config, check_config
from purejaxppo.environments import make_task
from purejaxppo.errors import ConfigError
from purejaxppo.keys import check_key
from purejaxppo.learning import Metrics, minimize
from purejaxppo.losses import Batch, explained_variance, normalize_weight, ppo_loss, standardize
from purejaxppo.normalizers import Moments, init_moments, init_reward_scale, scale_rewards, update_moments
from purejaxppo.optimizers import clipped
from purejaxppo.reference import follow, gap, log_ratio, optimum, start_reference
from purejaxppo.schedules import scheduled
from purejaxppo.settings import check_kind, kind_of
from purejaxppo.shuffling import random_permutation
from purejaxppo.usable import usable


class TrainState(NamedTuple):
    """A training run between two updates: arrays only."""

    params: Any
    opt_state: Any
    runners: Runner  # [N]
    key: Array
    num_updates: Array  # [], int32, updates done
    episodes: Metrics  # the last known means over episodes; NaN before the first one has ended
    obs_moments: Any = ()  # `Moments`, with normalize_obs
    reward_scale: Any = ()  # `RewardScale`, with normalize_reward
    reference: Any = ()  # `Reference`, with kl_coef

    @property
    def agent(self) -> Agent:
        """What the networks need of it."""
        return Agent(self.params, self.obs_moments)


class Rates(NamedTuple):
    """The numbers that schedules change, as they are in one update."""

    lr: float | Array
    clip_eps: float | Array
    ent_coef: float | Array


# (config, networks, agent, batch, rates) -> (loss, metrics), means over the samples of a minibatch.
Objective = Callable[[Config, ActorCritic, Agent, Batch, Rates], tuple[Array, Metrics]]


@jit()
def train(config: Config, key: Array, params: Any = None) -> tuple[TrainState, Metrics]:
    """Train one agent, from initialisation to the last update, in one compiled program.

    `jax.vmap` maps it over keys (seeds) and over any traced field of `config`.

    Args:
        config: the run's configuration.
        key: one typed key (`jax.random.key(seed)`), consumed.
        params: the networks' parameters to begin with, as `TrainState.params` has them; None draws fresh ones.

    Returns:
        `(state, metrics)`. Each metric is `[num_updates]`:

        - `episode_return`, `episode_length`, and what `config.info` names: means over the `num_episodes` episodes that
          ended in that update; where none did, those of the last update in which any did, and NaN before the first.
        - `policy_loss`, `value_loss`, `entropy`, `approx_kl`, `clip_fraction`, `grad_norm` (before clipping): means
          over the update's gradient steps, see `ppo_loss`.
        - `explained_variance`: of the targets by the values, over the batch, before learning.
        - `num_unusable`: steps whose observation or reward held a number that is not finite, or too large to square.
          To networks such an observation is 0 (its mean, with `normalize_obs`); such a reward counts as what the
          critic expects, and in `episode_return` as 0; statistics leave both out.
        - `num_skipped`: gradient steps left out because the gradient was not finite.
        - `num_stopped`, with `target_kl`: gradient steps left out because of it. They are computed all the same.
        - `kl`, with `kl_coef`: how far episodes strayed from the policy at the beginning, `log(pi / reference)` summed
          over each, in nats; a mean over episodes as `episode_return` is. `regularised_return` is
          `episode_return - kl_coef * kl`.
        - `expected_return`, with `exact_return`: of the sampled policy after the update, see `planning`; with `kl_coef`
          too, `gap`: how much less that policy is worth than the best one, see `planning.soft_values`.

    Raises:
        ConfigError: the configuration or the key is not a single one, or the parameters do not fit the networks.
    """
    state = init(config, key, params)
    return jax.lax.scan(lambda state, _: update(config, state), state, length=config.num_updates)


@jit()
def init(config: Config, key: Array, params: Any = None) -> TrainState:
    """The state before the first update: fresh networks, optimiser and environments.

    Args:
        params: the networks' parameters to begin with; None draws fresh ones. The optimiser begins anew in any case.

    Raises:
        ConfigError: the configuration or the key is not a single one, a network of the user's does not give what it
            must, or the parameters do not fit the networks.
    """
    check_config(config)
    check_key(key)
    networks = bind(config)
    key_params, key_runners, key = jax.random.split(key, 3)
    begin = partial(start, networks.task, memory=networks.initial_memory)
    runners = jax.vmap(begin)(jax.random.split(key_runners, config.num_envs))
    obs = jax.tree.map(lambda leaf: leaf[0], runners.obs)
    params = networks.init(key_params, obs) if params is None else networks.checked(params, obs)
    x = networks.network_input(obs)
    state = TrainState(
        params=params,
        opt_state=clipped(config.optimizer, config.lr, config.max_grad_norm).init(trained(params)[0]),
        runners=runners,
        key=key,
        num_updates=jnp.zeros((), jnp.int32),
        episodes=dict.fromkeys(_episode_metrics(config), jnp.full((), jnp.nan, float)),
        obs_moments=init_moments(x) if config.normalize_obs else (),
        reward_scale=init_reward_scale(config.num_envs) if config.normalize_reward else (),
    )
    return state._replace(reference=_reference(config, networks, state))


@jit(static_argnames=["objective"])
def update(config: Config, state: TrainState, *, objective: Objective | None = None) -> tuple[TrainState, Metrics]:
    """One iteration of Algorithm 1: act for `T` steps in `N` environments, then learn from them.

    Args:
        objective: the loss on a minibatch; `ppo_objective` by default. A module-level function.

    Returns:
        `(state, metrics)`, the metrics of `train` as scalars.

    Raises:
        ConfigError: the state is not of one agent, or of another configuration, or the objective is no function.
    """
    bind_to(config, state)
    if not (objective is None or callable(objective)):
        raise ConfigError.of("objective", objective, "a function, see ppo_objective")
    key_rollout, key_learn, key = jax.random.split(state.key, 3)
    state, transitions, batch = collect(config, state, key_rollout)
    state, metrics = learn(config, state, batch, key_learn, objective=objective or ppo_objective)
    return finish(config, state._replace(key=key), transitions, metrics)


def collect(
    config: Config, state: TrainState, key: Array, *, reward: Callable[[Transition], Array] | None = None
) -> tuple[TrainState, Transition, Batch]:
    """Act for `T` steps in `N` environments, and estimate advantages; to be called inside of a compiled function.

    Args:
        key: one typed key, consumed.
        reward: from transitions `[T, N]` to the rewards `[T, N]` to learn from; those of the environment by default.

    Returns:
        `(state, transitions, batch)`: the state after acting; the transitions `[T, N]`; and what there is to learn from
        as samples `[T * N]`, for networks with a memory as sequences `[N, T]`.

    Raises:
        ConfigError: the state is not of one agent, or the key is not a single one.
    """
    networks = bind(config)
    check_single(state)
    task, agent, before = networks.task, state.agent, state.runners
    act = networks.act(agent, table=networks.uses_table(config.batch_size))
    piece = networks.microbatch_size(state.params, config.minibatch_size)
    acting = {"initial_memory": networks.initial_memory, "reset_pool": config.reset_pool, "info": config.info}
    runners, t = rollout(task, act, before, key, num_steps=config.num_steps, **acting)
    value, next_value = networks.values(agent, t, before, runners, piece=piece)
    learned = t if reward is None else t._replace(reward=reward(t))
    scale, reference = state.reward_scale, state.reference
    if config.kl_coef is not None:
        ratio = log_ratio(networks, agent, reference, t, before, piece=piece)
        learned = learned._replace(reward=learned.reward - config.kl_coef * ratio)
        reference, kl = follow(networks, reference, t, ratio)
        t = t._replace(info=t.info | {"kl": kl})
    if config.normalize_reward:
        scale, scaled = scale_rewards(scale, learned.reward, t.done, config.gamma)
        learned = learned._replace(reward=scaled)
    expected = expected_reward(value, next_value, t.terminated, gamma=config.gamma)
    learned = learned._replace(reward=usable(learned.reward, expected))
    batch = to_batch(config, networks, learned, value, next_value, before.memory)
    return state._replace(runners=runners, reward_scale=scale, reference=reference), t, batch


def to_batch(
    config: Config, networks: ActorCritic, transitions: Transition, value: Array, next_value: Array, memory: Any = ()
) -> Batch:
    """Transitions and values `[T, N]`, with their advantages, as one batch of samples `[T * N]`.

    Networks with a memory learn from `N` sequences of `T` steps instead, from the memories `[N, ...]` before them.
    """
    t = transitions
    estimate = ADVANTAGES[config.advantage] if isinstance(config.advantage, str) else config.advantage
    discount = {"gamma": config.gamma, "gae_lambda": config.gae_lambda}
    advantage, target = estimate(t.reward, value, next_value, t.terminated, t.done, **discount)
    batch = Batch(t.obs, t.action, t.log_prob, value, advantage, target, weight=networks.weight(t.obs))
    if networks.is_recurrent:
        sequences = jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1), batch._replace(done=t.done))
        return sequences._replace(memory=memory)
    return jax.tree.map(lambda leaf: leaf.reshape(config.batch_size, *leaf.shape[2:]), batch)


def learn(
    config: Config, state: TrainState, batch: Batch, key: Array, *, objective: Objective | None = None
) -> tuple[TrainState, Metrics]:
    """Take some epochs of minibatch gradient steps on one batch; to be called inside of a compiled function.

    Args:
        key: one typed key, consumed.
        objective: the loss on a minibatch; `ppo_objective` by default.

    Returns:
        `(state, metrics)`: the state with other parameters, and the metrics of learning.

    Raises:
        ConfigError: the state is not of one agent, the batch is none, or the key is not a single one.
    """
    networks = bind(config)
    check_single(state)
    check_kind("batch", batch, Batch)
    rates = rates_at(config, state.num_updates)
    objective = objective or ppo_objective

    def loss(params: Any, minibatch: Batch) -> tuple[Array, Metrics]:
        return objective(config, networks, state.agent._replace(params=params | constants), minibatch, rates)

    params, constants = trained(state.params)
    params, opt_state, metrics = minimize(
        loss,
        clipped(config.optimizer, rates.lr, config.max_grad_norm),
        params,
        state.opt_state,
        batch,
        key,
        num_epochs=config.num_epochs,
        num_minibatches=config.num_minibatches,
        microbatch_size=None
        if networks.is_recurrent
        else networks.microbatch_size(state.params, config.minibatch_size),
        prepare=partial(_prepared, config),
        permutation=jax.random.permutation if networks.is_recurrent else partial(_permutation, config),
        stop=None if config.target_kl is None else partial(_exceeds, config.target_kl),
    )
    metrics["explained_variance"] = explained_variance(batch.value, batch.target)
    return state._replace(params=params | constants, opt_state=opt_state), metrics


def finish(config: Config, state: TrainState, transitions: Transition, metrics: Metrics) -> tuple[TrainState, Metrics]:
    """Count the update, and add to its metrics what the transitions `[T, N]` and the new policy are worth."""
    num_episodes = jnp.sum(transitions.done, dtype=jnp.int32).astype(jnp.float32)  # whole numbers add up
    episodes = _means_over_episodes(transitions, num_episodes, state.episodes)
    state = state._replace(num_updates=state.num_updates + 1, episodes=episodes)
    if config.normalize_obs:  # only now: what acted and what learned must see the same
        state = state._replace(obs_moments=add_observations(config, state.obs_moments, transitions))
    num_unusable = jnp.sum(~transitions.is_usable, dtype=jnp.int32).astype(jnp.float32)
    metrics = metrics | episodes | {"num_episodes": num_episodes, "num_unusable": num_unusable}
    if config.kl_coef is not None:
        metrics["regularised_return"] = episodes["episode_return"] - config.kl_coef * episodes["kl"]
    networks = bind(config)
    if config.exact_return:
        metrics["expected_return"] = networks.expected_return(state.agent)
    if config.exact_return and config.kl_coef is not None:
        metrics["gap"] = gap(networks, state.agent, state.reference, config.kl_coef, config.gamma)
    return state, metrics


def ppo_objective(
    config: Config, networks: ActorCritic, agent: Agent, batch: Batch, rates: Rates
) -> tuple[Array, Metrics]:
    """The PPO loss of the networks on a minibatch, see `ppo_loss`."""
    return ppo_loss(
        *networks.evaluate_actions(agent, batch.obs, batch.action, batch.done, batch.memory),
        batch,
        clip_eps=rates.clip_eps,
        vf_coef=config.vf_coef,
        ent_coef=rates.ent_coef,
        clip_value=config.clip_value,
        dual_clip=config.dual_clip,
        huber_delta=config.huber_delta,
    )


def bind(config: Config) -> ActorCritic:
    """The networks of a configuration, in its task.

    Raises:
        ConfigError: it is no configuration.
    """
    check_kind("config", config, Config)
    task = make_task(config.env, config.env_params, fills=not config.normalize_obs)  # normalising fills by itself
    return ActorCritic(task, config.network, config.normalize_obs)


def bind_to(config: Config, state: TrainState) -> ActorCritic:
    """The networks of a configuration, to be used with one agent's state.

    Raises:
        ConfigError: the state is not of one agent, or of another configuration.
    """
    networks = bind(config)
    check_single(state)
    networks.check_agent(state.agent)
    return networks


def check_single(state: TrainState) -> None:
    """Refuse the states of many agents where one is meant, and what is no state.

    Raises:
        ConfigError: it is none, or has a leading axis.
    """
    if not (hasattr(state, "agent") and hasattr(state, "num_updates")):
        raise ConfigError(f"state: must be a TrainState, as train gives it, not {kind_of(state)}")
    if state.num_updates.ndim:
        one = "jax.tree.map(lambda leaf: leaf[0], state)"
        shape = list(state.num_updates.shape)
        raise ConfigError(f"state: must be of one agent, not of {shape}; {one} is the first, jax.vmap maps over all")


def rates_at(config: Config, num_updates: Array) -> Rates:
    """What the schedules say after some updates."""
    progress = num_updates / config.num_updates
    return Rates(
        lr=scheduled(config.lr_schedule, config.lr, config.lr_end, progress),
        clip_eps=scheduled(config.clip_eps_schedule, config.clip_eps, config.clip_eps_end, progress),
        ent_coef=scheduled(config.ent_coef_schedule, config.ent_coef, config.ent_coef_end, progress),
    )


def add_observations(config: Config, moments: Any, transitions: Transition) -> Moments:
    """The moments of what the networks read, with those of a rollout."""
    x = jax.vmap(jax.vmap(bind(config).network_input))(transitions.obs)
    return update_moments(moments, jax.tree.map(lambda leaf: leaf.reshape(config.batch_size, *leaf.shape[2:]), x))


def _reference(config: Config, networks: ActorCritic, state: TrainState) -> Any:
    """The policy of the state before the first update, and what the best one near it is worth; () if none is asked."""
    if config.kl_coef is None:
        return ()
    reference = start_reference(state.agent, state.runners)
    if not config.exact_return:
        return reference
    return reference._replace(optimum=optimum(networks, state.agent, config.kl_coef, config.gamma))


def _episode_metrics(config: Config) -> tuple[str, ...]:
    """The names of what is a mean over episodes."""
    return "episode_return", "episode_length", *config.info, *(() if config.kl_coef is None else ("kl",))


def _permutation(config: Config, key: Array, num_samples: int) -> Array:
    return random_permutation(key, config.num_steps, config.num_envs)


def _exceeds(target_kl: float | Array, metrics: Metrics) -> Array:
    """Whether the policy has moved too far; a number that is not finite stops nothing."""
    return metrics["approx_kl"] > target_kl


def _prepared(config: Config, minibatch: Batch) -> Batch:
    """A minibatch with weights of mean 1 and, if so configured, standardised advantages."""
    if not isinstance(minibatch.weight, tuple):
        minibatch = minibatch._replace(weight=normalize_weight(minibatch.weight))
    if config.normalize_advantage:
        minibatch = minibatch._replace(advantage=standardize(minibatch.advantage, minibatch.weight))
    return minibatch


def _means_over_episodes(transitions: Transition, num_episodes: Array, before: Metrics) -> Metrics:
    """Means over the episodes that ended; where none did, those before."""
    ends = {"episode_return": transitions.episode_return, "episode_length": transitions.episode_length}

    def mean(x: Array) -> Array:
        return jnp.sum(jnp.where(transitions.done, x, 0)) / num_episodes

    means = {name: mean(x) for name, x in (ends | transitions.info).items()}
    return {name: jnp.where(num_episodes > 0, means[name], before[name]) for name in before}
