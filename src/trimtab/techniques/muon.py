"""Muon for the hidden matrices, in the place of the optimizer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from trimtab import optim
from trimtab.reading.order import answers, doubts, first_layers
from trimtab.reading.weights import trained
from trimtab.recipe import Change, Suite, Technique, TrainingLike
from trimtab.techniques.engines.becoming import Becomes, Turn, check_lr, defaults_of
from trimtab.techniques.engines.choose import chosen
from trimtab.techniques.engines.surgery import listed_names, nothing_for

EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)


class MuonWithAdamW(torch.optim.Optimizer):
    """torch's Muon for some matrices and AdamW for all else: one optimizer, with one list of groups and one state.

    A parameter is Muon's if its ``id`` is among ``matrices``, or if it has a state of Muon's (in a copy).
    """

    matrices: frozenset[int] = frozenset()

    def __init__(
        self,
        params: Any,
        lr: float = 0.02,
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_steps: int = 5,
        weight_decay: float = 0.0,
        adamw_lr: float = 3e-4,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
    ) -> None:
        check_lr(lr)
        check_lr(adamw_lr, "adamw_lr")
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum={momentum} must be at least 0 and below 1: it is the share of the old mean.")
        if not 1 <= ns_steps < 100:
            raise ValueError(f"ns_steps={ns_steps} must be from 1 to 99, usually 5.")
        if not weight_decay >= 0:
            raise ValueError(f"weight_decay={weight_decay} must be 0 or more.")
        muon = {
            "lr": lr,
            "momentum": momentum,
            "nesterov": nesterov,
            "ns_steps": ns_steps,
            "weight_decay": weight_decay,
        }
        defaults_of(torch.optim.Muon, **muon)
        defaults_of(optim.AdamW, betas=betas, eps=eps)
        super().__init__(params, {**muon, "adamw_share": adamw_lr / lr, "betas": betas, "eps": eps})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step of both."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        muon, adamw = [], []
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            mine = [p for p in params if id(p) in self.matrices or "momentum_buffer" in self.state.get(p, ())]
            known = {id(p) for p in mine}
            muon.append({**_of(MUON, group, eps=1e-7), "params": mine})
            rate = float(group["lr"]) * group["adamw_share"]
            adamw.append({**_of(ADAMW, group, lr=rate), "params": [p for p in params if id(p) not in known]})
        for kind, groups in ((torch.optim.Muon, muon), (optim.AdamW, adamw)):
            part = kind.__new__(kind)  # as unpickling does: a constructor would tell everybody of a new optimizer
            part.__setstate__({"state": self.state, "param_groups": groups, "defaults": {}})
            part.step()
        return loss


def _of(numbers: dict[str, Any], group: dict[str, Any], **given: Any) -> dict[str, Any]:
    """The numbers of one of the two, those that both know out of the group."""
    return {**numbers, **{key: group[key] for key in numbers if key in group and key != "decay"}, **given}


MUON, ADAMW = defaults_of(torch.optim.Muon), defaults_of(optim.AdamW)


@dataclass(frozen=True)
class Muon(Becomes, Technique):
    r"""Turns the optimizer into Muon for the hidden matrices and AdamW for all else, in place.

    ``m <- momentum m + (1 - momentum) g``, ``w <- (1 - lr weight_decay) w - lr sqrt(max(1, rows / columns)) U V^T`` with ``U S V^T`` the
    singular value decomposition of m (nesterov: of the mean of g and m), made by a few Newton-Schulz iterations: all directions of
    a matrix move alike. That is for hidden weights with two dimensions; embeddings, scales, biases, convolutions, and the first and the
    last layer go on with AdamW, as its authors advise. The rate is that of the group with the largest one; the others keep their
    ratio to it, and a schedule keeps its shape. All optimizers of the training are turned. Their state begins anew.

    Helps: transformers and other networks of wide linear layers, whose training it often shortens. Hurts: small matrices, whose
    iterations cost more than they bring; fine-tuning what another optimizer trained; networks of convolutions. Good first
    setting: the default. Clashes with other optimizers and learning_rate.

    Args:
        lr: the base learning rate of the matrices, positive.
        momentum: the share of the old mean gradient that stays.
        nesterov: mix the gradient itself in.
        ns_steps: Newton-Schulz iterations.
        weight_decay: the share of a weight that decays per unit of learning rate; None keeps the factors of the script, decoupled.
        adamw_lr: the base learning rate of all else, positive.
        betas: the shares of the old means that stay, of AdamW.
        eps: added to the root, of AdamW.

    Source: Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024; ``torch.optim.Muon``.

    >>> import trimtab as tt
    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> training = tt.attach(model, torch.optim.SGD(model.parameters(), lr=0.1)).apply("muon")
    >>> print(training.changes[0])
    SGD becomes Muon with a learning rate of 0.02 for 1 hidden matrix, and AdamW with 0.0003 for all else
      Muon: 2.weight
      SGD: the base learning rate of 0.1 becomes 0.02; the groups show the script's
    """

    part = MuonWithAdamW
    suite = Suite(network="mlp", anew=True)

    lr: float = 0.02
    momentum: float = 0.95
    nesterov: bool = True
    ns_steps: int = 5
    weight_decay: float | None = None
    adamw_lr: float = 3e-4
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8

    def apply(self, training: TrainingLike) -> Change:
        found = self._matrices(training)
        ids = frozenset(id(p) for _, p in found)
        turn = Turn(self, training, self.part, self.numbers(), self.weight_decay, attributes={"matrices": ids}).change()
        named = turn.summary.partition(" becomes ")[0]
        many = "matrix" if len(found) == 1 else "matrices"
        summary = (
            f"{named} becomes Muon with a learning rate of {self.lr:g} for {len(found)} hidden {many}, and AdamW with "
            f"{self.adamw_lr:g} for all else"
        )
        return Change(
            summary, turn.undo, turn.acted, (f"Muon: {listed_names(found)}", *turn.details, *doubts(training))
        )

    def _matrices(self, training: TrainingLike) -> list[tuple[str, nn.Parameter]]:
        ends = answers(training) | first_layers(training)
        modules = [m for _, m in training.named_modules() if isinstance(m, EMBEDDINGS) or id(m) in ends]
        others = {id(p) for module in modules for p in module.parameters()}
        weights = trained(training, chosen(self, training))
        found = [(name, p) for name, p in weights if p.ndim == 2 and id(p) not in others]
        if not found:
            raise nothing_for(
                self,
                "between its first and its last layer the model has no weight with two dimensions that is trained.",
            )
        return found
