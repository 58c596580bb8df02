"""`purejaxppo render`."""

from pathlib import Path
from typing import Any

from purejaxppo.cli import output, pictures, runs
from purejaxppo.cli.flags import flag, flags_type

HELP = """Render GIFs of a run: one episode and, on a gridworld, all agents at once.

Example: purejaxppo render runs/treasure --output movies
"""


def flags(argv: list[str]) -> type:
    """The flags."""
    return flags_type(
        HELP,
        [
            *runs.DIRECTORY_FLAGS,
            flag("output", Path | None, None, "new directory for the GIFs; `pictures` in the run's by default"),
        ],
    )


def main(flags: Any) -> None:
    """Draw, and print what."""
    from purejaxppo.experiment.pictures import animations  # imported here: matplotlib takes a while

    config, keys, state = runs.read(flags)
    animations.check(config)
    place = pictures.place(flags.directory, flags.output)
    scores = runs.score(config, state, keys)
    drawn = pictures.draw_movies(config, state, scores, keys[0], place)
    pictures.show(drawn, place, output.console())
