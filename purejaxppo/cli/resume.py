"""`purejaxppo resume`."""

from functools import partial
from typing import Any

from purejaxppo.cli import output, runs
from purejaxppo.cli.flags import flags_type, with_cwd
from purejaxppo.experiment import resume
from purejaxppo.experiment.runs.run import open_run

HELP = """Resume an interrupted run from its newest valid checkpoint; the result is bit-identical.

Example: purejaxppo resume runs/cartpole
"""


def flags(argv: list[str]) -> type:
    """Declare the flags."""
    return flags_type(HELP, [*runs.DIRECTORY_FLAGS, *runs.LOGGER_FLAGS, runs.SILENT_FLAG])


def main(flags: Any) -> None:
    """Train to the end, and print the scores."""
    loggers = runs.loggers(flags)
    with_cwd(flags.imports)
    rows = open_run(flags.directory, imports=flags.imports).job.rows
    console = output.console(quiet=flags.silent)
    begin = partial(resume, flags.directory, loggers=loggers, imports=flags.imports)
    runs.show(runs.finish(begin, rows.config, rows.keys, flags), console)
