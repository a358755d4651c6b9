"""A penalty on weights that are not orthogonal."""

from __future__ import annotations

import torch


def orthogonal_penalty(weight: torch.Tensor) -> torch.Tensor:
    r"""How far the rows of a weight are from orthogonal vectors of length 1.

    .. math:: R = \|W W^\top - I\|_F^2, \qquad \frac{\partial R}{\partial W} = 4 (W W^\top - I) W

    with W the weight as a matrix, one row for each entry of the first dimension: of shape (out, in), or (out, in / groups times the kernel)
    for convolutions. With more rows than columns the rows cannot all be orthogonal, and the columns are compared,
    :math:`\|W^\top W - I\|_F^2`, which is smaller by the constant out - in and has the same gradient. R = 0 keeps lengths: of what
    goes back if W is wide, of what goes forward if it is tall.

    (Keras' ``OrthogonalRegularizer`` is another one: it sums the cosines between rows, whose lengths stay free.)

    Args:
        weight: of shape (out, in, ...), with two dimensions or more.

    Raises:
        ValueError: for a weight of fewer dimensions.

    When it helps: deep networks without normalization, recurrent weights, redundant filters. When it hurts: layers that have
    to shrink or to stretch, and small gains in front of a normalization. Good first factors: 1e-4 to 1e-2.

    Source: Bansal, Chen, Wang, "Can We Gain More from Orthogonality Regularizations in Training Deep CNNs?", NeurIPS 2018 (soft
    orthogonality).

    >>> orthogonal_penalty(torch.tensor([[0.6, 0.8], [0.8, -0.6]])) < 1e-12
    tensor(True)
    >>> orthogonal_penalty(torch.tensor([[2.0, 0.0], [0.0, 1.0]]))
    tensor(9.)
    """
    if weight.ndim < 2:
        raise ValueError(
            f"orthogonal_penalty got a weight of shape {tuple(weight.shape)}. It must have two dimensions or more: a row of "
            "weights for each unit."
        )
    matrix = weight.flatten(1)
    if matrix.shape[0] > matrix.shape[1]:
        matrix = matrix.T
    gram = matrix @ matrix.T
    return (gram - torch.eye(len(gram), dtype=gram.dtype, device=gram.device)).square().sum()
