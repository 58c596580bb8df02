"""navix's runner, on the gridworlds alone, behind navix's own interface and with one-hot observations."""

from typing import Any

import gridworlds
import jax
import jax.numpy as jnp
import numpy as np
from compiling import ahead_of_time
from flax import struct
from navix.agents import PPO, PPOHparams
from navix.agents.models import ActorCritic
from navix.environments import Environment
from navix.environments.environment import Timestep
from navix.observations import none
from navix.spaces import Continuous, Discrete
from protocol import GRIDWORLDS, Outcome, Task, Training, serve


class State(struct.PyTreeNode):
    """What navix's own reset asks of a state, and the cell."""

    key: jax.Array
    cell: jax.Array
    cache: None = None


class GridWorld(Environment):
    """A map that comes with purejaxppo; the reset after an episode, which takes a step, is navix's."""

    map: str = struct.field(pytree_node=False, default="")

    @property
    def tables(self) -> gridworlds.Tables:
        return gridworlds.tables(self.map)

    def _reset(self, key: jax.Array, cache: None = None) -> Timestep:
        cell = jax.random.choice(key, jnp.asarray(self.tables.starts))
        zero = jnp.zeros((), jnp.int32)
        return Timestep(zero, self.observe(cell), zero, jnp.zeros(()), zero, State(key, cell))

    def _step(self, timestep: Timestep, action: jax.Array) -> Timestep:
        cell = jnp.asarray(self.tables.next_cell)[timestep.state.cell, action]
        reward, t = jnp.asarray(self.tables.reward)[cell], timestep.t + 1
        terminated = jnp.asarray(self.tables.terminal)[cell]
        step_type = jnp.where(terminated, 2, jnp.where(t >= self.max_steps, 1, 0)).astype(jnp.int32)
        info = {"return": timestep.info["return"] + reward}
        return Timestep(t, self.observe(cell), action, reward, step_type, timestep.state.replace(cell=cell), info)

    def observe(self, cell: jax.Array) -> jax.Array:
        return jax.nn.one_hot(cell, len(self.tables.reward), dtype=jnp.float32)


def environment(task: Task) -> GridWorld:
    size = len(gridworlds.tables(task.env).reward)
    return GridWorld.create(
        height=1,
        width=size,
        max_steps=gridworlds.MAX_STEPS,
        observation_fn=none,
        observation_space=Continuous.create((size,), jnp.asarray(0.0), jnp.asarray(1.0)),
        action_space=Discrete.create(len(gridworlds.MOVES)),
        gamma=task.gamma,
        map=task.env,
    )


def prepare(task: Task) -> Training:
    assert task.env in GRIDWORLDS, "the other environments do not have navix's interface"
    assert tuple(task.hidden_sizes) == (64, 64), "its networks have two hidden layers of 64"
    assert task.adam_eps == 1e-5, "its Adam has eps=1e-5"
    hparams = PPOHparams(
        budget=task.timesteps,
        num_envs=task.num_envs,
        num_steps=task.num_steps,
        num_minibatches=task.num_minibatches,
        num_epochs=task.num_epochs,
        gae_lambda=task.gae_lambda,
        clip_eps=task.clip_eps,
        ent_coef=task.ent_coef,
        vf_coef=task.vf_coef,
        max_grad_norm=task.max_grad_norm,
        lr=task.lr,
        clip_value_loss=False,
        debug=False,
        log_render=False,
    )
    agent = PPO(hparams=hparams, network=ActorCritic(len(gridworlds.MOVES)), env=environment(task))

    def outcome(outputs: tuple[Any, dict[str, Any]]) -> Outcome:
        state, _ = outputs
        return Outcome(int(np.sum(np.asarray(state.frames), dtype=int)))

    return ahead_of_time(task, agent.train, outcome)


if __name__ == "__main__":
    serve(prepare, ("navix", "rlax", "jax", "jaxlib", "flax", "optax", "distrax", "numpy"))
