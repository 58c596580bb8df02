"""What options that are there for speed do to it, and to the return: bfloat16, a shared torso, a pool of resets."""

import dataclasses
import functools
import statistics
from typing import Any

import jax
import measure
import numpy as np

from purejaxppo import Config, preset
from purejaxppo.evaluation import score
from purejaxppo.experiment.reports.statistics import iqm
from purejaxppo.overrides import override
from purejaxppo.ppo import train

CASES: tuple[tuple[str, dict[str, Any]], ...] = (  # a preset or a suite's environment, and what is changed
    ("cartpole", {"network.dtype": "bfloat16"}),
    ("breakout", {"network.dtype": "bfloat16"}),
    ("breakout", {"network.shared_torso": True}),
    ("breakout", {"reset_pool": 64}),
    ("asterix", {"reset_pool": 64}),
    ("random-gridworld", {"reset_pool": 256}),
    ("craftax/Craftax-Classic-Symbolic-v1", {"reset_pool": 64}),
)
OF_SUITE: dict[str, Any] = {"num_envs": 32, "num_steps": 32, "total_timesteps": 2**15, "lr": 1e-3}
HEADER = ["preset or environment", "option", "time / without", "min", "max", "return", "without"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flags(measure.TimingFlags):
    """The flags of this benchmark."""

    num_seeds: int = 5
    """agents whose returns are compared"""
    steps: int = 500_000
    """environment steps of each of these agents, or of a whole training if that is less"""
    only: tuple[str, ...] = ()
    """presets or environments, if not all"""


def main(flags: Flags) -> None:
    """Compare every case with its preset as it is."""
    cases = CASES[:1] if flags.quick else CASES
    rows = [(name, functools.partial(compare, name, change, flags)) for name, change in cases]
    results = measure.measure_rows(rows, flags.only, cells)
    measure.print_table(HEADER, [cells(result) for result in results])
    measure.write_rows(flags.json, results, ["preset", "change"])


def compare(name: str, change: dict[str, Any], flags: Flags) -> dict[str, Any]:
    """Interleaved calls of a few updates, and the returns of agents trained for longer."""
    base = Config(env=name, **OF_SUITE) if "/" in name else preset(name)
    if flags.quick:
        base = base.replace(num_envs=4, num_steps=8, total_timesteps=10**4)
    configs = [base, override(base, change)]
    few = [config.replace(total_timesteps=4 * config.batch_size) for config in configs]
    programs = [measure.train_program(measure.Case(config)) for config in few]
    without, seconds = measure.interleave(programs, flags.repeats)
    steps = min(base.total_timesteps, 64 if flags.quick else flags.steps)
    trained = [returns(config.replace(total_timesteps=steps), flags.num_seeds) for config in configs]
    return {
        "preset": name,
        "change": change,
        "steps": steps,
        "ratios": [a / b for a, b in zip(seconds, without, strict=True)],
        "returns_without": trained[0].tolist(),
        "returns": trained[1].tolist(),
    }


@functools.cache  # a preset that has several options is trained without them once
def returns(config: Config, num_seeds: int) -> np.ndarray:
    """The greedy return of each agent after training."""
    keys = jax.random.split(jax.random.key(0), (num_seeds, 2))

    def one(keys: Any) -> Any:
        key_train, key_evaluate = keys
        state, _ = train(config, key_train)
        return score(config, state, key_evaluate)["score"]

    return np.asarray(jax.jit(jax.vmap(one))(keys))


def cells(result: dict[str, Any]) -> list[str]:
    """One line of the table."""
    ((option, value),) = result["change"].items()
    ratios = result["ratios"]
    return [
        result["preset"],
        f"{option}={value}",
        *(f"{summary(ratios):.2f}" for summary in (statistics.median, min, max)),
        *(f"{float(iqm(result[which])):.3g}" for which in ("returns", "returns_without")),
    ]


if __name__ == "__main__":
    main(measure.parse(Flags, __doc__))
