"""How near to the hardware's limits each part of an update comes: rollout, advantages, and learning.

What the algorithm needs per environment step, by the formulas in benchmarks/README.md, is divided by what this machine
can do at most, measured in the same run. That gives for each resource the least time it takes, as a share of the time
measured. The largest share says what bounds a part; what no resource explains is waiting: for the launch of small
operations, and for each other's results.

For environments without a policy table there is one line more, `networks`: the gradient of the two networks alone on as
many samples, a minimal program without PPO, which shows what the compiler leaves within reach.
"""

import statistics
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import measure
from jax import Array
from jax.extend.core import ClosedJaxpr

from purejaxppo import Config, costs, init
from purejaxppo.acting import rollout
from purejaxppo.networks import MLP
from purejaxppo.ppo import TrainState, bind, collect, learn, to_batch

CASES = (("GridWorld-dragons", 1024), ("CartPole-v1", 1024), ("CartPole-v1", 4), ("Breakout-MinAtar", 64))
IN_CACHE = 2**16  # numbers that fit into a core's cache
IN_MEMORY = 2**25  # numbers that do not fit into any
ROUNDS = 256  # operations in one call on numbers in the cache
DEGREE = 8  # multiply-adds in the element-wise operation
WORD = 4  # bytes of a float32, or of random bits
# Additions and multiplications, roughly: per sample of the advantages; per hidden unit forward and backward; per
# parameter of Adam and the clip of the gradient; per sample and epoch of the loss and the shuffle.
OF_GAE, OF_UNIT, OF_ADAM, OF_LOSS, OF_SHUFFLE = 10, 5, 20, 40, 80
QUICK: dict[str, Any] = {"num_envs": 64, "num_steps": 8, "network": MLP(hidden_sizes=(8,))}  # sizes of a smoke run
EXPLAINED = 0.5  # share of the time; a part of which less is explained is bound by waiting


class Need(NamedTuple):
    """What one environment step takes at least, or what a machine can do per second at most."""

    product: float = 0.0  # FLOPs of matrix products, a multiply-add being two
    copy: float = 0.0  # bytes read from or written to memory
    elementwise: float = 0.0  # additions and multiplications
    tanh: float = 0.0  # and other transcendental functions
    bits: float = 0.0  # random words of 32 bits, or keys


class Part(NamedTuple):
    """A part of an update."""

    name: str
    program: measure.Program
    need: Need


def main(flags: measure.TimingFlags) -> None:
    """Measure the machine and every part, and print a table."""
    report: dict[str, Any] = {"machine": measure.machine()}
    cases = CASES[:2] if flags.quick else CASES
    sizes = QUICK if flags.quick else {}
    configs = [Config(**{"env": env, "num_envs": num_envs, "clip_value": False, **sizes}) for env, num_envs in cases]
    rows = [(config, part) for config in configs for part in parts_of(config)]
    limits = limits_of_machine(flags)
    programs = [*(limit.program for limit in limits), *(part.program for _, part in rows)]
    seconds = [statistics.median(times) for times in measure.interleave(programs, flags.repeats)]
    peak = Need(**{limit.name: max(limit.need) / time for limit, time in zip(limits, seconds, strict=False)})
    parts = [result(*row, time, peak) for row, time in zip(rows, seconds[len(limits) :], strict=True)]
    print_parts(parts, peak)
    measure.write_json(flags.json, report | {"peak": peak._asdict(), "parts": parts})


def limits_of_machine(flags: measure.Flags) -> list[Part]:
    """For each resource a program that uses hardly anything else, and how much of it one call uses."""
    size, num_large = measure.matmul_size(flags), IN_CACHE if flags.quick else IN_MEMORY

    def repeated(change: Callable[[Array, Array], Array], number: int, rounds: int) -> measure.Program:
        """In one loop, so that the page faults of fresh output buffers are not timed."""
        return measure.compile_program(
            lambda key, x: jax.lax.fori_loop(0, rounds, lambda i, x: change(jax.random.fold_in(key, i), x), x),
            lambda key: (key, jax.random.uniform(key, (number,))),
        )

    def polynomial(x: Array) -> Array:
        return jnp.polyval(jnp.full(DEGREE + 1, 0.1), x, unroll=DEGREE)

    def bits(key: Array, x: Array) -> Array:
        return jax.lax.bitcast_convert_type(jax.random.bits(key, x.shape), jnp.float32)

    num_cached = IN_CACHE * ROUNDS
    return [
        Part("product", measure.matmul_program(size), Need(product=measure.PRODUCTS * 2 * size**3)),
        Part("copy", repeated(lambda _, x: -x, num_large, 4), Need(copy=4 * 2 * WORD * num_large)),
        Part(
            "elementwise",
            repeated(lambda _, x: polynomial(x), IN_CACHE, ROUNDS),
            Need(elementwise=2 * DEGREE * num_cached),
        ),
        Part("tanh", repeated(lambda _, x: jnp.tanh(x), IN_CACHE, ROUNDS), Need(tanh=num_cached)),
        Part("bits", repeated(bits, IN_CACHE, ROUNDS), Need(bits=num_cached)),
    ]


