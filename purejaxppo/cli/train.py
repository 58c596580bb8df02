"""`purejaxppo train`."""

import time
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.text import Text

from purejaxppo._jit import compile
from purejaxppo.cli import output, pictures, runs
from purejaxppo.cli.flags import Seeds, config_flags, flag, flags_type, settings_flags, to_config, to_settings
from purejaxppo.cli.runs import Result
from purejaxppo.config import Config
from purejaxppo.costs import describe
from purejaxppo.errors import ConfigError
from purejaxppo.experiment import RunOptions, run
from purejaxppo.experiment.runs.devices import check_memory, needed_bytes
from purejaxppo.experiment.runs.run import check_free
from purejaxppo.ppo import train

HELP = """Train PPO agents, one per seed, in one compiled program, and print what they learned.

Without flags: 1,024 agents on the treasure gridworld. Another --env or --preset starts from other defaults; its --help
shows them. With --directory the run shows its progress and can be stopped with Ctrl-C, resumed, and used later.

Example: purejaxppo train --env CartPole-v1 --num-envs 8 --num-seeds 4 --directory runs/cartpole
"""
# What makes no difference without --directory.
RUN_FLAGS = [
    flag("overwrite", bool, False, "delete the run that the directory already holds"),
    *settings_flags(RunOptions),
    *runs.LOGGER_FLAGS,
]


def flags(argv: list[str]) -> type:
    """Declare the flags, with the defaults of the preset that is asked for."""
    own = [
        flag("plot", Path | None, None, "new directory to draw pictures of the run into"),
        flag("directory", Path | None, None, "new directory to keep the run in: metrics, checkpoints, a summary"),
    ]
    return flags_type(HELP, [*config_flags(argv), *own, *RUN_FLAGS, runs.SILENT_FLAG])


def main(flags: Any) -> None:
    """Train, print the scores, and draw pictures if they are wanted."""
    config, seeds, options = to_config(flags), to_settings(Seeds, flags), to_settings(RunOptions, flags)
    _check_run_flags(flags)
    begin = None
    if flags.directory is not None:
        how = {"options": options, "loggers": runs.loggers(flags), "overwrite": flags.overwrite}
        begin = partial(run, config, seeds.keys, flags.directory, **how)
        check_free(flags.directory, flags.overwrite)
    plot = None if flags.plot is None else pictures.new_directory(flags.plot, "plot")
    console = output.console(quiet=flags.silent)
    agents, device = output.agents(seeds.num_seeds), jax.devices()[0].platform
    console.print(Text.assemble((agents, "bold"), f" from seed {seeds.seed}, on {device}, each:"))
    console.print(describe(config))
    result = train_at_once(config, seeds) if begin is None else runs.finish(begin, config, seeds.keys, flags)
    scores = runs.show(result, console)
    if plot is not None:
        drawn = pictures.draw_learning(config, result.metrics, scores, plot)
        drawn += pictures.draw_map(config, result.state, scores, plot)
        drawn += pictures.draw_updates(config, result.keys[0], plot)
        drawn += pictures.draw_movies(config, result.state, scores, result.keys[0], plot)
        pictures.show(drawn, plot, console)


def train_at_once(config: Config, seeds: Seeds) -> Result:
    """Compile and train every seed in one program; compiling and running are timed apart.

    Raises:
        ConfigError: it does not fit into the memory.
    """
    keys = seeds.keys
    started = time.perf_counter()
    program = compile(jax.jit(jax.vmap(train, in_axes=(None, 0))), config, keys)
    check_memory(seeds.num_seeds, needed_bytes(program))
    compiled = time.perf_counter()
    state, metrics = jax.block_until_ready(program(config, keys))
    seconds = time.perf_counter() - compiled
    speed = seeds.num_seeds * config.num_updates * config.batch_size / seconds
    metrics = {name: np.asarray(values) for name, values in metrics.items()}
    return Result(config, keys, state, metrics, compiled - started, seconds, speed)


def _check_run_flags(flags: Any) -> None:
    """Refuse what would make no difference.

    Raises:
        ConfigError: a flag for runs in a directory, where there is none.
    """
    for name, _, field in RUN_FLAGS:
        if flags.directory is None and vars(flags)[name] != field.default:
            raise ConfigError(f"{name}={vars(flags)[name]!r}: needs --directory")
