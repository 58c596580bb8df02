"""The smallest environments that each need one more thing of the learner."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from gymnax.environments import spaces
from gymnax.environments.environment import Environment, EnvParams


class State(NamedTuple):
    time: Any
    sign: Any


class Probe(Environment):
    """One step, reward 1, observation 0; subclasses change one thing each."""

    @property
    def default_params(self):
        return EnvParams(max_steps_in_episode=100)

    @property
    def num_actions(self):
        return 2

    def action_space(self, params=None):
        return spaces.Discrete(2)

    def observation_space(self, params=None):
        return spaces.Box(-1, 1, (1,), jnp.float32)

    def reset_env(self, key, params):
        state = State(jnp.zeros((), jnp.int32), jax.random.rademacher(key, (), jnp.float32))
        return self.observe(key, state, None, params), state

    def step_env(self, key, state, action, params):
        reward = self.reward(state, action)
        state = state._replace(time=state.time + 1)
        return self.observe(key, state, action, params), state, reward, self.is_terminated(state, params), {}

    def observe(self, key, state, action, params):
        return jnp.zeros(1)

    def is_terminated(self, state, params):
        return state.time >= 1

    def reward(self, state, action):
        return jnp.ones(())


class ConstantReward(Probe):
    """The value must learn a constant."""


class RewardByObservation(Probe):
    """The value must read the observation."""

    def observe(self, key, state, action, params):
        return state.sign[None]

    def reward(self, state, action):
        return state.sign


class DelayedReward(Probe):
    """The value must travel back one step, discounted."""

    def observe(self, key, state, action, params):
        return jnp.float32(state.time)[None]

    def is_terminated(self, state, params):
        return state.time >= 2

    def reward(self, state, action):
        return jnp.float32(state.time == 1)


class RewardByAction(Probe):
    """The policy must learn one action."""

    def reward(self, state, action):
        return jnp.where(action == 1, 1.0, -1.0)


class RewardByBoth(Probe):
    """The policy must choose by the observation."""

    def observe(self, key, state, action, params):
        return state.sign[None]

    def reward(self, state, action):
        return jnp.where((action == 1) == (state.sign > 0), 1.0, -1.0)


class TruncationOnly(Probe):
    """Reward 1 for ever; episodes are cut short but never terminate, so the value is 1 / (1 - gamma)."""

    @property
    def default_params(self):
        return EnvParams(max_steps_in_episode=5)

    def is_terminated(self, state, params):
        return jnp.zeros((), bool)


class RandomEnds(Probe):
    """Observes a random sign and the time; terminates with probability 1/5 at each step, and is cut short after 5."""

    @property
    def default_params(self):
        return EnvParams(max_steps_in_episode=5)

    def observation_space(self, params=None):
        return spaces.Box(-9, 9, (2,), jnp.float32)

    def observe(self, key, state, action, params):
        return jnp.stack([state.sign, jnp.float32(state.time)])

    def step_env(self, key, state, action, params):
        obs, state, reward, _, info = super().step_env(key, state, action, params)
        return obs, state, reward, jax.random.uniform(key) < 0.2, info


class Recall(Probe):
    """The sign is seen at the beginning only, and must be told by the action two steps later."""

    def observe(self, key, state, action, params):
        return jnp.where(state.time == 0, state.sign, 0.0)[None]

    def is_terminated(self, state, params):
        return state.time >= 3

    def reward(self, state, action):
        return jnp.where((action == 1) == (state.sign > 0), 1.0, -1.0) * (state.time == 2)
