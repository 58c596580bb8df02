"""Environment steps per second of one agent, for several environments and sizes."""

import dataclasses
import statistics
from typing import Any

import measure

CASES = (  # environment, number of environments, updates: about a second or two on two CPU cores
    ("GridWorld-dragons", 1024, 30),
    ("CartPole-v1", 1024, 4),
    ("CartPole-v1", 64, 20),
    ("CartPole-v1", 4, 250),
    ("Breakout-MinAtar", 64, 5),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flags(measure.TimingFlags):
    """The flags of this benchmark."""

    scale: float = 1.0
    """factor of the number of updates of each case"""


def main(flags: Flags) -> None:
    """Measure all cases, and compare the first two."""
    cases = CASES[:2] if flags.quick else CASES
    report = measure.run([make_case(flags, *case) for case in cases], flags)
    report["ratio"] = compare(*report["cases"][:2])
    measure.write_json(flags.json, report)


def make_case(flags: Flags, env: str, num_envs: int, updates: int) -> measure.Case:
    """One agent, trained for `updates` updates times the scale."""
    if flags.quick:
        return measure.Case(measure.make_config(env, 2, **measure.QUICK))
    return measure.Case(measure.make_config(env, max(1, round(updates * flags.scale)), num_envs=num_envs))


def compare(case: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Print and return how many times the steps per second of the other the case reaches.

    The ratio is one of medians; its range is over the rounds, in each of which the two ran one after the other.
    """
    ratio = case["steps_per_second"] / other["steps_per_second"]
    per_step = zip(case["seconds"], other["seconds"], strict=True)
    rounds = [(case["steps"] / mine) / (other["steps"] / theirs) for mine, theirs in per_step]
    names = [f"{c['env']}/{c['num_envs']}" for c in (case, other)]
    print(f"{' to '.join(names)}: {ratio:.2f} times the steps/s ({min(rounds):.2f} to {max(rounds):.2f} in a round)")
    return {"cases": names, "of_medians": ratio, "rounds": rounds, "median_of_rounds": statistics.median(rounds)}


if __name__ == "__main__":
    main(measure.parse(Flags, __doc__))
