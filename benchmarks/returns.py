"""What every preset learns: returns of at least ten seeds, beside published figures of PPO and the exact optimum."""

import dataclasses
import time
from functools import partial
from typing import Any, NamedTuple

import jax
import measure
import numpy as np

from purejaxppo import Config, planning, preset
from purejaxppo.evaluation import score
from purejaxppo.experiment.reports import statistics
from purejaxppo.ppo import bind, train

ZOO = "RL Baselines3 Zoo"  # benchmark.md, one run each
GYMNAX = "gymnax"  # the checkpoints in its README


class Figure(NamedTuple):
    """A published return of PPO."""

    value: float
    source: str
    steps: str | None = None  # how long it took, where that is said


class Row(NamedTuple):
    """A preset, and what it must reach to count as solved."""

    preset: str
    target: float | None  # None: the optimum, to within a hundredth of its size
    published: Figure | None = None


ROWS = (
    Row("treasure", None),
    Row("serrano", None),
    Row("dragons", None),
    Row("cliff", None),
    Row("maze", None),
    Row("cartpole", 475.0, Figure(500.0, ZOO, "0.1 M")),
    Row("acrobot", -73.5, Figure(-73.5, ZOO, "1 M")),
    Row("mountain-car", -110.4, Figure(-110.4, ZOO, "1 M")),
    Row("mountain-car-continuous", 88.3, Figure(88.3, ZOO, "20 k")),
    Row("pendulum", -172.2, Figure(-172.2, ZOO, "0.1 M")),
    Row("asterix", 15.0, Figure(15.0, GYMNAX, "10 M")),
    Row("breakout", 28.0, Figure(28.0, GYMNAX, "10 M")),
    Row("freeway", 58.0, Figure(58.0, GYMNAX, "10 M")),
    Row("space-invaders", 131.0, Figure(131.0, GYMNAX, "10 M")),
    Row("four-rooms", None, Figure(1.0, GYMNAX)),
    Row("frozen-lake", None),
    Row("frozen-lake-8x8", None),
    Row("catch", None, Figure(1.0, GYMNAX)),
    Row("deep-sea", 0.98, Figure(0.0, GYMNAX)),
    Row("memory-chain", 1.0, Figure(0.1, GYMNAX)),
    Row("brax-inverted-pendulum", 950.0),
    Row("navix-empty-8x8", 0.95),
)
HEADER = ["preset", "IQM", "95% interval", "solved", "optimum", "published PPO", "steps", "seconds"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flags(measure.Flags):
    """The flags of this benchmark."""

    num_seeds: int = 10
    """agents of each preset"""
    episodes: int = 256
    """episodes of each agent's greedy policy, where the return is not known exactly"""
    only: tuple[str, ...] = ()
    """presets, if not all"""


def main(flags: Flags) -> None:
    """Train everything, and print a table."""
    results = measure.measure_rows([(row.preset, partial(result, row, flags)) for row in ROWS], flags.only, cells)
    measure.print_table(HEADER, [cells(result) for result in results])
    measure.write_rows(flags.json, results, ["preset"])


def result(row: Row, flags: Flags) -> dict[str, Any]:
    """One preset: the greedy return of every seed after training."""
    config = preset(row.preset)
    if flags.quick:
        sizes = {"num_envs": 4, "num_steps": 8, "num_minibatches": 1}
        config = config.replace(**sizes, total_timesteps=32)
    key_train, key_evaluate = jax.random.split(jax.random.key(0))
    began = time.perf_counter()
    keys = jax.random.split(key_train, flags.num_seeds)
    state, _ = jax.block_until_ready(jax.jit(jax.vmap(train, in_axes=(None, 0)))(config, keys))
    seconds = time.perf_counter() - began
    keys_evaluate = jax.random.split(key_evaluate, flags.num_seeds)
    returns = np.asarray(
        jax.jit(jax.vmap(lambda *row: score(config, *row, num_episodes=flags.episodes)["score"]))(state, keys_evaluate)
    )
    best = optimum(config)
    target = row.target if best is None or row.target is not None else best - 0.01 * max(1.0, abs(best))
    assert target is not None, row
    interval = statistics.stratified_bootstrap(returns)
    return {
        "preset": row.preset,
        "env": str(config.env),
        "returns": returns.tolist(),
        "iqm": [float(number) for number in interval],
        "target": target,
        "optimum": best,
        "published": row.published and row.published._asdict(),
        "steps": config.num_updates * config.batch_size,
        "seconds": seconds,
    }


def optimum(config: Config) -> float | None:
    """The best possible return, where planning knows it."""
    networks = bind(config)
    if not networks.knows_optimum:
        return None
    return float(planning.optimal_return(networks.task.tabular_model(), networks.task.horizon))


def cells(result: dict[str, Any]) -> list[str]:
    """One line of the table."""
    iqm, low, high = result["iqm"]
    published, best = result["published"], result["optimum"]
    solved = sum(score >= result["target"] for score in result["returns"])
    return [
        result["preset"],
        number(iqm),
        f"{number(low)} to {number(high)}",
        f"{solved} of {len(result['returns'])} >= {result['target']:.3g}",
        "" if best is None else f"{best:.4g}",
        "" if published is None else _words(published),
        f"{result['steps'] / 1e6:.3g} M",
        f"{result['seconds']:.0f}",
    ]


def number(value: float) -> str:
    """Three digits, at most three of them decimals, without a power of ten."""
    return f"{round(value, 3) + 0.0:.3g}" if abs(value) < 999.5 else f"{value:,.0f}"  # + 0.0: no minus before a zero


def _words(published: dict[str, Any]) -> str:
    steps = f" after {published['steps']}" if published["steps"] else ""
    return f"{published['value']:g}{steps} ({published['source']})"


if __name__ == "__main__":
    main(measure.parse(Flags, __doc__))
