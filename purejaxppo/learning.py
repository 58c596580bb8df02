"""Epochs of minibatch gradient steps on any loss."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from purejaxppo._jit import check_arrays
from purejaxppo.errors import ConfigError
from purejaxppo.keys import check_key
from purejaxppo.optimizers import global_norm
from purejaxppo.settings import COUNT, FUNCTION, check_kind, check_static

Metrics = dict[str, Array]
Loss = Callable[
    [Any, Any], tuple[Array, Metrics]
]  # from parameters and a minibatch to a mean over samples, and metrics


def minimize(
    loss: Loss,
    optimizer: optax.GradientTransformation,
    params: Any,
    opt_state: Any,
    batch: Any,
    key: Array,
    *,
    num_epochs: int = 1,
    num_minibatches: int = 1,
    microbatch_size: int | None = None,
    prepare: Callable[[Any], Any] = lambda minibatch: minibatch,
    permutation: Callable[[Array, int], Array] = jax.random.permutation,
    stop: Callable[[Metrics], Array] | None = None,
) -> tuple[Any, Any, Metrics]:
    """Take gradient steps on minibatches of a batch, some epochs long; to be called inside of a compiled function.

    A step whose gradient is not finite is left out and counted: it must not destroy what was learned.

    Args:
        loss: from parameters and a minibatch to `(loss, metrics)`: means over samples, and scalars by name.
        optimizer: its `update` gets the parameters too.
        params: where the steps begin.
        opt_state: of the optimizer.
        batch: a pytree of samples `[B, ...]`.
        key: one typed key, consumed.
        num_epochs: passes over the batch, each in an order of its own.
        num_minibatches: of an epoch, a divisor of `B`.
        microbatch_size: samples whose gradient is computed at once, a divisor of the minibatch; None is all of it. The
            loss is a mean over samples, so the mean of equal pieces' gradients is the same up to rounding.
        prepare: applied to every whole minibatch first, such as standardising its advantages.
        permutation: a random order of `B` samples, from a key and `B`.
        stop: from a step's metrics to whether it and all later ones are left out; they are computed all the same.

    Returns:
        `(params, opt_state, metrics)`: the loss's metrics and `grad_norm`, the gradient's norm as the optimizer gets
        it, as means over steps; `num_skipped` steps left out because they were not finite; with `stop`, `num_stopped`.

    Raises:
        ConfigError: an argument is not what it must be.
    """
    check_key(key)
    _check_functions(loss=loss, prepare=prepare, permutation=permutation)
    if stop is not None:
        _check_functions(stop=stop)
    _check_optimizer(optimizer, params, opt_state)
    num_epochs = check_static("num_epochs", num_epochs, COUNT)
    num_samples = _num_samples(batch)
    num_minibatches = _divisor("num_minibatches", num_minibatches, num_samples)
    if microbatch_size is not None:
        microbatch_size = _divisor("microbatch_size", microbatch_size, num_samples // num_minibatches)

    def epoch(carry: tuple[Any, Any, Array], key: Array) -> tuple[tuple[Any, Any, Array], tuple[Metrics, Metrics]]:
        order = permutation(key, num_samples)
        return jax.lax.scan(step, carry, order.reshape(num_minibatches, -1))

    def step(carry: tuple[Any, Any, Array], indices: Array) -> tuple[tuple[Any, Any, Array], tuple[Metrics, Metrics]]:
        params, opt_state, goes_on = carry
        gradient, metrics = _gradient(loss, params, prepare(_look_up(batch, indices)), microbatch_size)
        metrics["grad_norm"] = global_norm(gradient)
        changes, new_opt_state = optimizer.update(gradient, opt_state, params)
        finite = jnp.isfinite(metrics["grad_norm"])
        counts = {"num_skipped": 1.0 - finite}
        if stop is not None:
            goes_on &= ~stop(metrics)
            counts["num_stopped"] = 1.0 - goes_on
        new = optax.apply_updates(params, changes), new_opt_state
        params, opt_state = jax.tree.map(partial(jnp.where, finite & goes_on), new, (params, opt_state))
        return (params, opt_state, goes_on), (metrics, counts)

    keys = jax.random.split(key, num_epochs)
    (params, opt_state, _), (metrics, counts) = jax.lax.scan(epoch, (params, opt_state, jnp.array(True)), keys)
    return params, opt_state, jax.tree.map(jnp.mean, metrics) | jax.tree.map(jnp.sum, counts)


def _check_functions(**functions: Any) -> None:
    for name, function in functions.items():
        check_static(name, function, FUNCTION)


def _check_optimizer(optimizer: Any, params: Any, opt_state: Any) -> None:
    """Refuse what is no optimizer, or is not in a state for these parameters.

    Raises:
        ConfigError: that is so.
    """
    check_kind("optimizer", optimizer, optax.GradientTransformation)
    check_arrays("params", params)
    check_arrays("opt_state", opt_state)
    structure: Any = jax.tree.structure(opt_state)
    if structure != jax.tree.structure(jax.eval_shape(optimizer.init, params)):
        raise ConfigError("opt_state: must be structured like optimizer.init(params)")


def _num_samples(batch: Any) -> int:
    """The length of the first axis of all arrays of a batch.

    Raises:
        ConfigError: they have none in common.
    """
    check_arrays("batch", batch)
    lengths = {np.shape(leaf)[:1] for leaf in jax.tree.leaves(batch)}
    if len(lengths) != 1 or lengths == {()}:
        found = ", ".join(str(*length) or "none" for length in sorted(lengths)) or "no arrays"
        raise ConfigError(f"batch: must be made of arrays with the same first axis, its samples; it has {found}")
    return lengths.pop()[0]


def _divisor(name: str, value: Any, number: int) -> int:
    """A count that divides a number.

    Raises:
        ConfigError: it does not.
    """
    value = check_static(name, value, COUNT)
    if number % value:
        raise ConfigError.of(name, value, f"a divisor of {number}")
    return value


def _look_up(batch: Any, indices: Array) -> Any:
    """The samples at `indices`."""
    look_up = partial(jnp.take, indices=indices, axis=0, mode="clip")
    # The barrier keeps XLA from repeating the look-up in every sum that standardising needs.
    return jax.lax.optimization_barrier(jax.tree.map(look_up, batch))


def _gradient(loss: Loss, params: Any, minibatch: Any, microbatch_size: int | None) -> tuple[Any, Metrics]:
    """The gradient of the loss on a minibatch by the parameters, and the loss's metrics."""
    gradient = jax.grad(loss, has_aux=True)
    num_samples = jax.tree.leaves(minibatch)[0].shape[0]
    num_pieces = num_samples // (microbatch_size or num_samples)
    if num_pieces == 1:
        return gradient(params, minibatch)
    pieces = jax.tree.map(lambda leaf: leaf.reshape(num_pieces, -1, *leaf.shape[1:]), minibatch)

    def add(total: Any, piece: Any) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, gradient(params, piece)), None

    shapes = jax.eval_shape(gradient, params, minibatch)
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    # Two pieces at a time: XLA runs the small operations of one beside those of the other.
    total, _ = jax.lax.scan(add, zeros, pieces, unroll=2)
    return jax.tree.map(lambda leaf: leaf / num_pieces, total)
