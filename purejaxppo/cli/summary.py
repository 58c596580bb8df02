"""What agents are worth, measured and printed."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from rich.console import Console

from purejaxppo.config import Config
from purejaxppo.environments import GridWorld, make
from purejaxppo.evaluation import Optimality, act, evaluate, optimality
from purejaxppo.experiment.pictures.terminal import map_text
from purejaxppo.experiment.reports.statistics import in_words, summarize
from purejaxppo.policies import knows_optimum, policy_table
from purejaxppo.ppo import TrainState

EVALUATION_EPISODES = 128
SUMMARY = 0x73756D  # folded into the first agent's key, for random numbers that training does not draw
REACHED = 1e-3  # gap to the optimal return, relative to it, below which an agent reaches it


class Verdict(NamedTuple):
    """What agents are worth."""

    returns: np.ndarray  # [num_seeds], mean return of the greedy policy
    exact: Optimality | None  # [num_seeds], where the environment's model is known

    @property
    def optimum(self) -> float | None:
        """The optimal return, where it is known."""
        return None if self.exact is None else float(self.exact.optimal_return[0])


def assess(config: Config, state: TrainState, keys: Array) -> Verdict:
    """Exactly, where the environment's model is known, and otherwise by playing.

    Args:
        config: the agents' configuration.
        state: `[num_seeds]`.
        keys: with which they were trained, `[num_seeds]`.
    """
    if knows_optimum(config):
        exact = exactly(config, state)
        return Verdict(np.asarray(exact.expected_return), exact)
    key = jax.random.fold_in(keys[0], SUMMARY)
    return Verdict(play(config, state, key, EVALUATION_EPISODES, greedy=True), None)


def exactly(config: Config, state: TrainState) -> Optimality:
    """The comparison of each agent's greedy policy with the optimum, `[num_seeds]`."""
    return jax.jit(jax.vmap(lambda state: optimality(config, state)))(state)


def play(config: Config, state: TrainState, key: Array, num_episodes: int, *, greedy: bool) -> np.ndarray:
    """The mean return of each agent, `[num_seeds]`."""

    def mean_return(state: TrainState, key: Array) -> Array:
        return jnp.mean(evaluate(config, state, key, num_episodes=num_episodes, greedy=greedy).episode_return)

    # One key for all: every agent meets the same starts and the same chances, so that only policies differ.
    return np.asarray(jax.jit(jax.vmap(mean_return, in_axes=(0, None)))(state, key))


def show(config: Config, state: TrainState, verdict: Verdict, console: Console) -> None:
    """Print the returns, the distance from the optimum, and the map where there is one."""
    console.print(f"return             {spread(verdict.returns)}")
    if verdict.exact is None:
        console.print(
            f"                   over agents, each the mean of the same {EVALUATION_EPISODES} episodes, greedy"
        )
    else:
        console.print("                   over agents, each the exact expectation of the greedy policy")
        console.print(distance_from_optimum(verdict.exact))
    env = make(config.env)
    if isinstance(env, GridWorld) and knows_optimum(config):
        console.print(_picture(config, env, state, console.width))


def spread(returns: np.ndarray) -> str:
    """Write the interquartile mean over agents with its 95% interval, the best and the worst."""
    worth = in_words(summarize(returns), len(returns))
    return worth if len(returns) == 1 else f"IQM {worth}, best {returns.max():.3f}, worst {returns.min():.3f}"


def distance_from_optimum(exact: Optimality) -> str:
    """The optimal return, and how far from it the agents are."""
    best, gap = float(exact.optimal_return[0]), np.asarray(exact.gap)
    num_best = int(np.sum(gap <= REACHED * max(1.0, abs(best))))
    return (
        f"optimal return     {best:.3f}, reached by {num_best:,} of {len(gap):,} agents\n"
        f"gap                mean {gap.mean():z.4f}, worst {gap.max():z.4f}; "
        f"{np.mean(exact.optimal_fraction):.1%} of all moves are optimal"
    )


def _picture(config: Config, env: GridWorld, state: TrainState, width: int) -> Any:
    """The map with the mean value over seeds and the move that most seeds prefer."""
    table = jax.jit(jax.vmap(lambda state: policy_table(config, state.agent)))(state)
    cells = jnp.arange(len(env.map.symbol))
    actions = jax.vmap(lambda state: act(config, state, cells))(state)
    votes = np.asarray(jnp.sum(jax.nn.one_hot(actions, env.num_actions), axis=0))
    picture = map_text(env, np.asarray(table.value.mean(axis=0)), votes.argmax(axis=1), width)
    picture.append(
        "number: mean value over agents; arrow: the move that most agents prefer\n"
        "M lots of money, m money, D dragon, S start, grey: wall"
    )
    return picture
