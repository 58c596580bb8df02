"""A random permutation without a sort."""

import math

import jax
import jax.numpy as jnp
from jax import Array


def random_permutation(key: Array, rows: int, columns: int) -> Array:
    """A random permutation of `range(rows * columns)`, many times cheaper than `jax.random.permutation` on a CPU.

    The numbers fill a grid. A round turns every row by its own random amount, then every column by its own. Each
    is a bijection, and after a few rounds a number is anywhere with equal probability, as is any pair of numbers,
    up to a bias that `_num_rounds` bounds. A grid of a single row or column has nothing to turn against: it is sorted.

    Args:
        key: one typed key, consumed.
        rows, columns: the grid, each at least 1.

    Returns:
        `[rows * columns]`, int32.
    """
    if min(rows, columns) == 1:
        return jax.random.permutation(key, rows * columns)
    row = jnp.arange(rows, dtype=jnp.int32)[:, None]
    column = jnp.arange(columns, dtype=jnp.int32)[None, :]
    for round_key in jax.random.split(key, _num_rounds(rows, columns)):
        key_rows, key_columns = jax.random.split(round_key)
        column = (column + jax.random.randint(key_rows, (rows,), 0, columns)[row]) % columns
        row = (row + jax.random.randint(key_columns, (columns,), 0, rows)[column]) % rows
    return (row * columns + column).reshape(-1)


def _num_rounds(rows: int, columns: int) -> int:
    """Rounds after which neighbours stay together with at most a hundredth of the probability that chance gives.

    Two neighbours along the longer side stay neighbours through a round if their lines turn alike, with probability
    1 / min(rows, columns); by chance a given place beside one is held by the other with 1 / (rows * columns).
    """
    return max(4, math.ceil(math.log(100 * rows * columns) / math.log(min(rows, columns))))
