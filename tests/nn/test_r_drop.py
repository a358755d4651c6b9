"""The loss of R-Drop, by its formula."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from trimtab.nn.functional import r_drop_loss, symmetric_kl


def logits(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).requires_grad_()


def kl(a, b):
    return torch.distributions.kl_divergence(
        torch.distributions.Categorical(logits=a), torch.distributions.Categorical(logits=b)
    )


def test_symmetric_kl_is_the_mean_of_both_divergences():
    a, b = logits(6, 5), logits(6, 5, seed=1)
    torch.testing.assert_close(symmetric_kl(a, b), (kl(a, b) + kl(b, a)) / 2)
    torch.testing.assert_close(symmetric_kl(a[0], b[0]), symmetric_kl(a, b)[0])
    assert torch.equal(symmetric_kl(a, a), torch.zeros(6, dtype=torch.float64))
    images = logits(2, 5, 3, 4), logits(2, 5, 3, 4, seed=1)
    last = [x.movedim(1, -1) for x in images]
    torch.testing.assert_close(symmetric_kl(*images), (kl(*last) + kl(*last[::-1])) / 2)
    assert torch.autograd.gradcheck(symmetric_kl, (a, b))


def test_loss_is_the_formula():
    a, b, y = logits(6, 5), logits(6, 5, seed=1), torch.tensor([0, 1, 2, 3, 4, 0])
    wanted = (F.cross_entropy(a, y) + F.cross_entropy(b, y)) / 2 + 0.7 * (kl(a, b) + kl(b, a)).mean() / 2
    torch.testing.assert_close(r_drop_loss(a, b, y, 0.7), wanted)
    torch.testing.assert_close(r_drop_loss(a, b, y, 0.7, reduction="none").mean(), wanted)
    torch.testing.assert_close(r_drop_loss(a, b, y, 0.7, reduction="sum"), 6 * wanted)
    torch.testing.assert_close(r_drop_loss(a, b, F.one_hot(y, 5).double(), 0.7), wanted)
    torch.testing.assert_close(r_drop_loss(a, a, y, 0.7), F.cross_entropy(a, y))


def test_ignored_targets_count_nowhere():
    a, b, y = logits(2, 5, 3), logits(2, 5, 3, seed=1), torch.tensor([[0, -1, 2], [-1, 4, 4]])
    kept = (y != -1).flatten()
    rows = [x.movedim(1, -1).flatten(0, 1)[kept] for x in (a, b)]
    wanted = r_drop_loss(*rows, y.flatten()[kept], 0.7)
    torch.testing.assert_close(r_drop_loss(a, b, y, 0.7, ignore_index=-1), wanted)
    torch.testing.assert_close(r_drop_loss(a, b, y, 0.7, ignore_index=-1, reduction="none").sum() / 4, wanted)


def test_smoothing_and_class_weights_are_those_of_the_cross_entropy():
    a, b, y = logits(6, 5), logits(6, 5, seed=1), torch.tensor([0, 1, 2, 3, 4, 0])
    weight = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0], dtype=torch.float64)
    given = {"weight": weight, "label_smoothing": 0.1}
    wanted = (F.cross_entropy(a, y, **given) + F.cross_entropy(b, y, **given)) / 2 + 0.7 * symmetric_kl(a, b).mean()
    torch.testing.assert_close(r_drop_loss(a, b, y, 0.7, **given), wanted)


def test_bad_arguments_are_refused():
    y = torch.zeros(6, dtype=torch.long)
    with pytest.raises(ValueError, match=r"r_drop_loss\(alpha=-1\): alpha is the weight of the divergence"):
        r_drop_loss(logits(6, 5), logits(6, 5), y, -1)
    with pytest.raises(ValueError, match=r"got logits of shapes \(6, 5\) and \(3, 5\). They must come from two passes"):
        r_drop_loss(logits(6, 5), logits(3, 5), y)
