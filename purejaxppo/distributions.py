"""Probability distributions over actions, as pytrees of arrays.

Each has `sample`, `log_prob`, `mode`, `entropy`, `masked` and `to_env`, see `Distribution`. The built-in networks also
ask its class how many numbers it takes for a space of actions: `num_params` that depend on the observation (None where
it does not suit the space), `num_free` that do not; `from_params` makes it of both.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, Self, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from purejaxppo.errors import ConfigError

LOG_STD_RANGE = -10.0, 5.0  # of the logarithm of a Gaussian's standard deviation
WIDEST = 200.0  # of a box that a Gaussian of deviation 1 is to explore
ONLY_CHOICES_ARE_MASKED = "action_mask: must be None for continuous actions; only choices can be masked"
LOG_2PI = math.log(2 * math.pi)
# Nodes and weights of a quadrature that is exact for polynomials of degree 63 times a standard normal density.
NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(32)


@runtime_checkable
class Distribution(Protocol):
    """What a policy network returns; `[...]` are the axes of a batch, `E` those of one action, its event."""

    @property
    def entropy(self) -> Array:
        """Entropy in nats, `[...]`."""

    def sample(self, uniform: Array) -> Array:
        """The action that uniform numbers `[..., E]` in [0, 1) stand for, `[..., E]`."""

    def log_prob(self, action: Array) -> Array:
        """Natural logarithm of the probability, or the density, of an action `[..., E]`, `[...]`."""

    def mode(self) -> Array:
        """The most probable action, `[..., E]`."""

    def masked(self, mask: Array) -> Self:
        """The distribution, given that the action is one of those where `mask` is true."""

    def to_env(self, action: Array, space: Any) -> Array:
        """What the environment, whose space of actions is given, takes for an action `[..., E]`."""


class Categorical(NamedTuple):
    """A distribution over `A` actions, stored normalised.

    Every field has the same leading axes, so indexing the leaves of a batch (a table) gives its members, ready to
    sample from without an exponential.
    """

    log_probs: Array  # [..., A]
    cumulative: Array  # [..., A], P(action <= a); the last entry is exactly 1
    entropy: Array  # [...], nats

    @classmethod
    def from_logits(cls, logits: Array, mask: Array | None = None) -> Self:
        """`softmax(logits)`, restricted to the actions where `mask` is true.

        Args:
            logits: `[..., A]`, unnormalised log-probabilities.
            mask: `[..., A]` booleans with at least one true entry per row, or None to allow every action.

        An action that is masked has probability exactly 0: it is never sampled and never the mode, it adds nothing
        to the entropy, its log-probability is the lowest finite number, whose exponential is 0, and its logit has no
        gradient.
        """
        logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))  # half as many bits would not add up to 1
        if mask is not None:
            logits = jnp.where(mask, logits, jnp.finfo(logits.dtype).min)
        logits = logits - jax.lax.stop_gradient(jnp.max(logits, axis=-1, keepdims=True))
        weights = jnp.exp(logits)
        total = jnp.sum(weights, axis=-1, keepdims=True)
        log_probs, probs = logits - jnp.log(total), weights / total
        cumulative = jax.lax.stop_gradient(jnp.cumsum(probs, axis=-1))
        # x / x is exactly 1, so that no u < 1 falls behind the last action that has a probability.
        # Without `where`, a gradient would multiply the probability 0 by the lowest number times its weight: 0 * -inf.
        entropy = -jnp.sum(probs * jnp.where(probs > 0, log_probs, 0), axis=-1)
        return cls(log_probs, cumulative / cumulative[..., -1:], entropy)

    def sample(self, uniform: Array) -> Array:
        """The action at `uniform` in [0, 1) of the inverse cumulative distribution: `min {a : u < P(A <= a)}`.

        One uniform number per action drawn, `[...]`, int32.
        """
        return jnp.sum(self.cumulative <= uniform[..., None], axis=-1, dtype=jnp.int32)

    def log_prob(self, action: Array) -> Array:
        """Natural logarithm of the probability of `action`, `[...]`."""
        return jnp.take_along_axis(self.log_probs, action[..., None], axis=-1)[..., 0]

    def mode(self) -> Array:
        """The most probable action (the first of equals), `[...]`, int32."""
        return jnp.argmax(self.log_probs, axis=-1).astype(jnp.int32)

    def masked(self, mask: Array) -> Self:
        """Restricted to the actions where `mask` is true; see `from_logits`."""
        return self.from_logits(self.log_probs, mask)

    def to_env(self, action: Array, space: Any) -> Array:
        """The action as it is."""
        return action

    @classmethod
    def num_params(cls, space: Any) -> int | None:
        """One logit for each action of `Discrete`."""
        return int(space.n) if hasattr(space, "n") else None

    @classmethod
    def num_free(cls, space: Any) -> int:
        """None."""
        return 0

    @classmethod
    def from_params(cls, params: Array, free: Array | None, space: Any) -> Self:
        """Of logits `[..., A]`."""
        return cls.from_logits(params)


class MultiCategorical(NamedTuple):
    """`K` independent choices: an action is int32 `[..., K]`."""

    choices: Categorical  # [..., K], with as many actions as the largest choice has; the others' are masked

    @classmethod
    def from_logits(cls, logits: Array, num_categories: Sequence[int]) -> Self:
        """`softmax` of each choice's logits.

        Args:
            logits: `[..., K, C]`; those of choice `k` are the first `num_categories[k]` of `C`.
            num_categories: of each choice, `K` integers up to `C`.
        """
        exists = np.arange(logits.shape[-1]) < np.array(num_categories)[:, None]
        return cls(Categorical.from_logits(logits, jnp.broadcast_to(exists, logits.shape)))

    @property
    def entropy(self) -> Array:
        """The sum over the choices, nats, `[...]`."""
        return jnp.sum(self.choices.entropy, axis=-1)

    def sample(self, uniform: Array) -> Array:
        """One uniform number per choice, `[..., K]`."""
        return self.choices.sample(uniform)

    def log_prob(self, action: Array) -> Array:
        """The sum over the choices, `[...]`."""
        return jnp.sum(self.choices.log_prob(action), axis=-1)

    def mode(self) -> Array:
        """The most probable category of each choice, `[..., K]`."""
        return self.choices.mode()

    def masked(self, mask: Array) -> Self:
        """Restricted to the categories where `mask`, `[..., K, C]`, is true."""
        return type(self)(self.choices.masked(mask))

    def to_env(self, action: Array, space: Any) -> Array:
        """The action as it is."""
        return action

    @classmethod
    def num_params(cls, space: Any) -> int | None:
        """As many logits for each choice of `MultiDiscrete` as the largest has."""
        sizes = getattr(space, "num_categories", None)
        return None if sizes is None else len(sizes) * max(sizes)

    @classmethod
    def num_free(cls, space: Any) -> int:
        """None."""
        return 0

    @classmethod
    def from_params(cls, params: Array, free: Array | None, space: Any) -> Self:
        """Of logits `[..., K * C]`."""
        logits = params.reshape(*params.shape[:-1], len(space.num_categories), -1)
        return cls.from_logits(logits, space.num_categories)


class DiagGaussian(NamedTuple):
    """Independent normal numbers, `D` of them. Its log-probabilities are of what was sampled, before any clipping.

    Beyond `LOG_STD_RANGE` the logarithm of a standard deviation counts less and less, see `bounded`: float32 could not
    tell the samples of a narrower one from their mean, and a wider one reaches beyond any box that it suits.
    """

    mean: Array  # [..., D]
    log_std: Array  # [..., D]

    @property
    def bounded_log_std(self) -> Array:
        """The logarithm of the standard deviation as it counts, `[..., D]`."""
        return bounded(self.log_std, *LOG_STD_RANGE)

    @property
    def entropy(self) -> Array:
        """`sum(log_std + log(2 pi e) / 2)`, nats, `[...]`."""
        return jnp.sum(self.bounded_log_std + 0.5 * (1 + LOG_2PI), axis=-1)

    def sample(self, uniform: Array) -> Array:
        """By the inverse cumulative distribution, one uniform number per coordinate, `[..., D]`."""
        # A uniform number may be 0, whose normal number is -inf; the step between two is 2^-23.
        centred = jnp.maximum(2 * uniform - 1, 2.0**-24 - 1)
        return self.mean + jnp.exp(self.bounded_log_std) * math.sqrt(2) * jax.lax.erf_inv(centred)

    def log_prob(self, action: Array) -> Array:
        """Natural logarithm of the density, `[...]`."""
        log_std = self.bounded_log_std
        scaled = (action - self.mean) * jnp.exp(-log_std)
        return -jnp.sum(0.5 * scaled**2 + log_std + 0.5 * LOG_2PI, axis=-1)

    def mode(self) -> Array:
        """The mean, `[..., D]`."""
        return self.mean

    def masked(self, mask: Array) -> Self:
        """Refuse: only choices can be masked.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(ONLY_CHOICES_ARE_MASKED)

    def to_env(self, action: Array, space: Any) -> Array:
        """Clipped to the box."""
        action = action.reshape(*action.shape[:-1], *space.shape)
        return jnp.clip(action, *bounds_of(space, action.shape))

    @classmethod
    def num_params(cls, space: Any) -> int | None:
        """A mean for each number of `Box`."""
        return math.prod(space.shape) if hasattr(space, "low") else None

    @classmethod
    def num_free(cls, space: Any) -> int:
        """A logarithm of the standard deviation for each number."""
        return math.prod(space.shape)

    @classmethod
    def from_params(cls, params: Array, free: Array | None, space: Any) -> Self:
        """Of means `[..., D]` and logarithms of standard deviations `[D]`."""
        return cls(params, jnp.broadcast_to(0.0 if free is None else free, params.shape))


