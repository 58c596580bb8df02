"""Agents that are given by a table instead of by training."""

import jax
import jax.numpy as jnp

from purejaxppo import Config, GridWorld, init
from purejaxppo.networks import MLP
from purejaxppo.networks.layers import Dense

RIGHT, LEFT = [0.0, 50.0, 0.0, 0.0], [0.0, 0.0, 0.0, 50.0]  # logits of a policy that always goes there


def agent(layout, logits, value=0.0, **settings):
    """`(config, state)` of an agent on a map with these logits `[A]` or `[S, A]` and values `[]` or `[S]`."""
    sizes: dict = {"num_envs": 2, "num_steps": 4, "total_timesteps": 8, "network": MLP(hidden_sizes=())}
    config = Config(env=GridWorld(layout), **sizes, **settings)
    num_cells = len(config.env.map.symbol)

    def layer(table, width):
        kernel = jnp.broadcast_to(jnp.asarray(table, jnp.float32), (num_cells, width))
        return Dense(kernel, jnp.zeros(width))

    value = jnp.broadcast_to(jnp.asarray(value, jnp.float32), num_cells)[:, None]
    state = init(config, jax.random.key(0))
    networks = state.params["params"]["networks"]._replace(policy=layer(logits, 4), value=layer(value, 1))
    return config, state._replace(params={"params": {"networks": networks}})
