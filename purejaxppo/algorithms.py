"""What a run, a sweep and a report know of an algorithm: how it begins, goes on, and is judged."""

from collections.abc import Callable
from typing import Any, NamedTuple

from purejaxppo import evaluation, ppo
from purejaxppo.config import Config
from purejaxppo.settings import Settings


class Algorithm(NamedTuple):
    """Four things that `experiment` asks of an algorithm; PPO is one, `PPO._replace(update=mine)` is yours.

    All three functions are pure and can be mapped by `jax.vmap` over rows of configurations and keys.
    """

    config: type[Settings]  # its `num_updates` are how many updates a run has, its `batch_size` the steps of one
    init: Callable[..., Any]  # (config, key, params=None) -> state, a pytree of arrays
    update: Callable[..., Any]  # (config, state) -> (state, metrics), the metrics scalars by name
    score: Callable[..., Any]  # (config, state, key, *, num_episodes) -> scalars by name, of which "score" is the score


PPO = Algorithm(config=Config, init=ppo.init, update=ppo.update, score=evaluation.score)
