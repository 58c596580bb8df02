"""The policy network and the value network."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from gymnax.environments import spaces
from jax import Array

from purejaxppo.distributions import Categorical, DiagGaussian, Distribution, MultiCategorical, TanhGaussian

MANY_ROWS = 128  # rows from which on it pays to transpose them before a product
ACTIVATIONS = {"tanh": nn.tanh, "relu": nn.relu}


class Layer(NamedTuple):
    """`x @ kernel + bias`; for an integer `x`, which stands for a one-hot vector, that is a row of the kernel."""

    kernel: Array  # [inputs, outputs]
    bias: Array  # [outputs]

    def __call__(self, x: Array) -> Array:
        is_index = jnp.issubdtype(x.dtype, jnp.integer)
        outputs = self.kernel[x] if is_index else product(x, self.kernel)
        return outputs + jnp.broadcast_to(self.bias, outputs.shape)


@jax.custom_jvp
def product(x: Array, kernel: Array) -> Array:
    """`x @ kernel`, with a gradient that is faster on CPUs for rows `x` `[B, F]`."""
    return x @ kernel


@product.defjvp
def _product_jvp(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    """The gradient by the kernel is `x' g`. XLA's CPU backend is slow at a product whose left side it must transpose.

    So `x` is transposed here, behind a barrier that keeps XLA from undoing it.
    """
    (x, kernel), (dx, dkernel) = primals, tangents
    columns = jnp.moveaxis(x, -1, 0)
    if jax.default_backend() == "cpu" and columns[0].size >= MANY_ROWS:
        columns = jax.lax.optimization_barrier(columns)
    return x @ kernel, dx @ kernel + jnp.einsum("f...,fh->...h", columns, dkernel)


class Norm(NamedTuple):
    """Layer normalisation (Ba et al., 2016)."""

    scale: Array  # [outputs]
    bias: Array  # [outputs]

    def __call__(self, x: Array) -> Array:
        centred = x - jnp.mean(x, axis=-1, keepdims=True)
        x = centred * jax.lax.rsqrt(jnp.mean(centred**2, axis=-1, keepdims=True) + 1e-6)
        return x * jnp.broadcast_to(self.scale, x.shape) + jnp.broadcast_to(self.bias, x.shape)


class Gates(NamedTuple):
    """A gated recurrent unit (Cho et al., 2014): reset gate, update gate and candidate, side by side."""

    inputs: Layer  # [E, 3 H]
    memory: Layer  # [H, 3 H]

    def __call__(self, x: Array, memory: Array) -> Array:
        """The next memory `[..., H]`, which is the output as well."""
        reset_x, update_x, candidate_x = jnp.split(self.inputs(x), 3, axis=-1)
        reset_h, update_h, candidate_h = jnp.split(self.memory(memory), 3, axis=-1)
        update = nn.sigmoid(update_x + update_h)
        candidate = nn.tanh(candidate_x + nn.sigmoid(reset_x + reset_h) * candidate_h)
        return candidate + update * (memory - candidate)


class Torso(NamedTuple):
    """What comes before the heads."""

    convolutions: list[Layer]  # of 3x3 patches
    hidden: list[Layer]
    norms: list[Norm]  # of the hidden layers, if they have any
    gates: Gates | None


class Networks(NamedTuple):
    """The parameters of the built-in networks."""

    torsos: list[Torso]  # the policy's and the value's, or one that both share
    policy: Layer
    value: Layer
    log_std: Array | None  # [D], of continuous actions


class Shape(NamedTuple):
    """What decides the built-in networks."""

    action_space: Any
    num_categories: int | None  # of observations that are indices
    channels: tuple[int, ...]  # of the convolutions
    hidden_sizes: tuple[int, ...]
    activation: str
    layer_norm: bool
    is_recurrent: bool
    shared_torso: bool
    squash_actions: bool
    dtype: str  # that the torsos compute in


class ActorCritic(nn.Module):
    """A policy network and a value network: `(distribution, value)` for inputs with any leading axes.

    The input is a float array `[..., F]`, an image `[..., H, W, C]` where there are convolutions, or integers `[...]`
    below `num_categories`, which stand for one-hot vectors.
    """

    shape: Shape

    @nn.compact
    def __call__(self, x: Array) -> tuple[Distribution, Array]:
        """`(distribution [...], value [...])`."""
        networks = self.param("networks", initial_networks, self.shape, x)
        return _evaluate(self.shape, networks, x, [None, None])[:2]


class Recurrent(nn.Module):
    """A network with a memory; derive yours from it. It gives `(distribution, value, memory)` for `(obs, memory)`."""

    def initial_memory(self) -> Any:
        """The memory at the beginning of an episode, a pytree of arrays."""
        raise NotImplementedError


class RecurrentActorCritic(Recurrent):
    """`ActorCritic` with a gated recurrent unit behind the hidden layers, as wide as the last of them."""

    shape: Shape

    @nn.compact
    def __call__(self, x: Array, memory: list[Array]) -> tuple[Distribution, Array, list[Array]]:
        """`(distribution [...], value [...], memory [..., H])`, one memory for each torso."""
        networks = self.param("networks", initial_networks, self.shape, x)
        return _evaluate(self.shape, networks, x, memory)

    def initial_memory(self) -> list[Array]:
        """Zeros."""
        return [jnp.zeros(self.shape.hidden_sizes[-1])] * _num_torsos(self.shape)


def _evaluate(
    shape: Shape, networks: Networks, x: Array, memories: Sequence[Array | None]
) -> tuple[Distribution, Array, list[Array]]:
    """`(distribution, value, memories)`."""
    torsos = jax.tree.map(lambda leaf: leaf.astype(shape.dtype), networks.torsos)
    ends = [_end(shape, torso, x, memory) for torso, memory in zip(torsos, memories, strict=False)]
    outputs = networks.policy(ends[0])
    value = networks.value(ends[-1])[..., 0]  # of a shared torso, the first end is the last
    return _distribution(shape, outputs, networks.log_std), value, ends


def _end(shape: Shape, torso: Torso, x: Array, memory: Array | None) -> Array:
    """What a torso makes of an input, float32; with gates, that is the new memory."""
    activation = ACTIVATIONS[shape.activation]
    x = x if jnp.issubdtype(x.dtype, jnp.integer) else x.astype(shape.dtype)
    for layer in torso.convolutions:
        x = activation(convolve(layer, x))
    if torso.convolutions:
        x = x.reshape(*x.shape[:-3], -1)
    for index, layer in enumerate(torso.hidden):
        x = layer(x)
        x = activation(torso.norms[index](x) if torso.norms else x)
    if torso.gates is not None and memory is not None:
        x = torso.gates(x, memory.astype(shape.dtype))
    return x if jnp.issubdtype(x.dtype, jnp.integer) else x.astype(jnp.float32)


def convolve(layer: Layer, x: Array) -> Array:
    """A 3x3 convolution as one product. The gradient of XLA's own takes 30 times as long on a CPU."""
    rows = patches(x)
    return layer(rows.reshape(-1, rows.shape[-1])).reshape(*rows.shape[:-1], -1)


