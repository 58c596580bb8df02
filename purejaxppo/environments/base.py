"""The base class of environments: gymnax's, and what it lacks."""

from typing import TYPE_CHECKING, Any

from jax import Array

from purejaxppo.environments.spaces import flatten
from purejaxppo.planning import TabularModel

if TYPE_CHECKING:
    # gymnax's own types fit neither observations other than arrays nor parameters other than its own.
    class GymnaxEnvironment:
        """The methods of gymnax's class."""

        def reset(self, key: Array, params: Any = None) -> tuple[Any, Any]: ...
        def step(self, key: Array, state: Any, action: Any, params: Any = None) -> tuple[Any, ...]: ...
        def reset_env(self, key: Array, params: Any) -> tuple[Any, Any]: ...
        def step_env(self, key: Array, state: Any, action: Any, params: Any) -> tuple[Any, Any, Any, Any, Any]: ...
        def is_truncated(self, state: Any, params: Any) -> Any: ...
        def action_space(self, params: Any) -> Any: ...
        def observation_space(self, params: Any) -> Any: ...
else:
    from gymnax.environments.environment import Environment as GymnaxEnvironment


class Environment(GymnaxEnvironment):
    """gymnax's environment, plus what it can tell the policy about an observation, and the planner about itself.

    Yours has `default_params`, `action_space`, `observation_space`, `reset_env` and `step_env`.
    """

    def features(self, obs: Any) -> Array:
        """The networks' input for one observation: a float vector `[F]`, or an integer that stands for a one-hot."""
        env: Any = self
        return flatten(env.observation_space(env.default_params), obs)

    def action_mask(self, obs: Any, params: Any) -> Array | None:
        """Booleans, true where the action is available (at least one is); None offers every action.

        `[num_actions]`; for `MultiDiscrete` `[K, C]`, where `C` is the most categories of all choices.
        """
        return None

    def tabular_model(self, params: Any) -> TabularModel | None:
        """The environment as arrays, for `planning`; None if it is not finite or does not know itself."""
        return None


def name_of(env: Any) -> str:
    """The id of an environment, or the name of an environment object."""
    return env if isinstance(env, str) else str(getattr(env, "name", type(env).__name__))
