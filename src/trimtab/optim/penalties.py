r"""Penalties on the size of parameters: as terms of a loss, as additions to gradients, as proximal steps, and as priors.

Factors are those of a loss that is a mean over samples, and are not divided by their number:

.. math:: R_1(w) = \lambda \sum_i |w_i|, \qquad R_2(w) = \frac{\lambda}{2} \sum_i w_i^2,
          \qquad R_p(w) = \frac{\lambda}{p} \sum_i |w_i|^p

so that the gradient of R_2 is lambda w, and a step of SGD the same as with its ``weight_decay=lambda``. Where a text has
lambda ||w||^2 (000, Keras), its lambda is half of ours; where it has (1/m) (lambda/2) ||w||^2 with m samples (001), or
alpha / (2m) ||w||^2 (scikit-learn's MLP), it is m times ours.
"""

from __future__ import annotations

import math
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable

import torch

from trimtab._kernels import FORCED, Kernel, Op, compiled, kernels
from trimtab.values import as_number

GROUP = "regularization"
Parameters = torch.Tensor | Iterable[torch.Tensor]


def l1_penalty(parameters: Parameters, factor: float) -> torch.Tensor:
    r"""The L1 penalty of parameters, as a term of a loss: sparse solutions.

    .. math:: R(w) = \lambda \sum_i |w_i|, \qquad \frac{\partial R}{\partial w_i} = \lambda \operatorname{sign}(w_i),
              \quad \operatorname{sign}(0) = 0

    over all entries of all parameters. The gradient alone makes weights small but, as steps are finite, hardly ever zero;
    :func:`proximal_step_` after each step makes zeros of them.

    Args:
        parameters: tensors of any shapes, ``model.parameters()`` or some of them.
        factor: lambda, at least 0.

    Returns:
        A number with a gradient.

    Raises:
        ValueError: for a negative factor, and for no parameters at all.

    When it helps: more features than matter, weights that are to be read or pruned. When it hurts: groups of correlated
    features, of which it keeps one by chance (see :func:`elastic_net_penalty`); networks that under-fit.

    Source: Tibshirani, "Regression Shrinkage and Selection via the Lasso", JRSS B 58, 1996.

    >>> w = torch.tensor([3.0, 0.0, -1.0], requires_grad=True)
    >>> penalty = l1_penalty([w], 0.5)
    >>> penalty.backward()
    >>> penalty.item(), w.grad.tolist()
    (2.0, [0.5, 0.0, -0.5])
    """
    _check("l1_penalty", factor=factor)
    return factor * _total("l1_penalty", parameters, torch.abs)


def l2_penalty(parameters: Parameters, factor: float) -> torch.Tensor:
    r"""The L2 penalty of parameters (ridge, Tikhonov), as a term of a loss: small weights, none of them zero.

    .. math:: R(w) = \frac{\lambda}{2} \sum_i w_i^2, \qquad \frac{\partial R}{\partial w} = \lambda w

    over all entries of all parameters; with SGD the same as ``weight_decay=lambda``, with adaptive optimizers not the
    same as decoupled weight decay. See the file for other conventions of lambda.

    Args:
        parameters: tensors of any shapes, ``model.parameters()`` or some of them.
        factor: lambda, at least 0.

    Returns:
        A number with a gradient.

    Raises:
        ValueError: for a negative factor, and for no parameters at all.

    When it helps: networks that fit their training set and generalize worse; ill-conditioned problems. When it hurts:
    weights in front of a normalization, whose size has no effect on the output; adaptive optimizers, which divide
    it by the size of the gradient.

    Source: Hoerl and Kennard, "Ridge Regression: Biased Estimation for Nonorthogonal Problems", Technometrics 12, 1970.

    >>> w = torch.tensor([3.0, 0.0, -1.0], requires_grad=True)
    >>> penalty = l2_penalty([w], 0.5)
    >>> penalty.backward()
    >>> penalty.item(), w.grad.tolist()
    (2.5, [1.5, 0.0, -0.5])
    """
    _check("l2_penalty", factor=factor)
    return factor / 2 * _total("l2_penalty", parameters, torch.square)


