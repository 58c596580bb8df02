"""Many configurations, each from many seeds, in as few compiled programs as possible."""

import contextlib
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from purejaxppo.algorithms import PPO, Algorithm
from purejaxppo.errors import ConfigError, RunError, unknown_name
from purejaxppo.experiment.runs import checkpoints, files, loop
from purejaxppo.experiment.runs.devices import available_bytes
from purejaxppo.experiment.runs.files import RUN, SUMMARY
from purejaxppo.experiment.runs.loop import Callback, Job, Outcome, RunOptions, no_callback
from purejaxppo.experiment.runs.rows import Programs, Rows, every_row
from purejaxppo.experiment.runs.run import check_arguments, check_listeners, open_run
from purejaxppo.experiment.runs.stopping import Interrupted, Stop, signum_of, stop_later
from purejaxppo.experiment.sweeps.combinations import combinations, static_names
from purejaxppo.experiment.sweeps.journal import Journal, Sweep, check_programs, open_journal, read_journal
from purejaxppo.keys import check_key
from purejaxppo.settings import COUNT, LARGE_COUNT, SMALL_COUNT, check_static
from purejaxppo.user_files import to_path

OPTIONS = RunOptions(num_evaluations=1, evaluation_episodes=128)

log = logging.getLogger("purejaxppo")


class Trial(NamedTuple):
    """One configuration, trained from every seed."""

    name: str  # what sets it apart: the fields that the sweep changed
    config: Any
    scores: np.ndarray  # [num_seeds], the algorithm's "score" after the last update
    metrics: dict[str, np.ndarray]  # [num_seeds, num_updates], those of the algorithm's updates
    compile_seconds: float  # its share of the time in which its program was compiled
    run_seconds: float  # its share of the time in which all of its program's trials were trained and evaluated


class Group(NamedTuple):
    """Trials that one program trains."""

    trials: list[int]  # which of all
    rows: Rows  # all their seeds, one trial after the other


