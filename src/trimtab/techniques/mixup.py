"""Mixup of the batches that a training sees."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass

import torch

from trimtab.data.mixup import Mix, mixup
from trimtab.recipe import Change, LossCall, Refused, Technique, TrainingLike

# What these say of a sample depends on others, or on more than one target for each.
APART = ("margin_ranking_loss", "cosine_embedding_loss", "triplet_margin_loss", "ctc_loss")
OF_CLASSES = ("cross_entropy", "nll_loss", "multi_margin_loss", "multilabel_soft_margin_loss")  # weights are of classes


@dataclass(frozen=True)
class Mixup(Technique):
    """Trains on points between two samples of a batch, and on their targets in the same shares.

    ``x' = lam x + (1 - lam) x[partner]`` and ``lam loss(y) + (1 - lam) loss(y[partner])`` with ``lam ~ Beta(alpha, alpha)`` and a
    random permutation ``partner``, drawn once for every step: calls of the model in the same step with batches of one size
    are mixed alike, so gradient accumulation, closures and models that are called twice stay right. Acts on the first
    floating-point input of the model, batch first, and on the losses of ``torch.nn.functional`` for classes and numbers with one
    target (or one row of them) for each sample. Integers as inputs are left alone. Evaluations stay plain; the recorded
    training loss and accuracy are those of mixed inputs against the unmixed targets, so they look worse than they are.

    Helps: classifiers that fit their training set and generalize worse, noisy labels, calibration. Hurts: short trainings and
    small networks, which under-fit; inputs whose mean has no meaning; losses between outputs of the same model.
    Good first settings: alpha of 0.2 to 1. Clashes with cutmix and surrogate_loss.

    Args:
        alpha: how much is mixed: small leaves most batches nearly as they are, 1 draws lam evenly.

    Source: Zhang et al., "mixup: Beyond Empirical Risk Minimization", ICLR 2018; :class:`trimtab.data.MixUp`.

    >>> import trimtab as tt
    >>> model = torch.nn.Linear(4, 3)
    >>> training = tt.attach(model, torch.optim.SGD(model.parameters(), lr=0.1)).apply("mixup(alpha=0.4)")
    >>> print(training.changes[0])
    mixup with lambda from Beta(0.4, 0.4)
    """

    acts_on = "data"
    group = "augmentation"
    clashes = {"surrogate_loss": "it computes the loss anew, from targets that are not mixed"}

    alpha: float = 0.2

    def __post_init__(self) -> None:
        check_alpha(self.alpha)

    def apply(self, training: TrainingLike) -> Change:
        def mix(x: torch.Tensor, generator: torch.Generator) -> Mix:
            return mixup(x, self.alpha, generator=generator)[1]

        return mix_batches(training, self.name, mix, f"mixup with lambda from Beta({self.alpha:g}, {self.alpha:g})")


def check_alpha(alpha: float) -> None:
    if not alpha > 0:
        raise ValueError(f"alpha={alpha} must be positive: lambda is drawn from Beta(alpha, alpha).")


def mix_batches(
    training: TrainingLike, name: str, mix: Callable[[torch.Tensor, torch.Generator], Mix], summary: str
) -> Change:
    """Mix the inputs of a training, and its losses in the same shares."""
    mixer = Mixer(training, name, mix)
    stops = [
        training.change_input(mixer.inputs),
        training.change_loss(mixer.loss),
        training.on("gradients", mixer.check),
        training.on("after_step", mixer.end),
    ]

    def undo() -> None:
        for stop in stops:
            stop()

    return Change(summary, undo, lambda: mixer.acted)


class Mixer:
    """How the batches of the step in progress are mixed: one mix for every size of a batch."""

    def __init__(self, training: TrainingLike, name: str, mix: Callable[[torch.Tensor, torch.Generator], Mix]) -> None:
        # losses are changed where all trainings evaluate them: what is there must not keep one alive
        self.training = weakref.ref(training)
        self.name, self.mix = name, mix
        self.generators: dict[torch.device, torch.Generator] = {}
        self.mixes: dict[int, Mix] = {}
        self.ended = False  # the step is over; its mixes stay until the model is called again
        self.heard = False  # a loss took part
        self.acted = False

    def inputs(self, x: torch.Tensor) -> torch.Tensor | None:
        training = self.training()
        if training is None or not x.is_floating_point() or x.ndim == 0:
            return None
        if self.ended:
            self.mixes, self.ended, self.heard = {}, False, False
        if len(x) not in self.mixes:
            if x.device not in self.generators:
                self.generators[x.device] = training.generator(self.name, x.device)
            try:
                self.mixes[len(x)] = self.mix(x, self.generators[x.device])
            except ValueError as error:  # of a form that it does not take
                raise Refused(str(error)) from None
        return self.mixes[len(x)].inputs(x)

    def loss(self, loss: LossCall) -> torch.Tensor | None:
        training = self.training()
        if not self.mixes or training is None or training.phase == "eval":
            return None
        if loss.name in APART:
            raise Refused(
                f"{self.name} cannot mix the targets of {loss.name}, which has not one target for each sample. Leave "
                f"{self.name} out."
            )
        target = loss.target
        if target.requires_grad:  # a value of the model, no target of a sample
            return None
        mix = self.mixes.get(len(target)) if target.ndim else None
        if mix is None or len(loss.input) != len(target):
            raise Refused(
                f"{self.name} mixed batches of {' and '.join(map(str, self.mixes))} samples, but {loss.name} got an input of "
                f"shape {tuple(loss.input.shape)} and a target of shape {tuple(target.shape)}. Both must begin with the "
                f"samples of the batch, (N, ...), in their order. Give them so, or leave {self.name} out."
            )
        if mix.cut is not None and target.ndim > 2:
            raise Refused(
                f"{self.name} needs one target for each image; {loss.name} got a target of shape {tuple(target.shape)}. "
                "Use mixup for targets of pixels."
            )
        self.acted = self.heard = True
        weight = loss.arguments.get("weight")
        if (
            isinstance(weight, torch.Tensor)
            and loss.name not in OF_CLASSES
            and weight.ndim == target.ndim
            and len(weight) == len(target)
        ):  # weights of the samples go with their targets
            partner = mix.partner.to(target.device)
            own, other = loss(), loss(target=target[partner], weight=weight[partner])
            return mix.share * own + (1 - mix.share) * other
        return mix.loss(lambda _, target: loss(target=target), loss.input, target)

    def check(self, optimizer: torch.optim.Optimizer) -> None:
        """Refuse gradients of inputs that are mixed and targets that are not."""
        if self.mixes and not self.ended and not self.heard:
            raise Refused(
                f"{self.name} mixed the inputs of this step, but saw no loss whose targets it could mix. Losses must be "
                f"functions of torch.nn.functional or modules of torch.nn, outside torch.compile. Leave {self.name} out, or mix "
                f"in the loop itself with trimtab.data.{self.name}."
            )

    def end(self, optimizer: torch.optim.Optimizer) -> None:
        self.ended = True
