"""Print from the commands."""

from typing import Any

from rich.console import Console


def console(**options: Any) -> Console:
    """Make the console of a command: no text is coloured by its content, or wrapped but by the terminal."""
    return Console(highlight=False, soft_wrap=True, **options)


def agents(count: int) -> str:
    """Write a number of agents."""
    return f"{count:,} agent{'s' if count > 1 else ''}"
