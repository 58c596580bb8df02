"""`purejaxppo sweep` and `purejaxppo report`."""

import json
import re
import signal

import jax
import numpy as np
import pytest

from purejaxppo import cli, tables
from purejaxppo.cli import main
from purejaxppo.cli.flags import to_config
from purejaxppo.cli.sweep import to_values
from purejaxppo.experiment import load_trials, sweep
from purejaxppo.experiment.sweeps.combinations import combinations
from tests.support.flags import parse

SIZES = ["--num-envs", "2", "--num-steps", "8", "--total-timesteps", "48", "--network.hidden-sizes", "8"]
SMALL = [*SIZES, "--num-seeds", "3"]
OVER = ["--over", "lr=1e-3,3e-3", "env_params.slip=0,0.5"]


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """A finished sweep's directory."""
    directory = tmp_path_factory.mktemp("sweep") / "sweep"
    assert main(["sweep", *SMALL, *OVER, "--silent", "--directory", str(directory)]) == 0
    return directory


@pytest.mark.parametrize(
    ("pair", "values"),
    [
        ("lr=1e-3,2", [1e-3, 2]),
        ("clip_value=true,false", [True, False]),
        ("network.hidden_sizes=[64],[64,32]", [[64], [64, 32]]),
        ("network.activation=tanh,relu", ["tanh", "relu"]),
        ("lr=1e-3,1e-x,2", [1e-3, "1e-x", 2]),
        ("lr=1#,2", ["1#", 2]),
        ("env=CartPole-v1", ["CartPole-v1"]),
        ("env_params.slip=0.1", [0.1]),
    ],
)
def test_values_are_read(pair, values):
    assert to_values([pair]) == {pair.partition("=")[0]: values}
    assert list(map(type, to_values([pair])[pair.partition("=")[0]])) == list(map(type, values))


def test_is_the_sweep_of_the_library(swept, tmp_path, capsys):
    assert main(["report", str(swept), "--output", str(tmp_path / "report")]) == 0
    text = json.loads((tmp_path / "report" / "report.json").read_text())
    assert [row["name"] for row in text["rows"]] == [
        f"lr={lr}, env_params.slip={slip}" for lr in ("0.001", "0.003") for slip in ("0", "0.5")
    ]
    config = tables.from_table(text["rows"][0]["config"]).replace(env_params=None)
    over = {"lr": [1e-3, 3e-3], "env_params.slip": [0, 0.5]}
    trials = sweep(config, jax.random.key(0), num_seeds=3, over=over)
    np.testing.assert_allclose([row["scores"] for row in text["rows"]], [t.scores for t in trials], rtol=1e-5)
    assert {"iqm.png", "seeds.png", "curves.png", "report.md"} < {p.name for p in (tmp_path / "report").iterdir()}
    output = capsys.readouterr().out
    assert "GridWorld-treasure, by seed" in output
    assert "lr=0.003, env_params.slip=0.5" in output


@pytest.mark.long
def test_sizes_of_the_network_are_swept(tmp_path):
    command = ["sweep", *SIZES, "--num-seeds", "2", "--over", "network.hidden_sizes=[8],[16]", "--silent"]
    assert main([*command, "--directory", str(tmp_path)]) == 0
    trials = load_trials(tmp_path)
    assert [trial.name for trial in trials] == ["network.hidden_sizes=[8]", "network.hidden_sizes=[16]"]
    assert [trial.config.network for trial in trials] == [
        parse(["train", *SIZES])[0].network.replace(hidden_sizes=sizes) for sizes in ((8,), (16,))
    ]
    assert [trial.scores.shape for trial in trials] == [(2,), (2,)]


def test_what_the_help_sweeps_can_be_swept(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "1000")
    with pytest.raises(SystemExit):
        main(["sweep", "--help"])
    example = re.search(r"Example: purejaxppo (.*)", capsys.readouterr().out).group(1).split()
    flags = cli.parse(example).flags
    assert len(combinations(to_config(flags), to_values(flags.over))) == 4


