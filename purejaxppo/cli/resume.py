"""`purejaxppo resume`."""

from functools import partial
from typing import Any

from purejaxppo.cli import output, runs
from purejaxppo.cli.flags import flags_type
from purejaxppo.experiment import resume
from purejaxppo.experiment.runs.run import open_run

HELP = """Resume an interrupted run from its newest valid checkpoint; the result is bit-identical.

Example: purejaxppo resume runs/cartpole
"""


def flags(argv: list[str]) -> type:
    """The flags."""
    return flags_type(HELP, [runs.DIRECTORY_FLAG, *runs.LOGGER_FLAGS, runs.SILENT_FLAG])


def main(flags: Any) -> None:
    """Train to the end, and print the scores."""
    loggers = runs.loggers(flags)
    rows = open_run(flags.directory).job.rows
    console = output.console(quiet=flags.silent)
    begin = partial(resume, flags.directory, loggers=loggers)
    runs.show(runs.finish(begin, rows.config, rows.keys, flags), console)
