"""Optimisers by name: functions from a learning rate to an optax transformation."""

from collections.abc import Callable
from typing import Any

import optax
import optax.contrib

MakeOptimizer = Callable[[Any], optax.GradientTransformation]


def adam(lr: Any) -> optax.GradientTransformation:
    """Adam (Kingma and Ba, 2015), with the epsilon of PPO's reference implementation."""
    return optax.adam(lr, eps=1e-5)


def adamw(lr: Any) -> optax.GradientTransformation:
    """Adam with decoupled weight decay 1e-4 (Loshchilov and Hutter, 2019)."""
    return optax.adamw(lr, eps=1e-5)


def muon(lr: Any) -> optax.GradientTransformation:
    """Muon (Jordan et al., 2024): orthogonalised momentum for matrices, Adam for the rest."""
    return optax.contrib.muon(lr)


def rmsprop(lr: Any) -> optax.GradientTransformation:
    """RMSProp (Tieleman and Hinton, 2012), with the epsilon of A2C's reference implementation."""
    return optax.rmsprop(lr, decay=0.99, eps=1e-5)


def sgd(lr: Any) -> optax.GradientTransformation:
    """Plain gradient descent."""
    return optax.sgd(lr)


def clipped(optimizer: str | MakeOptimizer, lr: Any, max_grad_norm: Any) -> optax.GradientTransformation:
    """An optimiser, by its name or a function, behind a clip of the gradient's global norm."""
    make = OPTIMIZERS[optimizer] if isinstance(optimizer, str) else optimizer
    return optax.chain(optax.clip_by_global_norm(max_grad_norm), make(lr))


OPTIMIZERS: dict[str, MakeOptimizer] = {"adam": adam, "adamw": adamw, "muon": muon, "rmsprop": rmsprop, "sgd": sgd}
