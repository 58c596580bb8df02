"""Odd environments: no subclass of gymnax's, of any dtype, of either interface."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from gymnax.environments import spaces


class Counter(NamedTuple):
    """The state of the environments below."""

    time: object
    half: object


class Odd:
    """An environment that is no subclass of gymnax's: episodes of three steps, of dtypes of one's choice."""

    name = "Odd"
    default_params = None

    def __init__(self, obs_dtype=jnp.float32, reward_dtype=jnp.float32, space=None, reward_shape=()):
        self.obs_dtype, self.reward_dtype, self.reward_shape = obs_dtype, reward_dtype, reward_shape
        self.space = space or spaces.Box(0, 9, (2, 3), obs_dtype)

    def action_space(self, params):
        return spaces.Discrete(3)

    def observation_space(self, params):
        return self.space

    def observe(self, state):
        return jnp.full(self.space.shape, state.time).astype(self.obs_dtype)

    def reset(self, key, params):
        state = Counter(0, 0.5)  # Python numbers, weakly typed
        return self.observe(state), state

    def move(self, state):
        """After the step and before any reset: `(obs, state, reward, terminated)`."""
        state = Counter(state.time + 1, jnp.asarray(state.half, jnp.float16) * 1)  # its dtype drifts
        reward = jnp.full(self.reward_shape, state.time).astype(self.reward_dtype)
        return self.observe(state), state, reward, state.time == 3

    def restart(self, done, state):
        state = jax.tree.map(lambda new, old: jnp.where(done, new, old), Counter(0, 0.5), state)
        return self.observe(state), state


class FiveValues(Odd):
    """The older interface: `done` for terminations and time limits alike."""

    def step(self, key, state, action, params):
        _, state, reward, done = self.move(state)
        obs, state = self.restart(done, state)
        return obs, state, reward, done, {"discount": 1.0}


class SixValues(Odd):
    """The present interface; terminates never, truncates after three steps."""

    def step(self, key, state, action, params):
        final, state, reward, done = self.move(state)
        obs, state = self.restart(done, state)
        return obs, state, reward, jnp.zeros((), jnp.int32), jnp.asarray(done, jnp.int32), self.info(final)

    def info(self, final):
        return {"final_observation": final}
