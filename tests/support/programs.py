"""A module of a user's own, with an environment, a network and an optimiser, that exists only while a test runs."""

import contextlib
import importlib
import sys

NAME = "my_module"
IMPORTED = "imported"  # a file beside the module, that importing it leaves

MODULE = f"""
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax

from purejaxppo import Categorical, Environment
from purejaxppo.environments.spaces import Box, Discrete

Path(__file__).with_name("{IMPORTED}").touch()


@flax.struct.dataclass
class Params:
    max_steps_in_episode: int = 10
    prize: float = 1.0


class State(NamedTuple):
    shown: Any
    time: Any


@dataclass(frozen=True)
class Env(Environment):
    num_choices: int = 3
    default_params = Params()

    def action_space(self, params):
        return Discrete(self.num_choices)

    def observation_space(self, params):
        return Box(0, 1, (self.num_choices,), jnp.float32)

    def reset_env(self, key, params):
        return self._seen(key, 0)

    def step_env(self, key, state, action, params):
        reward = jnp.where(action == state.shown, params.prize, 0.0)
        return *self._seen(key, state.time + 1), reward, False, {{}}

    def _seen(self, key, time):
        shown = jax.random.randint(key, (), 0, self.num_choices)
        return jax.nn.one_hot(shown, self.num_choices), State(shown, jnp.int32(time))


class Net(nn.Module):
    num_actions: int = 3
    width: int = 5

    @nn.compact
    def __call__(self, obs):
        x = nn.tanh(nn.Dense(self.width)(obs))
        return Categorical.from_logits(nn.Dense(self.num_actions)(x)), nn.Dense(1)(x)[0]


def optimizer(lr):
    return optax.sgd(lr, momentum=0.5)


def explode(*args):
    Path(__file__).with_name("exploded").touch()
"""


@contextlib.contextmanager
def importable(directory):
    """Write the module into a new directory from which it can be imported; at the end it is as if it never was."""
    write(directory)
    sys.path.insert(0, str(directory))
    try:
        yield directory
    finally:
        sys.path.remove(str(directory))
        forget()


def write(directory):
    directory.mkdir()
    (directory / f"{NAME}.py").write_text(MODULE)
    importlib.invalidate_caches()


def forget():
    """As in a process that has not imported it."""
    sys.modules.pop(NAME, None)


def was_imported(directory):
    """Whether it was, since this was asked the last time."""
    mark = directory / IMPORTED
    found = mark.exists()
    mark.unlink(missing_ok=True)
    return found
