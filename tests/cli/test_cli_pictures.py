"""What the command line draws, and the exact returns that it prints."""

import importlib.util
import re

import jax
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from purejaxppo import cli, optimality, train
from purejaxppo.cli import pictures
from purejaxppo.experiment.pictures import animations, maps, training
from purejaxppo.experiment.reports.statistics import stratified_bootstrap
from tests.support.flags import SMALL, parse
from tests.support.small import names

SHORT = ["--env-params", "max_steps_in_episode=3"]  # few frames
CARTPOLE = ["--env", "CartPole-v1", "--num-envs", "4", "--num-steps", "32", "--total-timesteps", "256"]
ALWAYS = ["learning.png", "ratios.png", "surrogate.png"]
ON_MAPS = ["agents.gif", "episode.gif", "learning.png", "map.png", "ratios.png", "surrogate.png"]


def check_images(directory):
    for path in directory.iterdir():
        with Image.open(path) as picture:
            assert picture.format == path.suffix[1:].upper()
            assert picture.convert("RGB").getcolors(maxcolors=2) is None  # more than two colours


@pytest.mark.long
def test_a_gridworld_gets_every_picture(tmp_path, capsys):
    directory = tmp_path / "deep" / "new"
    assert cli.main(["train", *SMALL, *SHORT, "--num-seeds", "3", "--plot", str(directory)]) == 0
    out = capsys.readouterr().out
    assert names(directory) == ON_MAPS
    assert out.splitlines()[-1] == f"pictures           {', '.join(ON_MAPS)} in {directory}"
    check_images(directory)
    assert {path.name for path in tmp_path.iterdir()} == {"deep"}


@pytest.mark.long
def test_an_empty_directory_and_the_exact_return(tmp_path, capsys, monkeypatch):
    seen = {}
    draw = training.learning_curves
    monkeypatch.setattr(
        training, "learning_curves", lambda *args, **more: seen.update(curves=args, **more) or draw(*args)
    )
    for name in ("surrogate", "ratio_histograms"):
        monkeypatch.setattr(training, name, lambda *_: Figure())
    path = tmp_path / "map.txt"
    path.write_text("S.M\n.D.\n")
    (tmp_path / "empty").mkdir()
    flags = ["--env", str(path), *SHORT, "--exact-return", "--seed", "3", "--plot", str(tmp_path / "empty")]
    assert cli.main(["train", *SMALL, *flags]) == 0
    assert names(tmp_path / "empty") == ON_MAPS
    # No wind: two steps and the prize of 5.
    assert "optimal return     3.000" in capsys.readouterr().out
    assert seen["optimum"] == 3
    config, seeds = parse(["train", *SMALL, *flags[:-2]])
    _, metrics = trained(config, seeds)
    returns, steps = seen["curves"]
    np.testing.assert_allclose(returns, metrics["expected_return"], rtol=1e-5)
    assert steps == 32


