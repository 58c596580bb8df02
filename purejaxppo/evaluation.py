"""Using a trained policy: whole episodes, single actions, or exactly, where the environment's model is known."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from purejaxppo import planning
from purejaxppo.acting import Policy, Runner, environment, policy, policy_in, start, tabular_model
from purejaxppo.config import Config
from purejaxppo.environments import interface, make
from purejaxppo.fields import COUNT, ConfigError, check_key
from purejaxppo.ppo import TrainState

# Folded into the evaluation's key, so that a key which also trained gives other random numbers here. Training splits
# keys, which is folding in small numbers.
EVALUATION = 0x6576616C


class Evaluation(NamedTuple):
    """Whole episodes."""

    episode_return: Array  # [num_episodes], undiscounted
    episode_length: Array  # [num_episodes], int32, steps


@partial(jax.jit, static_argnames=("num_episodes", "greedy"))
def evaluate(
    config: Config, state: TrainState, key: Array, *, num_episodes: int = 128, greedy: bool = True
) -> Evaluation:
    """Play exactly `num_episodes` whole episodes, side by side, with the policy of `state`.

    Every episode counts once, however long it takes; a time limit is an episode's end like any other. An environment
    that never ends an episode never returns. `jax.vmap` maps it over states and keys (seeds).

    Args:
        key: one typed key, consumed; its numbers differ from those that training draws from the same key.
        num_episodes: how many, at least 1.
        greedy: take the most probable action; otherwise sample.

    Raises:
        ConfigError: `num_episodes` is not a positive integer, or the key is not a single typed key.
    """
    if isinstance(num_episodes, bool) or not isinstance(num_episodes, int) or num_episodes < 1:
        raise ConfigError.of("num_episodes", num_episodes, COUNT.text)
    check_key(key)
    env, env_params = environment(config)
    act_in = policy(config, state.params, num_rows=num_episodes * config.num_steps)

    def step(runner: Runner, action: Array, key: Array) -> tuple[Runner, Array]:
        step = interface.step(env, key, runner.env_state, action, env_params)
        length = runner.episode_length + 1
        return Runner(step.state, step.obs, runner.episode_return + step.reward, length), step.done

    def step_all(carry: tuple[Runner, Evaluation, Array, Array]) -> tuple[Runner, Evaluation, Array, Array]:
        runners, episodes, playing, key = carry
        key_action, key_env, key = jax.random.split(key, 3)
        actions = _choose(act_in(runners.obs), None if greedy else jax.random.uniform(key_action, (num_episodes,)))
        runners, done = jax.vmap(step)(runners, actions, jax.random.split(key_env, num_episodes))
        so_far = Evaluation(runners.episode_return, runners.episode_length)
        episodes = jax.tree.map(partial(jnp.where, playing), so_far, episodes)
        return runners, episodes, playing & ~done, key

    key_start, key = jax.random.split(jax.random.fold_in(key, EVALUATION))
    runners = jax.vmap(partial(start, config))(jax.random.split(key_start, num_episodes))
    episodes = Evaluation(runners.episode_return, runners.episode_length)
    carry = runners, episodes, jnp.ones(num_episodes, bool), key
    return jax.lax.while_loop(lambda carry: jnp.any(carry[2]), step_all, carry)[1]


class Optimality(NamedTuple):
    """How far from the best a policy is, exactly."""

    optimal_return: Array  # [], of the best policy, see `planning.optimal_return`
    expected_return: Array  # [], of this one, see `planning.expected_return`
    gap: Array  # [], their difference
    success: Array  # [], probability that an episode terminates with a positive reward
    value_error: Array  # [], root mean square over states of the critic's error against V^pi of the sampled policy
    optimal_fraction: Array  # [], share of states where the greedy action is optimal for the discount factor


@partial(jax.jit, static_argnames=("greedy",))
def optimality(config: Config, state: TrainState, *, greedy: bool = True) -> Optimality:
    """Compare the policy of `state` with the exact solution of its environment.

    The returns are those of whole episodes: undiscounted, and cut short by the time limit. The critic and the greedy
    actions are compared with the discounted solution, which is what PPO estimates; states that an agent can never
    act in do not count. `jax.vmap` maps it over states (seeds) and traced fields.

    Args:
        greedy: whether the returns are those of the most probable actions; otherwise of the sampled ones.

    Raises:
        ConfigError: the environment's model is not known, see `environments.tabulate`.
    """
    model = tabular_model(config)
    horizon = environment(config)[1].max_steps_in_episode
    policy, value = policy_in(config, state.params, model)
    mode = jnp.argmax(policy, axis=-1)
    played = jax.nn.one_hot(mode, policy.shape[-1]) if greedy else policy
    best, achieved = planning.optimal_return(model, horizon), planning.expected_return(model, played, horizon)

    counts = planning.reachable(model)
    error = value - planning.policy_evaluation(model, policy, config.gamma)
    is_optimal = planning.value_iteration(model, config.gamma).is_optimal
    return Optimality(
        optimal_return=best,
        expected_return=achieved.episode_return,
        gap=best - achieved.episode_return,
        success=achieved.success,
        value_error=jnp.sqrt(jnp.mean(error**2, where=counts)),
        optimal_fraction=jnp.mean(jnp.take_along_axis(is_optimal, mode[:, None], axis=1)[:, 0], where=counts),
    )


@jax.jit
def act(config: Config, state: TrainState, obs: Array, key: Array | None = None) -> Array:
    """The policy's action: the most probable one, or one drawn with `key`.

    Args:
        obs: one observation, or a batch with any leading axes, as the environment emits them.
        key: one typed key, consumed; None is greedy.

    Returns:
        int32, with the leading axes of `obs`.

    Raises:
        ConfigError: the shape of `obs` does not end in that of the environment's observations.
    """
    shape = interface.obs_shape(make(config.env))
    obs = jnp.asarray(obs)
    leading = obs.shape[: obs.ndim - len(shape)]
    if obs.shape != leading + shape:
        raise ConfigError(f"obs: has shape {obs.shape}; must end in {shape}, the shape of one observation")
    if key is not None:
        check_key(key)
    now = policy(config, state.params, num_rows=1)(obs.reshape(-1, *shape))
    uniform = None if key is None else jax.random.uniform(key, now.value.shape)
    return _choose(now, uniform).reshape(leading)


def _choose(now: Policy, uniform: Array | None) -> Array:
    """The mode, or a sample."""
    return now.action.mode() if uniform is None else now.action.sample(uniform)
