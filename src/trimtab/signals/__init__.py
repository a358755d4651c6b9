"""Signals: the quantities that are measured on sampled steps of a training, one file each."""

from trimtab.members import of_others
from trimtab.signals.activations import Activations
from trimtab.signals.dead_units import DeadUnits
from trimtab.signals.gradients import Gradients
from trimtab.signals.inputs import Inputs
from trimtab.signals.labels import Labels
from trimtab.signals.movement import Movement
from trimtab.signals.shrinkage import Shrinkage
from trimtab.signals.signal import Reading, Signal
from trimtab.signals.sparsity import Sparsity
from trimtab.signals.targets import Targets
from trimtab.signals.updates import Updates

OWN: tuple[type[Signal], ...] = (
    Activations,
    DeadUnits,
    Gradients,
    Inputs,
    Labels,
    Movement,
    Shrinkage,
    Sparsity,
    Targets,
    Updates,
)


def all_signals() -> tuple[type[Signal], ...]:
    """These and those that other packages bring."""
    others = (one for one in of_others("signals") if isinstance(one, type) and issubclass(one, Signal))
    return (*OWN, *others)


__all__ = [
    "OWN",
    "Activations",
    "DeadUnits",
    "Gradients",
    "Inputs",
    "Labels",
    "Movement",
    "Reading",
    "Shrinkage",
    "Signal",
    "Sparsity",
    "Targets",
    "Updates",
    "all_signals",
]
