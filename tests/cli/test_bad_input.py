"""Whatever is given to the command line, it is refused in one line that names it, before anything compiles."""

import os
import subprocess
import sys

import jax
import pytest

from purejaxppo import _starting, cli, environments, user_files

NOT_COUNTS = ["0", "-1", "1.5", "1.5e0", "nan", "-inf", "1e400", "2147483648", "1e30", "", "x", "1,000", "0x10", "²"]
NOT_RATES = ["-1", "nan", "inf", "1e39", "1e400", "", "x", "1e", "None", "0.1 0.2"]
# The values of flags of `train` that are refused.
VALUES = {
    "num-envs": NOT_COUNTS,
    "num-steps": ["0", "1.5e0", "2147483648"],
    "num-epochs": ["0", "nan", "1000000000000"],
    "num-minibatches": ["0", "x", "7", "4096"],
    "total-timesteps": ["0", "-1e6", "1.5", "nan", "1e400", "9223372036854775808", "1e30", "", "x", "1"],
    "num-seeds": ["0", "-1", "1e400", "2000000000"],
    "seed": ["-1", "4294967296", "0.5", "nan", "1e400", "x"],
    "reset-pool": ["-1", "1.5", "1000000000000", "x"],
    "lr": [*NOT_RATES, "0"],
    "gamma": ["-1", "nan", "1.0001"],
    "gae-lambda": ["-0.1", "2", "nan"],
    "clip-eps": ["0", "-1", "nan"],
    "max-grad-norm": ["0", "inf"],
    "target-kl": ["0", "nan"],
    "dual-clip": ["1", "nan"],
    "lr-end": ["-1", "nan"],
    "lr-schedule": ["", "steep", "\x1b[31m", "a:b:c"],
    "optimizer": ["", "adamm", "a\0"],
    "advantage": ["", "gea", "\udcff"],
    "env": [
        "",
        " ",
        "CartPole",
        "a\0b",
        "a\0b.txt",
        "nowhere.txt",
        "nope/x",
        "/dev/zero",
        "\x1b]0;x\a",
        "[/red]",
        "x" * 5000,
    ],
    "preset": ["", "tresure", "a\0", "a\0.toml", "nowhere.toml", "/dev/zero", "/", "\udcff.toml", "[red]"],
    "network": ["", "mpl", "a\0", "os:path", "\x1b"],
    "network.hidden-sizes": ["0", "-4", "1.5", "nan", "1000000000000", "16777217", "x"],
    "network.activation": ["", "gelu"],
    "network.dtype": ["", "float16"],
    "network.distribution": ["", "normal", "tanh_gaussian"],
    "directory": ["a\0b", "/dev/null/x"],
    "plot": ["a\0b", "/dev/null", "/proc/x"],
    "info": ["nope", "", "\x1b"],
    "window": ["1"],  # of another command
    "\x1b[31m": ["1"],
}
# The pairs of flags that take such, and what the error must name.
ENV_PARAMS = {
    "env_params": ["slip", "slip=", "=1"],
    "slip": ["slip=x", "slip=2", "slip=nan", "slip=0=0"],
    "unknown env_params": ["slp=0", "\x1b=1", "\0=0"],
    "max_steps_in_episode": [f"max_steps_in_episode={n}" for n in ("2147483647", "2147483648", "1e12", "0", "0.5")],
}
OVER = {
    "over": ["lr", "lr=", "=3", "lr=1\nlr=2", "lr=1,1"],
    "lr": ["lr=nan", "lr=[1,2]", "lr={a=1}", "lr=1979-05-27", "lr.x=1"],
    "unknown": ["nope=1", "env=nope", "network=mpl", "network.nope=1", "env_params.nope=1", "seed=1"],
    "layout": ["env=a\0b.txt"],
    "hidden_sizes": ["network.hidden_sizes=[0]"],
    "slip": ["env_params.slip=x"],
    "num_envs": ["num_envs=1.5"],
    "total_timesteps": ["total_timesteps=1e400"],
}
DIRECTORIES = ["nowhere", "a\0b", "/dev/null", "\udcff", ""]
# What is refused as a whole, and what the error must name.
COMMANDS = [
    *((["train", "--env-params", pair], name) for name in ENV_PARAMS for pair in ENV_PARAMS[name]),
    *((["sweep", "--over", pair], name) for name in OVER for pair in OVER[name]),
    *(([command, place], "directory") for command in ("resume", "evaluate", "plot", "render") for place in DIRECTORIES),
    (["train", "--env", "Catch-bsuite", "--env-params", "max_steps_in_episode=2147483647"], "max_steps_in_episode"),
    (["train", "--env", "CartPole-v1", "--env-params", "max_steps_in_episode=2147483648"], "max_steps_in_episode"),
    (["train", "--env", "CartPole-v1", "--env-params", "gravity=1e300"], "gravity"),
    (["train", "--env", "Acrobot-v1", "--env-params", "available_torque=1"], "available_torque"),
    (["train", "--env", "CartPole-v1", "--exact-return"], "exact_return"),
    (["train", "--total-timesteps", "1099511627776", "--num-envs", "4", "--num-steps", "8"], "total_timesteps"),
    (["train", "--num-envs", "65536", "--num-steps", "65536"], "num_envs"),
    (["train", "--overwrite"], "overwrite"),
    (["\x1b]0;x\a"], "Unrecognized"),
    (["report"], "sources"),
    (["report", "."], "sweep.json"),
    (["report", "a\0b"], "directory"),
    (["report", "nowhere", "--threshold", "nan"], "threshold"),
    (["report", "nowhere", "--threshold", "x"], "threshold"),
    (["report", "nowhere", "--window", "x"], "window"),
    (["report", "nowhere", "--window", "7"], "window"),
    (["report", "nowhere", "--overwrite"], "overwrite"),
    (["evaluate", "nowhere", "--num-episodes", "0"], "num_episodes"),
    (["evaluate", "nowhere", "--num-episodes", "1e10"], "num_episodes"),
    (["evaluate", "nowhere", "--seed", "-1"], "seed"),
    (["sweep", "--num-seeds", "1000000000000", "--over", "lr=1e-3"], "num_seeds"),
    (["sweep", "--max-bytes", "0", "--over", "lr=1e-3"], "max_bytes"),
    (["sweep", "--max-bytes", "0.5", "--over", "lr=1e-3"], "max_bytes"),
    (["sweep", "--threshold", "nan", "--over", "lr=1e-3"], "threshold"),
    (["sweep", "--over", "lr=1e-3", "--directory", "a\0b"], "directory"),
]


