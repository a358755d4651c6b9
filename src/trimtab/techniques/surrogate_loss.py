"""Surrogate losses in the place of cross entropy, with the 0-1 loss watched beside them."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import torch

from trimtab.nn.surrogates import check_surrogate, surrogate_loss
from trimtab.recipe import Change, LossCall, Refused, Technique, TrainingLike

KINDS = ("square", "log", "hinge", "exponential")
KEPT = 1024  # evaluations of the loss that are remembered


@dataclass(frozen=True)
class Watched(Change):
    """A change that also remembers the surrogate and the 0-1 loss of the last training batches; ``print`` shows their means."""

    pairs: deque[torch.Tensor] = field(default_factory=lambda: deque(maxlen=KEPT))

    @property
    def series(self) -> list[tuple[float, float]]:
        """(surrogate loss, 0-1 loss) of each of the last training batches, oldest first."""
        return [(surrogate, errors) for surrogate, errors in (pair.tolist() for pair in self.pairs)]

    def __str__(self) -> str:
        if not self.pairs:
            return super().__str__()
        surrogate, errors = torch.stack(list(self.pairs)).mean(0).tolist()
        return (
            f"{super().__str__()}\n  over the last {len(self.pairs)} training batches: surrogate loss {surrogate:.4g}, "
            f"0-1 loss {errors:.4g}"
        )


@dataclass(frozen=True)
class SurrogateLoss(Technique):
    """Trains on another function of the margin in the place of cross entropy, and watches the 0-1 loss beside it.

    With the margin ``m = x_y - max(x_k, k != y)``: ``(1 - m)^2`` (square), ``log(1 + exp(-m))`` (log), ``max(0, 1 - m)`` (hinge) or
    ``exp(-m)`` (exponential), in every ``cross_entropy`` of the training; its class weights, ``ignore_index`` and reduction
    keep their meaning. Losses that are evaluated without gradients, and the recorded training loss, stay cross entropy.

    To see both: ``print(training.changes[0])`` shows the means over the last training batches, ``training.changes[0].series``
    every one of them as ``(surrogate loss, 0-1 loss)``.

    Helps: hinge, where only the border between classes matters; square, against exploding logits. Hurts: hinge and square,
    where probabilities are wanted; exponential with noisy labels; all of them with many classes, since only two of
    each sample have a gradient. Good first setting: hinge. Clashes with label_smoothing, z_loss, mixup and cutmix.

    Args:
        kind: "square", "log", "hinge" or "exponential".

    Source: Bartlett et al., "Convexity, Classification, and Risk Bounds", 2006; :class:`trimtab.nn.SurrogateLoss`.

    >>> import trimtab as tt
    >>> model = torch.nn.Linear(4, 3)
    >>> training = tt.attach(model, torch.optim.SGD(model.parameters(), lr=0.1)).apply("surrogate_loss(kind='hinge')")
    >>> loss = torch.nn.functional.cross_entropy(model(torch.zeros(2, 4)), torch.tensor([0, 1]))
    >>> print(training.changes[0])
    hinge loss of the margin in the place of cross entropy
      over the last 1 training batches: surrogate loss ..., 0-1 loss ...
    """

    acts_on = "loss"
    moment = "loss"
    group = "regularization"
    clashes = {"label_smoothing": "a surrogate loss has one class as its target, and nothing to smooth"}

    kind: str = "hinge"

    def __post_init__(self) -> None:
        check_surrogate("surrogate_loss", self.kind, KINDS)

    def apply(self, training: TrainingLike) -> Change:
        pairs: deque[torch.Tensor] = deque(maxlen=KEPT)

        def surrogate(loss: LossCall) -> torch.Tensor | None:
            if loss.name != "cross_entropy":
                return None
            if loss.target.is_floating_point() or loss.arguments.get("label_smoothing"):
                raise Refused(
                    "surrogate_loss needs class indices as targets; this cross_entropy has probabilities or label smoothing. Give "
                    "it classes without label_smoothing, or leave surrogate_loss out."
                )
            given = {
                key: loss.arguments[key]
                for key in ("input", "target", "weight", "ignore_index", "reduction")
                if key in loss.arguments
            }
            with torch.no_grad():
                plain = {**given, "weight": None, "reduction": "mean"}
                watched = [surrogate_loss(kind=kind, **plain) for kind in (self.kind, "zero_one")]
                pairs.append(torch.stack(watched).float())
            return surrogate_loss(kind=self.kind, **given)

        stop = training.change_loss(surrogate)
        summary = f"{self.kind} loss of the margin in the place of cross entropy"
        return Watched(summary, stop, lambda: bool(pairs), pairs=pairs)
