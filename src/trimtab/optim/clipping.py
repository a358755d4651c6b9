"""Clipping of gradients, in place: each entry by bounds, and the whole by its norm.

Norms are taken in float32 or finer, whatever the type of the gradients, and in float64 where float32 would overflow. The numbers
come to the processor once for each device and type. A sparse gradient is clipped by the rows that it has (and gets coalesced), a
complex one as pairs of real numbers. Where parameters are spread over processes (FSDP) norms are those of the whole.

A gradient that is not finite is reported by a warning and passed on, for no factor mends it; to leave such a step out, see
:class:`trimtab.optim.SpikeGuard`.
"""

from __future__ import annotations

import itertools
import math

import torch

from trimtab.optim.clip_stats import ClipStats, report_clipping
from trimtab.optim.gradients import Groups, Parameters, local_part, norms_of, numbers_of
from trimtab.values import as_number

GROUP = "optimization"


@torch.no_grad()
def clip_grad_value_(
    parameters: Parameters,
    clip_value: float | tuple[float, float],
    foreach: bool | None = None,
    *,
    stats: ClipStats | None = None,
) -> torch.Tensor:
    r"""Clips each entry of the gradients into an interval, in place.

    .. math:: g \leftarrow \max(\min(g, b), a)

    One number c is the interval [-c, c] (as torch's, Keras' ``clipvalue``, optax' ``clip``); of a pair, a and b may differ in size. The direction of the gradient changes. An infinite entry becomes the bound, with a warning; a NaN stays.

    Args:
        parameters: whose gradients to clip; those without are left out.
        clip_value: the size of both bounds, or the pair (a, b).
        foreach: taken, as torch's; it changes nothing.
        stats: takes in how hard it acted.

    Returns:
        the largest magnitude of an entry before, a number in float64.

    Raises:
        ValueError: if a is above b, or one number is not positive.

    When it helps: single entries that are far too large, such as rows of embeddings that come up rarely. When it hurts: bounds near the usual
    size of entries, which bend the direction of every step.

    Source: Mikolov, "Statistical Language Models Based on Neural Networks", 2012.

    >>> w = torch.zeros(3, requires_grad=True)
    >>> w.grad = torch.tensor([-3.0, 0.5, 3.0])
    >>> clip_grad_value_(w, (-2.0, 1.0))
    tensor(3., dtype=torch.float64)
    >>> w.grad
    tensor([-2.0000,  0.5000,  1.0000])
    """
    if not (foreach is None or isinstance(foreach, bool)):
        raise ValueError(
            f"clip_grad_value_: foreach={foreach!r} must be True, False or None. Two bounds are given as a pair: "
            f"clip_grad_value_(parameters, ({clip_value}, {foreach}))."
        )
    given = tuple(clip_value) if isinstance(clip_value, (tuple, list)) else (clip_value, None)
    if len(given) != 2:
        raise ValueError(f"clip_grad_value_: clip_value={clip_value} must be one number or a pair, the two bounds.")
    low, high = bounds("clip_grad_value_", *given)
    groups = [[part for g in group if (part := local_part(g)).numel()] for group in numbers_of(parameters)]
    groups = [group for group in groups if group]
    if not groups:
        return torch.zeros((), dtype=torch.float64)
    # the smallest and the largest entry of each; NaN if one is
    ends = torch.cat(
        [torch.stack([end for g in group for end in g.aminmax()]).to("cpu", torch.float64) for group in groups]
    ).view(-1, 2)
    finite, inside = ends.isfinite().all(1), ((ends >= low) & (ends <= high)).all(1)
    outside = [g for g, fits in zip(itertools.chain(*groups), inside.tolist(), strict=True) if not fits]
    if outside:
        torch._foreach_clamp_min_(outside, low)
        torch._foreach_clamp_max_(outside, high)
    known = ends[finite]
    factors = (known.clamp(low, high) / known).abs().nan_to_num(nan=1.0)  # 0 / 0
    strongest = min([1.0, *factors.flatten().tolist()])
    report_clipping(len(ends) - int(finite.sum()), len(ends), stats, strongest, bool((finite & ~inside).any()))
    return ends.abs().max()


