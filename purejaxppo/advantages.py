"""Advantage estimation."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array


def gae(
    reward: Array,
    value: Array,
    next_value: Array,
    terminated: Array,
    done: Array,
    *,
    gamma: float | Array,
    gae_lambda: float | Array,
) -> tuple[Array, Array]:
    """Generalised advantage estimation (Schulman et al., 2016, equation 16).

        delta_t = r_t + gamma * (1 - terminated_t) * V(s'_t) - V(s_t)
        A_t     = delta_t + gamma * lambda * (1 - done_t) * A_{t+1}

    `s'_t` is the successor of `s_t` *before any reset*. Termination cuts the bootstrap, because nothing follows;
    truncation does not, because the episode would have gone on. Both (`done`) cut the sum over time, because the
    next row belongs to another episode. Where both are set, `terminated` wins.

    Args:
        reward: `[T, ...]`, `r_t`, the environments in any further axes.
        value: `[T, ...]`, `V(s_t)`.
        next_value: `[T, ...]`, `V(s'_t)`.
        terminated: `[T, ...]`, booleans.
        done: `[T, ...]`, booleans, terminated or truncated.
        gamma: discount factor in [0, 1].
        gae_lambda: in [0, 1]; 0 is the one-step temporal difference, 1 the Monte Carlo return minus the value.

    Returns:
        `(advantage, target)`, each `[T, ...]`; the target of the value function is `A_t + V(s_t)`.
    """
    # Chosen, not multiplied by 0: what does not count may be anything, NaN included.
    delta = reward + gamma * jnp.where(terminated, 0, next_value) - value

    def backward(advantage: Array, step: tuple[Array, Array]) -> tuple[Array, Array]:
        delta, done = step
        advantage = delta + jnp.where(done, 0, gamma * gae_lambda * advantage)
        return advantage, advantage

    _, advantage = jax.lax.scan(backward, jnp.zeros_like(delta[0]), (delta, done), reverse=True)
    return advantage, advantage + value


def expected_reward(value: Array, next_value: Array, terminated: Array, *, gamma: float | Array) -> Array:
    """The reward that the critic expects, with which the temporal difference is 0; arguments as for `gae`."""
    return value - gamma * jnp.where(terminated, 0, next_value)


# An estimator has the arguments and the results of `gae`.
Advantage = Callable[..., tuple[Array, Array]]
ADVANTAGES: dict[str, Advantage] = {"gae": gae}
