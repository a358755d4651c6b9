"""Which parameters of a training a penalty, a decay or a constraint acts on."""

from __future__ import annotations

import difflib
from fnmatch import fnmatchcase

from torch import nn

from trimtab.reading.weights import WEIGHTED, classes_of, computed_weights, own_weights, trained
from trimtab.recipe import TrainingLike
from trimtab.techniques.engines.surgery import listed_names, nothing_for


def chosen(technique: object, training: TrainingLike, only: str = "") -> list[tuple[str, nn.Parameter]]:
    """The parameters to act on, with their names: each once, in the order of the model; also those that are :func:`trained` later only.

    By default the weights proper: the parameters with two or more dimensions of linear, convolution, recurrent, bilinear and
    attention modules, by the type of the module. Biases, scales of normalizations and embeddings are left out. A weight that is
    computed from one of its own shape (a parametrization) stands for that one; those of :func:`left_alone` for none.

    Args:
        technique: the one that asks, for the error.
        training: where to look.
        only: a pattern (``"encoder.*weight"``) for the names of parameters, or the class of a module (``"Linear"``), which
            stands for all its parameters, biases too.

    Raises:
        NothingToDo: if there is none, or none that is trained.
    """
    named = [(name, p) for name, p in training.named_parameters() if not isinstance(p, nn.UninitializedParameter)]
    modules = [module for _, module in training.named_modules()]
    if only:
        inside = {id(p) for module in modules if only in classes_of(module) for p in own_weights(module)}
        found = [(name, p) for name, p in named if id(p) in inside or fnmatchcase(name, only)]
    else:
        weights = {
            id(p) for module in modules if isinstance(module, WEIGHTED) for p in own_weights(module) if p.ndim > 1
        }
        found = [(name, p) for name, p in named if id(p) in weights]
    if not found and only:
        kinds = sorted({classes_of(module)[0] for module in modules if own_weights(module)})
        close = difflib.get_close_matches(only, [*kinds, *(name for name, _ in named)], n=3, cutoff=0.5)
        offer = f"Did you mean {' or '.join(map(repr, close))}?" if close else f"Its classes are {', '.join(kinds)}."
        raise nothing_for(technique, f"the model has no parameter and no class of modules {only!r}. {offer}")
    if not found:
        told = "".join(f" {one[0].upper()}{one[1:]}." for one in left_alone(training))
        raise nothing_for(
            technique, f"the model has no linear, convolution, recurrent, bilinear or attention weights.{told}"
        )
    if not trained(training, found):
        raise nothing_for(
            technique, f"none of these is trained, they are frozen or in no optimizer: {listed_names(found)}."
        )
    return list({id(p): (name, p) for name, p in found}.values())  # models that are trained together may share some


def left_alone(training: TrainingLike, only: str = "") -> tuple[str, ...]:
    """What is told of the weights that :func:`chosen` passes over, because they are computed from several parameters.

    Those of weight norm: its direction has a length without meaning, and its gains are lengths of units, no weights.
    """
    found = [
        (f"{name}.{weight}".lstrip("."), (name, sources))
        for name, module in training.named_modules()
        if (only in classes_of(module) if only else isinstance(module, WEIGHTED))
        for weight, sources in computed_weights(module).items()
    ]
    if not found:
        return ()
    example, (name, sources) = found[0]
    listed = " and ".join(f"{name}.{source}".lstrip(".") for source in sources)
    return (f"left alone, as several parameters make one ({example} is made of {listed}): {listed_names(found)}",)
