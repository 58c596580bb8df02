"""From a policy to experience: rollouts of any policy in any task."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from purejaxppo.distributions import Distribution
from purejaxppo.environments import Task
from purejaxppo.environments.task import flat_info
from purejaxppo.keys import check_key
from purejaxppo.networks import reset_memory
from purejaxppo.numerics import add
from purejaxppo.settings import COUNT, FUNCTION, WHOLE, check_kind, check_static
from purejaxppo.usable import usable


class Policy(NamedTuple):
    """What to do at observations, and what that is worth."""

    distribution: Distribution  # [...]
    value: Array  # [...]


# From observations and memories `[N, ...]` to a policy and the next memories; a scripted opponent is one as well.
Act = Callable[[Any, Any], tuple[Policy, Any]]


class Runner(NamedTuple):
    """One environment under way."""

    env_state: Any
    obs: Any
    memory: Any  # of the policy; () if it has none
    episode_return: Array  # [], of the episode under way
    episode_length: Array  # [], int32
    lost: Array  # [], what rounding has kept out of episode_return, see `numerics.add`


class Transition(NamedTuple):
    """One step of one environment."""

    obs: Any
    action: Array
    log_prob: Array
    next_obs: Any  # the true successor, before any reset
    reward: Array
    terminated: Array
    done: Array  # terminated or truncated
    episode_return: Array  # so far, this step included, of the rewards that can be used
    episode_length: Array
    is_usable: Array  # bool: no number of the observation or the reward that came of it is unusable, see `usable`
    info: dict[str, Array]  # of the step, float32: what was asked for


def start(task: Task, key: Array, memory: Any = ()) -> Runner:
    """A fresh environment.

    Args:
        task: the environment and its parameters.
        key: one typed key, consumed; `jax.vmap` maps over many.
        memory: of the policy at the beginning of an episode.
    """
    obs, env_state = task.reset(key)
    return Runner(env_state, obs, memory, jnp.zeros(()), jnp.zeros((), jnp.int32), jnp.zeros(()))


def rollout(
    task: Task,
    act: Act,
    runners: Runner,
    key: Array,
    *,
    num_steps: int,
    initial_memory: Any = (),
    reset_pool: int = 0,
    info: Sequence[str] = (),
) -> tuple[Runner, Transition]:
    """`T` steps of `N` environments under a policy.

    Args:
        task: the environment and its parameters.
        act: from observations and memories `[N, ...]` to a `Policy` and the next memories.
        runners: `[N]`.
        key: one typed key, consumed. The randomness of the whole rollout is drawn at once, which is much cheaper
            than splitting keys step by step.
        num_steps: `T`.
        initial_memory: the policy's memory at the beginning of an episode, of one environment.
        reset_pool: fresh episodes, drawn once, one of which begins where an episode ends; 0 resets in each step.
        info: names in the `info` of a step that transitions keep.

    Returns:
        `(runners, transitions)`, `[N]` and `[T, N]`.

    Raises:
        ConfigError: an argument is not what it must be.
    """
    check_kind("task", task, Task)
    check_static("act", act, FUNCTION)
    check_kind("runners", runners, Runner)
    check_key(key)
    num_steps, reset_pool = check_static("num_steps", num_steps, COUNT), check_static("reset_pool", reset_pool, WHOLE)
    check_kind("info", info, Sequence)
    if info:
        task.check_info(info)
    num_envs = len(runners.episode_length)
    key_action, key_env, *key_pool = jax.random.split(key, 3 if reset_pool else 2)
    pool = jax.vmap(task.reset)(jax.random.split(key_pool[0], reset_pool)) if reset_pool else None
    step_each = jax.vmap(partial(task.step, pool=pool))

    def step(runners: Runner, randomness: tuple[Array, Array]) -> tuple[Runner, Transition]:
        uniform, keys = randomness
        policy, memory = act(runners.obs, runners.memory)
        action = policy.distribution.sample(uniform)
        result = step_each(keys, runners.env_state, policy.distribution.to_env(action, task.action_space))
        episode_return, lost = add(runners.episode_return, runners.lost, usable(result.reward))
        transition = Transition(
            obs=runners.obs,
            action=action,
            log_prob=policy.distribution.log_prob(action),
            next_obs=result.next_obs,
            reward=result.reward,
            terminated=result.terminated,
            done=result.done,
            episode_return=episode_return,
            episode_length=runners.episode_length + 1,
            is_usable=result.is_usable,
            info={name: jnp.asarray(flat_info(result.info)[name], jnp.float32) for name in info},
        )
        return Runner(
            result.state,
            result.obs,
            reset_memory(memory, result.done, initial_memory),
            jnp.where(result.done, 0.0, transition.episode_return),
            jnp.where(result.done, 0, transition.episode_length),
            jnp.where(result.done, 0.0, lost),
        ), transition

    shape = (num_steps, num_envs)
    randomness = jax.random.uniform(key_action, (*shape, *task.event_shape)), jax.random.split(key_env, shape)
    return jax.lax.scan(step, runners, randomness)