def elastic_net_penalty(parameters: Parameters, l1: float, l2: float) -> torch.Tensor:
    r"""The elastic net: an L1 and an L2 penalty together, as a term of a loss.

    .. math:: R(w) = \lambda_1 \sum_i |w_i| + \frac{\lambda_2}{2} \sum_i w_i^2

    scikit-learn's ``ElasticNet(alpha, l1_ratio)`` is ``l1 = alpha l1_ratio``, ``l2 = alpha (1 - l1_ratio)``, with the mean of
    half the squared errors.

    Args:
        parameters: tensors of any shapes, ``model.parameters()`` or some of them.
        l1: lambda_1, at least 0.
        l2: lambda_2, at least 0.

    Returns:
        A number with a gradient.

    Raises:
        ValueError: for a negative factor, and for no parameters at all.

    When it helps: sparse solutions where features are correlated: it keeps or drops them together. When it hurts:
    networks that under-fit.

    Source: Zou and Hastie, "Regularization and Variable Selection via the Elastic Net", JRSS B 67, 2005.

    >>> elastic_net_penalty(torch.tensor([3.0, 0.0, -1.0]), l1=1.0, l2=0.5)
    tensor(6.5000)
    """
    _check("elastic_net_penalty", l1=l1, l2=l2)
    return _total("elastic_net_penalty", parameters, lambda w: l1 * w.abs() + l2 / 2 * w.square())


def lp_penalty(parameters: Parameters, factor: float, p: float, eps: float = 1e-3) -> torch.Tensor:
    r"""The Lp (bridge) penalty of parameters, as a term of a loss: between L1 and L2, or beyond.

    .. math:: R(w) = \frac{\lambda}{p} \sum_i |w_i|^p \quad (p \ge 1), \qquad
              R(w) = \frac{\lambda}{p} \sum_i \left( (w_i^2 + \epsilon^2)^{p/2} - \epsilon^p \right) \quad (p < 1)

    over all entries of all parameters. The derivative is lambda sign(w) |w|^(p - 1); p = 1 and 2 are :func:`l1_penalty` and
    :func:`l2_penalty`. Below 1 the penalty is not convex, and its derivative would be infinite at 0; rounded off by eps, it
    is 0 at 0 and at most lambda eps^(p - 1).

    Args:
        parameters: tensors of any shapes, ``model.parameters()`` or some of them.
        factor: lambda, at least 0.
        p: the exponent, positive.
        eps: the size below which a weight counts as zero, for p < 1.

    Returns:
        A number with a gradient.

    Raises:
        ValueError: for a negative factor, a p or eps that is not positive, and for no parameters at all.

    When it helps: p below 1, as a closer stand-in for the number of weights that are not zero than L1; p between 1 and 2, to
    shrink small weights more than L2 does without making zeros. When it hurts: below 1 the result depends on the start.

    Source: Frank and Friedman, "A Statistical View of Some Chemometrics Regression Tools", Technometrics 35, 1993; rounded
    off: Chartrand and Yin, "Iteratively Reweighted Algorithms for Compressive Sensing", ICASSP 2008.

    >>> w = torch.tensor([4.0, 0.0, -1.0], requires_grad=True)
    >>> penalty = lp_penalty(w, 0.5, p=1.5)
    >>> penalty.backward()
    >>> round(penalty.item(), 4), w.grad.tolist()
    (3.0, [1.0, 0.0, -0.5])
    """
    _check("lp_penalty", factor=factor)
    check_power(p, eps)
    return factor * lp_sum(parameters, p, eps)


def lp_sum(parameters: Parameters, p: float, eps: float) -> torch.Tensor:
    """:func:`lp_penalty` of factor 1, without its checks and its warning.

    >>> lp_sum(torch.tensor([2.0, -1.0]), p=2, eps=1e-3)
    tensor(2.5000)
    """

    def power(w: torch.Tensor) -> torch.Tensor:
        return w.abs().pow(p) if p >= 1 else (w.square() + eps**2).pow(p / 2) - eps**p

    return _total("lp_penalty", parameters, power) / p


