"""The live handle on a training, the script runner, our own small loop, and seeds."""

from trimtab.training.handle import Training, attach
from trimtab.training.recorder import Recorder, WatchWarning
from trimtab.training.script import Outcome, run_script
from trimtab.training.seeds import shifted

__all__ = ["Outcome", "Recorder", "Training", "WatchWarning", "attach", "run_script", "shifted"]
