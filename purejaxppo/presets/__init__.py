"""Configurations as TOML files with fields of `Config`: those known to learn, by name, and any other."""

import dataclasses
import tomllib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tomli_w

from purejaxppo import environments
from purejaxppo.config import Config
from purejaxppo.environments import GridWorld, RandomGridWorld
from purejaxppo.errors import ConfigError, unknown_name
from purejaxppo.networks import NETWORKS

# What a file can hold as a table, by its `type` there.
TYPES: dict[str, dict[str, Any]] = {
    "env": {"GridWorld": GridWorld, "RandomGridWorld": RandomGridWorld},
    "network": NETWORKS,
}


def names() -> list[str]:
    """Names of the presets that come with the package."""
    return sorted(entry.name.removesuffix(".toml") for entry in _shipped().iterdir() if entry.name.endswith(".toml"))


def preset(name: str | Path, **changes: Any) -> Config:
    """The configuration of a preset, with some fields changed.

    Args:
        name: one that comes with the package ("treasure", "serrano"), or the path of a file (*.toml).
        changes: fields of `Config`.

    Raises:
        ConfigError: there is no such preset, the file cannot be read, or a field in it cannot be used.
    """
    return _config(read(name) | changes)


def loads(text: str) -> Config:
    """The configuration that a TOML text holds.

    Raises:
        ConfigError: it is not TOML, or a field in it cannot be used.
    """
    try:
        values = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(f"config: cannot be read as TOML ({error})") from None
    return from_table(values)


def dumps(config: Config) -> str:
    """The configuration as TOML, from which `loads` and `preset` make an equal one.

    Raises:
        ConfigError: a field is an array, or the environment is an object that only a program can make.
    """
    return tomli_w.dumps(to_table(config), multiline_strings=True)


def from_table(values: Mapping[str, Any]) -> Config:
    """The configuration of a table, as `to_table` gives it.

    Raises:
        ConfigError: a field in it cannot be used.
    """
    return _config(_with_objects(dict(values)))


def to_table(config: Config) -> dict[str, Any]:
    """The configuration as a table of plain values, as TOML and JSON have them.

    Raises:
        ConfigError: a field is an array, or the environment is an object that only a program can make.
    """
    fields = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    values = {
        name: _plain(name, value)
        for name, value in fields.items()
        if name not in (*TYPES, "env_params") and value is not None
    }
    values |= {name: _object_table(name, fields[name]) for name in TYPES}
    if config.env_params is not None:
        values["env_params"] = _params_table(config.env_params, environments.make(config.env).default_params)
    return values


def read(name: str | Path) -> dict[str, Any]:
    """The fields that a preset sets, as its file has them, but for an environment's table: that is made an object.

    Raises:
        ConfigError: there is no such preset, or the file cannot be read.
    """
    is_path = isinstance(name, Path) or name.endswith(".toml")
    if not is_path and name not in names():
        raise unknown_name("preset", name, names())
    try:
        values = tomllib.loads((Path(name) if is_path else _shipped() / f"{name}.toml").read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(f"preset={str(name)!r}: cannot be read as TOML ({error})") from None
    return _with_objects(values)


def _config(values: dict[str, Any]) -> Config:
    """A configuration from its fields, where `env_params` may be a table."""
    if isinstance(values.get("env_params"), dict):
        env = environments.make(environments.resolve(values.get("env", Config.env)))
        params = environments.replaced_params(env.default_params, values["env_params"])
        values = values | {"env_params": params}
    return Config(**values)


def _with_objects(values: dict[str, Any]) -> dict[str, Any]:
    """The fields, with tables of environments and networks made objects."""
    tables = {field: values[field] for field in TYPES if isinstance(values.get(field), dict)}
    return values | {field: _from_object_table(field, dict(table)) for field, table in tables.items()}


def _from_object_table(field: str, table: dict[str, Any]) -> Any:
    """The object of a table."""
    types, name = TYPES[field], table.pop("type", None)
    if not isinstance(name, str) or name not in types:
        raise ConfigError.of(f"{field}.type", name, "one of " + ", ".join(map(repr, types)))
    defaults = {own.name: own.default for own in dataclasses.fields(types[name])}
    for own, value in table.items():
        if own not in defaults:
            raise unknown_name(f"{name} field", own, list(defaults))
        kind = list if isinstance(defaults[own], tuple) else type(defaults[own])
        if type(value) is not kind:
            raise ConfigError.of(f"{field}.{own}", value, f"of type {kind.__name__}")
    return types[name](**table)


def _object_table(field: str, value: Any) -> Any:
    """An environment or a network as a table; an id as it is."""
    if isinstance(value, str):
        return value
    for name, kind in TYPES[field].items():
        if type(value) is kind:
            fields = {own.name: _plain(own.name, getattr(value, own.name)) for own in dataclasses.fields(kind)}
            return {"type": name} | fields
    raise ConfigError.of(field, value, f"one of {', '.join(TYPES[field])}, to be written to a file")


def _params_table(params: Any, default: Any) -> dict[str, Any]:
    """Parameters of an environment as a table; arrays, such as Acrobot's torques, only as they are by default."""
    values = {field.name: getattr(params, field.name) for field in dataclasses.fields(params)}
    is_default = {
        name: np.ndim(value) > 0 and np.array_equal(value, getattr(default, name)) for name, value in values.items()
    }
    return {name: _plain(f"env_params.{name}", value) for name, value in values.items() if not is_default[name]}


def _plain(name: str, value: Any) -> Any:
    """A field's value as TOML knows it."""
    if isinstance(value, np.generic | np.ndarray | jax.Array) and value.ndim == 0:
        value = value.item()
    if isinstance(value, tuple):
        return list(value)
    if not isinstance(value, bool | int | float | str):
        raise ConfigError.of(name, value, "a single number, word or switch, to be written to a file")
    return value


def _shipped() -> Any:
    return resources.files("purejaxppo.presets")
