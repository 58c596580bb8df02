"""Directories name modules of the user, which are imported when the user says so, and never for a file alone."""

import functools
import importlib
import shutil
import tempfile
import tomllib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tomli_w

from purejaxppo import Config, ConfigError, act, train
from purejaxppo.errors import RunError
from purejaxppo.experiment import load, load_policy, load_trials, report, resume, run, sweep
from purejaxppo.experiment.runs import files
from purejaxppo.experiment.runs.checkpoints import fingerprint
from tests.support import programs
from tests.support.runs import ONE_AND_MANY, QUIET, RECORD, interrupt, numbers

KEY = jax.random.key(3)
IMPORTS = [programs.NAME]
SIZES = {"num_envs": 2, "num_steps": 8, "total_timesteps": 64, "num_minibatches": 2, "num_epochs": 1}
WITHOUT_FUNCTIONS = {"optimizer": "adam"}


@pytest.fixture(autouse=True)
def place(tmp_path):
    """Where the module is."""
    with programs.importable(tmp_path / "modules") as place:
        yield place


def config_of(**changes):
    """A configuration of the module's own environment, network and optimiser."""
    mine = importlib.import_module(programs.NAME)
    params = mine.Params(prize=2.0)
    own = {"env": mine.Env(), "env_params": params, "network": mine.Net(width=4), "optimizer": mine.optimizer}
    return Config(**(SIZES | own | changes))


def of_four_choices():
    mine = importlib.import_module(programs.NAME)
    return config_of(env=mine.Env(num_choices=4), network=mine.Net(num_actions=4, width=7))


def as_elsewhere(place):
    """From now on, as in a process that has imported nothing of it."""
    programs.forget()
    programs.was_imported(place)


def stop(directory, key, **changes):
    with pytest.raises(KeyboardInterrupt):
        run(config_of(**changes), key, directory, options=QUIET, callback=interrupt)
    return directory


@functools.cache
def _stopped(**changes):
    return stop(Path(tempfile.mkdtemp()) / "run", KEY, **changes)


def stopped(directory, **changes):
    """A copy of a run that was stopped."""
    return shutil.copytree(_stopped(**changes), directory)


def contents(directory):
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}


@pytest.mark.few(1)
@ONE_AND_MANY
def test_a_run_with_an_own_environment_network_and_optimiser_resumes_to_the_same_bits(key, place, tmp_path):
    expected = run(config_of(), key, tmp_path / "whole", options=QUIET)
    stop(tmp_path / "run", key)
    assert numbers(tmp_path / "run") == [1]
    as_elsewhere(place)
    outcome = resume(tmp_path / "run", imports=IMPORTS)
    assert programs.was_imported(place)
    assert fingerprint(outcome) == fingerprint(expected)
    for name in RECORD:
        assert (tmp_path / "run" / name).read_text() == (tmp_path / "whole" / name).read_text()


def test_what_ran_is_what_the_module_says(tmp_path):
    """The own environment, network, optimiser and parameters, by `train` alone."""
    state, metrics = run(config_of(), KEY, tmp_path / "run", options=QUIET)
    expected_state, expected = train(config_of(), KEY)
    np.testing.assert_allclose(metrics["entropy"], expected["entropy"], rtol=1e-3)
    np.testing.assert_allclose(metrics["policy_loss"], expected["policy_loss"], rtol=1e-3, atol=1e-5)
    for leaf, other in zip(jax.tree.leaves(state.params), jax.tree.leaves(expected_state.params), strict=True):
        np.testing.assert_allclose(leaf, other, rtol=1e-3, atol=1e-5)


def test_a_run_is_loaded_with_its_module(place, tmp_path):
    state, _ = run(of_four_choices(), KEY, tmp_path / "run", options=QUIET)
    obs = jnp.array([0.0, 1.0, 0.0, 0.0])
    expected = act(of_four_choices(), state, obs)[0]
    as_elsewhere(place)
    found, loaded = load(tmp_path / "run", imports=IMPORTS)
    assert programs.was_imported(place)
    assert found == of_four_choices()  # of the module as it is imported now
    assert (found.env.num_choices, found.network.width, found.env_params.prize) == (4, 7, 2.0)
    assert fingerprint(loaded) == fingerprint(state)
    as_elsewhere(place)
    assert load_policy(tmp_path / "run", imports=IMPORTS)(obs)[0] == expected


@pytest.mark.long
def test_a_class_that_is_imported_already_need_not_be_named_but_a_function_must(place, tmp_path):
    """Making an object of it is the user's own doing; a file could name any function."""
    importlib.import_module(programs.NAME)
    stopped(tmp_path / "classes", **WITHOUT_FUNCTIONS)
    stopped(tmp_path / "function")
    load(tmp_path / "classes")
    resume(tmp_path / "classes")
    for read in (resume, load):
        with pytest.raises(RunError, match=r"optimizer='my_module:optimizer': names the module my_module, which"):
            read(tmp_path / "function")
        read(tmp_path / "function", imports=IMPORTS)


