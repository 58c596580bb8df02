"""Running statistics of observations and returns, and what is normalised by them."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

LARGEST = 10.0  # a normalised number is clipped to [-10, 10]
EPSILON = 1e-8  # added to a variance


class Moments(NamedTuple):
    """Mean and variance of everything seen so far, number by number; of nothing, they are 0 and 1."""

    seen: Array  # [], how many, float32
    mean: Any  # a pytree
    variance: Any


class RewardScale(NamedTuple):
    """What rewards are divided by: the spread of the discounted returns so far."""

    moments: Moments  # of a scalar
    discounted: Array  # [N], the sum of discounted rewards of each episode under way


def init_moments(like: Any) -> Moments:
    """The moments before anything is seen, of pytrees like `like`."""
    floats = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, jnp.float32), like)
    return Moments(jnp.zeros(()), floats, jax.tree.map(jnp.ones_like, floats))


def update_moments(moments: Moments, batch: Any) -> Moments:
    """Add a batch `[B, ...]` to the moments (Chan et al., 1979, "Updating formulae", equation 2.1)."""
    size = jax.tree.leaves(batch)[0].shape[0]
    seen = moments.seen + size
    share = size / seen

    def merge(mean: Array, variance: Array, x: Array) -> tuple[Array, Array]:
        shift = jnp.mean(x, axis=0) - mean
        merged = (1 - share) * variance + share * jnp.var(x, axis=0) + (1 - share) * share * shift**2
        return mean + share * shift, merged

    merged = jax.tree.map(merge, moments.mean, moments.variance, batch)
    mean, variance = jax.tree.transpose(jax.tree.structure(moments.mean), jax.tree.structure((0, 0)), merged)
    return Moments(seen, mean, variance)


def normalize(moments: Moments, x: Any) -> Any:
    """`x`, a pytree `[..., *]` like the moments, shifted to mean 0, scaled to variance 1, clipped; not its integers."""

    def scale(x: Array, mean: Array, variance: Array) -> Array:
        if jnp.issubdtype(x.dtype, jnp.integer):
            return x
        return jnp.clip((x - mean) * jax.lax.rsqrt(variance + EPSILON), -LARGEST, LARGEST)

    return jax.tree.map(scale, x, moments.mean, moments.variance)


def init_reward_scale(num_envs: int) -> RewardScale:
    """The scale before anything is seen."""
    return RewardScale(init_moments(jnp.zeros(())), jnp.zeros(num_envs))


def scale_rewards(scale: RewardScale, reward: Array, done: Array, gamma: float | Array) -> tuple[RewardScale, Array]:
    """Rewards `[T, N]` over the standard deviation of the discounted returns so far, these included, clipped.

        R_t = gamma * R_{t-1} + r_t, within an episode

    as in Engstrom et al., 2020, "Implementation Matters in Deep Policy Gradients". The reward of an episode's last step
    counts, and nothing of it gets into the next episode.

    Returns:
        `(scale, reward)`, the scale after these steps.
    """

    def step(discounted: Array, now: tuple[Array, Array]) -> tuple[Array, Array]:
        reward, done = now
        total = gamma * discounted + reward
        return jnp.where(done, 0.0, total), total

    discounted, totals = jax.lax.scan(step, scale.discounted, (reward, done))
    moments = update_moments(scale.moments, totals.reshape(-1))
    scaled = reward * jax.lax.rsqrt(moments.variance + EPSILON)
    return RewardScale(moments, discounted), jnp.clip(scaled, -LARGEST, LARGEST)
