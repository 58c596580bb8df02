"""What a network is: a flax module of the user's, or settings from which one is built for a space of actions."""

from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from purejaxppo.distributions import Distribution, distribution_for
from purejaxppo.networks.layers import Dense, dense, draw
from purejaxppo.settings import SWITCH, Settings, one_of, static


class Recurrent(nn.Module):
    """A network with a memory; derive yours from it. It gives `(distribution, value, memory)` for `(obs, memory)`.

    That is its reading step by step. `sequence` reads many steps at once; override it where that is cheaper than one
    step after the other, as for attention.
    """

    def initial_memory(self) -> Any:
        """The memory at the beginning of an episode, a pytree of arrays."""
        raise NotImplementedError

    def sequence(self, obs: Any, done: Array, memory: Any) -> tuple[Distribution, Array]:
        """`(distribution [T], value [T])` of steps `obs` `[T, ...]`, read one after the other.

        Args:
            obs: `[T, ...]`.
            done: `[T]`, booleans: where an episode ended, after which the memory begins anew.
            memory: before the first step.
        """
        module, variables = self.unbind()
        initial = module.initial_memory()

        def read(memory: Any, step: tuple[Any, Array]) -> tuple[Any, tuple[Distribution, Array]]:
            obs, done = step
            outputs: Any = module.apply(variables, obs, memory)
            return reset_memory(outputs[2], done, initial), outputs[:2]

        return jax.lax.scan(read, memory, (obs, done))[1]


def reset_memory(memory: Any, done: Array, initial: Any) -> Any:
    """Memories `[..., *]`, at their beginning where an episode ended `[...]`."""

    def choose(leaf: Array, first: Array) -> Array:
        return jnp.where(done.reshape(*done.shape, *[1] * first.ndim), first, leaf)

    return jax.tree.map(choose, memory, initial)


class Network(Settings):
    """Settings of a built-in network: torsos that turn an input into a vector, and two linear heads on it.

    A new one derives from this, says what its torso is, and is entered in `networks.NETWORKS`.

    Raises:
        ConfigError: a field is unknown or its value is not allowed.
    """

    reads_features: ClassVar[bool] = True  # of an observation; otherwise the observation as the environment gives it
    is_recurrent: ClassVar[bool] = False

    shared_torso: bool = static(False, "one torso with two heads in place of two networks", SWITCH)
    distribution: str = static("auto", "over actions; tanh_gaussian bounds continuous ones by tanh, not by clipping")
    dtype: str = static("float32", "dtype of the hidden layers", one_of("float32", "bfloat16"))

    def torso(self, shape: tuple[int, ...]) -> tuple[Any, int]:
        """The layers of a torso for inputs of a shape, their kernels still to be drawn, and the width of its output."""
        raise NotImplementedError

    def read(self, torso: Any, x: Array, memory: Any) -> Array:
        """The output `[..., width]` of a torso for inputs `[..., *]`; with a memory `[..., H]`, it is the next one."""
        raise NotImplementedError

    def check(self, action_space: Any, observation_space: Any) -> None:
        """Refuse spaces that it does not fit.

        Raises:
            ConfigError: says why.
        """
        distribution_for(action_space, self.distribution)

    def module(self, action_space: Any, num_categories: int | None) -> nn.Module:
        """The network as a flax module, for actions of a space, and inputs that may be one of so many categories."""
        return (BuiltInRecurrent if self.is_recurrent else BuiltIn)(self, action_space, num_categories)


class Params(NamedTuple):
    """The parameters of a built-in network."""

    torsos: list[Any]  # the policy's and the value's, or one that both share
    policy: Dense
    value: Dense
    log_std: Array | None  # [D], or whatever else of the distribution does not depend on the input


def initial_params(key: Array, module: Any, x: Array) -> Params:
    """Orthogonal kernels and zero biases; gain sqrt(2) in the hidden layers, 1 in gates and for the value.

    The policy's gain is 0.01, so that at first all actions are nearly as probable; the standard deviation is 1.
    """
    network, action_space = module.network, module.action_space
    distribution = distribution_for(action_space, network.distribution)
    is_index = jnp.issubdtype(x.dtype, jnp.integer) and network.reads_features
    shape = (module.num_categories,) if is_index else x.shape
    torsos, widths = zip(*[network.torso(shape) for _ in range(1 if network.shared_torso else 2)], strict=True)
    policy = dense(widths[0], distribution.num_params(action_space), gain=0.01)
    num_free = distribution.num_free(action_space)
    return draw(key, Params(list(torsos), policy, dense(widths[0], 1), jnp.zeros(num_free) if num_free else None))


class BuiltIn(nn.Module):
    """`(distribution, value)` for inputs with any leading axes."""

    network: Network
    action_space: Any
    num_categories: int | None  # of integers, which stand for one-hot vectors

    @nn.compact
    def __call__(self, x: Array) -> tuple[Distribution, Array]:
        """`(distribution [...], value [...])`."""
        params = self.param("networks", initial_params, self, x)
        return _evaluate(self, params, x, [None] * len(params.torsos))[:2]


class BuiltInRecurrent(Recurrent):
    """`(distribution, value, memory)` for inputs and memories with any leading axes."""

    network: Network
    action_space: Any
    num_categories: int | None  # of integers, which stand for one-hot vectors

    @nn.compact
    def __call__(self, x: Array, memory: list[Array]) -> tuple[Distribution, Array, list[Array]]:
        """`(distribution [...], value [...], memory [..., H])`, one memory for each torso."""
        params = self.param("networks", initial_params, self, x)
        return _evaluate(self, params, x, memory)

    def initial_memory(self) -> list[Array]:
        """Zeros."""
        width: int = self.network.hidden_sizes[-1]  # type: ignore[attr-defined]
        return [jnp.zeros(width)] * (1 if self.network.shared_torso else 2)


def _evaluate(
    module: BuiltIn | BuiltInRecurrent, params: Params, x: Array, memories: Sequence[Array | None]
) -> tuple[Distribution, Array, list[Array]]:
    """`(distribution, value, memories)`, float32."""
    network, space = module.network, module.action_space
    torsos = jax.tree.map(lambda leaf: leaf.astype(network.dtype), params.torsos)
    outputs = [network.read(torso, x, memory) for torso, memory in zip(torsos, memories, strict=True)]
    # An index that no hidden layer has read goes to the heads as it is.
    outputs = [y if jnp.issubdtype(y.dtype, jnp.integer) else y.astype(jnp.float32) for y in outputs]
    distribution = distribution_for(space, network.distribution)
    value = params.value(outputs[-1])[..., 0]  # of a shared torso, the first output is the last
    return distribution.from_params(params.policy(outputs[0]), params.log_std, space), value, outputs
