"""Whatever is asked of the command line: one line that names what is wrong, status 2, and nothing is left behind."""

import os

import pytest

from purejaxppo import cli

SHORT = ["--num-envs", "4", "--num-steps", "8", "--total-timesteps", "64"]

# The options with which a number is refused, by flag.
COUNTS = "--num-envs --num-steps --num-epochs --num-minibatches --total-timesteps --num-seeds --evaluation-episodes"
NO_COUNTS = ["0", "-1", "1.5", "nan", "inf", "1e400", "x", "", "0x10", "1e-3", "\x1b[31m", "\u0660\u0661e400"]
NUMBERS = "--lr --gamma --clip-eps --max-grad-norm --gae-lambda --vf-coef --target-kl --dual-clip"
NO_NUMBERS = ["-1", "nan", "inf", "1e39", "x", "", "1,5", "[red]"]
NO_ENVS = [
    "CartPole-v9",
    "",
    " ",
    "nope.txt",
    "a\0b",
    "a\0b.txt",
    "/dev/zero.txt",
    "..",
    "brax/nope",
    "x/y",
    "os:system",
    "[b]",
]
NO_PRESETS = [
    "nope",
    "",
    "/dev/zero",
    "/dev/stdin",
    "..",
    "nope.toml",
    "a\0b",
    "/proc/self/mem",
    "[/red]",
    "\x1b]0;x\a",
]

TRAIN = {
    **{f"{flag} {value!a}": [flag, value] for flag in COUNTS.split() for value in NO_COUNTS},
    **{f"{flag} {value!a}": [flag, value] for flag in NUMBERS.split() for value in NO_NUMBERS},
    **{f"--env {value!a}": ["--env", value] for value in NO_ENVS},
    **{f"--preset {value!a}": ["--preset", value] for value in NO_PRESETS},
    **{
        " ".join(flags).encode("unicode_escape").decode(): flags
        for flags in [
            ["--num-seeds", "2000000000"],
            ["--num-epochs", "1000000000000"],
            ["--reset-pool", "1000000000000", "--env", "CartPole-v1"],
            ["--network.hidden-sizes", "1000000000000"],
            ["--network.hidden-sizes", "0"],
            ["--network.hidden-sizes", "x"],
            ["--network.activation", "nope"],
            ["--network", "nope"],
            ["--network", "cnn", "--env", "CartPole-v1"],
            ["--optimizer", "nope"],
            ["--advantage", "nope"],
            ["--lr-schedule", "warmup"],
            ["--env-params", "max_steps_in_episode=2147483648"],
            ["--env-params", "max_steps_in_episode=2147483647"],
            ["--env-params", "max_steps_in_episode=1e12"],
            ["--env-params", "max_steps_in_episode=-1"],
            ["--env-params", "nope=1"],
            ["--env-params", "slip"],
            ["--env-params", "slip=x"],
            ["--env-params", "slip=nan"],
            ["--num-evaluations", "-1", "--directory", "d"],
            ["--checkpoint-seconds", "-1", "--directory", "d"],
            ["--checkpoint-seconds", "nan", "--directory", "d"],
            ["--keep-checkpoints", "0", "--directory", "d"],
            ["--num-evaluations", "3"],
            ["--tensorboard"],
            ["--overwrite"],
            ["--directory", "a\0b"],
            ["--directory", "/dev/null"],
            ["--directory", "/dev/null/x"],
            ["--directory", "n" * 300],
            ["--plot", "a\0b"],
            ["--plot", "/dev/null"],
            ["--seed", "-1"],
            ["--seed", "1e30"],
            ["--import", "no_such_module", "--env", "no_such_module:Env"],
            ["--env", "json:JSONDecoder"],
            ["--normalize-obs"],
            ["--nope"],
            ["--\x1b[31mnope"],
            ["nope"],
            ["--learning-rate", "1"],
        ]
    },
}
OTHERS = [
    [],
    ["nope"],
    ["\x1b]0;pwned\a"],
    ["[/red]"],
    ["--nope"],
    *[
        [command, place]
        for command in ("resume", "evaluate", "plot", "render")
        for place in ("", "nope", "a\0b", "/dev/null")
    ],
    ["resume", "nope", "--total-timesteps", "x"],
    ["evaluate", "nope", "--num-episodes", "0"],
    ["evaluate", "nope", "--num-episodes", "1e30"],
    ["report"],
    ["report", "nope"],
    ["report", "a\0b"],
    ["report", "[/red]"],
    ["report", "nope", "--threshold", "nan"],
    ["report", "nope", "--window", "0"],
    ["report", "nope", "--overwrite"],
    ["sweep", "--over", "lr"],
    ["sweep", "--over", "lr="],
    ["sweep", "--over", "lr=x"],
    ["sweep", "--over", "nope=1"],
    ["sweep", "--over", "lr=1e-3", "--num-seeds", "1000000000000"],
    ["sweep", "--over", "lr=1e-3", "--num-seeds", "0"],
    ["sweep", "--over", "lr=1e-3", "lr=1e-2"],
    ["sweep", "--over", "env=nope"],
    ["sweep", "--over", "lr=1e-3", "--directory", "a\0b"],
    ["describe", "--network.hidden-sizes", "1000000000000"],
    ["describe", "--total-timesteps", "1e30"],
    ["envs", "nope", "nope"],
    ["train", "--tyro-print-completion", "nope"],
]


def check(argv, capsys, tmp_path):
    """One line on standard error, and an empty directory."""
    status = cli.main(argv)
    out, error = capsys.readouterr()
    assert status == 2, error
    assert error.startswith("purejaxppo: ")
    assert error.count("\n") == 1
    assert error.rstrip("\n").isprintable()
    assert "Traceback" not in error
    assert out == ""
    assert not os.listdir(tmp_path)
    return error


@pytest.fixture(autouse=True)
def in_an_empty_place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "off")


@pytest.mark.parametrize("flags", TRAIN.values(), ids=TRAIN)
def test_what_cannot_be_trained(flags, capsys, tmp_path):
    given = [] if flags[0] in SHORT else SHORT
    error = check(["train", *given, *flags], capsys, tmp_path)
    named = flags[0].lstrip("-").replace("-", "_").replace("network.", "")
    if flags[0] in (COUNTS + NUMBERS).split() and flags[1].isprintable():
        assert named in error.replace("-", "_")


@pytest.mark.parametrize("argv", OTHERS, ids=lambda argv: " ".join(argv).encode("unicode_escape").decode())
def test_what_cannot_be_done(argv, capsys, tmp_path):
    check(argv, capsys, tmp_path)
