"""The command line, as a user meets it."""

import io
import re
import sys
import types

import jax
import pytest

from purejaxppo import MLP, Config, GridWorld, GridWorldParams, cli
from purejaxppo.tables import dumps
from tests.support.flags import SMALL, parse


def test_train_prints_what_it_did(capsys):
    assert cli.main(["train", *SMALL, "--num-seeds", "3"]) == 0
    out = capsys.readouterr().out
    assert "3 agents from seed 0" in out
    assert re.search(r"updates +2 x 32 steps", out)
    assert re.search(r"compile time +\d+\.\d s\nrun time +\d+\.\d s", out)
    assert re.search(r"throughput +[\d,]+ environment steps/s \(192 steps over all agents\)", out)
    assert re.search(r"IQM -?\d+\.\d+, 95% interval \[.+\], best -?\d+\.\d+, worst -?\d+\.\d+", out)
    assert re.search(
        r"optimal return +0\.360, reached by \d of 3 agents\ngap +mean \d+\.\d{4}, worst \d+\.\d{4}; .+% of", out
    )
    picture = out[out.index("moves are optimal") :]
    assert picture.count("D") >= 3
    assert len(re.findall("[↑→↓←]", picture)) >= 25
    assert len(re.findall(r"-?\d\.\d\d", picture)) == 25


def test_a_map_file_with_parameters(tmp_path):
    path = tmp_path / "mine.txt"
    path.write_text("S.M\n.D.\n")
    config, _ = parse(["train", "--env", str(path), "--env-params", "slip=0.5", "max_steps_in_episode=7", *SMALL])
    params = GridWorldParams(slip=0.5, max_steps_in_episode=7)
    assert (config.env, config.env_params) == (GridWorld("S.M\n.D."), params)


def test_flags_reach_the_configuration():
    flags = [
        "--env=CartPole-v1",
        "--lr",
        "0.1",
        "--lr-schedule=cosine",
        "--network.hidden-sizes",
        "3",
        "5",
        "--network.activation",
        "relu",
    ]
    config, seeds = parse(["train", *flags, "--num-seeds", "2", "--seed", "9"])
    assert (config.env, config.lr, config.lr_schedule) == ("CartPole-v1", 0.1, "cosine")
    assert config.network == MLP(hidden_sizes=(3, 5), activation="relu")
    assert (seeds.num_seeds, seeds.seed) == (2, 9)
    config, seeds = parse(["train"])
    assert (config.env, seeds.num_seeds) == ("GridWorld-treasure", 1024)
    config, seeds = parse(["train", "--preset", "treasure", "--preset=acrobot"])
    assert (config.env, seeds.num_seeds) == ("Acrobot-v1", 1)
    config, _ = parse(["train", "--env-params", "slip=0.25"])
    assert config.env_params.slip == 0.25


def test_a_preset_with_a_map_of_its_own(tmp_path, capsys):
    mine = Config(env=GridWorld("S.M"), env_params=GridWorldParams(slip=0.5), num_envs=8)
    path = tmp_path / "mine.toml"
    path.write_text(dumps(mine))
    assert parse(["train", "--preset", str(path), "--lr", "0.1"])[0] == mine.replace(lr=0.1)
    config, _ = parse(["train", "--preset", str(path), "--env", "CartPole-v1"])
    assert (config.env, config.env_params, config.num_envs) == ("CartPole-v1", None, 8)


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ([], "purejaxppo: Missing subcommand: Expected one of {train,"),
        (["nope"], "purejaxppo: Unrecognized options: nope; Available subcommands: train,"),
        (["--tyro-print-completion", "tcsh"], "--tyro-print-completion tcsh: must be one of bash, zsh, fish"),
        (["--tyro-print-completion", "nope"], "must be one of bash, zsh, fish"),
        (["--tyro-write-completion", "bash", "/nowhere/x"], "/nowhere/x: cannot be written to (No such file"),
        (["train", "--gama", "1"], "--gama"),
        (["train", "--lr"], "--lr"),
        (["train", "--lr", "abc"], "Value error: Error parsing --lr: could not convert string to float: 'abc'; "),
        (["train", "--lr", "-1"], "lr=-1.0: must be a finite number > 0"),
        (["train", "--lr", "nan"], "lr=nan: must be a finite number > 0"),
        (["train", "--num-minibatches", "7"], "num_minibatches=7: must be a divisor"),
        (["train", "--total-timesteps", "1"], "total_timesteps=1: must be at least"),
        (["train", "--env", "GridWorld-tresure"], "did you mean 'GridWorld-treasure'?"),
        (["train", "--env", "CartPole-v1", "--network", "cnn"], "network='cnn': must be for images"),
        (["train", "--env", "missing.txt"], "unknown layout or file 'missing.txt'; known: cliff, dragons"),
        (["train", "--env-params", "slp=1"], "did you mean 'slip'?"),
        (["train", "--env-params", "max_steps_in_episode=2.5"], "env_params.max_steps_in_episode=2.5: must be like"),
        (["train", "--env", "CartPole-v1", "--env-params", "gravity=nan"], "env_params.gravity=nan: must be like"),
        (["train", "--env-params", "slip=x"], "must be name=number"),
        (["train", "--env-params", "slip=2"], "slip=2.0: must be a number in [0, 1]"),
        (["train", "--network.activation", "gelu"], "activation='gelu': must be one of 'tanh', 'relu'"),
        (["train", "--num-seeds", "0"], "num_seeds=0: must be an integer >= 1"),
        (["train", "--seed", "-1"], "seed=-1: must be an integer in [0, 2**32)"),
    ],
)
def test_a_mistake_is_one_line_and_status_2_before_anything_compiles(argv, said, capsys, monkeypatch):
    monkeypatch.setattr(cli.train, "train_at_once", lambda *_: pytest.fail("it went on"))
    assert cli.main(argv) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert said in err


