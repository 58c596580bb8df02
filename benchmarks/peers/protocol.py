"""What a runner and the benchmark say to each other, one line of JSON at a time.

A runner is started with a task as its one argument and says when it is ready. For every seed on its standard input it
runs a whole training and answers. At the end of the input it tells its peak memory. Between answers it is idle.

Nothing but the standard library is imported here: every peer has an environment of its own.
"""

import dataclasses
import hashlib
import importlib.metadata
import json
import os
import platform
import resource
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

GRIDWORLDS = ("dragons", "treasure")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """What to train, the same for every peer. The defaults are those of CleanRL's `ppo.py`, but for value clipping."""

    env: str  # "CartPole-v1", "Breakout-MinAtar", or the name of a gridworld's map
    num_envs: int
    updates: int
    num_seeds: int | None = None  # agents trained at once by `jax.vmap`; None is one agent without it
    num_steps: int = 128
    num_epochs: int = 4
    num_minibatches: int = 4
    hidden_sizes: tuple[int, ...] = (64, 64)
    lr: float = 2.5e-4
    gamma: float = 0.99
    gae_lambda: float = 0.95
    clip_eps: float = 0.2
    vf_coef: float = 0.5  # of half the mean squared error
    ent_coef: float = 0.01
    max_grad_norm: float = 0.5
    adam_eps: float = 1e-5
    clip_value: bool = False  # read by CleanRL and ours; others always clip, or never
    episodes: int = 0  # of the greedy policy after training, to be answered by CleanRL
    curve: bool = False  # whether the answers tell the return of every update
    checkout: str | None = None  # where a peer that is not a package lies

    @property
    def batch_size(self) -> int:
        """Environment steps of one agent's update."""
        return self.num_envs * self.num_steps

    @property
    def timesteps(self) -> int:
        """Environment steps of one agent's training."""
        return self.updates * self.batch_size

    @property
    def steps(self) -> int:
        """Environment steps of a call, each counted once."""
        return (self.num_seeds or 1) * self.timesteps

    @property
    def gradient_steps(self) -> int:
        """Gradient steps of one agent's update."""
        return self.num_epochs * self.num_minibatches


class Outcome(NamedTuple):
    """What a training tells of itself."""

    steps: int  # environment steps, as the peer's own program counted them
    returns: Sequence[float | None] | None = None  # of each update, if the task asks: mean return of ended episodes
    greedy_return: float | None = None  # if the task asks: the mean return of the greedy policy


class Training(NamedTuple):
    """A training that is ready to run."""

    run: Callable[[int], Any]  # from a seed to the outputs, all of them computed when it returns
    outcome: Callable[[Any], Outcome]  # from these outputs; not timed
    compile_seconds: float | None = None  # None: the peer compiles nothing ahead of time


def serve(prepare: Callable[[Task], Training], packages: Sequence[str], source: str | None = None) -> None:
    """Be a runner: `prepare` makes the training of a task, `packages` are those whose versions matter.

    `source` is the file in the task's checkout that is run; its hash stands for its version.
    """
    # Whatever a peer prints goes to standard error, so that it cannot be taken for an answer.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(**values: Any) -> None:
        print(json.dumps(values), file=answers, flush=True)

    task = Task(**json.loads(sys.argv[1]))
    versions = {package: importlib.metadata.version(package) for package in packages}
    if source is not None:
        versions[source] = hashlib.sha256(Path(str(task.checkout), source).read_bytes()).hexdigest()[:12]
    training = prepare(task)
    versions["python"] = platform.python_version()
    answer(compile_seconds=training.compile_seconds, steps=task.steps, versions=versions)
    for line in sys.stdin:
        seed = int(line)
        begin = time.perf_counter()
        outputs = training.run(seed)
        seconds = time.perf_counter() - begin
        outcome = training.outcome(outputs)
        assert outcome.steps == task.steps, f"{outcome.steps} steps were made, {task.steps} were planned"
        answer(seconds=seconds, **outcome._asdict())
        del outputs
    scale = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux kilobytes
    answer(peak_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale)
