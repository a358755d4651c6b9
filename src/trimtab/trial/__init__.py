"""Trials: subjects, paired seeds, statistics, the search for a treatment, and that of a space of recipes."""

from trimtab.trial.compare import compare
from trimtab.trial.subjects import Script, Task
from trimtab.trial.treat import treat
from trimtab.trial.tune import tune

__all__ = ["Script", "Task", "compare", "treat", "tune"]
