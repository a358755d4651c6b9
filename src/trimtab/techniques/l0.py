"""L0 penalty: gates that switch weights off."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch._compile import _disable_dynamo  # torch.compiler.disable would import the compiler at once

from trimtab.nn.drop_connect import put_in, take_out
from trimtab.nn.hard_concrete import HardConcrete, check_hard_concrete, expected_l0
from trimtab.reading.order import layers
from trimtab.reading.weights import trained, weight_of
from trimtab.recipe import Change, Technique, TrainingLike
from trimtab.techniques.engines.choose import chosen, left_alone
from trimtab.techniques.engines.penalties import act_on, check_factors, gradient_of
from trimtab.techniques.engines.surgery import Hung, listed_names, nothing_for, training_now


@dataclass(frozen=True)
class L0(Technique):
    """Multiplies every weight with a gate, and penalizes the number of gates that are expected to be open.

    ``loss + factor * sum P(gate != 0)``, with the weights ``w * gate`` in the place of w. Gates are hard-concrete: drawn while training,
    exactly 0 or 1 much of the time; in evaluation they are fixed numbers between 0 and 1, and many are 0 in the end. They are new
    parameters, ``gates.log_alpha`` of each linear and convolution layer; the weights keep their names and their state. To make a
    network that is small for good, multiply each weight with ``layer.gates.eval()()``.

    Helps: networks that are to become small while they train. Hurts: short trainings, since gates close slowly; networks
    that under-fit; a weight decay of the optimizer also acts on the gates, and half opens them. Good first settings:
    a factor of 0.1 to 1 divided by the number of training samples.

    Args:
        factor: what an open gate costs, of a loss that is a mean over samples; positive.
        p: about the share of gates that are closed at the start; up to 0.08 evaluation is at first as without gates.
        temperature: of the gates, in (0, 1].
        only: a pattern for names of weights (``"encoder.*weight"``), or a class of modules (``"Conv2d"``).

    Source: Louizos, Welling, Kingma, "Learning Sparse Neural Networks through L0 Regularization", ICLR 2018;
    :class:`trimtab.nn.HardConcrete`.

    >>> import trimtab as tt
    >>> model = torch.nn.Linear(4, 2)
    >>> training = tt.attach(model, torch.optim.Adam(model.parameters())).apply("l0")
    >>> model.gates
    HardConcrete((2, 4), temperature=0.667, stretch=(-0.1, 1.1))
    """

    acts_on = "model"
    moment = "noise"
    group = "regularization"

    factor: float = 1e-5
    p: float = 0.05
    temperature: float = 2 / 3
    only: str = ""

    def __post_init__(self) -> None:
        check_factors(factor=self.factor)
        check_hard_concrete("l0", self.temperature, (-0.1, 1.1), self.p)

    def apply(self, training: TrainingLike) -> Change:
        ids = {id(p) for _, p in trained(training, chosen(self, training, self.only))}
        weighted = [(n, layer, weight_of(layer)) for n, layer in layers(training)]
        parametrized = [n for n, layer, w in weighted if w is not layer.weight and id(w) in ids]
        details = (
            *(f"{name}: left alone: its weight is parametrized." for name in parametrized),
            *left_alone(training, self.only),
        )
        found = [(name, layer) for name, layer, weight in weighted if weight is layer.weight and id(weight) in ids]
        if not found:
            raise nothing_for(self, " ".join(details) or "these are no weights of linear or convolution layers.")
        gates = [self._gates(layer.weight, training.generator(f"l0 {name}")) for name, layer in found]
        stop, _ = act_on(self, training, [one.log_alpha for one in gates], gradient_of(self._penalty))
        hung: list[Gated] = []

        def undo() -> None:
            stop()
            for one in hung:
                training.remove_parameters(one.gates.parameters())
                one.take_off()

        try:
            for (_, layer), one in zip(found, gates, strict=True):
                hung.append(Gated(layer, one))
                training.add_parameters(one.parameters(), beside=layer.weight)
        except BaseException:
            undo()
            raise
        return Change(
            f"{self} on the weights of {len(found)} layers: {listed_names(found)}",
            undo,
            lambda: any(one.acted for one in hung) or any(bool((one.gates(drawn=False) != 1).any()) for one in gates),
            details,
            lambda: _closed(gates),
        )

    def _gates(self, weight: torch.Tensor, generator: torch.Generator) -> HardConcrete:
        return HardConcrete(
            weight.shape, self.p, self.temperature, generator=generator, device=weight.device, dtype=weight.dtype
        )

    def _penalty(self, log_alphas: list[torch.Tensor]) -> torch.Tensor:
        counts = [expected_l0(log_alpha, self.temperature) for log_alpha in log_alphas]
        return self.factor * sum((count.to(counts[0].device) for count in counts[1:]), start=counts[0])


@torch.no_grad()
def _closed(gates: list[HardConcrete]) -> str:
    """What has come of it, for the report."""
    closed = sum(int((one.gates(drawn=False) == 0).sum()) for one in gates)
    total = sum(one.log_alpha.numel() for one in gates)
    return f"{closed} of {total} gates are closed"


class Gated(Hung):
    """Gates hung on a layer, which it multiplies its weight with while it runs."""

    def __init__(self, layer: nn.Module, gates: HardConcrete) -> None:
        super().__init__(layer, "gates", gates, put_in, before=True)
        self.gates = gates
        self.end = layer.register_forward_hook(self._after, always_call=True)

    @_disable_dynamo
    def _before(self, layer: nn.Module, inputs: tuple) -> None:  # type: ignore[override]
        gates: Any = layer._modules[self.child]
        drawn = training_now(gates)
        self.acted = self.acted or drawn
        self.call(layer, {"weight": layer.weight * gates.gates(drawn)})

    @_disable_dynamo
    def _after(self, layer: nn.Module, inputs: tuple, output: Any) -> None:  # type: ignore[override]
        take_out(layer, ["weight"])

    def take_off(self) -> None:
        self.end.remove()
        super().take_off()
