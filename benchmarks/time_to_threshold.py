"""Seconds and steps that purejaxppo and other PPOs take to a mean return of 475 on CartPole-v1, over many seeds.

The return is the mean over the episodes that ended in an update; rejax, which tells none, is evaluated after every
update on 128 episodes. The seconds are those of a fresh process, from its start: importing, compiling, and the
training's seconds up to the update that reaches the return, at the same pace for every update. Looking at the returns
is not timed where the training does not need it. The processes of the peers take turns.
"""

import dataclasses
import statistics
import time
from collections.abc import Iterable
from functools import partial
from typing import Any

import measure
import side_by_side
from protocol import Task

THRESHOLD = 475.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flags(side_by_side.PeerFlags):
    """The flags of this benchmark."""

    seeds: int = 20
    """trainings of each peer"""
    processes: int = 5
    """fresh processes of each peer, over which its seeds are spread"""
    num_envs: int = 8
    """environments of one agent"""
    updates: int = 100
    """updates of a training, over which the learning rate is annealed"""
    lr: float = 2.5e-3
    """learning rate; 2.5e-4, with 4 environments and 976 updates, makes the defaults of CleanRL"""
    peers: tuple[str, ...] = (*side_by_side.JITTED, *side_by_side.EAGERS)
    """those to run beside purejaxppo"""


def first_reach(returns: list[float | None], threshold: float) -> int | None:
    """How many updates it takes until the return reaches the threshold, None if it never does."""
    return next((count for count, value in enumerate(returns, 1) if value is not None and value >= threshold), None)


def run_process(row: dict[str, Any], task: Task, seeds: Iterable[int], flags: Flags) -> None:
    """Train with some seeds in a fresh process of a peer, and add what comes of it to its row."""
    command = side_by_side.command_of(row["peer"], task, flags)
    with side_by_side.Contestant(command, flags.timeout) as contestant:
        row["versions"] = contestant.hear()["versions"]
        start_seconds = time.perf_counter() - contestant.begin
        for seed in seeds:
            answer = contestant.ask(seed)
            count = first_reach(answer["returns"], THRESHOLD)
            seconds = None if count is None else start_seconds + answer["seconds"] * count / task.updates
            row["trainings"].append({**answer, "seed": seed, "start_seconds": start_seconds, "updates": count})
            row["seconds"].append(seconds)
            row["steps"].append(None if count is None else count * task.batch_size)


def all_seconds(row: dict[str, Any]) -> float:
    """The seconds in which one process that does one seed after the other has brought all of them there."""
    start = statistics.median(training["start_seconds"] for training in row["trainings"])
    each = [
        float("inf") if seconds is None else seconds - training["start_seconds"]
        for seconds, training in zip(row["seconds"], row["trainings"], strict=True)
    ]
    return start + sum(each)


def cells(row: dict[str, Any]) -> list[str]:
    """A peer's line of the table; the medians are over all seeds, with those that never reach it beyond any other."""
    reached = sum(steps is not None for steps in row["steps"])
    texts = [f"{reached}/{len(row['steps'])}"]
    for key, digits in (("seconds", 1), ("steps", 0)):
        values = [float("inf") if value is None else value for value in row[key]]
        texts += [f"{value:,.{digits}f}" for value in (statistics.median(values), min(values), max(values))]
    return [row["peer"], *texts, f"{all_seconds(row):,.1f}"]


def main(flags: Flags) -> None:
    """Run all peers, and print a table."""
    task = Task(env="CartPole-v1", num_envs=flags.num_envs, updates=flags.updates, lr=flags.lr, curve=True)
    if flags.quick:
        task = dataclasses.replace(task, num_envs=4, num_steps=8, updates=2)
    names, machine = (side_by_side.OURS, *flags.peers), measure.machine()
    rows: list[dict[str, Any]] = [{"peer": name, "seconds": [], "steps": [], "trainings": []} for name in names]
    for number in range(flags.processes):
        seeds = range(number, flags.seeds, flags.processes)
        side_by_side.attempt(rows, partial(run_process, task=task, seeds=seeds, flags=flags))
    header = ["peer", "reached", "seconds", "min", "max", "steps", "min", "max", "all seeds s"]
    measure.print_table(header, [cells(row) for row in rows if "reason" not in row])
    side_by_side.print_reasons(rows)
    differences = side_by_side.print_differences(flags.peers)
    report = {"task": dataclasses.asdict(task), "threshold": THRESHOLD, "peers": rows, "differences": differences}
    measure.write_json(flags.json, {"machine": machine, **report})


if __name__ == "__main__":
    main(measure.parse(Flags, __doc__))
