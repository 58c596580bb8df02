"""The policy network and the value network."""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

MANY_ROWS = 128  # rows from which on it pays to transpose them before a product
ACTIVATIONS = {"tanh": nn.tanh, "relu": nn.relu}


class Layer(NamedTuple):
    """`x @ kernel + bias`; for an integer `x`, which stands for a one-hot vector, that is a row of the kernel."""

    kernel: Array  # [inputs, outputs]
    bias: Array  # [outputs]

    def __call__(self, x: Array) -> Array:
        is_index = jnp.issubdtype(x.dtype, jnp.integer)
        outputs = self.kernel[x] if is_index else product(x, self.kernel)
        return outputs + jnp.broadcast_to(self.bias, outputs.shape)


@jax.custom_jvp
def product(x: Array, kernel: Array) -> Array:
    """`x @ kernel`, with a gradient that is faster on CPUs for rows `x` `[B, F]`."""
    return x @ kernel


@product.defjvp
def _product_jvp(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    """The gradient by the kernel is `x' g`. XLA's CPU backend is slow at a product whose left side it must transpose.

    So `x` is transposed here, behind a barrier that keeps XLA from undoing it.
    """
    (x, kernel), (dx, dkernel) = primals, tangents
    columns = jnp.moveaxis(x, -1, 0)
    if jax.default_backend() == "cpu" and columns[0].size >= MANY_ROWS:
        columns = jax.lax.optimization_barrier(columns)
    return x @ kernel, dx @ kernel + jnp.einsum("f...,fh->...h", columns, dkernel)


class ActorCritic(nn.Module):
    """Two separate towers of layers: one gives the logits of the actions, the other the value.

    The input is a float array `[..., F]`, or integers `[...]` below `num_categories`, which stand for one-hot vectors.
    """

    num_actions: int
    hidden_sizes: tuple[int, ...]
    activation: str
    num_categories: int | None = None

    @nn.compact
    def __call__(self, x: Array) -> tuple[Array, Array]:
        """`(logits [..., num_actions], value [...])`."""
        num_inputs = self.num_categories if jnp.issubdtype(x.dtype, jnp.integer) else x.shape[-1]
        towers = self.param("towers", initial_towers, (num_inputs, *self.hidden_sizes), self.num_actions)
        return self._tower(towers["policy"], x), self._tower(towers["value"], x)[..., 0]

    def _tower(self, layers: list[Layer], x: Array) -> Array:
        for layer in layers[:-1]:
            x = ACTIVATIONS[self.activation](layer(x))
        return layers[-1](x)


def initial_towers(key: Array, widths: tuple[int, ...], num_actions: int) -> dict[str, list[Layer]]:
    """Orthogonal kernels and zero biases; gain sqrt(2) in the hidden layers, 0.01 for the logits, 1 for the value."""
    hidden = list(pairwise(widths))
    kernels = iter(orthogonal_kernels(key, [*hidden, *hidden, (widths[-1], num_actions), (widths[-1], 1)]))
    policy, value = ([_unbiased(2**0.5 * next(kernels)) for _ in hidden] for _ in range(2))
    return {"policy": [*policy, _unbiased(0.01 * next(kernels))], "value": [*value, _unbiased(next(kernels))]}


def orthogonal_kernels(key: Array, shapes: Sequence[tuple[int, int]]) -> list[Array]:
    """Independent random matrices of these shapes, see `orthogonal`.

    All are drawn at once, and made at once in a common shape: each separate loop would be compiled separately.
    """
    tall = [(max(shape), min(shape)) for shape in shapes]
    most_rows, most_columns = map(max, zip(*tall, strict=True))
    ends = np.cumsum([rows * columns for rows, columns in tall])
    parts = jnp.split(jax.random.normal(key, (ends[-1],)), ends[:-1])
    normals = [
        jnp.pad(part.reshape(rows, columns), ((0, most_rows - rows), (0, most_columns - columns)))
        for part, (rows, columns) in zip(parts, tall, strict=True)
    ]
    made = zip(jax.vmap(orthogonal)(jnp.stack(normals)), tall, shapes, strict=True)
    return [
        x[:rows, :columns] if shape == (rows, columns) else x[:rows, :columns].T for x, (rows, columns), shape in made
    ]


def orthogonal(normal: Array) -> Array:
    """A random matrix with orthonormal columns, uniform among such.

    A product of reflections, each of a column's part from the diagonal down onto an axis (Stewart, 1980, "The efficient
    generation of random orthogonal matrices", SIAM J. Numer. Anal. 17). The usual QR decomposition calls LAPACK, which
    can deadlock under `vmap` on a CPU.

    Args:
        normal: `[rows, columns]`, rows >= columns, of Gaussian numbers. Zeros at the ends of both pad: what is before
            them becomes what it would without them.
    """
    rows, columns = normal.shape
    parts, axes = jnp.tril(normal), jnp.eye(rows, columns)
    signs = jnp.where(jnp.diagonal(parts) < 0, -1.0, 1.0)[None]
    mirrors = parts + axes * signs * jnp.linalg.norm(parts, axis=0, keepdims=True)
    mirrors *= 2**0.5 / jnp.maximum(jnp.linalg.norm(mirrors, axis=0, keepdims=True), jnp.finfo(parts.dtype).tiny)

    def reflect(i: Array, x: Array) -> Array:
        mirror = mirrors[:, columns - 1 - i]
        return x - jnp.outer(mirror, jnp.matmul(mirror, x, precision="highest"))

    return jax.lax.fori_loop(0, columns, reflect, -axes * signs)


def _unbiased(kernel: Array) -> Layer:
    return Layer(kernel, jnp.zeros(kernel.shape[-1]))
