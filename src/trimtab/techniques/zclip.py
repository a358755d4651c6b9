"""Clipping of the gradient by what its norm usually is."""

from __future__ import annotations

import weakref
from dataclasses import dataclass

import torch

from trimtab.optim.adaptive_clipping import ZClip as Clipper
from trimtab.optim.clip_stats import ClipStats
from trimtab.recipe import Change, Suite, Technique, TrainingLike
from trimtab.techniques.engines.clips import clipping


@dataclass(frozen=True)
class Zclip(Technique):
    """Clips the norm of the gradient when it is unusual among the norms of the steps before.

    ``||g|| -> mean + z_threshold^2 / z * deviation`` if ``z = (||g|| - mean) / deviation`` is above the threshold, with a running
    mean and deviation of the norm: the further out it lies, the nearer to the mean it is clipped. Each optimizer has statistics of
    its own. A gradient that is not finite is left as it is, with a warning, and enters no statistics.

    It judges the gradients with all penalties of the recipe, before other techniques clip them.

    Helps: long runs whose usual norm changes slowly in their course, rare bad batches. Hurts: a spike among the first ``warmup_steps``
    steps, which are not clipped and give the first statistics; norms that rise for good, since clipped norms narrow the statistics, and
    it goes on clipping. Good first settings: the default.

    Args:
        alpha: the share of the old statistics that stays in every step, 0 < alpha < 1.
        z_threshold: how many deviations above the mean are usual, positive.
        warmup_steps: steps that give the first statistics, at least 2.

    Source: Kumar, Owen, Chowdhury, Güra, "ZClip: Adaptive Spike Mitigation for LLM Pre-Training", arXiv 2504.02507, 2025;
    :class:`trimtab.optim.ZClip`.

    >>> import torch, trimtab as tt
    >>> model = torch.nn.Linear(1, 1, bias=False)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    >>> training = tt.attach(model, optimizer).apply("zclip(warmup_steps=4)")
    >>> for x in (1.0, 1.2, 1.0, 1.2, 1e4):
    ...     before = model.weight.item()
    ...     optimizer.zero_grad(); model(torch.full((1, 1), x)).sum().backward(); optimizer.step()
    >>> round(before - model.weight.item(), 4)
    1.1
    """

    acts_on = "update"
    moment = "spikes"
    group = "optimization"
    suite = Suite(text="zclip(warmup_steps=2, z_threshold=0.01)", always=True)

    alpha: float = 0.97
    z_threshold: float = 2.5
    warmup_steps: int = 25

    def __post_init__(self) -> None:
        self._clipper()

    def _clipper(self) -> Clipper:
        return Clipper(self.alpha, self.z_threshold, self.warmup_steps)

    def apply(self, training: TrainingLike) -> Change:
        clippers: weakref.WeakKeyDictionary[torch.optim.Optimizer, Clipper] = weakref.WeakKeyDictionary()
        stats = ClipStats()

        def clip(parameters: list[torch.Tensor], scale: float, optimizer: torch.optim.Optimizer) -> None:
            if optimizer not in clippers:
                clippers[optimizer] = self._clipper()
                clippers[optimizer].stats = stats  # one for all of them
            clippers[optimizer](parameters, grad_scale=scale)

        return clipping(training, f"gradient norm clipped beyond {self.z_threshold:g} deviations", lambda: stats, clip)