class TanhGaussian(NamedTuple):
    """`tanh` of independent normal numbers, as in Haarnoja et al. (2018), "Soft Actor-Critic", appendix C.

    A sample is the number before the `tanh`, which is exact where the `tanh` is 1 in floating point; the density is
    that of its `tanh`, in [-1, 1].
    """

    normal: DiagGaussian  # [..., D]

    @property
    def entropy(self) -> Array:
        """Of the `tanh`, nats, `[...]`: that of the normal plus the mean of `log(1 - tanh(x)^2)`.

        By quadrature, which is within 0.002 of it for standard deviations up to e.
        """
        x = self.normal.mean[..., None] + jnp.multiply.outer(jnp.exp(self.normal.bounded_log_std), jnp.float32(NODES))
        narrowing = jnp.dot(log_det_jacobian(x), jnp.float32(WEIGHTS / WEIGHTS.sum()), precision="highest")
        return self.normal.entropy + jnp.sum(narrowing, axis=-1)

    def sample(self, uniform: Array) -> Array:
        """A number before the `tanh`, one uniform number per coordinate, `[..., D]`."""
        return self.normal.sample(uniform)

    def log_prob(self, action: Array) -> Array:
        """Of the `tanh` of `action`, `[...]`."""
        return self.normal.log_prob(action) - jnp.sum(log_det_jacobian(action), axis=-1)

    def mode(self) -> Array:
        """The normal's mean, `[..., D]`: the median, whose `tanh` is the median as well."""
        return self.normal.mode()

    def masked(self, mask: Array) -> Self:
        """Not possible; see `DiagGaussian.masked`."""
        return type(self)(self.normal.masked(mask))

    def to_env(self, action: Array, space: Any) -> Array:
        """`tanh`, stretched from [-1, 1] to the box."""
        share = 0.5 * (jnp.tanh(action.reshape(*action.shape[:-1], *space.shape)) + 1)
        low, high = bounds_of(space, share.shape)
        return jnp.clip((1 - share) * low + share * high, low, high)

    @classmethod
    def num_params(cls, space: Any) -> int | None:
        """As `DiagGaussian`, for a `Box` that has bounds."""
        bounds = [*np.ravel(getattr(space, "low", np.inf)), *np.ravel(getattr(space, "high", np.inf))]
        return DiagGaussian.num_params(space) if np.all(np.isfinite(bounds)) else None

    @classmethod
    def num_free(cls, space: Any) -> int:
        """As `DiagGaussian`."""
        return DiagGaussian.num_free(space)

    @classmethod
    def from_params(cls, params: Array, free: Array | None, space: Any) -> Self:
        """As `DiagGaussian`."""
        return cls(DiagGaussian.from_params(params, free, space))


