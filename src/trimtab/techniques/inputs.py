"""What techniques that normalize the inputs of a model share: the layer they stand before, how they learn, what they tell."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from trimtab.data.input_report import KINDS
from trimtab.data.preprocessing import Preprocessing
from trimtab.recipe import Change, Technique, TrainingLike
from trimtab.techniques.surgery import CONV, NORM, Hung, nothing


def normalize_inputs(
    technique: Technique,
    training: TrainingLike,
    role: str,
    make: Callable[[int, int], Preprocessing],
    done: str,
    most: int | None = None,
) -> Change:
    """Put ``make(features, axis)`` in front of the first layer with weights. ``most``: features it may have.

    Missing and infinite values become their feature's mean, so that they cannot make the loss NaN; the outcome tells
    how many.
    """
    name, layer, features, axis = _first_layer(technique, training)
    if most is not None and features > most:
        raise nothing(
            technique,
            f"its first layer, {name}, has {features} input features, and a matrix of {features} x {features} would be too "
            f"dear: it takes up to {most}.",
        )
    part = make(features, axis).to(next(layer.parameters(recurse=False)).device)
    hung = Hung(layer, role, part, _call, before=True)
    stops = (
        # A closure evaluates one batch several times: it counts once, and the loss must not change meanwhile.
        training.on("gradients", lambda _: setattr(part, "learning", False)),
        training.on("after_step", lambda _: setattr(part, "learning", True)),
    )

    def undo() -> None:
        for stop in stops:
            stop()
        hung.take_off()

    return Change(
        f"{features} input features {done} before {name or 'the model'}",
        undo,
        lambda: hung.called,
        outcome=lambda: _outcome(part),
    )


def check_batches(batches: int | None) -> None:
    """Refuse a number of batches below 1."""
    if batches is not None and batches < 1:
        raise ValueError(
            f"batches={batches} must be 1 or more: the training batches to learn from. Leave it out for all."
        )


def _first_layer(technique: Technique, training: TrainingLike) -> tuple[str, nn.Module, int, int]:
    """The first layer with weights, how many features go into it, and on which axis."""
    name, layer = next(
        ((n, m) for n, m in training.named_modules() if any(True for _ in m.parameters(recurse=False))), ("", None)
    )
    if layer is None:
        raise nothing(technique, "the model has no layer with parameters.")
    kind = type(layer).__name__
    if isinstance(layer, (*NORM, nn.Embedding)):
        raise nothing(technique, f"its first layer, {name}, is a {kind} and takes its inputs as they are.")
    if isinstance(layer, nn.Linear):
        return name, layer, int(layer.in_features), -1
    if isinstance(layer, CONV):
        return name, layer, int(layer.in_channels), 1  # type: ignore[arg-type]
    if isinstance(layer, (nn.RNNBase, nn.RNNCellBase)):
        return name, layer, int(layer.input_size), -1
    raise nothing(technique, f"its first layer, {name}, is a {kind}, whose input features are not known.")


def _call(part: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return part(x) if x.is_floating_point() else x


def _outcome(part: Preprocessing) -> str:
    report = part.report()
    words = [report.in_words(KINDS[2:])]
    if part.filled:
        where = report.in_words(KINDS[:2])
        learned = f" (learning, it met {where})" if where else ""
        words.append(f"{part.filled} missing or infinite values became the mean of their feature{learned}")
    return "; ".join(filter(None, [*words, *report.remarks]))
