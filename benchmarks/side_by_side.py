"""Speed of purejaxppo and of other PPOs on the same work, side by side in one run.

Every peer runs in a process and a virtual environment of its own, made here from pinned requirements. While one is
timed, all others wait for their turn. What cannot be installed or run is reported with the reason.

PureJaxRL and CleanRL are no packages; their checkouts are given by path:

    git clone https://github.com/luchris429/purejaxrl && git -C purejaxrl checkout 31756b1
    git clone https://github.com/vwxyzjn/cleanrl && git -C cleanrl checkout fe8d8a0
    python benchmarks/side_by_side.py --purejaxrl purejaxrl --cleanrl cleanrl --json side_by_side.json
"""

import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import measure

PEER_FILES = Path(__file__).parent / "peers"
sys.path.insert(0, str(PEER_FILES))
from protocol import Task  # noqa: E402

OURS = "ours"
WARM_UP_SEED, FIRST_SEED = 0, 1

ONE_HOT = "reads the gridworlds as one-hot vectors, having no discrete observations"
ONE_THREAD = "torch has one thread, which is its fastest setting on two cores"
TRUNCATION = "takes the time limit for a termination"
VALUE_CLIPPING = "clips the change of the value, without a switch"
TWO_OPTIMISERS = "policy and value are two networks with an optimiser and a gradient norm each, updated in turn"
NO_ORTHOGONAL = "its initialisation is not orthogonal"
EAGER = "one Python process steps the environments one by one, and launches every operation"
KEEPS_LEARNING = "where only the speed counts, a call goes on training the model of the call before"


class Peer(NamedTuple):
    """A contestant."""

    title: str
    differences: tuple[str, ...] = ()  # from ours, on the same task
    checkout: str = ""  # where a peer that is no package is got from
    not_comparable: str = ""  # why it cannot train on these environments


PEERS = {
    OURS: Peer("purejaxppo"),
    "rejax": Peer(
        "rejax",
        (
            "clips every element of a gradient, not its norm",
            "Adam's eps is 1e-8",
            VALUE_CLIPPING,
            TRUNCATION,
            TWO_OPTIMISERS,
            NO_ORTHOGONAL,
            ONE_HOT,
            "its evaluations are not timed, and it computes no metrics",
        ),
    ),
    "purejaxrl": Peer(
        "PureJaxRL",
        (
            VALUE_CLIPPING,
            TRUNCATION,
            ONE_HOT,
            "returns the episode statistics of every step, not of every update",
            "under vmap its orthogonal initialisation, which deadlocks on a CPU, is a Gaussian of the same scale",
        ),
        checkout="https://github.com/luchris429/purejaxrl (31756b1)",
    ),
    "navix": Peer(
        "navix",
        (
            "computes values and advantages anew in every epoch",
            TRUNCATION,
            ONE_HOT,
            "discounts by gamma to the power of the time in the episode",
            "its own clock is part of the program, so that the compilation cache never finds it",
            "the step after an episode's end is spent on the reset, and counted and learned from",
            "returns the episode statistics of every step, not of every update",
            "runs on navix's own interface, so here on the gridworlds alone",
        ),
    ),
    "sb3": Peer("Stable-Baselines3", (EAGER, KEEPS_LEARNING, ONE_THREAD, ONE_HOT)),
    "sbx": Peer("SBX", (EAGER, KEEPS_LEARNING, ONE_HOT, TWO_OPTIMISERS, NO_ORTHOGONAL)),
    "cleanrl": Peer(
        "CleanRL",
        (EAGER, ONE_THREAD, TRUNCATION, ONE_HOT, "writes a TensorBoard log"),
        checkout="https://github.com/vwxyzjn/cleanrl (fe8d8a0)",
    ),
    "brax": Peer(
        "brax",
        not_comparable="its PPO has distributions over continuous actions alone; these environments' are discrete",
    ),
}

JITTED, EAGERS = ("rejax", "purejaxrl"), ("sb3", "sbx", "cleanrl")


class Case(NamedTuple):
    """A task and the peers that take part beside ours."""

    task: Task
    peers: tuple[str, ...]


