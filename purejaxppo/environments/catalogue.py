"""The environments with an id on which the tests have trained. Those tests write and compare `catalogue.csv`."""

import csv
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from gymnax.environments import spaces

from purejaxppo.environments import is_tabular, make
from purejaxppo.environments.interface import MultiDiscrete, action_space, observation_space

FILE = Path(__file__).with_suffix(".csv")


class Entry(NamedTuple):
    """What is told of an environment."""

    env: str
    observation: str
    actions: str
    optimum: str  # "known", or empty
    package: str  # from which it comes
    version: str  # of that package, with which it was tested


def entry(env_id: str) -> Entry:
    """An environment in words.

    Raises:
        ConfigError: there is none of this id.
    """
    env = make(env_id)
    suite, slash, _ = env_id.partition("/")
    package = suite if slash else type(env).__module__.partition(".")[0]
    optimum = "known" if is_tabular(env) else ""
    seen, actions = words(observation_space(env)), words(action_space(env))
    return Entry(env_id, seen, actions, optimum, package, metadata.version(package))


def words(space: Any) -> str:
    """A space in words."""
    if isinstance(space, spaces.Discrete):
        return f"one of {space.n}"
    if isinstance(space, MultiDiscrete):
        return f"one each of {', '.join(map(str, space.num_categories))}"
    if isinstance(space, spaces.Dict):
        return ", ".join(space.spaces)
    if isinstance(space, spaces.Tuple):
        return f"{len(space.spaces)} parts"
    return "1 number" if space.shape in ((), (1,)) else f"{' x '.join(map(str, space.shape))} numbers"


def read() -> dict[str, Entry]:
    """The catalogue, by id."""
    with FILE.open(newline="") as file:
        return {row["env"]: Entry(**row) for row in csv.DictReader(file)}


def write(entries: Iterable[Entry]) -> None:
    """Replace the catalogue."""
    with FILE.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(Entry._fields)
        writer.writerows(map(tuple, sorted(entries, key=_place)))


def _place(entry: Entry) -> tuple[bool, str, str]:
    """By package; what needs no package of its own comes first."""
    return "/" in entry.env, entry.package, entry.env
