"""Dropout rates: by the width of a layer, by its depth, and over time."""

from __future__ import annotations

from collections.abc import Sequence

from trimtab.nn.checks import check_number, check_p

GROUP = "regularization"


def rates_by_width(widths: Sequence[int], p: float = 0.5) -> list[float]:
    r"""Dropping probabilities of layers in proportion to their numbers of units: more where there is more to drop.

    .. math:: p_l = p \, \frac{n_l}{\max_k n_k}

    for layers of ``n_l`` units; the widest one gets ``p``. 001 asks for a larger rate in larger layers and leaves the rule open; this
    one keeps narrow layers, which have nothing to spare, nearly whole.

    Args:
        widths: the number of units of each layer, at least 1.
        p: rate of the widest layer, 0 <= p <= 1.

    Raises:
        ValueError: if p is outside [0, 1] or a width is below 1.

    When it helps: networks whose layers differ in width by a factor of two and more. When it hurts: networks in which a
    narrow layer overfits, such as a small head on fixed features.

    Source: Srivastava et al., "Dropout", JMLR 15, 2014, section 7.3; seed 001.

    >>> rates_by_width([512, 256, 128], p=0.5)
    [0.5, 0.25, 0.125]
    """
    check_p("rates_by_width", "p", p)
    if any(not isinstance(width, int) or width < 1 for width in widths):
        raise ValueError(f"rates_by_width({list(widths)}): every width must be at least 1: it is a number of units.")
    return [p * width / max(widths) for width in widths]


def rates_by_depth(blocks: int, p: float = 0.1) -> list[float]:
    r"""Dropping probabilities of residual branches that rise linearly with depth.

    .. math:: p_l = \frac{l}{L} \, p, \qquad l = 1, \dots, L

    so that the last of L blocks gets ``p`` and none is safe (the paper: survival ``1 - l / L (1 - p_L)``). timm begins at 0:
    ``[0, *rates_by_depth(blocks - 1, p)]``.

    Args:
        blocks: how many there are, L.
        p: rate of the last one, 0 <= p <= 1.

    Raises:
        ValueError: if p is outside [0, 1] or there is no block.

    When it helps: stochastic depth (:class:`DropPath`): early blocks make what all later ones use. When it hurts: nothing known.

    Source: Huang et al., "Deep Networks with Stochastic Depth", ECCV 2016.

    >>> rates_by_depth(4, p=0.2)
    [0.05, 0.1, 0.15, 0.2]
    """
    check_p("rates_by_depth", "p", p)
    if not isinstance(blocks, int) or blocks < 1:
        raise ValueError(f"rates_by_depth(blocks={blocks}): there must be at least 1 block.")
    return [round(p * block / blocks, 12) for block in range(1, blocks + 1)]


def linear_ramp(step: int, steps: int, end: float, start: float = 0.0) -> float:
    r"""A value that goes linearly from one to another and stays there.

    .. math:: v_t = a + (b - a) \min(1, t / T)

    For dropping probabilities: a network learns easy things first, and noise is of use once it begins to overfit.

    Args:
        step: steps done so far, t.
        steps: how long the way is, T, at least 1.
        end: the value from then on, b.
        start: the value at step 0, a.

    Raises:
        ValueError: if steps is below 1.

    When it helps: strong dropout, DropBlock. When it hurts: short trainings, which end before they are regularized.

    Source: Morerio et al., "Curriculum Dropout", ICCV 2017 (exponential); Ghiasi et al., "DropBlock", NeurIPS 2018 (linear).

    >>> [linear_ramp(step, 200, 0.5) for step in (0, 100, 200, 300)]
    [0.0, 0.25, 0.5, 0.5]
    """
    check_number("linear_ramp", "steps", steps)
    if not steps >= 1:
        raise ValueError(f"linear_ramp(steps={steps}): it must be at least 1: it is the length of the way in steps.")
    return start + (end - start) * min(1.0, step / steps)