def patches(x: Array) -> Array:
    """Every 3x3 patch of images `[..., H, W, C]` as a vector, `[..., H - 2, W - 2, 9 C]`."""
    height, width = x.shape[-3] - 2, x.shape[-2] - 2
    shifted = [x[..., row : row + height, column : column + width, :] for row in range(3) for column in range(3)]
    return jnp.concatenate(shifted, axis=-1)


def _distribution(shape: Shape, outputs: Array, log_std: Array | None) -> Distribution:
    """The distribution over actions that the policy network's outputs stand for."""
    space = shape.action_space
    if isinstance(space, spaces.Discrete):
        return Categorical.from_logits(outputs)
    if log_std is None:
        logits = outputs.reshape(*outputs.shape[:-1], len(space.num_categories), -1)
        return MultiCategorical.from_logits(logits, space.num_categories)
    normal = DiagGaussian(outputs, jnp.broadcast_to(log_std, outputs.shape))
    return TanhGaussian(normal) if shape.squash_actions else normal


def initial_networks(key: Array, shape: Shape, x: Array) -> Networks:
    """Orthogonal kernels and zero biases; gain sqrt(2) in the hidden layers, 1 in gates and for the value.

    The policy's gain is 0.01, so that at first all actions are nearly as probable; the standard deviation is 1.
    """
    num_inputs = (shape.num_categories or 0) if jnp.issubdtype(x.dtype, jnp.integer) else x.shape[-1]
    convolutions = [(9 * depth, channels) for depth, channels in pairwise((num_inputs, *shape.channels))]
    if convolutions:
        shrinkage = 2 * len(convolutions)
        num_inputs = (x.shape[-3] - shrinkage) * (x.shape[-2] - shrinkage) * shape.channels[-1]
    hidden = list(pairwise((num_inputs, *shape.hidden_sizes)))
    width = shape.hidden_sizes[-1] if hidden else num_inputs
    gates = [(width, width)] * 6 if shape.is_recurrent else []
    torsos = [*convolutions, *hidden, *gates] * _num_torsos(shape)
    heads = [(width, _num_outputs(shape.action_space)), (width, 1)]
    kernels = iter(orthogonal_kernels(key, [*torsos, *heads]))

    def torso() -> Torso:
        first, second = ([_unbiased(2**0.5 * next(kernels)) for _ in part] for part in (convolutions, hidden))
        norms = [Norm(jnp.ones(size), jnp.zeros(size)) for _, size in hidden] if shape.layer_norm else []
        sides = [jnp.concatenate([next(kernels) for _ in range(3)], axis=1) for _ in range(2) if gates]
        return Torso(first, second, norms, Gates(*map(_unbiased, sides)) if gates else None)

    log_std = jnp.zeros(heads[0][1]) if isinstance(shape.action_space, spaces.Box) else None
    ready = [torso() for _ in range(_num_torsos(shape))]
    return Networks(ready, _unbiased(0.01 * next(kernels)), _unbiased(next(kernels)), log_std)


