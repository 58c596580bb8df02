"""From a policy to experience: rollouts, and the values along them."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from purejaxppo.config import Config
from purejaxppo.environments import interface, make
from purejaxppo.policies import (
    Agent,
    Policy,
    environment,
    event_shape,
    initial_memory,
    policy,
    reset_memory,
    rows_at_once,
    uses_table,
)


class Runner(NamedTuple):
    """One environment under way."""

    env_state: Any
    obs: Any
    memory: Any  # of the network; () if it has none
    episode_return: Array  # [], of the episode under way
    episode_length: Array  # [], int32


class Transition(NamedTuple):
    """One step of one environment."""

    obs: Any
    memory: Any  # with which the network saw `obs`
    action: Array
    log_prob: Array
    next_obs: Any  # the true successor, before any reset
    reward: Array
    terminated: Array
    done: Array  # terminated or truncated
    episode_return: Array  # so far, this step included
    episode_length: Array


def start(config: Config, key: Array) -> Runner:
    """A fresh environment."""
    obs, env_state = interface.reset(make(config.env), key, environment(config)[1])
    return Runner(env_state, obs, initial_memory(config), jnp.zeros(()), jnp.zeros((), jnp.int32))


def rollout(config: Config, agent: Agent, runners: Runner, key: Array) -> tuple[Runner, Transition]:
    """`T` steps of `N` environments under the current policy.

    Args:
        runners: `[N]`.
        key: one typed key, consumed. The randomness of the whole rollout is drawn at once, which is much cheaper
            than splitting keys step by step.

    Returns:
        `(runners, transitions)`, `[N]` and `[T, N]`.
    """
    act = policy(config, agent, config.batch_size)
    env, env_params = environment(config)
    space = interface.action_space(env)
    key_action, key_env, *key_pool = jax.random.split(key, 3 if config.reset_pool else 2)
    pool = fresh_episodes(config, key_pool[0]) if config.reset_pool else None
    step_each = jax.vmap(lambda key, state, action: interface.step(env, key, state, action, env_params, pool))

    def step(runners: Runner, randomness: tuple[Array, Array]) -> tuple[Runner, Transition]:
        uniform, keys = randomness
        now, memory = act(runners.obs, runners.memory)
        action = now.action.sample(uniform)
        step = step_each(keys, runners.env_state, now.action.to_env(action, space))
        transition = Transition(
            obs=runners.obs,
            memory=runners.memory,
            action=action,
            log_prob=now.action.log_prob(action),
            next_obs=step.next_obs,
            reward=step.reward,
            terminated=step.terminated,
            done=step.done,
            episode_return=runners.episode_return + step.reward,
            episode_length=runners.episode_length + 1,
        )
        return Runner(
            step.state,
            step.obs,
            reset_memory(memory, step.done, initial_memory(config)),
            jnp.where(step.done, 0.0, transition.episode_return),
            jnp.where(step.done, 0, transition.episode_length),
        ), transition

    shape = (config.num_steps, config.num_envs)
    randomness = jax.random.uniform(key_action, (*shape, *event_shape(config))), jax.random.split(key_env, shape)
    return jax.lax.scan(step, runners, randomness)


def fresh_episodes(config: Config, key: Array) -> tuple[Any, Any]:
    """`(obs, state)` of the beginnings of episodes, `[reset_pool, ...]` each."""
    env, env_params = environment(config)
    keys = jax.random.split(key, config.reset_pool)
    return jax.vmap(lambda key: interface.reset(env, key, env_params))(keys)


def values(config: Config, agent: Agent, runners: Runner, transitions: Transition) -> tuple[Array, Array]:
    """`(value, next_value)`, `[T, N]` each: of what every transition saw, and of its true successor.

    They are evaluated after the rollout that gave `runners` and `transitions`, in pieces larger than one of its steps.

    Where an episode goes on, the successor is what the next row saw. Where it terminated, there is none, and any
    number will do. Only a time limit cuts an episode off before its successor is seen; where that happened, the
    successors are evaluated as well.
    """
    t = transitions
    look_up = policy(config, agent, config.batch_size)

    def evaluate(obs: Any, memory: Any) -> tuple[Array, Any]:
        """The values of observations `[T, N, ...]`, and the memories after them."""
        if uses_table(config, config.batch_size):
            return look_up(obs, ())[0].value, ()
        piece = rows_at_once(config, agent.params)
        pieces = jax.tree.map(lambda leaf: leaf.reshape(-1, piece, *leaf.shape[2:]), (obs, memory))
        now, memory = jax.lax.map(lambda piece: _value_and_memory(look_up(*piece)), pieces)
        return jax.tree.map(lambda leaf: leaf.reshape(*t.done.shape, *leaf.shape[2:]), (now, memory))

    value, next_memory = evaluate(t.obs, t.memory)
    last = look_up(runners.obs, runners.memory)[0].value
    of_successors = jax.lax.cond(
        jnp.any(t.done & ~t.terminated), lambda: evaluate(t.next_obs, next_memory)[0], lambda: value
    )
    return value, jnp.where(t.done, of_successors, jnp.concatenate([value[1:], last[None]]))


def _value_and_memory(judged: tuple[Policy, Any]) -> tuple[Array, Any]:
    return judged[0].value, judged[1]
