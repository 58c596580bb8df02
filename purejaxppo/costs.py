"""Estimate the size and cost of a configuration."""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from purejaxppo.actor_critic import trained
from purejaxppo.config import Config
from purejaxppo.distributions import DiagGaussian, distribution_for, is_out_of_reach
from purejaxppo.environments import Task, name_of
from purejaxppo.networks import MLP, Network
from purejaxppo.networks.layers import Dense
from purejaxppo.ppo import bind, collect, init


def describe(config: Config) -> str:
    """Estimate the size of a training run in words: updates, gradient steps, memory, FLOPs; nothing is trained.

    It warns about what would silently do nothing or something else: steps that fill no batch, an environment that
    cannot tell a time limit from a termination, a policy that is tabulated, minibatches too small to standardise,
    actions that a Gaussian policy does not get to.
    """
    networks = bind(config)
    lines = [
        f"environment        {name_of(config.env)}",
        f"updates            {config.num_updates:,} x {config.batch_size:,} steps "
        f"({config.num_envs:,} environments x {config.num_steps:,} steps)",
        f"gradient steps     {config.num_updates * config.num_epochs * config.num_minibatches:,} "
        f"({config.num_epochs} epochs x {config.num_minibatches} minibatches of {config.minibatch_size:,} per update)",
        f"parameters         {num_parameters(config):,}",
        f"memory             about {num_bytes(config) / 1e6:,.1f} MB per agent",
        f"arithmetic         about {flops_per_step(config):,.0f} FLOPs per step, of the networks",
    ]
    left = config.total_timesteps - config.num_updates * config.batch_size
    if left:
        lines.append(
            f"not trained        the last {left:,} of total_timesteps={config.total_timesteps:,} fill no batch"
        )
    if networks.uses_table(config.minibatch_size):
        num_observations = networks.task.num_observations
        lines.append(f"policy table       {num_observations:,} observations, evaluated once per gradient")
    if _begins_out_of_reach(config, networks.task):
        squashed = 'MLP(distribution="tanh_gaussian") covers them'
        lines.append(f"actions            begin around 0 with deviation 1, far from most of the box; {squashed}")
    if config.normalize_advantage and config.minibatch_size == 1:
        lines.append("advantages         not standardised: each minibatch has only one")
    if not networks.task.tells_truncation:
        lines.append("time limits        taken as terminations: the environment's step gives five values, not six")
    return "\n".join(lines)


def _begins_out_of_reach(config: Config, task: Task) -> bool:
    """Whether the policy is a Gaussian that begins where hardly any of the actions are."""
    network = config.network
    is_gaussian = isinstance(network, Network) and distribution_for(task.action_kind, network.distribution)
    return is_gaussian is DiagGaussian and is_out_of_reach(task.action_space)


def num_parameters(config: Config) -> int:
    """Weights and biases of both networks."""
    return sum(leaf.size for leaf in jax.tree.leaves(trained(_state(config).params)[0]))


def num_bytes(config: Config) -> int:
    """Bytes of one agent's training: its state, a rollout, the batch, and the activations of one gradient.

    The activations are what the gradient of the networks on a microbatch keeps of their forward pass, whatever the
    networks are.
    """
    networks, state = bind(config), _state(config)
    _, transitions, batch = jax.eval_shape(partial(collect, config), state, state.key)
    num_samples = config.num_envs if networks.is_recurrent else config.batch_size
    rows = network_rows(config, num_samples // config.num_minibatches)
    if not networks.is_recurrent:
        rows = networks.microbatch_size(state.params, rows)
    part = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((rows, *leaf.shape[1:]), leaf.dtype), batch)

    def residuals(params: Any, part: Any) -> Any:
        agent = state.agent._replace(params=params)
        evaluate = partial(networks.evaluate_actions, obs=part.obs, action=part.action, done=part.done)
        return jax.vjp(lambda params: evaluate(agent._replace(params=params), memory=part.memory), params)[1]

    kept = jax.eval_shape(residuals, state.params, part)
    return sum(map(_num_bytes, (state, transitions, batch, kept)))


def flops_per_step(config: Config) -> float:
    """Estimate the FLOPs of the networks for one environment step, a multiply-add being two.

    With `W` weights that are multiplied, in both networks, and `E` epochs::

        2 W (1 + 3 E)

    one forward pass in the rollout, and per epoch one forward pass and one backward pass, which counts as two. For
    CartPole-v1, 64x64 towers and 4 epochs: 2 * 8896 * (1 + 3 * 4) = 231,296. With `kl_coef`, the policy and its
    reference read the rollout once more, which counts as another forward pass of both networks.

    For networks other than the fully connected ones, XLA counts the forward pass in place of `2 W`.

    Biases, activations, the optimiser and the extra value of the successor state are not counted. The gradient by
    the network's input is, although nobody needs it: 2 E W_0 too many, `W_0` being the first layers' weights.

    Where the policy is a table of `S` rows, only what the table needs is counted: `S` rows forward once per rollout,
    and `S` rows forward and backward once per gradient step, divided by the steps of an update.
    """
    num_readings = 1 if config.kl_coef is None else 2
    rollout_rows = num_readings * network_rows(config, config.batch_size)
    gradient_rows = network_rows(config, config.minibatch_size) * config.num_minibatches * config.num_epochs
    return _forward_flops(config) * (rollout_rows + 3 * gradient_rows) / config.batch_size


def network_rows(config: Config, num_samples: int) -> int:
    """On how many inputs the networks are evaluated for `num_samples` samples."""
    networks = bind(config)
    num_observations = networks.task.num_observations
    return num_observations if num_observations is not None and networks.uses_table(num_samples) else num_samples


def multiplied_weights(config: Config) -> int:
    """Numbers in the kernels of fully connected networks, without those that are looked up rather than multiplied.

    That is the first layers' kernels, where the input is an integer in place of a one-hot vector.
    """
    layers = jax.tree.leaves(_state(config).params, is_leaf=lambda x: isinstance(x, Dense))
    kernels = [layer.kernel.shape for layer in layers if isinstance(layer, Dense)]
    x = jax.eval_shape(bind(config).network_input, bind(config).task.obs_spec)
    looked_up = bind(config).task.num_observations if jnp.issubdtype(x.dtype, jnp.integer) else None
    return sum(math.prod(shape) for shape in kernels if shape[0] != looked_up)


def _forward_flops(config: Config) -> float:
    """FLOPs of the networks for one observation."""
    if type(config.network) is MLP:
        return 2 * multiplied_weights(config)
    state = _state(config)
    rows = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((1, *leaf.shape[1:]), leaf.dtype), state.runners)
    program = jax.jit(bind(config).step).lower(state.agent, rows.obs, rows.memory)
    return float((program.cost_analysis() or {}).get("flops", 0.0))


def _state(config: Config) -> Any:
    """The shapes and dtypes of a training's state."""
    return jax.eval_shape(partial(init, config), jax.random.key(0))


def _num_bytes(tree: Any) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
