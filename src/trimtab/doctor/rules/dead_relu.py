"""Dead ReLU: units that are zero for every input and get no gradient, so that nothing can bring them back."""

from __future__ import annotations

import math
from collections.abc import Iterator

from trimtab.doctor.curves import called, progress
from trimtab.doctor.rule import rule
from trimtab.records import Evidence, Finding, TrainingRecord

MANY = 0.5  # of a layer's units: fewer are no finding
MOST = 2 / 3  # with fewer dead ones a network that learns is none the worse for them
ALL = 0.95  # with so many dead ones hardly anything passes


@rule(needs={"layers": "layers were not measured"})
def dead_relu(training: TrainingRecord) -> Iterator[Finding]:
    """Fires when half of a layer's units or more are dead in the last sampled step (see :class:`trimtab.signals.DeadUnits`): silent
    for 300 samples in a row, with a gradient of exactly zero. Some dead units are normal in wide layers, and an element that
    is often zero is sparse, not dead.

    How grave it is follows what it may have cost: an error where hardly anything was learned, a warning where two thirds are dead and
    less than 90 % was learned, else a note. Where it is not known how much there is to learn, only a layer that is dead as a
    whole is more than a note."""
    profile = training.profiles.get("dead_units")
    if profile is None or not profile.steps:
        return
    last = {name: share for name, share in zip(profile.names, profile.rows[-1], strict=True) if math.isfinite(share)}
    dead = {name: share for name, share in last.items() if share >= MANY}
    if not dead:
        return
    went = progress(training)
    units = {layer.name: layer.units for layer in training.layers}
    where = max(dead, key=dead.__getitem__)
    costly = dead[where] >= (MOST if went.known_reference else ALL)
    idle = went.learned < 0.3 and (went.known_reference or costly)
    first = next(
        step for step, row in zip(profile.steps, profile.rows, strict=True) if row[profile.names.index(where)] >= MANY
    )
    yield Finding(
        problem="dead_relu",
        severity="error" if idle else "warning" if costly and went.learned < 0.9 else "info",
        where=where,
        title=f"{dead[where]:.0%} of the units of {called(training, where)} are dead",
        evidence=(
            Evidence(
                text="; ".join(
                    f"{name}: {share:.0%} of {units.get(name, 0)} units dead" for name, share in dead.items()
                )
                + f". In {where} half of them were by step {first}.",
                numbers=dict(dead),
                shows=("dead_units",),
            ),
            Evidence(text=went.in_words, numbers={"learned": went.learned}, shows=("loss",)),
        ),
        cause="A ReLU whose input is negative for every sample passes no gradient, so its weights never change again. One overly large step, "
        "a large negative bias or badly scaled inputs push units there; they do not come back.",
        source="Glorot, Bordes, Bengio 2011; He et al. 2015",
        remedies=("lr_scale(factor=0.1)", "batch_norm", "he_init", "lr_scale(factor=0.01)"),
    )
