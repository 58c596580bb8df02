"""The host layer: everything around the compiled core that a person sees."""

from purejaxppo.experiment.loop import Progress, Schedule
from purejaxppo.experiment.reports import report
from purejaxppo.experiment.runs import load, load_policy, resume, run
from purejaxppo.experiment.sweeps import sweep

__all__ = ["Progress", "Schedule", "load", "load_policy", "report", "resume", "run", "sweep"]
