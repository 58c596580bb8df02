"""The command line: `purejaxppo COMMAND`, one module per command."""

import contextlib
import io
import itertools
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import tyro

from purejaxppo import _starting
from purejaxppo.cli import describe, envs, evaluate, plot, render, report, resume, sweep, train
from purejaxppo.errors import ConfigError, PurejaxppoError, in_one_line
from purejaxppo.experiment.runs.stopping import signum_of

# A command is a module with `flags(argv)`, the type of its flags as tyro reads it, and `main(flags)`.
COMMANDS: dict[str, Any] = {
    "train": train,
    "resume": resume,
    "evaluate": evaluate,
    "sweep": sweep,
    "report": report,
    "plot": plot,
    "render": render,
    "envs": envs,
    "describe": describe,
}
HELP = """PPO in JAX, fully jitted.

Compiled programs are kept in the user's cache directory and serve later runs; JAX_COMPILATION_CACHE_DIR names another
place, and JAX_ENABLE_COMPILATION_CACHE=false keeps none.
"""
SIGNALLED = 128  # plus the signal's number is the exit status, as shells have it
COMPLETION_FLAGS = ("--tyro-print-completion", "--tyro-write-completion")  # of tyro
SHELLS = ("bash", "zsh", "fish")


class Command(NamedTuple):
    """What the command line asks for."""

    module: Any
    flags: Any


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status: 2 for what cannot be used, 130 after Ctrl-C, 143 after SIGTERM."""
    _starting.end()
    if argv is None:
        _print_what_can_be_printed()
    try:
        _run(sys.argv[1:] if argv is None else list(argv))
    except PurejaxppoError as error:
        return _fail(str(error))
    except KeyboardInterrupt as interrupt:
        status = _fail(str(interrupt) or "interrupted", SIGNALLED + signum_of(interrupt))
        if argv is None:
            _exit_at_once(status)
        return status
    except OSError as error:
        if argv is None:
            _discard_output()
        if isinstance(error, BrokenPipeError):  # whoever read has enough
            return 1
        return _fail(f"{error.filename or 'output'}: cannot be written to ({error.strerror or error})")
    except (MemoryError, OverflowError, RuntimeError) as error:
        problem = _what_is_lacking(error)
        if problem is None:
            raise
        return _fail(problem)
    return 0


def _run(argv: list[str]) -> None:
    """Run a command; what it has printed is out when it returns, as nobody would hear of an error later."""
    try:
        command = parse(argv)
        _keep_compiled_programs()
        command.module.main(command.flags)
    finally:
        sys.stdout.flush()


def _fail(problem: str, status: int = _starting.UNUSABLE) -> int:
    """Print what went wrong, in one line; returns the exit status."""
    print(f"{_starting.NAME}: {in_one_line(problem)}", file=sys.stderr)
    return status


def _what_is_lacking(error: Exception) -> str | None:
    """Say what the machine has not, memory or a device; None for any other error."""
    line = next(iter(str(error).splitlines()), type(error).__name__)
    if "Unable to initialize backend" in line:
        return f"JAX_PLATFORMS={os.environ.get('JAX_PLATFORMS')!r}: {line}"
    if isinstance(error, MemoryError | OverflowError) or re.search("RESOURCE_EXHAUSTED|out of memory", line, re.I):
        return f"out of memory ({line})"
    return None


def parse(argv: list[str]) -> Command:
    """The command, and its flags as an object of its type.

    Raises:
        ConfigError: there is no such command, or a flag cannot be used.
    """
    _check_shell(argv)
    app = tyro.extras.SubcommandApp()
    for name, module in COMMANDS.items():
        kind = module.flags(argv[1:] if argv[:1] == [name] else [])
        app.command(kind, name=name, help=None if argv[:1] == [name] else module.HELP.partition("\n")[0])
    messages = io.StringIO()
    try:
        with contextlib.redirect_stderr(messages):
            return Command(
                COMMANDS.get(argv[0] if argv else ""), app.cli(prog="purejaxppo", description=HELP, args=argv)
            )
    except SystemExit as stop:
        if not stop.code:  # help, or a shell's completions
            raise
        raise ConfigError(_one_line(messages.getvalue())) from None


def _print_what_can_be_printed() -> None:
    """Where there is no UTF-8, question marks stand for arrows, and a closed stream is one to nowhere."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115, until the process ends
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def _discard_output() -> None:
    """Write to nowhere what is left to be printed, rather than that Python fails to when it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _exit_at_once(status: int) -> None:
    """End the process without Python's shutdown, in which XLA crashes if it was interrupted while compiling."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _check_shell(argv: list[str]) -> None:
    """Refuse to complete for a shell that tyro does not know, or that needs more than is installed."""
    for flag, shell in itertools.pairwise(argv):
        if flag in COMPLETION_FLAGS and shell not in SHELLS:
            raise ConfigError(f"{flag} {shell}: must be one of {', '.join(SHELLS)}")


def _one_line(message: str) -> str:
    """tyro's boxed message without its frame and its footer. Where there is no UTF-8, the frame is of hyphens."""
    parts = re.split(r"─{2,}|-{3,}", re.sub(r"╭─|[│╮╰╯]", "", message))
    parts = [" ".join(part.split()) for part in parts]
    title, _, text = "; ".join(x for x in parts if x and not x.startswith("For full helptext")).partition("; ")
    return text if text.startswith(title) else f"{title}: {text}"


def _keep_compiled_programs() -> None:
    """Switch JAX's persistent compilation cache on, unless the user has decided otherwise."""
    if jax.config.jax_compilation_cache_dir is not None:  # type: ignore[attr-defined]
        return
    place = _cache_directory()
    if place is not None:
        jax.config.update("jax_compilation_cache_dir", str(place))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def _cache_directory() -> Path | None:
    """Make ours in the user's cache directory; None where nothing can be kept."""
    try:
        place = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / _starting.NAME
        place.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # it cannot be made, or the user has no home
        return None
    return place if os.access(place, os.W_OK | os.X_OK) else None
