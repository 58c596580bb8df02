"""`purejaxppo resume`."""

from functools import partial
from typing import Any

from purejaxppo.cli import output, runs
from purejaxppo.cli.flags import flag, flags_type, with_cwd
from purejaxppo.experiment import resume
from purejaxppo.experiment.runs.run import open_run

HELP = """Resume an interrupted run from its newest valid checkpoint; the result is bit-identical.

With --total-timesteps a finished run goes on as well, with schedules and evaluations of a run of that length.

Example: purejaxppo resume runs/cartpole
"""
LENGTH_FLAG = flag("total_timesteps", int | None, None, "of the whole run, in place of those that it was begun with")


def flags(argv: list[str]) -> type:
    """Declare the flags."""
    return flags_type(HELP, [*runs.DIRECTORY_FLAGS, LENGTH_FLAG, *runs.LOGGER_FLAGS, runs.SILENT_FLAG])


def main(flags: Any) -> None:
    """Train to the end, and print the scores."""
    loggers = runs.loggers(flags)
    with_cwd(flags.imports)
    rows = open_run(flags.directory, imports=flags.imports).job.rows
    length = {} if flags.total_timesteps is None else {"total_timesteps": flags.total_timesteps}
    config = rows.config.replace(**length)
    console = output.console(quiet=flags.silent)
    begin = partial(resume, flags.directory, **length, loggers=loggers, imports=flags.imports)
    runs.show(runs.finish(begin, config, rows.keys, flags), console)