def parts_of(config: Config) -> list[Part]:
    """The parts of an update, each compiled apart and given what the one before it made."""

    def state_of(key: Array) -> TrainState:
        return init(config, key)

    networks = bind(config)

    def act(agent: Any, runners: Any, key: Array) -> Any:
        policy = networks.act(agent, table=networks.uses_table(config.batch_size))
        return rollout(networks.task, policy, runners, key, num_steps=config.num_steps)

    def advantages(agent: Any, before: Any, runners: Any, transitions: Any) -> Any:
        piece = networks.microbatch_size(agent.params, config.minibatch_size)
        value, next_value = networks.values(agent, transitions, before, runners, piece=piece)
        return to_batch(config, networks, transitions, value, next_value)

    def acted(key: Array) -> Any:
        state = state_of(key)
        return state.agent, state.runners, *jax.jit(act)(state.agent, state.runners, state.key)

    def collected(key: Array) -> Any:
        return state_of(key), jax.jit(advantages)(*acted(key)), key

    def started(key: Array) -> Any:
        state = state_of(key)
        return state.agent, state.runners, state.key

    parts = [
        Part("rollout", measure.compile_program(act, started), rollout_need(config)),
        Part("advantages", measure.compile_program(advantages, acted), advantages_need(config)),
        Part("learning", measure.compile_program(partial(learn, config), collected), learning_need(config)),
    ]
    if bind(config).uses_table(config.minibatch_size):
        return parts
    need = learning_need(config)
    return [*parts, Part("networks", networks_program(config), Need(product=need.product, tanh=need.tanh))]


class Sizes(NamedTuple):
    """What the formulas are made of."""

    weights: int  # W, multiplied by inputs, in both towers
    first_weights: int  # W_0, of these in the first layers, whose inputs need no gradient
    hidden: int  # H, hidden units of both towers
    parameters: int  # P, weights and biases
    row: int  # bytes of a sample in the batch
    transition: int  # bytes of a transition


def sizes_of(config: Config) -> Sizes:
    """The sizes, from shapes alone."""
    state = jax.eval_shape(partial(init, config), jax.random.key(0))
    _, transitions, batch = jax.eval_shape(partial(collect, config), state, state.key)
    return Sizes(
        costs.multiplied_weights(config),
        first_weights(config),
        2 * sum(config.network.hidden_sizes),
        sum(leaf.size for leaf in jax.tree.leaves(state.params)),
        num_bytes(batch) // config.batch_size,
        num_bytes(transitions) // config.batch_size,
    )


def first_weights(config: Config) -> int:
    """Weights of the first layers, whose inputs need no gradient; 0 where they are looked up."""
    state = jax.eval_shape(partial(init, config), jax.random.key(0))
    if bind(config).task.num_observations is not None:
        return 0
    return sum(torso.layers[0].kernel.size for torso in state.params["params"]["networks"].torsos)


def num_bytes(tree: Any) -> int:
    """Bytes of all arrays in a tree."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def rollout_need(config: Config) -> Need:
    """One forward pass per step, or per table; the environment's step; the transition is written."""
    sizes, rows = sizes_of(config), costs.network_rows(config, config.batch_size) / config.batch_size
    task, key = bind(config).task, jax.random.key(0)
    _, env_state = jax.eval_shape(task.reset, key)
    step = jax.jit(task.step)
    arguments = key, env_state, jax.ShapeDtypeStruct((), jnp.int32)
    cost = step.lower(*arguments).cost_analysis()
    num_actions = task.action_space.n
    return Need(
        product=2 * sizes.weights * rows,
        copy=sizes.transition,
        elementwise=sizes.hidden * rows + num_actions + cost.get("flops", 0.0),
        tanh=(sizes.hidden + num_actions) * rows + cost.get("transcendentals", 0.0),
        # One for the action, one for the environment's key, and what the environment draws.
        bits=2 + random_draws(jax.make_jaxpr(step)(*arguments).jaxpr),
    )


def random_draws(jaxpr: Any) -> int:
    """How many random words a program draws. A key costs as much as a word: one call of the hash function."""
    draws = 0
    for equation in jaxpr.eqns:
        inner = [p.jaxpr for p in jax.tree.leaves(list(equation.params.values())) if isinstance(p, ClosedJaxpr)]
        draws += sum(map(random_draws, inner))
        if equation.primitive.name in ("random_bits", "random_split", "random_fold_in"):
            draws += equation.outvars[0].aval.size
    return draws


