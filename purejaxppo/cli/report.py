"""`purejaxppo report`."""

import dataclasses
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from tyro.conf import Positional

from purejaxppo.cli import output
from purejaxppo.cli.flags import IMPORT_FLAG, flag, flags_type, with_cwd
from purejaxppo.errors import ConfigError
from purejaxppo.experiment import report
from purejaxppo.experiment.reports import formats
from purejaxppo.experiment.reports.report import Report

PIPE_WIDTH = 160  # characters
HELP = """Compare finished runs and sweeps: interquartile means with intervals, probability of improvement, every seed.

Example: purejaxppo report runs/cartpole sweeps/lr --threshold 475 --output report
"""


def flags(argv: list[str]) -> type:
    """The flags."""
    return flags_type(
        HELP,
        [
            flag("directories", Positional[tuple[Path, ...]], dataclasses.MISSING, "of runs and of sweeps"),
            IMPORT_FLAG,
            flag("threshold", float | None, None, "return; the report says when each seed reaches it"),
            flag(
                "window", int, 1, "updates over which the return is averaged before it is compared with the threshold"
            ),
            flag("output", Path | None, None, "directory for report.json, report.md and the pictures"),
            flag("overwrite", bool, False, "replace files of these names in that directory"),
        ],
    )


def main(flags: Any) -> None:
    """Print the tables, and write the files if that is wanted."""
    if flags.overwrite and flags.output is None:
        raise ConfigError("overwrite=True: needs --output")
    with_cwd(flags.imports)
    result = report(*flags.directories, imports=flags.imports, threshold=flags.threshold, window=flags.window)
    console = show(result)
    if flags.output is not None:
        paths = formats.write(result, flags.output, overwrite=flags.overwrite)
        console.print(f"written            {', '.join(path.name for path in paths)} in {flags.output}")


def show(result: Report, *, silent: bool = False) -> Console:
    """Print the tables and return the console, which is wide where it is no terminal."""
    width = None if sys.stdout.isatty() else PIPE_WIDTH
    console = output.console(quiet=silent, width=width)
    for table in formats.tables(result):
        console.print(table)
    return console
