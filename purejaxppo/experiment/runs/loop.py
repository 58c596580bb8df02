"""The loop on the host: chunks of updates on the device, and between them what must be written down.

All chunks are calls of one compiled program, which takes the number of updates as data. So how a run is cut into
chunks, which the clock decides, has no effect on a single bit; nor has stopping and resuming.
"""

import contextlib
import json
import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from purejaxppo.algorithms import Algorithm
from purejaxppo.errors import RunError
from purejaxppo.experiment.runs import checkpoints, files
from purejaxppo.experiment.runs.devices import check_memory
from purejaxppo.experiment.runs.files import CHECKPOINTS, EVALUATIONS, METRICS, SUMMARY
from purejaxppo.experiment.runs.loggers import Loggers, MakeLogger
from purejaxppo.experiment.runs.record import MetricsLog, read_evaluations, read_metrics, truncate
from purejaxppo.experiment.runs.rows import Programs, Rows, initial_shapes, updated_shapes
from purejaxppo.experiment.runs.stopping import Interrupted, Stop
from purejaxppo.settings import COUNT, NON_NEGATIVE, WHOLE, Settings, static

HOST_SHARE = 0.02  # of the time, at most, is spent between chunks, and as much on checkpoints
CHUNK_SECONDS = (0.5, 2.0)  # that a chunk takes, at least and at most, where the buffer of its metrics allows
RECENT = 10  # updates over which the metrics that `Progress` has are averaged

log = logging.getLogger("purejaxppo")


class RunOptions(Settings):
    """What a run does beside training, and when.

    Raises:
        ConfigError: a field is unknown or its value is not allowed.
    """

    num_evaluations: int = static(10, "evaluations, evenly over the run; 0 for none", WHOLE)
    evaluation_episodes: int = static(32, "episodes per agent of an evaluation, greedy, and as many sampled", COUNT)
    checkpoint_seconds: float = static(60.0, "seconds between checkpoints; one is always made at the end", NON_NEGATIVE)
    keep_checkpoints: int = static(3, "newest checkpoints to keep, beside the one with the best evaluation", COUNT)


