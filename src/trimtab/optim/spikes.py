"""Beyond clipping: updates whose loss or gradient is a spike are left out, and broken weights are taken back."""

from __future__ import annotations

import math
import statistics
import warnings
from collections import deque
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import nn

from trimtab.optim.gradients import grad_norm
from trimtab.optim.snapshot import Snapshot, buffers_of
from trimtab.values import as_number, is_whole

GROUP = "optimization"
BY = ("both", "loss", "gradient")
NOISE = 0.05  # deviations are taken to be at least this share of the usual value: less is no spike, however quiet the steps before
LARGE = 100.0  # times the usual value, and larger than all others, is a spike, however restless the steps before
Verdict = Literal["accept", "skip", "roll back"]


class SpikeGuard:
    r"""Says which updates to leave out, because their loss or their gradient is a spike, and goes back to good weights.

    A number y that judges a step (the loss, the norm of the gradient) is a spike among the last n accepted ones if it is not finite,
    or if it is larger than all of these and

    .. math:: \frac{f(y) - \mathrm{median}_i f(y_i)}{1.4826\,\mathrm{median}_i |f(y_i) - \mathrm{median}_j f(y_j)|} > z_{\max}

    with f the logarithm where all numbers are positive, else f(y) = y. (Losses and norms have long tails: late in a healthy
    training, one step in twenty lies 6 deviations above the others on a linear scale, and less than one in a hundred on this one.)
    The denominator is at least 0.05, on a linear scale 0.05 of the median; and on the logarithmic one what is more than
    100 times the median and larger than all is a spike in any case. Spikes do not enter the statistics.

    After ``most_skips`` spikes in a row the next finite one is accepted as a new level, with a warning, and the statistics
    begin anew. What is not finite is never accepted.

    Leaving out a batch does not help where an update that looked harmless has broken the weights: the loss then stays high. With
    ``rollback=k``, at the k-th spike in a row everything goes back to the last snapshot. Snapshots are taken before an accepted
    update, every ``every`` of them, so that their loss is known to be good; one is kept: a copy of all parameters, buffers, and the
    state of the optimizer (with Adam, three times the memory of the weights). Learning rates, schedulers and the order of the data
    go on as they are. Buffers that the forward pass changes (BatchNorm's statistics) are put back at each spike; that takes
    a copy of the buffers of a ``state_dict``.

    Call :meth:`accepts` between ``loss.backward()`` and ``optimizer.step()``, and make the step if it says so.

    Args:
        model: the model, for its buffers; without it they are left as they are.
        optimizer: whose gradients are judged, and whose parameters and state go back.
        threshold: z_max, positive.
        by: which finite numbers are judged: "loss", "gradient" or "both".
        window: n, at least 2.
        warmup: accepted numbers that it takes before finite ones are judged, at least 2 and at most n.
        most_skips: how many spikes in a row are left out before one is taken for a new level, at least 1.
        rollback: k, below ``most_skips``, or 0 to never go back. 3 is good.
        every: accepted updates from one snapshot to the next.

    Attributes:
        steps: how many updates were judged; the first has the number 0.
        skipped, rolled_back, levels: the numbers of those that were left out, at which it went back, and that were taken for a new level.

    Raises:
        ValueError: if an argument is outside its range.

    When it helps: rare bad batches (broken labels, outliers, overflow), long runs that nobody watches. When it hurts: rare hard batches that
    look like spikes are never learned from; a loss that is logged before the update shows the spike all the same. Where processes
    train together all must decide alike: give it the mean of their losses, or the gradients alone. Good first settings: the
    default, with ``rollback=3``.

    Source: Chowdhery et al., "PaLM: Scaling Language Modeling with Pathways", JMLR 24, 2023 (going back, and leaving out batches);
    ``SkipStepOptimizer`` of OLMo-core (leaving out steps, by standard deviations of loss and norm); Leys et al., "Detecting
    outliers", Journal of Experimental Social Psychology 49, 2013 (deviations from the median).

    >>> model = nn.Linear(1, 1)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> guard = SpikeGuard(model, optimizer, warmup=5)
    >>> for x in (1.0, 1.1, 0.9, 1.0, 1.1, 1e4, float("nan"), 1.0):
    ...     optimizer.zero_grad()
    ...     loss = (model(torch.tensor([[x]])) - 3).square().mean()
    ...     loss.backward()
    ...     if guard.accepts(loss):
    ...         optimizer.step()
    >>> print(guard)
    skipped 2 of 8 updates (5, 6)
    """

    def __init__(
        self,
        model: nn.Module | None = None,
        optimizer: torch.optim.Optimizer | None = None,
        *,
        threshold: float = 8.0,
        by: str = "both",
        window: int = 100,
        warmup: int = 20,
        most_skips: int = 10,
        rollback: int = 0,
        every: int = 25,
    ) -> None:
        _check("threshold", threshold, as_number(threshold) > 0, "positive: it counts deviations")
        _check("by", by, by in BY, f"one of {', '.join(map(repr, BY))}")
        for name, value in (("window", window), ("warmup", warmup), ("most_skips", most_skips), ("every", every)):
            least = 2 if name in ("window", "warmup") else 1
            _check(name, value, is_whole(value, least), f"a whole number of at least {least}")
        _check("warmup", warmup, warmup <= window, f"at most window={window}, or no number would ever be judged")
        _check(
            "rollback",
            rollback,
            is_whole(rollback, 0) and rollback < most_skips,
            f"0, or a whole number below most_skips={most_skips}",
        )
        self.threshold, self.by, self.window, self.warmup = threshold, by, window, warmup
        self.most_skips, self.rollback, self.every = most_skips, rollback, every
        self.steps = self.streak = 0
        self.skipped: list[int] = []
        self.rolled_back: list[int] = []
        self.levels: list[int] = []
        self._usual = {name: deque[float](maxlen=window) for name in ("loss", "gradient")}
        self._model, self._optimizer = model, optimizer
        self._snapshot, self._buffers = Snapshot(), Snapshot()
        if model is not None:
            self._buffers.take(buffers_of(model))

    def accepts(self, loss: torch.Tensor | float | None = None) -> bool:
        """Judge the update that is about to be made. If it is refused, buffers are put back, and with ``rollback`` everything.

        Raises:
            ValueError: if it is to go back, and has no optimizer.
        """
        if self.rollback and self._optimizer is None:
            raise ValueError(
                f"SpikeGuard(rollback={self.rollback}) needs to know what goes back: SpikeGuard(model, optimizer, rollback={self.rollback})."
            )
        parameters = [p for group in self._optimizer.param_groups for p in group["params"]] if self._optimizer else []
        buffers = buffers_of(self._model) if self._model is not None else []
        verdict = self.judge(
            loss.item() if isinstance(loss, torch.Tensor) else loss,
            grad_norm(parameters) if parameters else None,
            self._snapshot.taken,
        )
        if verdict == "accept":
            self._buffers.take(buffers)
            if self.rollback and self._snapshot.is_due(self.every):
                self._snapshot.take([*parameters, *buffers], [self._optimizer] if self._optimizer else [])
        else:
            self._buffers.restore()
            if verdict == "roll back":
                self._snapshot.restore()
        return verdict == "accept"

    def judge(self, loss: float | None = None, norm: float | None = None, can_go_back: bool = False) -> Verdict:
        """What to do with an update of this loss and this norm of the gradient; without a side effect but the count.

        Args:
            loss: of the step, if known.
            norm: of the gradient, if known.
            can_go_back: whether there is a snapshot.
        """
        values = {name: value for name, value in (("loss", loss), ("gradient", norm)) if value is not None}
        finite = all(map(math.isfinite, values.values()))
        step, self.steps = self.steps, self.steps + 1
        judged = {name: value for name, value in values.items() if self.by in ("both", name)}
        if finite and any(self._is_far_out(name, value) for name, value in judged.items()):
            if self.streak < self.most_skips:
                return self._refuse(step, can_go_back)
            self.levels.append(step)
            told = " and ".join(f"the {name} is {value:.4g}" for name, value in judged.items())
            warnings.warn(
                f"{self.streak} updates in a row were left out as spikes, and still {told}. This is taken for a new level, and accepted. "
                "If it is none, give SpikeGuard (skip_spikes) a rollback, or a larger most_skips.",
                stacklevel=3,
            )
            for usual in self._usual.values():
                usual.clear()
        elif not finite:
            if self.streak + 1 == self.most_skips:
                warnings.warn(
                    f"{self.most_skips} updates in a row were left out, and the loss or the gradient is still not finite. Weights or data are: "
                    "look for the place with trimtab watch, or go back to good weights (rollback=3).",
                    stacklevel=3,
                )
            return self._refuse(step, can_go_back)
        for name, value in values.items():
            self._usual[name].append(value)
        self.streak = 0
        return "accept"

    def _refuse(self, step: int, can_go_back: bool) -> Verdict:
        self.streak += 1
        self.skipped.append(step)
        if self.streak != self.rollback or not can_go_back:
            return "skip"
        self.rolled_back.append(step)
        return "roll back"

    def _is_far_out(self, name: str, value: float) -> bool:
        usual = self._usual[name]
        if len(usual) < self.warmup or value <= max(usual):
            return False
        log = min(usual) > 0
        known = [math.log(y) for y in usual] if log else list(usual)
        middle = statistics.median(known)
        deviation = 1.4826 * statistics.median(abs(y - middle) for y in known)
        above = (math.log(value) if log else value) - middle
        allowed = self.threshold * max(deviation, NOISE if log else NOISE * abs(middle))
        return above > (min(allowed, math.log(LARGE)) if log else allowed)

    def __str__(self) -> str:
        text = f"never acted in {self.steps} updates"
        if self.skipped:
            text = f"skipped {len(self.skipped)} of {self.steps} updates ({_listed(self.skipped)})"
        if self.rolled_back:
            text += f", went back to earlier weights at {_listed(self.rolled_back)}"
        return text + (f", took a new level for usual at {_listed(self.levels)}" if self.levels else "")

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint, to go on later; without the snapshot: the checkpoint itself is one."""
        counts = {name: list(getattr(self, name)) for name in ("skipped", "rolled_back", "levels")}
        return {
            "steps": self.steps,
            "streak": self.streak,
            **counts,
            "usual": {k: list(v) for k, v in self._usual.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.steps, self.streak = int(state["steps"]), int(state["streak"])
        self.skipped, self.rolled_back, self.levels = (list(state[k]) for k in ("skipped", "rolled_back", "levels"))
        self._usual = {name: deque(values, maxlen=self.window) for name, values in state["usual"].items()}


def _listed(steps: list[int]) -> str:
    """The numbers of steps for a sentence: the first few, and how many more."""
    return ", ".join(map(str, steps[:5])) + (f" and {len(steps) - 5} more" if len(steps) > 5 else "")


def _check(name: str, value: object, holds: bool, must: str) -> None:
    if not holds:
        raise ValueError(f"SpikeGuard: {name}={value!r} must be {must}.")
