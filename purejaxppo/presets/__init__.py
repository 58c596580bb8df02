"""Presets: configurations that are known to learn, by name, and files of one's own."""

import tomllib
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from purejaxppo.config import Config
from purejaxppo.errors import ConfigError, unknown_name
from purejaxppo.overrides import override
from purejaxppo.tables import from_table
from purejaxppo.user_files import read_text, to_path


def names() -> list[str]:
    """Names of the presets that come with the package."""
    return sorted(entry.name.removesuffix(".toml") for entry in _shipped().iterdir() if entry.name.endswith(".toml"))


def preset(name: str | Path, *, imports: Sequence[str] = (), **changes: Any) -> Config:
    """The configuration of a preset, with some fields changed.

    Args:
        name: one that comes with the package ("treasure", "serrano"), or the path of a file (*.toml).
        imports: modules of yours that a file may name, see `purejaxppo.import_paths`.
        changes: fields of `Config`; several at once, those of the network too, by `**{"network.hidden_sizes": (8,)}`.

    Raises:
        ConfigError: there is no such preset, the file cannot be read, or a field in it cannot be used.
    """
    config: Config = from_table(_read(name), imports=imports)
    return override(config, changes)


def _read(name: str | Path) -> dict[str, Any]:
    """The fields that a preset sets, as its file has them.

    Raises:
        ConfigError: there is no such preset, or the file cannot be read.
    """
    if name in names():
        return tomllib.loads((_shipped() / f"{name}.toml").read_text(encoding="utf-8"))
    if not (isinstance(name, Path) or str(name).endswith(".toml")):
        raise unknown_name("preset", name, names())
    path = to_path("preset", name)
    try:
        return tomllib.loads(read_text("preset", path))
    except (FileNotFoundError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(f"preset={str(name)!r}: cannot be read as TOML ({error})") from None


def _shipped() -> Any:
    return resources.files("purejaxppo.presets")
