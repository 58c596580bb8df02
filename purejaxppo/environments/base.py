"""The base class of environments: gymnax's, and what it lacks."""

import weakref
from typing import TYPE_CHECKING, Any

from jax import Array

from purejaxppo.environments.spaces import flatten
from purejaxppo.errors import ConfigError
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


def owner_of(env: Any, method: str) -> Any:
    """The environment itself or, under wrappers such as gymnax's, the outermost one whose class has the method."""
    while env is not None and not hasattr(type(env), method):
        env = wrapped(env)
    return env


def wrapped(env: Any) -> Any:
    """What a wrapper such as gymnax's wraps; None for an environment."""
    return getattr(env, "__dict__", {}).get("_env")


_FIRST_SEEN: weakref.WeakKeyDictionary[Any, dict[str, Any]] = weakref.WeakKeyDictionary()


def check_unchanged(env: Any) -> None:
    """Refuse an environment object one of whose public attributes is not what it was when it was first given.

    A program that is compiled for an object is used again for the same object, whatever it holds by now. One that is
    hashed by what it holds, as a frozen dataclass is, tells it by itself.

    Raises:
        ConfigError: that is so.
    """
    if type(env).__hash__ is not object.__hash__ or not hasattr(env, "__dict__"):
        return
    now = {name: value for name, value in vars(env).items() if not name.startswith("_")}
    for name, value in _FIRST_SEEN.setdefault(env, now).items():
        if not _is_same(value, now.get(name)):
            why = "changed after its first use, which compiled programs would not see; make a new one"
            raise ConfigError(f"env={name_of(env)!r}: its {name} must not be {why}")
    if wrapped(env) is not None:
        check_unchanged(wrapped(env))


def _is_same(a: Any, b: Any) -> bool:
    return a is b or (isinstance(a, bool | int | float | str | tuple) and bool(a == b))


def name_of(env: Any) -> str:
    """The id of an environment, or the name of an environment object."""
    return env if isinstance(env, str) else str(getattr(env, "name", type(env).__name__))
