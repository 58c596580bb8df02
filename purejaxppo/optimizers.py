"""Optimisers by name: functions from a learning rate to an optax transformation."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
from jax import Array

from purejaxppo.numerics import root

MakeOptimizer = Callable[[Any], optax.GradientTransformation]
# Under Adam's root: it makes the derivative by a hyperparameter finite where no gradient was ever seen, and is lost in
# the rounding of everything else.
TINY = float(np.finfo(np.float32).tiny)
LEAST = 1e-17  # whose square, times what momentum makes of it, is larger than `TINY`


def adam(lr: Any) -> optax.GradientTransformation:
    """Adam (Kingma and Ba, 2015), with the epsilon of PPO's reference implementation."""
    return optax.adam(lr, eps=1e-5, eps_root=TINY)


def adamw(lr: Any) -> optax.GradientTransformation:
    """Adam with decoupled weight decay 1e-4 (Loshchilov and Hutter, 2019)."""
    return optax.adamw(lr, eps=1e-5, eps_root=TINY)


def muon(lr: Any) -> optax.GradientTransformation:
    """Muon (Jordan et al., 2024): orthogonalised momentum for matrices, Adam for the rest."""
    return optax.chain(_away_from_zero(), optax.contrib.muon(lr, adam_eps_root=TINY))


def _away_from_zero() -> optax.GradientTransformation:
    """Add to a gradient what is lost in its rounding: optax's muon takes norms, which have no derivative at 0."""
    return optax.stateless(lambda gradient, params: jax.tree.map(lambda leaf: leaf + LEAST, gradient))


def rmsprop(lr: Any) -> optax.GradientTransformation:
    """RMSProp (Tieleman and Hinton, 2012), with the epsilon of A2C's reference implementation."""
    return optax.rmsprop(lr, decay=0.99, eps=1e-5)


def sgd(lr: Any) -> optax.GradientTransformation:
    """Plain gradient descent."""
    return optax.sgd(lr)


def clipped(optimizer: str | MakeOptimizer, lr: Any, max_grad_norm: Any) -> optax.GradientTransformation:
    """An optimiser, by its name or a function, behind a clip of the gradient's global norm."""
    make = OPTIMIZERS[optimizer] if isinstance(optimizer, str) else optimizer
    return optax.chain(clip_by_global_norm(max_grad_norm), make(lr))


def clip_by_global_norm(max_norm: Any) -> optax.GradientTransformation:
    """A gradient of a larger global norm is scaled down to it (Pascanu et al., 2013), a smaller one is as it is.

    The same numbers as optax's, which has no derivative where the gradient is 0.
    """

    def clip(gradient: Any, params: Any) -> Any:
        norm = global_norm(gradient)
        stays = norm < max_norm  # not for NaN
        divisor = jnp.where(stays, 1, norm)

        def scaled(leaf: Array) -> Array:
            return jnp.where(stays, leaf, leaf / divisor.astype(leaf.dtype) * max_norm).astype(leaf.dtype)

        return jax.tree.map(scaled, gradient)

    return optax.stateless(clip)


def global_norm(tree: Any) -> Array:
    """The Euclidean norm of all numbers of a pytree; it can be differentiated at 0."""
    return root(optax.tree.norm(tree, squared=True))


OPTIMIZERS: dict[str, MakeOptimizer] = {"adam": adam, "adamw": adamw, "muon": muon, "rmsprop": rmsprop, "sgd": sgd}