def bounds_of(space: Any, shape: tuple[int, ...]) -> tuple[Array, Array]:
    """The lowest and the highest numbers of a box, for actions of a shape."""
    low, high = (jnp.broadcast_to(jnp.asarray(bound, jnp.float32), shape) for bound in (space.low, space.high))
    return low, high


def is_out_of_reach(space: Any) -> bool:
    """Whether a Gaussian that begins with mean 0 and deviation 1 is all outside of a box, or in a tiny part of it."""
    low, high = bounds_of(space, space.shape)
    width = jnp.where(jnp.isfinite(low) & jnp.isfinite(high), high - low, 0)
    return bool(jnp.any((low > 1) | (high < -1) | (width > WIDEST)))


def bounded(x: Array, low: float, high: float) -> Array:
    """`x` itself from `low` to `high`; beyond, it nears `low - 1` and `high + 1`, and keeps a slope that leads back."""
    within = jnp.clip(x, low, high)
    return within + jax.nn.soft_sign(x - within)


def log_det_jacobian(x: Array) -> Array:
    """`log(1 - tanh(x)^2)`, without cancellation: `2 (log 2 - x - softplus(-2 x))`."""
    return 2 * (math.log(2) - x - jax.nn.softplus(-2 * x))


# Distributions of the built-in networks by name, the first that suits a space being its default.
DISTRIBUTIONS: dict[str, Any] = {
    "categorical": Categorical,
    "multi_categorical": MultiCategorical,
    "gaussian": DiagGaussian,
    "tanh_gaussian": TanhGaussian,
}


def distribution_for(space: Any, name: str = "auto") -> Any:
    """The class of that name, or for "auto" the first that suits the space.

    Raises:
        ConfigError: it does not suit the space.
    """
    suitable = {own: kind for own, kind in DISTRIBUTIONS.items() if kind.num_params(space) is not None}
    if name == "auto":
        return next(iter(suitable.values()))
    if name not in suitable:
        allowed = f"one of {', '.join(map(repr, ['auto', *suitable]))}, for the actions {space}"
        raise ConfigError.of("distribution", name, allowed)
    return suitable[name]
