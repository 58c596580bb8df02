"""The policy network and the value network."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

ACTIVATIONS = {"tanh": nn.tanh, "relu": nn.relu}


class ActorCritic(nn.Module):
    """Two separate towers: one gives the logits of the actions, the other the value.

    The input is a float array `[..., F]`, or integers `[...]` below `num_categories`, which stand for one-hot vectors.
    """

    num_actions: int
    hidden_sizes: Sequence[int]
    activation: str
    num_categories: int | None = None

    @nn.compact
    def __call__(self, x: Any) -> tuple[Array, Array]:
        """`(logits [..., num_actions], value [...])`."""
        logits = self._tower(x, "policy", self.num_actions, gain=0.01)
        value = self._tower(x, "value", 1, gain=1.0)
        return logits, value[..., 0]

    def _tower(self, x: Any, name: str, num_outputs: int, gain: float) -> Array:
        for i, size in enumerate(self.hidden_sizes):
            x = Linear(size, 2**0.5, self.num_categories, name=f"{name}_{i}")(x)
            x = ACTIVATIONS[self.activation](x)
        return Linear(num_outputs, gain, self.num_categories, name=f"{name}_out")(x)


class Linear(nn.Module):
    """`x @ kernel + bias`, orthogonally initialised; for integers `x`, rows of the kernel in place of one-hot products.

    `slice(None)` as `x` stands for every category at once: the identity matrix times the kernel.
    """

    size: int
    gain: float
    num_categories: int | None

    @nn.compact
    def __call__(self, x: Any) -> Array:
        is_index = isinstance(x, slice) or jnp.issubdtype(x.dtype, jnp.integer)
        fan_in = self.num_categories if is_index else x.shape[-1]
        kernel = self.param("kernel", orthogonal, (fan_in, self.size), self.gain)
        bias = self.param("bias", nn.initializers.zeros, (self.size,))
        return (kernel[x] if is_index else x @ kernel) + bias


def orthogonal(key: Array, shape: tuple[int, int], gain: float) -> Array:
    """A random matrix with orthonormal columns (or rows, if it is wide), times `gain`; uniform among such matrices.

    The polar factor of a Gaussian matrix, by the Newton-Schulz iteration `x <- 1.5 x - 0.5 x x' x`. It is made of
    matrix products alone: the usual QR decomposition calls LAPACK, which can deadlock under `vmap` on a CPU.
    """
    rows, columns = max(shape), min(shape)
    x = jax.random.normal(key, (rows, columns))
    x = x / jnp.linalg.norm(x)
    with jax.default_matmul_precision("highest"):
        x = jax.lax.fori_loop(0, 40, lambda _, x: 1.5 * x - 0.5 * x @ (x.T @ x), x)
    return gain * (x if shape == (rows, columns) else x.T)
