"""Numbers that change over a training run."""

from collections.abc import Callable

import jax.numpy as jnp
from jax import Array

# How much of the way from the end to the start is left, in [0, 1], at a progress in [0, 1]. Every optax schedule is
# one, such as `optax.warmup_cosine_decay_schedule(0.0, 1.0, 0.1, 1.0)`, which warms up over a tenth of the run.
Schedule = Callable[[Array], Array]


def constant(progress: Array) -> Array:
    """The start, always."""
    return jnp.ones_like(progress)


def linear(progress: Array) -> Array:
    """Straight from the start to the end."""
    return 1.0 - jnp.minimum(progress, 1.0)


def cosine(progress: Array) -> Array:
    """Along half a wave (Loshchilov and Hutter, 2017, equation 5), slowly at both ends."""
    return 0.5 * (1.0 - jnp.cos(jnp.pi * linear(progress)))


SCHEDULES: dict[str, Schedule] = {"constant": constant, "linear": linear, "cosine": cosine}


def scheduled(schedule: str | Schedule, start: float | Array, end: float | Array, progress: Array) -> float | Array:
    """The value at `progress`, the share of the run that is done, in [0, 1].

    Args:
        schedule: "constant", "linear", "cosine", or a function of progress, see `Schedule`.
        start: the value where the schedule is 1.
        end: the value where it is 0.
        progress: in [0, 1].
    """
    if schedule == "constant":
        return start
    share = SCHEDULES[schedule] if isinstance(schedule, str) else schedule
    return end + (start - end) * share(progress)