@pytest.mark.long
def test_other_environments_get_the_pictures_that_need_no_map(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(animations, "MOST_FRAMES", 5)
    assert cli.main(["train", *CARTPOLE, "--network.hidden-sizes", "4", "--plot", str(tmp_path / "new")]) == 0
    has_pygame = importlib.util.find_spec("pygame") is not None
    expected = ["episode.gif", *ALWAYS] if has_pygame else ALWAYS
    assert names(tmp_path / "new") == expected
    out = capsys.readouterr().out
    assert f"{', '.join(expected)} in {tmp_path / 'new'}" in out
    assert "1 agent from seed 0" in out
    assert "one seed: no interval" in out
    assert "optimal return" not in out
    assert "gap" not in out
    check_images(tmp_path / "new")


@pytest.mark.long
def test_a_run_in_which_no_episode_ends_is_drawn_too(tmp_path, monkeypatch):
    monkeypatch.setattr(animations, "can_draw", lambda env: False)
    for name in ("surrogate", "ratio_histograms"):
        monkeypatch.setattr(training, name, lambda *_: Figure())
    flags = ["--env", "CartPole-v1", "--num-envs", "4", "--num-steps", "4", "--total-timesteps", "32"]
    assert cli.main(["train", *flags, "--network.hidden-sizes", "4", "--plot", str(tmp_path / "new")]) == 0
    assert names(tmp_path / "new") == ALWAYS


@pytest.mark.long
def test_maps_and_episodes_are_of_the_agent_with_the_median_return(tmp_path, monkeypatch):
    drawn = {}

    def record(name, index, result=None):
        def draw(*args, **_):
            drawn[name] = args[index]
            return result

        return draw

    blank = Figure()
    for name in ("surrogate", "ratio_histograms"):
        monkeypatch.setattr(training, name, record(name, 1, blank))
    monkeypatch.setattr(training, "learning_curves", record("curves", 0, blank))
    monkeypatch.setattr(maps, "gridworld", record("map", 1, blank))
    monkeypatch.setattr(animations, "animate_episode", record("episode", 1))
    monkeypatch.setattr(animations, "animate_agents", record("agents", 1))
    # Trained hard but briefly, so that the agents differ.
    flags = [*SMALL, "--lr", "0.05", "--num-seeds", "5", "--seed", "1"]
    assert cli.main(["train", *flags, "--plot", str(tmp_path / "new")]) == 0

    config, seeds = parse(["train", *flags])
    states, metrics = trained(config, seeds)
    returns = np.asarray(jax.vmap(lambda state: optimality(config, state).expected_return)(states))
    assert len(np.unique(returns)) > 2
    for name in ("map", "episode"):
        np.testing.assert_allclose(optimality(config, drawn[name]).expected_return, np.median(returns), rtol=1e-5)
    assert drawn["agents"].num_updates.shape == (5,)  # all of them
    np.testing.assert_allclose(drawn["curves"], metrics["episode_return"], rtol=1e-5)
    assert drawn["surrogate"].num_updates == config.num_updates // 10
    keys = np.asarray(jax.random.key_data(jax.random.split(jax.random.split(jax.random.key(1))[0], 5)))
    own = np.asarray(jax.random.key_data(drawn["ratio_histograms"]))
    assert not np.any(np.all(keys == own, axis=1))  # a run of its own


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("full", "must be a new or empty directory; nothing is overwritten"),
        ("full/old.txt", "cannot be written to (File exists)"),
        ("full/old.txt/new", "cannot be written to (Not a directory)"),
        ("n" * 300, "cannot be written to (File name too long)"),
    ],
)
def test_a_place_that_cannot_be_drawn_into_is_one_line_before_training(place, said, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(cli.train, "train_at_once", lambda *_: pytest.fail("it went on"))
    old = tmp_path / "full" / "old.txt"
    old.parent.mkdir()
    old.write_text("old")
    path = str(tmp_path / place)
    assert cli.main(["train", *SMALL, "--plot", path]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert f"plot={path!r}: {said}" in err
    assert old.read_text() == "old"
    assert names(tmp_path) == ["full"]
    assert names(old.parent) == ["old.txt"]


@pytest.mark.parametrize("flags", [["--lr", "-1"], ["--env", "nope"], ["--num-seeds", "0"], ["--gama", "1"]])
def test_another_mistake_leaves_no_directory_behind(flags, tmp_path):
    assert cli.main(["train", "--plot", str(tmp_path / "new"), *flags]) == 2
    assert names(tmp_path) == []


@pytest.mark.long
def test_exact_lines_are_what_optimality_says_and_nothing_is_drawn_unasked(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("draw_learning", "draw_map", "draw_updates", "draw_movies", "show"):
        monkeypatch.setattr(pictures, name, lambda *_: pytest.fail("drawn"))
    flags = ["--env", "FrozenLake-misc", *SMALL, "--total-timesteps", "1024", "--num-seeds", "3", "--seed", "7"]
    assert cli.main(["train", *flags]) == 0
    assert names(tmp_path) == []
    out = capsys.readouterr().out
    config, seeds = parse(["train", *flags])
    states, _ = trained(config, seeds)
    exact = jax.tree.map(np.asarray, jax.vmap(lambda state: optimality(config, state))(states))

    best, reached, num_agents = re.search(r"optimal return +(\S+), reached by (\d+) of (\d+) agents", out).groups()
    mean, worst, share = re.search(r"gap +mean (\S+), worst (\S+); (\S+)% of all moves are optimal", out).groups()
    np.testing.assert_allclose(float(best), exact.optimal_return, atol=5.1e-4)
    np.testing.assert_allclose([float(mean), float(worst)], [exact.gap.mean(), exact.gap.max()], atol=5.1e-5)
    np.testing.assert_allclose(float(share) / 100, exact.optimal_fraction.mean(), atol=5.1e-4)
    assert (int(reached), int(num_agents)) == (np.sum(exact.gap < 1e-3), 3)
    numbers = re.search(r"return +IQM (\S+), 95% interval \[(\S+), (\S+)\], best (\S+), worst (\S+)", out).groups()
    returns = exact.expected_return
    expected = [*stratified_bootstrap(returns), returns.max(), returns.min()]
    np.testing.assert_allclose([float(number) for number in numbers], expected, atol=5.1e-4)
    assert "exact expectation of the greedy policy" in out
    assert "episodes" not in out[out.index("return  ") :]
    assert np.all(exact.gap > 0.01)  # so that the numbers say something


def trained(config, seeds):
    """The same agents as the command line's, by the library."""
    return jax.jit(jax.vmap(train, in_axes=(None, 0)))(config, seeds.keys)
