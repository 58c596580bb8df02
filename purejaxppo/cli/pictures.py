"""Pictures of agents, into a directory; those of one agent show the one with the median return."""

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
from purejaxppo.experiment.runs import files
from purejaxppo.policies import knows_optimum
from purejaxppo.ppo import TrainState, init, update

DRAWING = 0x706963  # folded into the first agent's key, for random numbers that nothing else draws


def new_directory(path: Path, flag: str) -> Path:
    """A directory for pictures, made if it is not there.

    Raises:
        ConfigError: it cannot be made or written to, or already holds something: nothing is overwritten.
    """
    with files.as_run_error(f"{flag}={str(path)!r}"):
        path.mkdir(parents=True, exist_ok=True)
        if any(path.iterdir()):
            raise ConfigError(f"{flag}={str(path)!r}: must be a new or empty directory; nothing is overwritten")
        tempfile.TemporaryFile(dir=path).close()
    return path


def place(run: Path, output: Path | None) -> Path:
    """Where the pictures of a run go: into a new directory, or into `pictures` in the run's.

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


def draw_learning(config: Config, metrics: dict[str, np.ndarray], scores: Scores, directory: Path) -> list[str]:
    """The learning curves; returns the names of the files, as all of these functions do."""
    # Imported here, as below: matplotlib takes a while, and most commands draw nothing.
    from purejaxppo.experiment.pictures import plots

    curves = metrics.get("expected_return", metrics["episode_return"])
    optimum = float(scores["optimal_return"][0]) if "optimal_return" in scores else None
    figure = plots.learning_curves(curves, config.batch_size, optimum=optimum)
    figure.savefig(directory / "learning.png")
    return ["learning.png"]


def draw_map(config: Config, state: TrainState, scores: Scores, directory: Path) -> list[str]:
    """What one agent learned beside the exact solution, on a gridworld."""
    from purejaxppo.experiment.pictures import plots

    if not (isinstance(make(config.env), GridWorld) and knows_optimum(config)):
        return []
    plots.gridworld(config, _median(state, scores)).savefig(directory / "map.png")
    return ["map.png"]


def draw_updates(config: Config, key: Array, directory: Path) -> list[str]:
    """The clipped surrogate early in training, and the ratios of all of it; this trains an agent twice."""
    from purejaxppo.experiment.pictures import plots

    key_early, key_surrogate, key_ratios = jax.random.split(jax.random.fold_in(key, DRAWING), 3)
    plots.surrogate(config, _early(config, key_early), key_surrogate).savefig(directory / "surrogate.png")
    plots.ratio_histograms(config, key_ratios).savefig(directory / "ratios.png")
    return ["surrogate.png", "ratios.png"]


def draw_movies(config: Config, state: TrainState, scores: Scores, key: Array, directory: Path) -> list[str]:
    """One agent's walk, and on a gridworld all agents at once."""
    from purejaxppo.experiment.pictures import animations as render

    key_walk, key_crowd = jax.random.split(jax.random.fold_in(key, DRAWING + 1))
    env, drawn = make(config.env), []
    if isinstance(env, GridWorld):
        render.crowd(config, state, key_crowd, directory / "crowd.gif")
        drawn.append("crowd.gif")
    if render.can_draw(env):
        render.walk(config, _median(state, scores), key_walk, directory / "walk.gif")
        drawn.append("walk.gif")
    return drawn


def show(drawn: list[str], directory: Path, console: Console) -> None:
    """Print what was drawn."""
    console.print(f"pictures           {', '.join(sorted(drawn))} in {directory}")


def _median(state: TrainState, scores: Scores) -> TrainState:
    """The agent with the median return."""
    median = np.argsort(scores["score"])[len(scores["score"]) // 2]
    return jax.tree.map(lambda leaf: leaf[median], state)


def _early(config: Config, key: Array) -> TrainState:
    """An agent after a tenth of its training, when the policy still moves."""
    num_updates = config.num_updates // 10
    return jax.jit(lambda key: jax.lax.fori_loop(0, num_updates, lambda _, s: update(config, s)[0], init(config, key)))(
        key
    )
