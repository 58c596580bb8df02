"""Choose the agents to draw."""

from typing import Any

import jax
import numpy as np
from jax import Array

from purejaxppo.config import Config
from purejaxppo.ppo import TrainState, init, update


def median_agent(states: TrainState, scores: Any) -> TrainState:
    """Pick the agent with the median score; states and scores are `[num_seeds]`."""
    median = np.argsort(scores)[len(scores) // 2]
    return jax.tree.map(lambda leaf: leaf[median], states)


@jax.jit
def early_agent(config: Config, key: Array) -> TrainState:
    """Train an agent for a tenth of its updates, when the policy still moves."""
    num_updates = config.num_updates // 10
    return jax.lax.fori_loop(0, num_updates, lambda _, state: update(config, state)[0], init(config, key))
