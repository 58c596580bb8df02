"""Proximal Policy Optimization in JAX: environment, rollout, advantages and update in one compiled program.

- Train: `Config`, `preset`, `describe`, `train`, its halves `init` and `update`, `TrainState`.
- What was learned: `act`, `evaluate`, and `optimality` against the exact solution.
- Environments: `GridWorld` with `GridWorldParams`, `TokenTree` with `TokenTreeParams`; to bring your own, `Environment`
  and `check_env`.
- Networks: `MLP`, `CNN`, `GRU`; yours give a `Distribution` (`Categorical`, `MultiCategorical`, `DiagGaussian`,
  `TanhGaussian`) and a value; one with a memory derives from `Recurrent`.
- Your own update: `collect` and `learn` are the halves of `update`; `rollout` (any `Policy` in any `Task`) and
  `minimize` (any loss) are their parts; `Algorithm` and `PPO` are what `purejaxppo.experiment` runs.
- The maths, on arrays alone: `gae`, `ppo_loss` of a `Batch`, `explained_variance`, `random_permutation`, `planning`.
- Errors: `PurejaxppoError`, of which `ConfigError` and `RunError` are kinds.

Runs with files, sweeps, reports and pictures are in `purejaxppo.experiment`, which is imported by itself.
"""

from purejaxppo import _starting  # noqa: F401, first, see there

# isort: split
from purejaxppo import _lazy  # noqa: F401, before gymnax, see there

# isort: split
from purejaxppo import planning
from purejaxppo.acting import Policy, rollout
from purejaxppo.advantages import gae
from purejaxppo.algorithms import PPO, Algorithm
from purejaxppo.config import Config
from purejaxppo.costs import describe
from purejaxppo.distributions import Categorical, DiagGaussian, Distribution, MultiCategorical, TanhGaussian
from purejaxppo.environments import Environment, GridWorld, GridWorldParams, Task, TokenTree, TokenTreeParams, check_env
from purejaxppo.errors import ConfigError, PurejaxppoError, RunError
from purejaxppo.evaluation import act, evaluate, optimality
from purejaxppo.learning import minimize
from purejaxppo.losses import Batch, explained_variance, ppo_loss
from purejaxppo.networks import CNN, GRU, MLP, Recurrent
from purejaxppo.ppo import TrainState, collect, init, learn, train, update
from purejaxppo.presets import preset
from purejaxppo.shuffling import random_permutation

__all__ = [
    "CNN",
    "GRU",
    "MLP",
    "PPO",
    "Algorithm",
    "Batch",
    "Categorical",
    "Config",
    "ConfigError",
    "DiagGaussian",
    "Distribution",
    "Environment",
    "GridWorld",
    "GridWorldParams",
    "MultiCategorical",
    "Policy",
    "PurejaxppoError",
    "Recurrent",
    "RunError",
    "TanhGaussian",
    "Task",
    "TokenTree",
    "TokenTreeParams",
    "TrainState",
    "act",
    "check_env",
    "collect",
    "describe",
    "evaluate",
    "explained_variance",
    "gae",
    "init",
    "learn",
    "minimize",
    "optimality",
    "planning",
    "ppo_loss",
    "preset",
    "random_permutation",
    "rollout",
    "train",
    "update",
]
