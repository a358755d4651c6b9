"""Signals: the quantities that are measured on sampled steps of a training, one file each."""

from collections.abc import Callable

from trimtab.members import leave_out, members_of
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


def all_signals(taken: Callable[[str], bool] = lambda name: False) -> tuple[type[Signal], ...]:
    """These and those that other packages bring, but for one that measures what another measures already, or whose name is ``taken``."""
    whose = {one.name: "trimtab" for signal in OWN for one in signal.measures}
    for member in members_of("signals"):
        names = [one.name for one in member.thing.measures]
        clash = next((name for name in names if name.lower() in whose or taken(name)), None)
        if clash is None:
            whose |= {name.lower(): member.package for name in names}
        else:
            has = whose.get(clash.lower(), "trimtab")
            leave_out("signals", member.thing, f"it measures {clash!r}, a name that {has} has already; give it another")
    return (*OWN, *(member.thing for member in members_of("signals")))


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
