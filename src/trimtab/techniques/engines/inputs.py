"""What techniques that normalize the inputs of a model share: the layer they stand before, how they learn, what they tell."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from trimtab.data.input_report import FAULTS
from trimtab.data.preprocessing import Preprocessing
from trimtab.reading.order import CONV, doubts, is_norm, takes_input
from trimtab.recipe import Change, Technique, TrainingLike
from trimtab.techniques.engines.surgery import Hung, listed_names, nothing_for, training_now


def normalize_inputs(
    technique: Technique,
    training: TrainingLike,
    role: str,
    make: Callable[[int, int], Preprocessing],
    done: str,
    most: int | None = None,
) -> Change:
    """Put ``make(features, axis)`` in front of every layer that takes the model's input. ``most``: features it may have.

    Missing and infinite values become their feature's mean, so that they cannot make the loss NaN; the outcome tells
    how many.
    """
    found = _first_layers(technique, training)
    for name, _, features, _ in found:
        if most is not None and features > most:
            raise nothing_for(
                technique,
                f"its first layer, {name}, has {features} input features, and a matrix of {features} x {features} would be too "
                f"dear: it takes up to {most}.",
            )
    parts = [make(features, axis).to(next(layer.parameters()).device) for _, layer, features, axis in found]
    hung = [Hung(one[1], role, part, _call, before=True) for one, part in zip(found, parts, strict=True)]

    def learning(on: bool) -> None:
        for part in parts:
            part.learning = on

    stops = (
        # A closure evaluates one batch several times: it counts once, and the loss must not change meanwhile.
        training.on("gradients", lambda _: learning(False)),
        training.on("after_step", lambda _: learning(True)),
    )

    def undo() -> None:
        for stop in stops:
            stop()
        for one in hung:
            one.take_off()

    widths = ", ".join(map(str, dict.fromkeys(features for _, _, features, _ in found)))
    return Change(
        f"{widths} input features {done} before {listed_names([one[:2] for one in found]) if found[0][0] else 'the model'}",
        undo,
        lambda: any(bool(part.count) for part in parts),
        doubts(training),
        outcome=lambda: "; ".join(
            filter(None, (_outcome(one[0] if len(found) > 1 else "", p) for one, p in zip(found, parts, strict=True)))
        ),
    )


def check_batches(batches: int | None) -> None:
    """Refuse a number of batches below 1."""
    if batches is not None and batches < 1:
        raise ValueError(
            f"batches={batches} must be 1 or more: the training batches to learn from. Leave it out for all."
        )


def _first_layers(technique: Technique, training: TrainingLike) -> list[tuple[str, nn.Module, int, int]]:
    """The layers that take the input, how many features go into each, and on which axis."""
    takers = takes_input(training)
    found: list[tuple[str, nn.Module, int, int]] = []
    refused = ""
    for name, layer in training.named_modules():
        if id(layer) not in takers:
            continue
        kind = type(layer).__name__
        if is_norm(layer) or isinstance(layer, nn.Embedding):
            refused = refused or f"its first layer, {name}, is a {kind} and takes its inputs as they are."
        elif isinstance(layer, nn.Linear):
            found.append((name, layer, int(layer.in_features), -1))
        elif isinstance(layer, CONV):
            found.append((name, layer, int(layer.in_channels), 1))  # type: ignore[arg-type]
        elif isinstance(layer, (nn.RNNBase, nn.RNNCellBase)):
            found.append((name, layer, int(layer.input_size), -1))
        else:
            refused = refused or f"its first layer, {name}, is a {kind}, whose input features are not known."
    if not found:
        raise nothing_for(technique, refused or "the model has no layer with parameters.")
    return found


def _call(part: Any, x: torch.Tensor) -> torch.Tensor:
    if not x.is_floating_point():
        return x
    learning = part.learning
    part.learning = learning and training_now(part)
    try:
        return part(x)
    finally:
        part.learning = learning


def _outcome(name: str, part: Preprocessing) -> str:
    report = part.report()
    words = [report.in_words(FAULTS[2:])]
    if part.filled:
        where = report.in_words(FAULTS[:2])
        learned = f" (learning, it met {where})" if where else ""
        words.append(f"{part.filled} missing or infinite values became the mean of their feature{learned}")
    told = "; ".join(filter(None, [*words, *report.remarks]))
    return f"{name}: {told}" if name and told else told
