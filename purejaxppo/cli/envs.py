"""`purejaxppo envs`."""

from typing import Any

import gymnax
from gymnax.environments import spaces
from rich.console import Console

from purejaxppo.cli.flags import flags_type
from purejaxppo.environments import check, is_tabular, make
from purejaxppo.environments.interface import action_space, observation_space
from purejaxppo.fields import ConfigError

HELP = """List the environments that can be trained on, with what an agent sees and how many actions it has.

Example: purejaxppo envs
"""


def flags(argv: list[str]) -> type:
    """The flags."""
    return flags_type(HELP, [])


def main(flags: Any) -> None:
    """Print a line for each."""
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"{'id':<32} {'observation':<20} actions")
    for env_id in sorted(gymnax.registered_envs):
        line = _line(env_id)
        if line is not None:
            console.print(line)
    console.print("\nA map of your own: --env my-map.txt. Known optimum: the distance from it is told and drawn.")


def _line(env_id: str) -> str | None:
    """An environment in words; None if it cannot be trained on, or needs data that are not there."""
    try:
        env = make(env_id)
        check(env, None)
    except (ConfigError, OSError):
        return None
    seen, actions = _words(observation_space(env)), _words(action_space(env))
    return f"{env_id:<32} {seen:<20} {actions}{', optimum known' if is_tabular(env) else ''}"


def _words(space: Any) -> str:
    """A space in words."""
    if isinstance(space, spaces.Discrete):
        return f"one of {space.n}"
    return "1 number" if space.shape == (1,) else f"{' x '.join(map(str, space.shape))} numbers"
