"""Typed random keys: what is one, and how it is written to JSON."""

from typing import Any, TypeGuard

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from purejaxppo.errors import ConfigError


def is_key(value: Any) -> TypeGuard[Array]:
    """Whether it is a typed key, or an array of them."""
    return isinstance(value, jax.Array) and jax.dtypes.issubdtype(value.dtype, jax.dtypes.prng_key)


def check_key(key: Any) -> None:
    """Refuse anything but one typed key.

    Raises:
        ConfigError: a legacy key of raw integers, an array of keys, or no key at all.
    """
    if not is_key(key):
        raise ConfigError("key: must be a typed key, as jax.random.key(seed) makes it")
    if key.shape != ():
        raise ConfigError(f"key: must be a single key, not an array of shape {key.shape}; jax.vmap maps over many")


def key_to_json(key: Array) -> dict[str, Any]:
    """A typed key, or an array of them, ready for JSON."""
    return {"impl": str(jax.random.key_impl(key)), "data": jax.random.key_data(key).tolist()}


def key_from_json(description: Any) -> Array:
    """The key, or array of keys, that `key_to_json` described.

    Raises:
        KeyError, TypeError, ValueError, OverflowError: it is not such a description.
    """
    return jax.random.wrap_key_data(jnp.asarray(np.array(description["data"], np.uint32)), impl=description["impl"])
