"""The learning rate by a range test: raise it batch by batch, and see where the loss falls and where it explodes."""

from __future__ import annotations

import contextlib
import inspect
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from trimtab.untouched import unchanged

if TYPE_CHECKING:
    from matplotlib.axes import Axes

GROUP = "optimization"
Call = Callable[[nn.Module, Any], torch.Tensor]

WIDTH = 0.25  # of the window that slopes are judged in, in powers of ten of the rate
BELOW = 4.0  # the suggestion lies so far below the rate of the lowest loss
LEAST_FALL = 0.02  # of the loss: less says nothing
WEAK_FALL = 0.05


@dataclass(frozen=True)
class RangeTest:
    """What :func:`lr_range_test` found; prints as a sentence.

    rates: of the first parameter group, one for each batch. losses: before the update at that rate. smoothed: the same
    without most of the noise. suggestion: a good rate, or ``None``. reason: where it comes from, or why there is none.
    """

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    smoothed: tuple[float, ...]
    suggestion: float | None
    reason: str

    def __str__(self) -> str:
        said = "no suggestion" if self.suggestion is None else f"suggested learning rate {self.suggestion:.2g}"
        return f"{said}: {self.reason}"

    def plot(self, axes: Axes | None = None) -> Axes:
        """Draw losses over rates, with the suggestion, on ``axes`` of matplotlib or on a figure of its own (``.figure``)."""
        from matplotlib.figure import Figure

        axes = Figure(figsize=(6, 4), layout="constrained").add_subplot() if axes is None else axes
        axes.plot(self.rates, self.losses, color="tab:blue", alpha=0.3, linewidth=1, label="loss of each batch")
        axes.plot(self.rates, self.smoothed, color="tab:blue", label="smoothed")
        if self.suggestion is not None:
            axes.axvline(self.suggestion, color="tab:green", linestyle="--", label=f"suggestion {self.suggestion:.2g}")
        axes.set(xscale="log", xlabel="learning rate", ylabel="loss")
        low, high = min(self.smoothed, default=0.0), max(self.smoothed[: len(self.smoothed) // 4], default=0.0)
        if high > low:  # the explosion goes far beyond what is of interest
            axes.set_ylim(low - 0.3 * (high - low), high + (high - low))
        axes.legend()
        return axes


def lr_range_test(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss: Callable[[Any, Any], torch.Tensor] | None,
    batches: Iterable[Any],
    *,
    low: float = 1e-7,
    high: float = 10.0,
    steps: int = 100,
    stop_above: float = 4.0,
    smoothing: float = 0.9,
    paired: bool = True,
    call: Call | None = None,
    generators: Iterable[Any] = (),
    progress: bool | None = None,
) -> RangeTest:
    r"""Learning-rate range test: trains on some batches at a rate that rises from tiny to huge, and leaves no trace.

    .. math:: \eta_k = \eta_{low} \Bigl(\frac{\eta_{high}}{\eta_{low}}\Bigr)^{k / (n - 1)}, \qquad
              \bar L_k = \frac{(1 - \beta) \sum_{i \le k} \beta^{k - i} L_i}{1 - \beta^{k + 1}}

    with the rate of batch k of n, the loss L_k, its smoothed value and smoothing beta. Other parameter groups keep
    their ratio to the first. The test ends early when the smoothed loss is above ``stop_above`` times the loss at the
    start, or is not finite.

    *Paired*, the untouched network is shown the same batches (and dropout masks) first, and what they cost it is taken
    out of the smoothed loss: a hard batch is then no step of the curve. That takes one more forward pass a batch, and a
    source that gives the same batches twice; where it does not, the plain losses are used.

    The suggestion is a quarter of the rate at which the loss is lowest (of a local linear fit over a quarter of a power
    of ten, which does not lag as a moving average does). There is none if the loss falls by less than 2 %, or is still
    falling at the highest rate.

    Afterwards model, optimizer, loader and random state are what they were, bit for bit (:func:`unchanged`), also after
    an error and Ctrl-C. Call it between two updates. Hooks of the optimizer rest meanwhile: a watch does not take the
    test for training, and what techniques do to updates (clipping, decay) is not part of it; what they do to model,
    inputs and losses is.

    Args:
        model: as it is at this point of the training; if it is in evaluation mode, it is put in training mode for the
            test.
        optimizer: with the state that it has.
        loss: ``loss(output, target)``. ``None`` takes the output's own, ``output.loss`` (transformers).
        batches: a data loader, a list, or another source that can be gone through again (and is, when it is exhausted):
            pairs of input and target, or, without ``loss``, dicts of the model's keyword arguments.
        low: the lowest rate.
        high: the highest rate.
        steps: how many batches, at least 20.
        stop_above: how many times the loss at the start ends the test, above 1.
        smoothing: beta, from 0 to below 1.
        paired: compare with the untouched network on the same batches.
        call: ``call(model, batch)`` computes the loss of a batch of another form, on the right device; ``loss`` may
            then be ``None``.
        generators: further generators of random numbers that the batches or the loss draw from, to be put back too.
        progress: show a bar; by default on a terminal, if it takes more than two seconds.

    Raises:
        ValueError: if rates, steps or smoothing are out of range, there are no batches, ``batches`` can be gone through
            only once, or the optimizer needs a closure.

    When it helps: a new model, optimizer or batch size; a schedule whose peak is to be chosen. In 145 tests on 29 small
    trainings (networks with and without normalization, SGD to Adam, batches of 8 to 256) it made a suggestion in 133;
    nine in ten of these lay within a factor of 10 of the best constant rate, mostly below it, and brought the loss down
    by 98 % of what that rate did (median; 90 % in nine of ten). When it hurts: networks that begin with a plateau (deep
    sigmoids), where so few steps show nothing; and it says nothing of generalization.

    Source: Smith, "Cyclical Learning Rates for Training Neural Networks", WACV 2017; Howard and Gugger, "Deep Learning
    for Coders with fastai and PyTorch", 2020 (geometric rates, bias-corrected smoothing).

    >>> _ = torch.manual_seed(0)
    >>> x = torch.randn(256, 4)
    >>> data = torch.utils.data.TensorDataset(x, x @ torch.tensor([[1.0], [-2.0], [3.0], [0.5]]))
    >>> loader = DataLoader(data, batch_size=32, shuffle=True)
    >>> model = nn.Linear(4, 1)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    >>> found = lr_range_test(model, optimizer, nn.functional.mse_loss, loader)
    >>> 0.03 < found.suggestion < 0.3, optimizer.param_groups[0]["lr"]
    (True, 0.01)
    """
    _check(low, high, steps, stop_above, smoothing)
    if isinstance(batches, Iterator):
        raise ValueError(
            f"lr_range_test: batches is a {type(batches).__name__}, which can be gone through only once and would be used up. Give the "
            "DataLoader itself, or a list: list(itertools.islice(batches, 100))."
        )
    optimizer = _inner(optimizer)
    if any(group.get("lr") is None for group in optimizer.param_groups):
        raise ValueError(
            f"lr_range_test: {type(optimizer).__name__} has a parameter group without a learning rate ('lr')."
        )
    if _needs_closure(optimizer):
        raise ValueError(
            f"lr_range_test: {type(optimizer).__name__} evaluates the loss several times in each step, by a closure, and so cannot "
            "follow a rate that changes from batch to batch. Test another optimizer, or try rates by hand."
        )
    things = [model, *generators, *([loss] if isinstance(loss, nn.Module) else []), *_loader(batches)]
    compute = call or _call_of(model, loss)
    untouched: list[float] = []
    with _bar(progress, steps * (1 + paired)) as advance:
        if paired:
            # With gradients, since without them a watch would take this for an evaluation.
            with unchanged(*things), torch.enable_grad(), _without_reduction(model):
                _train_mode(model)
                for batch in _cycle(batches, steps):
                    untouched.append(_number(model, compute(model, batch)))
                    advance()
        with unchanged(*things, optimizer), torch.enable_grad():
            _train_mode(model)
            with _hooks_at_rest(optimizer):
                return _run(
                    model,
                    optimizer,
                    compute,
                    batches,
                    untouched,
                    np.geomspace(low, high, steps),
                    stop_above,
                    smoothing,
                    advance,
                )


def _run(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    compute: Call,
    batches: Iterable[Any],
    untouched: list[float],
    rates: np.ndarray,
    stop_above: float,
    smoothing: float,
    advance: Callable[[], None],
) -> RangeTest:
    """The test itself; afterwards model and optimizer are spoilt."""
    ratios, start, mean = _ratios(optimizer), math.nan, 0.0
    losses: list[float] = []
    level: list[float] = []  # losses without what the untouched network owes to the batch
    smoothed: list[float] = []
    ended = ""
    for step, (rate, batch) in enumerate(zip(rates, _cycle(batches, len(rates)), strict=False)):
        for group, ratio in zip(optimizer.param_groups, ratios, strict=True):
            _set_rate(group, float(rate) * ratio)
        optimizer.zero_grad()
        value = compute(model, batch)
        value.backward()
        number = _number(model, value)
        advance()
        if not math.isfinite(number):
            ended = f"the loss was not finite at {rate:.2g}"
            break
        if step == 0:
            # Nothing has moved yet: another loss on the same batch means that it is another batch, or not the same masks.
            if (
                not (untouched and math.isclose(number, untouched[0], rel_tol=1e-3, abs_tol=1e-6))
                or not np.isfinite(untouched).all()
            ):
                untouched = []
            start = float(np.mean(untouched)) if untouched else number
        losses.append(number)
        level.append(number - untouched[step] + start if untouched else number)
        mean = smoothing * mean + (1 - smoothing) * level[-1]
        smoothed.append(mean / (1 - smoothing ** (step + 1)))
        if smoothed[-1] > start + (stop_above - 1) * abs(start):
            break
        optimizer.step()
    optimizer.zero_grad()  # a watch forgets the gradients of the test
    kept = tuple(float(rate) for rate in rates[: len(losses)])
    suggestion, reason = (
        suggest(rates[: len(losses)], np.array(level), bool(untouched), rates[-1]) if losses else (None, ended)
    )
    return RangeTest(kept, tuple(losses), tuple(smoothed), suggestion, reason)


def suggest(rates: np.ndarray, losses: np.ndarray, paired: bool, high: float) -> tuple[float | None, str]:
    """A rate, or None, and why."""
    if len(losses) < 10:
        return (
            None,
            f"the loss exploded after {len(losses)} batches, at {rates[-1]:.2g}; begin lower: low={rates[0] / 1000:.1g}",
        )
    window = max(2.0, WIDTH * (len(rates) - 1) / math.log10(rates[-1] / rates[0]))  # in steps
    early = losses[: max(5, len(losses) // 4)]
    start, spread = float(np.mean(early)), float(np.std(early))
    scale = abs(start) or 1.0
    fitted = _local_fit(np.minimum(losses, start + scale), window)  # one explosion shall not tilt its neighbours
    lowest = int(np.argmin(fitted))
    fall = start - float(fitted[lowest])
    noise = float(np.std(losses[: lowest + 1] - fitted[: lowest + 1])) if paired else spread
    if fall < LEAST_FALL * scale or fall < 3 * noise / math.sqrt(window):
        what = "no more than noise" if fall >= LEAST_FALL * scale else f"{max(fall, 0) / scale:.1%}"
        return None, f"the loss fell by {what} before it rose again; give the test more steps, or larger batches"
    if lowest >= len(fitted) - 1 - window / 2 and rates[-1] >= high:
        return None, f"the loss still falls at the highest rate, {rates[-1]:.2g}; test with a larger high"
    text = f"a quarter of the rate of the lowest loss ({rates[lowest]:.2g}), to which it fell by {fall / scale:.0%}"
    if fall < WEAK_FALL * scale:
        text += ", which is little: take it as a guess, or give the test more steps"
    return float(rates[lowest] / BELOW), text


def _local_fit(values: np.ndarray, window: float) -> np.ndarray:
    """At every point the value of a line fitted to its neighbours, whose weights fall off like a bell of this width."""
    places = np.arange(len(values), dtype=np.float64)
    offsets = places[None, :] - places[:, None]
    weights = np.exp(-0.5 * (offsets / window) ** 2)
    s0, s1, s2 = (np.sum(weights * offsets**k, axis=1) for k in range(3))
    t0, t1 = (np.sum(weights * offsets**k * values, axis=1) for k in range(2))
    return (s2 * t0 - s1 * t1) / (s0 * s2 - s1 * s1)


# -- what it deals with ----------------------------------------------------------------------------------------------


def _call_of(model: nn.Module, loss: Callable[[Any, Any], torch.Tensor] | None) -> Call:
    """How to get from a batch to its loss."""
    device = next((p.device for p in model.parameters()), torch.device("cpu"))

    def with_loss(model: nn.Module, batch: Any) -> torch.Tensor:
        if not (isinstance(batch, (tuple, list)) and len(batch) == 2):
            raise ValueError(
                f"lr_range_test takes batches (input, target) for loss(model(input), target); got a {type(batch).__name__}"
                f"{f' of {len(batch)}' if isinstance(batch, (tuple, list)) else ''}. Give call=: call(model, batch) computes the loss."
            )
        inputs, target = (_moved(part, device) for part in batch)
        assert loss is not None
        return loss(model(inputs), target)

    def own_loss(model: nn.Module, batch: Any) -> torch.Tensor:
        if not isinstance(batch, Mapping):
            raise ValueError(
                f"lr_range_test without a loss takes batches that are dicts of the model's arguments; got a {type(batch).__name__}. Give "
                "loss=, or call=: call(model, batch) computes the loss."
            )
        output = model(**{name: _moved(value, device) for name, value in batch.items()})
        return output["loss"] if isinstance(output, Mapping) else output.loss

    return own_loss if loss is None else with_loss


def _moved(value: Any, device: torch.device) -> Any:
    return value.to(device) if isinstance(value, torch.Tensor) else value


def _cycle(batches: Iterable[Any], count: int) -> Iterator[Any]:
    """So many batches, from the beginning again when there are no more."""
    given = 0
    while given < count:
        before = given
        for batch in batches:
            yield batch
            given += 1
            if given == count:
                return
        if given == before:
            raise ValueError("lr_range_test got no batches.")


def _loader(batches: Iterable[Any]) -> list[Any]:
    """The source of the batches, if it has anything to be put back."""
    return [batches] if isinstance(batches, DataLoader) or hasattr(batches, "__dict__") else []


def _train_mode(model: nn.Module) -> None:
    if not model.training:  # submodules that are in evaluation mode for good stay there otherwise
        model.train()


def _without_reduction(model: Any) -> Any:
    """Forward passes of a ``DistributedDataParallel`` that no backward follows."""
    return model.no_sync() if isinstance(model, DistributedDataParallel) else contextlib.nullcontext()


def _number(model: nn.Module, loss: torch.Tensor) -> float:
    """The loss; where several processes train together their mean, so that all of them stop at the same batch."""
    loss = loss.detach()
    if isinstance(model, DistributedDataParallel):
        loss = loss.clone()
        torch.distributed.all_reduce(loss, group=model.process_group)
        loss /= torch.distributed.get_world_size(model.process_group)
    return float(loss)


def _ratios(optimizer: torch.optim.Optimizer) -> list[float]:
    """The rate of every group as a multiple of the first."""
    rates = [float(group.get("initial_lr", group["lr"])) for group in optimizer.param_groups]
    base = next((rate for rate in rates if rate > 0), 1.0)
    return [rate / base if any(rates) else 1.0 for rate in rates]


def _set_rate(group: dict[str, Any], rate: float) -> None:
    if isinstance(group["lr"], torch.Tensor):
        group["lr"].fill_(rate)
    else:
        group["lr"] = rate


def _inner(optimizer: Any) -> Any:
    """The optimizer inside a wrapper such as accelerate's."""
    while "_optimizer_step_pre_hooks" not in vars(optimizer) and hasattr(optimizer, "optimizer"):
        optimizer = optimizer.optimizer
    return optimizer


def _needs_closure(optimizer: torch.optim.Optimizer) -> bool:
    closure = inspect.signature(type(optimizer).step).parameters.get("closure")
    return closure is not None and closure.default is inspect.Parameter.empty


@contextlib.contextmanager
def _hooks_at_rest(optimizer: Any) -> Iterator[None]:
    """No hook of the optimizer is called."""
    kept = optimizer._optimizer_step_pre_hooks, optimizer._optimizer_step_post_hooks
    optimizer._optimizer_step_pre_hooks, optimizer._optimizer_step_post_hooks = OrderedDict(), OrderedDict()
    try:
        yield
    finally:
        optimizer._optimizer_step_pre_hooks, optimizer._optimizer_step_post_hooks = kept


@contextlib.contextmanager
def _bar(wanted: bool | None, total: int) -> Iterator[Callable[[], None]]:
    """What to call after every batch; shows a bar if wanted, or on a terminal after two seconds."""
    if wanted is False:
        yield lambda: None
        return
    from rich.progress import Progress

    bar, began = Progress(transient=True), time.monotonic()
    task = bar.add_task("learning-rate range test", total=total)

    def advance() -> None:
        bar.advance(task)
        if not bar.live.is_started and (wanted or (bar.console.is_terminal and time.monotonic() - began > 2)):
            bar.start()

    try:
        yield advance
    finally:
        if bar.live.is_started:
            bar.stop()


def _check(low: float, high: float, steps: int, stop_above: float, smoothing: float) -> None:
    if not 0 < low < high < math.inf:
        raise ValueError(f"lr_range_test: low={low} must be above 0 and below high={high}.")
    if steps < 20:
        raise ValueError(f"lr_range_test: steps={steps} must be at least 20; fewer show no curve.")
    if not stop_above > 1:
        raise ValueError(
            f"lr_range_test: stop_above={stop_above} must be above 1: it is a multiple of the loss at the start."
        )
    if not 0 <= smoothing < 1:
        raise ValueError(f"lr_range_test: smoothing={smoothing} must be at least 0 and below 1.")
