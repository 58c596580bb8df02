"""Fully connected networks."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from purejaxppo.errors import ConfigError
from purejaxppo.networks.base import Network
from purejaxppo.networks.layers import Dense, LayerNorm, dense
from purejaxppo.settings import SMALL_COUNT, SWITCH, Constraint, one_of, static

ACTIVATIONS = {"tanh": nn.tanh, "relu": nn.relu}
SIZES = Constraint(
    "a sequence of integers >= 1 and <= 2**24",
    lambda x: isinstance(x, tuple | list) and all(type(size) is int and SMALL_COUNT.test(size) for size in x),
    number=None,
)


class Hidden(NamedTuple):
    """Fully connected layers."""

    layers: list[Dense]
    norms: list[LayerNorm]  # before the activations, if there are any


class MLP(Network):
    """Hidden layers on the environment's features; an integer stands for a one-hot vector.

    Raises:
        ConfigError: a field is unknown or its value is not allowed.
    """

    hidden_sizes: Sequence[int] = static((64, 64), "width of each hidden layer of both networks", SIZES)
    activation: str = static("tanh", "activation of the hidden layers", one_of(*ACTIVATIONS))
    layer_norm: bool = static(False, "normalise every hidden layer before its activation", SWITCH)

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "hidden_sizes", tuple(self.hidden_sizes))
        if self.layer_norm and not self.hidden_sizes:
            raise ConfigError.of("layer_norm", True, "False: there are no hidden layers")
        if self.shared_torso and not self.hidden_sizes and type(self) is MLP:
            raise ConfigError.of("shared_torso", True, "False: there are no hidden layers to share")

    def torso(self, shape: tuple[int, ...]) -> tuple[Any, int]:
        return self.hidden(shape[-1])

    def read(self, torso: Any, x: Array, memory: Any) -> Array:
        return self.read_hidden(torso, x if jnp.issubdtype(x.dtype, jnp.integer) else x.astype(self.dtype))

    def hidden(self, num_inputs: int) -> tuple[Hidden, int]:
        """The hidden layers, and the width of the last."""
        layers = [dense(*sizes, gain=2**0.5) for sizes in pairwise((num_inputs, *self.hidden_sizes))]
        norms = [LayerNorm(jnp.ones(size), jnp.zeros(size)) for size in self.hidden_sizes] if self.layer_norm else []
        return Hidden(layers, norms), (num_inputs, *self.hidden_sizes)[-1]

    def read_hidden(self, hidden: Hidden, x: Array) -> Array:
        """The output of the hidden layers."""
        activation = ACTIVATIONS[self.activation]
        for index, layer in enumerate(hidden.layers):
            x = layer(x)
            x = activation(hidden.norms[index](x) if hidden.norms else x)
        return x
