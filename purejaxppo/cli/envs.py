"""`purejaxppo envs`."""

from itertools import groupby
from typing import Any

from purejaxppo.cli import output
from purejaxppo.cli.flags import flags_type
from purejaxppo.environments import catalogue
from purejaxppo.environments.adapters import SUITES

HELP = """List the environments that the tests have trained on, with what an agent sees and what it chooses.

Example: purejaxppo envs
"""


def flags(argv: list[str]) -> type:
    """The flags."""
    return flags_type(HELP, [])


def main(flags: Any) -> None:
    """Print a table for each package."""
    console = output.console()
    for package, group in groupby(catalogue.read().values(), key=lambda entry: entry.package):
        entries = list(group)
        needs = f", pip install 'purejaxppo[{package}]'" if package in SUITES else ""
        console.print(f"{package} {entries[0].version}{needs}")
        width, seen = (max(len(entry[i]) for entry in entries) for i in (0, 1))
        for entry in entries:
            optimum = f", optimum {entry.optimum}" if entry.optimum else ""
            console.print(f"  {entry.env:<{width}}  {entry.observation:<{seen}}  {entry.actions}{optimum}")
        console.print()
    console.print("A map of your own: --env my-map.txt. Known optimum: the distance from it is told and drawn.")