@torch.no_grad()
def clip_grad_norm_(
    parameters: Parameters,
    max_norm: float,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
    foreach: bool | None = None,
    *,
    per_parameter: bool = False,
    stats: ClipStats | None = None,
) -> torch.Tensor:
    r"""Scales the gradients back to a norm of b when they are longer, in place; the direction stays.

    .. math:: g \leftarrow \frac{b}{\|g\|} g \quad \text{if } \|g\| > b

    with :math:`\|g\|` over all parameters together (Keras' ``global_clipnorm``, optax' ``clip_by_global_norm``), or of each
    parameter by itself (Keras' ``clipnorm``), which changes the direction of the whole. The new norm is b up to rounding; torch's
    ``clip_grad_norm_`` divides by :math:`\|g\| + 10^{-6}` and ends below b, far below where gradients are as small as that.
    ``max_norm=math.inf`` only measures.

    Args:
        parameters: whose gradients to clip; those without are left out.
        max_norm: b, positive.
        norm_type: p of the p-norm, positive; ``math.inf`` or "inf" for the largest magnitude.
        error_if_nonfinite: raise an error where a gradient is not finite, instead of the warning; none is changed then.
        foreach: taken, as torch's; it changes nothing.
        per_parameter: clip each tensor by its own norm.
        stats: takes in how hard it acted.

    Returns:
        the norm over all parameters before, a number in float64.

    Raises:
        ValueError: if b or p is not positive.
        RuntimeError: for gradients that are not finite, if wanted.

    When it helps: recurrent and very deep networks, cliffs of the loss, rare bad batches. When it hurts: a bound far below the usual norm makes
    every step small.

    Source: Pascanu, Mikolov, Bengio, "On the difficulty of training recurrent neural networks", ICML 2013.

    >>> w = torch.zeros(2, requires_grad=True)
    >>> w.grad = torch.tensor([3.0, 4.0])
    >>> clip_grad_norm_(w, 1.0)
    tensor(5., dtype=torch.float64)
    >>> w.grad
    tensor([0.6000, 0.8000])
    """
    max_norm, norm_type = (
        positive("clip_grad_norm_", name, value) for name, value in (("max_norm", max_norm), ("norm_type", norm_type))
    )
    groups = numbers_of(parameters)
    if not groups:
        return torch.zeros((), dtype=torch.float64)
    norms = norms_of(groups, norm_type)
    total = torch.linalg.vector_norm(norms, norm_type)
    if error_if_nonfinite and not total.isfinite():
        bad = len(norms) - int(norms.isfinite().sum())
        raise RuntimeError(
            f"clip_grad_norm_: the total norm of the gradients is {float(total)}, and must be finite: {bad} of {len(norms)} gradients "
            "are not. None was changed. Find the layer that they come from with trimtab watch, or give error_if_nonfinite=False to "
            "go on with a warning."
        )
    shorten_(groups, norms, norms if per_parameter else total, max_norm, stats)
    return total


def shorten_(
    groups: Groups, norms: torch.Tensor, lengths: torch.Tensor, max_norm: float, stats: ClipStats | None
) -> None:
    """Multiply each tensor by max_norm / length where that is below 1, and report; all of one length take one kernel.

    Args:
        groups: the numbers of the gradients.
        norms: the norm of each of them, which tells whether it is finite.
        lengths: what to divide by: the norms, or one number for all.
        max_norm: b.
        stats: takes in how hard it acted.
    """
    factors = torch.where(lengths.isfinite() & (lengths > max_norm), max_norm / lengths, 1.0)
    strongest = float(factors.min())
    # factors are tensors, since on the processor a number would be rounded to float16 first
    if strongest < 1 and not lengths.ndim:
        for group in groups:
            torch._foreach_mul_([local_part(g) for g in group], factors)
    elif strongest < 1:
        pairs = [(g, f) for g, f in zip(itertools.chain(*groups), factors.unbind(), strict=True) if f < 1]
        torch._foreach_mul_([local_part(g) for g, _ in pairs], [f for _, f in pairs])
    report_clipping(len(norms) - int(norms.isfinite().sum()), len(norms), stats, strongest)


def positive(what: str, key: str, value: float | str) -> float:
    """A number that must be positive; also as text, as torch takes norms ("inf")."""
    found = math.inf if value == "inf" else as_number(value)
    if not found > 0:
        raise ValueError(f"{what}: {key}={value} must be positive.")
    return found


def bounds(what: str, low: float, high: float | None) -> tuple[float, float]:
    """The interval of :func:`clip_grad_value_`, or an error."""
    if high is None:
        if not as_number(low) > 0:
            meant = f" Did you mean {-low}?" if as_number(low) < 0 else ""
            raise ValueError(
                f"{what}: one bound, {low}, must be positive: it is the size of both, as 0.5 keeps gradients between -0.5 and 0.5.{meant}"
            )
        return -low, low
    if not as_number(low) <= as_number(high):
        raise ValueError(
            f"{what}: low={low} must not be above high={high}: gradients are kept between them. Did you mean low={high}, high={low}?"
        )
    return low, high
