"""Layers of the built-in networks, and how their weights begin."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

MANY_ROWS = 128  # rows from which on it pays to transpose them before a product


class Dense(NamedTuple):
    """`x @ kernel + bias`; for an integer `x`, which stands for a one-hot vector, that is a row of the kernel."""

    kernel: Any  # [inputs, outputs]; `Orthogonal` before it is drawn
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


class LayerNorm(NamedTuple):
    """Layer normalisation (Ba et al., 2016)."""

    scale: Array  # [outputs]
    bias: Array  # [outputs]

    def __call__(self, x: Array) -> Array:
        centred = x - jnp.mean(x, axis=-1, keepdims=True)
        x = centred * jax.lax.rsqrt(jnp.mean(centred**2, axis=-1, keepdims=True) + 1e-6)
        return x * jnp.broadcast_to(self.scale, x.shape) + jnp.broadcast_to(self.bias, x.shape)


@dataclass(frozen=True)
class Orthogonal:
    """Stands for a kernel `[inputs, blocks * outputs]` before its weights are drawn: orthogonal blocks side by side."""

    inputs: int
    outputs: int
    gain: float = 1.0
    blocks: int = 1


def dense(inputs: int, outputs: int, *, gain: float = 1.0, blocks: int = 1) -> Dense:
    """A layer whose kernel is still to be drawn, and whose bias is zero."""
    return Dense(Orthogonal(inputs, outputs, gain, blocks), jnp.zeros(blocks * outputs))


def draw(key: Array, layers: Any) -> Any:
    """A pytree of layers with the kernels drawn, see `orthogonal_kernels`."""
    kernels = [leaf for leaf in jax.tree.leaves(layers) if isinstance(leaf, Orthogonal)]
    drawn = iter(orthogonal_kernels(key, [(k.inputs, k.outputs) for k in kernels for _ in range(k.blocks)]))

    def fill(leaf: Any) -> Array:
        if not isinstance(leaf, Orthogonal):
            return leaf
        return leaf.gain * jnp.concatenate([next(drawn) for _ in range(leaf.blocks)], axis=1)

    return jax.tree.map(fill, layers)


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