def check_power(p: float, eps: float = 1e-3) -> None:
    """Refuse exponents that are not positive numbers, and warn of those below 1."""
    if not 0 < as_number(p) < math.inf:
        raise ValueError(f"p={p} must be a positive number: 1 is L1, 2 is L2; for the number of non-zeros see l0.")
    if not 0 < as_number(eps) < math.inf:
        raise ValueError(f"eps={eps} must be positive: it is the size below which a weight counts as zero.")
    if p < 1:
        warnings.warn(
            f"p={p} is below 1: the penalty is not convex, and the result depends on where the weights start. "
            f"It is rounded off within {eps:g} of 0.",
            stacklevel=3,
        )


def add_penalty_gradient_(parameters: Parameters, *, l1: float = 0.0, l2: float = 0.0) -> torch.Tensor:
    r"""Adds the gradient of an L1 and an L2 penalty to ``.grad`` in place, between ``backward`` and the step.

    .. math:: g \leftarrow g + \lambda_1 \operatorname{sign}(w) + \lambda_2 w

    The same as ``elastic_net_penalty(...)`` in the loss, without its graph, and once for each step however many parts its
    gradient is accumulated from. With clipping, call it where the penalty is to count: before, or behind. A ``GradScaler``
    must have unscaled the gradients. Parameters without a gradient are left alone.

    Args:
        parameters: tensors of any shapes, ``model.parameters()`` or some of them.
        l1: lambda_1. Negative factors are for optimizers that maximize.
        l2: lambda_2.

    Returns:
        The value of the penalty, of the parameters with a gradient.

    Raises:
        ValueError: for a sparse gradient, to which a dense one cannot be added in place.

    When it helps: penalties at the cost of a pass over the weights. When it hurts: optimizers that compare values of the
    loss (a line search), of which this is no part: add the penalty to the loss.

    Source: :func:`l1_penalty` and :func:`l2_penalty`.

    >>> w = torch.tensor([3.0, 0.0, -1.0], requires_grad=True)
    >>> w.sum().backward()
    >>> add_penalty_gradient_(w, l1=0.5, l2=1.0), w.grad
    (tensor(7.), tensor([ 4.5000,  1.0000, -0.5000]))
    """
    kinds: dict[tuple, tuple[list[torch.Tensor], list[torch.Tensor]]] = defaultdict(lambda: ([], []))
    for w in _listed("add_penalty_gradient_", parameters):
        if w.grad is None:
            continue
        if w.grad.is_sparse:
            raise ValueError(
                f"add_penalty_gradient_ got a parameter of shape {tuple(w.shape)} with a sparse gradient. A penalty has a "
                "gradient for every entry: leave the parameter out, or make its layer without sparse=True."
            )
        weights, gradients = kinds[w.device, w.dtype]
        weights.append(w)
        gradients.append(w.grad)
    with torch.no_grad():
        values = [_add_l1_l2_(weights, gradients, l1, l2) for weights, gradients in kinds.values()]
    return _sum(values) if values else torch.zeros(())


def _add_l1_l2_(weights: list[torch.Tensor], gradients: list[torch.Tensor], l1: float, l2: float) -> torch.Tensor:
    """``g += l1 sign(w) + l2 w`` for tensors of one device and type; gives ``l1 sum |w| + l2/2 sum w^2``."""
    if (by := PENALTY.serving(weights, gradients)) is not None:
        addresses = [[t.data_ptr() for t in tensors] for tensors in (weights, gradients)]
        counts = [w.numel() for w in weights]
        absolute, squares = by.forward(
            weights=addresses[0], gradients=addresses[1], counts=counts, l1=l1, l2=l2, threads=torch.get_num_threads()
        )
        return torch.tensor(l1 * absolute + l2 / 2 * squares)
    value = torch.zeros((), device=weights[0].device)
    if l1:
        torch._foreach_add_(gradients, list(torch._foreach_sign(weights)), alpha=l1)
        value = value + l1 * torch.stack(torch._foreach_norm(weights, 1, _wide(weights[0]))).sum()
    if l2:
        torch._foreach_add_(gradients, weights, alpha=l2)
        value = value + l2 / 2 * torch.stack(torch._foreach_norm(weights, 2, _wide(weights[0]))).square().sum()
    return value


