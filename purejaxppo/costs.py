"""What a configuration will take, told before it runs."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from purejaxppo.acting import rollout
from purejaxppo.config import Config
from purejaxppo.environments import interface, name_of
from purejaxppo.policies import environment, evaluate_networks, network_input, uses_table
from purejaxppo.ppo import init


def describe(config: Config) -> str:
    """The size of a training run in words: updates, gradient steps, minibatch size, memory, FLOPs; nothing is compiled.

    It says what would otherwise go unnoticed: steps that do not fill a batch, an environment that cannot tell a time
    limit from a termination, a policy that is tabulated.
    """
    env, env_params = environment(config)
    lines = [
        f"environment        {name_of(config.env)}",
        f"updates            {config.num_updates:,} x {config.batch_size:,} steps "
        f"({config.num_envs:,} environments x {config.num_steps:,} steps)",
        f"gradient steps     {config.num_updates * config.num_epochs * config.num_minibatches:,} "
        f"({config.num_epochs} epochs x {config.num_minibatches} minibatches of {config.minibatch_size:,} per update)",
        f"parameters         {num_parameters(config):,}",
        f"memory             about {_megabytes(config):,.1f} MB per agent",
        f"arithmetic         about {flops_per_step(config):,.0f} FLOPs per step, of the networks",
    ]
    left = config.total_timesteps - config.num_updates * config.batch_size
    if left:
        lines.append(
            f"not trained        the last {left:,} of total_timesteps={config.total_timesteps:,} fill no batch"
        )
    if uses_table(config, config.minibatch_size):
        lines.append(
            f"policy table       {interface.num_observations(env):,} observations, evaluated once per gradient"
        )
    if not interface.tells_truncation(env, env_params):
        lines.append("time limits        taken as terminations: the environment's step gives five values, not six")
    return "\n".join(lines)


def num_parameters(config: Config) -> int:
    """Weights and biases of both networks."""
    state = jax.eval_shape(init, config, jax.random.key(0))
    return sum(leaf.size for leaf in jax.tree.leaves(state.params))


def flops_per_step(config: Config) -> float:
    """FLOPs of the networks for one environment step, a multiply-add being two.

    With `W` weights that are multiplied, in both networks, and `E` epochs::

        2 W (1 + 3 E)

    one forward pass in the rollout, and per epoch one forward pass and one backward pass, which counts as two. For
    CartPole-v1, 64x64 towers and 4 epochs: 2 * 8896 * (1 + 3 * 4) = 231,296.

    Of networks other than the fully connected ones, XLA counts the forward pass in place of `2 W`.

    Biases, activations, the optimiser and the extra value of the successor state are not counted. The gradient by
    the network's input is, although nobody needs it: 2 E W_0 too many, `W_0` being the first layers' weights.

    Where the policy is a table of `S` rows, only what the table needs is counted: `S` rows forward once per rollout,
    and `S` rows forward and backward once per gradient step, divided by the steps of an update.
    """
    rollout_rows = network_rows(config, config.batch_size)
    gradient_rows = network_rows(config, config.minibatch_size) * config.num_minibatches * config.num_epochs
    return _forward_flops(config) * (rollout_rows + 3 * gradient_rows) / config.batch_size


def _forward_flops(config: Config) -> float:
    """FLOPs of the networks for one observation."""
    if config.network == "mlp":
        return 2 * multiplied_weights(config)
    state = jax.eval_shape(partial(init, config), jax.random.key(0))
    rows = jax.eval_shape(lambda runners: jax.tree.map(lambda leaf: leaf[:1], runners), state.runners)
    program = jax.jit(partial(evaluate_networks, config)).lower(state.agent, rows.obs, rows.memory)
    return float((program.cost_analysis() or {}).get("flops", 0.0))


def multiplied_weights(config: Config) -> int:
    """Numbers in the kernels of fully connected networks, without those that are looked up rather than multiplied.

    That is the first layers' kernels, where the input is an integer in place of a one-hot vector.
    """
    first, others = _kernel_sizes(config)
    return first + others


def first_weights(config: Config) -> int:
    """Those of them in the first layers, whose inputs need no gradient; 0 where they are looked up."""
    return _kernel_sizes(config)[0]


def _kernel_sizes(config: Config) -> tuple[int, int]:
    """Numbers in the kernels of the first layers, 0 if they are looked up, and in all others."""
    state = jax.eval_shape(partial(init, config), jax.random.key(0))
    obs = jax.eval_shape(lambda obs: jax.tree.map(lambda leaf: leaf[0], obs), state.runners.obs)
    x = jax.eval_shape(partial(network_input, config), obs)
    networks = state.params["params"]["networks"]
    heads = [networks.policy, networks.value]
    firsts = [torso.hidden[0] for torso in networks.torsos] if config.hidden_sizes else heads
    is_first = {id(layer.kernel) for layer in firsts}
    layers = [*heads, *(layer for torso in networks.torsos for layer in torso.hidden)]
    first = sum(layer.kernel.size for layer in firsts)
    others = sum(layer.kernel.size for layer in layers if id(layer.kernel) not in is_first)
    return 0 if jnp.issubdtype(x.dtype, jnp.integer) else first, others


def network_rows(config: Config, num_samples: int) -> int:
    """On how many inputs the networks are evaluated for `num_samples` samples."""
    num_observations = interface.num_observations(environment(config)[0])
    return num_observations if num_observations is not None and uses_table(config, num_samples) else num_samples


def _megabytes(config: Config) -> float:
    """The state, a rollout, and the batch with one shuffled minibatch and its activations."""
    state = jax.eval_shape(init, config, jax.random.key(0))
    _, transitions = jax.eval_shape(partial(rollout, config), state.agent, state.runners, state.key)
    rows = network_rows(config, config.minibatch_size)
    activations = 4 * rows * sum(config.hidden_sizes) * 4  # two networks, forward and backward, 4 bytes
    return (_num_bytes(state) + 2 * _num_bytes(transitions) + activations) / 1e6


def _num_bytes(tree: Any) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
