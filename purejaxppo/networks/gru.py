"""Networks with a memory: gated recurrent units."""

from typing import Any, ClassVar, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from purejaxppo.errors import ConfigError
from purejaxppo.networks.layers import Dense, dense
from purejaxppo.networks.mlp import MLP, Hidden


class GRUCell(NamedTuple):
    """A gated recurrent unit (Cho et al., 2014): reset gate, update gate and candidate, side by side."""

    inputs: Dense  # [E, 3 H]
    memory: Dense  # [H, 3 H]

    def __call__(self, x: Array, memory: Array) -> Array:
        """The next memory `[..., H]`, which is the output as well."""
        reset_x, update_x, candidate_x = jnp.split(self.inputs(x), 3, axis=-1)
        reset_h, update_h, candidate_h = jnp.split(self.memory(memory), 3, axis=-1)
        update = nn.sigmoid(update_x + update_h)
        candidate = nn.tanh(candidate_x + nn.sigmoid(reset_x + reset_h) * candidate_h)
        return candidate + update * (memory - candidate)


class Torso(NamedTuple):
    """Hidden layers before a gated recurrent unit."""

    hidden: Hidden
    cell: GRUCell


class GRU(MLP):
    """Hidden layers on the environment's features, then a gated recurrent unit as wide as the last of them.

    Raises:
        ConfigError: a field is unknown or its value is not allowed.
    """

    is_recurrent: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.hidden_sizes:
            raise ConfigError.of("hidden_sizes", (), "not empty, with a gated recurrent unit")

    def torso(self, shape: tuple[int, ...]) -> tuple[Any, int]:
        hidden, width = self.hidden(shape[-1])
        return Torso(hidden, GRUCell(dense(width, width, blocks=3), dense(width, width, blocks=3))), width

    def read(self, torso: Any, x: Array, memory: Any) -> Array:
        return torso.cell(super().read(torso.hidden, x, None), memory.astype(self.dtype))
