"""Paths that a user gives, and the text files that they lead to, which may be anything."""

import codecs
import errno
import os
import stat
from pathlib import Path
from typing import Any

from purejaxppo.errors import ConfigError

MOST_BYTES = 2**24  # of a text file that a person has written
UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def to_path(field: str, value: Any) -> Path:
    """A path that the system can be asked for.

    Raises:
        ConfigError: it is none.
    """
    if not isinstance(value, str | Path) or "\0" in str(value):
        raise ConfigError.of(field, value, "a path, without a NUL character")
    return Path(value)


def read_text(field: str, path: Path) -> str:
    """The text of a file; a byte order mark, with which some editors begin one, is left out, and lines end as in Unix.

    Raises:
        FileNotFoundError: it is not there.
        ConfigError: it is not a regular file, which might never end, too large for one that a person has written, or
            cannot be read as UTF-8.
    """
    try:
        with open(path, "rb", opener=_open_without_waiting) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise ConfigError.of(field, str(path), "a regular file")
            content = file.read(MOST_BYTES + 1)
    except FileNotFoundError:
        raise
    except OSError as error:
        is_none = error.errno in (errno.ENXIO, errno.EISDIR)  # a socket, a directory
        why = "must be a regular file" if is_none else f"cannot be read ({error.strerror})"
        raise ConfigError(f"{field}={str(path)!r}: {why}") from None
    if len(content) > MOST_BYTES:
        raise ConfigError.of(field, str(path), f"a file of at most {MOST_BYTES:,} bytes")
    try:
        return plain_lines(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        why = "it is UTF-16" if content.startswith(UTF_16) else str(error)
        raise ConfigError(f"{field}={str(path)!r}: must be text in UTF-8 ({why})") from None


def _open_without_waiting(path: str, flags: int) -> int:
    """Open, rather than wait for somebody to write to a pipe; what is opened is what one can ask about."""
    return os.open(path, flags | os.O_NONBLOCK)


def plain_lines(text: str) -> str:
    """A text whose lines end as in Unix, wherever it was written."""
    return text.replace("\r\n", "\n").replace("\r", "\n")
