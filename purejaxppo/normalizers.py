"""Running statistics of observations and returns, and what is normalised by them.

Numbers that cannot be used (see `usable`) are left out of all statistics.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from purejaxppo.numerics import add
from purejaxppo.usable import is_usable, usable

LARGEST = 10.0  # a normalised number is clipped to [-10, 10]
EPSILON = 1e-8  # added to a variance


class Moments(NamedTuple):
    """Mean and variance of everything seen so far, number by number; of nothing, they are 0 and 1."""

    seen: Any  # how many, a pytree of float32
    mean: Any
    variance: Any
    lost: Any = ()  # what rounding has kept out of each of the three, see `numerics.add`


class RewardScale(NamedTuple):
    """What rewards are divided by: the spread of the discounted returns so far."""

    moments: Moments  # of a scalar
    discounted: Array  # [N], the sum of discounted rewards of each episode under way


def init_moments(like: Any) -> Moments:
    """The moments before anything is seen, of pytrees like `like`."""
    floats = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, jnp.float32), like)
    return Moments(floats, floats, jax.tree.map(jnp.ones_like, floats), (floats, floats, floats))


def update_moments(moments: Moments, batch: Any) -> Moments:
    """Add a batch `[B, ...]` to the moments (Chan et al., 1979, "Updating formulae", equation 2.1).

    What a batch adds becomes smaller and smaller: what rounding keeps out of the moments is kept beside them.
    """

    def merge(seen: Array, mean: Array, variance: Array, *lost_and_batch: Array) -> tuple[Any, ...]:
        *lost, x = lost_and_batch
        known = is_usable(x)
        size = jnp.sum(known, axis=0, dtype=jnp.float32)
        share = size / jnp.maximum(seen + size, 1)
        roughly = _average(x - mean[None], known, size)
        centred = x - mean[None] - roughly[None]
        rest = _average(centred, known, size)  # 0 but for rounding, as where the mean is large
        shift, spread = roughly + rest, _average(centred**2, known, size) - rest**2
        before = jnp.where((seen > 0) | (size == 0), variance, 0)  # the 1 of nothing is no observation
        changes = size, share * shift, share * (spread - before + (1 - share) * shift**2)
        return tuple(zip(*map(add, (seen, mean, before), lost, changes), strict=True))

    merged = jax.tree.map(merge, *moments[:3], *moments.lost, batch)
    (seen, mean, variance), lost = jax.tree.transpose(
        jax.tree.structure(moments.mean), jax.tree.structure(((0,) * 3,) * 2), merged
    )
    return Moments(seen, mean, variance, lost)


def _average(x: Array, known: Array, size: Array) -> Array:
    """The mean over a batch of what is known, `size` numbers; 0 of none."""
    return jnp.sum(x, axis=0, where=known, dtype=jnp.float32) / jnp.maximum(size, 1)


def normalize(moments: Moments, x: Any) -> Any:
    """`x`, a pytree `[..., *]` like the moments, shifted to mean 0, scaled to variance 1, clipped; not its integers.

    What cannot be used counts as the mean.
    """

    def scale(x: Array, mean: Array, variance: Array) -> Array:
        if jnp.issubdtype(x.dtype, jnp.integer):
            return x
        scaled = jnp.clip((x - mean) * jax.lax.rsqrt(variance + EPSILON), -LARGEST, LARGEST)
        return jnp.where(is_usable(x), scaled, 0).astype(jnp.float32)

    return jax.tree.map(scale, x, moments.mean, moments.variance)


def init_reward_scale(num_envs: int) -> RewardScale:
    """The scale before anything is seen."""
    return RewardScale(init_moments(jnp.zeros(())), jnp.zeros(num_envs))


def scale_rewards(scale: RewardScale, reward: Array, done: Array, gamma: float | Array) -> tuple[RewardScale, Array]:
    """Rewards `[T, N]` over the standard deviation of the discounted returns so far, these included, clipped.

        R_t = gamma * R_{t-1} + r_t, within an episode

    as in Engstrom et al., 2020, "Implementation Matters in Deep Policy Gradients". The reward of an episode's last step
    counts, and nothing of it gets into the next episode. A reward that cannot be used adds nothing, and stays as it is.

    Returns:
        `(scale, reward)`, the scale after these steps.
    """

    def step(discounted: Array, now: tuple[Array, Array]) -> tuple[Array, Array]:
        reward, done = now
        total = gamma * discounted + reward
        return jnp.where(done, 0.0, total), total

    discounted, totals = jax.lax.scan(step, scale.discounted, (usable(reward), done))
    is_known = is_usable(reward)
    moments = update_moments(scale.moments, jnp.where(is_known, totals, jnp.nan).reshape(-1))
    scaled = jnp.clip(reward * jax.lax.rsqrt(moments.variance + EPSILON), -LARGEST, LARGEST)
    return RewardScale(moments, discounted), jnp.where(is_known, scaled, reward)
