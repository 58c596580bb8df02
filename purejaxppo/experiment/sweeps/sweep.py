"""Many configurations, each from many seeds, in as few compiled programs as there can be."""

import logging
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from purejaxppo.config import Config
from purejaxppo.errors import ConfigError
from purejaxppo.evaluation import greedy_return
from purejaxppo.experiment.sweeps import combinations as grids
from purejaxppo.experiment.sweeps import journal as batches
from purejaxppo.experiment.sweeps.journal import SCORE, Arrays, Journal
from purejaxppo.keys import check_key
from purejaxppo.ppo import Metrics, train
from purejaxppo.settings import COUNT, check_static

log = logging.getLogger("purejaxppo")


class Trial(NamedTuple):
    """One configuration, trained from every seed."""

    name: str  # what sets it apart: the fields that the sweep changed
    config: Config
    scores: np.ndarray  # [num_seeds], what an episode of the trained, greedy policy returns, see `greedy_return`
    metrics: dict[str, np.ndarray]  # [num_seeds, num_updates], those of `train`
    compile_seconds: float  # its share of the time in which its program was compiled
    run_seconds: float  # its share of the time in which all of its program's trials were trained and evaluated


class Group(NamedTuple):
    """Trials that one program trains; its rows are all their seeds, one trial after the other."""

    trials: list[int]  # which of all
    configs: list[Config]
    num_seeds: int

    @property
    def num_rows(self) -> int:
        return len(self.configs) * self.num_seeds


class Program(NamedTuple):
    """What trains a batch of a group's rows."""

    compiled: Any
    batch_size: int
    num_bytes: int
    seconds: float  # spent on compiling


def sweep(
    config: Config,
    key: Array,
    *,
    num_seeds: int,
    over: Mapping[str, Any],
    directory: str | Path | None = None,
    max_bytes: int | None = None,
) -> list[Trial]:
    """Train every combination of some fields' values from every seed.

    Combinations that differ in numbers of traced fields only share one compiled program, mapped over combinations and
    seeds. Every value of a static field, and None in a traced one, needs a program of its own, which is logged. What
    does not fit into the memory at once is trained in batches. All combinations meet the same seeds and are evaluated
    on the same episodes, so that they differ by their configuration only.

    Args:
        config: what is not swept.
        key: one typed key, consumed. With `key_train, key_evaluate = jax.random.split(key)`, seed `i` of each trial is
            trained as `train(trial.config, jax.random.split(key_train, num_seeds)[i])`.
        num_seeds: trainings of each combination.
        over: the values of each swept field, as `{"lr": [1e-3, 1e-4], "env_params.slip": [0.0, 0.1]}`. Where `env` is
            swept, an environment other than `config`'s starts from its own default parameters.
        directory: where finished batches are kept. Called again with the same arguments, `sweep` goes on from there,
            and gives the same bits as if it had not been interrupted. None keeps nothing.
        max_bytes: bound of a program's memory, by XLA's account: arguments, outputs and temporaries. By default half
            of what is available now.

    Returns:
        One trial for each combination; the last field's values change fastest. Batches of another size give the same
        numbers up to rounding.

    Raises:
        ConfigError: a field is unknown or a value not allowed; not even one training fits into the memory; or the
            directory holds something else, another sweep, or cannot be written.
    """
    check_key(key)
    num_seeds = check_static("num_seeds", num_seeds, COUNT)
    combinations = grids.combinations(config, over)
    groups = _groups([config for _, config in combinations], num_seeds)
    bound = available_bytes() // 2 if max_bytes is None else check_static("max_bytes", max_bytes, COUNT)
    if len(groups) > 1:
        log.info("%d programs, since these fields shape it: %s", len(groups), ", ".join(grids.static_names(over)))
    with batches.opened(directory, combinations, num_seeds, key, len(groups)) as journal:
        results = [_train(group, key, bound, journal, number) for number, group in enumerate(groups)]
    return _trials(combinations, groups, results, journal)


def load(directory: str | Path) -> list[Trial]:
    """The trials of a finished sweep.

    Raises:
        ConfigError: the directory holds no sweep, one that is not finished, or files that are not as they were written.
    """
    journal, combinations, num_seeds = batches.read(directory)
    groups = _groups([config for _, config in combinations], num_seeds)
    batches.check_programs(journal, len(groups))
    results = [
        batches.read_all(journal, number, group.num_rows, group.configs[0].num_updates)
        for number, group in enumerate(groups)
    ]
    return _trials(combinations, groups, results, journal)


def _groups(configs: list[Config], num_seeds: int) -> list[Group]:
    """Configurations with the same static fields, which are part of the tree's structure, share a program."""
    trials: dict[Any, list[int]] = {}
    for i, config in enumerate(configs):
        trials.setdefault(jax.tree.structure(config), []).append(i)
    return [Group(chosen, [configs[i] for i in chosen], num_seeds) for chosen in trials.values()]


def _train(group: Group, key: Array, bound: int, journal: Journal, number: int) -> Arrays:
    """At least all rows of a group, see `joined`; batches that the journal has are not trained again."""
    inputs = _inputs(group, key)
    num_updates = group.configs[0].num_updates
    program = None
    batch_size = batches.batch_size(journal, number)
    if batch_size is None:
        program = _largest(inputs, bound)
        batch_size = program.batch_size
        batches.compiled(journal, number, batch_size, program.seconds)
    num_batches = math.ceil(group.num_rows / batch_size)
    parts = []
    for batch in range(num_batches):
        arrays = batches.find(journal, number, batch, num_updates)
        if arrays is None:
            # An earlier call chose the size: another one would round differently.
            program = program or _compiled_again(inputs, batch_size, bound, journal, number)
            arrays, seconds = _call(program, inputs, batch)
            batches.add(journal, number, batch, arrays, seconds)
            log.info("batch %d of %d is trained: %s in %.1f s", batch + 1, num_batches, _agents(program), seconds)
        parts.append(arrays)
    return batches.joined(parts)


