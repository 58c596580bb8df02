"""`purejaxppo sweep`."""

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from purejaxppo.cli import progress, runs
from purejaxppo.cli.flags import Seeds, config_flags, flag, flags_type, to_config, to_settings
from purejaxppo.cli.report import show
from purejaxppo.errors import ConfigError
from purejaxppo.experiment import report, sweep
from purejaxppo.experiment.reports.report import check_threshold

HELP = """Train every combination of some fields' values, each from many seeds, and compare them.

Fields that are traced share one compiled program; what does not fit into the memory at once is trained in batches. With
--directory all of it is kept: the same command resumes where it was stopped, and `report` reads the directory.

Example: purejaxppo sweep --env CartPole-v1 --num-seeds 10 --over lr=1e-3,3e-4 network.hidden_sizes=[64],[64,64]
"""
NUM_SEEDS = 16


def flags(argv: list[str]) -> type:
    """Declare the flags, with the defaults of the preset that is asked for."""
    own = [
        flag("over", tuple[str, ...], (), "swept fields, as name=value,value; those of env_params as env_params.name"),
        flag("directory", Path | None, None, "directory to keep the sweep in, new or of this very sweep"),
        flag("max_bytes", int | None, None, "bound of a program's memory; half of what is free by default"),
        flag("threshold", float | None, None, "return of which the report says when it is reached"),
    ]
    return flags_type(HELP, [*config_flags(argv, num_seeds=NUM_SEEDS), *own, runs.SILENT_FLAG])


def main(flags: Any) -> None:
    """Sweep, with the progress shown, and print the report."""
    config, seeds = to_config(flags), to_settings(Seeds, flags)
    over = to_values(flags.over)
    check_threshold(flags.threshold)
    with progress.show(silent=flags.silent) as callback:
        trials = sweep(
            config,
            jax.random.key(seeds.seed),
            num_seeds=seeds.num_seeds,
            over=over,
            directory=flags.directory,
            max_bytes=flags.max_bytes,
            callback=callback,
        )
    show(report(trials, threshold=flags.threshold), silent=flags.silent)


def to_values(pairs: Sequence[str]) -> dict[str, list[Any]]:
    """Read swept values, `lr=1e-3,3e-4` as `{"lr": [1e-3, 3e-4]}`; what is no number, list or truth value is a word.

    Raises:
        ConfigError: a pair is not of that form, or a name occurs twice.
    """
    over: dict[str, list[Any]] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not (name and equals and text):
            raise ConfigError(f"over={pair!r}: must be name=value,value")
        if "\n" in text:  # which would end the value, and begin another
            raise ConfigError(f"over={pair!r}: must be one line")
        if name in over:
            raise ConfigError(f"over={pair!r}: {name} occurs twice")
        # Words need no quotation marks, in which TOML would have them.
        over[name] = _toml(text) or [value for part in text.split(",") for value in _toml(part) or [part]]
    return over


def _toml(values: str) -> list[Any]:
    """Values as TOML has them in an array; none where it is not one."""
    try:
        return tomllib.loads(f"values = [{values}]")["values"]
    except (tomllib.TOMLDecodeError, RecursionError):
        return []
