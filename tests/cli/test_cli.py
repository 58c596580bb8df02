"""The command line, as a user meets it."""

import io
import re
import sys
import types

import jax
import pytest

from purejaxppo import GRU, MLP, Config, GridWorld, GridWorldParams, cli, preset
from purejaxppo.experiment.runs import devices
from purejaxppo.tables import dumps
from tests.support import programs
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


def test_flags_of_a_network_are_its_fields():
    config, _ = parse(["train", "--network", "gru", "--network.hidden-sizes", "8"])
    assert config.network == GRU(hidden_sizes=(8,))
    config, _ = parse(["train", "--network.hidden-sizes", "3", "--network.shared-torso"])
    assert config.network == parse(["train"])[0].network.replace(hidden_sizes=(3,), shared_torso=True)
    for flags in ([], ["--network", "mlp"]):  # a preset's own fields, not the class's defaults
        assert parse(["train", "--preset", "treasure", *flags])[0].network == preset("treasure").network != MLP()
    assert parse(["train", "--network.hidden-sizes"])[0].network.hidden_sizes == ()


@pytest.fixture
def my_module(tmp_path, monkeypatch):
    """A module in the working directory, where `python -m` would find it."""
    programs.write(tmp_path / "work")
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place])
    yield lambda: sys.modules[programs.NAME]
    programs.forget()


def test_flags_name_an_environment_a_network_and_functions_of_ones_own(my_module):
    flags = ["--env", "my_module:Env", "--network", "my_module:Net", "--optimizer", "my_module:optimizer"]
    config, _ = parse(["train", *flags, "--network.width", "4", "--env-params", "prize=3"])
    assert (config.env, config.env_params) == (my_module().Env(), my_module().Params(prize=3.0))
    assert config.network == my_module().Net(width=4)
    assert config.optimizer is my_module().optimizer
    alone, _ = parse(["train", "--network.width=6", "--network=my_module:Net", "--env", "CartPole-v1"])
    assert alone.network == my_module().Net(width=6)
    assert alone == Config(env="CartPole-v1", network=my_module().Net(width=6))
    named, _ = parse(["train", "--advantage", "my_module:explode", "--lr-schedule=my_module:explode"])
    assert named.advantage is named.lr_schedule is my_module().explode


def test_a_preset_that_names_a_module_needs_the_import(my_module, tmp_path, capsys):
    config, _ = parse(["train", "--env", "my_module:Env", "--network", "my_module:Net", "--network.width", "4"])
    path = tmp_path / "mine.toml"
    path.write_text(dumps(config))
    programs.forget()
    programs.was_imported(tmp_path / "work")
    assert cli.main(["train", "--preset", str(path)]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert "env='my_module:Env': names the module my_module" in err
    assert "on the command line --import my_module" in err
    assert not programs.was_imported(tmp_path / "work")
    for flag in (["--import", "my_module"], ["--import=my_module"]):
        found, _ = parse(["train", *flag, "--preset", str(path), "--network.width", "5"])
        assert found == config.replace(env=my_module().Env(), network=my_module().Net(width=5))


@pytest.mark.usefixtures("my_module")
@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--env", "my_module:Nope"], "env='my_module:Nope': must be a class derived from gymnax's Environment"),
        (["--env", "my_module:optimizer"], "env='my_module:optimizer': must be a class derived from gymnax's"),
        (["--env", "my_module:Net"], "env='my_module:Net': must be a class derived from gymnax's Environment"),
        (["--network", "my_module:Env"], "network='my_module:Env': must be a class derived from flax's Module or"),
        (["--network", "os:system"], "network='os:system': must be a class derived from flax's Module or"),
        (["--network", "no_such:Net"], "network: the module no_such cannot be imported (ModuleNotFoundError("),
        (["--network", "my_module:Net:x"], "unknown network 'my_module:Net:x'; known: mlp, cnn, gru"),
        (["--network", "gruu"], "unknown network 'gruu'; did you mean 'gru'?"),
        (["--network"], "unknown network ''; known: mlp, cnn, gru"),
        (["--network", "gru", "--network.width", "4"], "--network.width"),
        (["--network", "my_module:Net", "--network.hidden-sizes", "4"], "--network.hidden-sizes"),
        (
            ["--network", "my_module:Net", "--network.width", "x"],
            "Error parsing --network.width: 'x' is not a whole number",
        ),
        (["--network", "gru", "--network.hidden-sizes", "0"], "hidden_sizes=(0,): must be a sequence of integers"),
        (["--network", "gru", "--num-envs", "6"], "num_minibatches=4: must be a divisor of num_envs = 6, as a network"),
        (["--hidden-sizes", "4"], "--hidden-sizes"),
        (["--optimizer", "my_module:Net"], "optimizer='my_module:Net': must be a function"),
        (["--optimizer", "my_module:nope"], "optimizer='my_module:nope': must be a function"),
        (["--optimizer", "adamm"], "optimizer='adamm': must be one of 'adam', 'adamw'"),
        (["--optimizer", "no_such:adam"], "optimizer: the module no_such cannot be imported (ModuleNotFoundError("),
        (["--lr-schedule", "my_module:nope"], "lr_schedule='my_module:nope': must be a function"),
        (["--env", "my_module:Env", "--env-params", "money=1"], "unknown env_params name 'money'"),
        (["--env", "my_module:Env", "--info", "nope"], "unknown info 'nope'"),
    ],
)
def test_a_mistake_about_what_is_ones_own_is_one_line_and_status_2(argv, said, capsys, monkeypatch):
    monkeypatch.setattr(cli.train, "train_at_once", lambda *_: pytest.fail("it went on"))
    for command in ("train", "describe", "sweep"):
        assert cli.main([command, *argv]) == 2
        out, err = capsys.readouterr()
        assert (out, err.count("\n")) == ("", 1)
        assert said in err


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


@pytest.mark.parametrize("flags", [(), ("--directory", "run")])
def test_what_does_not_fit_into_the_memory_is_not_begun(flags, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(devices, "available_bytes", lambda: 5)
    assert cli.main(["train", *SMALL, *flags]) == 2
    expected = r"purejaxppo: num_seeds=\d+: needs [\d,]+ bytes of memory, but 5 are free\n"
    assert re.fullmatch(expected, capsys.readouterr().err)


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
