"""Environments: gridworlds of ours, all of gymnax, and adapters to other packages."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gymnax
import jax
import numpy as np
from gymnax.environments.misc.frozen_lake import FrozenLake
from jax.core import Tracer

from purejaxppo.environments import adapters, maps
from purejaxppo.environments.base import Environment, check_unchanged, name_of
from purejaxppo.environments.env_checker import check_env
from purejaxppo.environments.gridworld import GridWorld, GridWorldParams
from purejaxppo.environments.random_gridworld import RandomGridWorld, RandomGridWorldParams
from purejaxppo.environments.spaces import Box, Dict, Discrete, MultiDiscrete, Tuple, has_same_form
from purejaxppo.environments.tabular import is_tabular, tabulate
from purejaxppo.environments.task import Task
from purejaxppo.environments.token_tree import TokenTree, TokenTreeParams
from purejaxppo.errors import ConfigError, unknown_name
from purejaxppo.planning import TabularModel

__all__ = [
    "Environment",
    "GridWorld",
    "GridWorldParams",
    "MultiDiscrete",
    "RandomGridWorld",
    "RandomGridWorldParams",
    "TabularModel",
    "Task",
    "TokenTree",
    "TokenTreeParams",
    "check_env",
    "check_unchanged",
    "is_tabular",
    "make",
    "make_task",
    "name_of",
    "tabulate",
]


ENVIRONMENT = "an id, the path of a map (*.txt), or a hashable environment with gymnax's interface"

# Our environments by id; all others are gymnax's.
OURS: dict[str, Callable[[], Any]] = {
    **{f"GridWorld-{name}": functools.partial(GridWorld, name) for name in maps.names()},
    **{f"GridWorld-{name}-coordinates": functools.partial(GridWorld, name, "coordinates") for name in maps.names()},
    "RandomGridWorld": RandomGridWorld,
    "TokenTree": TokenTree,
    "FrozenLake8x8-misc": functools.partial(FrozenLake, map_name="8x8"),
}


def ids() -> list[str]:
    """The ids of our environments and gymnax's; those of other packages are `suite/name`."""
    return [*OURS, *gymnax.registered_envs]


def resolve(env: Any) -> Any:
    """`env` as a registered id or an environment object: the path of a map becomes a `GridWorld`.

    Raises:
        ConfigError: neither an id, nor the path of a map, nor an environment.
    """
    if isinstance(env, str) and env in ids():
        return env
    if isinstance(env, Path) or (isinstance(env, str) and env.endswith(".txt")):
        return GridWorld(str(env))
    if isinstance(env, str) and env.partition("/")[0] not in adapters.SUITES:
        raise unknown_name("env", env, ids())
    return env


def make(env: Any) -> Any:
    """The environment of an id, always the same object for the same id; an environment object is returned as it is.

    Raises:
        ConfigError: it is neither, or the environment of that id cannot be made.
    """
    env = resolve(env)
    if isinstance(env, str):
        return _make(env)
    if not hasattr(env, "step"):
        raise ConfigError.of("env", env, ENVIRONMENT)
    return env


@functools.cache
def _make(env_id: str) -> Any:
    # gymnax environments hash by identity: a fresh one for each call would compile each time.
    try:
        if env_id in OURS:
            return OURS[env_id]()
        return gymnax.make(env_id)[0] if env_id in gymnax.registered_envs else adapters.make(env_id)
    except ConfigError:
        raise
    except Exception as error:  # whatever its author's code raises, where its data are missing for instance
        raise ConfigError(f"env={env_id!r}: cannot be made ({type(error).__name__}: {error})") from None


def make_task(env: Any, params: Any = None, *, fills: bool = True) -> Task:
    """The task of an environment, by its id or an object, with its default parameters where none are given."""
    env = make(env)
    return Task(env, env.default_params if params is None else params, fills)


def replaced_params(params: Any, changes: Mapping[str, Any]) -> Any:
    """An environment's parameters with some replaced by values of the same types, which it may not check itself.

    Raises:
        ConfigError: there is no such parameter, or its value is of another kind.
    """
    values = named_params(params)
    for name in changes:
        if name not in values:
            raise unknown_name("env_params name", name, list(values))
    return type(params)(**values | {name: _like(name, value, values[name]) for name, value in changes.items()})


