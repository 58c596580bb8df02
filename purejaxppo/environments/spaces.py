"""Spaces of actions and observations: gymnax's, and several choices at once."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from gymnax.environments.spaces import Box, Dict, Discrete, Space, Tuple
from jax import Array

from purejaxppo.errors import ConfigError

__all__ = [
    "Box",
    "Dict",
    "Discrete",
    "MultiDiscrete",
    "Space",
    "Tuple",
    "as_declared",
    "as_floats",
    "flatten",
    "has_same_form",
    "mask_shape",
    "parts",
]


class MultiDiscrete(Space):
    """`K` choices at once, the k-th one of `num_categories[k]`: an action is an int32 vector `[K]`."""

    def __init__(self, num_categories: Sequence[int]) -> None:
        """Take the number of categories of each choice.

        Raises:
            ConfigError: they are not one or more whole numbers, each at least 1.
        """
        sizes = np.asarray(num_categories)
        if sizes.ndim != 1 or not sizes.size or sizes.dtype.kind not in "iu" or not np.all(sizes >= 1):
            raise ConfigError.of("num_categories", num_categories, "a sequence of one or more integers >= 1")
        self.num_categories = tuple(sizes.tolist())
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


def has_same_form(a: Any, b: Any) -> bool:
    """Whether two spaces are the same but for the bounds of their boxes."""
    if type(a) is not type(b):
        return False
    if isinstance(a, Discrete):
        return int(a.n) == int(b.n)
    if isinstance(a, MultiDiscrete):
        return a.num_categories == b.num_categories
    if isinstance(a, Box):
        return tuple(a.shape) == tuple(b.shape) and _box_dtype(a) == _box_dtype(b)
    ours, theirs = (dict(s.spaces) if isinstance(s, Dict) else dict(enumerate(s.spaces)) for s in (a, b))
    return ours.keys() == theirs.keys() and all(has_same_form(ours[name], theirs[name]) for name in ours)


def mask_shape(space: Any) -> tuple[int, ...] | None:
    """The shape of a mask for a space of actions; None for a box, which has none."""
    if isinstance(space, MultiDiscrete):
        return len(space.num_categories), max(space.num_categories)
    return (int(space.n),) if isinstance(space, Discrete) else None


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