def _compiled_again(inputs: "Inputs", batch_size: int, bound: int, journal: Journal, number: int) -> Program:
    """The program of that many rows, which an earlier call has compiled before."""
    program = _compile(inputs, batch_size)
    batches.compiled(journal, number, batch_size, program.seconds)
    _check_bound(program, bound)
    return program


class Inputs(NamedTuple):
    """What a program maps over, for each of a group's rows, and what it does not."""

    config: Config  # each leaf [num_rows, ...] where trials differ in it, and [...] where they do not
    axes: Config  # each leaf 0 or None, accordingly
    keys: Array  # [num_rows]
    key_evaluate: Array


def _inputs(group: Group, key: Array) -> Inputs:
    structure: Any = jax.tree.structure(group.configs[0])
    columns = [list(map(np.asarray, column)) for column in zip(*map(jax.tree.leaves, group.configs), strict=True)]
    axes = [None if all(np.array_equal(leaf, column[0]) for leaf in column) else 0 for column in columns]
    leaves = [
        column[0] if axis is None else np.repeat(np.stack(column), group.num_seeds, axis=0)
        for column, axis in zip(columns, axes, strict=True)
    ]
    key_train, key_evaluate = jax.random.split(key)
    keys = jnp.tile(jax.random.split(key_train, group.num_seeds), len(group.configs))
    return Inputs(structure.unflatten(leaves), structure.unflatten(axes), keys, key_evaluate)


def _batch(inputs: Inputs, rows: np.ndarray) -> tuple[Config, Array, Array]:
    """The arguments of a program for some rows."""
    config = jax.tree.map(
        lambda axis, leaf: leaf if axis is None else leaf[rows],
        inputs.axes,
        inputs.config,
        is_leaf=lambda axis: axis is None,
    )
    return config, inputs.keys[rows], inputs.key_evaluate


def _train_and_score(config: Config, key: Array, key_evaluate: Array) -> Metrics:
    state, metrics = train(config, key)
    return metrics | {SCORE: greedy_return(config, state, key_evaluate)}


def _compile(inputs: Inputs, batch_size: int) -> Program:
    """The program that trains that many rows at once."""
    started = time.perf_counter()
    mapped = jax.jit(jax.vmap(_train_and_score, in_axes=(inputs.axes, 0, None)))
    compiled = mapped.lower(*_batch(inputs, np.arange(batch_size))).compile()
    account: Any = compiled.memory_analysis()
    num_bytes = account.argument_size_in_bytes + account.output_size_in_bytes + account.temp_size_in_bytes
    return Program(compiled, batch_size, num_bytes, time.perf_counter() - started)


def _largest(inputs: Inputs, bound: int) -> Program:
    """A program of all rows if that fits into the memory, and otherwise one of as many as do, in even batches.

    Compiling takes as long for many rows as for few, so the whole is tried first; its account then says, in
    proportion, how many will do.
    """
    num_rows = len(inputs.keys)
    program = _compile(inputs, num_rows)
    seconds = program.seconds
    while program.num_bytes > bound and program.batch_size > 1:
        at_most = max(1, min(int(program.batch_size * bound / program.num_bytes), program.batch_size - 1))
        program = _compile(inputs, math.ceil(num_rows / math.ceil(num_rows / at_most)))
        seconds += program.seconds
    _check_bound(program, bound)
    return program._replace(seconds=seconds)


def _call(program: Program, inputs: Inputs, batch: int) -> tuple[Arrays, float]:
    """The rows of one batch, and the seconds that it took; the last row fills up the last batch."""
    rows = np.minimum(batch * program.batch_size + np.arange(program.batch_size), len(inputs.keys) - 1)
    started = time.perf_counter()
    arrays = jax.tree.map(np.asarray, program.compiled(*_batch(inputs, rows)))
    return arrays, time.perf_counter() - started


def _check_bound(program: Program, bound: int) -> None:
    if program.num_bytes > bound:
        raise ConfigError.of("max_bytes", bound, f"at least {program.num_bytes}, the memory of {_agents(program)}")


def _agents(program: Program) -> str:
    return f"{program.batch_size:,} agent{'s' if program.batch_size > 1 else ''}"


def available_bytes() -> int:
    """The memory that is free on JAX's device; the machine's whole memory where the system does not tell."""
    stats = jax.devices()[0].memory_stats()
    if stats is not None and "bytes_limit" in stats:
        return int(stats["bytes_limit"] - stats["bytes_in_use"])
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _trials(
    combinations: list[tuple[str, Config]], groups: list[Group], results: list[Arrays], journal: Journal
) -> list[Trial]:
    """The results of all groups by trial, in the order of the combinations."""
    trials: dict[int, Trial] = {}
    for group, arrays, record in zip(groups, results, journal.manifest["programs"], strict=True):
        run_seconds = sum(entry["run_seconds"] for entry in record["batches"].values())
        seconds = record["compile_seconds"] / len(group.trials), run_seconds / len(group.trials)
        for position, index in enumerate(group.trials):
            rows = slice(position * group.num_seeds, (position + 1) * group.num_seeds)
            metrics = {name: array[rows] for name, array in arrays.items()}
            trials[index] = Trial(*combinations[index], metrics.pop(SCORE), metrics, *seconds)
    return [trials[index] for index in range(len(combinations))]