class Session(NamedTuple):
    """What the groups of a sweep share while they are trained."""

    sweep: Sweep
    journal: Journal
    bound: int  # of the memory
    callback: Callback
    stop: Stop

    def job(self, group: Group, program: int, batch: int, num_rows: int) -> Job:
        """Describe a batch of a program's rows; the last row fills up the last batch."""
        num_programs, num_batches = len(self.journal.manifest["programs"]), -(-len(group.rows.keys) // num_rows)
        parts = [("program", program, num_programs), ("batch", batch, num_batches)]
        return Job(
            self.journal.batch(program, batch),
            self.sweep.algorithm,
            group.rows.take(np.minimum(batch * num_rows + np.arange(num_rows), len(group.rows.keys) - 1)),
            self.sweep.options,
            self.journal.identity(program, batch),
            part=", ".join(f"{name} {index + 1} of {count}" for name, index, count in parts if count > 1),
        )


def sweep(
    config: Any,
    key: Array,
    *,
    num_seeds: int,
    over: Mapping[str, Any],
    algorithm: Algorithm = PPO,
    options: RunOptions = OPTIONS,
    directory: str | Path | None = None,
    max_bytes: int | None = None,
    callback: Callback = no_callback,
) -> list[Trial]:
    """Train every combination of some fields' values from every seed.

    Combinations that differ in numbers of traced fields only share one compiled program, mapped over combinations and
    seeds. Every value of a static field, and None in a traced one, needs a program of its own, which is logged. What
    does not fit into the memory at once is trained in batches. All combinations meet the same seeds and are evaluated
    on the same episodes, so that they differ by their configuration only.

    Ctrl-C, SIGTERM, SIGHUP and SIGUSR1 end the sweep after the chunk of updates at hand. If it has a directory, a
    checkpoint is made, and the same call resumes it there, to the same bits as if it had not been interrupted.

    Args:
        config: what is not swept.
        key: one typed key, consumed. Seed `i` of each trial is trained as
            `train(trial.config, jax.random.split(jax.random.split(key)[0], num_seeds)[i])`.
        num_seeds: trainings of each combination.
        over: the values of each swept field, as `{"lr": [1e-3, 1e-4], "env_params.slip": [0.0, 0.1]}`. Where `env` is
            swept, an environment other than `config`'s starts from its own default parameters.
        algorithm: what is run.
        options: evaluations, of which the last gives the scores, and checkpoints.
        directory: where all of it is kept, new or of this very sweep. None keeps nothing.
        max_bytes: bound of a program's memory, according to XLA: arguments, outputs and temporaries. By default half
            of what is available now.
        callback: called with a `Progress` after each chunk of updates; False stops the sweep there, like Ctrl-C.

    Returns:
        One trial for each combination; the last field's values change fastest. Batches of another size give the same
        numbers up to rounding.

    Raises:
        ConfigError: a field is unknown or a value not allowed; not even one training fits into the memory; or the
            directory holds something else or another sweep.
        RunError: the directory cannot be read or written.
        KeyboardInterrupt: it was stopped; the message says how far the sweep is.
    """
    check_key(key)
    check_arguments(config, algorithm, options)
    check_listeners(callback)
    num_seeds = check_static("num_seeds", num_seeds, SMALL_COUNT)
    check_static("num_evaluations", options.num_evaluations, COUNT)
    trials = combinations(config, over)
    what = Sweep(trials, num_seeds, key, algorithm, options)
    groups = _groups(what)
    bound = available_bytes() // 2 if max_bytes is None else check_static("max_bytes", max_bytes, LARGE_COUNT)
    if len(groups) > 1:
        log.info("%d programs, since these fields shape it: %s", len(groups), ", ".join(static_names(config, over)))
    with open_journal(directory, what, len(groups)) as journal, stop_later() as stop:
        session = Session(what, journal, bound, callback, stop)
        results = [_train_group(session, group, number) for number, group in enumerate(groups)]
    return _trials(what, groups, results, journal)


def load_trials(directory: str | Path, *, algorithm: Algorithm = PPO, imports: Sequence[str] = ()) -> list[Trial]:
    """Read the trials of a finished sweep, or a finished run as one trial.

    Args:
        directory: of the sweep or the run.
        algorithm: what it was made with.
        imports: modules of yours that the configurations name, see `import_paths`.

    Raises:
        ConfigError: it was made with another algorithm.
        RunError: the directory holds neither, one that is not finished or not evaluated, or corrupt files.
    """
    if (to_path("directory", directory) / RUN).exists():
        return [_run_as_trial(directory, algorithm, imports)]
    journal, what = read_journal(directory, algorithm, imports)
    groups = _groups(what)
    check_programs(journal, len(groups))
    session = Session(what, journal, 0, no_callback, Stop())
    results = [[_read_batch(job) for job in _jobs(session, group, number)] for number, group in enumerate(groups)]
    return _trials(what, groups, results, journal)


def load_agents(
    directory: str | Path, trial: str, *, algorithm: Algorithm = PPO, imports: Sequence[str] = ()
) -> tuple[Any, Any]:
    """Load one trial's agents of a finished sweep.

    Args:
        directory: of the sweep.
        trial: its name, see `Trial`.
        algorithm: what the sweep was made with.
        imports: modules of yours that the configurations name, see `import_paths`.

    Returns:
        `(config, state)`, the state `[num_seeds]`.

    Raises:
        ConfigError: there is no such trial, or the sweep was made with another algorithm.
        RunError: the directory holds no sweep, one that is not finished, or corrupt files.
    """
    journal, what = read_journal(directory, algorithm, imports)
    names = [name for name, _ in what.trials]
    if trial not in names:
        raise unknown_name("trial", trial, names)
    index, groups = names.index(trial), _groups(what)
    check_programs(journal, len(groups))
    session = Session(what, journal, 0, no_callback, Stop())
    number = next(number for number, group in enumerate(groups) if index in group.trials)
    first = groups[number].trials.index(index) * what.num_seeds
    states = []
    for job in _jobs(session, groups[number], number):
        found = loop.newest(job)
        if found is None or found.num_updates < job.num_updates:
            raise RunError(f"{job.directory}: is not finished; the same call of sweep resumes it")
        states.append(found.state)
    rows = slice(first, first + what.num_seeds)
    return what.trials[index][1], jax.tree.map(lambda *parts: jnp.concatenate(parts)[rows], *states)


def _run_as_trial(directory: str | Path, algorithm: Algorithm, imports: Sequence[str]) -> Trial:
    job = open_run(directory, algorithm, imports).job
    outcome = loop.read_outcome(job)
    if outcome.evaluations.get("update", [0])[-1] != job.num_updates:
        raise RunError(f"directory={str(directory)!r}: must hold a run that was evaluated at its end (num_evaluations)")
    scores = outcome.evaluations["score"][:, -1]
    seconds = outcome.compile_seconds, outcome.run_seconds
    return Trial(str(directory), job.rows.config, scores, outcome.metrics, *seconds)


def _groups(what: Sweep) -> list[Group]:
    """Group configurations by their static fields, which are part of the tree's structure: they share a program."""
    keys = jax.random.split(jax.random.split(what.key)[0], what.num_seeds)
    trials: dict[Any, list[int]] = {}
    for i, (_, config) in enumerate(what.trials):
        trials.setdefault(jax.tree.structure(config), []).append(i)
    return [Group(chosen, every_row([what.trials[i][1] for i in chosen], keys)) for chosen in trials.values()]


def _jobs(session: Session, group: Group, number: int) -> list[Job]:
    """Describe the batches of a program that was compiled before.

    Raises:
        RunError: it was not.
    """
    num_rows = session.journal.num_rows(number)
    if num_rows is None:
        raise RunError(f"{session.journal.directory}: is not finished; the same call of sweep resumes it")
    num_batches = -(-len(group.rows.keys) // num_rows)
    return [session.job(group, number, batch, num_rows) for batch in range(num_batches)]


def _train_group(session: Session, group: Group, number: int) -> list[Outcome]:
    """Train all rows of a group, but batches that are finished."""
    programs = None
    if session.journal.num_rows(number) is None:
        programs = _largest(session, group)
        session.journal.enter(number, programs.num_rows, programs.seconds)
    outcomes = []
    for job in _jobs(session, group, number):
        outcome = _finished(job)
        if outcome is None and programs is None:  # an earlier call chose the size: another one would round differently
            programs = job.compile()
            _check_bound(programs, session.bound)
            session.journal.enter(number, programs.num_rows, programs.seconds)
        outcomes.append(outcome or _train_batch(session, job, programs))
    return outcomes


def _read_batch(job: Job) -> Outcome:
    assert job.directory is not None
    _check_no_links(job.directory)
    return loop.read_outcome(job)


def _check_no_links(batch: Path) -> None:
    """Refuse symbolic links in place of a batch, or in it.

    Raises:
        RunError: there is one.
    """
    if batch.is_symlink():
        raise RunError(f"{batch}: must not be a symbolic link")
    files.check_no_links(batch)


def _finished(job: Job) -> Outcome | None:
    """Read what came of a batch; None where it is not finished or, which is logged, its record is damaged."""
    if job.directory is None or not (job.directory / SUMMARY).exists():
        return None
    try:
        return _read_batch(job)
    except RunError as error:
        log.warning("%s", error)
        return None


def _train_batch(session: Session, job: Job, programs: Programs | None) -> Outcome:
    """Train a batch, from its newest whole checkpoint if it has one.

    Raises:
        RunError: its directory cannot be written to.
        KeyboardInterrupt: it was stopped.
    """
    with _errors_of(session.journal.directory, job.part):
        found = _recover(job)
        _, outcome = loop.train(job, found, session.stop, callback=session.callback, programs=programs)
        if not outcome.is_finished:
            raise Interrupted("stopped by its callback")
    log.info("%s is trained in %.1f s", job.part or "the sweep", outcome.run_seconds)
    return outcome


def _recover(job: Job) -> checkpoints.Loaded | None:
    """Find the newest whole checkpoint of a batch, and make its directory ready."""
    if job.directory is None:
        return None
    try:
        _check_no_links(job.directory)
        found = loop.newest(job)
        job.directory.mkdir(exist_ok=True)
        loop.clean(job, found)
        return found
    except RunError as error:
        log.warning("%s; it is trained anew", error)
    files.delete(job.directory)
    job.directory.mkdir()
    loop.clean(job, None)
    return None


@contextlib.contextmanager
def _errors_of(directory: Path | None, part: str) -> Iterator[None]:
    """Turn what the disk refuses into one clear error; after Ctrl-C, say how to continue.

    Raises:
        RunError: the disk refused something.
    """
    try:
        with files.as_run_error(f"directory={str(directory)!r}"):
            yield
    except KeyboardInterrupt as interrupt:
        where = f"{part}: " if part else ""
        how = "" if directory is None else "; to continue, sweep again into the same directory"
        message = f"{where}{str(interrupt) or 'interrupted'}{how}"
        raise Interrupted(message, signum_of(interrupt)) from None


def _largest(session: Session, group: Group) -> Programs:
    """Compile for all rows if that fits into the memory, and otherwise for as many as do, in even batches.

    Compiling takes as long for many rows as for few, so the whole is tried first; XLA's memory analysis then says, in
    proportion, how many will do.

    Raises:
        ConfigError: not even a single row fits.
    """
    total = num_rows = len(group.rows.keys)
    seconds = 0.0
    while True:
        programs = session.job(group, 0, 0, num_rows).compile()
        num_bytes, seconds = programs.num_bytes, seconds + programs.seconds
        if num_bytes <= session.bound or num_rows == 1:
            break
        at_most = max(1, min(int(num_rows * session.bound / num_bytes), num_rows - 1))
        num_rows = math.ceil(total / math.ceil(total / at_most))
    _check_bound(programs, session.bound)
    programs.seconds = seconds
    return programs


def _check_bound(programs: Programs, bound: int) -> None:
    if programs.num_bytes > bound:
        rows = f"{programs.num_rows:,} agent{'s' if programs.num_rows > 1 else ''}"
        raise ConfigError.of("max_bytes", bound, f"at least {programs.num_bytes}, the memory of {rows}")


def _trials(what: Sweep, groups: list[Group], results: list[list[Outcome]], journal: Journal) -> list[Trial]:
    """Split the results of all groups into trials, in the order of the combinations."""
    trials: dict[int, Trial] = {}
    for number, (group, outcomes) in enumerate(zip(groups, results, strict=True)):
        metrics = {name: np.concatenate([part.metrics[name] for part in outcomes]) for name in outcomes[0].metrics}
        scores = np.concatenate([part.evaluations["score"][:, -1] for part in outcomes])
        seconds = journal.compile_seconds(number), sum(part.run_seconds for part in outcomes)
        shares = [number / len(group.trials) for number in seconds]
        for position, index in enumerate(group.trials):
            rows = slice(position * what.num_seeds, (position + 1) * what.num_seeds)
            own = {name: values[rows] for name, values in metrics.items()}
            trials[index] = Trial(*what.trials[index], scores[rows], own, *shares)
    return [trials[index] for index in range(len(what.trials))]
