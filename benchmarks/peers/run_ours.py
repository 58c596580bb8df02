"""purejaxppo's own runner."""

import jax
import numpy as np
from compiling import ahead_of_time
from protocol import GRIDWORLDS, Outcome, Task, Training, serve

from purejaxppo import MLP, Config, GridWorld, train


def config_of(task: Task) -> Config:
    """The task in our words. The gridworlds offer every move, as those of the peers do."""
    return Config(
        env=GridWorld(task.env, mask_blocked=False) if task.env in GRIDWORLDS else task.env,
        total_timesteps=task.timesteps,
        num_envs=task.num_envs,
        num_steps=task.num_steps,
        num_epochs=task.num_epochs,
        num_minibatches=task.num_minibatches,
        network=MLP(hidden_sizes=tuple(task.hidden_sizes)),
        lr=task.lr,
        gamma=task.gamma,
        gae_lambda=task.gae_lambda,
        clip_eps=task.clip_eps,
        vf_coef=task.vf_coef,
        ent_coef=task.ent_coef,
        max_grad_norm=task.max_grad_norm,
        clip_value=task.clip_value,
    )


def prepare(task: Task) -> Training:
    def outcome(outputs: tuple) -> Outcome:
        state, metrics = outputs
        steps = int(np.sum(np.asarray(state.num_updates), dtype=int)) * task.batch_size
        returns = [None if np.isnan(value) else float(value) for value in np.asarray(metrics["episode_return"]).flat]
        return Outcome(steps, returns if task.curve else None)

    return ahead_of_time(task, train, outcome, jax.random.key, (config_of(task),))


if __name__ == "__main__":
    serve(prepare, ("purejaxppo", "jax", "jaxlib", "flax", "optax", "gymnax", "numpy"))
