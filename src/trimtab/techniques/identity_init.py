"""Identity initialization of the norms of a live model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

from trimtab.nn.identity_init import PER_CHANNEL, PER_ROW
from trimtab.reading.order import is_norm
from trimtab.reading.weights import trained
from trimtab.recipe import Change, Suite, Technique, TrainingLike
from trimtab.techniques.engines.initialize import redraw
from trimtab.techniques.engines.insert import Recover, forget
from trimtab.techniques.engines.surgery import listed_names, nothing_for


@dataclass(frozen=True)
class IdentityInit(Technique):
    """Sets gain and shift of every norm on the first training batch so that the norm hands this batch on unchanged.

    ``gamma = sqrt(sigma^2 + eps)``, ``beta = mu``, with mean and variance of the norm's own input, one norm after the other as they are called.
    For batch norms, whose running statistics are set too, the identity is exact in training and evaluation; layer, group, instance and
    RMS norms, whose statistics are each sample's own, come as near to it as one gain and shift for all samples can. The model then
    computes what it would without norms, and learns from there. Norms that the model has and norms that the recipe puts in are
    both meant: ``"layer_norm, identity_init"``. A checkpoint that is loaded before the first batch keeps its gains. The
    optimizer's state of gains and shifts is forgotten; undo brings values and state back.

    Helps: norms put into a network that is trained already, and conversions from one kind to another. Hurts: training from scratch, where the
    scale that a norm takes away is what it is there for. Good first setting: the default (there is nothing to set).

    Args:
        only: norms whose name matches this pattern, ``"encoder.*"``.

    Source: Ioffe & Szegedy, "Batch Normalization", ICML 2015, section 3; seed 003; :func:`trimtab.nn.identity_init`.

    >>> import torch, trimtab as tt
    >>> from torch import nn
    >>> model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))
    >>> x = torch.randn(64, 4)
    >>> before = model(x)
    >>> training = tt.attach(model, torch.optim.SGD(model.parameters(), lr=0.1)).apply("batch_norm, identity_init")
    >>> torch.allclose(model(x), before, atol=1e-5)
    True
    """

    acts_on = "model"
    moment = "set"
    group = ("normalization", "optimization")
    suite = Suite(network="normed")

    only: str = "*"

    def apply(self, training: TrainingLike) -> Change:
        found: list[tuple[str, Any]] = []
        left: list[str] = []
        held = {id(p) for _, p in trained(training, training.named_parameters())}
        for name, module in training.named_modules():
            if fnmatchcase(name, self.only) and is_norm(module):
                if not isinstance(module, PER_CHANNEL + PER_ROW):
                    left.append(f"{name}: left alone: {type(module).__name__} is none of torch's classes of norms")
                elif module._parameters.get("weight") is None:
                    left.append(f"{name}: left alone: {type(module).__name__} has no gain")
                elif id(module._parameters["weight"]) not in held:
                    left.append(f"{name}: left alone: it is not trained")
                else:
                    found.append((name, module))
        if not found:
            raise nothing_for(
                self,
                " ".join(left[:3]) or "the model has no normalization with a gain.",
            )
        errors: dict[str, float | str] = {}
        undos: list[Callable[[], None]] = []

        def keep(norm: Any) -> None:
            kept = [norm.weight, getattr(norm, "bias", None)]
            kept += [getattr(norm, key, None) for key in ("running_mean", "running_var")]
            undos.append(redraw(training, [tensor for tensor in kept if tensor is not None]))

        for name, module in found:
            Recover(module, keep, partial(errors.__setitem__, name))

        def undo() -> None:
            for _, module in found:
                forget(module)
            while undos:
                undos.pop()()

        return Change(
            f"identity start of {len(found)} norm{'s' if len(found) > 1 else ''}: {listed_names(found)}",
            undo,
            lambda: any(isinstance(error, float) for error in errors.values()),
            tuple(left),
            lambda: _outcome(errors),
        )


def _outcome(errors: dict[str, float | str]) -> str:
    if not errors:
        return "waits for the first training batch"
    met = [error for error in errors.values() if isinstance(error, float)]
    words = [f"{name} is left alone: {error}" for name, error in errors.items() if isinstance(error, str)][:3]
    if met:
        words.insert(
            0, f"on the first training batch outputs differ from inputs by {max(met):.2g} of the largest at most"
        )
    return "; ".join(words)