def _why_no_kernel(weights: list[torch.Tensor], gradients: list[torch.Tensor]) -> str:
    """Why the compiled kernel cannot walk over each weight and its gradient in one order; empty if it can."""
    if kernels is None:
        return "it was not built"
    if FORCED == "torch":
        return "TRIMTAB_BACKEND=torch turns it off"
    if weights[0].device.type != "cpu":
        return "a tensor is not on the CPU"
    if weights[0].dtype is not torch.float32:
        return "it computes in float32"
    alike = all(
        w.is_contiguous() and g.is_contiguous() and g.dtype is w.dtype and type(g) is torch.Tensor
        for w, g in zip(weights, gradients, strict=True)
    )
    return "" if alike else "weights and gradients are laid out, or typed, differently"


PENALTY = Op(
    "penalty",
    {"cpu": Kernel(_why_no_kernel, compiled("penalty"))},
    probe=lambda x: ([x], [x]),
)


@torch.no_grad()
def proximal_step_(parameters: Parameters, rate: float, *, l1: float = 0.0, l2: float = 0.0) -> None:
    r"""The proximal step of an L1 and an L2 penalty, after a gradient step of the same rate: exact zeros.

    .. math:: w \leftarrow \operatorname*{arg\,min}_v \; \frac{1}{2 \eta} \|v - w\|^2 + \lambda_1 \|v\|_1
              + \frac{\lambda_2}{2} \|v\|^2
              = \frac{\operatorname{sign}(w) \max(|w| - \eta \lambda_1, 0)}{1 + \eta \lambda_2}

    Soft thresholding, with eta the learning rate. Gradient steps of the plain loss with this behind them reach the minimum
    of loss plus penalty; weights that are zero there become exactly zero on the way. That holds for SGD; with its
    momentum m the rate is eta / (1 - m), the size of a step in the long run. With adaptive optimizers, which
    give each weight a rate of its own, it is a decoupled penalty, as decoupled weight decay is one.

    Args:
        parameters: tensors of any shapes, changed in place.
        rate: eta, at least 0.
        l1: lambda_1, at least 0.
        l2: lambda_2, at least 0.

    Raises:
        ValueError: for a negative rate or factor, and for no parameters at all.

    When it helps: sparsity that can be counted. When it hurts: adaptive optimizers, if the minimum of loss plus penalty is
    wanted.

    Source: Daubechies, Defrise, De Mol, "An iterative thresholding algorithm for linear inverse problems with a sparsity
    constraint", CPAM 57, 2004; Parikh and Boyd, "Proximal Algorithms", 2014.

    >>> w = torch.tensor([3.0, 0.05, -1.0])
    >>> proximal_step_(w, rate=0.1, l1=1.0)
    >>> w
    tensor([ 2.9000,  0.0000, -0.9000])
    """
    _check("proximal_step_", rate=rate, l1=l1, l2=l2)
    weights = _listed("proximal_step_", parameters)
    if l1:
        within = torch._foreach_clamp_max(weights, rate * l1)
        torch._foreach_clamp_min_(within, -rate * l1)
        torch._foreach_sub_(weights, within)  # w - w is exactly 0
    if l2:
        torch._foreach_div_(weights, 1 + rate * l2)


