"""Trials: subjects, paired seeds, statistics, and the search for a treatment."""

from trimtab.trial.compare import compare
from trimtab.trial.subjects import Script, Task
from trimtab.trial.treat import treat

__all__ = ["Script", "Task", "compare", "treat"]
