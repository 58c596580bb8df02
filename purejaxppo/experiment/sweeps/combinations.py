"""Every combination of some fields' values, as configurations."""

import dataclasses
import itertools
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from purejaxppo import environments
from purejaxppo.errors import ConfigError
from purejaxppo.overrides import override


def combinations(config: Any, over: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Pair every combination's name with its configuration; the last field's values change fastest.

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
    if "env_params" in values and any(name.startswith("env_params.") for name in values):
        raise ConfigError("over: holds both 'env_params' and a field of it; sweep one of them")
    configs = [override(config, change) for change in changes]
    for config in configs:
        _check_numbers(config)
    return list(zip(names, configs, strict=True))


def _check_numbers(config: Any) -> None:
    """Refuse fields that hold many numbers where one is meant."""
    fields = [(name, value, ()) for name, value in vars(config).items() if isinstance(value, np.ndarray | jax.Array)]
    env_params = getattr(config, "env_params", None)
    if env_params is not None:
        default = environments.named_params(environments.make(config.env).default_params)
        for name, value in environments.named_params(env_params).items():
            fields.append((f"env_params.{name}", value, np.shape(default[name])))
    for name, value, shape in fields:
        if np.shape(value) != shape:
            raise ConfigError.of(name, value, f"of shape {shape}; over={{{name!r}: [...]}} sweeps values")


def _values(name: str, values: Any) -> list[Any]:
    """Convert the values of one swept field to Python objects."""
    if not isinstance(name, str):
        raise ConfigError.of("over", name, "a mapping from names of fields")
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


def static_names(config: Any, over: Mapping[str, Any]) -> list[str]:
    """Name those of the swept fields that shape the program: static ones, and traced ones that can be None."""
    fields = {field.name: field for field in dataclasses.fields(config)}
    return [
        name
        for name, values in over.items()
        if fields[name.partition(".")[0]].metadata["static"] or any(value is None for value in values)
    ]
