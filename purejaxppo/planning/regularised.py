"""The best that can be done where straying from a reference policy has a price.

A step from `s` is worth its reward less `beta KL(pi(.|s) || reference(.|s))`, which is what PPO maximises with
`Config.kl_coef` = beta. The best policy is then never deterministic, and known in closed form; in language models it is
what RLHF and DPO look for (Rafailov et al., 2023, "Direct Preference Optimization", section 4; Todorov, 2009,
"Efficient Computation of Optimal Actions").
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.scipy.special import logsumexp, rel_entr

from purejaxppo.planning.model import TabularModel, check_model, check_policy, checked
from purejaxppo.planning.values import action_values, discounted_sum, fixed_point, mean_reward
from purejaxppo.settings import POSITIVE, UNIT_INTERVAL, Number


class SoftSolution(NamedTuple):
    """The best that can be done near a reference, discounted and without a time limit."""

    value: Array  # [S], V*
    action_value: Array  # [S, A], Q*, also of masked actions
    policy: Array  # [S, A], pi*
    residual: Array  # [], largest change of a value in the last sweep; V* is off by at most residual / (1 - gamma)


def soft_values(model: TabularModel, reference: Array, beta: Number, gamma: Number) -> SoftSolution:
    """The optimal values and policy with the price `beta KL(pi || reference)`, by sweeps until nothing changes.

        Q*(s, a) = sum_k p_k (r_k + gamma (1 - terminated_k) V*(s'_k))
        V*(s) = beta log sum_a reference(a|s) exp(Q*(s, a) / beta)
        pi*(a|s) = reference(a|s) exp((Q*(s, a) - V*(s)) / beta)

    With `gamma = 1` and nothing left to chance, the probability of a whole episode under `pi*` is that under the
    reference times `exp(return / beta)`, normalised. `jax.vmap` maps over `beta`.

    Args:
        model: `S` states, `A` actions, `K` outcomes.
        reference: `[S, A]`, the probability of each action; 0 where it is masked. What it never does, `pi*` never does.
        beta: the price of a nat, above 0.
        gamma: the discount factor, in [0, 1]. With 1, the values are finite only where episodes come to an end; where
            they are not, the sweeps stop after 20,000 and the residual stays large.

    Raises:
        ConfigError: the model or the reference is malformed, or a number is out of range. Tracers are not checked.
    """
    check_model(model)
    check_policy(model, reference, "reference")
    return _soft_values(model, reference, checked("beta", beta, POSITIVE), checked("gamma", gamma, UNIT_INTERVAL))


def regularised_value(model: TabularModel, policy: Array, reference: Array, beta: Number, gamma: Number) -> Array:
    """What a policy is worth from every state, `[S]`, with the price `beta KL(policy || reference)` of every step.

    That of `soft_values` is the largest there is, and no other policy's: over one whole episode without a discount,
    the gap is `beta` times the Kullback-Leibler divergence of the policy from the best one.

    Args:
        model: `S` states, `A` actions, `K` outcomes.
        policy: `[S, A]`, the probability of each action; 0 where it is masked.
        reference: as `policy`. Where the policy does what the reference never does, the value is -inf.
        beta: the price of a nat, above 0.
        gamma: the discount factor, in [0, 1].

    Raises:
        ConfigError: the model or a policy is malformed, or a number is out of range. Tracers are not checked.
    """
    check_model(model)
    check_policy(model, policy)
    check_policy(model, reference, "reference")
    beta, gamma = checked("beta", beta, POSITIVE), checked("gamma", gamma, UNIT_INTERVAL)
    return _regularised_value(model, policy, reference, beta, gamma)


def kl_to_reference(model: TabularModel, policy: Array, reference: Array, gamma: Number = 1.0) -> Array:
    """`KL(policy || reference)` in nats, summed over the steps of an episode from every state on, `[S]`.

    Args:
        model: `S` states, `A` actions, `K` outcomes.
        policy: `[S, A]`, the probability of each action; 0 where it is masked.
        reference: as `policy`. Where the policy does what the reference never does, the divergence is inf.
        gamma: the discount factor, in [0, 1]; with 1 it is the divergence of the whole episodes.

    Raises:
        ConfigError: the model or a policy is malformed, or `gamma` is out of range. Tracers are not checked.
    """
    check_model(model)
    check_policy(model, policy)
    check_policy(model, reference, "reference")
    return _kl_to_reference(model, policy, reference, checked("gamma", gamma, UNIT_INTERVAL))


@jax.jit
def _soft_values(model: TabularModel, reference: Array, beta: Number, gamma: Number) -> SoftSolution:
    def best(value: Array) -> Array:
        return beta * logsumexp(action_values(model, value, gamma) / beta, b=reference, axis=-1)

    value, residual = fixed_point(best, jnp.zeros(model.start.shape))
    action_value = action_values(model, value, gamma)
    # Less the best of what the reference does, and divided by the sum: exact however small beta is.
    best_action_value = jnp.max(action_value, axis=-1, keepdims=True, where=reference > 0, initial=-jnp.inf)
    weight = jnp.where(reference > 0, reference * jnp.exp((action_value - best_action_value) / beta), 0)
    return SoftSolution(value, action_value, weight / jnp.sum(weight, axis=-1, keepdims=True), residual)


@jax.jit
def _regularised_value(model: TabularModel, policy: Array, reference: Array, beta: Number, gamma: Number) -> Array:
    reward = discounted_sum(model, policy, mean_reward(model, policy), gamma)
    return reward - beta * _kl_to_reference(model, policy, reference, gamma)


@jax.jit
def _kl_to_reference(model: TabularModel, policy: Array, reference: Array, gamma: Number) -> Array:
    divergence = jnp.sum(rel_entr(policy, reference), axis=-1)  # [S]
    is_finite = jnp.isfinite(divergence)
    # In a product of matrices, infinity would spread as NaN to the states that never lead to it.
    total = discounted_sum(model, policy, jnp.where(is_finite, divergence, 0), gamma)
    leads_to_infinity = discounted_sum(model, policy, 1.0 - is_finite, gamma) > 0
    return jnp.where(leads_to_infinity, jnp.inf, total)
