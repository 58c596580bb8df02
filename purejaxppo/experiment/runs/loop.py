"""The loop on the host: chunks of updates on the device, and between them what must be written down.

All chunks are calls of one compiled program, which takes the number of updates as data. So how a run is cut into
chunks, which the clock decides, has no effect on a single bit; nor has stopping and going on.
"""

import contextlib
import hashlib
import json
import logging
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from purejaxppo.config import Config
from purejaxppo.evaluation import evaluate, optimality
from purejaxppo.experiment.runs import checkpoints, files, logs
from purejaxppo.experiment.runs.files import ACCOUNT, CHECKPOINTS
from purejaxppo.keys import is_key
from purejaxppo.policies import knows_optimum
from purejaxppo.ppo import Metrics, TrainState, init, update
from purejaxppo.settings import COUNT, NON_NEGATIVE, WHOLE, Settings, static

RUN_EVALUATION = 0x72756E  # folded into a run's key, for random numbers that training never draws
HOST_SHARE = 0.02  # of the time, at most, is spent between chunks, and as much on checkpoints
CHUNK_SECONDS = (0.5, 2.0)  # that a chunk takes, at least and at most, where the buffer of its metrics allows
BUFFER_NUMBERS = 2**22  # in that buffer, at most
RECENT = 10  # updates over which the current return is averaged

log = logging.getLogger("purejaxppo")


class Schedule(Settings):
    """What a run does beside training, and when.

    Raises:
        ConfigError: a field is unknown or its value is not allowed.
    """

    num_evaluations: int = static(10, "evaluations, evenly over the run; 0 for none", WHOLE)
    evaluation_episodes: int = static(32, "episodes per agent of an evaluation, greedy, and as many sampled", COUNT)
    checkpoint_seconds: float = static(60.0, "seconds between checkpoints; one is always made at the end", NON_NEGATIVE)
    keep_checkpoints: int = static(3, "newest checkpoints that are kept, beside the one with the best return", COUNT)


