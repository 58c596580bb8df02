"""Convolutional networks for small images."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, ClassVar, NamedTuple

import jax.numpy as jnp
from jax import Array

from purejaxppo.errors import ConfigError
from purejaxppo.networks.layers import Dense, dense
from purejaxppo.networks.mlp import ACTIVATIONS, MLP, SIZES, Hidden
from purejaxppo.settings import static


class Torso(NamedTuple):
    """Convolutions before hidden layers."""

    convolutions: list[Dense]  # of 3x3 patches
    hidden: Hidden


class CNN(MLP):
    """3x3 convolutions on an image-like observation `[H, W, C]`, then hidden layers.

    Raises:
        ConfigError: a field is unknown or its value is not allowed.
    """

    reads_features: ClassVar[bool] = False

    channels: Sequence[int] = static((16,), "channels of each 3x3 convolution", SIZES)

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "channels", tuple(self.channels))
        if not self.channels:
            raise ConfigError.of("channels", (), "not empty")

    def check(self, action_space: Any, observation_space: Any) -> None:
        super().check(action_space, observation_space)
        shape, least = getattr(observation_space, "shape", ()), 2 * len(self.channels) + 1
        if len(shape) != 3 or min(shape[:2]) < least:
            allowed = f"for images of at least {least}x{least}, but the environment observes {shape}"
            raise ConfigError.of("network", "cnn", allowed)

    def torso(self, shape: tuple[int, ...]) -> tuple[Any, int]:
        height, width, depth = shape[-3:]
        convolutions = [
            dense(9 * inputs, outputs, gain=2**0.5) for inputs, outputs in pairwise((depth, *self.channels))
        ]
        shrinkage = 2 * len(convolutions)
        hidden, size = self.hidden((height - shrinkage) * (width - shrinkage) * self.channels[-1])
        return Torso(convolutions, hidden), size

    def read(self, torso: Any, x: Array, memory: Any) -> Array:
        x = x.astype(self.dtype)
        for layer in torso.convolutions:
            x = ACTIVATIONS[self.activation](convolve(layer, x))
        return self.read_hidden(torso.hidden, x.reshape(*x.shape[:-3], -1))


def convolve(layer: Dense, x: Array) -> Array:
    """A 3x3 convolution as one product. The gradient of XLA's own takes 30 times as long on a CPU."""
    rows = patches(x)
    return layer(rows.reshape(-1, rows.shape[-1])).reshape(*rows.shape[:-1], -1)


def patches(x: Array) -> Array:
    """Every 3x3 patch of images `[..., H, W, C]` as a vector, `[..., H - 2, W - 2, 9 C]`."""
    height, width = x.shape[-3] - 2, x.shape[-2] - 2
    shifted = [x[..., row : row + height, column : column + width, :] for row in range(3) for column in range(3)]
    return jnp.concatenate(shifted, axis=-1)