class Job(NamedTuple):
    """What is to be run."""

    directory: Path | None  # None keeps nothing
    algorithm: Algorithm
    rows: Rows
    options: RunOptions
    identity: str = ""  # that the checkpoints of this job have, and of no other
    params: Any = None  # from which every row starts
    part: str = ""  # of a sweep, in words

    @property
    def num_updates(self) -> int:
        """Of the whole run."""
        return self.rows.config.num_updates

    def next_evaluation(self, num_updates: int) -> int | None:
        """Say after which number of updates, more than so many, the rows are evaluated next; None for no more."""
        count = min(self.options.num_evaluations, self.num_updates)
        parts = range(num_updates * count // self.num_updates, count + 1)  # the first is due so early, or earlier
        due = (max(1, round(self.num_updates * part / count)) for part in parts if part)
        return next((update for update in due if update > num_updates), None)

    def is_evaluated(self, num_updates: int) -> bool:
        """Whether the rows are evaluated after so many updates."""
        return self.next_evaluation(num_updates - 1) == num_updates

    def compile(self) -> Programs:
        """Compile what trains it, and what evaluates it if anything does."""
        num_episodes = self.options.evaluation_episodes
        programs = Programs(self.algorithm, self.rows, num_episodes=num_episodes, params=self.params)
        if self.options.num_evaluations:
            programs.compile_evaluation()  # now, when a signal that comes meanwhile costs nothing
        return programs

    def compile_to_fit(self) -> Programs:
        """Compile it, if that fits into the memory.

        Raises:
            ConfigError: it does not.
        """
        programs = self.compile()
        check_memory(programs.num_rows, programs.num_bytes)
        return programs


class Progress(NamedTuple):
    """How far a run is, after each chunk of updates."""

    num_updates: int
    total_updates: int
    num_steps: int  # environment steps, over all rows
    total_steps: int
    steps_per_second: float
    seconds_left: float
    metrics: dict[str, np.ndarray]  # [num_rows] each, means over the last updates; NaN where there is no number
    part: str = ""  # of a sweep, in words; the numbers are those of this part


class Outcome(NamedTuple):
    """What came of a run, and the time it took."""

    metrics: dict[str, np.ndarray]  # [num_rows, num_updates]
    evaluations: dict[str, np.ndarray]  # [num_rows, num_evaluations], and the `update` of each
    compile_seconds: float
    run_seconds: float  # without compiling; if the run was resumed, the last process's pace is taken for the whole
    is_finished: bool = True  # not where a callback stopped it


Callback = Callable[[Progress], bool | None]  # False stops the run


def no_callback(progress: Progress) -> None:
    """Do nothing after a chunk."""


def train(
    job: Job,
    found: checkpoints.Loaded | None,
    stop: Stop,
    *,
    loggers: Sequence[MakeLogger] = (),
    callback: Callback = no_callback,
    programs: Programs | None = None,
) -> tuple[Any, Outcome]:
    """Train from a checkpoint, or from the beginning, to the end.

    Args:
        job: what is to be run; its directory must be there, see `clean`.
        found: its newest whole checkpoint, if there is one.
        stop: ends the run after the chunk at hand, see `stop_later`.
        loggers: as for `run`.
        callback: as for `run`.
        programs: those of the job or of another one of the same shapes; None compiles them.

    Returns:
        `(state, outcome)`, the state `[num_rows]`; of what is done, where the callback stopped it.

    Raises:
        ConfigError: it does not fit into the memory.
        OSError: the record or a checkpoint cannot be written.
        Interrupted: a signal stopped it; all that is done is saved, if there is a directory.
    """
    programs = programs or job.compile_to_fit()
    session = _Session(job, programs, found)
    with session.open(loggers):
        is_finished = session.run(stop, callback)
    if not is_finished and stop.signum is not None:
        raise Interrupted(session.how_far(), stop.signum)
    if not is_finished:
        log.info("%s", session.how_far())
    elif job.directory is not None:
        files.write(job.directory / SUMMARY, json.dumps(session.summary(job.directory), indent=1))
    return session.state, session.outcome()._replace(is_finished=is_finished)


def newest(job: Job) -> checkpoints.Loaded | None:
    """Load the newest whole checkpoint, and log what is passed over; None where there is none at all.

    Raises:
        RunError: there are some, but none that can be used.
    """
    if job.directory is None:
        return None
    like = partial(initial_shapes, job.algorithm, job.rows, job.params)
    found = checkpoints.load(job.directory / CHECKPOINTS, like, run=job.identity)
    if found is not None:
        for problem in found.broken:
            log.warning("%s; using the checkpoint after update %d", problem, found.num_updates)
    return found


def clean(job: Job, found: checkpoints.Loaded | None) -> None:
    """Leave in a job's directory what belongs to the updates of a checkpoint, or to none.

    Raises:
        RunError: the record cannot be read.
        OSError: something cannot be deleted or written.
    """
    assert job.directory is not None
    (job.directory / CHECKPOINTS).mkdir(exist_ok=True)
    files.delete(job.directory / SUMMARY)  # of fewer updates, or of a record that is damaged

    def like() -> dict[str, np.ndarray]:
        _, shapes = updated_shapes(job.algorithm, job.rows, job.params)
        return {name: np.zeros((1, *shape.shape)) for name, shape in shapes.items()}

    num_updates = 0 if found is None else found.num_updates
    truncate(job.directory, num_updates, job.rows.config.batch_size, like, run=job.identity)
    for place in (job.directory, job.directory / CHECKPOINTS):
        files.delete_temporary(place)


def read_outcome(job: Job) -> Outcome:
    """Read what came of a finished run.

    Raises:
        RunError: it is not finished, or its files are corrupt.
    """
    assert job.directory is not None
    files.check_no_links(job.directory)
    path = job.directory / SUMMARY
    summary = files.read_json(path) if path.exists() else {}
    if summary.get("num_updates") != job.num_updates:
        raise RunError(f"directory={str(job.directory)!r}: must hold a finished run; resume it first")
    if summary.get("sha256") != _hashes(job.directory):
        raise RunError(f"{job.directory}: its record is corrupt (checksum mismatch); resume repairs what can be")
    metrics, evaluations = (read(job.directory, run=job.identity) for read in (read_metrics, read_evaluations))
    num_rows, num_updates = len(job.rows.keys), job.num_updates
    shapes = {values.shape for values in metrics.values()}
    scores = evaluations.get("score", np.empty((num_rows, 0)))
    if shapes != {(num_rows, num_updates)} or len(scores) != num_rows:
        raise RunError(f"{job.directory}: its record does not fit the configuration")
    try:
        seconds = {name: float(summary["seconds"][name]) for name in ("compile", "chunks", "evaluations")}
        num_here = num_updates - int(summary["resumed_after"])
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(f"{path}: is corrupt ({error})") from None
    return _outcome(metrics, evaluations, seconds, num_here, num_updates)


def next_length(seconds_per_update: float, host_seconds: float, at_most: int) -> int:
    """As many updates as make the time between chunks a small share, and yet allow a prompt stop."""
    shortest, longest = CHUNK_SECONDS
    seconds = min(max(shortest, host_seconds / HOST_SHARE), longest)
    return min(max(1, int(seconds / seconds_per_update)), at_most)


class _Clock:
    """Where the time of a process goes."""

    def __init__(self) -> None:
        self.start_time = time.perf_counter()
        self.seconds = {"chunks": 0.0, "evaluations": 0.0, "checkpoints": 0.0}

    @contextlib.contextmanager
    def measure(self, what: str) -> Iterator[None]:
        start_time = time.perf_counter()
        yield
        self.seconds[what] += time.perf_counter() - start_time

    @property
    def elapsed(self) -> float:
        return time.perf_counter() - self.start_time


class _Session:
    """A process's part of a run: the state on the device, and how far it is."""

    def __init__(self, job: Job, programs: Programs, found: checkpoints.Loaded | None) -> None:
        self.job, self.programs = job, programs
        self.state = programs.init(job.rows) if found is None else found.state
        self.clock = _Clock()
        self.num_updates = self.start_update = 0 if found is None else found.num_updates
        # Where a run starts from given parameters, which no file has, the start is saved as well.
        self.saved_update = -1 if found is None and job.params is not None else self.num_updates
        self.saved_time, self.save_seconds = self.clock.start_time, 0.0
        self.length = 1  # of the next chunk
        self.score = self.best = math.nan  # of the last evaluation, NaN if the state is another now; and of all
        self.compile_seconds = programs.seconds  # before this session
        log.info("%s: at update %d of %d", job.directory, self.num_updates, job.num_updates)

    @contextlib.contextmanager
    def open(self, loggers: Sequence[MakeLogger]) -> Iterator[None]:
        """Hold the record and the loggers open."""
        directory, batch_size = self.job.directory, self.job.rows.config.batch_size
        with (
            Loggers(loggers, directory or Path(), self.num_updates) as active,
            MetricsLog(directory, batch_size, active, run=self.job.identity) as self.record,
        ):
            scores = self.record.evaluations().get("score", np.empty((1, 0)))
            self.best = scores.mean(axis=0).max(initial=-math.inf)
            yield

    def run(self, stop: Stop, callback: Callback) -> bool:
        """Train to the end or until it is stopped; all that is done is saved.

        Returns:
            Whether it is at the end.
        """
        if self.saved_update < self.num_updates:
            self.save()
        is_evaluated = self.is_evaluated() or self.evaluate(stop)  # it may have been stopped just before
        while is_evaluated and self.num_updates < self.job.num_updates and not stop.is_set:
            self.run_chunk(callback, stop)
            is_evaluated = self.is_evaluated() or self.evaluate(stop)
            self.save_in_time()
        self.save()
        return is_evaluated and self.num_updates == self.job.num_updates

    def is_evaluated(self) -> bool:
        """Whether an evaluation that is due now, if one is, was made."""
        return self.record.evaluated_update == self.num_updates or not self.job.is_evaluated(self.num_updates)

    def run_chunk(self, callback: Callback, stop: Stop) -> None:
        """Make some updates."""
        due = self.job.next_evaluation(self.num_updates) or self.job.num_updates
        count = min(self.length, due - self.num_updates)
        start_time = time.perf_counter()
        with self.clock.measure("chunks"):
            self.state, buffers = self.programs.advance(self.job.rows, self.state, count)  # the device is at work
            self.record.write()  # meanwhile
            self.record.append({name: _fetch(values, count) for name, values in buffers.items()})  # waits for it
        end_time = time.perf_counter()
        self.num_updates += count
        self.score = math.nan
        try:
            if callback(self.progress()) is False:
                stop.set()
        except Exception:  # somebody else's mistake costs nothing of what is done
            self.save()
            raise
        host_seconds = time.perf_counter() - end_time
        self.length = next_length((end_time - start_time) / count, host_seconds, self.programs.buffer_size)

    def save_in_time(self) -> None:
        """Write a checkpoint if it is time for one."""
        # The state that did best so far is saved at once, so that it can be kept.
        pause = 0.0 if self.score > self.best else self.job.options.checkpoint_seconds
        self.best = max(self.best, self.score)
        if time.perf_counter() - self.saved_time >= max(pause, self.save_seconds / HOST_SHARE):
            self.save()

    def evaluate(self, stop: Stop) -> bool:
        """Score every row, unless it is stopped before or meanwhile; whether they are scored."""
        if stop.is_set:
            return False
        with self.clock.measure("evaluations"):
            arrays = self.programs.evaluate(self.job.rows, self.state, self.num_updates)
            if not stop.wait_for(arrays):
                return False
            values = {name: np.asarray(array) for name, array in arrays.items()}
            self.record.write_evaluation(values)
        self.score = float(values["score"].mean())
        log.info("evaluation after update %d: score %.4g", self.num_updates, self.score)
        num_unfinished = values.get("num_unfinished", np.zeros(1)).sum()
        if num_unfinished:
            told = "evaluation after update %d: %d episodes did not end, and count as far as they were played"
            log.warning(told, self.num_updates, num_unfinished)
        return True

    def save(self) -> None:
        """Write a checkpoint, unless there is one of this very state; the record reaches the disk before it."""
        if self.job.directory is None or self.saved_update == self.num_updates:
            self.record.write()
            return
        with self.clock.measure("checkpoints"):
            self.record.sync()
            directory = self.job.directory / CHECKPOINTS
            start_time = time.perf_counter()
            checkpoints.save(directory, self.num_updates, self.state, run=self.job.identity, score=self.score)
            checkpoints.prune(directory, self.job.options.keep_checkpoints)
        self.saved_update, self.saved_time = self.num_updates, time.perf_counter()
        self.save_seconds = self.saved_time - start_time
        log.info("checkpoint after update %d", self.num_updates)

    def how_far(self) -> str:
        """Word how much is done."""
        saved = "" if self.job.directory is None else ", all of them saved"
        return f"stopped after {self.num_updates:,} of {self.job.num_updates:,} updates{saved}"

    def progress(self) -> Progress:
        total, batch_size = self.job.num_updates, self.job.rows.config.batch_size * len(self.job.rows.keys)
        num_here = self.num_updates - self.start_update
        return Progress(
            num_updates=self.num_updates,
            total_updates=total,
            num_steps=self.num_updates * batch_size,
            total_steps=total * batch_size,
            steps_per_second=num_here * batch_size / self.clock.seconds["chunks"] if num_here else 0.0,
            seconds_left=self.clock.elapsed * (total - self.num_updates) / max(num_here, 1),
            metrics=self.record.recent(RECENT),
            part=self.job.part,
        )

    def outcome(self) -> Outcome:
        seconds = self.clock.seconds | {"compile": self.programs.seconds}
        num_here = self.num_updates - self.start_update
        return _outcome(self.record.metrics(), self.record.evaluations(), seconds, num_here, self.job.num_updates)

    def summary(self, directory: Path) -> dict[str, Any]:
        """Sum up the run, and where this process's time went."""
        seconds = self.clock.seconds | {"compile": self.programs.seconds}
        total, progress = self.compile_seconds + self.clock.elapsed, self.progress()
        means = {name: [None if math.isnan(x) else x for x in mean.tolist()] for name, mean in progress.metrics.items()}
        return {
            "num_updates": self.num_updates,
            "steps": progress.num_steps,
            "state_sha256": checkpoints.fingerprint(self.state),
            "sha256": _hashes(directory),
            "metrics": means,
            "resumed_after": self.start_update,
            "steps_per_second": progress.steps_per_second,
            "seconds": seconds | {"between_chunks": total - sum(seconds.values()), "total": total},
        }


def _outcome(metrics: Any, evaluations: Any, seconds: dict[str, float], num_here: int, num_updates: int) -> Outcome:
    """Extrapolate to a run of which a process that took so many seconds made `num_here` updates."""
    running = seconds["chunks"] + seconds["evaluations"]
    run_seconds = running * num_updates / num_here if num_here > 0 else math.nan
    return Outcome(metrics, evaluations, seconds["compile"], run_seconds)


def _hashes(directory: Path) -> dict[str, str]:
    """Hash the files that tell what came of a run."""
    names = [name for name in (METRICS, EVALUATIONS) if (directory / name).is_file()]
    return {name: files.hash_file(directory / name) for name in names}


def _fetch(buffer: Any, count: int) -> np.ndarray:
    """Fetch the first rows. All NaN get the same bits, as those have that were read from a file."""
    values = np.asarray(buffer)[:count]
    return np.where(np.isnan(values), np.float32(np.nan), values)