@pytest.mark.parametrize(
    ("changes", "named"),
    [({}, "optimizer='my_module:optimizer'"), (WITHOUT_FUNCTIONS, "env='my_module:Env'")],
    ids=["with a function", "without"],
)
def test_without_the_import_a_run_is_refused_and_nothing_is_imported(changes, named, place, tmp_path):
    directory = stopped(tmp_path / "run", **changes)
    as_elsewhere(place)
    before = contents(directory)
    for read in (resume, load, load_policy, load_trials):
        for imports in ((), ["json"], [f"{programs.NAME}.other"]):
            with pytest.raises(RunError) as error:
                read(directory, imports=imports)
            assert str(error.value) == (
                f"{directory / files.CONFIG}: {named}: names the module my_module, which is not imported for a file "
                "alone; imports=['my_module'] does that, on the command line --import my_module"
            )
    assert not programs.was_imported(place)
    assert contents(directory) == before


@pytest.mark.parametrize("name", ["env", "network", "optimizer", "advantage", "lr_schedule"])
@pytest.mark.parametrize("named", ["os:system", "builtins:exec", "subprocess:Popen", "my_module:explode"])
def test_a_file_cannot_have_anything_else_called(name, named, place, tmp_path):
    """Not even of modules that are imported already."""
    directory = stopped(tmp_path / "run", **WITHOUT_FUNCTIONS)
    importlib.import_module(programs.NAME)
    table = tomllib.loads((directory / files.CONFIG).read_text())
    table[name] = {"type": named} if name in ("env", "network") else named
    (directory / files.CONFIG).write_text(tomli_w.dumps(table))
    with pytest.raises(RunError, match=rf"config\.toml: {name}='{named}': (names the module|must be a class derived)"):
        resume(directory)
    assert not (place / "exploded").exists()


def swept(directory=None, **arguments):
    over = {"network.width": [3, 4], "env_params.prize": [1.0, 2.0], "lr": [1e-3, 1e-2]}
    return sweep(config_of(), KEY, num_seeds=2, over=over, directory=directory, **arguments)


def bits(trials):
    return fingerprint([(trial.scores, trial.metrics) for trial in trials])


@pytest.mark.long
def test_a_sweep_of_an_own_environment_and_network_stops_goes_on_and_is_loaded(place, tmp_path):
    expected = swept()
    assert [trial.config.network.width for trial in expected] == [3] * 4 + [4] * 4
    assert [trial.config.env_params.prize for trial in expected] == [1.0, 1.0, 2.0, 2.0] * 2
    assert len({score for trial in expected for score in trial.scores.tolist()}) > 2
    with pytest.raises(KeyboardInterrupt):
        swept(tmp_path / "sweep", callback=interrupt)
    as_elsewhere(place)
    assert bits(swept(tmp_path / "sweep")) == bits(expected)
    as_elsewhere(place)
    found = load_trials(tmp_path / "sweep", imports=IMPORTS)
    assert programs.was_imported(place)
    assert bits(found) == bits(expected)
    assert [trial.name for trial in found] == [trial.name for trial in expected]
    assert [trial.config.network.width for trial in found] == [3] * 4 + [4] * 4
    assert [row.name for row in report(found, num_resamples=50).rows] == [trial.name for trial in expected]


@pytest.mark.long
def test_without_the_import_a_sweep_is_refused_and_nothing_is_imported(place, tmp_path):
    swept(tmp_path / "sweep")
    as_elsewhere(place)
    what = r"env='my_module:Env': names the module my_module, which is not imported for a file alone; "
    how = r"imports=\['my_module'\] does that, on the command line --import my_module"
    with pytest.raises(RunError, match=rf"sweep\.json: {what}{how}") as error:
        load_trials(tmp_path / "sweep")
    assert "\n" not in str(error.value)
    assert not programs.was_imported(place)


@pytest.mark.parametrize("text", ["raise SystemError('mine')", "import no_such_module_of_mine", "syntax error"])
def test_a_module_that_cannot_be_imported_is_one_clear_error(text, place, tmp_path):
    stopped(tmp_path / "run")
    as_elsewhere(place)
    (place / f"{programs.NAME}.py").write_text(text)
    with pytest.raises(RunError, match=r"optimizer: the module my_module cannot be imported \(") as error:
        load(tmp_path / "run", imports=IMPORTS)
    assert "\n" not in str(error.value)


@pytest.mark.long
def test_what_could_not_be_imported_again_is_refused_before_anything_is_written(place, tmp_path):
    local = type("Local", (importlib.import_module(programs.NAME).Net,), {"__module__": "__main__"})
    for changes, name in (({"network": local()}, "network"), ({"optimizer": lambda lr: lr}, "optimizer")):
        for begin in (run, lambda *args: sweep(*args[:2], num_seeds=1, over={}, directory=args[2])):
            with pytest.raises(ConfigError, match=f"{name}=.*: could not be imported again: move it to the top level"):
                begin(config_of(**changes), KEY, tmp_path / "new")
    assert not (tmp_path / "new").exists()