CASES = {
    "dragons-1024": Case(Task(env="dragons", num_envs=1024, updates=10), (*JITTED, "navix", "brax")),
    "cartpole-1024": Case(Task(env="CartPole-v1", num_envs=1024, updates=4), JITTED),
    "cartpole-64": Case(Task(env="CartPole-v1", num_envs=64, updates=20), JITTED),
    "cartpole-4": Case(Task(env="CartPole-v1", num_envs=4, updates=250), JITTED),
    "breakout-64": Case(Task(env="Breakout-MinAtar", num_envs=64, updates=5), JITTED),
    "cartpole-8": Case(Task(env="CartPole-v1", num_envs=8, updates=40), EAGERS),
    "dragons-8": Case(Task(env="dragons", num_envs=8, updates=40), EAGERS),
    "treasure-256-seeds": Case(Task(env="treasure", num_envs=64, updates=4, num_seeds=256), JITTED),
    "treasure-256-seeds-of-16": Case(Task(env="treasure", num_envs=16, updates=8, num_seeds=256), JITTED),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProcessFlags(measure.Flags):
    """The flags of the benchmarks that run CleanRL, or other peers too."""

    environments: Path = Path(__file__).parent / ".peers"
    """folder of the peers' virtual environments, which are made where they are missing"""
    cleanrl: Path | None = None
    """a checkout of CleanRL"""
    timeout: float = 900.0
    """seconds after which a peer that does not answer is given up"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PeerFlags(ProcessFlags):
    """The flags of the benchmarks that run all peers."""

    peers: tuple[str, ...] = tuple(name for name in PEERS if name != OURS)
    """those to run beside purejaxppo"""
    purejaxrl: Path | None = None
    """a checkout of PureJaxRL"""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_names("peers", PEERS)

    def check_names(self, field: str, allowed: Iterable[str]) -> None:
        """Refuse names that are not allowed."""
        for name in getattr(self, field):
            if name not in allowed:
                raise ValueError(f"{field}={name!r}: must be among {', '.join(allowed)}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flags(PeerFlags, measure.TimingFlags):
    """The flags of this benchmark."""

    cases: tuple[str, ...] = tuple(CASES)
    """those to run"""
    scale: float = 1.0
    """factor of the number of updates of each case"""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_names("cases", CASES)


class Failed(Exception):
    """A peer cannot be installed or run, for the reason that is its message."""


def python_of(name: str, environments: Path) -> Path:
    """The Python of a peer's virtual environment, which is made unless it is there with the same requirements."""
    if name == OURS:
        return Path(sys.executable)
    requirements = PEER_FILES / "requirements" / f"{name}.txt"
    folder = environments.resolve() / name
    python, installed = folder / "bin" / "python", folder / "installed.txt"
    # The note is written last, so that an environment that was left half-made is made anew.
    if not installed.exists() or installed.read_text() != requirements.read_text():
        print(f"installing {name} into {folder}", flush=True)
        install([sys.executable, "-m", "venv", "--clear", str(folder)])
        install([str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", "-r", str(requirements)])
        installed.write_text(requirements.read_text())
    return python


def install(command: list[str]) -> None:
    """Run one step of installing a peer."""
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        raise Failed(f"cannot be installed: {last_line(result.stderr or result.stdout)}")


def last_line(text: str) -> str:
    """The last line of an error's output that says something."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "it said nothing"


def command_of(name: str, task: Task, flags: ProcessFlags) -> list[str]:
    """The command that starts a peer's runner on a task."""
    if PEERS[name].not_comparable:
        raise Failed(f"not comparable: {PEERS[name].not_comparable}")
    if PEERS[name].checkout:
        checkout = getattr(flags, name)
        if checkout is None:
            raise Failed(f"needs --{name} with the path of a checkout of {PEERS[name].checkout}")
        task = dataclasses.replace(task, checkout=str(checkout.resolve()))
    python = python_of(name, flags.environments)
    return [str(python), str(PEER_FILES / f"run_{name}.py"), json.dumps(dataclasses.asdict(task))]


class Contestant:
    """A peer's process."""

    def __init__(self, command: Sequence[str], timeout: float, cache: str | None = None) -> None:
        """Start it, with JAX's persistent compilation cache in the folder `cache`, or without any."""
        settings = {"JAX_ENABLE_COMPILATION_CACHE": "false"}
        if cache is not None:
            settings = {"JAX_COMPILATION_CACHE_DIR": cache, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
        self.timeout = timeout
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self.begin = time.perf_counter()
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            env=os.environ | settings,
        )

    def __enter__(self) -> "Contestant":
        return self

    def __exit__(self, *exception: object) -> None:
        self.process.kill()
        self.process.communicate()
        self.errors.close()

    def hear(self) -> dict[str, Any]:
        """Its next answer."""
        timer = threading.Timer(self.timeout, self.process.kill)
        timer.start()
        line = self.process.stdout.readline()
        late = not timer.is_alive()
        timer.cancel()
        if not line:
            self.errors.seek(0)
            raise Failed(f"no answer within {self.timeout:g} s" if late else last_line(self.errors.read()))
        return json.loads(line)

    def ask(self, seed: int) -> dict[str, Any]:
        """Its answer after a training with this seed."""
        with suppress(BrokenPipeError):  # it has died then, and `hear` says of what
            print(seed, file=self.process.stdin, flush=True)
        return self.hear()

    def finish(self) -> dict[str, Any]:
        """Its last answer."""
        self.process.stdin.close()
        self.process.stdin = None
        return self.hear()


def start(command: Sequence[str], timeout: float, stack: ExitStack) -> tuple[Contestant, dict[str, Any]]:
    """A contestant after its first training, and what is known of it."""
    contestant = stack.enter_context(Contestant(command, timeout))
    ready = contestant.hear()
    contestant.ask(WARM_UP_SEED)
    return contestant, {**ready, "process_seconds": time.perf_counter() - contestant.begin, "seconds": []}


def warm_compile(command: Sequence[str], timeout: float) -> float:
    """The seconds that compiling takes in a second process, which finds the program of the first one in the cache."""
    with tempfile.TemporaryDirectory() as cache:
        for _ in range(2):
            with Contestant(command, timeout, cache) as contestant:
                seconds = contestant.hear()["compile_seconds"]
    return seconds


def attempt(rows: Sequence[dict[str, Any]], act: Callable[[dict[str, Any]], None]) -> None:
    """Let one peer after the other act; one that fails gets the reason into its row, and is left out from then on."""
    for row in [row for row in rows if "reason" not in row]:
        try:
            act(row)
        except Failed as failed:
            row["reason"] = str(failed)


def run_case(name: str, flags: Flags) -> dict[str, Any]:
    """Run the contestants of a case in interleaved rounds."""
    task, peers = CASES[name]
    task = dataclasses.replace(task, updates=max(1, round(task.updates * flags.scale)))
    if flags.quick:
        task = dataclasses.replace(task, num_envs=4, num_steps=8, updates=2, num_seeds=task.num_seeds and 2)
    rows: list[dict[str, Any]] = [{"peer": peer} for peer in (OURS, *flags.peers) if peer in (OURS, *peers)]

    commands: dict[str, list[str]] = {}
    contestants: dict[str, Contestant] = {}

    def begin(row: dict[str, Any], stack: ExitStack) -> None:
        commands[row["peer"]] = command_of(row["peer"], task, flags)
        contestants[row["peer"]], measured = start(commands[row["peer"]], flags.timeout, stack)
        row.update(measured)

    def train(row: dict[str, Any], seed: int) -> None:
        answer = contestants[row["peer"]].ask(seed)
        assert answer["steps"] == task.steps
        row["seconds"].append(answer["seconds"])

    def compile_again(row: dict[str, Any]) -> None:
        compiles = row["compile_seconds"] is not None
        row["warm_compile_seconds"] = warm_compile(commands[row["peer"]], flags.timeout) if compiles else None

    with ExitStack() as stack:
        attempt(rows, partial(begin, stack=stack))
        for seed in range(FIRST_SEED, FIRST_SEED + flags.repeats):
            attempt(rows, partial(train, seed=seed))
        attempt(rows, lambda row: row.update(contestants[row["peer"]].finish()))
    attempt(rows, compile_again)
    for row in rows:
        compare(row, rows[0])
    return {"case": name, "task": dataclasses.asdict(task), "steps": task.steps, "contestants": rows}


def compare(row: dict[str, Any], ours: dict[str, Any]) -> None:
    """Add its steps/s to a row, and how many times as many are ours, by rounds; nothing to one that failed."""
    if "reason" in row:
        return
    row["steps_per_second"] = row["steps"] / statistics.median(row["seconds"])
    if "reason" not in ours:
        # All make the same steps, so that the ratio of the speeds is that of the seconds.
        row["ratios"] = [theirs / mine for mine, theirs in zip(ours["seconds"], row["seconds"], strict=True)]
        row["ratio"] = statistics.median(row["ratios"])


def print_case(case: dict[str, Any]) -> None:
    """One line per contestant; seconds are of calls (median, best, worst)."""
    print(f"\n{case['case']}: {case['steps']:,} steps a call")
    header = ["peer", "steps/s", "run s", "min", "max", "ours/peer", "min", "max"]
    header += ["cold compile s", "warm", "process s", "peak MB"]
    measure.print_table(header, [cells(row) for row in case["contestants"] if "reason" not in row])
    print_reasons(case["contestants"])


def print_reasons(rows: Sequence[dict[str, Any]]) -> None:
    """Why those that failed did."""
    for row in rows:
        if "reason" in row:
            print(f"{row['peer']}: {row['reason']}")


def print_differences(peers: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Print and return what remains different from ours on the same task."""
    print("\nDifferences from ours that remain:")
    for peer in peers:
        for difference in PEERS[peer].differences:
            print(f"  {PEERS[peer].title}: {difference}")
    return {peer: PEERS[peer].differences for peer in peers}


def cells(row: dict[str, Any]) -> list[str]:
    """A contestant's line of the table."""
    seconds, ratios = row["seconds"], row.get("ratios", [])
    numbers = [(statistics.median(seconds), 3), (min(seconds), 3), (max(seconds), 3)]
    numbers += [(row.get("ratio"), 2), (min(ratios, default=None), 2), (max(ratios, default=None), 2)]
    numbers += [(row["compile_seconds"], 1), (row["warm_compile_seconds"], 1), (row["process_seconds"], 1)]
    numbers += [(row["peak_bytes"] / 1e6, 0)]
    texts = ["-" if number is None else f"{number:.{digits}f}" for number, digits in numbers]
    return [row["peer"], f"{row['steps_per_second']:,.0f}", *texts]


def main(flags: Flags) -> None:
    """Run all cases."""
    report: dict[str, Any] = {"machine": measure.machine(), "cases": []}
    for name in flags.cases:
        report["cases"].append(run_case(name, flags))
        print_case(report["cases"][-1])
    taking_part = [peer for peer in flags.peers if any(peer in CASES[case].peers for case in flags.cases)]
    report["differences"] = print_differences(taking_part)
    measure.write_json(flags.json, report)


if __name__ == "__main__":
    main(measure.parse(Flags, __doc__))