def test_where_there_is_no_utf_8_it_prints_what_it_can(monkeypatch):
    stdout = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr("sys.stdout", stdout)
    command = cli.Command(types.SimpleNamespace(main=lambda flags: print("go →")), None)
    monkeypatch.setattr(cli, "parse", lambda argv: command)
    monkeypatch.setattr(cli, "_keep_compiled_programs", lambda: None)
    assert cli.main() == 0
    stdout.flush()
    assert stdout.buffer.getvalue() == b"go ?\n"


@pytest.mark.parametrize(
    "message",
    [
        "╭─ Missing ─────╮\n│ No          │\n│     value.  │\n│ ─────────── │\n│ For full helptext │\n╰───────────╯\n",
        " Missing       \n ------------- \n  No           \n      value.   \n  -----------\n  For full helptext  \n\n",
    ],
    ids=["UTF-8", "ASCII"],
)
def test_a_framed_message_is_one_line(message):
    assert cli._one_line(message) == "Missing: No value."


@pytest.mark.parametrize("line", ["lr = {a = 1}", "num_envs = 'a'"])
def test_a_preset_of_the_wrong_types_is_one_line(line, capsys, tmp_path):
    (tmp_path / "mine.toml").write_text(line)
    assert cli.main(["train", "--preset", str(tmp_path / "mine.toml")]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith(f"purejaxppo: {line.split()[0]}=")


def test_ctrl_c_ends_the_process_before_xla_can_crash_in_its_shutdown(capsys, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    statuses = []
    monkeypatch.setattr(cli.train, "train_at_once", interrupt)
    monkeypatch.setattr(sys, "argv", ["purejaxppo", "train", *SMALL])
    monkeypatch.setattr("os._exit", statuses.append)
    assert cli.main(["train", *SMALL]) == 130
    assert statuses == []
    cli.main()
    assert statuses == [130]
    assert capsys.readouterr().err == "purejaxppo: interrupted\n" * 2


def test_too_little_memory_is_one_line(capsys, monkeypatch):
    def exhaust(*_):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1 bytes.\nmore")

    monkeypatch.setattr(cli.train, "train_at_once", exhaust)
    assert cli.main(["train", *SMALL]) == 2
    expected = "purejaxppo: out of memory (RESOURCE_EXHAUSTED: Out of memory allocating 1 bytes.)\n"
    assert capsys.readouterr().err == expected


def test_a_broken_map_is_one_line_with_its_place(capsys, tmp_path):
    path = tmp_path / "broken.txt"
    path.write_text("S.M\n.x.\n")
    assert cli.main(["train", "--env", str(path)]) == 2
    assert "line 2, column 2" in capsys.readouterr().err


def test_help_names_every_field(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["train", "--help"])
    assert stop.value.code == 0
    out = capsys.readouterr().out
    for flag in ("--env", "--env-params", "--total-timesteps", "--lr", "--clip-value", "--num-seeds", "--seed"):
        assert flag in out
