"""What float32 does badly by itself: the slope of a root at 0, and long sums."""

import jax.numpy as jnp
from jax import Array


def root(x: Array) -> Array:
    """The square root of what is not negative; its derivative at 0 counts as 0, where it is infinite.

    A sum of squares is 0 only where all of them are, and there its own derivative is 0: infinity times that is NaN.
    """
    is_zero = x == 0
    return jnp.where(is_zero, 0, jnp.sqrt(jnp.where(is_zero, 1, x)))


def add(total: Array, lost: Array, x: Array) -> tuple[Array, Array]:
    """A running sum with one more number, and what rounding has kept out of it (Kahan, 1965; Knuth's TwoSum).

    After a million steps of 0.1, a plain sum in float32 is 1% off.

    Returns:
        `(total, lost)`: the sum as a number of this many bits can be, and the rest that the next call adds.
    """
    x = x + lost
    new = total + x
    added = new - total
    return new, (total - (new - added)) + (x - added)
