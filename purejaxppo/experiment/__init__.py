"""The host layer: everything around the compiled core that a person sees."""

from purejaxppo.experiment.reports.report import report
from purejaxppo.experiment.runs.loop import Progress, Schedule
from purejaxppo.experiment.runs.run import load, load_policy, resume, run
from purejaxppo.experiment.sweeps.sweep import sweep

__all__ = ["Progress", "Schedule", "load", "load_policy", "report", "resume", "run", "sweep"]
