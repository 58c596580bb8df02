"""Animate episodes as GIFs: agents on their map, or whatever gymnax can draw."""

import importlib.util
import os
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from matplotlib.animation import FuncAnimation, PillowWriter
from matplotlib.figure import Figure

from purejaxppo.acting import start
from purejaxppo.config import Config
from purejaxppo.environments import GridWorld, make, maps
from purejaxppo.errors import ConfigError
from purejaxppo.evaluation import act
from purejaxppo.experiment.pictures.colors import MIDDLE
from purejaxppo.experiment.pictures.maps import check_drawn_as_map, draw_walls, tallness
from purejaxppo.keys import check_key
from purejaxppo.ppo import TrainState, bind, check_single
from purejaxppo.settings import COUNT, check_static

NEEDS_PYGAME = ("CartPole-v1", "Acrobot-v1", "MountainCar-v0")
DRAWN_BY_GYMNAX = (
    *NEEDS_PYGAME,
    "Catch-bsuite",
    "FourRooms-misc",
    "Asterix-MinAtar",
    "Breakout-MinAtar",
    "Freeway-MinAtar",
    "SpaceInvaders-MinAtar",
)
PLACES = {maps.LOTS_OF_MONEY: "lots of money", maps.MONEY: "money", maps.DRAGON: "dragon"}
FRAMES_PER_SECOND = 5
PAUSE = 5  # frames for which the last picture stays
MOST_FRAMES = 200


def can_draw(env: Any) -> bool:
    """Say whether `animate_episode` can draw the environment with what is installed."""
    if isinstance(env, GridWorld):
        return True
    has_needed = env.name not in NEEDS_PYGAME or importlib.util.find_spec("pygame") is not None
    return env.name in DRAWN_BY_GYMNAX and has_needed


def check(config: Config) -> None:
    """Refuse what `animate_episode` cannot draw.

    Raises:
        ConfigError: the environment cannot be drawn, or not with what is installed.
    """
    if not can_draw(make(config.env)):
        allowed = "a GridWorld, or one that gymnax draws (pip install 'purejaxppo[render]'): "
        raise ConfigError.of("env", config.env, allowed + ", ".join(DRAWN_BY_GYMNAX))


def animate_episode(config: Config, state: TrainState, key: Array, path: str | Path) -> None:
    """Animate one episode of one agent, sampled from its policy, of at most 200 steps.

    What gymnax draws ends with the state in which the last action was chosen.

    Args:
        config: of the agent.
        state: of one agent.
        key: one typed key, consumed.
        path: where the GIF goes.

    Raises:
        ConfigError: the environment cannot be drawn, or not with what is installed, or the state is of many agents.
    """
    check(config)
    check_single(state)
    if isinstance(make(config.env), GridWorld):
        _draw_agents(config, jax.tree.map(lambda leaf: leaf[None], state), key, 1, path)
    else:
        _draw_by_gymnax(config, state, key, path)


def animate_agents(config: Config, state: TrainState, key: Array, path: str | Path, *, num_agents: int = 1000) -> None:
    """Animate many agents at once on one map; each stays where its episode ends.

    Args:
        config: of the agents.
        state: of one agent, or of many (a leading axis everywhere), which then take turns.
        key: one typed key, consumed.
        path: where the GIF goes.
        num_agents: how many are shown.

    Raises:
        ConfigError: the environment is not a `GridWorld`, or `num_agents` is not a positive integer.
    """
    check_drawn_as_map(config)
    num_agents = check_static("num_agents", num_agents, COUNT)
    one = state.num_updates.ndim == 0
    states = jax.tree.map(lambda leaf: leaf[None], state) if one else state
    _draw_agents(config, states, key, num_agents, path)


