"""Resamples of a data set for the members of an ensemble."""

from __future__ import annotations

import math

import torch

GROUP = "regularization"


def bootstrap_indices(samples: int, members: int = 16, *, generator: torch.Generator | None = None) -> torch.Tensor:
    r"""For every member of an ensemble, as many samples as there are, drawn with replacement.

    .. math:: i_{kj} \sim \mathrm{Uniform}\{0, \dots, N - 1\}, \qquad k = 1 \dots K, \; j = 1 \dots N

    Gives indices of shape ``(K, N)``. A member misses a sample with probability (1 - 1/N)^N, about 0.37: on those it can be judged
    without data set aside (:func:`out_of_bag_average`).

    Args:
        samples: N, how many samples there are.
        members: K, how many members draw.
        generator: source of the draws; torch's global generator if ``None``.

    Raises:
        ValueError: for fewer than one sample or member.

    When it helps: members that change much with the data they see (Breiman's *unstable* predictors: trees, small networks). When it
    hurts: stable ones, such as linear models, which only lose a third of their data.

    Source: Breiman, "Bagging Predictors", Machine Learning 24, 1996.

    >>> bootstrap_indices(5, members=2, generator=torch.Generator().manual_seed(0))
    tensor([[4, 4, 3, 0, 3],
            [4, 2, 3, 2, 3]])
    """
    if samples < 1 or members < 1:
        raise ValueError(f"bootstrap_indices({samples}, members={members}): both must be at least 1.")
    device = generator.device if generator is not None else None
    return torch.randint(samples, (members, samples), generator=generator, device=device)


def bootstrap_weights(indices: torch.Tensor, samples: int | None = None) -> torch.Tensor:
    """How often each member drew each sample, as weights of its losses.

    A mean loss with these weights is the mean loss over the resample, so that one pass over the data serves all members; where the
    weight is 0, the sample is out of the member's bag.

    Args:
        indices: of shape ``(K, n)``, from :func:`bootstrap_indices`.
        samples: N, how many samples there are; n if ``None``.

    Returns:
        Weights of shape ``(K, N)``.

    >>> bootstrap_weights(torch.tensor([[1, 1, 2], [0, 1, 2]]))
    tensor([[0., 2., 1.],
            [1., 1., 1.]])
    """
    samples = indices.shape[1] if samples is None else samples
    weights = torch.zeros(len(indices), samples, device=indices.device)
    return weights.scatter_add_(1, indices, torch.ones_like(indices, dtype=weights.dtype))


def out_of_bag_average(outputs: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    r"""For every sample the mean answer of those members that did not see it in training.

    .. math:: \bar y_i = \frac{\sum_k [w_{ki} = 0] \, y_{ki}}{\sum_k [w_{ki} = 0]}

    with ``outputs`` (numbers or probabilities, not logits) of shape ``(K, N, ...)`` on the training samples, ``weights`` of shape ``(K, N)``
    from :func:`bootstrap_weights`, and a result of shape ``(N, ...)``: NaN for samples that every member saw (one in 1500 with 16 members).
    Its error estimates the error on new data. For votes, give one-hot choices as outputs.

    Args:
        outputs: what the members say about the training samples.
        weights: how often each member drew each sample.

    Raises:
        ValueError: if the shapes do not fit.

    When it helps: no data are left to hold out. When it hurts: few members: many samples are then judged by one or none.

    When it helps: few samples, of which none can be spared for validation. When it hurts: few members, since each sample is then judged by
    only a third of them, and the error of the whole ensemble is overestimated; samples that depend on each other, such as neighbours in time.

    Source: Breiman, "Out-of-Bag Estimation", 1996.

    >>> out_of_bag_average(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[0, 1], [0, 0]]))
    tensor([2., 4.])
    """
    if outputs.shape[:2] != weights.shape:
        raise ValueError(
            f"out_of_bag_average got outputs of shape {tuple(outputs.shape)} and weights of shape {tuple(weights.shape)}. The weights "
            f"must have shape {tuple(outputs.shape[:2])}: one for each member and sample."
        )
    out = (weights == 0).reshape(*weights.shape, *[1] * (outputs.ndim - 2))
    return torch.where(out, outputs, 0).sum(0) / out.sum(0)


def content_weights(x: torch.Tensor, members: int, seed: int) -> torch.Tensor:
    r"""Bootstrap weights without indices: each member's count of a sample follows from the sample's own content.

    .. math:: w_{ki} \sim \mathrm{Poisson}(1), \quad \text{a function of } (x_i, k, \text{seed})

    with ``x`` of shape ``(N, ...)`` and a result of shape ``(K, N)``. The number of times that a sample is drawn in N draws out of N tends to
    Poisson(1) (Oza & Russell's online bagging). Here it comes from a hash of the sample, so that the same sample has the same weight
    in every epoch, in whatever order they come: a fixed bootstrap. Equal samples share their fate; samples that are
    augmented at random get new weights each time.

    Args:
        x: the samples, of any type.
        members: K.
        seed: another seed gives another bootstrap.

    When it helps: training loops that do not say which sample is which. When it hurts: augmented data, whose weights average
    out, so that all members see all of it.

    Source: Oza and Russell, "Online Bagging and Boosting", AISTATS 2001; Vigna, "splitmix64", for the hash.

    >>> content_weights(torch.arange(6.0).view(3, 2), members=2, seed=0).shape
    torch.Size([2, 3])
    """
    hashes = _hash(x, seed)
    keys = _mix(torch.arange(members, device=x.device) + seed)
    drawn = _mix(hashes + keys[:, None])
    uniform = ((drawn >> 40) & 0xFFFFFF).float() * 2.0**-24
    below = torch.tensor(_POISSON, device=x.device)  # the chance of at most 0, 1, 2 ...
    return torch.searchsorted(below, uniform, right=True).float()


_POISSON = [sum(math.exp(-1) / math.factorial(i) for i in range(count + 1)) for count in range(10)]


def _hash(x: torch.Tensor, seed: int) -> torch.Tensor:
    """One 64-bit number for every row: a sum of its bits times odd random factors, mixed."""
    rows = x.detach().reshape(len(x), -1)
    if rows.is_complex():
        rows = torch.view_as_real(rows).flatten(1)
    if rows.is_floating_point():
        whole = {2: torch.int16, 4: torch.int32, 8: torch.int64}[rows.element_size()]
        rows = (rows + 0.0).view(whole)  # -0 becomes 0
    factors = _mix(torch.arange(rows.shape[1], device=x.device) ^ seed) | 1
    return _mix((rows.long() * factors).sum(1))


def _mix(z: torch.Tensor) -> torch.Tensor:
    """The output function of splitmix64; products of 64-bit integers wrap around."""
    z = z * -7046029254386353131
    z = (z ^ ((z >> 30) & (2**34 - 1))) * -4658895280553007687
    z = (z ^ ((z >> 27) & (2**37 - 1))) * -7723592293110705685
    return z ^ ((z >> 31) & (2**33 - 1))
