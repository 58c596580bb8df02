"""Every combination of some fields' values, as configurations."""

import dataclasses
import itertools
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from purejaxppo import environments
from purejaxppo.config import Config
from purejaxppo.errors import ConfigError, unknown_name

ENV_PARAMS = "env_params."  # a parameter of the environment is spelt env_params.slip


def combinations(config: Any, over: Mapping[str, Any]) -> list[tuple[str, Config]]:
    """`(name, config)` of every combination; the last field's values change fastest.

    Args:
        config: what is not swept.
        over: the values of each swept field.

    Raises:
        ConfigError: a field is unknown, a value is not allowed or occurs twice, or there are no values.
    """
    if not isinstance(over, Mapping):
        raise ConfigError.of("over", over, "a mapping from fields to lists of values")
    values = {name: _values(name, values) for name, values in over.items()}
    spellings = [[f"{name}={text}" for text in _spellings(values[name])] for name in values]
    names = [", ".join(chosen) or "as configured" for chosen in itertools.product(*spellings)]
    changes = [dict(zip(values, chosen, strict=True)) for chosen in itertools.product(*values.values())]
    configs = [changed(config, change) for change in changes]
    for config in configs:
        _check_numbers(config)
    return list(zip(names, configs, strict=True))


def _check_numbers(config: Config) -> None:
    """Refuse fields that hold many numbers where one is meant."""
    env_params = environments.make(config.env).default_params
    fields = [(name, value, ()) for name, value in vars(config).items() if isinstance(value, np.ndarray | jax.Array)]
    if config.env_params is not None:
        for field in dataclasses.fields(env_params):
            value, default = (getattr(params, field.name) for params in (config.env_params, env_params))
            fields.append((ENV_PARAMS + field.name, value, np.shape(default)))
    for name, value, shape in fields:
        if np.shape(value) != shape:
            raise ConfigError.of(name, value, f"of shape {shape}; over={{{name!r}: [...]}} sweeps values")


def _values(name: str, values: Any) -> list[Any]:
    """The values of one swept field, as Python objects."""
    if not isinstance(name, str):
        raise unknown_name("Config field", name, [field.name for field in dataclasses.fields(Config)])
    is_array = isinstance(values, np.ndarray | jax.Array) and values.ndim > 0
    if not (is_array or isinstance(values, list | tuple)) or not len(values):
        raise ConfigError.of(f"over[{name!r}]", values, "a list of at least one value")
    plain = list(np.asarray(values).tolist() if is_array else values)
    for i, value in enumerate(plain):
        if repr(value) in map(repr, plain[:i]):
            raise ConfigError(f"over[{name!r}]: holds {value!r} twice")
    return plain


def _spellings(values: list[Any]) -> list[str]:
    """Short and different texts for different values."""
    texts = [f"{value:.4g}" if isinstance(value, float) else str(value) for value in values]
    if len(set(texts)) < len(texts):
        texts = [str(value) for value in values]
    long = any(len(text) > 40 or "\n" in text for text in texts)  # an environment that is an object
    return [f"{type(value).__name__} {i}" for i, value in enumerate(values, 1)] if long else texts


def changed(config: Config, changes: Mapping[str, Any]) -> Config:
    """`config` with some fields changed, of which `env_params.slip` and the like are those of the environment.

    Raises:
        ConfigError: a field is unknown, or its value is not allowed.
    """
    fields = {name: value for name, value in changes.items() if not name.startswith(ENV_PARAMS)}
    params = {name.removeprefix(ENV_PARAMS): changes[name] for name in changes if name.startswith(ENV_PARAMS)}
    if params and "env_params" in fields:
        raise ConfigError(f"over: holds both 'env_params' and {ENV_PARAMS + next(iter(params))!r}; sweep one of them")
    if "env" in fields and environments.resolve(fields["env"]) != config.env:
        fields = {"env_params": None} | fields
    result = config.replace(**fields)
    if not params:
        return result
    env = environments.make(result.env)
    current = env.default_params if result.env_params is None else result.env_params
    return result.replace(env_params=environments.replaced_params(current, params))


def static_names(over: Mapping[str, Any]) -> list[str]:
    """Those of the swept fields that shape the program: static ones, and traced ones that can be None."""
    fields = Config.__dataclass_fields__
    return [
        name
        for name, values in over.items()
        if fields[name.partition(".")[0]].metadata["static"] or any(value is None for value in values)
    ]
