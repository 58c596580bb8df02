"""Training with Stable-Baselines3's interface, which SBX shares; needs gymnasium and Stable-Baselines3."""

import numpy as np
import torch
from gymnasium_gridworld import env_id
from protocol import Outcome, Task, Training
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env


class Curve(BaseCallback):
    """The mean return of the episodes that ended in each update."""

    def __init__(self) -> None:
        super().__init__()
        self.returns: list[float | None] = []
        self.ended: list[float] = []

    def _on_step(self) -> bool:
        self.ended += [info["episode"]["r"] for info in self.locals["infos"] if "episode" in info]
        return True

    def _on_rollout_end(self) -> None:
        self.returns.append(float(np.mean(self.ended)) if self.ended else None)
        self.ended = []


def prepare(task: Task, algorithm: type[BaseAlgorithm]) -> Training:
    """The task for a PPO with this interface.

    Where only the speed counts, one model is made before the clock starts and every call goes on training it: SBX
    compiles anew for every model.
    """
    assert task.adam_eps == 1e-5, "its policy's Adam has eps=1e-5"
    # On two cores a second thread gains nothing with networks of this size, and costs up to 30 times the time where
    # something else runs beside it: the threads wait for each other.
    torch.set_num_threads(1)

    def make(seed: int) -> BaseAlgorithm:
        return algorithm(
            "MlpPolicy",
            make_vec_env(env_id(task.env), task.num_envs, seed=seed),
            # What remains is counted at the end of a rollout; ours begins at the full rate.
            learning_rate=lambda remaining: task.lr * (remaining + 1 / task.updates),
            n_steps=task.num_steps,
            batch_size=task.batch_size // task.num_minibatches,
            n_epochs=task.num_epochs,
            gamma=task.gamma,
            gae_lambda=task.gae_lambda,
            clip_range=task.clip_eps,
            vf_coef=task.vf_coef / 2,  # it is the weight of the mean squared error, not of half of it
            ent_coef=task.ent_coef,
            max_grad_norm=task.max_grad_norm,
            policy_kwargs={"net_arch": list(task.hidden_sizes)},  # tanh is the default
            seed=seed,
            device="cpu",
        )

    made = None if task.curve else make(0)

    def run(seed: int) -> tuple[BaseAlgorithm, Curve | None]:
        model, curve = (make(seed), Curve()) if made is None else (made, None)
        return model.learn(task.timesteps, callback=curve), curve

    def outcome(outputs: tuple[BaseAlgorithm, Curve | None]) -> Outcome:
        model, curve = outputs
        return Outcome(model.num_timesteps, curve and curve.returns)

    return Training(run, outcome)
