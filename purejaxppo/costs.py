"""What a configuration will take, told before it runs."""

from functools import partial
from typing import Any

import jax

from purejaxppo.acting import environment, rollout, uses_table
from purejaxppo.config import Config
from purejaxppo.environments import interface
from purejaxppo.ppo import init


def describe(config: Config) -> str:
    """The size of a training run in words: updates, gradient steps, minibatch size, memory; nothing is compiled.

    It says what would otherwise go unnoticed: steps that do not fill a batch, an environment that cannot tell a time
    limit from a termination, a policy that is tabulated.
    """
    env, env_params = environment(config)
    lines = [
        f"environment        {config.env}",
        f"updates            {config.num_updates:,} x {config.batch_size:,} steps "
        f"({config.num_envs:,} environments x {config.num_steps:,} steps)",
        f"gradient steps     {config.num_updates * config.num_epochs * config.num_minibatches:,} "
        f"({config.num_epochs} epochs x {config.num_minibatches} minibatches of {config.minibatch_size:,} per update)",
        f"parameters         {num_parameters(config):,}",
        f"memory             about {_megabytes(config):,.1f} MB per agent",
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
    state = jax.eval_shape(partial(init, config), jax.random.key(0))
    return sum(leaf.size for leaf in jax.tree.leaves(state.params))


def _megabytes(config: Config) -> float:
    """The state, a rollout, and the batch with one shuffled minibatch and its activations."""
    state = jax.eval_shape(partial(init, config), jax.random.key(0))
    _, transitions = jax.eval_shape(partial(rollout, config), state.params, state.runners, state.key)
    rows = interface.num_observations(environment(config)[0]) or 0
    rows = rows if uses_table(config, config.minibatch_size) else config.minibatch_size
    activations = 4 * rows * sum(config.hidden_sizes) * 4  # two towers, forward and backward, 4 bytes
    return (_num_bytes(state) + 2 * _num_bytes(transitions) + activations) / 1e6


def _num_bytes(tree: Any) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
