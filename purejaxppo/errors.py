"""The errors this package raises on purpose; the command line prints them as one line."""

import difflib
import re
from typing import Any, Self


class PurejaxppoError(Exception):
    """Base of every error that this package raises on purpose."""


class ConfigError(PurejaxppoError, ValueError):
    """A setting or an input that cannot be used; the message names the field, the value and the allowed range."""

    @classmethod
    def of(cls, field: str, value: Any, allowed: str) -> Self:
        """The error for one field."""
        in_one_line = re.sub(r"\n\s*", " ", repr(value))  # an array has many
        return cls(f"{field}={in_one_line}: must be {allowed}")


class RunError(PurejaxppoError, OSError):
    """A file or directory that cannot be read or written, or is not what it should be."""


def unknown_name(kind: str, name: Any, names: list[str]) -> ConfigError:
    """The error for a name that does not exist, with the nearest one that does."""
    near = difflib.get_close_matches(str(name), names, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(names)}"
    return ConfigError(f"unknown {kind} {name!r}; {hint}")
