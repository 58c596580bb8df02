"""Probability distributions over actions, as pytrees of arrays."""

from typing import NamedTuple, Self

import jax
import jax.numpy as jnp
from jax import Array


class Categorical(NamedTuple):
    """A distribution over `A` actions, stored normalised.

    Every field has the same leading axes, so indexing the leaves of a batch (a table) gives its members, ready to
    sample from without an exponential.
    """

    log_probs: Array  # [..., A]
    cumulative: Array  # [..., A], P(action <= a); the last entry is exactly 1
    entropy: Array  # [...], nats

    @classmethod
    def from_logits(cls, logits: Array, mask: Array | None = None) -> Self:
        """`softmax(logits)`, restricted to the actions where `mask` is true.

        Args:
            logits: `[..., A]`, unnormalised log-probabilities.
            mask: `[..., A]` booleans with at least one true entry per row, or None to allow every action.

        An action that is masked has probability exactly 0: it is never sampled and never the mode, it adds nothing
        to the entropy, its log-probability is the lowest finite number, whose exponential is 0, and its logit has no
        gradient.
        """
        if mask is not None:
            logits = jnp.where(mask, logits, jnp.finfo(logits.dtype).min)
        logits = logits - jax.lax.stop_gradient(jnp.max(logits, axis=-1, keepdims=True))
        weights = jnp.exp(logits)
        total = jnp.sum(weights, axis=-1, keepdims=True)
        log_probs, probs = logits - jnp.log(total), weights / total
        cumulative = jax.lax.stop_gradient(jnp.cumsum(probs, axis=-1))
        # x / x is exactly 1, so that no u < 1 falls behind the last action that has a probability.
        # Without `where`, a gradient would multiply the probability 0 by the lowest number times its weight: 0 * -inf.
        entropy = -jnp.sum(probs * jnp.where(probs > 0, log_probs, 0), axis=-1)
        return cls(log_probs, cumulative / cumulative[..., -1:], entropy)

    def sample(self, uniform: Array) -> Array:
        """The action at `uniform` in [0, 1) of the inverse cumulative distribution: `min {a : u < P(A <= a)}`.

        One uniform number per action drawn, `[...]`, int32.
        """
        return jnp.sum(self.cumulative <= uniform[..., None], axis=-1, dtype=jnp.int32)

    def log_prob(self, action: Array) -> Array:
        """Natural logarithm of the probability of `action`, `[...]`."""
        return jnp.take_along_axis(self.log_probs, action[..., None], axis=-1)[..., 0]

    def mode(self) -> Array:
        """The most probable action (the first of equals), `[...]`, int32."""
        return jnp.argmax(self.log_probs, axis=-1).astype(jnp.int32)
