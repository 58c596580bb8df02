"""Exact dynamic programming on a `TabularModel`.

Two things that are easily mixed up are named apart here. A *value* is discounted and knows no time limit: it is what
PPO's critic estimates, since a time limit does not end its sum. A *return* is not discounted and ends at the time
limit (the `horizon`): it is what the mean return of episodes estimates.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from purejaxppo.errors import ConfigError
from purejaxppo.settings import UNIT_INTERVAL, Constraint, Number, check_kind, check_traced

TOLERANCE = 2e-7  # change of a value, relative to the largest, that is taken for none in float32
MAX_SWEEPS = 20_000
SOLVED_DENSELY = 512  # states up to which a policy is evaluated by products of [S, S] matrices
HORIZON = Constraint(
    "an integer in [1, 2**20], as planning goes over every step", lambda x: (x >= 1) & (x <= 2**20), number=int
)
TIED = 1e-4  # actions whose values differ by less, relative to the largest value, are equally good


class TabularModel(NamedTuple):
    """A finite environment as arrays: what each of `A` actions does in each of `S` states, with `K` outcomes.

    States that only a terminating step leads to are states like any other, though no episode goes on from there.
    """

    next_state: Array  # [S, A, K], int32
    probability: Array  # [S, A, K]
    reward: Array  # [S, A, K]
    terminated: Array  # [S, A, K], bool
    start: Array  # [S], probability that an episode starts here
    mask: Array  # [S, A], bool, the available actions
    obs: Array  # [S, ...], what the agent sees


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
    _check_model(model)
    return _value_iteration(model, _checked("gamma", gamma, UNIT_INTERVAL))


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
    _check_model(model)
    _check_policy(model, policy)
    return _policy_evaluation(model, policy, _checked("gamma", gamma, UNIT_INTERVAL))


def expected_return(model: TabularModel, policy: Array, horizon: int | Array) -> EpisodeReturn:
    """What the mean over episodes of a policy estimates: undiscounted, cut short after `horizon` steps.

    Args:
        model: `S` states, `A` actions, `K` outcomes.
        policy: `[S, A]`, the probability of each action, at all times the same; 0 where it is masked.
        horizon: steps after which an episode is cut short, from 1 to 2^20.

    Raises:
        ConfigError: the model, the policy or the horizon is malformed. Tracers are not checked.
    """
    _check_model(model)
    _check_policy(model, policy)
    return _expected_return(model, policy, _checked("horizon", horizon, HORIZON))


def optimal_return(model: TabularModel, horizon: int | Array) -> Array:
    """The best expected return of an episode of at most `horizon` steps, a scalar.

    Over all policies, those that know the time included; where the time limit matters, one that does not know the
    time can come close but may not reach it.

    Raises:
        ConfigError: the model or the horizon is malformed. Tracers are not checked.
    """
    _check_model(model)
    return _optimal_return(model, _checked("horizon", horizon, HORIZON))


def reachable(model: TabularModel) -> Array:
    """`[S]` booleans: the states in which an agent may have to act, whatever it does."""
    _check_model(model)
    return _reachable(model)


def _action_values(model: TabularModel, value: Array, gamma: Number) -> Array:
    """One backup, `[S, A]`."""
    goes_on = jnp.where(model.terminated, 0.0, value[model.next_state])
    return jnp.sum(model.probability * (model.reward + gamma * goes_on), axis=-1)


def _best(model: TabularModel, action_value: Array) -> Array:
    return jnp.max(action_value, axis=-1, where=model.mask, initial=-jnp.inf)


def _fixed_point(sweep: Any, value: Array) -> tuple[Array, Array]:
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
    value, residual = _fixed_point(lambda value: _best(model, _action_values(model, value, gamma)), zeros)
    action_value = _action_values(model, value, gamma)
    scale = jnp.maximum(1.0, jnp.max(jnp.abs(value)))
    is_optimal = model.mask & (action_value >= _best(model, action_value)[:, None] - TIED * scale)
    return Solution(value, action_value, is_optimal, residual)


@jax.jit
def _policy_evaluation(model: TabularModel, policy: Array, gamma: Number) -> Array:
    weight = policy[..., None] * model.probability  # [S, A, K]
    reward = jnp.sum(weight * model.reward, axis=(1, 2))
    weight = gamma * jnp.where(model.terminated, 0.0, weight)
    num_states = len(reward)
    if num_states > SOLVED_DENSELY:
        return _fixed_point(lambda v: reward + jnp.sum(weight * v[model.next_state], axis=(1, 2)), reward)[0]
    row = jnp.arange(num_states)[:, None, None]
    matrix = jnp.zeros((num_states, num_states)).at[row, model.next_state].add(weight)

    def double(_: Any, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        power, value = carry
        return power @ power, value + power @ value

    with jax.default_matmul_precision("highest"):
        return jax.lax.fori_loop(0, 24, double, (matrix, reward))[1]  # 2^24 steps


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
    best = _repeated(lambda value: _best(model, _action_values(model, value, 1.0)), zeros, horizon)
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


@jax.jit
def _reachable(model: TabularModel) -> Array:
    leads_on = model.mask[..., None] & (model.probability > 0) & ~model.terminated

    def spread(carry: tuple[Array, Array]) -> tuple[Array, Array]:
        _, reached = carry
        return reached, reached.at[model.next_state].max(leads_on & reached[:, None, None])

    starts = model.start > 0
    return jax.lax.while_loop(lambda c: jnp.any(c[0] != c[1]), spread, (jnp.zeros_like(starts), starts))[1]


def _checked(name: str, value: Any, allowed: Constraint) -> Any:
    """A single number, as it is allowed to be."""
    if np.ndim(value):
        raise ConfigError(f"{name}={value!r}: must be a single number; jax.vmap maps over many")
    return check_traced(name, value, allowed)


def _check_model(model: TabularModel) -> None:
    """Refuse arrays that do not fit together or are no probabilities.

    Raises:
        ConfigError: with the field, what is wrong, and what is allowed.
    """
    check_kind("model", model, TabularModel)
    shape = np.shape(model.next_state)
    if len(shape) != 3 or 0 in shape:
        raise ConfigError(f"model.next_state: has shape {shape}; must be [S, A, K], none of them 0")
    outcomes = [("probability", shape), ("reward", shape), ("terminated", shape)]
    for name, its_shape in (*outcomes, ("start", shape[:1]), ("mask", shape[:2])):
        if np.shape(getattr(model, name)) != its_shape:
            raise ConfigError(f"model.{name}: has shape {np.shape(getattr(model, name))}; must be {its_shape}")
    for name, kind in (("next_state", jnp.integer), ("terminated", jnp.bool_), ("mask", jnp.bool_)):
        dtype = jnp.result_type(getattr(model, name))
        if not jnp.issubdtype(dtype, kind):
            raise ConfigError(f"model.{name}: has dtype {dtype}; must be {kind.__name__}")
    if np.shape(model.obs)[:1] != shape[:1]:
        raise ConfigError(f"model.obs: has shape {np.shape(model.obs)}; must be one row for each of {shape[0]} states")
    ends = 0, shape[0] - 1
    _check_values("model.next_state", model.next_state, f"in [0, {ends[1]}]", lambda x: (x >= 0) & (x <= ends[1]))
    _check_values("model.reward", model.reward, "finite", np.isfinite)
    _check_distribution("model.probability", model.probability)
    _check_distribution("model.start", model.start)
    _check_values("model.mask", model.mask, "true for at least one action in every state", lambda x: x.any(axis=-1))


def _check_policy(model: TabularModel, policy: Array) -> None:
    if np.shape(policy) != np.shape(model.mask):
        raise ConfigError(f"policy: has shape {np.shape(policy)}; must be [S, A] = {np.shape(model.mask)}")
    _check_distribution("policy", policy)
    if not any(isinstance(x, jax.core.Tracer) for x in (policy, model.mask)):
        off_limits = np.where(np.asarray(model.mask), 0, policy)
        _check_values("policy", off_limits, "0 where model.mask is false", lambda x: x == 0)


def _check_distribution(name: str, array: Array) -> None:
    """Every row of the last axis must be a probability distribution."""
    _check_values(name, array, "in [0, 1]", lambda x: (x >= 0) & (x <= 1))
    _check_values(name, array, "a distribution: its rows sum to 1", lambda x: np.abs(x.sum(axis=-1) - 1) < 1e-4)


def _check_values(name: str, array: Any, allowed: str, holds: Any) -> None:
    if isinstance(array, jax.core.Tracer):
        return
    fine = np.asarray(holds(np.asarray(array)))
    if not fine.all():
        where = tuple(int(i) for i in np.argwhere(~fine)[0])
        raise ConfigError(f"{name}: at {list(where)} it is {np.asarray(array)[where]}; must be {allowed}")
