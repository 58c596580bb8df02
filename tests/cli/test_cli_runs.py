"""The commands around runs, as a user meets them."""

import os
import re
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest
from PIL import Image

from purejaxppo import cli
from purejaxppo.cli import progress
from purejaxppo.experiment import load
from purejaxppo.experiment.runs import files
from purejaxppo.experiment.runs import run as runs
from purejaxppo.experiment.runs.loop import Progress
from tests.support import programs
from tests.support.flags import SMALL, parse
from tests.support.runs import read_evaluations, read_metrics
from tests.support.small import FAST_COMPILING, assert_trees_equal

MANY = [*SMALL, "--num-seeds", "3"]
QUICK = ["--num-evaluations", "0"]
SHORT = ["--env-params", "max_steps_in_episode=3"]


def main(*argv):
    return cli.main([str(argument) for argument in argv])


def interrupt_after_the_first_chunk(monkeypatch):
    monkeypatch.setattr(progress, "in_words", lambda _: signal.raise_signal(signal.SIGINT) or "interrupted")


def test_a_run_that_is_stopped_resumed_and_used(tmp_path, capsys, monkeypatch):
    directory = tmp_path / "run"
    interrupt_after_the_first_chunk(monkeypatch)
    assert main("train", *MANY, *SHORT, *QUICK, "--directory", directory) == 130
    out, err = capsys.readouterr()
    assert "3 agents from seed 0" in out
    assert "throughput" not in out
    stopped, how = err.splitlines()[-1].split("; ")
    assert stopped == "purejaxppo: stopped after 1 of 2 updates, all of them saved"
    assert how == f"to continue: purejaxppo resume {directory}"
    monkeypatch.undo()

    assert main("plot", directory, "--output", tmp_path / "half") == 0
    assert main("resume", directory) == 0
    out, err = capsys.readouterr()
    assert "update 2 of 2: 192 of 192 steps" in err
    assert re.search(r"throughput +[\d,]+ environment steps/s \(192 steps over all agents\)", out)
    assert re.search(r"optimal return +-?\d\.\d{3}, reached by \d of 3 agents", out)
    assert main("resume", directory) == 0
    assert capsys.readouterr().out == out[out.index("\ncompile") :]  # finished: the same is said again

    assert main("plot", directory) == 0
    assert main("render", directory) == 0
    drawn = [line.split(" in ")[0] for line in capsys.readouterr().out.splitlines()]
    assert drawn == ["pictures           learning.png, map.png", "pictures           agents.gif, episode.gif"]
    for name in ("pictures/learning.png", "pictures/map.png", "pictures/episode.gif", "../half/learning.png"):
        with Image.open(directory / name) as picture:
            assert picture.format == name[-3:].upper()
    assert main("evaluate", directory, "--num-episodes", "4") == 0
    out = capsys.readouterr().out
    assert "3 agents after 2 of 2 updates" in out
    assert re.search(r"greedy +IQM -?\d+\.\d+, 95% interval", out)
    assert re.search(r"sampled +IQM -?\d+\.\d+, 95% interval", out)
    assert "optimal return" in out


