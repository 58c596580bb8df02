"""Numbers that change over a training run."""

import jax.numpy as jnp
from jax import Array

SCHEDULES = ("constant", "linear", "cosine")


def scheduled(kind: str, start: float | Array, end: float | Array, progress: Array) -> float | Array:
    """The value at `progress`, the share of the run that is done, in [0, 1].

    `linear` goes straight from `start` to `end`; `cosine` along half a wave (Loshchilov and Hutter, 2017, equation 5),
    slowly at both ends; `constant` stays.
    """
    if kind == "constant":
        return start
    left = 1.0 - jnp.minimum(progress, 1.0)
    return end + (start - end) * (left if kind == "linear" else 0.5 * (1.0 - jnp.cos(jnp.pi * left)))
