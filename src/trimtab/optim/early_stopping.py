"""Early stopping: a judge of when a training has got as good as it will get."""

from __future__ import annotations

import functools
import math

import numpy as np
import torch

from trimtab.optim.tensors import ModelOrTensors, copied, write
from trimtab.values import as_number, is_whole

GROUP = "regularization"


class EarlyStopping:
    r"""Says when to stop, by a number that judges the model after every evaluation, and keeps the best weights.

    ``criterion="patience"``: stop after ``patience`` evaluations in a row none of which was better than the best before them by
    more than ``min_improvement``: the usual rule, and Keras'. Noise alone makes it stop: on a flat noisy curve always, on a slowly
    improving one nearly so.

    ``criterion="statistical"``: stop when the metric has got worse, and noise does not explain it. The evaluations are cut
    into blocks of ``patience``, and the mean of the latest block is compared with that of every block before it: with q of these,
    in units where less is better, stop if

    .. math:: \bar y_{\mathrm{latest}} - \min_k \bar y_k + \mathrm{min\_improvement}
              > t_\nu\Big(1 - \frac{\mathrm{level}}{q^2 (q+1)}\Big)\, \hat\sigma \sqrt{2 / \mathrm{patience}}, \qquad
              \hat\sigma^2 = \frac{1}{6m} \sum_i (y_i - 2 y_{i-1} + y_{i-2})^2

    with :math:`t_\nu(1-a)` the quantile of Student's distribution that is exceeded with probability a. It is a one-sided t test of "the
    latest block is better than each before it by ``min_improvement``", Bonferroni-corrected for the q comparisons and, since
    :math:`\sum_q 1/(q(q+1)) = 1`, for all tests of a run however long it gets. The noise comes from the m second differences of the last 4
    ``patience`` evaluations, which a smooth trend does not enter; :math:`\nu = 36 m^2 / (70 m - 36)` are its degrees of freedom
    (Satterthwaite's). So if the metric goes on improving (or, with ``min_improvement=0``, stays where it is), and its noise is independent
    from one evaluation to the next and about normal, the probability of ever stopping is at most ``level``. Noise that lasts over several
    evaluations looks like a trend and is taken for one: with ``patience=5`` and a correlation of 0.3 between neighbours, a flat curve of
    100 evaluations is stopped on in a sixth of all runs. A plateau is only stopped on with ``min_improvement > 0``, and only
    where the noise is small enough to tell it from an improvement by that much.

    An evaluation that is not finite counts as not improved; a whole block of them (as many as ``patience``) stops.

    Args:
        patience: how many evaluations may pass without an improvement; the length of a block.
        min_improvement: what counts as an improvement, in units of the metric, at least 0.
        criterion: "statistical" or "patience".
        goal: whether "min" or "max" is better.
        level: probability of stopping falsely in the whole run; for "statistical" only.

    Attributes:
        best, best_at: the best number, and which evaluation it was (from 0); -1 before there is one.
        improved: whether the last evaluation was the best so far.
        stopped: whether to stop.

    Raises:
        ValueError: if an argument is outside its range.

    When it helps: networks that overfit; saves time where nothing is gained any more. When it hurts: the number is then the best of many, thus
    too good; measure the result on other data. Metrics that get worse before they get better (epoch-wise double descent).

    Source: Prechelt, "Early Stopping - But When?", 1998; von Neumann et al., "The Mean Square Successive Difference", 1941, for
    noise from differences.

    >>> judge = EarlyStopping(patience=2, criterion="patience")
    >>> model = torch.nn.Linear(1, 1)
    >>> for loss in (3.0, 1.0, 2.0, 1.5, 0.5):
    ...     if judge.update(loss, model):
    ...         break
    >>> judge.best, judge.best_at, loss
    (1.0, 1, 1.5)
    >>> judge.restore(model)
    """

    def __init__(
        self,
        patience: int = 5,
        min_improvement: float = 0.0,
        criterion: str = "statistical",
        goal: str = "min",
        level: float = 0.05,
    ) -> None:
        check_argument("patience", patience, is_whole(patience, 1), "a whole number of at least 1")
        check_argument("min_improvement", min_improvement, as_number(min_improvement) >= 0, "at least 0")
        check_argument("criterion", criterion, criterion in ("statistical", "patience"), "'statistical' or 'patience'")
        check_argument("goal", goal, goal in ("min", "max"), "'min' or 'max'")
        check_argument("level", level, 0 < as_number(level) < 1, "a probability strictly between 0 and 1")
        least = {"statistical": 2, "patience": 1}[criterion]  # from two evaluations alone there is no second difference
        check_argument("patience", patience, patience >= least, f"at least {least} for criterion={criterion!r}")
        self.patience, self.min_improvement, self.criterion = patience, min_improvement, criterion
        self.goal, self.level = goal, level
        self.best, self.best_at = math.nan, -1
        self.improved = self.stopped = False
        self._values: list[float] = []  # less is better
        self._least = math.inf
        self._to_beat, self._waited = math.inf, 0
        self._state: dict[str, torch.Tensor] = {}

    def update(self, value: float, model: ModelOrTensors | None = None) -> bool:
        """Take in an evaluation, copy the model's parameters and buffers if it is the best, and say whether to stop."""
        value = float(value)
        less = value if self.goal == "min" else -value
        self._values.append(less if math.isfinite(less) else math.nan)
        self.improved = math.isfinite(less) and less < self._least
        if self.improved:
            self._least, self.best, self.best_at = less, value, len(self._values) - 1
            if model is not None:
                self._state = copied(model)
        if self._is_time():
            self.stopped = True
        return self.stopped

    def restore(self, model: ModelOrTensors) -> None:
        """Put the best parameters and buffers back into the model.

        Raises:
            ValueError: if none were kept, or they are not those of this model.
        """
        if not self._state:
            raise ValueError(
                "EarlyStopping has kept no weights: call update(value, model) with the model, and a finite value."
            )
        write(model, self._state)

    def _is_time(self) -> bool:
        if self.criterion == "statistical":
            return len(self._values) % self.patience == 0 and self._is_worse()
        self._waited += 1
        if self._values[-1] < self._to_beat - self.min_improvement:
            self._to_beat, self._waited = self._values[-1], 0
        return self._waited >= self.patience

    def _is_worse(self) -> bool:
        """The test that the class describes, at the end of a block."""
        values = np.array(self._values)
        blocks = [block[np.isfinite(block)] for block in values.reshape(-1, self.patience)]
        if not len(blocks[-1]):
            return True
        means = [block.mean() for block in blocks if len(block)]
        q = len(means) - 1
        recent = values[-4 * self.patience :]
        differences = np.diff(recent[np.isfinite(recent)], 2)
        m = len(differences)
        if not q or not m:
            return False
        error = math.sqrt(float(np.mean(differences**2)) / 6 * 2 / self.patience)
        return bool(means[-1] - min(means[:-1]) + self.min_improvement > _critical(self.level, q, m) * error)


@functools.cache
def _critical(level: float, q: int, m: int) -> float:
    from scipy import stats

    return float(stats.t.isf(level / (q * q * (q + 1)), 36 * m * m / (70 * m - 36)))


def check_argument(name: str, value: object, holds: bool, must: str) -> None:
    """Raise the error of an argument that is not what it must be."""
    if not holds:
        raise ValueError(f"{name}={value!r} must be {must}.")
