"""`purejaxppo render`."""

from pathlib import Path
from typing import Any

from purejaxppo.cli import output, pictures, runs
from purejaxppo.cli.flags import flag, flags_type

HELP = """Make moving pictures of a run: one agent's walk and, on a gridworld, all agents at once.

Example: purejaxppo render runs/treasure --output movies
"""


def flags(argv: list[str]) -> type:
    """The flags."""
    return flags_type(
        HELP,
        [
            runs.DIRECTORY_FLAG,
            flag("output", Path | None, None, "new directory for the GIFs; `pictures` in the run's by default"),
        ],
    )


def main(flags: Any) -> None:
    """Draw, and say what."""
    from purejaxppo.experiment.pictures import animations as render  # imported here: matplotlib takes a while

    config, keys, state = runs.read(flags.directory)
    render.check(config)
    place = pictures.place(flags.directory, flags.output)
    scores = runs.score(config, state, keys)
    drawn = pictures.draw_movies(config, state, scores, keys[0], place)
    pictures.show(drawn, place, output.console())
