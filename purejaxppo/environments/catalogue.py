"""The environments with an id on which the tests have trained. Those tests write and compare `catalogue.csv`."""

import csv
from pathlib import Path
from typing import NamedTuple

FILE = Path(__file__).with_suffix(".csv")


class Entry(NamedTuple):
    """An environment in words."""

    env: str
    observation: str
    actions: str
    optimum: str  # "known", or empty
    package: str  # from which it comes
    version: str  # of that package, with which it was tested


def read() -> dict[str, Entry]:
    """The catalogue, by id."""
    with FILE.open(newline="") as file:
        return {row["env"]: Entry(**row) for row in csv.DictReader(file)}
