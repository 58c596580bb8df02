"""What float32 does badly by itself: the slope of a root at 0, and long sums."""

import jax.numpy as jnp
from jax import Array


def root(x: Array) -> Array:
    """The square root of what is not negative; its derivative at 0 counts as 0, where it is infinite.

    A sum of squares is 0 only where all of them are, and there its own derivative is 0: infinity times that is NaN.
    """
    is_zero = x == 0
    return jnp.where(is_zero, 0, jnp.sqrt(jnp.where(is_zero, 1, x)))