def named_params(params: Any) -> dict[str, Any]:
    """An environment's parameters by name.

    Raises:
        ConfigError: they have no names.
    """
    if dataclasses.is_dataclass(params):
        return {field.name: getattr(params, field.name) for field in dataclasses.fields(params)}
    if not hasattr(params, "_asdict"):
        raise ConfigError.of("env_params", params, "a dataclass or a named tuple, to change or to write them by name")
    return dict(params._asdict())


def _like(name: str, value: Any, current: Any) -> Any:
    """`value` with the type of `current`; as it is, where there is none."""
    if current is None:
        return value
    given, needed = np.asarray(value), np.asarray(current)
    allowed = f"like its present value, {current!r}"
    if given.dtype.kind not in "biuf" or (given.dtype.kind == "b") != (needed.dtype.kind == "b"):
        raise ConfigError.of(f"env_params.{name}", value, allowed)
    with np.errstate(invalid="ignore"):
        cast = given.astype(needed.dtype)
    if cast.shape != needed.shape or not np.isfinite(given).all() or not np.allclose(cast, given, rtol=1e-6):
        raise ConfigError.of(f"env_params.{name}", value, allowed)
    return cast if cast.ndim else cast.item()


def check_supported(env: Any, env_params: Any) -> None:
    """Refuse an environment that cannot be trained on, and parameters that are not its own.

    Raises:
        ConfigError: says what is wrong.
    """
    try:
        hash(env)
        default_params = env.default_params
        action_space, obs_space = env.action_space(default_params), env.observation_space(default_params)
    except (TypeError, AttributeError, NotImplementedError) as error:
        raise ConfigError(f"env={env!r}: must be {ENVIRONMENT} ({error!r})") from None
    name = name_of(env)
    if not isinstance(action_space, Discrete | MultiDiscrete | Box):
        raise ConfigError(f"env={name!r}: must have Discrete, MultiDiscrete or Box actions, but has {action_space}")
    if not isinstance(obs_space, Discrete | Box | Dict | Tuple):
        raise ConfigError(f"env={name!r}: must have Discrete, Box, Dict or Tuple observations, but has {obs_space}")
    expected: Any = jax.tree.structure(default_params)
    if env_params is not None and jax.tree.structure(env_params) != expected:
        allowed = f"None, or parameters of {name} ({type(default_params).__name__})"
        raise ConfigError.of("env_params", env_params, allowed)
    _check_magnitudes(env_params)
    if env_params is not None and not any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(env_params)):
        for row in _first_and_last(env_params, default_params):
            _check_form("action_space", env, row, action_space)
            _check_form("observation_space", env, row, obs_space)


def _check_magnitudes(params: Any) -> None:
    """Refuse numbers that JAX could not hold, in 32 bits unless it has been told to take 64.

    Raises:
        ConfigError: there is one.
    """
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if not isinstance(leaf, int | float | np.ndarray | np.generic):
            continue  # of JAX, which holds it
        value = np.asarray(leaf)
        kept = np.dtype(jax.dtypes.canonicalize_dtype(value.dtype if value.dtype != object else np.int64))
        if kept.kind in "iuf":
            most = (np.finfo if kept.kind == "f" else np.iinfo)(kept).max
            if np.any(np.isfinite(value.astype(float)) & (np.abs(value) > most)):
                allowed = f"at most {most:.4g}, which is what fits into {kept}"
                raise ConfigError.of(f"env_params{jax.tree_util.keystr(path)}", leaf, allowed)


def _first_and_last(params: Any, default: Any) -> list[Any]:
    """Parameters over which `jax.vmap` maps, at both ends; others as they are."""

    def at(index: int) -> Any:
        return jax.tree.map(lambda x, like: x if np.ndim(x) == np.ndim(like) else x[index], params, default)

    return [params] if jax.tree.map(np.ndim, params) == jax.tree.map(np.ndim, default) else [at(0), at(-1)]


def _check_form(what: str, env: Any, params: Any, usual: Any) -> None:
    """Refuse parameters that change a space in more than bounds: the program is made for the default ones.

    Raises:
        ConfigError: they do.
    """
    try:
        space = getattr(env, what)(params)
    except Exception:  # an author's code, which training may not need
        return
    if not has_same_form(space, usual):
        why = "parameters must not change more than bounds of a space; make it a field of the environment"
        raise ConfigError(f"env_params: {what} becomes {space}, by default it is {usual}; {why}")
