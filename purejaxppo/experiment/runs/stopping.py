"""How a run is stopped from outside: by Ctrl-C, or by what Slurm, Kubernetes, systemd and closed terminals send."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from time import sleep
from typing import Any

import jax

# Slurm sends the last one where it is told to (--signal=USR1@60).
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)


class Interrupted(KeyboardInterrupt):
    """A signal stopped it; the message says how far it is."""

    def __init__(self, message: str, signum: int = signal.SIGINT) -> None:
        super().__init__(message)
        self.signum = signum


def signum_of(interrupt: KeyboardInterrupt) -> int:
    """Which signal it was: Ctrl-C's, where it does not say."""
    return interrupt.signum if isinstance(interrupt, Interrupted) else signal.SIGINT


class Stop:
    """Whether what is under way is to stop, and which signal says so, if it was one."""

    def __init__(self) -> None:
        self.is_set = False
        self.signum: int | None = None

    def set(self, signum: int | None = None) -> None:
        """Ask to stop; the first one to ask counts."""
        if not self.is_set:
            self.is_set, self.signum = True, signum

    def wait_for(self, arrays: Any) -> bool:
        """Wait until a pytree's arrays are computed, or to stop; whether they are. A computation itself cannot stop."""
        pause = 1e-4
        leaves = jax.tree.leaves(arrays)
        while not all(leaf.is_ready() for leaf in leaves):
            if self.is_set:
                return False
            sleep(pause)  # a signal ends it
            pause = min(2 * pause, 0.05)
        return True


@contextlib.contextmanager
def stop_later() -> Iterator[Stop]:
    """Let the signals that end a process ask to stop instead; Ctrl-C once more raises. Only the main thread gets them.

    Compiling must not be interrupted either: XLA may swallow that, or crash when Python shuts down. Handlers of the
    program's own, and signals that it ignores (as `nohup` makes it), are left alone, but for Ctrl-C.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {signum: signal.getsignal(signum) for signum in SIGNALS}
    ours = [signum for signum in SIGNALS if signum == signal.SIGINT or before[signum] == signal.SIG_DFL]

    def ask(signum: int, _: Any) -> None:
        stop.set(signum)
        signal.signal(signal.SIGINT, before[signal.SIGINT])

    for signum in ours:
        signal.signal(signum, ask)
    try:
        yield stop
    finally:
        for signum in ours:
            signal.signal(signum, before[signum])
