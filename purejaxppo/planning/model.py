"""Finite environments as arrays, and what they must be like."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from purejaxppo.errors import ConfigError
from purejaxppo.settings import Constraint, check_kind, check_traced

HORIZON = Constraint(
    "an integer in [1, 2**20], as planning goes over every step", lambda x: (x >= 1) & (x <= 2**20), number=int
)


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


def reachable(model: TabularModel) -> Array:
    """`[S]` booleans: the states in which an agent may have to act, whatever it does."""
    check_model(model)
    return _reachable(model)


@jax.jit
def _reachable(model: TabularModel) -> Array:
    leads_on = model.mask[..., None] & (model.probability > 0) & ~model.terminated

    def spread(carry: tuple[Array, Array]) -> tuple[Array, Array]:
        _, reached = carry
        return reached, reached.at[model.next_state].max(leads_on & reached[:, None, None])

    starts = model.start > 0
    return jax.lax.while_loop(lambda c: jnp.any(c[0] != c[1]), spread, (jnp.zeros_like(starts), starts))[1]


def checked(name: str, value: Any, allowed: Constraint) -> Any:
    """A single number, as it is allowed to be."""
    if np.ndim(value):
        raise ConfigError(f"{name}={value!r}: must be a single number; jax.vmap maps over many")
    return check_traced(name, value, allowed)


def check_model(model: TabularModel) -> None:
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


def check_policy(model: TabularModel, policy: Array, name: str = "policy") -> None:
    """Refuse what is no distribution over the available actions of every state.

    Raises:
        ConfigError: with what is wrong, and where.
    """
    if np.shape(policy) != np.shape(model.mask):
        raise ConfigError(f"{name}: has shape {np.shape(policy)}; must be [S, A] = {np.shape(model.mask)}")
    _check_distribution(name, policy)
    if not any(isinstance(x, jax.core.Tracer) for x in (policy, model.mask)):
        off_limits = np.where(np.asarray(model.mask), 0, policy)
        _check_values(name, off_limits, "0 where model.mask is false", lambda x: x == 0)


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
