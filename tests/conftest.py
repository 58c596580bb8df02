"""Strict settings for every test."""

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import jax
import pytest

MAPS = Path("/proc/self/maps")
MANY_MAPS = 20_000
# Half of the time of compiling; of processes that tests begin as well.
QUICKLY_COMPILED = ["--xla_cpu_parallel_codegen_split_count=1"]
if jax.__version_info__ < (0, 11):  # later ones refuse it
    QUICKLY_COMPILED.append("--xla_cpu_use_fusion_emitters=false")
# The files of the quick subset: something of everything, in half a minute.
QUICK = (
    "test_advantages",
    "test_combinations",
    "test_files",
    "test_losses",
    "test_maps",
    "test_schedules",
    "test_shuffling",
    "test_statistics",
    "test_task",
)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--write-catalogue", action="store_true", help="write what `purejaxppo envs` lists")
    parser.addoption("--optimized", action="store_true", help="compile as users do, which takes longer")


def pytest_configure(config: pytest.Config) -> None:
    jax.config.update("jax_numpy_rank_promotion", "raise")
    if config.pluginmanager.hasplugin("cacheprovider"):  # programs compiled once serve later runs of the tests
        jax.config.update("jax_compilation_cache_dir", str(config.cache.mkdir("jax")))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
    # Most tests spend their time compiling, and little running; the slow ones are the other way round.
    if not (config.option.optimized or config.option.markexpr == "slow"):
        jax.config.update("jax_disable_most_optimizations", True)
        os.environ["XLA_FLAGS"] = " ".join([*QUICKLY_COMPILED, os.environ.get("XLA_FLAGS", "")])


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    found: Counter[tuple[Path, str]] = Counter()
    for item in items:
        if item.path.stem in QUICK and item.get_closest_marker("slow") is None:
            item.add_marker("quick")
        few = item.get_closest_marker("few")
        test = item.path, item.name.partition("[")[0]
        if few is not None and found[test] >= few.args[0]:
            item.add_marker("long")
        found[test] += 1


@pytest.fixture(autouse=True, scope="module")
def _forget_programs() -> Iterator[None]:
    """Every program takes memory maps, of which Linux allows a process 65,530: those of all tests may be too many."""
    yield
    if MAPS.exists() and len(MAPS.read_bytes().splitlines()) > MANY_MAPS:
        jax.clear_caches()


@pytest.fixture
def promoted_ranks() -> Iterator[None]:
    """As the packages of other suites do it."""
    with jax.numpy_rank_promotion("allow"):
        yield