def advantages_need(config: Config) -> Need:
    """The value of every observation; the transition is read, and the sample written."""
    sizes, rows = sizes_of(config), costs.network_rows(config, config.batch_size) / config.batch_size
    return Need(
        # The value's tower is half of the weights, but for the outputs of the policy's.
        product=sizes.weights * rows,
        copy=sizes.transition + sizes.row,
        elementwise=sizes.hidden / 2 * rows + OF_GAE,
        tanh=sizes.hidden / 2 * rows,
    )


def learning_need(config: Config) -> Need:
    """Per epoch one forward and one backward pass, and the sample read, written in a new order, and read again.

    Per gradient step Adam reads and writes parameters, two moments and the gradient.
    """
    sizes, epochs = sizes_of(config), config.num_epochs
    rows = costs.network_rows(config, config.minibatch_size) / config.minibatch_size * epochs
    parameters = sizes.parameters * epochs / config.minibatch_size
    return Need(
        product=(6 * sizes.weights - 2 * sizes.first_weights) * rows,
        copy=3 * sizes.row * epochs + 8 * WORD * parameters,
        elementwise=OF_UNIT * sizes.hidden * rows + OF_ADAM * parameters + (OF_LOSS + OF_SHUFFLE) * epochs,
        tanh=sizes.hidden * rows,
    )


def networks_program(config: Config) -> measure.Program:
    """The gradient of the sum of squares of log-probabilities and values, on as many samples as learning takes it on.

    They come in the same pieces. There is no batch, no shuffle, no surrogate, and no optimiser.
    """
    networks = bind(config)
    state = jax.eval_shape(partial(init, config), jax.random.key(0))
    piece = networks.microbatch_size(state.params, config.minibatch_size)
    num_pieces = config.batch_size * config.num_epochs // piece
    features = jax.vmap(networks.task.features)

    def loss(params: Any, x: Array) -> Array:
        distribution, value = networks.module.apply(params, x)
        return jnp.sum(distribution.log_probs**2) + jnp.sum(value**2)

    def prepare(key: Array) -> tuple[Any, Array]:
        state = init(config, key)
        one = features(state.runners.obs)[:1]
        return state.params, jax.random.uniform(key, (piece, *one.shape[1:]))

    return measure.compile_program(partial(_sum_of_gradients, loss, num_pieces), prepare)


def _sum_of_gradients(loss: Callable[..., Array], num_pieces: int, params: Any, x: Array) -> Any:
    """Those of the loss on so many pieces like `x`."""

    def add(total: Any, row: Array) -> tuple[Any, None]:
        # The samples differ from piece to piece, so that none can be computed once for all.
        return jax.tree.map(jnp.add, total, jax.grad(loss)(params, x + row)), None

    zeros = jax.tree.map(jnp.zeros_like, params)
    return jax.lax.scan(add, zeros, jnp.arange(num_pieces, dtype=x.dtype), unroll=2)[0]


def result(config: Config, part: Part, seconds: float, peak: Need) -> dict[str, Any]:
    """What was measured of one part, and the share of the time that each resource needs at least."""
    per_step = seconds / config.batch_size
    shares = {name: need / limit / per_step for name, need, limit in zip(Need._fields, part.need, peak, strict=True)}
    largest = max(shares, key=shares.__getitem__)
    return {
        "env": str(config.env),
        "num_envs": config.num_envs,
        "part": part.name,
        "nanoseconds_per_step": 1e9 * per_step,
        "need": part.need._asdict(),
        "shares": shares,
        "bound": largest if sum(shares.values()) >= EXPLAINED else "waiting",
    }


def print_parts(parts: list[dict[str, Any]], peak: Need) -> None:
    """One line per part: its time, and the least share of it that each resource takes."""
    header = ["environment", "envs", "part", "ns/step", *(f"{name} %" for name in Need._fields), "sum %", "bound by"]
    rows = [
        [
            part["env"],
            str(part["num_envs"]),
            part["part"],
            f"{part['nanoseconds_per_step']:.1f}",
            *(f"{100 * share:.1f}" for share in part["shares"].values()),
            f"{100 * sum(part['shares'].values()):.1f}",
            part["bound"],
        ]
        for part in parts
    ]
    measure.print_table(header, rows)
    product, copy, elementwise, tanh, bits = peak
    print(
        f"\npeaks: product {product / 1e9:.1f} GFLOP/s, copy {copy / 1e9:.1f} GB/s, element-wise "
        f"{elementwise / 1e9:.1f} GFLOP/s, tanh {tanh / 1e9:.2f} G/s, random words {bits / 1e9:.2f} G/s"
    )


if __name__ == "__main__":
    main(measure.parse(measure.TimingFlags, __doc__))
