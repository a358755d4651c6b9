"""Watching a run: running a script, hearing what it says, measuring its trainings, keeping the record."""

from trimtab.watching.guard import WatchWarning
from trimtab.watching.recorder import Recorder
from trimtab.watching.script import Ending, run_script

__all__ = ["Ending", "Recorder", "WatchWarning", "run_script"]
