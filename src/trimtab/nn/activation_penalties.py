"""Penalties on what a network computes: on its activations, on its Jacobian, and on its confidence."""

from __future__ import annotations

import torch

_UNCONNECTED = (
    "jacobian_penalty: no gradient leads from the output to the input. Call input.requires_grad_() before the network, give it "
    "that very tensor, and compute without torch.no_grad()."
)


def activity_penalty(activations: torch.Tensor, p: int = 1) -> torch.Tensor:
    r"""How large activations are: the mean over the samples of their L1 norm, or of half their squared L2 norm.

    .. math:: R_1 = \frac1N \sum_{n=1}^N \sum_i |h_{ni}|, \qquad R_2 = \frac1N \sum_{n=1}^N \frac12 \sum_i h_{ni}^2

    with h of shape (N, ...), the samples along the first dimension. This is Keras' ``activity_regularizer`` ``L1(1)``, or
    ``L2(1/2)``. It grows with the number of activations: for wide layers choose a smaller factor.

    Args:
        activations: h.
        p: 1 or 2.

    Raises:
        ValueError: for another p, and for a single number.

    When it helps: sparse codes (p = 1), recurrent networks (p = 2), activations that grow. When it hurts: in front of a
    normalization, which takes the scale away again. Good first factors: 1e-5 to 1e-3.

    Source: Glorot, Bordes, Bengio, "Deep Sparse Rectifier Neural Networks", AISTATS 2011 (L1); Merity, McCann, Socher, "Revisiting
    Activation Regularization for Language RNNs", 2017 (L2).

    >>> activity_penalty(torch.tensor([[1.0, -2.0], [0.0, 3.0]]))
    tensor(3.)
    >>> activity_penalty(torch.tensor([[1.0, -2.0], [0.0, 3.0]]), p=2)
    tensor(3.5000)
    """
    check_order("activity_penalty", p)
    if activations.ndim == 0:
        raise ValueError(
            "activity_penalty got a single number. Activations must be of shape (N, ...), a row for each sample."
        )
    total = activations.abs().sum() if p == 1 else activations.square().sum() / 2
    return total / activations.shape[0]


def check_order(what: str, p: int) -> None:
    """Refuse orders of norms other than 1 and 2."""
    if p not in (1, 2):
        raise ValueError(f"{what}: p={p} must be 1 (sum of magnitudes) or 2 (half the sum of squares).")


def jacobian_penalty(
    input: torch.Tensor,
    output: torch.Tensor,
    projections: int | None = 1,
    *,
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    r"""How strongly outputs react to inputs: half the squared norm of the Jacobian, the mean over the samples.

    .. math::
        R = \frac{1}{2N} \sum_{n=1}^N \|J_n\|_F^2, \qquad J_n = \frac{\partial y_n}{\partial x_n}, \qquad
        \|J_n\|_F^2 \approx \frac{C}{m} \sum_{k=1}^m \|v_{nk}^\top J_n\|_2^2

    with x of shape (N, ...), y of shape (N, ...) with C numbers for each sample, and m random directions v, uniform on the unit
    sphere: the estimate is right on average, and costs m additional backward passes, whose own gradients are computed too.
    ``projections=None`` takes all C directions and is exact.

    The samples must not see each other: with batch normalization in training mode the derivatives run through the statistics, and
    what is penalised is how all outputs react to each input.

    Args:
        input: x, which must require a gradient before the network is called on it.
        output: y, usually logits.
        projections: m, or None.
        generator: source of the directions, on the output's device; torch's global generator if ``None``.

    Returns:
        A number, with gradient.

    Raises:
        ValueError: for less than one projection, and if no gradient leads from the output to the input.

    When it helps: robustness to small changes and noise of inputs, few training data. When it hurts: tasks decided by fine
    detail; it takes the time of a step two to three times. Good first factor: 0.01.

    Source: Hoffman, Roberts, Yaida, "Robust Learning with Jacobian Regularization", 2019.

    >>> x = torch.randn(5, 3, requires_grad=True)
    >>> jacobian_penalty(x, x @ torch.tensor([[1.0, 2.0], [0.0, 0.0], [2.0, 0.0]]), projections=None)
    tensor(4.5000)
    """
    if projections is not None and projections < 1:
        raise ValueError(f"jacobian_penalty: projections={projections} must be at least 1, or None for the exact norm.")
    if not (input.requires_grad and output.requires_grad):
        raise ValueError(_UNCONNECTED)
    samples, outputs = output.shape[0], output[0].numel()
    count = outputs if projections is None else projections
    squares = output.new_zeros(())
    for number in range(count):
        if projections is None:
            direction = torch.zeros_like(output).view(samples, -1)
            direction[:, number] = 1
        else:
            direction = torch.randn(samples, outputs, generator=generator, dtype=output.dtype, device=output.device)
            direction = direction / torch.linalg.vector_norm(direction, dim=1, keepdim=True)
        (reaction,) = torch.autograd.grad(
            output, input, direction.view_as(output), create_graph=True, allow_unused=True
        )
        if reaction is None:
            raise ValueError(_UNCONNECTED)
        squares = squares + reaction.square().sum()
    return squares * (outputs / count) / (2 * samples)


def confidence_penalty(input: torch.Tensor) -> torch.Tensor:
    r"""How sure predictions are: the negative entropy of the softmax, one number for each.

    .. math:: R = -H(p) = \sum_{k=1}^K p_k \log p_k, \qquad p = \mathrm{softmax}(x)

    with x of shape (N, K) or (N, K, ...), or (K,) for one sample, as for ``cross_entropy``, and R of the shape without K.
    R lies between -log K (all classes alike) and 0 (certainty). Log-probabilities can be given as they are.

    To a cross-entropy loss it is added with a factor beta. Label smoothing pulls towards the uniform distribution by the
    divergence in the other direction.

    Args:
        input: x, logits.

    When it helps: networks that grow too sure of themselves, noisy labels, calibration. When it hurts: under-fitting networks.
    Good first factors: 0.1 (images), 1 to 2.5 (language).

    Source: Pereyra, Tucker, Chorowski, Kaiser, Hinton, "Regularizing Neural Networks by Penalizing Confident Output
    Distributions", ICLR 2017 workshop.

    >>> confidence_penalty(torch.tensor([[0.0, 0.0], [20.0, -20.0]]))
    tensor([-6.9315e-01, -1.6993e-16])
    """
    dim = 1 if input.ndim > 1 else 0
    logs = input.log_softmax(dim)
    finite = logs.clamp(min=torch.finfo(logs.dtype).min)  # 0 log 0 is 0: classes that are masked by logits of -inf
    return (logs.exp() * finite).sum(dim)
