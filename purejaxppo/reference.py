"""A policy that stays as it is, and the price of straying from it: what KL-regularised training knows of its reference.

The price is `kl_coef * log(pi(a|s) / reference(a|s))` of every action taken, in the reward. Its mean is `kl_coef` times
the Kullback-Leibler divergence and its policy gradient that of the divergence, which does not hold of estimators that
are never negative (Schulman, 2020, "Approximating KL Divergence"), nor of either as a term of the loss.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from purejaxppo.acting import Runner, Transition
from purejaxppo.actor_critic import ActorCritic, Agent
from purejaxppo.planning import regularised_value, soft_values


class Reference(NamedTuple):
    """The policy at the beginning, and the episodes under way as it has seen them."""

    agent: Agent  # never changes
    memory: Any  # [N, ...], of the reference; () if it has none
    kl: Array  # [N], log(pi / reference) summed over the episode under way, nats
    optimum: Any = ()  # [], what the best policy is worth, if that is known


def start_reference(agent: Agent, runners: Runner) -> Reference:
    """The agent as it is, before the first step of the runners `[N]`."""
    return Reference(agent, runners.memory, jnp.zeros(runners.episode_length.shape))


def log_ratio(
    networks: ActorCritic, agent: Agent, reference: Reference, transitions: Transition, before: Runner, *, piece: int
) -> Array:
    """`log(pi(a|s) / reference(a|s))` of the actions taken, `[T, N]`; exactly 0 while the agent is the reference.

    Both read the rollout in the same way, whose rounding differs from that of acting step by step.

    Args:
        before: the runners `[N]` before the rollout.
        piece: observations that the networks take at once, a divisor of `T * N`.
    """
    of_agent = networks.log_prob(agent, transitions, before.memory, piece=piece)
    return of_agent - networks.log_prob(reference.agent, transitions, reference.memory, piece=piece)


def follow(
    networks: ActorCritic, reference: Reference, transitions: Transition, ratio: Array
) -> tuple[Reference, Array]:
    """The reference after a rollout, and the divergence so far `[T, N]` in the episode of every step, it included."""

    def add(kl: Array, step: tuple[Array, Array]) -> tuple[Array, Array]:
        ratio, done = step
        return jnp.where(done, 0, kl + ratio), kl + ratio

    last, so_far = jax.lax.scan(add, reference.kl, (ratio, transitions.done))
    memory = networks.memory_after(reference.agent, transitions, reference.memory)
    return reference._replace(memory=memory, kl=last), so_far


def optimum(networks: ActorCritic, agent: Agent, kl_coef: float | Array, gamma: float | Array) -> Array:
    """What the best policy is worth at the start, near an agent as the reference; see `planning.soft_values`.

    Raises:
        ConfigError: the task's model is not known, or the policy is not a function of the state alone.
    """
    model = networks.task.tabular_model()
    return jnp.sum(model.start * soft_values(model, networks.in_model(agent, model)[0], kl_coef, gamma).value)


def gap(
    networks: ActorCritic, agent: Agent, reference: Reference, kl_coef: float | Array, gamma: float | Array
) -> Array:
    """How much less the agent's policy is worth at the start than the best one near the reference, a scalar."""
    model = networks.task.tabular_model()
    policies = networks.in_model(agent, model)[0], networks.in_model(reference.agent, model)[0]
    return reference.optimum - jnp.sum(model.start * regularised_value(model, *policies, kl_coef, gamma))