def test_with_a_directory_it_is_the_same_training_and_summary(tmp_path, capsys, monkeypatch):
    at_once = []
    train_at_once = cli.train.train_at_once
    monkeypatch.setattr(cli.train, "train_at_once", lambda *args: at_once.append(train_at_once(*args)) or at_once[0])
    flags = ["train", *MANY, *SHORT, "--lr", "0.05", "--seed", "7"]
    assert main(*flags) == 0
    alone = capsys.readouterr().out
    assert main(*flags, "--directory", tmp_path) == 0
    kept = capsys.readouterr().out

    def without_times(text):
        return re.sub(r"(compile time|run time|throughput) .*?(\(|\n)", "", text)

    assert without_times(alone) == without_times(kept)
    config, seeds = parse(flags)
    found, state = load(tmp_path)
    assert found == config
    for leaf, other in zip(jax.tree.leaves(state.params), jax.tree.leaves(at_once[0].state.params), strict=True):
        np.testing.assert_allclose(leaf, other, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(read_metrics(tmp_path)["entropy"], at_once[0].metrics["entropy"], rtol=1e-4)
    assert_trees_equal(runs.open_run(tmp_path).job.rows.keys, seeds.keys)


@pytest.mark.long
def test_silence_in_a_relative_directory(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main("train", *SMALL, *QUICK, "--silent", "--directory", "deep/run") == 0
    assert main("resume", "deep/run", "--silent") == 0
    assert capsys.readouterr() == ("", "")


@pytest.mark.long
def test_flags_reach_the_run(tmp_path, capsys):
    directory = tmp_path / "run"
    flags = [*SMALL, "--num-evaluations", "1", "--evaluation-episodes", "2", "--keep-checkpoints", "1", "--tensorboard"]
    assert main("train", *flags, "--directory", directory) == 0
    description = files.read_json(directory / files.RUN)
    assert description["options"] == {
        "num_evaluations": 1,
        "evaluation_episodes": 2,
        "checkpoint_seconds": 60.0,
        "keep_checkpoints": 1,
    }
    assert list((directory / files.TENSORBOARD).iterdir())
    assert len(read_evaluations(directory)["update"]) == 1
    assert main("train", *SMALL, "--directory", directory) == 2
    assert "holds a run; resume it" in capsys.readouterr().err
    assert main("train", *SMALL, *QUICK, "--overwrite", "--directory", directory) == 0
    assert read_evaluations(directory) == {}

    (directory / files.METRICS).write_text("")
    capsys.readouterr()
    assert main("plot", directory) == 2
    expected = f"purejaxppo: directory={str(directory)!r}: has a corrupt record: there are not all returns in it\n"
    assert capsys.readouterr() == ("", expected)
    assert main("evaluate", directory, "--num-episodes", "1") == 0  # it needs none of the record


OWN = ["--env", "my_module:Env", "--network", "my_module:Net", "--network.width", "4"]
OWN_SIZES = SMALL[: SMALL.index("--network.hidden-sizes")]


@pytest.mark.long
def test_a_run_of_ones_own_module_is_resumed_and_used_with_the_import_only(tmp_path, capsys, monkeypatch):
    programs.write(tmp_path / "work")
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place])
    commands = [["resume"], ["evaluate", "--num-episodes", "2"], ["plot", "--output", "drawn"], ["report"]]
    with monkeypatch.context() as pressed:
        interrupt_after_the_first_chunk(pressed)
        flags = [*OWN, "--optimizer", "my_module:optimizer", *OWN_SIZES]
        assert main("train", *flags, "--directory", "run") == 130
    try:
        for command, *rest in commands:
            programs.forget()
            programs.was_imported(tmp_path / "work")
            capsys.readouterr()
            assert main(command, "run", *rest) == 2
            out, err = capsys.readouterr()
            assert (out, err.count("\n")) == ("", 1)
            assert err.startswith("purejaxppo: run/config.toml: optimizer='my_module:optimizer': names the module my_m")
            assert err.endswith("imports=['my_module'] does that, on the command line --import my_module\n")
            assert not programs.was_imported(tmp_path / "work")
        for command, *rest in commands:
            programs.forget()
            assert main(command, "run", "--import", "my_module", *rest) == 0
    finally:
        programs.forget()
    assert files.read_json(tmp_path / "work" / "run" / files.SUMMARY)["resumed_after"] == 1


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["train", "--num-evaluations", "3"], "num_evaluations=3: needs --directory"),
        (["train", "--overwrite"], "overwrite=True: needs --directory"),
        (["train", "--tensorboard"], "tensorboard=True: needs --directory"),
        (["train", "--directory", "full", "--plot", "new"], "directory='full': must be a new or empty directory"),
        (["train", "--directory", "full/file"], "directory='full/file': cannot be written to (Not a directory)"),
        (
            ["train", "--directory", "full/file/new"],
            "directory='full/file/new': cannot be written to (Not a directory)",
        ),
        (["train", "--directory", "new", "--num-evaluations", "-1"], "num_evaluations=-1: must be an integer >= 0"),
        (["train", "--directory", "new", "--keep-checkpoints", "0"], "keep_checkpoints=0: must be an integer >= 1"),
        (["resume"], "PATH"),
        (["resume", "full"], "directory='full': must be a run's directory; it has no run.json"),
        (["resume", "missing"], "directory='missing': must be a run's directory"),
        (["evaluate", "full"], "must be a run's directory"),
        (["evaluate", "full", "--num-episodes", "0"], "num_episodes=0: must be an integer >= 1"),
        (["evaluate", "full", "--seed", "-1"], "seed=-1: must be an integer in [0, 2**32)"),
        (["plot", "full"], "must be a run's directory"),
        (["render", "full"], "must be a run's directory"),
        (["describe", "--lr", "-1"], "lr=-1.0: must be"),
        (["envs", "--more"], "--more"),
    ],
)
def test_a_mistake_is_one_line_and_status_2_and_leaves_nothing(argv, said, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("mine")
    assert cli.main(argv) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert said in err
    assert [str(path.relative_to(tmp_path)) for path in sorted(tmp_path.rglob("*"))] == ["full", "full/file"]


@pytest.mark.long
def test_pictures_do_not_overwrite_and_need_something_to_draw(tmp_path, capsys, monkeypatch):
    assert main("train", *SMALL, *QUICK, "--silent", "--directory", tmp_path / "run") == 0
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("mine")
    capsys.readouterr()
    assert main("plot", tmp_path / "run", "--output", tmp_path / "full") == 2
    assert "must be a new or empty directory; nothing is overwritten" in capsys.readouterr().err
    monkeypatch.setattr("purejaxppo.experiment.pictures.animations.can_draw", lambda env: False)
    assert main("render", tmp_path / "run", "--output", tmp_path / "new") == 2
    assert "env='GridWorld-treasure': must be a GridWorld, or one that gymnax draws" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_a_logger_that_is_not_installed_is_refused_before_training(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main("train", *SMALL, "--directory", tmp_path / "run", "--wandb", "mine") == 2
    assert capsys.readouterr() == ("", "purejaxppo: wandb: needs pip install 'purejaxppo[wandb]'\n")
    assert not (tmp_path / "run").exists()


def test_environments_are_listed_with_their_spaces(capsys):
    assert main("envs") == 0
    out = capsys.readouterr().out
    assert re.search(r"^  GridWorld-treasure +one of 31 +one of 4, optimum known$", out, re.MULTILINE)
    assert re.search(r"^  CartPole-v1 +4 numbers +one of 2$", out, re.MULTILINE)
    assert re.search(r"^  Breakout-MinAtar +10 x 10 x 4 numbers +one of 3$", out, re.MULTILINE)
    assert re.search(r"^  Pendulum-v1 +3 numbers +1 number$", out, re.MULTILINE)
    assert re.search(
        r"^brax [\d.]+, pip install 'purejaxppo\[brax\]'\n  brax/ant +27 numbers +8 numbers$", out, re.MULTILINE
    )
    assert out.startswith("gymnax ")


def test_a_configuration_is_described_and_not_trained(capsys, monkeypatch):
    monkeypatch.setattr(cli.train, "train_at_once", lambda *_: pytest.fail("trained"))
    assert main("describe", "--env", "CartPole-v1", "--num-seeds", "5") == 0
    out = capsys.readouterr().out
    assert "agents             5, each:" in out
    for said in (r"updates +976 x 512 steps", r"gradient steps +15,616", r"memory +about \d", "231,296 FLOPs per step"):
        assert re.search(said, out)


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_command_has_help_with_an_example_that_parses(command, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "1000")
    with pytest.raises(SystemExit) as stop:
        cli.main([command, "--help"])
    assert stop.value.code == 0
    example = re.search(r"Example: purejaxppo (.*)", capsys.readouterr().out).group(1).split()
    assert example[0] == command
    assert cli.parse(example).module is cli.COMMANDS[command]


def test_help_names_every_command(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["--help"])
    assert stop.value.code == 0
    out = capsys.readouterr().out
    for command in cli.COMMANDS:
        assert f"• {command}" in out


def test_shells_get_completions(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["--tyro-print-completion", "bash"])
    assert not stop.value.code
    out = capsys.readouterr().out
    for word in ("resume", "--total-timesteps", "--num-evaluations"):
        assert word in out


PROGRESS = Progress(
    num_updates=3,
    total_updates=4,
    num_steps=1500,
    total_steps=2000,
    steps_per_second=1234567.8,
    seconds_left=62.4,
    metrics={"episode_return": np.array([1.0, np.nan, 2.0])},
)


def test_progress_in_words():
    assert (
        progress.in_words(PROGRESS)
        == "1,500 of 2,000 steps, 1,234,568 steps/s, 1:02 left, return 1.500 (1.000 to 2.000)"
    )
    one = PROGRESS._replace(metrics={"episode_return": np.array([1.25])})
    assert progress.in_words(one).endswith("return 1.250")
    none = PROGRESS._replace(metrics={"episode_return": np.array([np.nan])})
    assert progress.in_words(none).endswith("return none yet")


def test_lines_come_now_and_then_and_at_the_end(capsys, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    with progress.show(silent=False) as callback:
        for update in range(1, 101):
            clock[0] += 0.5
            callback(PROGRESS._replace(num_updates=update, total_updates=100))
    updates = re.findall(r"^update (\d+) of 100", capsys.readouterr().err, re.MULTILINE)
    assert updates == ["1", "21", "41", "61", "81", "100"]


def test_a_terminal_gets_a_bar(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")  # as rich takes for a terminal
    monkeypatch.setenv("COLUMNS", "200")
    with progress.show(silent=False) as callback:
        callback(PROGRESS)
    out, err = capsys.readouterr()
    assert "━" in err
    assert "1:02 left" in err
    assert out == ""


def in_a_process(tmp_path, *command, **variables):
    """A process of its own, which has no cache yet."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    variables |= {"XDG_CACHE_HOME": str(tmp_path / "cache")} | FAST_COMPILING
    done = subprocess.run([sys.executable, *command], env=kept | variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done


@pytest.mark.long
def test_compiled_programs_are_kept_in_the_users_cache(tmp_path):
    in_a_process(tmp_path, "-m", "purejaxppo", "train", *SMALL, *QUICK, "--directory", str(tmp_path / "run"))
    assert any("_advance" in path.name for path in (tmp_path / "cache" / "purejaxppo").iterdir())
    assert {path.name for path in tmp_path.iterdir()} == {"cache", "run"}


def test_the_users_own_cache_is_respected_and_what_takes_long_is_imported_late(tmp_path):
    code = "import jax; from purejaxppo import cli; cli.main(['describe']); jax.jit(lambda x: x + 1)(1)"
    theirs = tmp_path / "theirs"
    chosen = {"JAX_COMPILATION_CACHE_DIR": str(theirs), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    modules = in_a_process(tmp_path, "-X", "importtime", "-c", code, **chosen).stderr
    assert list(theirs.iterdir())
    assert {path.name for path in tmp_path.iterdir()} == {"theirs"}
    for late in ("seaborn", "matplotlib.pyplot", "orbax", "scipy.stats", "tensorboardX", "wandb"):
        assert f" {late}\n" not in modules
    assert " gymnax\n" in modules
