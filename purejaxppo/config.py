"""The configuration of a training run."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jax.core import Tracer

from purejaxppo import environments, networks
from purejaxppo.advantages import ADVANTAGES, Advantage
from purejaxppo.environments import Environment, make_task
from purejaxppo.errors import ConfigError
from purejaxppo.networks import Network, Recurrent
from purejaxppo.optimizers import OPTIMIZERS, MakeOptimizer
from purejaxppo.planning import HORIZON
from purejaxppo.schedules import SCHEDULES, Schedule
from purejaxppo.settings import (
    COUNT,
    LARGE_COUNT,
    NON_NEGATIVE,
    POSITIVE,
    SWITCH,
    UNIT_INTERVAL,
    WHOLE,
    Constraint,
    Number,
    Settings,
    check_kind,
    one_of,
    optional,
    static,
    traced,
)

ABOVE_1 = Constraint("a finite number > 1", lambda x: x > 1)
SCHEDULE = one_of(*SCHEDULES, or_else="a module-level function of progress")
NAMES = Constraint(
    "a sequence of words", lambda x: isinstance(x, tuple | list) and all(isinstance(y, str) for y in x), number=None
)


class Config(Settings):
    """Everything that decides a training run, validated on construction.

    Static fields shape the program; traced fields are data, shared by one program and mapped over by `jax.vmap`.
    The defaults follow CleanRL's `ppo.py` (Huang et al., 2022).

    Raises:
        ConfigError: a field is unknown or its value is not allowed. Tracers are not checked.
    """

    env: str | Environment = static("GridWorld-treasure", "environment: an id, or the path of a map (*.txt)")
    env_params: Any = traced(None, "parameters of the environment; its defaults where none are given")
    reset_pool: int = static(0, "fresh episodes per update to restart from; 0: each step resets", WHOLE)

    total_timesteps: int = static(500_000, "environment steps in all, over all environments of one agent", LARGE_COUNT)
    num_envs: int = static(4, "environments that one agent steps in parallel (N)", COUNT)
    num_steps: int = static(128, "steps of each environment per update (T)", COUNT)
    num_epochs: int = static(4, "passes over the batch per update", COUNT)
    num_minibatches: int = static(4, "minibatches per epoch", COUNT)

    network: str | Network | nn.Module = static(
        "mlp", "networks: mlp, cnn, gru, or from Python MLP(...), a flax module"
    )
    optimizer: str | MakeOptimizer = static(
        "adam",
        f"one of {', '.join(OPTIMIZERS)}, or from Python a function from a learning rate to an optax optimiser",
        one_of(*OPTIMIZERS, or_else="a module-level function from a learning rate to an optax optimiser"),
    )
    advantage: str | Advantage = static(
        "gae",
        "advantage estimator: gae, or from Python a function with its arguments",
        one_of(*ADVANTAGES, or_else="a module-level function with the arguments of gae"),
    )

    normalize_obs: bool = static(False, "standardise observations by running statistics", SWITCH)
    normalize_reward: bool = static(False, "divide rewards by the spread of the discounted returns", SWITCH)
    normalize_advantage: bool = static(True, "standardise the advantages of each minibatch of two or more", SWITCH)
    clip_value: bool = static(True, "clip the change of the value like the ratio", SWITCH)
    exact_return: bool = static(False, "add the exact expected return to the metrics of every update", SWITCH)
    info: Sequence[str] = static(
        (), "numbers in the environment's info that are metrics: means at episodes' ends", NAMES
    )

    lr: Number = traced(2.5e-4, "learning rate", POSITIVE)
    lr_schedule: str | Schedule = static("linear", "schedule from lr to lr_end", SCHEDULE)
    lr_end: Number = traced(0.0, "learning rate at the end", NON_NEGATIVE)
    gamma: Number = traced(0.99, "discount factor", UNIT_INTERVAL)
    gae_lambda: Number = traced(0.95, "lambda of generalised advantage estimation", UNIT_INTERVAL)
    clip_eps: Number = traced(0.2, "how far the ratio may move from 1 before it is clipped", POSITIVE)
    clip_eps_schedule: str | Schedule = static("constant", "schedule from clip_eps to clip_eps_end", SCHEDULE)
    clip_eps_end: Number = traced(0.0, "clip range at the end", NON_NEGATIVE)
    vf_coef: Number = traced(0.5, "weight of the value loss", NON_NEGATIVE)
    ent_coef: Number = traced(0.01, "weight of the entropy bonus", NON_NEGATIVE)
    ent_coef_schedule: str | Schedule = static("constant", "schedule from ent_coef to ent_coef_end", SCHEDULE)
    ent_coef_end: Number = traced(0.0, "weight of the entropy bonus at the end", NON_NEGATIVE)
    max_grad_norm: Number = traced(0.5, "global norm to which gradients are clipped", POSITIVE)
    target_kl: Number | None = traced(None, "approximate KL beyond which the update stops", optional(POSITIVE))
    kl_coef: Number | None = traced(
        None, "price of a nat by which the policy strays from that at the beginning", optional(POSITIVE)
    )
    dual_clip: Number | None = traced(None, "bound of the ratio where the advantage is negative", optional(ABOVE_1))
    huber_delta: Number | None = traced(None, "error from which on the value loss is linear", optional(POSITIVE))

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "env", environments.resolve(self.env))
        object.__setattr__(self, "network", networks.resolve(self.network))
        object.__setattr__(self, "info", tuple(self.info))
        environments.check_supported(environments.make(self.env), self.env_params)
        self.check_unchanged()
        self._check_environment()
        self._check_network()
        self._check_schedules()
        self._check_sizes()

    def check_unchanged(self) -> None:
        environments.check_unchanged(self.env)

    def _check_environment(self) -> None:
        """Refuse options that the environment cannot have."""
        task = make_task(self.env)
        horizon = getattr(self.env_params, "max_steps_in_episode", 1)
        is_fine = isinstance(horizon, Tracer) or np.all(HORIZON.test(np.asarray(horizon)))
        if not is_fine and environments.is_tabular(task.env):
            raise ConfigError.of("env_params.max_steps_in_episode", horizon, HORIZON.text)
        if self.exact_return and not environments.is_tabular(task.env):
            raise ConfigError.of("exact_return", True, f"False: no model is known of env={self.env!r}")
        if self.normalize_obs and task.num_observations is not None:
            raise ConfigError.of("normalize_obs", True, f"False: the observations of env={self.env!r} are indices")
        if self.reset_pool and not task.can_restart:
            raise ConfigError.of("reset_pool", self.reset_pool, f"0: env={self.env!r} has no step without a reset")
        if self.info:
            task.check_info(self.info)
        if self.kl_coef is not None and "kl" in self.info:
            raise ConfigError.of("info", self.info, "without kl, which is a metric of its own with kl_coef")

    def _check_network(self) -> None:
        """Refuse a network that does not fit."""
        network, task = self.network, make_task(self.env)
        if isinstance(network, Network):
            network.check(task.action_kind, task.observation_space)
        has_memory = network.is_recurrent if isinstance(network, Network) else isinstance(network, Recurrent)
        if has_memory and self.num_envs % self.num_minibatches:
            allowed = f"a divisor of num_envs = {self.num_envs}, as a network with a memory learns from sequences"
            raise ConfigError.of("num_minibatches", self.num_minibatches, allowed)

    def _check_schedules(self) -> None:
        """Refuse ends that no schedule goes to."""
        for name in ("lr", "clip_eps", "ent_coef"):
            end = getattr(self, f"{name}_end")
            if getattr(self, f"{name}_schedule") == "constant" and not isinstance(end, Tracer) and np.any(end):
                raise ConfigError.of(f"{name}_end", end, f"0 unless {name}_schedule goes to it")

    def _check_sizes(self) -> None:
        """Refuse sizes that do not fit together."""
        if self.batch_size >= 2**31:
            raise ConfigError.of("num_envs", self.num_envs, f"below 2**31 / num_steps = {2**31 // self.num_steps}")
        if self.batch_size % self.num_minibatches:
            allowed = f"a divisor of num_envs * num_steps = {self.batch_size}"
            raise ConfigError.of("num_minibatches", self.num_minibatches, allowed)
        if self.total_timesteps < self.batch_size:
            allowed = f"at least num_envs * num_steps = {self.batch_size}, one update"
            raise ConfigError.of("total_timesteps", self.total_timesteps, allowed)
        if self.num_updates >= 2**31:
            allowed = f"below 2**31 updates of num_envs * num_steps = {self.batch_size}, {2**31 * self.batch_size}"
            raise ConfigError.of("total_timesteps", self.total_timesteps, allowed)

    @property
    def batch_size(self) -> int:
        """Environment steps per update, N * T."""
        return self.num_envs * self.num_steps

    @property
    def minibatch_size(self) -> int:
        """Samples per gradient step."""
        return self.batch_size // self.num_minibatches

    @property
    def num_updates(self) -> int:
        """Whole updates that fit into `total_timesteps`; the rest, less than one batch, is not trained."""
        return self.total_timesteps // self.batch_size


def check_config(config: Any) -> None:
    """Refuse what is not one configuration, and a setting of JAX's with which nothing can be trained.

    Raises:
        ConfigError: it is none, a traced field holds many numbers, or `jax_debug_nans` is set.
    """
    check_kind("config", config, Config)
    numbers = [f.name for f in dataclasses.fields(config) if not f.metadata["static"] and f.name != "env_params"]
    for name in numbers:
        shape = np.shape(getattr(config, name))
        if shape != ():
            allowed = f"a single number, not an array of shape {shape}; jax.vmap maps over many"
            raise ConfigError(f"{name}: must be {allowed}")
    if jax.config.jax_debug_nans:  # type: ignore[attr-defined]
        why = "means over episodes are NaN where none ended; num_skipped counts gradients that are not finite"
        raise ConfigError(f"jax_debug_nans: must be off for training: {why}")