@pytest.fixture
def refused(capsys, monkeypatch):
    """Runs the command line, which must refuse what it is given; gives the line that says why."""
    for name in ("train_at_once", "run"):
        monkeypatch.setattr(cli.train, name, lambda *_, **__: pytest.fail("it went on"))

    def run(argv):
        assert cli.main(argv) == 2
        out, err = capsys.readouterr()
        assert (out, err.count("\n")) == ("", 1)
        assert err.removesuffix("\n").isprintable()
        assert "Traceback" not in err
        return err

    return run


@pytest.mark.parametrize("name", VALUES)
def test_a_value_is_refused_by_the_name_of_its_flag(refused, name):
    for value in VALUES[name]:
        said = refused(["train", f"--{name}", value]).replace("layout", "env")
        assert name.rpartition(".")[2].replace("-", "_") in said.replace("-", "_") or "x1b" in said, value


def test_a_command_is_refused_by_the_name_of_what_it_cannot_use(refused):
    for argv, name in COMMANDS:
        assert name in refused(argv), argv


def test_there_are_many_bad_inputs():
    assert sum(map(len, VALUES.values())) + len(COMMANDS) > 180


def test_files_that_are_none_are_refused(refused, tmp_path):
    os.mkfifo(tmp_path / "pipe.toml")
    os.mkfifo(tmp_path / "pipe.txt")
    (tmp_path / "directory.toml").mkdir()
    (tmp_path / "large.toml").open("wb").truncate(user_files.MOST_BYTES + 1)
    (tmp_path / "utf-16.toml").write_bytes("lr = 1".encode("utf-16"))
    (tmp_path / "zero.toml").write_text("[env]\ntype = 'GridWorld'\nlayout = '/dev/zero'\n")
    (tmp_path / "nul.toml").write_text('[env]\ntype = "GridWorld"\nlayout = "a\\u0000b"\n')
    assert "must be a regular file" in refused(["train", "--preset", str(tmp_path / "pipe.toml")])
    assert "must be a regular file" in refused(["train", "--env", str(tmp_path / "pipe.txt")])
    assert "must be a regular file" in refused(["train", "--preset", str(tmp_path / "directory.toml")])
    assert "must be a file of at most" in refused(["train", "--preset", str(tmp_path / "large.toml")])
    assert "it is UTF-16" in refused(["train", "--preset", str(tmp_path / "utf-16.toml")])
    assert "layout='/dev/zero': must be a regular file" in refused(["train", "--preset", str(tmp_path / "zero.toml")])
    assert "layout='a\\x00b': must be a path" in refused(["train", "--preset", str(tmp_path / "nul.toml")])


