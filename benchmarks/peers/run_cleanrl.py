"""CleanRL's runner: the checkout's own `cleanrl/ppo.py`, run as the script that it is."""

import contextlib
import io
import os
import re
import runpy
import sys
import tempfile
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium_gridworld import env_id
from protocol import Outcome, Task, Training, serve
from torch.utils.tensorboard import SummaryWriter  # noqa: F401 (so that importing is not part of the first training)

SCRIPT = "cleanrl/ppo.py"


def prepare(task: Task) -> Training:
    assert tuple(task.hidden_sizes) == (64, 64), "its networks have two hidden layers of 64"
    assert task.adam_eps == 1e-5, "its Adam has eps=1e-5"
    torch.set_num_threads(1)  # as in `baselines.py`
    flags = {
        "env-id": env_id(task.env),
        "total-timesteps": task.timesteps,
        "num-envs": task.num_envs,
        "num-steps": task.num_steps,
        "update-epochs": task.num_epochs,
        "num-minibatches": task.num_minibatches,
        "learning-rate": task.lr,
        "gamma": task.gamma,
        "gae-lambda": task.gae_lambda,
        "clip-coef": task.clip_eps,
        "vf-coef": task.vf_coef,
        "ent-coef": task.ent_coef,
        "max-grad-norm": task.max_grad_norm,
    }
    script = os.path.join(os.path.abspath(str(task.checkout)), SCRIPT)

    def run(seed: int) -> tuple[dict[str, Any], str]:
        clip = "--clip-vloss" if task.clip_value else "--no-clip-vloss"
        sys.argv = [SCRIPT, "--no-cuda", clip, f"--seed={seed}", *(f"--{k}={v}" for k, v in flags.items())]
        printed = io.StringIO()
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(printed):
            os.chdir(folder)  # it writes its logs into the working directory
            variables = runpy.run_path(script, run_name="__main__")
            os.chdir("/")
        return variables, printed.getvalue()

    def outcome(outputs: tuple[dict[str, Any], str]) -> Outcome:
        variables, printed = outputs
        curve = returns(task, printed) if task.curve else None
        greedy = greedy_return(task, variables["agent"]) if task.episodes else None
        return Outcome(variables["global_step"], curve, greedy)

    return Training(run, outcome)


def returns(task: Task, printed: str) -> list[float | None]:
    """The mean return of the episodes that ended in each update, from what the script printed of each episode."""
    ended: list[list[float]] = [[] for _ in range(task.updates)]
    for step, value in re.findall(r"global_step=(\d+), episodic_return=\[(.*?)\]", printed):
        ended[(int(step) - 1) // task.batch_size].append(float(value))
    return [float(np.mean(values)) if values else None for values in ended]


def greedy_return(task: Task, agent: Any) -> float:
    """The mean return of so many episodes, in which the most probable action is taken."""
    env, total = gymnasium.make(env_id(task.env)), 0.0
    for seed in range(task.episodes):
        obs, _ = env.reset(seed=seed)
        ended = False
        while not ended:
            with torch.no_grad():
                action = int(agent.actor(torch.as_tensor(obs, dtype=torch.float32)).argmax())
            obs, reward, terminated, truncated, _ = env.step(action)
            total, ended = total + float(reward), terminated or truncated
    return total / task.episodes


if __name__ == "__main__":
    serve(prepare, ("torch", "gymnasium", "tensorboard", "numpy"), SCRIPT)
