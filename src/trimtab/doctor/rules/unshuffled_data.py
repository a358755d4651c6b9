"""Unshuffled data: the batches are ordered by class."""

from __future__ import annotations

from collections.abc import Iterator

from trimtab.doctor.curves import LossProgress, held_out, progress
from trimtab.doctor.rule import rule
from trimtab.records import Evidence, Finding, Series, TrainingRecord

CHANCE = 1e-6  # of shuffled data giving such batches
GROUPED = 0.2  # of the way from shuffled to one class in each batch


@rule(needs={"label_grouping": "no classes of labels were seen"})
def unshuffled_data(training: TrainingRecord) -> Iterator[Finding]:
    """Fires when shuffled data would have batches so unlike each other in their classes with a probability below 1e-6,
    and they are a fifth of the way from shuffled ones to one class in each, or further. An error when the training
    suffered (by its own loss, or less than half learned of the held-out one), a warning when it might have (less than
    90 % learned), else a note."""
    grouping, chance = training.get("label_grouping"), training.get("label_grouping_p")
    if not (chance.last < CHANCE and grouping.last >= GROUPED):
        return
    went, (name, series) = progress(training), held_out(training, "loss")
    learned = min(went.learned, _held_out_share(went, series))
    evidence = [
        Evidence(
            text=f"The batches are {grouping.last:.0%} of the way from shuffled ones (0%) to one class in each (100%). Shuffled data would "
            f"be as far with a probability of {'less than 1e-300' if chance.last < 1e-300 else f'{chance.last:.1g}'}.",
            numbers={"grouping": grouping.last, "p": chance.last},
            shows=("label_grouping",),
        ),
        Evidence(text=went.in_words, numbers={"learned": went.learned}, shows=("loss",)),
    ]
    if len(series) and went.known_reference:
        evidence.append(
            Evidence(
                text=f"The {name} ended at {series.last:.4g}; an answer that ignores the input has {went.reference:.4g} "
                "on the training data.",
                numbers={"held_out": series.last},
                shows=(name,),
            )
        )
    normed = any("BatchNorm" in layer.kind for layer in training.layers)
    yield Finding(
        problem="unshuffled_data",
        severity="error" if went.suffered or learned < 0.5 else "warning" if learned < 0.9 else "info",
        where="data",
        title="The training data come ordered by class: shuffle them in the data loader",
        evidence=tuple(evidence),
        cause="Each step then follows the gradient of a few classes, and the next steps undo what it did to the others; "
        + (
            "batch normalization measures the classes of the batch and not the data, so that evaluation, with its running "
            "statistics, meets another network. "
            if normed
            else ""
        )
        + "No technique mends this, only the data loader: DataLoader(..., shuffle=True), or a new random order of the indices in each "
        "epoch.",
        source="Ioffe & Szegedy 2015, Batch Normalization, section 4.2.1; Bottou 2012, Stochastic Gradient Descent Tricks",
        confidence=0.95,
    )


def _held_out_share(went: LossProgress, series: Series) -> float:
    """The share of the loss that was learned away on held-out data; infinite where that is not known."""
    return 1 - series.last / went.reference if len(series) and went.known_reference else float("inf")
