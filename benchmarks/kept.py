"""Whether a change kept the speed: run it before and after, two minutes each.

Each case is compared with its plain form in the same run: no policy table, whole minibatches, and the gradient as JAX
derives it. It is also compared with the committed results of `throughput.py`, both as steps per second over the
machine's matrix-product peak, so that another machine, or a busy one, counts for less.
"""

import contextlib
import json
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import measure

from purejaxppo.actor_critic import ActorCritic
from purejaxppo.networks import layers

COMMITTED = Path(__file__).parent / "results" / "throughput.json"
CASES = (("GridWorld-dragons", 1024, 8), ("CartPole-v1", 1024, 2), ("CartPole-v1", 64, 16))  # the last: updates


def main(flags: measure.TimingFlags) -> None:
    """Measure every case and its plain form, and print a table."""
    machine = measure.machine()
    cases = [make_case(flags.quick, *each) for each in (CASES[:1] if flags.quick else CASES)]
    size = measure.matmul_size(flags)
    programs = [measure.matmul_program(size), *map(measure.train_program, cases)]
    with plain_form():
        programs += map(measure.train_program, cases)
    peak, *seconds = measure.interleave(programs, flags.repeats)
    gflops = measure.matmul_peak(peak, size)["gflops_median"]
    pairs = zip(cases, seconds[: len(cases)], seconds[len(cases) :], strict=True)
    results = [compare(*each, gflops) for each in pairs]
    header = ["environment", "envs", "steps/s", "times the plain form", "min", "max", "times the committed"]
    measure.print_table(header, [cells(result) for result in results])
    measure.write_json(flags.json, {"machine": machine, "peak_gflops": gflops, "cases": results})


def make_case(quick: bool, env: str, num_envs: int, updates: int) -> measure.Case:
    """A short training."""
    if quick:
        return measure.Case(measure.make_config(env, 2, **measure.QUICK))
    return measure.Case(measure.make_config(env, updates, num_envs=num_envs))


@contextlib.contextmanager
def plain_form() -> Iterator[None]:
    """What is compiled here has none of the means that make it fast."""

    with (
        mock.patch.object(ActorCritic, "uses_table", return_value=False),
        mock.patch.object(ActorCritic, "microbatch_size", lambda networks, params, num_rows: num_rows),
        mock.patch.object(layers, "product", jnp.matmul),
    ):
        jax.clear_caches()
        yield
    jax.clear_caches()


def compare(case: measure.Case, seconds: list[float], plain_seconds: list[float], gflops: float) -> dict[str, Any]:
    """One case: its speed, its ratio to the plain form by rounds, and to the committed result."""
    speed = case.planned_steps / statistics.median(seconds)
    ratios = [plain / ours for ours, plain in zip(seconds, plain_seconds, strict=True)]
    committed = committed_speed(str(case.config.env), case.config.num_envs)
    return {
        "env": str(case.config.env),
        "num_envs": case.config.num_envs,
        "steps_per_second": speed,
        "times_plain": ratios,
        "times_committed": None if committed is None else speed / gflops / committed,
    }


def committed_speed(env: str, num_envs: int) -> float | None:
    """Steps per GFLOP of the peak in the committed results, None for a case that is not there."""
    report = json.loads(COMMITTED.read_text())
    speeds = {(case["env"], case["num_envs"]): case["steps_per_second"] for case in report["cases"]}
    speed = speeds.get((env, num_envs))
    return None if speed is None else speed / report["peak"]["gflops_median"]


def cells(result: dict[str, Any]) -> list[str]:
    """One line of the table."""
    ratios, committed = result["times_plain"], result["times_committed"]
    return [
        result["env"],
        str(result["num_envs"]),
        f"{result['steps_per_second']:,.0f}",
        *(f"{number:.2f}" for number in (statistics.median(ratios), min(ratios), max(ratios))),
        "-" if committed is None else f"{committed:.2f}",
    ]


if __name__ == "__main__":
    main(measure.parse(measure.TimingFlags, __doc__))
