"""Proximal Policy Optimization in JAX: environment, rollout, advantages and update in one compiled program."""

from purejaxppo import late  # noqa: F401, first, see there

# isort: split
from purejaxppo import planning
from purejaxppo.advantages import gae
from purejaxppo.config import Config
from purejaxppo.costs import describe
from purejaxppo.distributions import Categorical, DiagGaussian, Distribution, MultiCategorical, TanhGaussian
from purejaxppo.environments import (
    Environment,
    GridWorld,
    GridWorldParams,
    check_env,
)
from purejaxppo.evaluation import act, act_with_memory, evaluate, optimality
from purejaxppo.fields import ConfigError
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
