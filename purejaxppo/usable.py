"""Which numbers can be learned from: one sensor that fails once must not end a run."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

TOO_LARGE = 1e16  # a million squares of what is below can be added up in float32


def is_usable(x: Array) -> Array:
    """Whether numbers `[...]` are finite and their squares can be added up, booleans `[...]`."""
    if jnp.issubdtype(x.dtype, jnp.floating):
        return jnp.abs(x) < TOO_LARGE
    return jnp.ones(x.shape, bool)


def are_usable(tree: Any) -> Array:
    """Whether all numbers of a pytree can be used, a boolean."""
    leaves = [leaf for leaf in map(jnp.asarray, jax.tree.leaves(tree)) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    return functools.reduce(jnp.logical_and, [jnp.all(is_usable(leaf)) for leaf in leaves], jnp.array(True))


def usable(x: Any, otherwise: Any = 0.0) -> Any:
    """The numbers of a pytree, and `otherwise` in place of those that cannot be used."""

    def replace(x: Array) -> Array:
        return jnp.where(is_usable(x), x, otherwise) if jnp.issubdtype(x.dtype, jnp.floating) else x

    return jax.tree.map(replace, x)
