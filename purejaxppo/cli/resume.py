"""`purejaxppo resume`."""

from functools import partial
from typing import Any

from rich.console import Console

from purejaxppo.cli import runs
from purejaxppo.cli.flags import flags_type
from purejaxppo.experiment import resume
from purejaxppo.experiment.runs import load_config, load_key

HELP = """Go on with a run that was stopped or killed, from its newest whole checkpoint, as if it had never stopped.

Example: purejaxppo resume runs/cartpole
"""


def flags(argv: list[str]) -> type:
    """The flags."""
    return flags_type(HELP, [runs.DIRECTORY_FLAG, *runs.LOGGER_FLAGS, runs.SILENT_FLAG])


def main(flags: Any) -> None:
    """Train to the end, and print what came of it."""
    loggers = runs.loggers(flags)
    config, keys = load_config(flags.directory), load_key(flags.directory)
    console = Console(highlight=False, soft_wrap=True, quiet=flags.silent)
    runs.show(runs.go(partial(resume, flags.directory, loggers=loggers), config, keys, flags), console)