class Job(NamedTuple):
    """What is to be run."""

    directory: Path
    config: Config
    key: Array  # [], or [num_seeds]
    schedule: Schedule
    identity: str  # tells it from every other

    @property
    def evaluations(self) -> list[int]:
        """The numbers of updates after which the agents are evaluated."""
        total, count = self.config.num_updates, self.schedule.num_evaluations
        return sorted({max(1, round(total * part / count)) for part in range(1, count + 1)})

    def each(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function(config, x)` of one agent as one of all agents."""
        return jax.vmap(function, (None, 0)) if self.key.ndim else function


class Progress(NamedTuple):
    """How far a run is, after each chunk."""

    num_updates: int
    total_updates: int
    num_steps: int  # environment steps, over all agents
    total_steps: int
    steps_per_second: float
    seconds_left: float
    episode_return: np.ndarray  # [num_seeds], mean over the last updates; NaN where no episode has ended


Watch = Callable[[Progress], None]


def train(
    job: Job, found: checkpoints.Loaded | None, loggers: Sequence[logs.MakeLogger], watch: Watch
) -> tuple[TrainState, dict[str, np.ndarray]]:
    """Train from a checkpoint, or from the beginning, to the end.

    Raises:
        OSError: the record or a checkpoint cannot be written.
        KeyboardInterrupt: Ctrl-C, after the chunk at hand and a checkpoint.
    """
    # Compiling must not be interrupted either: XLA may swallow that, or crash when Python shuts down.
    with _interrupt_later() as stop:
        session = _train(job, found, loggers, watch, stop)
    if session.done < job.config.num_updates:
        raise KeyboardInterrupt(
            f"stopped after {session.done:,} of {job.config.num_updates:,} updates, all of them saved"
        )
    files.write(job.directory / ACCOUNT, json.dumps(session.account(), indent=1))
    return session.state, session.metrics()


def _train(
    job: Job,
    found: checkpoints.Loaded | None,
    loggers: Sequence[logs.MakeLogger],
    watch: Watch,
    stop: threading.Event,
) -> "_Session":
    """Compile, and train to the end or until `stop` is set; all that is done is saved."""
    began = time.perf_counter()
    state = job.each(init)(job.config, job.key) if found is None else found.state
    done = 0 if found is None else found.num_updates
    size = _buffer_size(job, state)
    program = _advance.lower(job.config, state, 0, size=size, is_many=job.key.ndim > 0).compile()
    seconds = {"compile": time.perf_counter() - began}
    log.info("%s: at update %d of %d", job.directory, done, job.config.num_updates)

    record = logs.Record(job.directory, job.config.batch_size)
    with record, logs.Loggers(loggers, job.directory, done) as active:
        session = _Session(job, partial(program, job.config), size, record, active, state, done, seconds)
        while session.done < job.config.num_updates and not stop.is_set():
            session.run_chunk(watch)
        session.save()
    return session


def _buffer_size(job: Job, state: TrainState) -> int:
    """The updates whose metrics fit into the buffer."""
    _, metrics = jax.eval_shape(job.each(update), job.config, state)
    numbers = sum(leaf.size for leaf in jax.tree.leaves(metrics))
    return min(job.config.num_updates, max(1, BUFFER_NUMBERS // numbers))


class _Session:
    """A process's part of a run: the state on the device, and what is on its way to the disk."""

    def __init__(
        self,
        job: Job,
        advance: Callable[[TrainState, int], tuple[TrainState, Metrics]],
        size: int,
        record: logs.Record,
        loggers: logs.Loggers,
        state: TrainState,
        done: int,
        seconds: dict[str, float],
    ) -> None:
        self.job, self.advance, self.size = job, advance, size
        self.record, self.loggers = record, loggers
        self.state, self.done = state, done
        self.began, self.began_at = time.perf_counter(), done
        self.seconds = seconds | {"chunks": 0.0, "evaluations": 0.0, "checkpoints": 0.0}
        self.saved, self.saved_at, self.save_seconds = done, self.began, 0.0
        self.length = 1  # of the next chunk
        earlier = logs.read_metrics(job.directory)
        self.history = [{name: values.T for name, values in earlier.items()}] if earlier else []
        self.pending: tuple[int, dict[str, np.ndarray]] | None = None

    def run_chunk(self, watch: Watch) -> None:
        """Some updates, and what is due after them."""
        next_stop = min(update for update in [*self.job.evaluations, self.job.config.num_updates] if update > self.done)
        count = min(self.length, next_stop - self.done)
        began = time.perf_counter()
        self.state, rows = self.advance(self.state, count)  # returns at once: the device is at work
        self.write_down()  # meanwhile
        metrics = {name: _fetch(values, count) for name, values in rows.items()}  # waits for the device
        ended = time.perf_counter()
        self.seconds["chunks"] += ended - began
        self.pending = self.done, metrics
        self.history.append(metrics)
        self.done += count
        watch(self.progress())
        self.length = self.next_length((ended - began) / count, time.perf_counter() - ended)
        if self.done in self.job.evaluations:
            self.evaluate()
        pause = max(self.job.schedule.checkpoint_seconds, self.save_seconds / HOST_SHARE)
        if time.perf_counter() - self.saved_at >= pause:
            self.save()

    def next_length(self, seconds_per_update: float, host_seconds: float) -> int:
        """As many updates as make the time between chunks a small share, and yet allow a prompt stop."""
        shortest, longest = CHUNK_SECONDS
        seconds = min(max(shortest, host_seconds / HOST_SHARE), longest)
        return min(max(1, int(seconds / seconds_per_update)), self.size)

    def write_down(self) -> None:
        """The metrics of the last chunk, into the record and for the loggers."""
        if self.pending is None:
            return
        num_before, metrics = self.pending
        self.pending = None
        self.record.write_metrics(num_before, metrics)
        for index in range(len(metrics["num_episodes"]) if self.loggers else 0):
            update = num_before + index + 1
            row = {name: values[index] for name, values in metrics.items()}
            self.loggers.write(update, update * self.job.config.batch_size, row)

    def evaluate(self) -> None:
        """Play whole episodes, and compare with the optimum where that is known."""
        began = time.perf_counter()
        episodes = self.job.schedule.evaluation_episodes
        is_many = self.job.key.ndim > 0
        found = _evaluate(self.job.config, self.state, self.job.key, self.done, num_episodes=episodes, is_many=is_many)
        self.write_down()  # meanwhile; and before the evaluation, since some loggers lose what comes out of order
        values = {name: np.asarray(value) for name, value in found.items()}
        self.record.write_evaluation(self.done, values)
        steps = self.done * self.job.config.batch_size
        self.loggers.write(self.done, steps, {f"evaluation/{name}": value for name, value in values.items()})
        log.info("evaluation after update %d: greedy return %.4g", self.done, values["greedy_return"].mean())
        self.seconds["evaluations"] += time.perf_counter() - began

    def save(self) -> None:
        """A checkpoint, unless there is one of this very state; the record reaches the disk before it."""
        self.write_down()
        if self.saved == self.done:
            return
        began = time.perf_counter()
        self.record.sync()
        directory = self.job.directory / CHECKPOINTS
        score = float(_mean(self.recent_return()))
        checkpoints.save(directory, self.done, self.state, run=self.job.identity, score=score)
        checkpoints.prune(directory, self.job.schedule.keep_checkpoints)
        self.saved, self.saved_at = self.done, time.perf_counter()
        self.save_seconds = self.saved_at - began
        self.seconds["checkpoints"] += self.save_seconds
        log.info("checkpoint after update %d", self.done)

    def recent_return(self) -> np.ndarray:
        """The mean return of the last updates, `[num_seeds]`."""
        last = np.concatenate([chunk["episode_return"] for chunk in self.history[-RECENT:]])[-RECENT:]
        return _mean(last.reshape(len(last), -1))

    def metrics(self) -> dict[str, np.ndarray]:
        """Those of the whole run, as `ppo.train` gives them."""
        names = self.history[0]
        return {name: np.concatenate([chunk[name] for chunk in self.history]).T for name in names}

    def progress(self) -> Progress:
        total, batch = self.job.config.num_updates, self.job.config.batch_size * self.job.key.size
        here = self.done - self.began_at
        elapsed = time.perf_counter() - self.began
        return Progress(
            num_updates=self.done,
            total_updates=total,
            num_steps=self.done * batch,
            total_steps=total * batch,
            steps_per_second=here * batch / self.seconds["chunks"] if here else 0.0,
            seconds_left=elapsed * (total - self.done) / max(here, 1),
            episode_return=self.recent_return(),
        )

    def account(self) -> dict[str, Any]:
        """What came of the run, and where this process's time went."""
        total = time.perf_counter() - self.began
        others = sum(self.seconds.values()) - self.seconds["compile"]
        now = self.progress()
        mean = now.episode_return.tolist()
        return {
            "num_updates": self.done,
            "steps": now.num_steps,
            "state_sha256": fingerprint(self.state),
            "episode_return": [None if math.isnan(number) else number for number in mean],
            "resumed_after": self.began_at,
            "steps_per_second": now.steps_per_second,
            "seconds": self.seconds | {"between_chunks": total - others, "total": total + self.seconds["compile"]},
        }


def fingerprint(tree: Any) -> str:
    """The SHA-256 of a pytree's arrays, typed keys included: equal only for equal bits."""
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(tree):
        array = np.asarray(jax.random.key_data(leaf) if is_key(leaf) else leaf)
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


@partial(jax.jit, static_argnames=("size", "is_many"), donate_argnames="state")
def _advance(config: Config, state: TrainState, count: Any, *, size: int, is_many: bool) -> tuple[TrainState, Metrics]:
    """`count` updates, at most `size`; the first rows of what is returned, `[size, ...]`, are their metrics."""
    step = jax.vmap(update, (None, 0)) if is_many else update
    _, shapes = jax.eval_shape(step, config, state)
    rows = jax.tree.map(lambda metric: jnp.zeros((size, *metric.shape), metric.dtype), shapes)

    def body(index: Array, carry: tuple[TrainState, Metrics]) -> tuple[TrainState, Metrics]:
        state, metrics = step(config, carry[0])
        return state, jax.tree.map(lambda rows, metric: rows.at[index].set(metric), carry[1], metrics)

    return jax.lax.fori_loop(0, count, body, (state, rows))


@partial(jax.jit, static_argnames=("num_episodes", "is_many"))
def _evaluate(
    config: Config, state: TrainState, key: Array, num_updates: Any, *, num_episodes: int, is_many: bool
) -> dict[str, Array]:
    """Means over whole episodes, and `optimality` where the model is known."""

    def one(state: TrainState, key: Array) -> dict[str, Array]:
        keys = jax.random.split(jax.random.fold_in(jax.random.fold_in(key, RUN_EVALUATION), num_updates))
        values: dict[str, Array] = {}
        for name, key in zip(("greedy", "sampled"), keys, strict=True):
            episodes = evaluate(config, state, key, num_episodes=num_episodes, greedy=name == "greedy")
            values[f"{name}_return"] = jnp.mean(episodes.episode_return)
            values[f"{name}_length"] = jnp.mean(episodes.episode_length, dtype=jnp.float32)
        return values | (optimality(config, state)._asdict() if knows_optimum(config) else {})

    return (jax.vmap(one) if is_many else one)(state, key)


@contextlib.contextmanager
def _interrupt_later() -> Iterator[threading.Event]:
    """Ctrl-C sets an event instead of raising; a second one raises. Only the main thread can be interrupted."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = signal.getsignal(signal.SIGINT)

    def note(*_: Any) -> None:
        stop.set()
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, note)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)


def _fetch(rows: Array, count: int) -> np.ndarray:
    """The first rows, on the host. All NaN get the same bits, as those have that were read from a file."""
    values = np.asarray(rows)[:count]
    return np.where(np.isnan(values), np.float32(np.nan), values)


def _mean(values: np.ndarray) -> np.ndarray:
    """Over the first axis, without NaN; NaN where there is nothing else."""
    is_number = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return np.where(is_number, values, 0).sum(axis=0) / is_number.sum(axis=0)
