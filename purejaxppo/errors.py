"""The errors this package raises on purpose; the command line prints them as one line."""

import difflib
import re
from typing import Any, Self


def printable(text: str) -> str:
    r"""A text with `\x1b` and the like in place of what a terminal obeys or cannot show; lines stay lines."""
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)


def in_one_line(text: str) -> str:
    """A printable text of a single line: an array's `repr`, or another package's message, has many."""
    return printable(re.sub(r"\s*\n\s*", " ", text.strip()))


class PurejaxppoError(Exception):
    """Base of every error that this package raises on purpose; its message is one printable line."""

    def __init__(self, message: str = "") -> None:
        super().__init__(in_one_line(message))


class ConfigError(PurejaxppoError, ValueError):
    """A setting or an input that cannot be used; the message names the field, the value and the allowed range."""

    @classmethod
    def of(cls, field: str, value: Any, allowed: str) -> Self:
        """The error for one field."""
        return cls(f"{field}={value!r}: must be {allowed}")


class RunError(PurejaxppoError, OSError):
    """A file or directory that cannot be read or written, or is not what it should be."""


def unknown_name(kind: str, name: Any, names: list[str]) -> ConfigError:
    """The error for a name that does not exist, with the nearest one that does."""
    near = difflib.get_close_matches(str(name), names, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(names)}"
    return ConfigError(f"unknown {kind} {name!r}; {hint}")
