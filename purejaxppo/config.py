"""The configuration of a training run."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from gymnax.environments import spaces
from jax.core import Tracer

from purejaxppo import environments
from purejaxppo.environments import Environment, interface
from purejaxppo.errors import ConfigError
from purejaxppo.networks import Recurrent
from purejaxppo.schedules import SCHEDULES
from purejaxppo.settings import (
    COUNT,
    NON_NEGATIVE,
    POSITIVE,
    SWITCH,
    UNIT_INTERVAL,
    WHOLE,
    Constraint,
    Number,
    Settings,
    one_of,
    optional,
    static,
    traced,
)

NETWORKS = ("mlp", "cnn", "gru")
NETWORK = Constraint(
    f"one of {', '.join(map(repr, NETWORKS))}, or a hashable flax module from one observation to (distribution, value)",
    lambda x: (isinstance(x, nn.Module) and _is_hashable(x)) or (isinstance(x, str) and x in NETWORKS),
    number=None,
)
# The built-in networks that a field makes a difference to.
NETWORK_FIELDS = dict.fromkeys(
    ("hidden_sizes", "activation", "layer_norm", "shared_torso", "squash_actions", "dtype"), NETWORKS
) | {"channels": ("cnn",)}
ABOVE_1 = Constraint("a finite number > 1", lambda x: x > 1)


class Config(Settings):
    """Everything that decides a training run, validated on construction.

    Static fields shape the program; traced fields are data, shared by one program and mapped over by `jax.vmap`.
    The defaults of the numbers follow CleanRL's `ppo.py` (Huang et al., 2022), except that value clipping is off.

    Raises:
        ConfigError: a field is unknown or its value is not allowed. Tracers are not checked.
    """

    env: str | Environment = static("GridWorld-treasure", "environment: an id, or the path of a map (*.txt)")
    env_params: Any = traced(None, "parameters of the environment; its defaults where none are given")
    reset_pool: int = static(0, "fresh episodes per update to restart from; 0: each step resets", WHOLE)

    total_timesteps: int = static(500_000, "environment steps in all, over all environments of one agent", COUNT)
    num_envs: int = static(4, "environments that one agent steps in parallel (N)", COUNT)
    num_steps: int = static(128, "steps of each environment per update (T)", COUNT)
    num_epochs: int = static(4, "passes over the batch per update", COUNT)
    num_minibatches: int = static(4, "minibatches per epoch", COUNT)

    network: Any = static("mlp", "networks: mlp, cnn, gru, or from Python a flax module", NETWORK)
    hidden_sizes: tuple[int, ...] = static((64, 64), "width of each hidden layer of both networks")
    activation: str = static("tanh", "activation of the hidden layers", one_of("tanh", "relu"))
    layer_norm: bool = static(False, "normalise every hidden layer before its activation", SWITCH)
    channels: tuple[int, ...] = static((16,), "channels of each 3x3 convolution, of the cnn")
    shared_torso: bool = static(False, "one network with two heads in place of two networks", SWITCH)
    squash_actions: bool = static(False, "bound continuous actions by tanh rather than by clipping", SWITCH)
    dtype: str = static("float32", "what the hidden layers compute in", one_of("float32", "bfloat16"))

    normalize_obs: bool = static(False, "standardise observations by running statistics", SWITCH)
    normalize_reward: bool = static(False, "divide rewards by the spread of the discounted returns", SWITCH)
    normalize_advantage: bool = static(True, "standardise the advantages of each minibatch", SWITCH)
    clip_value: bool = static(False, "clip the change of the value like the ratio", SWITCH)
    exact_return: bool = static(False, "add the exact expected return to the metrics of every update", SWITCH)

    lr: Number = traced(2.5e-4, "learning rate of Adam", POSITIVE)
    lr_schedule: str = static("linear", "how the learning rate goes to lr_end", one_of(*SCHEDULES))
    lr_end: Number = traced(0.0, "learning rate at the end", NON_NEGATIVE)
    gamma: Number = traced(0.99, "discount factor", UNIT_INTERVAL)
    gae_lambda: Number = traced(0.95, "lambda of generalised advantage estimation", UNIT_INTERVAL)
    clip_eps: Number = traced(0.2, "how far the ratio may move from 1 before it is clipped", POSITIVE)
    clip_eps_schedule: str = static("constant", "how the clip range goes to clip_eps_end", one_of(*SCHEDULES))
    clip_eps_end: Number = traced(0.0, "clip range at the end", NON_NEGATIVE)
    vf_coef: Number = traced(0.5, "weight of the value loss", NON_NEGATIVE)
    ent_coef: Number = traced(0.01, "weight of the entropy bonus", NON_NEGATIVE)
    ent_coef_schedule: str = static("constant", "how the entropy bonus goes to ent_coef_end", one_of(*SCHEDULES))
    ent_coef_end: Number = traced(0.0, "weight of the entropy bonus at the end", NON_NEGATIVE)
    max_grad_norm: Number = traced(0.5, "global norm to which gradients are clipped", POSITIVE)
    target_kl: Number | None = traced(None, "approximate KL beyond which the update stops", optional(POSITIVE))
    dual_clip: Number | None = traced(None, "bound of the ratio where the advantage is negative", optional(ABOVE_1))
    huber_delta: Number | None = traced(None, "error from which on the value loss is linear", optional(POSITIVE))

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "env", environments.resolve(self.env))
        object.__setattr__(self, "hidden_sizes", _widths("hidden_sizes", self.hidden_sizes))
        object.__setattr__(self, "channels", _widths("channels", self.channels))
        environments.check_supported(environments.make(self.env), self.env_params)
        self._check_environment()
        self._check_network()
        for name in ("lr", "clip_eps", "ent_coef"):
            end = getattr(self, f"{name}_end")
            if getattr(self, f"{name}_schedule") == "constant" and not isinstance(end, Tracer) and np.any(end):
                raise ConfigError.of(f"{name}_end", end, f"0 unless {name}_schedule is linear or cosine")
        if self.batch_size >= 2**31:
            raise ConfigError.of("num_envs", self.num_envs, f"below 2**31 / num_steps = {2**31 // self.num_steps}")
        if self.batch_size % self.num_minibatches:
            allowed = f"a divisor of num_envs * num_steps = {self.batch_size}"
            raise ConfigError.of("num_minibatches", self.num_minibatches, allowed)
        if self.total_timesteps < self.batch_size:
            allowed = f"at least num_envs * num_steps = {self.batch_size}, one update"
            raise ConfigError.of("total_timesteps", self.total_timesteps, allowed)

    def _check_environment(self) -> None:
        """Refuse options that the environment cannot have."""
        env = environments.make(self.env)
        if self.exact_return and not environments.is_tabular(env):
            raise ConfigError.of("exact_return", True, f"False: no model is known of env={self.env!r}")
        action_space = interface.action_space(env)
        if self.squash_actions and not isinstance(action_space, spaces.Box):
            raise ConfigError.of("squash_actions", True, f"False: the actions of env={self.env!r} are not continuous")
        if self.squash_actions and not np.all(np.isfinite([*np.ravel(action_space.low), *np.ravel(action_space.high)])):
            raise ConfigError.of("squash_actions", True, f"False: the actions of env={self.env!r} have no bounds")
        if self.normalize_obs and interface.num_observations(env) is not None:
            raise ConfigError.of("normalize_obs", True, f"False: the observations of env={self.env!r} are indices")
        if self.reset_pool and not interface.can_restart(env):
            raise ConfigError.of("reset_pool", self.reset_pool, f"0: env={self.env!r} has no step without a reset")

    def _check_network(self) -> None:
        """Refuse options that make no difference to the network, and a network that does not fit."""
        used = {name for name, networks in NETWORK_FIELDS.items() if self.network in networks}
        for field in dataclasses.fields(self):
            if field.name in NETWORK_FIELDS.keys() - used and getattr(self, field.name) != field.default:
                allowed = f"{field.default!r}, which is not used, with network={self.network!r}"
                raise ConfigError.of(field.name, getattr(self, field.name), allowed)
        env = environments.make(self.env)
        if self.network == "cnn":
            shape = getattr(interface.observation_space(env), "shape", ())
            least = 2 * len(self.channels) + 1
            if len(shape) != 3 or min(shape[:2]) < least:
                allowed = f"for images of at least {least}x{least}, but env={self.env!r} observes {shape}"
                raise ConfigError.of("network", "cnn", allowed)
        for name, network in (("hidden_sizes", "gru"), ("channels", "cnn")):
            if self.network == network and not getattr(self, name):
                raise ConfigError.of(name, (), f"not empty, with network={network!r}")
        if self.layer_norm and not self.hidden_sizes:
            raise ConfigError.of("layer_norm", True, "False: there are no hidden layers")
        if self.shared_torso and not self.hidden_sizes and self.network == "mlp":
            raise ConfigError.of("shared_torso", True, "False: there are no hidden layers to share")
        has_memory = isinstance(self.network, Recurrent) or self.network == "gru"
        if has_memory and self.num_envs % self.num_minibatches:
            allowed = f"a divisor of num_envs = {self.num_envs}, as a network with a memory learns from sequences"
            raise ConfigError.of("num_minibatches", self.num_minibatches, allowed)

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
    if not isinstance(config, Config):
        raise ConfigError(f"config: must be a Config, not {type(config).__name__}")
    numbers = [f.name for f in dataclasses.fields(config) if not f.metadata["static"] and f.name != "env_params"]
    for name in numbers:
        shape = np.shape(getattr(config, name))
        if shape != ():
            allowed = f"a single number, not an array of shape {shape}; jax.vmap maps over many"
            raise ConfigError(f"{name}: must be {allowed}")
    if jax.config.jax_debug_nans:  # type: ignore[attr-defined]
        why = "means over episodes are NaN where none ended; num_skipped counts gradients that are not finite"
        raise ConfigError(f"jax_debug_nans: must be off for training: {why}")


def _is_hashable(x: Any) -> bool:
    try:
        hash(x)
    except TypeError:
        return False
    return True


def _widths(name: str, sizes: Any) -> tuple[int, ...]:
    """A tuple of positive integers; the empty tuple means no layer."""
    allowed = "a sequence of integers >= 1"
    if not isinstance(sizes, tuple | list):
        raise ConfigError.of(name, sizes, allowed)
    for size in sizes:
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise ConfigError.of(name, sizes, allowed)
    return tuple(sizes)
