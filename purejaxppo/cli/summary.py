"""Score agents, and print the scores."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from rich.console import Console

from purejaxppo.algorithms import PPO
from purejaxppo.config import Config
from purejaxppo.environments import GridWorld, make
from purejaxppo.environments.task import MAX_STEPS
from purejaxppo.evaluation import act
from purejaxppo.experiment.pictures.terminal import map_text
from purejaxppo.experiment.reports.statistics import in_words, summarize
from purejaxppo.ppo import TrainState, bind

EVALUATION_EPISODES = 128
REACHED = 1e-3  # gap to the optimal return, relative to it, below which an agent reaches it


Scores = dict[str, np.ndarray]  # what `evaluation.score` gives, `[num_seeds]` each


def score(config: Config, state: TrainState, key: Array, num_episodes: int = EVALUATION_EPISODES) -> Scores:
    """Score each agent.

    Args:
        config: the agents' configuration.
        state: `[num_seeds]`.
        key: one key for all: every agent meets the same starts and the same chances, so that only policies differ.
        num_episodes: whole episodes of each agent.
    """
    score = partial(PPO.score, config, num_episodes=num_episodes)
    return {name: np.asarray(values) for name, values in jax.jit(jax.vmap(score, (0, None)))(state, key).items()}


def show(config: Config, state: TrainState, scores: Scores, console: Console) -> None:
    """Print the returns, the distance from the optimum, and the map where there is one."""
    console.print(f"return             {spread(scores['score'])}")
    if "gap" in scores:
        console.print("                   over agents, each the exact expectation of the greedy policy")
        console.print(distance_from_optimum(scores))
    else:
        console.print(
            f"                   over agents, each the mean of the same {EVALUATION_EPISODES} episodes, greedy"
        )
        console.print(unfinished(scores), end="")
    env = make(config.env)
    if isinstance(env, GridWorld) and bind(config).knows_optimum:
        console.print(_picture(config, env, state, console.width))


def spread(returns: np.ndarray) -> str:
    """Write the interquartile mean over agents with its 95% interval, the best and the worst."""
    worth = in_words(summarize(returns), len(returns), what=", 95% interval")
    return worth if len(returns) == 1 else f"IQM {worth}, best {returns.max():.3f}, worst {returns.min():.3f}"


def unfinished(scores: Scores) -> str:
    """Word, as a line, how many episodes did not end; nothing where all did."""
    count = int(scores["num_unfinished"].sum())
    where = f"within {MAX_STEPS:,} steps, and count as far as they were played"
    return f"                   {count:,} episodes did not end {where}\n" if count else ""


def distance_from_optimum(scores: Scores) -> str:
    """Word the optimal return, and how far from it the agents are."""
    best, gap = float(scores["optimal_return"][0]), scores["gap"]
    num_best = int(np.sum(gap <= REACHED * max(1.0, abs(best))))
    return (
        f"optimal return     {best:.3f}, reached by {num_best:,} of {len(gap):,} agents\n"
        f"gap                mean {gap.mean():z.4f}, worst {gap.max():z.4f}; "
        f"{scores['optimal_fraction'].mean():.1%} of all moves are optimal"
    )


def _picture(config: Config, env: GridWorld, state: TrainState, width: int) -> Any:
    """Draw the map with the mean value over seeds and the move that most seeds prefer."""
    table = jax.jit(jax.vmap(lambda state: bind(config).table(state.agent)))(state)
    cells = jnp.arange(len(env.map.symbol))
    actions = jax.vmap(lambda state: act(config, state, cells)[0])(state)
    votes = np.asarray(jnp.sum(jax.nn.one_hot(actions, env.num_actions), axis=0))
    picture = map_text(env, np.asarray(table.value.mean(axis=0)), votes.argmax(axis=1), width)
    picture.append(
        "number: mean value over agents; arrow: the move that most agents prefer\n"
        "M lots of money, m money, D dragon, S start, grey: wall"
    )
    return picture
