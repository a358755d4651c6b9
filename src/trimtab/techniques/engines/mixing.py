"""Mixing the samples of a batch, and their targets in the same shares: what ``mixup`` and ``cutmix`` share."""

from __future__ import annotations

import weakref
from collections.abc import Callable

import torch

from trimtab.data.mixup import Mix
from trimtab.reading.losses import LOSSES
from trimtab.recipe import Change, LossCall, Refused, TrainingLike


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
        if LOSSES[loss.name].target == "others":
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
            and LOSSES[loss.name].weight != "classes"
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
