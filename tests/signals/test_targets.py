"""What losses say of their task: right for plain means, and silent where a loss is of another size."""

import math

import pytest
import torch
from torch.nn import functional as F

from trimtab.signals import Targets

K = 4


def read_after(loss, output, *targets, trained=1.0) -> dict:
    """What was read after a step with each of the targets."""
    signal, read = Targets(), {}
    name = loss.__name__ if hasattr(loss, "__name__") else loss.func.__name__
    for target in targets:
        value = loss(output, target)
        signal.loss(name, output, target, value)
        signal.trained(value.mean() * trained)
        read |= signal.read()
    return read


def classes(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    return torch.randn(32, K, generator=random), torch.randint(K, (32,), generator=random)


def entropy(target: torch.Tensor) -> float:
    shares = torch.bincount(target, minlength=K).double() / len(target)
    return float(-torch.xlogy(shares, shares).sum())


def test_cross_entropy_is_that_of_the_class_frequencies():
    output, target = classes()
    _, more = classes(1)
    read = read_after(F.cross_entropy, output, target, more)
    assert (read["classes"], read["batch_size"]) == (K, 32)
    assert read["constant_loss"] == pytest.approx(entropy(torch.cat([target, more])), rel=1e-6)
    logs = output.log_softmax(1)
    assert read_after(F.nll_loss, logs, target)["constant_loss"] == pytest.approx(entropy(target), rel=1e-6)
    ignored = torch.where(torch.arange(32) < 20, target, -100)
    assert read_after(F.cross_entropy, output, ignored)["constant_loss"] == pytest.approx(
        entropy(target[:20]), rel=1e-6
    )


def partial(**options):
    def cross_entropy(output, target):
        return F.cross_entropy(output, target, **options)

    return cross_entropy


@pytest.mark.parametrize(
    ("options", "trained"),
    [
        ({"reduction": "sum"}, 1), ({"ignore_index": 0}, 1), ({"label_smoothing": 0.5}, 1), ({"weight": torch.tensor([0.1, 1, 2, 3])}, 1),
        ({}, 0.5), ({}, 1.5), ({}, 2), ({"reduction": "none"}, 32),
    ],
)  # fmt: skip
def test_a_loss_of_another_size_says_nothing(options, trained):
    read = read_after(partial(**options), *classes(), trained=trained)
    assert math.isnan(read["constant_loss"])


def test_a_mean_by_hand_and_a_small_penalty_are_plain():
    output, target = classes()
    for loss, trained in ((partial(reduction="none"), 1), (F.cross_entropy, 1.05)):
        assert read_after(loss, output, target, trained=trained)["constant_loss"] == pytest.approx(entropy(target))


def test_squared_errors_are_those_of_a_constant_for_each_output():
    torch.manual_seed(0)
    target = torch.randn(64, 3) + torch.tensor([100.0, 0.0, -100.0])
    read = read_after(F.mse_loss, torch.zeros(64, 3), target)
    assert read["constant_loss"] == pytest.approx(float(target.double().var(0, correction=0).mean()), rel=1e-5)
    far = torch.randn(64, dtype=torch.float64) + 1e9
    read = read_after(F.mse_loss, torch.zeros(64, dtype=torch.float64), far)
    assert read["constant_loss"] == pytest.approx(float(far.var(correction=0)), rel=1e-5)


def test_binary_targets():
    torch.manual_seed(0)
    output, target = torch.randn(64, 2), (torch.rand(64, 2) < torch.tensor([0.1, 0.5])).float()
    p = target.double().mean(0)
    truth = float(-(torch.xlogy(p, p) + torch.xlogy(1 - p, 1 - p)).mean())
    assert read_after(F.binary_cross_entropy_with_logits, output, target)["constant_loss"] == pytest.approx(
        truth, rel=1e-6
    )
    assert read_after(F.binary_cross_entropy, output.sigmoid(), target)["constant_loss"] == pytest.approx(
        truth, rel=1e-6
    )
