"""What exact answers cost: solving large gridworlds, and the switch `exact_return` in training."""

import dataclasses
import resource
import statistics
from typing import Any

import measure

from purejaxppo import Config, GridWorld, GridWorldParams, planning

SIDES = (8, 32, 64)  # rows and columns of the maps that are solved
GAMMA = 0.99
HORIZON = 1000
TRAINED = (  # name, number of seeds, configuration
    ("GridWorld-treasure", 64, {"num_envs": 64, "num_steps": 32}),
    ("GridWorld-dragons", 1, {"num_envs": 1024}),
    ("GridWorld-maze", 1, {"num_envs": 64}),
    ("FourRooms-misc", 1, {"num_envs": 64}),
)
FUNCTIONS = {
    "value_iteration": lambda model, policy: planning.value_iteration(model, GAMMA),
    "policy_evaluation": lambda model, policy: planning.policy_evaluation(model, policy, GAMMA),
    "expected_return": lambda model, policy: planning.expected_return(model, policy, HORIZON),
    "optimal_return": lambda model, policy: planning.optimal_return(model, HORIZON),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flags(measure.TimingFlags):
    """The flags of this benchmark."""

    updates: int = 20
    """updates of each training"""


def main(flags: Flags) -> None:
    """Measure both."""
    report = {"machine": measure.machine(), "planning": solve(flags), "exact_return": train(flags)}
    measure.write_json(flags.json, report)


def solve(flags: Flags) -> list[dict[str, Any]]:
    """Every function of `planning` on open maps with money in one corner and wind."""
    results = []
    for side in SIDES[:1] if flags.quick else SIDES:
        model = open_map(side)
        policy = model.mask / model.mask.sum(axis=1, keepdims=True)
        programs = [measure.compile_program(f, lambda _, m=model, p=policy: (m, p)) for f in FUNCTIONS.values()]
        seconds = measure.interleave(programs, flags.repeats)
        for name, program, times in zip(FUNCTIONS, programs, seconds, strict=True):
            results.append(
                {
                    "function": name,
                    "cells": side**2,
                    "compile_seconds": program.lower_seconds + program.compile_seconds,
                    "seconds": times,
                    "seconds_median": statistics.median(times),
                    "process_megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
                }
            )
    rows = [
        [r["function"], f"{r['cells']:,}", *(f"{r[k]:.3f}" for k in ("compile_seconds", "seconds_median"))]
        for r in results
    ]
    measure.print_table(["function", "cells", "compile s", "run s"], rows)
    print(f"peak memory of the process: {results[-1]['process_megabytes']:,.0f} MB\n")
    return results


def open_map(side: int) -> planning.TabularModel:
    """`side` x `side` cells without walls."""
    lines = ["." * side] * (side - 1) + ["." * (side - 1) + "M"]
    return GridWorld("\n".join(lines)).tabular_model(GridWorldParams(slip=0.2))


def train(flags: Flags) -> list[dict[str, Any]]:
    """Trainings with and without `exact_return`, interleaved."""
    results = []
    for env, num_seeds, sizes in TRAINED[:1] if flags.quick else TRAINED:
        config = measure.make_config(
            env, 2 if flags.quick else flags.updates, **(measure.QUICK if flags.quick else sizes)
        )
        pair: list[Config] = [config, config.replace(exact_return=True)]
        programs = [measure.train_program(measure.Case(one, num_seeds)) for one in pair]
        without, with_it = measure.interleave(programs, flags.repeats)
        ratios = [b / a for a, b in zip(without, with_it, strict=True)]
        results.append(
            {"env": env, "num_envs": config.num_envs, "num_seeds": num_seeds, "num_updates": config.num_updates}
            | {"seconds_without": without, "seconds_with": with_it, "ratios": ratios}
            | {"ratio_median": statistics.median(ratios)}
        )
    rows = [
        [
            r["env"],
            *(str(r[k]) for k in ("num_envs", "num_seeds")),
            *(f"{f(r['ratios']):.2f}" for f in (statistics.median, min, max)),
        ]
        for r in results
    ]
    measure.print_table(["environment", "envs", "seeds", "time with / without exact_return", "min", "max"], rows)
    return results


if __name__ == "__main__":
    main(measure.parse(Flags, __doc__))
