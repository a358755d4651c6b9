"""Zoneout: dropout of recurrent states, whose units keep their last value instead of going to zero."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from trimtab.nn.zoneout import ZoneoutGRU, ZoneoutLSTM, ZoneoutMask, ZoneoutRNN, check_zoneout
from trimtab.recipe import Change, Suite, Technique, TrainingLike
from trimtab.techniques.engines.surgery import listed_names, nothing_for, training_now

KINDS: dict[type[nn.Module], type[nn.Module]] = {nn.LSTM: ZoneoutLSTM, nn.GRU: ZoneoutGRU, nn.RNN: ZoneoutRNN}


@dataclass(frozen=True)
class Zoneout(Technique):
    """Lets units of recurrent states keep their last value at random while training, where dropout would cut the state.

    ``h_t = d h_{t-1} + (1 - d) h^_t`` with ``d`` 1 with probability p and 0 otherwise, drawn anew for every unit, sample and time step,
    and its expectation p in evaluation, in every ``nn.LSTM``, ``nn.GRU`` and ``nn.RNN``; the cell of an LSTM likewise, by p_cell. The
    module becomes a :class:`trimtab.nn.ZoneoutLSTM` (GRU, RNN) in place: same object, parameters and names, other class.
    Masks come from a generator of their own. Classes derived from torch's, and LSTMs with projections, are left alone.

    Helps: recurrent networks that fit their training set and generalize worse. Hurts: speed, as time steps run in a Python loop;
    tasks whose every step counts. Good first settings: 0.05 to 0.15 for p, up to 0.5 for p_cell.

    Args:
        p: probability of keeping the last value.
        p_cell: the same for the cell of an LSTM; p if None.

    Source: Krueger et al., "Zoneout: Regularizing RNNs by Randomly Preserving Hidden Activations", ICLR 2017.

    >>> import torch, trimtab as tt
    >>> model = nn.LSTM(4, 8)
    >>> training = tt.attach(model, torch.optim.SGD(model.parameters(), lr=0.1)).apply("zoneout(p=0.05, p_cell=0.5)")
    >>> model.zoneout
    LiveZoneoutMask(p=0.05, p_cell=0.5)
    """

    acts_on = "model"
    moment = "noise"
    group = "regularization"
    evaluates = True
    suite = Suite(network="recurrent")

    p: float = 0.1
    p_cell: float | None = None

    def __post_init__(self) -> None:
        check_zoneout("zoneout", self.p, self.p_cell)
        if not (self.p or self.p_cell):
            raise ValueError(
                "p and p_cell must not both be 0: one of them must be a probability of keeping the last value."
            )

    def apply(self, training: TrainingLike) -> Change:
        recurrent = [(name, module) for name, module in training.named_modules() if isinstance(module, nn.RNNBase)]
        found: list[tuple[str, Any]] = [(n, m) for n, m in recurrent if type(m) in KINDS and not m.proj_size]
        left = [(n, m) for n, m in recurrent if not any(m is other for _, other in found)]
        details = tuple(f"{name or '(model)'}: left alone, a {type(module).__name__}" for name, module in left)
        if not found:
            why = f" of torch's own class without projections, only {listed_names(left)}" if left else ""
            raise nothing_for(self, f"the model has no LSTM, GRU or RNN{why}.")
        classes = [type(module) for _, module in found]
        masks = []
        for name, module in found:
            mask = LiveZoneoutMask(self.p, self.p_cell, training.generator(f"zoneout {name}")).train(module.training)
            module.__class__ = KINDS[type(module)]
            module.zoneout = mask
            masks.append(mask)

        def undo() -> None:
            for (_, module), cls in zip(found, classes, strict=True):
                del module.zoneout
                module.__class__ = cls

        cell = "" if self.p_cell is None else f" (p={self.p_cell:g} for the cell)"
        summary = f"zoneout with p={self.p:g}{cell} in {len(found)} layers: {listed_names(found)}"
        return Change(summary, undo, lambda: any(mask.calls for mask in masks), details)


class LiveZoneoutMask(ZoneoutMask):
    """Draws masks in training mode with gradients only."""

    def sampling(self) -> bool:
        return training_now(self)
