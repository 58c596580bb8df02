"""Small runs that many tests share."""

import functools
import json
import signal
import tempfile
from pathlib import Path

import jax
import pytest

from purejaxppo import MLP, Config, GridWorld, GridWorldParams
from purejaxppo.algorithms import PPO
from purejaxppo.experiment import RunOptions, run
from purejaxppo.experiment.runs import checkpoints, files, loop, record
from purejaxppo.experiment.runs.checkpoints import fingerprint
from purejaxppo.experiment.runs.rows import Programs
from purejaxppo.experiment.runs.run import open_run

NUM_UPDATES = 8
CONFIG = Config(
    env=GridWorld("S.M\n.D."),
    env_params=GridWorldParams(slip=0.1, max_steps_in_episode=5),
    num_envs=4,
    num_steps=8,
    total_timesteps=32 * NUM_UPDATES + 3,
    network=MLP(hidden_sizes=(8,)),
    lr=0.02,
    kl_coef=0.1,  # what it sums over episodes must survive too
)
KEYS = jax.random.split(jax.random.key(3), 3)
ONE_AND_MANY = pytest.mark.parametrize("key", [KEYS[0], KEYS], ids=["one", "many"])
QUIET = RunOptions(num_evaluations=0)
RECORD = (files.METRICS, files.TABLE, files.EVALUATIONS)


def interrupt(progress):
    signal.raise_signal(signal.SIGINT)


def read_metrics(directory, algorithm=PPO):
    return record.read_metrics(directory, run=open_run(directory, algorithm).job.identity)


def read_evaluations(directory, algorithm=PPO):
    return record.read_evaluations(directory, run=open_run(directory, algorithm).job.identity)


def numbers(directory):
    return checkpoints.numbers(directory / files.CHECKPOINTS)


@functools.cache
def _uninterrupted(is_many, options):
    directory = Path(tempfile.mkdtemp()) / "run"
    state, metrics = run(CONFIG, KEYS if is_many else KEYS[0], directory, options=options)
    return directory, fingerprint((state, metrics))


def uninterrupted(key, options=QUIET):
    """The directory of a run that never stopped, and the hash of what it returned."""
    return _uninterrupted(key.ndim > 0, options)


def check_same(directory, outcome, key, options=QUIET):
    """That a run is the uninterrupted one: what it returns, and its record, to the last bit."""
    reference, expected = uninterrupted(key, options)
    assert fingerprint(outcome) == expected
    for name in RECORD:
        assert (directory / name).read_text() == (reference / name).read_text()
    summaries = [json.loads((place / files.SUMMARY).read_text()) for place in (directory, reference)]
    if key.ndim:
        assert summaries[0]["state_sha256"] == fingerprint(outcome[0])
    assert summaries[0]["state_sha256"] == summaries[1]["state_sha256"]


def begin_and_stop(directory, key=KEYS[0], options=QUIET, callback=interrupt):
    with pytest.raises(KeyboardInterrupt):
        run(CONFIG, key, directory, options=options, callback=callback)
    return directory


class Crash(BaseException):
    """Ends a run as if the process were killed: nothing is saved any more."""


def crash_at(update):
    def callback(progress):
        if progress.num_updates >= update:
            raise Crash

    return callback


def needed_bytes(rows):
    """What a sweep's programs of some rows need, according to XLA."""
    programs = Programs(PPO, rows, num_episodes=128)
    programs.compile_evaluation()
    return programs.num_bytes


def checkpoint_always(monkeypatch):
    """Options for it, with chunks of one update."""
    monkeypatch.setattr(loop, "HOST_SHARE", float("inf"))
    monkeypatch.setattr(loop, "CHUNK_SECONDS", (0.0, 0.0))
    return QUIET.replace(checkpoint_seconds=0)
