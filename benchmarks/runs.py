"""What a run costs beside the bare `train`: time, memory over its length, and the start of a second process."""

import dataclasses
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import measure

from purejaxppo import Config
from purejaxppo.cli.progress import in_words
from purejaxppo.experiment import Progress, RunOptions, run
from purejaxppo.experiment.runs import files

STEPS = 50_000_000
CASES = (  # name, number of environments, steps of each, so that an update is large, and small
    ("GridWorld-dragons", 1024, 128),
    ("GridWorld-treasure", 64, 32),
)
STARTS = (  # flags of a job that is started again and again
    ("--env", "GridWorld-dragons", "--num-envs", "1024", "--total-timesteps", f"{STEPS}"),
    (),  # the main job: 1,024 agents
)
HEADER = ["environment", "updates", "bare s", "run s", "run / bare", "min", "max", "evaluated / bare", "MB growth"]
STARTS_HEADER = ["purejaxppo", "first start, s to update 1", "later starts", "min", "max"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flags(measure.TimingFlags):
    """The flags of this benchmark."""

    steps: int = STEPS
    """environment steps of each training"""


def main(flags: Flags) -> None:
    """Measure all three."""
    report = {"machine": measure.machine(), "cost": cost(flags), "starts": starts(flags)}
    measure.write_json(flags.json, report)


def cost(flags: Flags) -> list[dict[str, Any]]:
    """Trainings, bare and as runs with progress and checkpoints, without and with the evaluations; interleaved."""
    results = []
    for env, num_envs, num_steps in CASES[-1:] if flags.quick else CASES:
        sizes = measure.QUICK if flags.quick else {"num_envs": num_envs, "num_steps": num_steps}
        config = Config(env=env, total_timesteps=1000 if flags.quick else flags.steps, **sizes)
        program = measure.train_program(measure.Case(config))
        bare: list[float] = []
        runs: dict[str, list[Call]] = {"run": [], "evaluated": []}
        for repeat in range(flags.repeats + 1):
            key = jax.random.key(repeat)
            bare.append(measure.call(program, key)[0])
            runs["run"].append(call(config, key, RunOptions(num_evaluations=0)))
            runs["evaluated"].append(call(config, key, RunOptions()))
        results.append(result(config, bare[1:], {name: calls[1:] for name, calls in runs.items()}))  # but the warm-up
    measure.print_table(HEADER, [cells(result) for result in results])
    print("growth: of the process's memory from the first to the last tenth of a run\n")
    return results


class Call(NamedTuple):
    """One run."""

    seconds: float  # of all of it but compiling
    growth: float  # MB


def call(config: Config, key: jax.Array, options: RunOptions) -> Call:
    """Run it in a new directory, which is deleted, with its progress written to nowhere."""
    memory: list[float] = []
    with tempfile.TemporaryDirectory() as place, open(os.devnull, "w") as nowhere:

        def callback(progress: Progress) -> None:
            print(in_words(progress), file=nowhere)
            if progress.num_updates >= progress.total_updates / 10:
                memory.append(megabytes())

        directory = Path(place) / "run"
        begin = time.perf_counter()
        jax.block_until_ready(run(config, key, directory, options=options, callback=callback)[0])
        seconds = time.perf_counter() - begin
        return Call(seconds - files.read_json(directory / files.SUMMARY)["seconds"]["compile"], memory[-1] - memory[0])


def result(config: Config, bare: list[float], runs: dict[str, list[Call]]) -> dict[str, Any]:
    """All that was measured of one case."""
    return {
        "env": config.env,
        "num_envs": config.num_envs,
        "num_steps": config.num_steps,
        "num_updates": config.num_updates,
        "seconds_bare": bare,
        **{f"seconds_{name}": [call.seconds for call in calls] for name, calls in runs.items()},
        **{f"ratios_{name}": [c.seconds / b for c, b in zip(calls, bare, strict=True)] for name, calls in runs.items()},
        **{f"growth_megabytes_{name}": [call.growth for call in calls] for name, calls in runs.items()},
    }


def cells(result: dict[str, Any]) -> list[str]:
    """One line of the table: medians, and the range of the ratios."""
    ratios = result["ratios_run"]
    return [
        result["env"],
        f"{result['num_updates']:,}",
        *(f"{statistics.median(result[name]):.2f}" for name in ("seconds_bare", "seconds_run")),
        *(f"{summary(ratios):.3f}" for summary in (statistics.median, min, max)),
        f"{statistics.median(result['ratios_evaluated']):.3f}",
        f"{statistics.median(result['growth_megabytes_run']):+.1f}",
    ]


def megabytes() -> float:
    """The memory that this process holds now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def starts(flags: Flags) -> list[dict[str, Any]]:
    """Seconds from the start of a process to its first update, imports included: with an empty cache, and after."""
    results = []
    small = [f"--{name.replace('_', '-')}={value}" for name, value in measure.QUICK.items() if name != "network"]
    for case in STARTS[-1:] if flags.quick else STARTS:
        with tempfile.TemporaryDirectory() as cache:
            seconds = [start([*case, *(small if flags.quick else [])], cache) for _ in range(flags.repeats + 1)]
        results.append({"flags": case, "seconds_first": seconds[0], "seconds_again": seconds[1:]})
    measure.print_table(STARTS_HEADER, [starts_cells(result) for result in results])
    return results


def starts_cells(result: dict[str, Any]) -> list[str]:
    """One line of the table of starts."""
    again = [f"{summary(result['seconds_again']):.2f}" for summary in (statistics.median, min, max)]
    return [shlex.join(["train", *result["flags"]]), f"{result['seconds_first']:.2f}", *again]


def start(flags: list[str], cache: str) -> float:
    """The seconds of one start; the process is killed after its first update."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    with tempfile.TemporaryDirectory() as place:
        command = [sys.executable, "-m", "purejaxppo", "train", *flags, "--directory", f"{place}/run"]
        begin = time.perf_counter()
        process = subprocess.Popen(
            command, env=variables | {"XDG_CACHE_HOME": cache}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        with process:
            assert process.stderr is not None
            line = process.stderr.readline()
            seconds = time.perf_counter() - begin
            process.kill()
    assert line.startswith(b"update "), line
    return seconds


if __name__ == "__main__":
    main(measure.parse(Flags, __doc__))
