"""Which numbers can be learned from: one sensor that fails once must not end a run."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

TOO_LARGE = 1e16  # a million squares of what is below can be added up in float32


def is_usable(x: Array) -> Array:
    """Whether numbers `[...]` are finite and their squares can be added up, booleans `[...]`; integers always are."""
    return jnp.abs(x) < TOO_LARGE if _is_floating(x) else jnp.ones(x.shape, bool)


def are_usable(tree: Any) -> Array:
    """Whether all numbers of a pytree can be used, a boolean."""
    leaves = filter(_is_floating, map(jnp.asarray, jax.tree.leaves(tree)))
    return functools.reduce(jnp.logical_and, [jnp.all(is_usable(leaf)) for leaf in leaves], jnp.array(True))


def usable(x: Any, otherwise: Any = 0.0) -> Any:
    """The numbers of a pytree, and `otherwise` in place of those that cannot be used."""
    return jax.tree.map(lambda leaf: jnp.where(is_usable(leaf), leaf, otherwise) if _is_floating(leaf) else leaf, x)


def _is_floating(x: Array) -> bool:
    return jnp.issubdtype(x.dtype, jnp.floating)