def prior_of_l1(factor: float, samples: int) -> torch.distributions.Laplace:
    r"""The prior that an L1 penalty amounts to: each weight is Laplace distributed around 0.

    .. math:: p(w) = \frac{1}{2b} e^{-|w| / b}, \qquad b = \frac{1}{\lambda n}

    if the loss is the mean over n samples of the negative log-likelihood, as cross entropy is: then the minimum of loss
    plus penalty is the most probable w given the data (maximum a posteriori). A mean of squared errors is 2 sigma^2 times such
    a loss, with sigma^2 the variance of the noise: give ``factor / (2 * sigma**2)``, and ``factor / sigma**2`` for half squares.
    The other way round, a prior of scale b asks for ``factor = 1 / (b * samples)``.

    Args:
        factor: lambda, positive.
        samples: n, of the whole training set.

    Returns:
        The prior, a ``torch.distributions.Laplace``; its ``scale`` is b.

    Raises:
        ValueError: for a factor or number of samples that is not positive.

    When it helps: choosing a factor from what is known of the weights, and reading one that was found. When it hurts: losses that are no
    log-likelihoods, of which this says nothing.

    Source: Tibshirani, "Regression Shrinkage and Selection via the Lasso", JRSS B 58, 1996, section 5.

    >>> prior_of_l1(1e-3, samples=50_000).scale
    tensor(0.0200)
    """
    _check_prior("prior_of_l1", factor, samples)
    return torch.distributions.Laplace(0.0, 1 / (factor * samples))


def prior_of_l2(factor: float, samples: int) -> torch.distributions.Normal:
    r"""The prior that an L2 penalty amounts to: each weight is normally distributed around 0.

    .. math:: p(w) = \frac{1}{\sqrt{2 \pi} s} e^{-w^2 / (2 s^2)}, \qquad s^2 = \frac{1}{\lambda n}

    under the same conditions as in :func:`prior_of_l1`; a prior of variance s^2 asks for ``factor = 1 / (s**2 * samples)``.

    Args:
        factor: lambda, positive.
        samples: n, of the whole training set.

    Returns:
        The prior, a ``torch.distributions.Normal``; its ``variance`` is s^2.

    Raises:
        ValueError: for a factor or number of samples that is not positive.

    When it helps: choosing a factor from what is known of the weights. When it hurts: in front of a normalization, where the size of a weight means
    nothing.

    Source: MacKay, "A Practical Bayesian Framework for Backpropagation Networks", Neural Computation 4, 1992.

    >>> prior_of_l2(1e-4, samples=50_000).variance
    tensor(0.2000)
    """
    _check_prior("prior_of_l2", factor, samples)
    return torch.distributions.Normal(0.0, math.sqrt(1 / (factor * samples)))


# -- what they share -----------------------------------------------------------------------------------------------------


def _listed(what: str, parameters: Parameters) -> list[torch.Tensor]:
    listed = [parameters] if isinstance(parameters, torch.Tensor) else list(parameters)
    for one in listed:
        if not isinstance(one, torch.Tensor):
            raise TypeError(f"{what} takes tensors, such as model.parameters(); got {type(one).__name__}.")
    if not listed:
        raise ValueError(
            f"{what} got no parameters. A generator such as model.parameters() can be read only once: give a list."
        )
    return listed


def _total(what: str, parameters: Parameters, of: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """The sum over all entries of all parameters."""
    return _sum([of(w.to(_wide(w))).sum() for w in _listed(what, parameters)])


def _sum(values: list[torch.Tensor]) -> torch.Tensor:
    """The sum of numbers that may lie on several devices."""
    return sum((value.to(values[0].device) for value in values[1:]), start=values[0])


def _wide(w: torch.Tensor) -> torch.dtype:
    """Where sums are taken: those of 16-bit numbers in 32 bits."""
    return torch.float32 if w.dtype in (torch.float16, torch.bfloat16) else w.dtype


def _check(what: str, **factors: float) -> None:
    for name, value in factors.items():
        if not 0 <= as_number(value) < math.inf:
            raise ValueError(f"{what}({name}={value}): {name} must be a number of at least 0.")


def _check_prior(what: str, factor: float, samples: int) -> None:
    if not (0 < as_number(factor) < math.inf and as_number(samples) > 0):
        raise ValueError(
            f"{what}(factor={factor}, samples={samples}): both must be positive: no penalty is no proper prior."
        )
