"""What the benchmarks share: flags, compiling, interleaved timing, FLOPs, the machine, output."""

import dataclasses
import json as json_format
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import tyro
from jax import Array

from purejaxppo.config import Config
from purejaxppo.costs import flops_per_step
from purejaxppo.environments import name_of
from purejaxppo.errors import ConfigError
from purejaxppo.experiment.runs.provenance import provenance
from purejaxppo.networks import MLP
from purejaxppo.ppo import TrainState, bind, train

PRODUCTS = 4  # matrix products in one call of the peak
QUICK: dict[str, Any] = {"num_envs": 2, "num_steps": 8, "network": MLP(hidden_sizes=(8,))}  # sizes of a smoke run


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flags:
    """The flags of every benchmark; all numbers must be positive."""

    json: Path | None = None
    """file to write everything to"""
    quick: bool = False
    """a smoke run with tiny sizes; its numbers mean nothing"""

    def __post_init__(self) -> None:
        for field, value in vars(self).items():
            if isinstance(value, int | float) and not isinstance(value, bool) and not value > 0:
                raise ValueError(f"{field}={value}: must be positive")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TimingFlags(Flags):
    """The flags of the benchmarks that measure time."""

    repeats: int = 5
    """timed calls of each case, after one that is not timed"""


AnyFlags = TypeVar("AnyFlags", bound=Flags)


def parse(flags: type[AnyFlags], description: str | None) -> AnyFlags:
    """The command line; a bad one exits with status 2. To be called before anything is compiled.

    It switches the persistent compilation cache off, so that compile times are of compiling.
    """
    parsed = tyro.cli(flags, description=description)
    jax.config.update("jax_enable_compilation_cache", False)
    return parsed


class Program(NamedTuple):
    """A compiled function, how its arguments are made from a key, and the seconds that compiling it took."""

    compiled: Any  # jax.stages.Compiled
    prepare: Callable[[Array], tuple[Any, ...]]
    lower_seconds: float  # tracing and lowering to StableHLO, in Python
    compile_seconds: float  # compiling that, in XLA
    check: Callable[[Any], Any] = lambda outputs: None  # of the outputs of every call, off the clock


class Case(NamedTuple):
    """One configuration to train; `num_seeds` agents under `jax.vmap`, or None for `train` as it is."""

    config: Config
    num_seeds: int | None = None

    @property
    def planned_steps(self) -> int:
        """Environment steps of one call, each counted once."""
        return (self.num_seeds or 1) * self.config.num_updates * self.config.num_envs * self.config.num_steps


def make_config(env: str, updates: int, **sizes: Any) -> Config:
    """The defaults (T = 128, two 64x64 tanh towers, 4 epochs, 4 minibatches) but for `sizes`, for so many updates.

    Without value clipping, as all results were measured.
    """
    batch_size = sizes.get("num_envs", Config.num_envs) * sizes.get("num_steps", Config.num_steps)
    return Config(env=env, total_timesteps=updates * batch_size, clip_value=False, **sizes)


def compile_program(function: Callable[..., Any], prepare: Callable[[Array], tuple[Any, ...]]) -> Program:
    """`function` compiled ahead of time for the arguments that `prepare` makes."""
    arguments = prepare(jax.random.key(0))
    begin = time.perf_counter()
    lowered = jax.jit(function).lower(*arguments)
    middle = time.perf_counter()
    compiled = lowered.compile()
    return Program(compiled, prepare, middle - begin, time.perf_counter() - middle)


def train_program(case: Case) -> Program:
    """The program of a whole training, initialisation included."""
    config, num_seeds = case
    if num_seeds is None:
        program = compile_program(train, lambda key: (config, key))
    else:
        many = jax.vmap(train, in_axes=(None, 0))
        program = compile_program(many, lambda key: (config, jax.random.split(key, num_seeds)))
    return program._replace(check=lambda outputs: count_steps(case, outputs[0]))


def matmul_program(size: int) -> Program:
    """A chain of `PRODUCTS` float32 products of square matrices, at JAX's default precision, like the networks'.

    The chain is one loop in one program: the page faults of fresh output buffers are not timed.
    """

    def prepare(key: Array) -> tuple[Array, Array]:
        x, y = jax.random.normal(key, (2, size, size))
        return x, y / size**0.5  # which keeps the numbers of the chain near 1

    return compile_program(lambda x, y: jax.lax.fori_loop(0, PRODUCTS, lambda _, x: x @ y, x), prepare)


def matmul_size(flags: Flags) -> int:
    """Rows and columns of the matrices whose product is the peak."""
    return 128 if flags.quick else 2048


def matmul_peak(seconds: Sequence[float], size: int) -> dict[str, Any]:
    """GFLOP/s of the matrix product, from the seconds of the calls of `matmul_program(size)`."""
    gflop = PRODUCTS * 2 * size**3 / 1e9
    median, best = gflop / statistics.median(seconds), gflop / min(seconds)
    return {"size": size, "products": PRODUCTS, "seconds": seconds, "gflops_median": median, "gflops_best": best}


def call(program: Program, key: Array) -> tuple[float, Any]:
    """The seconds of one call, until all outputs are there, and the outputs."""
    arguments = jax.block_until_ready(program.prepare(key))
    begin = time.perf_counter()
    outputs = jax.block_until_ready(program.compiled(*arguments))
    seconds = time.perf_counter() - begin
    program.check(outputs)
    return seconds, outputs


