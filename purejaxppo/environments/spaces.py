"""Spaces of actions and observations: gymnax's, and several choices at once."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from gymnax.environments.spaces import Box, Dict, Discrete, Space, Tuple
from jax import Array

__all__ = ["Box", "Dict", "Discrete", "MultiDiscrete", "Space", "Tuple", "as_declared", "as_floats", "flatten", "parts"]


class MultiDiscrete(Space):
    """`K` choices at once, the k-th one of `num_categories[k]`: an action is an int32 vector `[K]`."""

    def __init__(self, num_categories: Sequence[int]) -> None:
        self.num_categories = tuple(num_categories)
        self.shape = (len(self.num_categories),)
        self.dtype = jnp.int32

    def __repr__(self) -> str:
        return f"MultiDiscrete({self.num_categories})"

    def sample(self, key: Array) -> Array:
        """All choices, each uniform."""
        return jax.random.randint(key, self.shape, 0, jnp.array(self.num_categories))

    def contains(self, x: Array) -> Array:
        """Whether every choice is one of its categories."""
        return jnp.all((x >= 0) & (x < jnp.array(self.num_categories)))


def flatten(space: Any, obs: Any) -> Array:
    """An index as it is; anything else as one float32 vector, in which an index is a one-hot vector."""
    return obs if isinstance(space, Discrete) else _vector(space, obs)


def _vector(space: Any, obs: Any) -> Array:
    if isinstance(space, Discrete):
        return jax.nn.one_hot(obs, space.n)
    if isinstance(space, Box):
        return jnp.reshape(obs, -1).astype(jnp.float32)
    return jnp.concatenate([_vector(part, value) for part, value in parts(space, obs)])


def parts(space: Any, obs: Any) -> list[tuple[Any, Any]]:
    """The members of a `Dict` or `Tuple`, with their part of the observation."""
    if isinstance(space, Tuple):
        return list(zip(space.spaces, obs, strict=True))
    return [(part, obs[name]) for name, part in space.spaces.items()]


def as_declared(space: Any, obs: Any) -> Any:
    """An observation in the dtypes of its space, whatever the environment emits.

    Indices are int32, boxes of integers or booleans as the space declares them (bytes of pixels stay bytes), and all
    other boxes float32.
    """
    return _cast(space, obs, _box_dtype)


def as_floats(space: Any, obs: Any) -> Any:
    """An observation with float32 in all of its boxes."""
    return _cast(space, obs, lambda box: jnp.float32)


def _cast(space: Any, obs: Any, box_dtype: Callable[[Any], Any]) -> Any:
    if isinstance(space, Dict):
        return {name: _cast(part, obs[name], box_dtype) for name, part in space.spaces.items()}
    if isinstance(space, Tuple):
        return tuple(_cast(part, value, box_dtype) for part, value in parts(space, obs))
    return jnp.asarray(obs, jnp.int32 if isinstance(space, Discrete) else box_dtype(space))


def _box_dtype(box: Any) -> Any:
    dtype = np.dtype(getattr(box, "dtype", None) or jnp.float32)
    return dtype if np.issubdtype(dtype, np.integer) or dtype == np.bool_ else jnp.float32