def _num_torsos(shape: Shape) -> int:
    return 1 if shape.shared_torso else 2


def _num_outputs(space: Any) -> int:
    """Numbers that the policy network gives for one input."""
    if isinstance(space, spaces.Discrete):
        return int(space.n)
    if isinstance(space, spaces.Box):
        return math.prod(space.shape)
    return len(space.num_categories) * max(space.num_categories)


def orthogonal_kernels(key: Array, shapes: Sequence[tuple[int, int]]) -> list[Array]:
    """Independent random matrices of these shapes, see `orthogonal`.

    All are drawn at once, and made at once in a common shape: each separate loop would be compiled separately.
    """
    tall = [(max(shape), min(shape)) for shape in shapes]
    most_rows, most_columns = map(max, zip(*tall, strict=True))
    ends = np.cumsum([rows * columns for rows, columns in tall])
    parts = jnp.split(jax.random.normal(key, (ends[-1],)), ends[:-1])
    normals = [
        jnp.pad(part.reshape(rows, columns), ((0, most_rows - rows), (0, most_columns - columns)))
        for part, (rows, columns) in zip(parts, tall, strict=True)
    ]
    made = zip(jax.vmap(orthogonal)(jnp.stack(normals)), tall, shapes, strict=True)
    return [
        x[:rows, :columns] if shape == (rows, columns) else x[:rows, :columns].T for x, (rows, columns), shape in made
    ]


def orthogonal(normal: Array) -> Array:
    """A random matrix with orthonormal columns, uniform among such.

    A product of reflections, each of a column's part from the diagonal down onto an axis (Stewart, 1980, "The efficient
    generation of random orthogonal matrices", SIAM J. Numer. Anal. 17). The usual QR decomposition calls LAPACK, which
    can deadlock under `vmap` on a CPU.

    Args:
        normal: `[rows, columns]`, rows >= columns, of Gaussian numbers. Zeros at the ends of both pad: what is before
            them becomes what it would without them.
    """
    rows, columns = normal.shape
    parts, axes = jnp.tril(normal), jnp.eye(rows, columns)
    signs = jnp.where(jnp.diagonal(parts) < 0, -1.0, 1.0)[None]
    mirrors = parts + axes * signs * jnp.linalg.norm(parts, axis=0, keepdims=True)
    mirrors *= 2**0.5 / jnp.maximum(jnp.linalg.norm(mirrors, axis=0, keepdims=True), jnp.finfo(parts.dtype).tiny)

    def reflect(i: Array, x: Array) -> Array:
        mirror = mirrors[:, columns - 1 - i]
        return x - jnp.outer(mirror, jnp.matmul(mirror, x, precision="highest"))

    return jax.lax.fori_loop(0, columns, reflect, -axes * signs)


def _unbiased(kernel: Array) -> Layer:
    return Layer(kernel, jnp.zeros(kernel.shape[-1]))