@partial(jax.jit, static_argnames=("num_agents", "num_steps"))
def _first_steps(config: Config, states: TrainState, key: Array, num_agents: int, num_steps: int) -> Any:
    """`(env_state, next_obs, done)` of the first steps of `num_agents` episodes, `[steps, num_agents, ...]`.

    Agent `i` follows the policy of state `i` modulo the number of states.
    """
    networks = bind(config)
    task = networks.task
    chosen = jnp.arange(num_agents) % len(states.num_updates)

    def step_one(index: Array, runner: Any, key: Array) -> Any:
        key_action, key_env = jax.random.split(key)
        state = jax.tree.map(lambda leaf: leaf[index], states)
        action, memory = act(config, state, runner.obs, runner.memory, key_action)
        step = task.step(key_env, runner.env_state, action)
        return runner._replace(env_state=step.state, obs=step.obs, memory=memory), (step.next_obs, step.done)

    def step_all(runners: Any, key: Array) -> Any:
        new, (next_obs, done) = jax.vmap(step_one)(chosen, runners, jax.random.split(key, num_agents))
        return new, (runners.env_state, next_obs, done)

    key_start, key_steps = jax.random.split(key)
    runners = jax.vmap(partial(start, task, memory=networks.initial_memory))(jax.random.split(key_start, num_agents))
    return jax.lax.scan(step_all, runners, jax.random.split(key_steps, num_steps))[1]


def _play(config: Config, states: TrainState, key: Array, num_agents: int) -> tuple[Any, np.ndarray, np.ndarray]:
    """Take the first steps, and fetch them; see `_first_steps`."""
    check_key(key)
    return jax.tree.map(np.asarray, _first_steps(config, states, key, num_agents, MOST_FRAMES))


def _num_steps(done: np.ndarray) -> int:
    """Count the steps until every agent's first episode has ended; `done` is `[steps, num_agents]`."""
    has_ended = np.all(np.cumsum(done, axis=0) > 0, axis=1)
    return int(np.argmax(has_ended)) + 1 if has_ended.any() else len(done)


def _draw_agents(config: Config, states: TrainState, key: Array, num_agents: int, path: str | Path) -> None:
    """Draw dots on the map."""
    env: Any = make(config.env)
    env_state, next_cell, done = _play(config, states, key, num_agents)
    # Once an agent's first episode has ended, it stays on the cell that ended it.
    ended_before = np.concatenate([np.zeros((1, num_agents), bool), np.cumsum(done, axis=0)[:-1] > 0])
    cells = [env_state.cell[0]]
    for cell, ended in zip(next_cell, ended_before, strict=True):
        cells.append(np.where(ended, cells[-1], cell))
    num_steps = _num_steps(done)
    cells = cells[: num_steps + 1] + [cells[num_steps]] * PAUSE

    figure = Figure(figsize=(5, 0.6 + 5 * tallness(env)), layout="constrained", dpi=80)
    axes = figure.subplots()
    draw_walls(env, axes)
    # Agents in one cell stand apart, each always at the same place within its cell.
    spread = 0 if num_agents == 1 else 0.4
    offset = np.random.default_rng(0).uniform(-spread, spread, (num_agents, 2))
    size = 200 if num_agents == 1 else max(6, 3000 / num_agents)
    dots = axes.scatter([], [], s=size, color=MIDDLE, edgecolor="white", linewidth=0.3, zorder=5)

    def draw(frame: int) -> Any:
        row, column = (env.map.position[cells[frame]] + offset).T
        dots.set_offsets(np.stack([column, row], axis=1))
        axes.set_title(f"step {min(frame, num_steps)}: {_whereabouts(env.map.symbol[cells[frame]])}", fontsize=10)
        return (dots,)

    FuncAnimation(figure, draw, frames=len(cells)).save(path, writer=PillowWriter(fps=FRAMES_PER_SECOND))


def _whereabouts(symbol: np.ndarray) -> str:
    """Say where agents are that stand on cells with these symbols."""
    if len(symbol) == 1:
        return PLACES.get(str(symbol[0]), "under way")
    in_money, in_dragons = np.isin(symbol, list(maps.GOALS)).sum(), (symbol == maps.DRAGON).sum()
    return f"{len(symbol):,} agents, {in_money:,} at money, {in_dragons:,} at dragons"


def _draw_by_gymnax(config: Config, state: TrainState, key: Array, path: str | Path) -> None:
    for driver in ("SDL_VIDEODRIVER", "SDL_AUDIODRIVER"):
        os.environ.setdefault(driver, "dummy")  # pygame draws into memory: it needs neither display nor sound
    from gymnax.visualize import Visualizer

    env_state, _, done = _play(config, jax.tree.map(lambda leaf: leaf[None], state), key, 1)
    frames = [jax.tree.map(lambda leaf, i=i: leaf[i, 0], env_state) for i in range(_num_steps(done))]
    task = bind(config).task
    Visualizer(task.env, task.params, frames).animate(str(path))
