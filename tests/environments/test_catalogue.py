"""Two updates on every environment with an id. `purejaxppo envs` lists those on which they succeed, and no others.

`python -m pytest -n 0 tests/environments/test_catalogue.py --write-catalogue` writes what it lists;
`-m ""` and `-k brax` tell which.
"""

import csv
import importlib
from contextlib import suppress
from importlib import metadata

import jax
import pytest

from purejaxppo import Config, check_env
from purejaxppo.environments import MultiDiscrete, adapters, catalogue, ids, is_tabular, make, make_task
from purejaxppo.environments.spaces import Dict, Discrete, Tuple
from tests.support.small import SMALL, assert_trains

LEFT_OUT = {
    "MNISTBandit-bsuite",  # it downloads its data when it is made
    "jumanji/Sokoban-v0",  # so does this
    "jumanji/MultiCVRP-v0",  # its actions are of no supported kind, and it is refused
}
# One of each suite that is installed is trained on in every run of the tests, and a few without a suite; the others of
# suites are slow, and those without one are long.
QUICK = {
    "Breakout-MinAtar",
    "CartPole-v1",
    "Catch-bsuite",
    "FourRooms-misc",
    "GaussianBandit-misc",
    "GridWorld-treasure",
    "Pendulum-v1",
    "RandomGridWorld",
    "brax/inverted_pendulum",
    "craftax/Craftax-Classic-Symbolic-v1",
    "jumanji/Snake-v1",
    "navix/Navix-Empty-5x5-v0",
    "pgx/2048",
    "xminigrid/MiniGrid-Empty-5x5",
}


def of_suites():
    """The ids of the suites that are installed."""
    for suite in adapters.SUITES:
        with suppress(ImportError):
            adapter = importlib.import_module(f"purejaxppo.environments.adapters.{suite}")
            yield from (f"{suite}/{name}" for name in adapter.names())


def entry(env_id):
    """An environment in words."""
    task = make_task(env_id)
    suite, slash, _ = env_id.partition("/")
    package = suite if slash else type(task.env).__module__.partition(".")[0]
    optimum = "known" if is_tabular(task.env) else ""
    spaces = words(task.observation_space), words(task.action_space)
    return catalogue.Entry(env_id, *spaces, optimum, package, metadata.version(package))


def words(space):
    """A space in words."""
    if isinstance(space, Discrete):
        return f"one of {space.n}"
    if isinstance(space, MultiDiscrete):
        return f"one each of {', '.join(map(str, space.num_categories))}"
    if isinstance(space, Dict):
        return ", ".join(space.spaces)
    if isinstance(space, Tuple):
        return f"{len(space.spaces)} parts"
    return "1 number" if space.shape in ((), (1,)) else f"{' x '.join(map(str, space.shape))} numbers"


def write(entries):
    """Replace the catalogue; what needs no package of its own comes first."""
    rows = sorted(entries, key=lambda entry: ("/" in entry.env, entry.package, entry.env))
    with catalogue.FILE.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(catalogue.Entry._fields)
        writer.writerows(rows)


IDS = sorted(set(ids()) - LEFT_OUT)
OF_SUITES = sorted(set(of_suites()) - LEFT_OUT)
# Whose observations leave the space that their package declares; TSP's first position, in no city yet, is -1.
OUT_OF_BOUNDS = ("GaussianBandit-misc", "MemoryChain-bsuite", "jumanji/TSP-v1")
EACH = pytest.mark.parametrize(
    "env_id",
    [
        pytest.param(env_id, marks=() if env_id in QUICK else pytest.mark.slow if "/" in env_id else pytest.mark.long)
        for env_id in IDS + OF_SUITES
    ],
)


@EACH
def test_trains_on_every_environment(env_id, request):
    # gymnax's Swimmer and most suites promote ranks.
    is_strict = "/" not in env_id and env_id != "Swimmer-misc"
    with jax.numpy_rank_promotion("raise" if is_strict else "allow"):
        assert_trains(Config(env=env_id, **SMALL))
    if "/" in env_id:
        jax.clear_caches()  # the memory maps of a whole suite's programs would be more than Linux allows
    listed, found = catalogue.read(), entry(env_id)
    if request.config.getoption("--write-catalogue"):
        write((listed | {env_id: found}).values())
    else:
        assert listed[env_id]._replace(version="") == found._replace(version="")


def test_nothing_else_is_listed():
    installed = {"", *(env_id.partition("/")[0] for env_id in OF_SUITES)}
    listed = {env_id for env_id in catalogue.read() if env_id.rpartition("/")[0] in installed}
    assert listed == set(IDS + OF_SUITES)


@EACH
def test_environments_have_no_faults(env_id):
    with jax.numpy_rank_promotion("allow"):
        faults = check_env(make(env_id), num_steps=50)
    if env_id in OUT_OF_BOUNDS:
        assert all("leaves observation_space" in fault for fault in faults)
    assert (faults == []) == (env_id not in OUT_OF_BOUNDS), faults


def test_what_is_written_is_what_is_read(tmp_path, monkeypatch):
    entries = catalogue.read()
    assert len(entries) > len(IDS) - 5
    monkeypatch.setattr(catalogue, "FILE", tmp_path / "catalogue.csv")
    write(reversed(entries.values()))
    assert list(catalogue.read().items()) == list(entries.items())
