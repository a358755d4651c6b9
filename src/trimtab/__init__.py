"""trimtab makes PyTorch networks train steadily and generalise, and proves it.

>>> import torch
>>> import trimtab as tt
>>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
>>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
>>> training = tt.attach(model, optimizer).apply("batch_norm, clip_norm(max_norm=1.0)")
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trimtab.doctor import diagnose
    from trimtab.optim import lr_range_test
    from trimtab.recipe import NothingToDo, Recipe, RecipeError, Technique
    from trimtab.reporting import report
    from trimtab.training import Training, attach
    from trimtab.trial.compare import compare
    from trimtab.trial.noise import noise
    from trimtab.trial.subjects import Script, Task
    from trimtab.trial.treat import treat
    from trimtab.trial.tune import tune
    from trimtab.trial.watch import watch
    from trimtab.watching import Recorder

__version__ = "0.1.0"

# name -> its module; nothing is imported before it is asked for
_HOMES = {
    "Script": "trimtab.trial.subjects",
    "Task": "trimtab.trial.subjects",
    "compare": "trimtab.trial.compare",
    "noise": "trimtab.trial.noise",
    "treat": "trimtab.trial.treat",
    "tune": "trimtab.trial.tune",
    "watch": "trimtab.trial.watch",
    "diagnose": "trimtab.doctor",
    "lr_range_test": "trimtab.optim",
    "Recorder": "trimtab.watching",
    "attach": "trimtab.training",
    "Training": "trimtab.training",
    "Technique": "trimtab.recipe",
    "Recipe": "trimtab.recipe",
    "RecipeError": "trimtab.recipe",
    "NothingToDo": "trimtab.recipe",
}

__all__ = [
    "NothingToDo",
    "Recipe",
    "RecipeError",
    "Recorder",
    "Script",
    "Task",
    "Technique",
    "Training",
    "attach",
    "compare",
    "diagnose",
    "lr_range_test",
    "noise",
    "report",
    "treat",
    "tune",
    "watch",
]


def drawing() -> Any:
    """The room that draws records."""
    return importlib.import_module("trimtab.reporting")


def __getattr__(name: str) -> Any:
    if name == "report":  # the room of that name, which can be called
        return importlib.import_module("trimtab.report")
    if name not in _HOMES:
        raise AttributeError(f"module 'trimtab' has no attribute {name!r}. It has: {', '.join(sorted(__all__))}.")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
