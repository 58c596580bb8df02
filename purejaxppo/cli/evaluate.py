"""`purejaxppo evaluate`."""

from typing import Any

import jax
from rich.text import Text

from purejaxppo.cli import output, runs, summary
from purejaxppo.cli.flags import SEED, flag, flags_type
from purejaxppo.settings import COUNT, check_static

HELP = """Play whole episodes with the agents of a run, and compare them with the optimum where it is known.

Example: purejaxppo evaluate runs/cartpole --num-episodes 1000
"""


def flags(argv: list[str]) -> type:
    """Declare the flags."""
    return flags_type(
        HELP,
        [
            *runs.DIRECTORY_FLAGS,
            flag("num_episodes", int, summary.EVALUATION_EPISODES, "episodes that each agent plays, the same for all"),
            flag("seed", int, 0, "seed of the episodes' random numbers, which training never draws"),
        ],
    )


def main(flags: Any) -> None:
    """Play, and print the returns."""
    num_episodes = check_static("num_episodes", flags.num_episodes, COUNT)
    seed = check_static("seed", flags.seed, SEED)
    config, keys, state = runs.read(flags)
    console = output.console()
    done = int(state.num_updates[0])
    agents = output.agents(len(keys)), "bold"
    console.print(Text.assemble(agents, f" after {done:,} of {config.num_updates:,} updates"))
    scores = summary.score(config, state, jax.random.key(seed), num_episodes)
    for name in ("greedy", "sampled"):
        console.print(f"{name:<18} {summary.spread(scores[f'{name}_return'])}")
    console.print(f"                   over agents, each the mean of the same {num_episodes:,} episodes")
    console.print(summary.unfinished(scores), end="")
    if "gap" in scores:
        console.print(summary.distance_from_optimum(scores))
