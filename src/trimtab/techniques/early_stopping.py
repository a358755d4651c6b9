"""Early stopping: the weights of the best evaluation are kept from the moment on when nothing is gained any more."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn

from trimtab.optim.early_stopping import EarlyStopping as Judge
from trimtab.optim.early_stopping import check_argument
from trimtab.optim.tensors import copied, fitting, write
from trimtab.quantities import goal_of, judging, named, told
from trimtab.recipe import Change, Suite, Technique, TrainingLike
from trimtab.techniques.engines.averages import averaged_tensors


@dataclass(frozen=True)
class EarlyStopping(Technique):
    r"""Puts the best weights back, and leaves it at that, once the held-out metric has got worse.

    It hears of every evaluation of the script (losses computed without gradients and their accuracies, numbers that it prints). With
    ``criterion="statistical"`` it stops when the metric has got worse by more than its noise explains: the mean of the latest
    ``patience`` evaluations against the best mean before, ``y_latest - y_best + min_improvement > t sigma sqrt(2 / patience)``, in a
    t test that stops falsely in ``level`` of all runs at most (:class:`trimtab.optim.EarlyStopping` says precisely when). With
    ``criterion="patience"``, when ``patience`` evaluations in a row were not better than the best by more than ``min_improvement``.

    It cannot end the script. When it stops, all parameters and buffers get their values from the best evaluation, and get
    them again after every step that still follows: from then on evaluations and checkpoints are those of the best weights. Without a stop
    the last weights stay, also for the script's last evaluation, since nothing tells that it is the last.
    Takes the memory of two copies of the weights.

    Helps: networks that overfit. Hurts: the metric is the best of many and so too good; judge the result on other data. Metrics that get
    worse before they get better. Good first setting: the default, with an evaluation per epoch.
    Clashes with averages of weights.

    Args:
        patience: how many evaluations are judged together.
        metric: such as "val loss"; "" for the one that judges a run: what the script says of held-out data, scores before losses, else what is
            measured there.
        min_improvement: what counts as an improvement, in units of the metric, at least 0.
        criterion: "statistical" or "patience".
        goal: whether "min" or "max" is better; "" reads it from the metric's name.
        level: probability of stopping falsely in the whole run; for "statistical" only.

    Source: Prechelt, "Early Stopping - But When?", 1998; :class:`trimtab.optim.EarlyStopping`.

    >>> import trimtab as tt
    >>> model = nn.Linear(1, 1)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> training = tt.attach(model, optimizer).apply("early_stopping(patience=1, criterion='patience')")
    >>> for loss in (2.0, 1.0, 3.0, 4.0):
    ...     model(torch.ones(1, 1)).sum().backward(); optimizer.step()
    ...     training.evaluated("val loss", loss)
    >>> print(training.changes[0])
    early stopping after 1 evaluation without improvement: stopped at step 3, best val loss 1 at step 2
    """

    acts_on = "loop"
    moment = "stop"
    takes = ("final weights",)
    group = "regularization"
    picks_by_metric = True
    suite = Suite(text="early_stopping(patience=1, criterion='patience', min_improvement=1.0)", judged=True)

    patience: int = 5
    metric: str = ""
    min_improvement: float = 0.0
    criterion: str = "statistical"
    goal: str = ""
    level: float = 0.05

    def __post_init__(self) -> None:
        check_argument(
            "goal", self.goal, self.goal in ("", "min", "max"), "'min', 'max', or '' to read it from the metric's name"
        )
        self.judge("min")

    def judge(self, goal: str) -> Judge:
        """The judge of one training."""
        return Judge(self.patience, self.min_improvement, self.criterion, goal, self.level)

    def apply(self, training: TrainingLike) -> Change:
        keeper = _Keeper(training, self)
        evaluations = f"{self.patience} evaluation{'s' if self.patience > 1 else ''}"
        summary = {
            "patience": f"early stopping after {evaluations} without improvement",
            "statistical": f"early stopping when {evaluations} are worse than noise explains (level {self.level:g})",
        }[self.criterion]
        return Change(summary, keeper.end, lambda: keeper.judge is not None, outcome=keeper.outcome)


class _Keeper:
    """Hears of evaluations, keeps the weights of the best, and puts them back for good after the stop."""

    def __init__(self, training: TrainingLike, technique: EarlyStopping) -> None:
        self.training, self.technique = training, technique
        self.judge: Judge | None = None
        self.metric = ""
        self.steps = self.best_step = self.stopped_at = 0
        self._pending: dict[str, float] = {}  # evaluations of the weights as they are now
        self._seen: dict[str, torch.Tensor] = {}  # these weights
        self._best: dict[str, torch.Tensor] = {}
        self._trained = False  # since the best weights were put back
        self._stops = [
            training.on("forward", self._forward),
            training.on("evaluation", self._evaluation),
            training.on("after_step", self._after_step),
            training.on("step", self._count),
        ]

    def _count(self, loss: object) -> None:
        self.steps += 1

    def _forward(self, model: nn.Module) -> None:
        if self.training.phase == "train":
            self._trained = True
        elif self._stopped:
            if self._trained:  # without a step: batch norms saw another batch
                self._put_back()
        elif not torch.is_grad_enabled():
            self._look()

    def _evaluation(self, name: str, value: float) -> None:
        if not self._stopped:
            self._look()
            self._pending[name] = value

    def _look(self) -> None:
        # Numbers are told when training has gone on to its next backward, and its forward has changed buffers by then.
        if not self._seen:
            self._seen = copied(averaged_tensors(self.training))

    def _after_step(self, optimizer: torch.optim.Optimizer) -> None:
        if self._pending:
            self._judge()
        self._pending, self._seen = {}, {}
        if self._stopped:
            self._put_back()

    def _judge(self) -> None:
        self.metric = self.metric or choose(self._pending, self.technique.metric)
        if self.metric not in self._pending:
            return
        self.judge = self.judge or self.technique.judge(self.technique.goal or goal_of(self.metric))
        self.judge.update(self._pending[self.metric])
        if self.judge.improved:
            self._best, self.best_step = self._seen, self.steps
        if self._stopped:
            self.stopped_at = self.steps

    @property
    def _stopped(self) -> bool:
        return self.judge is not None and self.judge.stopped

    def _put_back(self) -> None:
        own = averaged_tensors(self.training)
        write(own, fitting(own, self._best))
        self._trained = False

    def outcome(self) -> str:
        if self.judge is None:
            return ""
        what = f"stopped at step {self.stopped_at}" if self._stopped else "not stopped"
        return f"{what}, best {self.metric} {self.judge.best:.4g} at step {self.best_step}"

    def end(self) -> None:
        for stop in self._stops:
            stop()


def choose(metrics: Iterable[str], wanted: str = "") -> str:
    """The metric to stop by: the one that judges a run (see :func:`trimtab.quantities.judging`); "" if there is none. ``wanted`` may leave
    out who said it.

    >>> choose(["train loss", "val loss", "val accuracy"]), choose(["train loss"]), choose(["printed val f1"], "val f1")
    ('val accuracy', '', 'printed val f1')
    """
    if wanted:
        return named(wanted, metrics)
    listed = [name for name in metrics if name != "loss"]
    return judging(listed) or next((name for name in listed if told(name)), "")
