"""PureJaxRL's runner: `make_train` of the checkout's own `purejaxrl/ppo.py`, unchanged."""

import sys
from types import ModuleType
from typing import Any

import gymnax
import gymnax_gridworld
import jax
import numpy as np
from compiling import ahead_of_time
from protocol import Outcome, Task, Training, serve


def import_ppo(checkout: str) -> ModuleType:
    """The checkout's module.

    Its `wrappers.py` imports brax and navix for wrappers that are not used here. Empty modules stand in for them:
    they have no part in the training, and installing them would tie the versions of all the rest.
    """
    for name in ("brax", "brax.envs", "brax.envs.wrappers", "brax.envs.wrappers.training", "navix"):
        sys.modules[name] = ModuleType(name)
    sys.modules["brax"].envs = sys.modules["brax.envs"]
    wrappers = sys.modules["brax.envs.wrappers.training"]
    wrappers.EpisodeWrapper = wrappers.AutoResetWrapper = None
    gymnax.make = gymnax_gridworld.make
    sys.path.insert(0, f"{checkout}/purejaxrl")
    import ppo

    return ppo


def prepare(task: Task) -> Training:
    assert tuple(task.hidden_sizes) == (64, 64), "its networks have two hidden layers of 64"
    assert task.adam_eps == 1e-5, "its Adam has eps=1e-5"
    config = {
        "ENV_NAME": task.env,
        "TOTAL_TIMESTEPS": task.timesteps,
        "NUM_ENVS": task.num_envs,
        "NUM_STEPS": task.num_steps,
        "UPDATE_EPOCHS": task.num_epochs,
        "NUM_MINIBATCHES": task.num_minibatches,
        "ACTIVATION": "tanh",
        "ANNEAL_LR": True,
        "LR": task.lr,
        "GAMMA": task.gamma,
        "GAE_LAMBDA": task.gae_lambda,
        "CLIP_EPS": task.clip_eps,
        "VF_COEF": task.vf_coef,
        "ENT_COEF": task.ent_coef,
        "MAX_GRAD_NORM": task.max_grad_norm,
    }

    def outcome(outputs: dict[str, Any]) -> Outcome:
        infos = outputs["metrics"]  # of every step: [seeds, updates, T, N]
        steps = int(np.sum(np.asarray(infos["timestep"])[..., -1, -1, :], dtype=int))
        ended, returns = np.asarray(infos["returned_episode"]), np.asarray(infos["returned_episode_returns"])
        return Outcome(steps, list(map(mean_return, ended, returns)) if task.curve else None)

    ppo = import_ppo(str(task.checkout))
    if task.num_seeds is not None:
        # QR decompositions mapped over seeds deadlock in jaxlib's pool of threads on a CPU with few cores: no training
        # would ever end. Random matrices of the same scale take less time, if anything.
        ppo.orthogonal = lambda scale: jax.nn.initializers.variance_scaling(scale**2, "fan_in", "normal")
    return ahead_of_time(task, ppo.make_train(config), outcome)


def mean_return(ended: np.ndarray, returns: np.ndarray) -> float | None:
    """Mean return of the episodes that ended in an update, None if none did."""
    return float(returns[ended].mean()) if ended.any() else None


if __name__ == "__main__":
    serve(prepare, ("jax", "jaxlib", "flax", "optax", "gymnax", "distrax", "numpy"), "purejaxrl/ppo.py")
