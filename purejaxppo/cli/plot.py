"""`purejaxppo plot`."""

from pathlib import Path
from typing import Any

from rich.console import Console

from purejaxppo.cli import pictures, runs, summary
from purejaxppo.cli.flags import flag, flags_type

HELP = """Draw a run, finished or not: its learning curves and, on a gridworld, what the median agent learned.

Example: purejaxppo plot runs/cartpole --output pictures
"""


def flags(argv: list[str]) -> type:
    """The flags."""
    return flags_type(
        HELP,
        [
            runs.DIRECTORY_FLAG,
            flag("output", Path | None, None, "new directory for the pictures; `pictures` in the run's by default"),
        ],
    )


def main(flags: Any) -> None:
    """Draw, and say what."""
    config, keys, state, metrics = runs.read(flags.directory)
    place = pictures.place(flags.directory, flags.output)
    verdict = summary.assess(config, state, keys)
    pictures.draw_learning(config, metrics, verdict, place)
    pictures.draw_map(config, state, verdict, place)
    pictures.show(place, Console(highlight=False, soft_wrap=True))
