"""`purejaxppo plot`."""

from pathlib import Path
from typing import Any

from purejaxppo.cli import output, pictures, runs
from purejaxppo.cli.flags import flag, flags_type

HELP = """Draw a run, finished or not: its learning curves and, on a gridworld, what the median agent learned.

Example: purejaxppo plot runs/cartpole --output pictures
"""


def flags(argv: list[str]) -> type:
    """The flags."""
    return flags_type(
        HELP,
        [
            *runs.DIRECTORY_FLAGS,
            flag("output", Path | None, None, "new directory for the pictures; `pictures` in the run's by default"),
            flag("window", int | None, None, "updates that each point averages; by default for at most 200 points"),
        ],
    )


def main(flags: Any) -> None:
    """Draw, and print what."""
    config, keys, state = runs.read(flags)
    metrics = runs.read_metrics(flags, state)
    place = pictures.place(flags.directory, flags.output)
    scores = runs.score(config, state, keys)
    drawn = pictures.draw_learning(config, metrics, scores, place, flags.window)
    drawn += pictures.draw_map(config, state, scores, place)
    pictures.show(drawn, place, output.console())
