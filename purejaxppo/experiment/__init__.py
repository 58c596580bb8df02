"""The host layer: everything around the compiled core that a person sees."""

from purejaxppo.experiment.reports.report import report
from purejaxppo.experiment.runs.loop import Progress, RunOptions
from purejaxppo.experiment.runs.run import load, load_policy, resume, run
from purejaxppo.experiment.sweeps.sweep import load_agents, load_trials, sweep

__all__ = [
    "Progress",
    "RunOptions",
    "load",
    "load_agents",
    "load_policy",
    "load_trials",
    "report",
    "resume",
    "run",
    "sweep",
]
