"""Bytes that the compiled training allocates at two lengths; the difference should be the metrics. Nothing is run."""

import math
from typing import Any

import jax
import measure

from purejaxppo import Config, train

STEPS = (10**6, 10**9)
QUICK_STEPS = (10**4, 10**5)
CASES = (("CartPole-v1", None), ("GridWorld-treasure", None), ("GridWorld-treasure", 16))  # environment, seeds
KINDS = ("argument", "output", "temp")


def main(flags: measure.Flags) -> None:
    """Compile every case at both lengths, print and compare."""
    lengths = QUICK_STEPS if flags.quick else STEPS
    cases = CASES[1:2] if flags.quick else CASES
    sizes = measure.QUICK if flags.quick else {}
    configs = [(Config(env=env, total_timesteps=steps, **sizes), seeds) for env, seeds in cases for steps in lengths]
    results = [analyse(measure.Case(config, seeds)) for config, seeds in configs]
    header = ["environment", "seeds", "steps", "updates", *KINDS, "total"]
    measure.print_table(header, [row(result) for result in results])
    print()
    growth = [compare(*pair) for pair in zip(results[::2], results[1::2], strict=True)]
    measure.write_json(flags.json, {"machine": measure.machine(), "cases": results, "growth": growth})


def analyse(case: measure.Case) -> dict[str, Any]:
    """XLA's account of one program, in bytes: its arguments, its outputs and what it holds for the time of a call."""
    account = measure.train_program(case).compiled.memory_analysis()
    sizes = {kind: getattr(account, f"{kind}_size_in_bytes") for kind in KINDS}
    return {
        "env": case.config.env,
        "num_seeds": case.num_seeds,
        "total_timesteps": case.config.total_timesteps,
        "num_updates": case.config.num_updates,
        "metric_bytes_per_update": metric_bytes(case),
        **sizes,
        "total": sum(sizes.values()),
    }


def metric_bytes(case: measure.Case) -> int:
    """Bytes of the metrics of one update: 4 for each metric of each agent."""
    _, metrics = jax.eval_shape(train, case.config, jax.random.key(0))
    assert all(leaf.shape == (case.config.num_updates,) for leaf in metrics.values())
    return sum(math.prod(leaf.shape[1:]) * leaf.dtype.itemsize for leaf in metrics.values()) * (case.num_seeds or 1)


def row(result: dict[str, Any]) -> list[str]:
    """One line of the table."""
    numbers = [result[key] for key in ("total_timesteps", "num_updates", *KINDS, "total")]
    return [result["env"], f"{result['num_seeds'] or '-'}", *(f"{number:,}" for number in numbers)]


def compare(short: dict[str, Any], long: dict[str, Any]) -> dict[str, Any]:
    """Print and return the bytes per additional update, of each kind of buffer."""
    updates = long["num_updates"] - short["num_updates"]
    growth = {kind: (long[kind] - short[kind]) / updates for kind in (*KINDS, "total")}
    seeds = f", {short['num_seeds']} seeds" if short["num_seeds"] else ""
    kinds = ", ".join(f"{kind} {growth[kind]:+.2f}" for kind in growth)
    print(f"{short['env']}{seeds}: bytes per additional update: {kinds}; metrics {short['metric_bytes_per_update']}")
    return {"env": short["env"], "num_seeds": short["num_seeds"], **growth, "metrics": short["metric_bytes_per_update"]}


if __name__ == "__main__":
    main(measure.parse(measure.Flags, __doc__))
