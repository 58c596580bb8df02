"""Write pictures of agents into a directory; those of one agent show the one with the median return."""

import tempfile
from pathlib import Path

import jax
import numpy as np
from jax import Array
from rich.console import Console

from purejaxppo.cli.summary import Scores
from purejaxppo.config import Config
from purejaxppo.environments import GridWorld, make
from purejaxppo.errors import ConfigError
from purejaxppo.experiment.reports.report import returns_of
from purejaxppo.experiment.runs import files
from purejaxppo.ppo import TrainState, bind
from purejaxppo.user_files import to_path

DRAWING = 0x706963  # folded into the first agent's key, for random numbers that nothing else draws


def new_directory(path: Path, flag: str) -> Path:
    """Make a directory for pictures, if it is not there.

    Raises:
        ConfigError: it cannot be made or written to, or already holds something: nothing is overwritten.
    """
    with files.as_run_error(f"{flag}={str(to_path(flag, path))!r}"):
        path.mkdir(parents=True, exist_ok=True)
        if any(path.iterdir()):
            raise ConfigError(f"{flag}={str(path)!r}: must be a new or empty directory; nothing is overwritten")
        tempfile.TemporaryFile(dir=path).close()
    return path


def place(run: Path, output: Path | None) -> Path:
    """Choose where the pictures of a run go: a new directory, or `pictures` in the run's.

    Raises:
        ConfigError: it cannot be made or written to.
    """
    if output is not None:
        return new_directory(output, "output")
    directory = run / files.PICTURES
    if directory.is_symlink():
        raise ConfigError(f"{directory}: must not be a symbolic link")
    with files.as_run_error(str(directory)):
        directory.mkdir(exist_ok=True)
    return directory


def draw_learning(
    config: Config, metrics: dict[str, np.ndarray], scores: Scores, directory: Path, window: int | None = None
) -> list[str]:
    """Draw the learning curves; returns the names of the files, as all of these functions do."""
    # Imported here, as below: matplotlib takes a while, and most commands draw nothing.
    from purejaxppo.experiment.pictures import training

    returns = returns_of(metrics)
    if returns is None:
        return []
    optimum = float(scores["optimal_return"][0]) if "optimal_return" in scores else None
    figure = training.learning_curves(returns, config.batch_size, optimum=optimum, window=window)
    figure.savefig(directory / "learning.png")
    return ["learning.png"]


def draw_map(config: Config, state: TrainState, scores: Scores, directory: Path) -> list[str]:
    """Draw what one agent learned beside the exact solution, on a gridworld."""
    from purejaxppo.experiment.pictures import agents, maps

    if not (isinstance(make(config.env), GridWorld) and bind(config).knows_optimum):
        return []
    maps.gridworld(config, agents.median_agent(state, scores["score"])).savefig(directory / "map.png")
    return ["map.png"]


def draw_updates(config: Config, key: Array, directory: Path) -> list[str]:
    """Draw the clipped surrogate early in training, and the ratios of all of it; this trains an agent twice."""
    from purejaxppo.experiment.pictures import agents, training

    key_early, key_surrogate, key_ratios = jax.random.split(jax.random.fold_in(key, DRAWING), 3)
    early = agents.early_agent(config, key_early)
    training.surrogate(config, early, key_surrogate).savefig(directory / "surrogate.png")
    training.ratio_histograms(config, key_ratios).savefig(directory / "ratios.png")
    return ["surrogate.png", "ratios.png"]


def draw_movies(config: Config, state: TrainState, scores: Scores, key: Array, directory: Path) -> list[str]:
    """Animate one agent's episode, and on a gridworld all agents at once."""
    from purejaxppo.experiment.pictures import agents, animations

    key_episode, key_agents = jax.random.split(jax.random.fold_in(key, DRAWING + 1))
    env, drawn = make(config.env), []
    if isinstance(env, GridWorld):
        animations.animate_agents(config, state, key_agents, directory / "agents.gif")
        drawn.append("agents.gif")
    if animations.can_draw(env):
        one = agents.median_agent(state, scores["score"])
        animations.animate_episode(config, one, key_episode, directory / "episode.gif")
        drawn.append("episode.gif")
    return drawn


def show(drawn: list[str], directory: Path, console: Console) -> None:
    """Print what was drawn."""
    console.print(f"pictures           {', '.join(sorted(drawn))} in {directory}")
