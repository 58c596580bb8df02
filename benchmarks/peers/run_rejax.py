"""rejax's runner."""

from typing import Any

import jax
import numpy as np
import rejax
from compiling import ahead_of_time
from gymnax_gridworld import make
from protocol import Outcome, Task, Training, serve


def algorithm(task: Task) -> rejax.PPO:
    """The task in rejax's words."""
    env, env_params = make(task.env)

    def annealed(count: jax.Array) -> jax.Array:
        """rejax hands its learning rate to optax as it is, so a schedule will do; it steps down once per update."""
        return task.lr * (1.0 - (count // task.gradient_steps) / task.updates)

    return rejax.PPO.create(
        env=env,
        env_params=env_params,
        agent_kwargs={"hidden_layer_sizes": tuple(task.hidden_sizes), "activation": "tanh"},
        num_envs=task.num_envs,
        num_steps=task.num_steps,
        num_epochs=task.num_epochs,
        num_minibatches=task.num_minibatches,
        total_timesteps=task.timesteps,
        eval_freq=task.timesteps,
        skip_initial_evaluation=True,
        learning_rate=annealed,
        gamma=task.gamma,
        gae_lambda=task.gae_lambda,
        clip_eps=task.clip_eps,
        vf_coef=task.vf_coef,
        ent_coef=task.ent_coef,
        max_grad_norm=task.max_grad_norm,
    )


def prepare(task: Task) -> Training:
    algo = algorithm(task)
    silent = algo.replace(eval_callback=lambda algo, state, key: ())

    # It knows its agents' returns from evaluations alone. They do not touch the training, so that the same key gives
    # the same agents, and the training that is timed does without them.
    @jax.jit
    def curve(key: jax.Array) -> jax.Array:
        _, (_, returns) = algo.replace(eval_freq=task.batch_size).train(key)
        return returns.mean(axis=1)

    def outcome(outputs: tuple[jax.Array, Any]) -> Outcome:
        key, state = outputs
        steps = int(np.sum(np.asarray(state.global_step), dtype=int))
        return Outcome(steps, curve(key).tolist() if task.curve else None)

    return ahead_of_time(task, lambda key: (key, silent.train(key)[0]), outcome)


if __name__ == "__main__":
    serve(prepare, ("rejax", "jax", "jaxlib", "flax", "optax", "gymnax", "distrax", "numpy"))
