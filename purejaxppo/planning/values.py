"""The best values and those of a policy, discounted, and returns of whole episodes."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from purejaxppo.planning.model import HORIZON, TabularModel, check_model, check_policy, checked
from purejaxppo.settings import UNIT_INTERVAL, Number

TOLERANCE = 2e-7  # change of a value, relative to the largest, that is taken for none in float32
MAX_SWEEPS = 20_000
SOLVED_DENSELY = 512  # states up to which a policy is evaluated by products of [S, S] matrices
TIED = 1e-4  # actions whose values differ by less, relative to the largest value, are equally good


class Solution(NamedTuple):
    """The best that can be done in a model, discounted and without a time limit."""

    value: Array  # [S], V*
    action_value: Array  # [S, A], Q*, also of masked actions
    is_optimal: Array  # [S, A], bool: available, and as good as any, up to 1e-4 of the largest value
    residual: Array  # [], largest change of a value in the last sweep; V* is off by at most residual / (1 - gamma)


class EpisodeReturn(NamedTuple):
    """What to expect of one whole episode."""

    episode_return: Array  # [], undiscounted
    episode_length: Array  # [], steps
    success: Array  # [], probability that it terminates with a positive reward


def value_iteration(model: TabularModel, gamma: Number) -> Solution:
    """The optimal values of the infinite-horizon problem, by sweeps until nothing changes.

        Q*(s, a) = sum_k p_k (r_k + gamma (1 - terminated_k) V*(s'_k)),  V*(s) = max_a Q*(s, a)

    (Sutton and Barto, 2018, equations 4.1 and 4.2.) With `gamma = 1` the values are finite only where an episode can
    be brought to its end; where they are not, the sweeps stop after 20,000 and the residual stays large.

    Args:
        model: `S` states, `A` actions, `K` outcomes.
        gamma: the discount factor, in [0, 1].

    Raises:
        ConfigError: the model is malformed or `gamma` is out of range. Tracers are not checked.
    """
    check_model(model)
    return _value_iteration(model, checked("gamma", gamma, UNIT_INTERVAL))


def policy_evaluation(model: TabularModel, policy: Array, gamma: Number) -> Array:
    """`V^pi`, `[S]`: the discounted infinite-horizon value of a policy, from every state.

    It solves `V = r_pi + gamma P_pi V`. Up to 512 states by products of matrices, `V_2n = V_n + (gamma P_pi)^n V_n`,
    rather than by a factorisation, which would call LAPACK and can deadlock under `vmap` on a CPU; beyond by sweeps.

    Args:
        model: `S` states, `A` actions, `K` outcomes.
        policy: `[S, A]`, the probability of each action; 0 where it is masked.
        gamma: the discount factor, in [0, 1].

    Raises:
        ConfigError: the model or the policy is malformed, or `gamma` is out of range. Tracers are not checked.
    """
    check_model(model)
    check_policy(model, policy)
    return _policy_evaluation(model, policy, checked("gamma", gamma, UNIT_INTERVAL))


def expected_return(model: TabularModel, policy: Array, horizon: int | Array) -> EpisodeReturn:
    """What the mean over episodes of a policy estimates: undiscounted, cut short after `horizon` steps.

    Args:
        model: `S` states, `A` actions, `K` outcomes.
        policy: `[S, A]`, the probability of each action, at all times the same; 0 where it is masked.
        horizon: steps after which an episode is cut short, from 1 to 2^20.

    Raises:
        ConfigError: the model, the policy or the horizon is malformed. Tracers are not checked.
    """
    check_model(model)
    check_policy(model, policy)
    return _expected_return(model, policy, checked("horizon", horizon, HORIZON))


def optimal_return(model: TabularModel, horizon: int | Array) -> Array:
    """The best expected return of an episode of at most `horizon` steps, a scalar.

    Over all policies, those that know the time included; where the time limit matters, one that does not know the
    time can come close but may not reach it.

    Raises:
        ConfigError: the model or the horizon is malformed. Tracers are not checked.
    """
    check_model(model)
    return _optimal_return(model, checked("horizon", horizon, HORIZON))


def action_values(model: TabularModel, value: Array, gamma: Number) -> Array:
    """One backup, `[S, A]`."""
    goes_on = jnp.where(model.terminated, 0.0, value[model.next_state])
    return jnp.sum(model.probability * (model.reward + gamma * goes_on), axis=-1)


def _best(model: TabularModel, action_value: Array) -> Array:
    return jnp.max(action_value, axis=-1, where=model.mask, initial=-jnp.inf)


def fixed_point(sweep: Any, value: Array) -> tuple[Array, Array]:
    """The value that a sweep leaves as it is, and the largest change of the last sweep."""

    def changes(carry: tuple[Array, Array, Array]) -> Array:
        value, residual, num_sweeps = carry
        scale = jnp.maximum(1.0, jnp.max(jnp.abs(value)))
        return (residual > TOLERANCE * scale) & (num_sweeps < MAX_SWEEPS)

    def step(carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        value, _, num_sweeps = carry
        new = sweep(value)
        return new, jnp.max(jnp.abs(new - value)), num_sweeps + 1

    value, residual, _ = jax.lax.while_loop(changes, step, (value, jnp.array(jnp.inf), jnp.array(0)))
    return value, residual


@jax.jit
def _value_iteration(model: TabularModel, gamma: Number) -> Solution:
    zeros = jnp.zeros(model.start.shape)
    value, residual = fixed_point(lambda value: _best(model, action_values(model, value, gamma)), zeros)
    action_value = action_values(model, value, gamma)
    scale = jnp.maximum(1.0, jnp.max(jnp.abs(value)))
    is_optimal = model.mask & (action_value >= _best(model, action_value)[:, None] - TIED * scale)
    return Solution(value, action_value, is_optimal, residual)


@jax.jit
def _policy_evaluation(model: TabularModel, policy: Array, gamma: Number) -> Array:
    return discounted_sum(model, policy, mean_reward(model, policy), gamma)


def mean_reward(model: TabularModel, policy: Array) -> Array:
    """The expected reward of one step, `[S]`."""
    return jnp.sum(policy[..., None] * model.probability * model.reward, axis=(1, 2))


def discounted_sum(model: TabularModel, policy: Array, gain: Array, gamma: Number) -> Array:
    """What a policy is to gain from every state on, `[S]`, where a step from a state gains `gain` `[S]`."""
    weight = gamma * jnp.where(model.terminated, 0.0, policy[..., None] * model.probability)  # [S, A, K]
    num_states = len(gain)
    if num_states > SOLVED_DENSELY:
        return fixed_point(lambda v: gain + jnp.sum(weight * v[model.next_state], axis=(1, 2)), gain)[0]
    row = jnp.arange(num_states)[:, None, None]
    matrix = jnp.zeros((num_states, num_states)).at[row, model.next_state].add(weight)

    def double(_: Any, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        power, value = carry
        return power @ power, value + power @ value

    with jax.default_matmul_precision("highest"):
        return jax.lax.fori_loop(0, 24, double, (matrix, gain))[1]  # 2^24 steps


@jax.jit
def _expected_return(model: TabularModel, policy: Array, horizon: Array) -> EpisodeReturn:
    succeeds = model.terminated & (model.reward > 0)
    gains = jnp.stack([model.reward, jnp.ones_like(model.reward), succeeds.astype(jnp.float32)])
    return EpisodeReturn(*jax.vmap(partial(_sum_of_episode, model, policy, horizon))(gains))


def _sum_of_episode(model: TabularModel, policy: Array, horizon: Array, gain: Array) -> Array:
    """The expected sum of what each outcome gains, `[S, A, K]`, until the episode's end."""
    probability = policy[..., None] * model.probability
    goes_on = jnp.where(model.terminated, 0.0, probability)
    per_step = jnp.sum(probability * gain, axis=(1, 2))

    def one_step_more(total: Array) -> Array:
        return per_step + jnp.sum(goes_on * total[model.next_state], axis=(1, 2))

    return jnp.sum(model.start * _repeated(one_step_more, jnp.zeros_like(per_step), horizon))


@jax.jit
def _optimal_return(model: TabularModel, horizon: Array) -> Array:
    zeros = jnp.zeros(model.start.shape)
    best = _repeated(lambda value: _best(model, action_values(model, value, 1.0)), zeros, horizon)
    return jnp.sum(model.start * best)


def _repeated(sweep: Callable[[Array], Array], value: Array, count: Array) -> Array:
    """What `count` sweeps make of a value; one that leaves it as it is to the bit is the last, as more would too."""

    def changes(carry: tuple[Array, Array, Array]) -> Array:
        num_sweeps, before, value = carry
        return (num_sweeps < count) & ((num_sweeps == 0) | jnp.any(value != before))

    def step(carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        num_sweeps, _, value = carry
        return num_sweeps + 1, value, sweep(value)

    return jax.lax.while_loop(changes, step, (jnp.array(0), value, value))[2]