def test_the_same_command_reads_a_finished_sweep(swept, capsys):
    before = {str(path): path.stat().st_mtime_ns for path in swept.rglob("*.jsonl")}
    assert before
    assert main(["sweep", *SMALL, *OVER, "--directory", str(swept)]) == 0
    assert {str(path): path.stat().st_mtime_ns for path in swept.rglob("*.jsonl")} == before
    captured = capsys.readouterr()
    assert captured.err == ""  # there is nothing left to do
    assert "baseline" in captured.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sweep", "--over", "lr"], "over='lr'"),
        (["sweep", "--over", "lr=1", "lr=2"], "lr occurs twice"),
        (["sweep", "--over", "lr=1]\nx=[2"], "must be one line"),
        (["sweep", "--over", "lr=1", "--threshold", "nan"], "threshold=nan"),
        (["sweep", "--over", "lrr=1"], "did you mean 'lr'"),
        (["sweep", "--over", "lr=-1"], "lr=-1"),
        (["sweep", "--over", "lr=1e-3,1e-x"], "lr='1e-x'"),
        (["sweep", "--over", "network.activation=tanh,gelu"], "activation='gelu'"),
        (["sweep", "--over", "hidden_sizes=[8]"], "unknown Config field 'hidden_sizes'"),
        (["sweep", "--over", "network.hidden_sizes=8,16"], "hidden_sizes=8: must be a sequence of integers >= 1"),
        (["sweep", "--over", "network.width=[8]"], "unknown MLP field 'width'"),
        (["sweep", "--num-seeds", "0"], "num_seeds=0"),
        (["sweep", "--max-bytes", "-5"], "max_bytes=-5"),
        (["report"], "must hold at least one run or sweep"),
        (["report", "/nowhere"], "directory='/nowhere'"),
        (["report", "/nowhere", "--threshold", "nan"], "threshold=nan"),
        (["report", "/nowhere", "--window", "2"], "window=2: must be 1 without a threshold"),
        (["report", "/nowhere", "--overwrite"], "overwrite=True: needs --output"),
    ],
)
def test_bad_input_is_one_line_and_status_2(arguments, message, capsys):
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert message in captured.err
    assert captured.out == ""


def press_ctrl_c(monkeypatch, at_update):
    def in_words(progress):
        if progress.num_updates == at_update:
            signal.raise_signal(signal.SIGINT)
        return "interrupted"

    monkeypatch.setattr("purejaxppo.cli.progress.in_words", in_words)


@pytest.mark.parametrize("kept", [True, False])
def test_ctrl_c_inside_a_batch_saves_what_is_done_and_says_so(kept, tmp_path, capsys, monkeypatch):
    command = ["sweep", *SMALL, *(["--directory", str(tmp_path)] if kept else [])]
    press_ctrl_c(monkeypatch, 1)
    assert main(command) == 130
    rest = ", all of them saved; to continue, sweep again into the same directory" if kept else ""
    assert capsys.readouterr().err.splitlines()[-1] == f"purejaxppo: stopped after 1 of 3 updates{rest}"
    monkeypatch.undo()
    assert main(command) == 0
    resumed = [json.loads(path.read_text())["resumed_after"] for path in tmp_path.rglob("summary.json")]
    assert resumed == ([1] if kept else [])


def test_another_sweep_in_the_same_directory_is_refused(swept, capsys):
    assert main(["sweep", *SMALL, "--over", "lr=1e-3", "--directory", str(swept)]) == 2
    assert str(swept) in capsys.readouterr().err


def test_a_report_is_not_overwritten_unless_asked_for(swept, tmp_path, capsys):
    arguments = ["report", str(swept), "--output", str(tmp_path)]
    assert main(arguments) == 0
    assert main(arguments) == 2
    assert "already holds" in capsys.readouterr().err
    assert main([*arguments, "--overwrite"]) == 0