def test_data_that_cannot_be_had_are_one_error(refused, monkeypatch):
    def fail():
        raise OSError("no network")

    monkeypatch.setitem(environments.OURS, "Mine-v0", fail)
    assert refused(["train", "--env", "Mine-v0"]) == "purejaxppo: env='Mine-v0': cannot be made (OSError: no network)\n"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (jax.errors.JaxRuntimeError("INTERNAL: Out of memory"), "out of memory (INTERNAL: Out of memory)"),
        (MemoryError(), "out of memory (MemoryError)"),
        (OverflowError("Python int too large"), "out of memory (Python int too large)"),
        (
            RuntimeError("Unable to initialize backend 'x': y"),
            "JAX_PLATFORMS=None: Unable to initialize backend 'x': y",
        ),
        (OSError(28, "No space left on device"), "output: cannot be written to (No space left on device)"),
    ],
)
def test_what_the_machine_lacks_is_one_line(capsys, monkeypatch, error, said):
    def fail(*_):
        raise error

    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    monkeypatch.setattr(cli.train, "train_at_once", fail)
    assert cli.main(["train"]) == 2
    assert capsys.readouterr().err == f"purejaxppo: {said}\n"


def test_other_errors_are_not_hidden(monkeypatch):
    def fail(*_):
        raise RuntimeError("a mistake of ours")

    monkeypatch.setattr(cli.train, "train_at_once", fail)
    with pytest.raises(RuntimeError, match="a mistake of ours"):
        cli.main(["train"])


@pytest.mark.parametrize("home", [None, "a file", "not to be written to"])
def test_without_a_place_for_it_there_is_no_cache(monkeypatch, tmp_path, home):
    (tmp_path / "file").touch()
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "file"))
    if home is None:
        monkeypatch.setattr("pathlib.Path.home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    if home == "not to be written to":
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setattr("os.access", lambda *_: False)
    assert cli._cache_directory() is None


@pytest.mark.parametrize(
    ("argv", "original", "is_it"),
    [
        (["/usr/bin/purejaxppo", "train"], ["python", "/usr/bin/purejaxppo", "train"], True),
        (["-m", "train"], ["python", "-u", "-m", "purejaxppo", "train"], True),
        (["-m"], ["python", "-m", "pytest"], False),
        (["mine.py", "purejaxppo"], ["python", "mine.py", "-m", "purejaxppo"], False),
        ([], [], False),
    ],
)
def test_only_the_command_ends_at_once_while_it_is_imported(argv, original, is_it):
    assert _starting.is_command(argv, original) == is_it


@pytest.mark.parametrize(
    ("started", "status", "said"),
    [
        ("os.kill(os.getpid(), signal.SIGINT); time.sleep(60)", 130, "purejaxppo: interrupted\n"),
        ("raise ValueError('a\\nb')", 2, "purejaxppo: cannot be started (ValueError a b)\n"),
        ("end(); sys.exit('as usual')", 1, "as usual\n"),
    ],
)
def test_ctrl_c_and_errors_while_it_is_imported_are_one_line(started, status, said):
    code = (
        f"import os, signal, sys, time; sys.argv = ['purejaxppo']; exec(open({_starting.__file__!r}).read()); {started}"
    )
    env = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    found = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert (found.returncode, found.stderr) == (status, said)
