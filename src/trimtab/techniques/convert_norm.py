"""Converting the normalizations of a live model into another kind."""

from __future__ import annotations

from dataclasses import dataclass

from trimtab.reading.norms import NORM_KINDS
from trimtab.recipe import Change, Suite, Technique, TrainingLike, nearest
from trimtab.techniques.engines.converting import convert_norms


@dataclass(frozen=True)
class ConvertNorm(Technique):
    """Replaces the normalizations of a model by another kind, in place, around the same gains and biases.

    Each norm module gives way to one of the kind ``to`` under the same name. Gain and bias are the same ``Parameter``
    objects, so the optimizer keeps its state of them; hooks, train or eval mode, device, dtype and eps go over too. What
    a kind does not have is dropped (the bias by ``rms_norm``; undo brings it and its state back) and never invented: a norm
    without bias stays without one. Between the three batch norms the running statistics are kept; otherwise they start
    afresh. Group, layer and RMS norms treat each position of a sequence by itself, so causal models stay causal; behind
    convolutions layer and RMS norm go over the channels of each position.

    Norms are known by type or, like Llama's and Gemma's, by what they compute on random numbers. Those left alone are listed with
    the reason in the change's details. ``undo`` after further training keeps what was learnt; running statistics are
    then those from before the conversion (:func:`trimtab.nn.recalibrate.recalibrate`).

    Helps: batches that are small (to ``group_norm``), that differ between training and use (``frozen_batch_norm``), that are
    spread over processes (``sync_batch_norm``); speed (``same``, our drop-in of the same kind; ``rms_norm``).
    Hurts: a trained model is another function after a change of kind and must be trained on; batch and instance norm look at other
    positions, also at later ones. Batch norm needs ``model.eval()`` for evaluation. Good first setting: ``group_norm``.

    Args:
        to: ``"group_norm"``, ``"layer_norm"``, ``"rms_norm"``, ``"batch_norm"``, ``"frozen_batch_norm"``, ``"sync_batch_norm"``,
            ``"instance_norm"``, or ``"same"`` for trimtab's drop-in of the kind that is there.
        groups: of a group norm; where they do not divide the channels, or leave one channel in each, the next smaller number
            that does (for norms that may stand behind linear layers: at least 8 channels).
        from_: convert this kind only; ``"any"`` for all.
        only: convert norms whose name matches this pattern (``"encoder.*"``).

    Source: Wu & He, "Group Normalization", ECCV 2018; Zhang & Sennrich, "Root Mean Square Layer Normalization", NeurIPS 2019.

    >>> import torch, trimtab as tt
    >>> from torch import nn
    >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
    >>> training = tt.attach(model, torch.optim.SGD(model.parameters(), lr=0.1)).apply("convert_norm(to='group_norm', groups=4)")
    >>> print(training.changes[0])
    1 norm made group_norm: 1
      1: BatchNorm2d(8) became GroupNorm with 4 groups; running statistics dropped
    """

    acts_on = "model"
    moment = "convert"
    takes = ("norms",)
    group = "normalization"
    evaluates = True
    suite = Suite(network="normed")

    to: str = "group_norm"
    groups: int = 32
    from_: str = "any"
    only: str = "*"

    def __post_init__(self) -> None:
        if self.to not in (*NORM_KINDS, "same"):
            raise ValueError(f"convert_norm(to={self.to!r}): {nearest(self.to, (*NORM_KINDS, 'same'))}")
        if self.from_ not in (*NORM_KINDS, "any"):
            raise ValueError(f"convert_norm(from_={self.from_!r}): {nearest(self.from_, (*NORM_KINDS, 'any'))}")
        if self.groups < 1:
            raise ValueError(f"groups={self.groups} must be at least 1.")

    def apply(self, training: TrainingLike) -> Change:
        return convert_norms(self, training, self.to, self.groups, self.from_, self.only)
