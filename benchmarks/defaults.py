"""What the defaults learn, with value clipping and without; on CartPole-v1 CleanRL's own PPO with its defaults, too.

Its checkout is given by path, as in `side_by_side.py`; without one its row is left out.
"""

import dataclasses
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import measure
import numpy as np
import side_by_side
from options import returns
from protocol import Task
from returns import number, optimum

from purejaxppo import Config
from purejaxppo.experiment.reports.statistics import stratified_bootstrap

CLEANRL = "cleanrl"
SWITCHES = {"clipped": True, "unclipped": False}
HEADER = [
    "environment",
    "steps",
    "seeds",
    "clipped: mean (range)",
    "not clipped: mean (range)",
    "difference, 95%",
    "to reach",
    "clipped: reach it",
    "not clipped: reach it",
]


class Row(NamedTuple):
    """An environment, and how long and how often it is learned."""

    env: str
    threshold: float | None = None  # Gymnasium's `reward_threshold`; None: nearly the optimum, where it is known
    steps: int = 500_000
    num_seeds: int = 10


CARTPOLE = Row("CartPole-v1", 475.0, num_seeds=32)
ROWS = (
    CARTPOLE,
    Row("Acrobot-v1", -100.0),
    Row("MountainCar-v0", -110.0),
    Row("Pendulum-v1"),
    Row("MountainCarContinuous-v0", 90.0),
    Row("GridWorld-treasure"),
    Row("GridWorld-dragons"),
    Row("Catch-bsuite"),
    Row("FourRooms-misc"),
    Row("FrozenLake-misc", 0.7),
    Row("Breakout-MinAtar", steps=1_000_000),
    Row("Asterix-MinAtar", steps=1_000_000),
    Row("SpaceInvaders-MinAtar", steps=1_000_000),
    Row("Freeway-MinAtar", steps=1_000_000),
)
ENVIRONMENTS = [row.env for row in ROWS]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flags(side_by_side.ProcessFlags):
    """The flags of this benchmark."""

    only: tuple[str, ...] = ()
    """environments, or cleanrl, if not all"""


def main(flags: Flags) -> None:
    """Train everything, and print a table."""
    cases: list[tuple[str, Callable[[], dict[str, Any]]]] = [(row.env, partial(ours, row, flags)) for row in ROWS]
    cases = cases[:1] if flags.quick else cases
    if flags.cleanrl is not None:
        cases.insert(1, (CLEANRL, partial(cleanrl, flags)))
    results = measure.measure_rows(cases, flags.only, cells)
    measure.print_table(HEADER, [cells(result) for result in results])
    measure.write_rows(flags.json, results, ["env", "peer"])


def ours(row: Row, flags: Flags) -> dict[str, Any]:
    """The greedy returns of our agents on one environment."""
    sizes: dict[str, Any] = {"num_envs": 2, "num_steps": 8} if flags.quick else {}
    row = row._replace(steps=32, num_seeds=2) if flags.quick else row
    config = Config(env=row.env, total_timesteps=row.steps, **sizes)
    began = time.perf_counter()
    found = {name: returns(config.replace(clip_value=on), row.num_seeds).tolist() for name, on in SWITCHES.items()}
    threshold = nearly_optimal(config) if row.threshold is None else row.threshold
    return describe(row, side_by_side.OURS, threshold, found, time.perf_counter() - began)


def nearly_optimal(config: Config) -> float | None:
    """The optimum to within a hundredth of its size, where it is known."""
    best = optimum(config)
    return None if best is None else best - 0.01 * max(1.0, abs(best))


def cleanrl(flags: Flags) -> dict[str, Any]:
    """The greedy returns of CleanRL's agents on CartPole-v1; what a task leaves out are its defaults."""
    row = CARTPOLE._replace(steps=1024 if flags.quick else CARTPOLE.steps, num_seeds=2 if flags.quick else 10)
    task = Task(env=row.env, num_envs=4, updates=1, episodes=128)
    task = dataclasses.replace(task, updates=row.steps // task.batch_size)
    began, found = time.perf_counter(), {}
    for name, on in SWITCHES.items():
        command = side_by_side.command_of(CLEANRL, dataclasses.replace(task, clip_value=on), flags)
        with side_by_side.Contestant(command, flags.timeout) as contestant:
            versions = contestant.hear()["versions"]
            found[name] = [contestant.ask(seed)["greedy_return"] for seed in range(1, row.num_seeds + 1)]
    seconds = time.perf_counter() - began
    return describe(row, CLEANRL, row.threshold, found, seconds) | {"versions": versions}


def describe(
    row: Row, peer: str, threshold: float | None, found: dict[str, list[float]], seconds: float
) -> dict[str, Any]:
    """What is written of a row."""
    names = {"env": row.env, "peer": peer, "steps": row.steps, "threshold": threshold}
    return names | found | {"difference": interval(*found.values()), "seconds": seconds}


def interval(clipped: list[float], unclipped: list[float]) -> list[float]:
    """How much more the clipped agents return in the mean, and the bounds of its 95% bootstrap interval."""
    difference = stratified_bootstrap(
        clipped, unclipped, statistic=lambda x, y: x.mean(axis=(-2, -1)) - y.mean(axis=(-2, -1))
    )
    return [float(value) for value in difference]


def cells(result: dict[str, Any]) -> list[str]:
    """One line of the table."""
    threshold, scores = result["threshold"], [np.asarray(result[name]) for name in SWITCHES]
    title = "" if result["peer"] == side_by_side.OURS else f", {side_by_side.PEERS[result['peer']].title}"
    _, low, high = result["difference"]
    return [
        result["env"] + title,
        f"{result['steps'] / 1e6:.3g} M",
        str(len(scores[0])),
        *(f"{number(values.mean())} ({number(values.min())} to {number(values.max())})" for values in scores),
        f"{number(low)} to {number(high)}",
        "" if threshold is None else number(threshold),
        *("" if threshold is None else f"{np.sum(values >= threshold)} of {len(values)}" for values in scores),
    ]


if __name__ == "__main__":
    main(measure.parse(Flags, __doc__))
