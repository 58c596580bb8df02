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
from purejaxppo.settings import Settings

# Environments that a file can hold as a table, by their `type` there.
TYPES: dict[str, type[GridWorld] | type[RandomGridWorld]] = {
    "GridWorld": GridWorld,
    "RandomGridWorld": RandomGridWorld,
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


def loads(text: str, kind: type[Any] = Config) -> Any:
    """The configuration that a TOML text holds, of some class of settings.

    Raises:
        ConfigError: it is not TOML, or a field in it cannot be used.
    """
    try:
        values = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(f"config: cannot be read as TOML ({error})") from None
    return from_table(values, kind)


def dumps(config: Settings) -> str:
    """The configuration as TOML, from which `loads` and `preset` make an equal one.

    Raises:
        ConfigError: a field is an array, or the environment is an object that only a program can make.
    """
    return tomli_w.dumps(to_table(config), multiline_strings=True)


def from_table(values: Mapping[str, Any], kind: type[Any] = Config) -> Any:
    """The configuration of a table, as `to_table` gives it, of some class of settings.

    Raises:
        ConfigError: a field in it cannot be used.
    """
    return _config(_with_environment(dict(values)), kind)


def to_table(config: Settings) -> dict[str, Any]:
    """The configuration as a table of plain values, as TOML and JSON have them.

    Raises:
        ConfigError: a field is an array, or the environment is an object that only a program can make.
    """
    fields = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}  # type: ignore[arg-type]
    values = {
        name: _plain(name, value)
        for name, value in fields.items()
        if name not in ("env", "env_params") and value is not None
    }
    if "env" in fields:
        values["env"] = fields["env"] if isinstance(fields["env"], str) else _environment_table(fields["env"])
    if fields.get("env_params") is not None:
        default = environments.make(fields["env"]).default_params
        values["env_params"] = _params_table(fields["env_params"], default)
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
    return _with_environment(values)


def _config(values: dict[str, Any], kind: type[Any] = Config) -> Any:
    """A configuration from its fields, where `env_params` may be a table; lists are tuples, which can be hashed."""
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    if isinstance(values.get("env_params"), dict):
        env = environments.make(environments.resolve(values.get("env", Config.env)))
        params = environments.replaced_params(env.default_params, values["env_params"])
        values = values | {"env_params": params}
    return kind(**values)


def _with_environment(values: dict[str, Any]) -> dict[str, Any]:
    """The fields, with the table `env`, if it is one, made an environment."""
    if not isinstance(values.get("env"), dict):
        return values
    table = dict(values["env"])
    name = table.pop("type", None)
    if not isinstance(name, str) or name not in TYPES:
        raise ConfigError.of("env.type", name, "one of " + ", ".join(map(repr, TYPES)))
    allowed = {field.name: type(field.default) for field in dataclasses.fields(TYPES[name])}
    for field, value in table.items():
        if field not in allowed:
            raise unknown_name(f"{name} field", field, list(allowed))
        if type(value) is not allowed[field]:
            raise ConfigError.of(f"env.{field}", value, f"of type {allowed[field].__name__}")
    return values | {"env": TYPES[name](**table)}


def _environment_table(env: Any) -> dict[str, Any]:
    """An environment of ours as a table."""
    for name, kind in TYPES.items():
        if type(env) is kind:
            return {"type": name} | {field.name: getattr(env, field.name) for field in dataclasses.fields(env)}
    allowed = (
        "an id, a GridWorld or a RandomGridWorld, to be written to a file; gymnax.register(id, factory) makes an id"
    )
    raise ConfigError.of("env", env, allowed)


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
