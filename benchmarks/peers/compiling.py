"""Compiling a peer's training ahead of time; needs JAX."""

import time
from collections.abc import Callable
from typing import Any

import jax
from protocol import Outcome, Task, Training


def ahead_of_time(
    task: Task,
    train: Callable[..., Any],
    outcome: Callable[[Any], Outcome],
    make_key: Callable[[int], jax.Array] = jax.random.PRNGKey,
    arguments: tuple[Any, ...] = (),
) -> Training:
    """`train(*arguments, key)` compiled, over as many keys as the task has seeds."""

    def keys(seed: int) -> jax.Array:
        return make_key(seed) if task.num_seeds is None else jax.random.split(make_key(seed), task.num_seeds)

    mapped = train if task.num_seeds is None else jax.vmap(train, in_axes=(*(None for _ in arguments), 0))
    example = keys(0)
    begin = time.perf_counter()
    compiled = jax.jit(mapped).lower(*arguments, example).compile()
    seconds = time.perf_counter() - begin
    return Training(lambda seed: jax.block_until_ready(compiled(*arguments, keys(seed))), outcome, seconds)
