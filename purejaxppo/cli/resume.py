"""`purejaxppo resume`."""

from functools import partial
from typing import Any

from purejaxppo.cli import output, runs
from purejaxppo.cli.flags import flags_type
from purejaxppo.experiment import resume
from purejaxppo.experiment.runs.run import open_job

HELP = """Go on with a run that was stopped or killed, from its newest whole checkpoint, as if it had never stopped.

Example: purejaxppo resume runs/cartpole
"""


def flags(argv: list[str]) -> type:
    """The flags."""
    return flags_type(HELP, [runs.DIRECTORY_FLAG, *runs.LOGGER_FLAGS, runs.SILENT_FLAG])


def main(flags: Any) -> None:
    """Train to the end, and print what came of it."""
    loggers = runs.loggers(flags)
    job = open_job(flags.directory)
    console = output.console(quiet=flags.silent)
    runs.show(runs.go(partial(resume, flags.directory, loggers=loggers), job.config, job.key, flags), console)
