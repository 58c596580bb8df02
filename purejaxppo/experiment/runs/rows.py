"""Rows: what one compiled program trains side by side.

A row is the numbers of a configuration and a key; the static fields, which shape the program, are the same for all
rows. The rows of a run differ in their keys only, those of a sweep in numbers as well.

The host gives every state, metric and score a leading axis `[num_rows]`, even for a single row.
"""

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from purejaxppo._jit import compile
from purejaxppo.algorithms import Algorithm
from purejaxppo.errors import ConfigError
from purejaxppo.experiment.runs.devices import needed_bytes
from purejaxppo.experiment.runs.record import RESERVED

EVALUATION = 0x726F77  # folded into a row's key, for random numbers that training never draws
BUFFER_NUMBERS = 2**22  # in the buffer of the metrics of the updates between two looks of the host, at most

Axes = tuple[int | None, ...]  # of a configuration's leaves: 0 where rows differ in it, None where they do not


class Rows(NamedTuple):
    """Configurations that differ in numbers only, and a key each."""

    config: Any  # `Settings`, each leaf `[num_rows, ...]` or `[...]`, as `axes` says
    axes: Axes
    keys: Array  # [num_rows]

    def take(self, indices: np.ndarray) -> "Rows":
        """Take some of the rows."""
        leaves = jax.tree.leaves(self.config)
        structure: Any = jax.tree.structure(self.config)
        taken = [leaf if axis is None else leaf[indices] for leaf, axis in zip(leaves, self.axes, strict=True)]
        return Rows(structure.unflatten(taken), self.axes, self.keys[indices])


def equal_rows(config: Any, keys: Array) -> Rows:
    """Combine one configuration with each key."""
    return Rows(config, (None,) * len(jax.tree.leaves(config)), keys)


def every_row(configs: Sequence[Any], keys: Array) -> Rows:
    """Combine configurations that differ in numbers only with each key; the keys change fastest."""
    columns = [list(map(np.asarray, column)) for column in zip(*map(jax.tree.leaves, configs), strict=True)]
    axes = tuple(None if all(np.array_equal(leaf, column[0]) for leaf in column) else 0 for column in columns)
    leaves = [
        column[0] if axis is None else np.repeat(np.stack(column), len(keys), axis=0)
        for column, axis in zip(columns, axes, strict=True)
    ]
    structure: Any = jax.tree.structure(configs[0])
    return Rows(structure.unflatten(leaves), axes, jnp.tile(keys, len(configs)))


def initial_shapes(algorithm: Algorithm, rows: Rows, params: Any = None) -> Any:
    """Infer the shapes of the state of some rows."""
    over = _Over(algorithm, rows.axes, len(rows.keys))
    return jax.eval_shape(partial(_init, over=over), rows.config, rows.keys, params)


def updated_shapes(algorithm: Algorithm, rows: Rows, params: Any = None) -> tuple[Any, dict[str, Any]]:
    """Infer the shapes of the state of some rows after an update, and of its metrics, `[num_rows]` each."""
    over = _Over(algorithm, rows.axes, len(rows.keys))
    return jax.eval_shape(partial(_step, over), rows.config, initial_shapes(algorithm, rows, params))


