"""Print from the commands."""

from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from purejaxppo.errors import printable


class PlainConsole(Console):
    """A console that takes texts as they are: names in them style nothing, and tell the terminal nothing."""

    def __init__(self, **options: Any) -> None:
        super().__init__(highlight=False, markup=False, emoji=False, soft_wrap=True, **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=printable(segment.text))


def console(**options: Any) -> Console:
    """Make the console of a command: no text is coloured by its content, or wrapped but by the terminal."""
    return PlainConsole(**options)


def agents(count: int) -> str:
    """Write a number of agents."""
    return f"{count:,} agent{'s' if count > 1 else ''}"
