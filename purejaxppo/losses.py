"""The clipped surrogate loss of PPO and its diagnostics."""

from functools import partial
from typing import Any, NamedTuple

import jax.numpy as jnp
import optax
from jax import Array

from purejaxppo.numerics import root


class Batch(NamedTuple):
    """Samples to learn from, as the policy that collected them saw them.

    A network with a memory learns from whole sequences: there, `[B]` is `[N, T]`.
    """

    obs: Any  # [B, ...]
    action: Array  # [B, ...]
    log_prob: Array  # [B], log pi_old(a|s)
    value: Array  # [B], V_old(s)
    advantage: Array  # [B]
    target: Array  # [B], what V(s) is fitted to
    done: Any = ()  # [N, T], where an episode ended, if there is a memory
    memory: Any = ()  # [N, ...], before each sequence, if there is one
    weight: Any = ()  # [B], of mean 1, in everything but the value loss; () weighs all samples alike


def ppo_loss(
    log_prob: Array,
    entropy: Array,
    value: Array,
    batch: Batch,
    *,
    clip_eps: float | Array,
    vf_coef: float | Array,
    ent_coef: float | Array,
    clip_value: bool = False,
    dual_clip: float | Array | None = None,
    huber_delta: float | Array | None = None,
) -> tuple[Array, dict[str, Array]]:
    """The loss to *minimise*: the negative of the objective of Schulman et al. (2017), equation 9.

        ratio = exp(log_prob - log_prob_old)
        L = -mean(min(ratio * A, clip(ratio, 1 - eps, 1 + eps) * A)) + vf_coef * L_value - ent_coef * mean(entropy)
        L_value = mean((V - target)^2) / 2

    With `clip_value`, `L_value` takes per sample the larger of the errors of `V` and of `V_old` moved towards `V` by at
    most `clip_eps`. With `dual_clip` `c`, the surrogate of a negative advantage is at least `c * A`, however large the
    ratio (Ye et al., 2020, "Mastering Complex Control in MOBA Games", equation 5). With `huber_delta` `d`, the error
    `e^2 / 2` of a value goes on as `d (|e| - d / 2)` where `|e| > d` (Huber, 1964).

    Args:
        log_prob: `[B]`, log-probability of `batch.action` under the policy that learns.
        entropy: `[B]`, entropy of that policy in nats.
        value: `[B]`, value estimates of the network that learns.
        batch: `[B]`, what was collected; advantages are used as they are. Where it has weights, they multiply every
            sample's part in the means, but for the value loss: a sample of weight 0 still teaches the value.

    Returns:
        `(loss, metrics)`: scalars, with metrics `policy_loss`, `value_loss`, `entropy`, `approx_kl` (the estimator
        `mean(ratio - 1 - log ratio)`, Schulman, 2020) and `clip_fraction` (share of ratios outside the clip range).
    """
    log_ratio = log_prob - batch.log_prob
    ratio = jnp.exp(log_ratio)
    mean = partial(weighted_mean, weight=batch.weight)
    policy_loss = -mean(clipped_surrogate(ratio, batch.advantage, clip_eps, dual_clip))

    squared_error = _square(value - batch.target, huber_delta)
    if clip_value:
        near = batch.value + jnp.clip(value - batch.value, -clip_eps, clip_eps)
        squared_error = jnp.maximum(squared_error, _square(near - batch.target, huber_delta))
    value_loss = 0.5 * jnp.mean(squared_error)  # the half inside the mean would make an update 5% slower on a CPU

    mean_entropy = mean(entropy)
    loss = policy_loss + vf_coef * value_loss - ent_coef * mean_entropy
    return loss, {
        "policy_loss": policy_loss,
        "value_loss": value_loss,
        "entropy": mean_entropy,
        "approx_kl": mean(jnp.expm1(log_ratio) - log_ratio),  # ratio - 1, exact where it is small
        "clip_fraction": mean((jnp.abs(ratio - 1.0) > clip_eps).astype(ratio.dtype)),
    }


def clipped_surrogate(
    ratio: Array, advantage: Array, clip_eps: float | Array, dual_clip: float | Array | None = None
) -> Array:
    """The objective per sample, Schulman et al. (2017), equation 7; with `dual_clip`, Ye et al. (2020), equation 5.

    Args:
        ratio: `[...]`, how much more probable the action is than when it was taken.
        advantage: `[...]`.
        clip_eps: the ratio is clipped to `1 - clip_eps` to `1 + clip_eps`.
        dual_clip: None, or a number above 1: a negative advantage counts at most so many times.
    """
    clipped = jnp.clip(ratio, 1.0 - clip_eps, 1.0 + clip_eps)
    surrogate = jnp.minimum(ratio * advantage, clipped * advantage)
    if dual_clip is None:
        return surrogate
    return jnp.where(advantage < 0, jnp.maximum(surrogate, dual_clip * advantage), surrogate)


def _square(error: Array, huber_delta: float | Array | None) -> Array:
    """The square, or twice Huber's loss."""
    return error**2 if huber_delta is None else 2 * optax.losses.huber_loss(error, delta=huber_delta)


def weighted_mean(x: Array, weight: Any = ()) -> Array:
    """The mean of `weight * x`; of `x`, where there are no weights."""
    return jnp.mean(x) if isinstance(weight, tuple) else jnp.mean(weight * x)


def standardize(x: Array, weight: Any = ()) -> Array:
    """`x` shifted and scaled to mean 0 and standard deviation 1.

    With weights of mean 1, these are the weighted mean and deviation; they must not be negative. A single number has
    nothing to be compared with and stays as it is; so does one that alone has a weight, and all where none has one.
    """
    if x.size == 1:
        return x
    centred = x - weighted_mean(x, weight)
    centred -= weighted_mean(centred, weight)  # what rounding left: a constant becomes 0, not noise of size 1
    if isinstance(weight, tuple):
        return centred / (root(jnp.var(centred)) + 1e-8)
    standardized = centred / (root(weighted_mean(centred**2, weight)) + 1e-8)
    return jnp.where(jnp.sum(weight > 0) <= 1, x, standardized)


def normalize_weight(weight: Array) -> Array:
    """Weights that are not negative, scaled to mean 1; all 0 stay 0."""
    return weight / jnp.maximum(jnp.mean(weight), jnp.finfo(weight.dtype).tiny)


def explained_variance(value: Array, target: Array) -> Array:
    """Share of the variance of `target` that `value` explains, `1 - Var(target - value) / Var(target)`, a scalar.

    1 is a perfect fit, 0 no better than a constant; NaN where the target does not vary.
    """
    varies = jnp.max(target) > jnp.min(target)
    return jnp.where(varies, 1.0 - jnp.var(target - value) / jnp.var(target), jnp.nan)
