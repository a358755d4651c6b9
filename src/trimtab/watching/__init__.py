"""Watching a run: running a script, hearing what it says, measuring its trainings, keeping the record."""

from trimtab.watching.guard import WatchWarning
from trimtab.watching.recorder import Recorder
from trimtab.watching.script import Outcome, run_script

__all__ = ["Outcome", "Recorder", "WatchWarning", "run_script"]
