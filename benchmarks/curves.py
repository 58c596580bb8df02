"""Environment steps per second against the number of environments, of seeds, the networks' width, and the map's size.

All points take turns in one run. `publish.py` draws them.
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import matplotlib.ticker
import measure
from matplotlib.figure import Figure

from purejaxppo import MLP, GridWorld

CARTPOLE, DRAGONS, TREASURE = "CartPole-v1", "GridWorld-dragons", "GridWorld-treasure"
LEAST_UPDATES, LEAST_STEPS = 8, 2**18  # of one call; the initialisation should not count for much
COLOURS = ("#08306b", "#b35806")


class Line(NamedTuple):
    """One line of a curve."""

    label: str
    points: tuple[int, ...]
    case: Callable[[int], measure.Case]


def case(env: Any, num_seeds: int | None = None, **sizes: Any) -> measure.Case:
    """A training that is long enough to be timed."""
    one = measure.make_config(env, 1, **sizes)
    updates = max(LEAST_UPDATES, LEAST_STEPS // one.batch_size)
    return measure.Case(measure.make_config(env, updates, **sizes), num_seeds)


def seeds(env: str, num_seeds: int, **sizes: Any) -> measure.Case:
    """So many seeds; each does the same number of updates, so that the initialisation has the same share of all."""
    return measure.Case(measure.make_config(env, 20, **sizes), num_seeds)


def open_map(side: int) -> GridWorld:
    """`side` x `side` cells without walls."""
    return GridWorld("\n".join(["." * side] * (side - 1) + ["." * (side - 1) + "M"]))


CURVES = {
    "environments": (
        Line(DRAGONS, (4, 16, 64, 256, 1024, 4096), lambda n: case(DRAGONS, num_envs=n)),
        Line(CARTPOLE, (4, 16, 64, 256, 1024), lambda n: case(CARTPOLE, num_envs=n)),
    ),
    "seeds": (
        Line(f"{TREASURE}, 16 environments", (1, 4, 16, 64, 256, 1024), lambda n: seeds(TREASURE, n, num_envs=16)),
        Line(f"{CARTPOLE}, 4 environments", (1, 4, 16, 64), lambda n: seeds(CARTPOLE, n, num_envs=4)),
    ),
    "width of the hidden layers": (
        Line(
            f"{DRAGONS}, 1,024 environments",
            (16, 32, 64, 128, 256),
            lambda n: case(DRAGONS, num_envs=1024, network=MLP(hidden_sizes=(n, n))),
        ),
        Line(
            f"{CARTPOLE}, 64 environments",
            (16, 32, 64, 128, 256),
            lambda n: case(CARTPOLE, num_envs=64, network=MLP(hidden_sizes=(n, n))),
        ),
    ),
    "side of the map": (
        Line("open GridWorld, 1,024 environments", (4, 8, 16, 32, 64, 128), lambda n: case(open_map(n), num_envs=1024)),
        Line("open GridWorld, 64 environments", (4, 8, 16, 32), lambda n: case(open_map(n), num_envs=64)),
    ),
}


def main(flags: measure.TimingFlags) -> None:
    """Measure all points."""
    lines = [(name, line) for name, curve in CURVES.items() for line in curve]
    points = [(name, line.label, x, line.case(x)) for name, line in lines for x in line.points]
    if flags.quick:
        points = [(name, line.label, 1, quick_case()) for name, line in lines[::2]]
    report = measure.run([case for *_, case in points], flags)
    for (curve, label, x, _), result in zip(points, report["cases"], strict=True):
        result.update(curve=curve, line=label, x=x)
    measure.write_json(flags.json, report)


def quick_case() -> measure.Case:
    """A tiny one."""
    return measure.Case(measure.make_config(TREASURE, 2, **measure.QUICK))


def draw(points: Iterable[dict[str, Any]]) -> Figure:
    """A panel for each curve: the median of the calls as a line, the best and the worst as bars."""
    figure = Figure(figsize=(11, 7.5), layout="constrained", dpi=110)
    for axes, curve in zip(figure.subplots(2, 2).flat, CURVES, strict=True):
        labels = dict.fromkeys(point["line"] for point in points if point["curve"] == curve)
        for label, colour in zip(labels, COLOURS, strict=False):
            line = [point for point in points if (point["curve"], point["line"]) == (curve, label)]
            speeds = [point["steps_per_second"] for point in line]
            below = [s - p["steps"] / max(p["seconds"]) for p, s in zip(line, speeds, strict=True)]
            above = [p["steps"] / min(p["seconds"]) - s for p, s in zip(line, speeds, strict=True)]
            x = [point["x"] for point in line]
            axes.errorbar(x, speeds, yerr=(below, above), label=label, color=colour, marker="o", capsize=2)
        axes.set(xlabel=curve, ylabel="environment steps per second", xscale="log", yscale="log")
        ticks = sorted({point["x"] for point in points if point["curve"] == curve})
        axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
        axes.xaxis.set_minor_locator(matplotlib.ticker.NullLocator())
        axes.yaxis.set_major_locator(matplotlib.ticker.LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(matplotlib.ticker.EngFormatter(sep=""))
        axes.yaxis.set_minor_locator(matplotlib.ticker.NullLocator())
        axes.grid(alpha=0.3)
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), frameon=False)  # above the axes, clear of the lines
    return figure


if __name__ == "__main__":
    main(measure.parse(measure.TimingFlags, __doc__))
