"""Configurations that are known to learn: TOML files with fields of `Config`, by name."""

import tomllib
from importlib import resources
from pathlib import Path
from typing import Any

from purejaxppo import environments
from purejaxppo.config import Config
from purejaxppo.fields import ConfigError, unknown_name


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
    values = read(name) | changes
    if isinstance(values.get("env_params"), dict):
        env = environments.make(environments.resolve(values.get("env", Config.env)))
        values["env_params"] = environments.replaced_params(env.default_params, values["env_params"])
    return Config(**values)


def read(name: str | Path) -> dict[str, Any]:
    """The fields that a preset sets, as its file has them.

    Raises:
        ConfigError: there is no such preset, or the file cannot be read.
    """
    is_path = isinstance(name, Path) or name.endswith(".toml")
    if not is_path and name not in names():
        raise unknown_name("preset", name, names())
    try:
        return tomllib.loads((Path(name) if is_path else _shipped() / f"{name}.toml").read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"preset={str(name)!r}: cannot be read as TOML ({error})") from None


def _shipped() -> Any:
    return resources.files("purejaxppo.presets")
