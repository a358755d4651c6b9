"""Monte-Carlo dropout: the sub-networks of a network with dropout, averaged, and compared with the scaled network."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import nn

from trimtab.untouched import beside_training

GROUP = "regularization"
DROPS = re.compile(
    r"drop|stochasticdepth|standout|zoneout", re.IGNORECASE
)  # class names of modules that are noise alone


class Spread(NamedTuple):
    """Mean and standard deviation of the outputs of sub-networks."""

    mean: torch.Tensor
    std: torch.Tensor


class DropoutComparison(NamedTuple):
    """How far the average of sub-networks is from the scaled network, for classes, averaged over the inputs.

    arithmetic: divergence KL(mean of probabilities || scaled network), in nats. geometric: the same of the normalized geometric
    mean. agreement: share of inputs for which the mean of probabilities and the scaled network name the same class.
    """

    arithmetic: float
    geometric: float
    agreement: float


def monte_carlo(
    model: nn.Module,
    *inputs: Any,
    samples: int = 100,
    transform: Callable[[torch.Tensor], torch.Tensor] | None = None,
) -> Spread:
    r"""Mean and standard deviation of what the sub-networks of a network with dropout say.

    .. math:: \bar y = \frac1S \sum_{s=1}^S f(x; m_s), \qquad \sigma^2 = \frac1{S-1} \sum_{s=1}^S (f(x; m_s) - \bar y)^2

    with fresh masks ``m_s`` for each of S calls. Dropout samples, and what is like it: modules whose class is called after it (DropPath,
    DropConnect, StochasticDepth, Standout, Zoneout ...), and the ``dropout`` of recurrent, attention and norm layers. All else is in
    evaluation mode, batch norms with their running statistics. Afterwards every module is in the mode in which it was.
    Dropout that a model's code calls as a function is not found. The standard deviation is that of the model's answer, not of noise in
    the targets.

    Args:
        model: with dropout.
        inputs: what the model is called with.
        samples: number of calls S, at least 2. The error of the mean is the standard deviation through the root of it.
        transform: applied to each output before averaging: ``lambda y: y.softmax(-1)`` averages probabilities. Needed where
            the model's output is no tensor.

    Returns:
        ``(mean, std)``, each of the shape of the (transformed) output.

    Raises:
        ValueError: if samples is below 2, nothing in the model samples, the output is no tensor, or a batch norm has a dropout in its
            own pass.

    When it helps: to see on which inputs a network is unsure; accuracy, a little. When it hurts: costs S times the
    evaluation; small p gives small spread, whatever the data say.

    Source: Gal & Ghahramani, "Dropout as a Bayesian Approximation", ICML 2016; seeds 000, 001, 003 for the average of sub-networks.

    >>> model = nn.Sequential(nn.Dropout(0.5), nn.Linear(2, 1, bias=False)).eval()
    >>> _ = nn.init.ones_(model[1].weight), torch.manual_seed(0)
    >>> mean, std = monte_carlo(model, torch.ones(1, 2), samples=4000)
    >>> round(mean.item(), 1), round(std.item(), 1)  # of 0, 2, 2 and 4
    (2.0, 1.4)
    """
    _check(model, samples)
    mean = square = torch.zeros(())
    with _sampling(model):
        for count in range(1, samples + 1):
            y = model(*inputs)
            y = _tensor(model, y if transform is None else transform(y)).detach()
            y = y.to(torch.promote_types(y.dtype, torch.float32))
            if count == 1:
                mean, square = y.clone(), torch.zeros_like(y)
                continue
            ahead = y - mean  # Welford: no difference of large sums
            mean += ahead / count
            square += ahead * (y - mean)
    return Spread(mean, (square / (samples - 1)).sqrt())


def compare_with_weight_scaling(model: nn.Module, *inputs: Any, samples: int = 100, dim: int = -1) -> DropoutComparison:
    r"""How far the average of sub-networks is from the one network that evaluation uses in its place.

    .. math:: \mathrm{KL}(\bar p \,\|\, p) = \sum_k \bar p_k \log \frac{\bar p_k}{p_k}, \qquad
              \bar p = \frac1S \sum_s p(x; m_s) \quad \text{or} \quad \bar p \propto \exp \frac1S \sum_s \log p(x; m_s)

    with ``p`` the classes' probabilities in evaluation mode (all units, scaled weights). For one linear layer behind the dropout, the
    normalized geometric mean over all masks *is* the scaled network; with hidden layers both are near it, and how near is
    what this tells. With S calls it is above 0 by some 1 / S even there.

    Args:
        model: with dropout; its output are logits, or logarithms of probabilities.
        inputs: what the model is called with.
        samples: number of calls S, at least 2.
        dim: where the classes are.

    Raises:
        ValueError: as :func:`monte_carlo`.

    When it helps: to know whether the cheap evaluation of a network with dropout is worth its name. When it hurts: nothing; it costs S
    evaluations.

    Source: Srivastava et al., "Dropout", JMLR 15, 2014, section 7.5; Baldi & Sadowski, "Understanding Dropout", NeurIPS 2013.

    >>> model = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 2)).eval()
    >>> found = compare_with_weight_scaling(model, torch.randn(20, 3))
    >>> found.arithmetic < 0.1 and found.agreement > 0.5
    True
    """
    _check(model, samples)
    arithmetic = geometric = torch.zeros(())
    with _sampling(model):
        for _ in range(samples):
            logits = _tensor(model, model(*inputs)).detach()
            logs = logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(dim)
            arithmetic, geometric = arithmetic + logs.exp() / samples, geometric + logs / samples
    with beside_training(model), torch.no_grad():
        model.eval()
        scaled = _tensor(model, model(*inputs)).to(arithmetic.dtype).log_softmax(dim)

    def divergence(logs: torch.Tensor) -> float:
        return (logs.exp() * (logs - scaled)).sum(dim).mean().item()

    same = arithmetic.argmax(dim) == scaled.argmax(dim)
    # a probability may be 0 in single precision
    logs = arithmetic.clamp(min=torch.finfo(arithmetic.dtype).tiny).log()
    return DropoutComparison(divergence(logs), divergence(geometric.log_softmax(dim)), same.double().mean().item())


def _dropouts(model: nn.Module) -> list[Any]:
    """The modules that training mode makes draw random numbers, and does nothing else to."""
    found = []
    for module in model.modules():
        rate = getattr(module, "dropout", 0.0)
        if isinstance(rate, float) and rate > 0:
            if getattr(module, "track_running_stats", False):
                raise ValueError(
                    f"{module} drops while its statistics are those of the batch, and only then. Put a Dropout of its own "
                    "behind it (if fuse joined them, undo that)."
                )
            found.append(module)
        # a whole model may be named after it, too
        elif DROPS.search(type(module).__name__) and (module is not model or not any(module.children())):
            found.append(module)
    return found


def _check(model: nn.Module, samples: int) -> None:
    if samples < 2:
        raise ValueError(f"samples={samples} must be at least 2: a spread needs two outputs.")
    if not _dropouts(model):
        raise ValueError(f"The {type(model).__name__} has no dropout: all its sub-networks are the same.")


@contextlib.contextmanager
def _sampling(model: nn.Module) -> Iterator[None]:
    """Inside, calls of the model drop units, and are evaluations otherwise."""
    with beside_training(model):
        model.eval()
        for module in _dropouts(model):
            module.training = True
        for module in model.modules():
            if isinstance(module, nn.TransformerEncoderLayer):  # in evaluation it takes a way past its dropouts
                module.training = True
        yield


def _tensor(model: nn.Module, y: Any) -> torch.Tensor:
    if not isinstance(y, torch.Tensor):
        raise ValueError(
            f"The {type(model).__name__} gives a {type(y).__name__}, and a mean needs a tensor. "
            "Give transform=, which takes the tensor out of it."
        )
    return y
