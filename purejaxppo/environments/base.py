"""The base class of environments: gymnax's, and what it lacks."""

from typing import Any

from gymnax.environments.environment import Environment as GymnaxEnvironment
from jax import Array

from purejaxppo.environments.spaces import flatten
from purejaxppo.planning import TabularModel


class Environment(GymnaxEnvironment):
    """gymnax's environment, plus what it can tell the policy about an observation, and the planner about itself."""

    def features(self, obs: Any) -> Array:
        """The networks' input for one observation: a float vector `[F]`, or an integer that stands for a one-hot."""
        return flatten(self.observation_space(self.default_params), obs)

    def action_mask(self, obs: Any, params: Any) -> Array | None:
        """Booleans, true where the action is available (at least one is); None offers every action.

        `[num_actions]`; for `MultiDiscrete` `[K, C]`, where `C` is the most categories of all choices.
        """
        return None

    def tabular_model(self, params: Any) -> TabularModel | None:
        """The environment as arrays, for `planning`; None if it is not finite or does not know itself."""
        return None
