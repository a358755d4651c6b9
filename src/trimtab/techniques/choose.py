"""Which parameters of a training a penalty, a decay or a constraint acts on."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from fnmatch import fnmatchcase

from torch import nn
from torch.nn.utils import parametrize
from torch.nn.utils.weight_norm import WeightNorm

from trimtab.reading.order import CONV, LINEAR
from trimtab.recipe import TrainingLike
from trimtab.techniques.surgery import names, nothing

WEIGHTED = (*LINEAR, *CONV, nn.RNNBase, nn.RNNCellBase, nn.Bilinear, nn.MultiheadAttention)


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
        inside = {id(p) for module in modules if only in _classes(module) for p in _own(module)}
        found = [(name, p) for name, p in named if id(p) in inside or fnmatchcase(name, only)]
    else:
        weights = {id(p) for module in modules if isinstance(module, WEIGHTED) for p in _own(module) if p.ndim > 1}
        found = [(name, p) for name, p in named if id(p) in weights]
    if not found and only:
        kinds = sorted({_classes(module)[0] for module in modules if _own(module)})
        close = difflib.get_close_matches(only, [*kinds, *(name for name, _ in named)], n=3, cutoff=0.5)
        offer = f"Did you mean {' or '.join(map(repr, close))}?" if close else f"Its classes are {', '.join(kinds)}."
        raise nothing(technique, f"the model has no parameter and no class of modules {only!r}. {offer}")
    if not found:
        told = "".join(f" {one[0].upper()}{one[1:]}." for one in left_alone(training))
        raise nothing(
            technique, f"the model has no linear, convolution, recurrent, bilinear or attention weights.{told}"
        )
    if not trained(training, found):
        raise nothing(technique, f"none of these is trained, they are frozen or in no optimizer: {names(found)}.")
    return list({id(p): (name, p) for name, p in found}.values())  # models that are trained together may share some


def left_alone(training: TrainingLike, only: str = "") -> tuple[str, ...]:
    """What is told of the weights that :func:`chosen` passes over, because they are computed from several parameters.

    Those of weight norm: its direction has a length without meaning, and its gains are lengths of units, no weights.
    """
    found = [
        (f"{name}.{weight}".lstrip("."), (name, sources))
        for name, module in training.named_modules()
        if (only in _classes(module) if only else isinstance(module, WEIGHTED))
        for weight, sources in _computed(module).items()
    ]
    if not found:
        return ()
    example, (name, sources) = found[0]
    listed = " and ".join(f"{name}.{source}".lstrip(".") for source in sources)
    return (f"left alone, as several parameters make one ({example} is made of {listed}): {names(found)}",)


def trained(training: TrainingLike, named: Iterable[tuple[str, nn.Parameter]]) -> list[tuple[str, nn.Parameter]]:
    """Those of the parameters that are trained as things stand: they need gradients, and an optimizer, if there is any, holds them."""
    held = {id(p) for optimizer in training.optimizers for group in optimizer.param_groups for p in group["params"]}
    return [(name, p) for name, p in named if p.requires_grad and (id(p) in held or not training.optimizers)]


def _own(module: nn.Module) -> list[nn.Parameter]:
    """The parameters of a module itself, not of those inside it."""
    if isinstance(module, parametrize.ParametrizationList):
        return []
    several = {source for sources in _computed(module).values() for source in sources}
    own = [p for name, p in module.named_parameters(recurse=False) if name not in several]
    if parametrize.is_parametrized(module):
        sources = (getattr(computed, "original", None) for computed in module.parametrizations.children())  # type: ignore[union-attr]
        own += [source for source in sources if isinstance(source, nn.Parameter)]
    return own


def _computed(module: nn.Module) -> dict[str, list[str]]:
    """The weights of a module that are computed from several of its parameters, and the names of these: both of torch's forms."""
    hooks = (hook for hook in module._forward_pre_hooks.values() if isinstance(hook, WeightNorm))
    found = {hook.name: [f"{hook.name}_g", f"{hook.name}_v"] for hook in hooks}
    if parametrize.is_parametrized(module):
        for name, one in module.parametrizations.items():  # type: ignore[union-attr, operator]
            if not one.is_tensor:
                found[name] = [f"parametrizations.{name}.original{place}" for place in range(one.ntensors)]
    return found


def _classes(module: nn.Module) -> list[str]:
    """The names of a module's class and of those it is derived from, without what a parametrization put in front."""
    lineage = type(module).__mro__[1:] if parametrize.is_parametrized(module) else type(module).__mro__
    return [cls.__name__ for cls in lineage if issubclass(cls, nn.Module) and cls is not nn.Module]
