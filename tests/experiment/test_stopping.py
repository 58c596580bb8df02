"""What ends a run early, a signal, a callback or its mistake, costs nothing that was done."""

import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from purejaxppo.algorithms import PPO
from purejaxppo.experiment import RunOptions, load, resume, run, sweep
from purejaxppo.experiment.runs import files, stopping
from purejaxppo.experiment.runs.rows import Programs
from purejaxppo.experiment.runs.stopping import SIGNALS, Interrupted, Stop, stop_later
from tests.support.runs import CONFIG, KEYS, QUIET, check_same, interrupt, numbers, read_evaluations, read_metrics

EVERY_SIGNAL = pytest.mark.parametrize("signum", SIGNALS, ids=lambda signum: signum.name)
EVALUATED = RunOptions(num_evaluations=3, evaluation_episodes=4)


@EVERY_SIGNAL
def test_a_signal_saves_and_says_how_to_continue(signum, tmp_path):
    before = [signal.getsignal(number) for number in SIGNALS]
    with pytest.raises(Interrupted, match=r"stopped after 1 of 8 updates, all of them saved; to continue: ") as stop:
        run(CONFIG, KEYS, tmp_path, options=QUIET, callback=lambda _: signal.raise_signal(signum))
    assert stop.value.signum == signum
    assert numbers(tmp_path) == [1]
    assert [signal.getsignal(number) for number in SIGNALS] == before
    check_same(tmp_path, resume(tmp_path), KEYS)


def test_slurm_may_send_several(tmp_path):
    """A warning, and later the order to end, which comes while the run is being saved."""

    def send(_):
        signal.raise_signal(signal.SIGUSR1)
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)

    with pytest.raises(Interrupted) as stop:
        run(CONFIG, KEYS, tmp_path, options=QUIET, callback=send)
    assert (stop.value.signum, numbers(tmp_path)) == (signal.SIGUSR1, [1])


@EVERY_SIGNAL
def test_handlers_of_the_program_are_left_alone(signum):
    """And signals that it ignores, as `nohup` makes it; Ctrl-C alone is always ours."""
    for handler in (signal.SIG_IGN, lambda *_: None):
        before = signal.signal(signum, handler)
        try:
            with stop_later() as stop:
                assert (signal.getsignal(signum) is handler) == (signum != signal.SIGINT)
                signal.raise_signal(signum)
                assert stop.is_set == (signum == signal.SIGINT)
            assert signal.getsignal(signum) is handler
        finally:
            signal.signal(signum, before)


class Endless:
    """A number that is never computed."""

    def is_ready(self):
        return False


def test_a_signal_ends_an_evaluation_that_takes_for_ever(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(Programs, "evaluate", lambda *_: {"score": Endless()})
        patch.setattr(stopping, "sleep", lambda _: signal.raise_signal(signal.SIGTERM))
        with pytest.raises(Interrupted, match="stopped after 3 of 8 updates, all of them saved"):
            run(CONFIG, KEYS, tmp_path, options=EVALUATED)
    assert numbers(tmp_path) == [3]
    assert read_evaluations(tmp_path) == {}
    check_same(tmp_path, resume(tmp_path), KEYS, EVALUATED)  # which makes up for it


def test_waiting_for_what_is_computed():
    stop = Stop()
    number = jax.jit(lambda x: jax.lax.fori_loop(0, 1000, lambda _, x: x * 0.5 + 1, x))(jnp.zeros(100))
    assert stop.wait_for({"x": number})
    assert number.is_ready()
    stop.set(signal.SIGTERM)
    stop.set(signal.SIGINT)
    assert stop.signum == signal.SIGTERM  # the first one
    assert not stop.wait_for(Endless())


@pytest.mark.parametrize("error", [ValueError("a mistake in my plot"), jax.errors.JaxRuntimeError("of its own")])
def test_a_mistake_in_a_callback_costs_nothing(error, tmp_path):
    def callback(progress):
        if progress.num_updates >= 4:
            raise error

    with pytest.raises(type(error), match=str(error)) as raised:
        run(CONFIG, KEYS, tmp_path, options=QUIET, callback=callback)
    assert raised.value is error
    done = numbers(tmp_path)[-1]
    assert done >= 4
    assert read_metrics(tmp_path)["entropy"].shape == (3, done)
    check_same(tmp_path, resume(tmp_path), KEYS)


def test_a_callback_stops_a_run(tmp_path):
    state, metrics = run(CONFIG, KEYS, tmp_path, options=EVALUATED, callback=lambda progress: False)
    assert np.all(state.num_updates == 1)
    assert metrics["entropy"].shape == (3, 1)
    assert numbers(tmp_path) == [1]
    assert not (tmp_path / files.SUMMARY).exists()
    np.testing.assert_array_equal(load(tmp_path)[1].num_updates, 1)
    state, metrics = resume(tmp_path, callback=lambda progress: False)
    assert metrics["entropy"].shape == (3, 2)
    check_same(tmp_path, resume(tmp_path, callback=lambda progress: None), KEYS, EVALUATED)


@pytest.mark.long
def test_a_callback_stops_a_sweep(tmp_path):
    options = EVALUATED.replace(num_evaluations=1)
    arguments = {"num_seeds": 2, "over": {"lr": [1e-3, 1e-2]}, "directory": tmp_path, "options": options}
    with pytest.raises(Interrupted, match=r"stopped by its callback; to continue, sweep again into the same directory"):
        sweep(CONFIG, KEYS[0], **arguments, callback=lambda progress: False)
    began = []
    sweep(CONFIG, KEYS[0], **arguments, callback=lambda progress: began.append(progress.num_updates))
    assert began[0] == 2


def test_a_signal_while_a_sweep_evaluates(tmp_path, monkeypatch):
    options = EVALUATED.replace(num_evaluations=1)
    arguments = {"num_seeds": 2, "over": {"lr": [1e-3, 1e-2]}, "directory": tmp_path, "options": options}
    with monkeypatch.context() as patch:
        patch.setattr(Programs, "evaluate", lambda *_: {"score": Endless()})
        patch.setattr(stopping, "sleep", lambda _: signal.raise_signal(signal.SIGHUP))
        with pytest.raises(Interrupted, match="stopped after 8 of 8 updates, all of them saved") as stop:
            sweep(CONFIG, KEYS[0], **arguments)
    assert stop.value.signum == signal.SIGHUP
    trained = []
    trials = sweep(CONFIG, KEYS[0], **arguments, callback=trained.append)
    assert not trained
    assert all(np.isfinite(trial.scores).all() for trial in trials)


def test_a_signal_while_the_evaluation_is_compiled_costs_nothing(tmp_path):
    """It is compiled before the first update."""

    def score(*args, **kwargs):
        if not any(tmp_path.rglob(f"{files.CHECKPOINTS}/*")):
            interrupt(None)
        return PPO.score(*args, **kwargs)

    algorithm = PPO._replace(score=score)
    with pytest.raises(Interrupted, match="stopped after 0 of 8 updates"):
        run(CONFIG, KEYS, tmp_path, options=EVALUATED, algorithm=algorithm)
    assert (tmp_path / files.METRICS).read_text() == ""
