"""The command line: `purejaxppo train`."""

import contextlib
import dataclasses
import io
import itertools
import re
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats
import tyro
from rich.console import Console

from purejaxppo import environments, presets
from purejaxppo.acting import policy_table
from purejaxppo.config import Config
from purejaxppo.costs import describe
from purejaxppo.environments import GridWorld, is_tabular, make
from purejaxppo.evaluation import Optimality, act, evaluate, optimality
from purejaxppo.experiment.terminal import draw_map
from purejaxppo.fields import COUNT, Allowed, ConfigError, Settings, static
from purejaxppo.ppo import Metrics, TrainState, init, train, update
from purejaxppo.presets import preset

DEFAULT_PRESET = "treasure"
EVALUATION_EPISODES = 128
PICTURES = 0x706963  # folded into the seed's key, for random numbers that neither training nor evaluation draws
REACHED = 1e-3  # gap to the optimal return, relative to it, below which an agent reaches it
HELP = """Train PPO agents, one per seed, all at once in one compiled program, and show what they learned.

Without flags: 1,024 agents on the treasure gridworld. Another --env or --preset starts from other defaults; its --help
shows them. Example: purejaxppo train --env CartPole-v1 --num-envs 8 --num-seeds 4
"""


class Seeds(Settings):
    """How many agents are trained, and from which seed."""

    num_seeds: int = static(1, "agents trained at once, each from its own seed", COUNT)
    seed: int = static(
        0,
        "seed from which the agents' seeds are derived",
        Allowed("an integer in [0, 2**32)", lambda x: 0 <= x < 2**32, integer=True),
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status, 2 for a bad flag or value."""
    try:
        config, seeds, pictures = _parse(sys.argv[1:] if argv is None else list(argv))
        console = Console(highlight=False, soft_wrap=True)
        result = _train(config, seeds, console)
        if pictures is not None:
            _draw(config, seeds, result, pictures, console)
    except ConfigError as error:
        print(f"purejaxppo: {error}", file=sys.stderr)
        return 2
    return 0


def _parse(argv: list[str]) -> tuple[Config, Seeds, Path | None]:
    """The configuration that the flags ask for, and where pictures go, if they are wanted.

    Raises:
        ConfigError: a flag or value cannot be used.
    """
    name = _early_flag(argv, "--preset") or (None if _early_flag(argv, "--env") else DEFAULT_PRESET)
    base = Config() if name is None else preset(name)
    flags = vars(_read_flags(argv, _flags_type(name)))
    seeds = Seeds(**{field.name: flags.pop(field.name) for field in dataclasses.fields(Seeds)})
    plot = flags.pop("plot")
    del flags["preset"]
    env = environments.resolve(flags["env"])
    env_params = _env_params(env, base.env_params if env == base.env else None, flags.pop("env_params"))
    config = Config(**flags, env_params=env_params)
    return config, seeds, None if plot is None else _new_directory(plot)


def _early_flag(argv: list[str], flag: str) -> str | None:
    """The value of a flag that the other flags' defaults depend on."""
    for argument, value in itertools.pairwise(argv):
        if argument == flag:
            return value
    return next((argument.removeprefix(f"{flag}=") for argument in argv if argument.startswith(f"{flag}=")), None)


def _read_flags(argv: list[str], flags_type: Any) -> Any:
    """The flags as an object of that type."""
    app = tyro.extras.SubcommandApp()
    app.command(flags_type, name="train")
    messages = io.StringIO()
    try:
        with contextlib.redirect_stderr(messages):
            return app.cli(prog="purejaxppo", description="PPO in JAX, fully jitted.", args=argv)
    except SystemExit as stop:
        if stop.code == 0:
            raise
        raise ConfigError(_one_line(messages.getvalue())) from None


def _flags_type(name: str | None) -> type:
    """A dataclass with a flag for every field of `Config` and `Seeds`, as tyro reads it.

    The defaults are those of the preset called `name`, if any.
    """
    defaults = {} if name is None else presets.read(name)
    defaults |= {"num_seeds": 1024 if name == DEFAULT_PRESET else Seeds.num_seeds, "env_params": ()}
    # What tyro cannot read off the default's type.
    kinds: dict[str, Any] = {"env_params": tuple[str, ...], "hidden_sizes": tuple[int, ...]}
    flags = [
        _flag("preset", str | None, name, f"settings to start from: {', '.join(presets.names())}, or a file (*.toml)"),
        _flag("plot", Path | None, None, "new directory to draw pictures of the run into"),
    ]
    for field in (*dataclasses.fields(Config), *dataclasses.fields(Seeds)):
        kind = kinds.get(field.name, type(field.default))
        default = defaults.get(field.name, field.default)
        text = field.metadata["help"] + (", as name=value pairs" if field.name == "env_params" else "")
        flags.append(_flag(field.name, kind, tuple(default) if isinstance(default, list) else default, text))
    flags_type = dataclasses.make_dataclass("Flags", flags)
    flags_type.__doc__ = HELP
    return flags_type


def _flag(name: str, kind: Any, default: Any, text: str) -> tuple[str, Any, Any]:
    return name, Annotated[kind, tyro.conf.arg(help=text)], dataclasses.field(default=default)


def _new_directory(path: Path) -> Path:
    """A directory for pictures, made if it is not there.

    Raises:
        ConfigError: it cannot be made or written to, or already holds something: nothing is overwritten.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        if any(path.iterdir()):
            raise ConfigError(f"plot={str(path)!r}: must be a new or empty directory; nothing is overwritten")
        tempfile.TemporaryFile(dir=path).close()
    except OSError as error:
        raise ConfigError(f"plot={str(path)!r}: cannot be written to ({error.strerror})") from None
    return path


def _one_line(message: str) -> str:
    """tyro's boxed message without its frame and its footer."""
    lines = [line.strip("│╭╮╰╯─ \n") for line in message.splitlines()]
    text = " ".join(line for line in lines if line and not re.match(r"(For full helptext|.*--help)", line))
    return re.sub(r"\s+", " ", text)


def _env_params(env: Any, params: Any, pairs: Sequence[str]) -> Any:
    """`params`, or where there are none the environment's defaults, with some replaced."""
    if not pairs:
        return params
    params = environments.make(env).default_params if params is None else params
    changes: dict[str, Any] = {}
    for pair in pairs:
        name, _, text = pair.partition("=")
        try:
            number = float(text)
        except ValueError:
            raise ConfigError(f"env_params={pair!r}: must be name=number") from None
        whole = isinstance(getattr(params, name, None), int) and number.is_integer()
        changes[name] = int(number) if whole else number
    return environments.replaced_params(params, changes)


class Result(NamedTuple):
    """What a training run gives."""

    state: TrainState  # [num_seeds]
    metrics: Metrics  # [num_seeds, num_updates]
    returns: np.ndarray  # [num_seeds], mean return of the greedy policy
    exact: Optimality | None  # [num_seeds], where the environment's model is known
    compile_seconds: float
    run_seconds: float


def _train(config: Config, seeds: Seeds, console: Console) -> Result:
    """Train, and print what came of it."""
    device = jax.devices()[0]
    agents = f"{seeds.num_seeds:,} agent{'s' if seeds.num_seeds > 1 else ''}"
    console.print(f"[bold]{agents}[/bold] from seed {seeds.seed}, on {device.platform}, each:")
    console.print(describe(config))
    result = _run(config, seeds)
    steps = seeds.num_seeds * config.num_updates * config.batch_size
    console.print(f"\ncompile time       {result.compile_seconds:.1f} s")
    console.print(f"run time           {result.run_seconds:.1f} s")
    console.print(
        f"throughput         {steps / result.run_seconds:,.0f} environment steps/s ({steps:,} steps over all agents)"
    )
    console.print(f"return             {_summary(result.returns)}")
    if result.exact is None:
        console.print(
            f"                   over agents, each the mean of the same {EVALUATION_EPISODES} episodes, greedy"
        )
    else:
        console.print(_distance_from_optimum(result.exact))
    env = make(config.env)
    if isinstance(env, GridWorld):
        console.print(_picture(config, env, result, console.width))
    return result


def _run(config: Config, seeds: Seeds) -> Result:
    """Compile, train every seed, evaluate; compiling and running are timed apart."""
    key_train, key_evaluate = jax.random.split(jax.random.key(seeds.seed))
    keys = jax.random.split(key_train, seeds.num_seeds)
    started = time.perf_counter()
    program = jax.jit(jax.vmap(train, in_axes=(None, 0))).lower(config, keys).compile()
    compiled = time.perf_counter()
    state, metrics = jax.block_until_ready(program(config, keys))
    finished = time.perf_counter()

    if is_tabular(make(config.env)):
        exact = jax.jit(jax.vmap(lambda state: optimality(config, state)))(state)
        return Result(state, metrics, np.asarray(exact.expected_return), exact, compiled - started, finished - compiled)

    def mean_return(state: TrainState, key: jax.Array) -> jax.Array:
        return jnp.mean(evaluate(config, state, key, num_episodes=EVALUATION_EPISODES).episode_return)

    # One key for all: every agent meets the same starts and the same chances, so that only policies differ.
    returns = jax.jit(jax.vmap(mean_return, in_axes=(0, None)))(state, key_evaluate)
    return Result(state, metrics, np.asarray(returns), None, compiled - started, finished - compiled)


def _summary(returns: np.ndarray) -> str:
    """Mean, its 95% interval (Student's t over seeds), best and worst."""
    mean = f"mean {returns.mean():.3f}"
    if len(returns) == 1:
        return f"{mean} (one seed: no interval)"
    error = scipy.stats.sem(returns)
    low, high = scipy.stats.t.interval(0.95, len(returns) - 1, returns.mean(), error) if error else [returns.mean()] * 2
    return f"{mean}, 95% interval [{low:.3f}, {high:.3f}], best {returns.max():.3f}, worst {returns.min():.3f}"


def _distance_from_optimum(exact: Optimality) -> str:
    """The optimal return, and how far from it the agents are."""
    best, gap = float(exact.optimal_return[0]), np.asarray(exact.gap)
    num_best = int(np.sum(gap <= REACHED * max(1.0, abs(best))))
    return (
        "                   over agents, each the exact expectation of the greedy policy\n"
        f"optimal return     {best:.3f}, reached by {num_best:,} of {len(gap):,} agents\n"
        f"gap                mean {gap.mean():z.4f}, worst {gap.max():z.4f}; "
        f"{np.mean(exact.optimal_fraction):.1%} of all moves are optimal"
    )


def _picture(config: Config, env: GridWorld, result: Result, width: int) -> Any:
    """The map with the mean value over seeds and the move that most seeds prefer."""
    table = jax.jit(jax.vmap(lambda state: policy_table(config, state.params)))(result.state)
    cells = jnp.arange(len(env.map.symbol))
    actions = jax.vmap(lambda state: act(config, state, cells))(result.state)
    votes = np.asarray(jnp.sum(jax.nn.one_hot(actions, env.num_actions), axis=0))
    picture = draw_map(env, np.asarray(table.value.mean(axis=0)), votes.argmax(axis=1), width)
    picture.append(
        "number: mean value over agents; arrow: the move that most agents prefer\n"
        "M lots of money, m money, D dragon, S start, grey: wall"
    )
    return picture


def _draw(config: Config, seeds: Seeds, result: Result, directory: Path, console: Console) -> None:
    """All pictures that the environment allows, of the agent with the median return where they show one."""
    # Imported here: matplotlib takes a while, and most runs draw nothing.
    from purejaxppo.experiment import plots, render

    key = jax.random.fold_in(jax.random.key(seeds.seed), PICTURES)
    key_early, key_surrogate, key_ratios, key_walk, key_crowd = jax.random.split(key, 5)
    median = np.argsort(result.returns)[len(result.returns) // 2]
    state = jax.tree.map(lambda leaf: leaf[median], result.state)
    optimum = None if result.exact is None else float(result.exact.optimal_return[0])
    curves = result.metrics.get("expected_return", result.metrics["episode_return"])
    figures = {
        "learning.png": plots.learning_curves(curves, config.batch_size, optimum=optimum),
        "surrogate.png": plots.surrogate(config, _early(config, key_early), key_surrogate),
        "ratios.png": plots.ratio_histograms(config, key_ratios),
    }
    env = make(config.env)
    if isinstance(env, GridWorld):
        figures["map.png"] = plots.gridworld(config, state)
        render.crowd(config, result.state, key_crowd, directory / "crowd.gif")
    if render.can_draw(env):
        render.walk(config, state, key_walk, directory / "walk.gif")
    for name, figure in figures.items():
        figure.savefig(directory / name)
    drawn = ", ".join(sorted(path.name for path in directory.iterdir()))
    console.print(f"pictures           {drawn} in {directory}")


def _early(config: Config, key: jax.Array) -> TrainState:
    """An agent after a tenth of its training, when the policy still moves."""
    num_updates = config.num_updates // 10
    return jax.jit(lambda key: jax.lax.fori_loop(0, num_updates, lambda _, s: update(config, s)[0], init(config, key)))(
        key
    )