class Programs:
    """An algorithm's functions for some rows, compiled; they serve any other rows of the same shapes."""

    def __init__(self, algorithm: Algorithm, rows: Rows, *, num_episodes: int, params: Any = None) -> None:
        """Compile what advances the rows.

        Args:
            algorithm: what is run.
            rows: which, or others of the same shapes.
            num_episodes: of an evaluation of one row.
            params: from which every row starts; None for those that the algorithm makes.

        Raises:
            ConfigError: a metric of the algorithm is not a scalar, or has a name that is reserved.
        """
        start_time = time.perf_counter()
        self.num_rows, self.seconds = len(rows.keys), 0.0  # seconds spent on compiling
        over = _Over(algorithm, rows.axes, self.num_rows)
        state, metrics = updated_shapes(algorithm, rows, params)
        self._init = partial(_init, params=params, over=over)
        example = rows.config, state, rows.keys, 0
        self._compile = partial(compile, _score, *example, over=over, num_episodes=num_episodes)
        self.buffer_size = min(rows.config.num_updates, max(1, BUFFER_NUMBERS // (len(metrics) * self.num_rows)))
        names = tuple(metrics)
        self._advance = compile(_advance, rows.config, state, 0, over=over, size=self.buffer_size, names=names)
        self._evaluate: Any = None
        self.seconds = time.perf_counter() - start_time

    def init(self, rows: Rows) -> Any:
        """Make the rows' state before the first update."""
        start_time = time.perf_counter()
        state = self._init(rows.config, rows.keys)  # the first call compiles, and the device goes on by itself
        self.seconds += time.perf_counter() - start_time
        return state

    def advance(self, rows: Rows, state: Any, count: int) -> tuple[Any, dict[str, Array]]:
        """Make `count` updates, at most `buffer_size`; `state` is consumed.

        Returns:
            `(state, metrics)`; the metrics are `[buffer_size, num_rows]`, of which the first `count` count.
        """
        return self._advance(rows.config, state, count)

    def evaluate(self, rows: Rows, state: Any, num_updates: int) -> dict[str, Array]:
        """Begin to score each row, `[num_rows]`; rows with the same key are played on the same episodes."""
        self.compile_evaluation()
        return self._evaluate(rows.config, state, rows.keys, num_updates)

    def compile_evaluation(self) -> None:
        """Compile `evaluate`, unless that was done before."""
        if self._evaluate is None:
            start_time = time.perf_counter()
            self._evaluate = self._compile()
            self.seconds += time.perf_counter() - start_time

    @property
    def num_bytes(self) -> int:
        """The memory that those need which are compiled, according to XLA, see `needed_bytes`."""
        return max(map(needed_bytes, (self._advance, self._evaluate)))


class _Over(NamedTuple):
    """How an algorithm's functions are mapped over rows; all of it shapes the program."""

    algorithm: Algorithm
    axes: Axes
    num_rows: int

    def map(self, function: Callable[..., Any], config: Any, *args: Any, axes: Sequence[int | None]) -> Any:
        """Call `function(config, *args)` for each row."""
        structure: Any = jax.tree.structure(config)
        in_axes = (structure.unflatten(self.axes), *axes)
        if self.num_rows > 1:
            return jax.vmap(function, in_axes)(config, *args)
        # Not mapped, which would compute both sides of every condition.
        leaves = zip(jax.tree.leaves(config), self.axes, strict=True)
        config = structure.unflatten([leaf if axis is None else _squeeze(leaf) for leaf, axis in leaves])
        single = [arg if axis is None else jax.tree.map(_squeeze, arg) for arg, axis in zip(args, axes, strict=True)]
        return jax.tree.map(lambda leaf: leaf[None], function(config, *single))


def _squeeze(leaf: Array) -> Array:
    return leaf.reshape(leaf.shape[1:])


@partial(jax.jit, static_argnames=("over",))
def _init(config: Any, keys: Array, params: Any, *, over: _Over) -> Any:
    start = {} if params is None else {"params": params}
    return over.map(lambda config, key: over.algorithm.init(config, key, **start), config, keys, axes=(0,))


def _step(over: _Over, config: Any, state: Any) -> tuple[Any, dict[str, Array]]:
    """Make one update of each row."""

    def update(config: Any, state: Any) -> tuple[Any, dict[str, Array]]:
        state, metrics = over.algorithm.update(config, state)
        return state, _numbers("metrics", metrics)

    return over.map(update, config, state, axes=(0,))


@partial(jax.jit, static_argnames=("over", "size", "names"), donate_argnames="state")
def _advance(
    config: Any, state: Any, count: Any, *, over: _Over, size: int, names: tuple[str, ...]
) -> tuple[Any, dict[str, Array]]:
    """Make `count` updates, at most `size`; the first of what is returned, `[size, num_rows]`, are their metrics.

    The count is data, so one program serves chunks of every length, and their length changes no bit.
    """
    buffers = {name: jnp.zeros((size, over.num_rows), jnp.float32) for name in names}

    def body(index: Array, carry: tuple[Any, dict[str, Array]]) -> tuple[Any, dict[str, Array]]:
        state, metrics = _step(over, config, carry[0])
        return state, jax.tree.map(lambda buffer, metric: buffer.at[index].set(metric), carry[1], metrics)

    return jax.lax.fori_loop(0, count, body, (state, buffers))


@partial(jax.jit, static_argnames=("over", "num_episodes"))
def _score(config: Any, state: Any, keys: Array, num_updates: Any, *, over: _Over, num_episodes: int) -> Any:
    def score(config: Any, state: Any, key: Array) -> dict[str, Array]:
        key = jax.random.fold_in(jax.random.fold_in(key, EVALUATION), num_updates)
        values = over.algorithm.score(config, state, key, num_episodes=num_episodes)
        if "score" not in values:
            raise ConfigError(f"score: must hold a number called 'score', not only {', '.join(values) or 'none'}")
        return _numbers("score", values)

    return over.map(score, config, state, keys, axes=(0, 0))


def _numbers(what: str, values: dict[str, Any]) -> dict[str, Array]:
    """Convert the values of one row to what the record keeps.

    Raises:
        ConfigError: there is none, one is not a scalar, or has the name of one of the record's columns.
    """
    if not values:
        raise ConfigError(f"{what}: must hold at least one number")
    for name, value in values.items():
        if jnp.shape(value) != ():
            raise ConfigError(f"{what}[{name!r}]: must be a scalar, not an array of shape {jnp.shape(value)}")
        if name in RESERVED:
            raise ConfigError(f"{what}[{name!r}]: must have another name; the record has a column called that")
    return {name: jnp.asarray(value, jnp.float32) for name, value in values.items()}