def interleave(programs: Sequence[Program], repeats: int) -> list[list[float]]:
    """The seconds of `repeats` calls of each program, `[program][repeat]`, every call with a new key.

    In each round every program has its turn, so that a slow spell of the machine hits them all alike. One more round,
    the first, warms them up and does not count.
    """
    keys = jax.random.split(jax.random.key(1), (repeats + 1, len(programs)))
    _, *rounds = [[call(program, key)[0] for program, key in zip(programs, row, strict=True)] for row in keys]
    return [list(seconds) for seconds in zip(*rounds, strict=True)]


def count_steps(case: Case, state: TrainState) -> int:
    """The environment steps that led to `state`, as the program counted its updates; they must be those planned."""
    steps = int(jnp.sum(state.num_updates)) * case.config.batch_size
    assert steps == case.planned_steps, f"{steps} steps done, {case.planned_steps} planned"
    return steps


def run(cases: Sequence[Case], flags: TimingFlags) -> dict[str, Any]:
    """Compile and time the cases, interleaved with the matrix product, and print a table of them.

    Returns:
        The machine, the peak and the cases, ready for JSON.
    """
    record = machine()
    programs = [*map(train_program, cases)]
    peak_seconds, *seconds = interleave([matmul_program(matmul_size(flags)), *programs], flags.repeats)
    peak = matmul_peak(peak_seconds, matmul_size(flags))
    results = [result(*row, peak["gflops_median"]) for row in zip(cases, programs, seconds, strict=True)]
    print_results(results)
    print(f"\npeak: {peak['gflops_median']:.1f} GFLOP/s (best {peak['gflops_best']:.1f}), a float32 matrix product")
    return {"machine": record, "peak": peak, "cases": results}


def result(case: Case, program: Program, seconds: list[float], peak_gflops: float) -> dict[str, Any]:
    """All that was measured of one case."""
    median = statistics.median(seconds)
    flops = flops_per_step(case.config)
    return {
        "env": name_of(case.config.env),
        "num_envs": case.config.num_envs,
        "num_steps": case.config.num_steps,
        "num_epochs": case.config.num_epochs,
        "num_minibatches": case.config.num_minibatches,
        "hidden_sizes": getattr(case.config.network, "hidden_sizes", None),
        "num_updates": case.config.num_updates,
        "num_seeds": case.num_seeds,
        "steps": case.planned_steps,
        "lower_seconds": program.lower_seconds,
        "compile_seconds": program.compile_seconds,
        "seconds": seconds,
        "seconds_median": median,
        "steps_per_second": case.planned_steps / median,
        "is_table": bind(case.config).uses_table(case.config.minibatch_size),
        "flops_per_step": flops,
        "fraction_of_peak": flops * case.planned_steps / median / (peak_gflops * 1e9),
    }


def print_results(results: Sequence[dict[str, Any]]) -> None:
    """One line per case; seconds are those of compiling (tracing, then XLA) and of calls (median, best, worst)."""
    header = ["environment", "envs", "seeds", "updates", "trace s", "XLA s", "run s", "min", "max", "steps/s", "peak %"]
    rows = [
        [
            r["env"],
            f"{r['num_envs']}",
            f"{r['num_seeds'] or '-'}",
            f"{r['num_updates']}",
            f"{r['lower_seconds']:.1f}",
            f"{r['compile_seconds']:.1f}",
            f"{r['seconds_median']:.3f}",
            f"{min(r['seconds']):.3f}",
            f"{max(r['seconds']):.3f}",
            f"{r['steps_per_second']:,.0f}",
            f"{100 * r['fraction_of_peak']:.2f}",
        ]
        for r in results
    ]
    print_table(header, rows)


def print_table(header: list[str], rows: list[list[str]]) -> None:
    """Columns aligned to the right, the first one to the left."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    for first, *others in [header, *rows]:
        cells = [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        print("  ".join([first.ljust(widths[0]), *cells]))


def machine() -> dict[str, Any]:
    """What the numbers depend on: hardware, versions, how busy the machine is now, date and command."""
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "load_average": os.getloadavg(),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        **provenance(),
    }


def _cpu_model() -> str:
    """The processor's name, from Linux where it says so."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor()


def measure_rows(
    cases: Sequence[tuple[str, Callable[[], dict[str, Any]]]],
    only: Sequence[str],
    cells: Callable[[dict[str, Any]], list[str]],
) -> list[dict[str, Any]]:
    """The rows of the cases that are asked for, each with the machine; one whose package is not there is left out.

    Args:
        cases: a name, and what measures the row; a name may occur more than once.
        only: the names that are asked for; all if there are none.
        cells: what is printed of a row.
    """
    record, rows = machine(), []
    for name, measure_row in [case for case in cases if not only or case[0] in only]:
        try:
            rows.append(measure_row() | {"machine": record})
            print(" | ".join(cells(rows[-1])), flush=True)
        except ConfigError as error:
            print(f"{name}: left out: {error}", flush=True)
    return rows


def write_rows(path: Path | None, rows: list[dict[str, Any]], same: Sequence[str]) -> None:
    """Write rows in place of those in the file that have the same names; the others stay.

    So rows that need different packages can be measured one after the other.
    """
    found = json_format.loads(path.read_text())["rows"] if path is not None and path.exists() else []
    new = {tuple(str(row[name]) for name in same): row for row in rows}
    old = {tuple(str(row[name]) for name in same): row for row in found}
    write_json(path, {"rows": [*(old | new).values()]})


def write_json(path: Path | None, report: dict[str, Any]) -> None:
    """Write the report, if there is a path to write it to."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json_format.dumps(report, indent=2) + "\n")
