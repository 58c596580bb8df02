"""A random permutation without a sort."""

import math

import jax
import jax.numpy as jnp
from jax import Array


def random_permutation(key: Array, rows: int, columns: int) -> Array:
    """A random permutation of `range(rows * columns)`, many times cheaper than `jax.random.permutation` on a CPU.

    The numbers fill a grid. A round turns every row by its own random amount, then every column by its own. Each
    is a bijection, and after a few rounds a number is anywhere with equal probability, as is any pair of numbers,
    up to a bias that `_num_rounds` bounds. A grid of one row or one column has nothing to turn against: it is sorted.

    Args:
        key: one typed key, consumed.
        rows, columns: the grid, each at least 1.

    Returns:
        `[rows * columns]`, int32.
    """
    if min(rows, columns) == 1:
        return jax.random.permutation(key, rows * columns)
    row = jnp.arange(rows, dtype=jnp.uint32)[:, None]
    column = jnp.arange(columns, dtype=jnp.uint32)[None, :]
    seeds = jax.random.bits(key, (_num_rounds(rows, columns), 2))
    for row_seed, column_seed in seeds:
        column = (column + _hash(row ^ row_seed) % columns) % columns
        row = (row + _hash(column ^ column_seed) % rows) % rows
    return (row * columns + column).astype(jnp.int32).reshape(-1)


def _num_rounds(rows: int, columns: int) -> int:
    """Rounds after which neighbours stay together with at most a hundredth of the probability that chance gives.

    Two neighbours along the longer side stay neighbours through a round if their lines turn alike, with probability
    1 / min(rows, columns); by chance a given place beside one is held by the other with 1 / (rows * columns).
    """
    return max(4, math.ceil(math.log(100 * rows * columns) / math.log(min(rows, columns))))


def _hash(x: Array) -> Array:
    """The 32-bit integer hash `lowbias32` (Wellons, 2018): every bit of the input reaches every bit of the output."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)
