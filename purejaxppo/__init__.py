"""Proximal Policy Optimization in JAX: environment, rollout, advantages and update in one compiled program.

- Train: `Config`, `preset`, `describe`, `train`, its halves `init` and `update`, `TrainState`; `ConfigError`.
- What was learned: `act`, `act_with_memory`, `evaluate`, and `optimality` against the exact solution.
- Environments: `GridWorld`, `GridWorldParams`; to bring your own, `Environment` and `check_env`.
- Networks: yours give a `Distribution` (`Categorical`, `MultiCategorical`, `DiagGaussian`, `TanhGaussian`) and a value;
  one with a memory derives from `Recurrent`.
- The maths, on arrays alone: `gae`, `ppo_loss` of a `Batch`, `explained_variance`, `random_permutation`, `planning`.

Runs with files, sweeps, reports and pictures are in `purejaxppo.experiment`, which is imported by itself.
"""

from purejaxppo import _lazy  # noqa: F401, first, see there

# isort: split
from purejaxppo import planning
from purejaxppo.advantages import gae
from purejaxppo.config import Config
from purejaxppo.costs import describe
from purejaxppo.distributions import Categorical, DiagGaussian, Distribution, MultiCategorical, TanhGaussian
from purejaxppo.environments import Environment, GridWorld, GridWorldParams, check_env
from purejaxppo.errors import ConfigError
from purejaxppo.evaluation import act, act_with_memory, evaluate, optimality
from purejaxppo.losses import Batch, explained_variance, ppo_loss
from purejaxppo.networks import Recurrent
from purejaxppo.ppo import TrainState, init, train, update
from purejaxppo.presets import preset
from purejaxppo.shuffling import random_permutation

__all__ = [
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
    "Recurrent",
    "TanhGaussian",
    "TrainState",
    "act",
    "act_with_memory",
    "check_env",
    "describe",
    "evaluate",
    "explained_variance",
    "gae",
    "init",
    "optimality",
    "planning",
    "ppo_loss",
    "preset",
    "random_permutation",
    "train",
    "update",
]
