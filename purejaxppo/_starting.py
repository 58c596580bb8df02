"""The command line while it is being imported, which takes a second: Ctrl-C and an error are one line there as well.

Imported first, by `purejaxppo/__init__.py`. In a program that imports the package, it does nothing.
"""

import os
import signal
import sys
from typing import Any

NAME = "purejaxppo"
INTERRUPTED, UNUSABLE = 130, 2  # exit statuses


def is_command(argv: list[str], original: list[str]) -> bool:
    """Whether the process is the command, by `sys.argv` and `sys.orig_argv`; `python -m` is while it looks for us."""
    if argv[:1] == ["-m"] and "-m" in original:
        return original[original.index("-m") + 1 :][:1] == [NAME]
    return os.path.basename(argv[0] if argv else "") == NAME


def begin() -> None:
    """Be ready for Ctrl-C and errors."""
    sys.excepthook = _end_with_error
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # it may be ignored on purpose
        signal.signal(signal.SIGINT, _end_interrupted)


def end() -> None:
    """Leave both to `cli.main`."""
    if sys.excepthook is _end_with_error:
        sys.excepthook = sys.__excepthook__
    if signal.getsignal(signal.SIGINT) is _end_interrupted:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _end_interrupted(*_: Any) -> None:
    """End at once: an exception that is raised while modules are executed can get lost."""
    os.write(2, f"{NAME}: interrupted\n".encode())
    os._exit(INTERRUPTED)


def _end_with_error(kind: type[BaseException], error: BaseException, _: Any) -> None:
    """Say what another package refuses, such as an environment variable."""
    variables = [f"{name}={value}" for name, value in os.environ.items() if name.startswith("JAX_")]
    line = "; ".join([" ".join(f"{kind.__name__} {error}".split()), *variables])
    os.write(2, f"{NAME}: cannot be started ({line})\n".encode(errors="backslashreplace"))
    os._exit(UNUSABLE)


if is_command(getattr(sys, "argv", []), sys.orig_argv):
    begin()
