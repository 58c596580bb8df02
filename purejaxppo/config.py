"""The configuration of a training run."""

from typing import Any

from jax import Array

from purejaxppo import environments
from purejaxppo.environments import Environment
from purejaxppo.fields import (
    COUNT,
    NON_NEGATIVE,
    POSITIVE,
    SWITCH,
    UNIT_INTERVAL,
    ConfigError,
    Settings,
    one_of,
    static,
    traced,
)

Number = float | Array


class Config(Settings):
    """Everything that decides a training run, validated on construction.

    Static fields shape the program; traced fields are data, shared by one program and mapped over by `jax.vmap`.
    The defaults of the numbers follow CleanRL's `ppo.py` (Huang et al., 2022), except that value clipping is off.

    Raises:
        ConfigError: a field is unknown or its value is not allowed. Tracers are not checked.
    """

    env: str | Environment = static("GridWorld-treasure", "environment: an id, or the path of a map (*.txt)")
    env_params: Any = traced(None, "parameters of the environment; its defaults where none are given")

    total_timesteps: int = static(500_000, "environment steps in all, over all environments of one agent", COUNT)
    num_envs: int = static(4, "environments that one agent steps in parallel (N)", COUNT)
    num_steps: int = static(128, "steps of each environment per update (T)", COUNT)
    num_epochs: int = static(4, "passes over the batch per update", COUNT)
    num_minibatches: int = static(4, "minibatches per epoch", COUNT)
    hidden_sizes: tuple[int, ...] = static((64, 64), "width of each hidden layer of both networks")
    activation: str = static("tanh", "activation of the hidden layers", one_of("tanh", "relu"))
    anneal_lr: bool = static(True, "lower the learning rate linearly to 0", SWITCH)
    normalize_advantage: bool = static(True, "standardise the advantages of each minibatch", SWITCH)
    clip_value: bool = static(False, "clip the change of the value like the ratio", SWITCH)

    exact_return: bool = static(False, "add the exact expected return to the metrics of every update", SWITCH)

    lr: Number = traced(2.5e-4, "learning rate of Adam", POSITIVE)
    gamma: Number = traced(0.99, "discount factor", UNIT_INTERVAL)
    gae_lambda: Number = traced(0.95, "lambda of generalised advantage estimation", UNIT_INTERVAL)
    clip_eps: Number = traced(0.2, "how far the ratio may move from 1 before it is clipped", POSITIVE)
    vf_coef: Number = traced(0.5, "weight of the value loss", NON_NEGATIVE)
    ent_coef: Number = traced(0.01, "weight of the entropy bonus", NON_NEGATIVE)
    max_grad_norm: Number = traced(0.5, "global norm to which gradients are clipped", POSITIVE)

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "env", environments.resolve(self.env))
        object.__setattr__(self, "hidden_sizes", _widths(self.hidden_sizes))
        environments.check(environments.make(self.env), self.env_params)
        if self.exact_return and not environments.is_tabular(environments.make(self.env)):
            raise ConfigError.of("exact_return", True, f"False: no model is known of env={self.env!r}")
        if self.batch_size % self.num_minibatches:
            allowed = f"a divisor of num_envs * num_steps = {self.batch_size}"
            raise ConfigError.of("num_minibatches", self.num_minibatches, allowed)
        if self.total_timesteps < self.batch_size:
            allowed = f"at least num_envs * num_steps = {self.batch_size}, one update"
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


def _widths(hidden_sizes: Any) -> tuple[int, ...]:
    """`hidden_sizes` as a tuple of positive integers; the empty tuple means no hidden layer."""
    allowed = "a sequence of integers >= 1"
    if not isinstance(hidden_sizes, tuple | list):
        raise ConfigError.of("hidden_sizes", hidden_sizes, allowed)
    for size in hidden_sizes:
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise ConfigError.of("hidden_sizes", hidden_sizes, allowed)
    return tuple(hidden_sizes)
