"""How the commands print."""

from typing import Any

from rich.console import Console


def console(**options: Any) -> Console:
    """Where a command prints: nothing is coloured by its content, and nothing is wrapped but by the terminal."""
    return Console(highlight=False, soft_wrap=True, **options)


def agents(count: int) -> str:
    """So many agents, in words."""
    return f"{count:,} agent{'s' if count > 1 else ''}"
