"""How far a run is: a bar on a terminal, and elsewhere a line now and then."""

import contextlib
import time
from collections.abc import Iterator

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as Bar

from purejaxppo.cli import output
from purejaxppo.experiment.runs.loop import Callback, Progress, no_callback

SECONDS_BETWEEN_LINES = 10.0


@contextlib.contextmanager
def show(*, silent: bool) -> Iterator[Callback]:
    """Show how far a run is, on standard error, with a function that is to be called after each chunk."""
    console = output.console(stderr=True)
    if silent:
        yield no_callback
    elif console.is_terminal:
        with _bar(console) as callback:
            yield callback
    else:
        yield _lines(console)


def in_words(progress: Progress) -> str:
    """Word the part of a sweep, steps, speed, time left and the current return, for many agents with its spread."""
    minutes, seconds = divmod(round(progress.seconds_left), 60)
    returns = progress.metrics["episode_return"]
    returns = returns[np.isfinite(returns)]
    text = "none yet" if not len(returns) else f"{returns.mean():.3f}"
    if len(returns) > 1:
        text += f" ({returns.min():.3f} to {returns.max():.3f})"
    steps = f"{progress.num_steps:,} of {progress.total_steps:,} steps"
    parts = [progress.part] if progress.part else []
    parts += [steps, f"{progress.steps_per_second:,.0f} steps/s", f"{minutes}:{seconds:02} left", f"return {text}"]
    return ", ".join(parts)


@contextlib.contextmanager
def _bar(console: Console) -> Iterator[Callback]:
    columns = BarColumn(bar_width=20), MofNCompleteColumn(), TextColumn("{task.description}")
    with Bar(*columns, console=console) as bar:
        task = bar.add_task("compiling", total=None)

        def callback(progress: Progress) -> None:
            done, total = progress.num_updates, progress.total_updates
            bar.update(task, completed=done, total=total, description=in_words(progress))

        yield callback


def _lines(console: Console) -> Callback:
    shown_at = -SECONDS_BETWEEN_LINES

    def callback(progress: Progress) -> None:
        nonlocal shown_at
        is_last = progress.num_updates == progress.total_updates
        if is_last or time.monotonic() - shown_at >= SECONDS_BETWEEN_LINES:
            shown_at = time.monotonic()
            console.print(f"update {progress.num_updates:,} of {progress.total_updates:,}: {in_words(progress)}")

    return callback
