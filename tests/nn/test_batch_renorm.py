"""BatchRenorm: its corrections, their limits and the schedule of these."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from trimtab.nn import BatchNorm2d
from trimtab.nn.batch_renorm import BatchRenorm1d, BatchRenorm2d, batch_renorm

AT_ONCE = {"r_steps": (0, 0), "d_steps": (0, 0)}


def settled(**options):
    """A layer past its schedule, with statistics of its own."""
    layer = BatchRenorm2d(3, **AT_ONCE, **options).double()
    layer.num_batches_tracked.fill_(9)
    layer.running_mean.copy_(torch.tensor([0.5, -1.0, 2.0]))
    layer.running_var.copy_(torch.tensor([2.0, 0.5, 1.0]))
    return layer


def inputs():
    return torch.randn(4, 3, 5, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_without_limits_training_gives_what_evaluation_gives():
    layer, x = settled(r_max=1e9, d_max=1e9), inputs()
    wanted = layer.eval()(x)
    torch.testing.assert_close(layer.train()(x), wanted)


def test_its_gradient_is_that_of_batch_norm_times_r():
    # r and d stop gradients: with them as numbers, dL/dx is that of r BN(x) + d, not that of the evaluation formula
    layer, x = settled(r_max=1e9, d_max=1e9), inputs().requires_grad_()
    running = (layer.running_var + layer.eps).sqrt()
    r = (x.detach().var((0, 2, 3), correction=0) + layer.eps).sqrt() / running
    upstream = torch.randn(x.shape, dtype=torch.float64)
    (found,) = torch.autograd.grad(layer(x), x, upstream)
    plain = nn.functional.batch_norm(x, None, None, training=True)
    (wanted,) = torch.autograd.grad(plain * r.view(1, 3, 1, 1), x, upstream)
    torch.testing.assert_close(found, wanted)


def test_limits_clip():
    layer, x = settled(r_max=1.1, d_max=0.2), inputs()
    running = (layer.running_var + layer.eps).sqrt()
    r = ((x.var((0, 2, 3), correction=0) + layer.eps).sqrt() / running).clamp(1 / 1.1, 1.1)
    d = ((x.mean((0, 2, 3)) - layer.running_mean) / running).clamp(-0.2, 0.2)
    assert (r == 1.1).any() and (r == 1 / 1.1).any() and (d == 0.2).any() and (d == -0.2).any(), "both ends are tested"
    wanted = nn.functional.batch_norm(x, None, None, r, d, True)
    torch.testing.assert_close(layer(x), wanted)


def test_running_statistics_move_as_those_of_batch_norm():
    layer, plain, x = settled(), BatchNorm2d(3, momentum=0.01).double(), inputs()
    plain.load_state_dict(layer.state_dict())
    layer(x), plain(x)
    torch.testing.assert_close(layer.state_dict(), plain.state_dict())
    average = settled(momentum=None)
    average.num_batches_tracked.zero_()
    average(x)
    torch.testing.assert_close(average.running_mean, x.mean((0, 2, 3)))


def test_the_schedule_is_the_papers():
    layer = BatchRenorm1d(3)
    limits = {}
    for step in (0, 5_000, 15_000, 22_500, 25_000, 40_000, 90_000):
        layer.num_batches_tracked.fill_(step)
        limits[step] = layer.limits()
    assert limits == {
        0: (1, 0), 5_000: (1, 0), 15_000: pytest.approx((1 + 2 * 10 / 35, 2.5)), 22_500: pytest.approx((2, 4.375)),
        25_000: pytest.approx((1 + 2 * 20 / 35, 5)), 40_000: (3, 5), 90_000: (3, 5),
    }  # fmt: skip


def test_it_begins_as_batch_norm():
    layer, plain, x = BatchRenorm2d(3), nn.BatchNorm2d(3), inputs().float() * 3 + 2
    for _ in range(3):
        torch.testing.assert_close(layer(x), plain(x))
    layer = BatchRenorm2d(3, **AT_ONCE)  # the first step has no statistics to correct toward
    torch.testing.assert_close(layer(x), plain(x))
    assert layer.limits() == (3, 5)


def test_one_normalization_depends_less_on_its_batch():
    # The point of the paper, measured: how far the same samples move when the rest of their batch changes.
    def moved(layer):
        generator = torch.Generator().manual_seed(0)
        for _ in range(300):
            layer(torch.randn(4, 3, generator=generator))
        same = torch.randn(2, 3, generator=generator)
        outputs = torch.stack(
            [layer(torch.cat([same, torch.randn(2, 3, generator=generator)]))[:2] for _ in range(200)]
        )
        return outputs.std(0).mean()

    assert moved(BatchRenorm1d(3, **AT_ONCE)) < 0.3 * moved(nn.BatchNorm1d(3))


def test_without_weights_and_fused():
    x, residual = inputs(), inputs() + 1
    layer = settled(affine=False, activation="relu")
    mean, variance = layer.running_mean.clone(), layer.running_var.clone()
    wanted = (batch_renorm(x, mean, variance, training=True) + residual).relu()
    torch.testing.assert_close(layer(x, residual), wanted)
    frozen = settled()
    frozen.frozen = True
    torch.testing.assert_close(frozen(x), settled().eval()(x))


def test_messages():
    def said(**options):
        with pytest.raises(ValueError) as error:
            BatchRenorm2d(3, **options)
        return str(error.value)

    limits = (
        "r_max must be finite and at least 1, d_max finite and at least 0. r_max=1, d_max=0 is BatchNorm; large numbers "
        "clip nothing."
    )
    assert said(r_max=0.5) == f"BatchRenorm2d(r_max=0.5, d_max=5.0): {limits}"
    assert said(d_max=float("inf")) == f"BatchRenorm2d(r_max=3.0, d_max=inf): {limits}"
    assert said(r_steps=(5, 2)) == (
        "BatchRenorm2d(r_steps=(5, 2)): r_steps must be two numbers of steps, the first not above the second, between which "
        "the limit grows. (0, 0) grows it at once."
    )
    assert said(track_running_stats=False) == (
        "BatchRenorm2d(track_running_stats=False): renormalization is toward the running statistics."
    )
    with pytest.raises(ValueError, match=r"Did you mean BatchRenorm2d\(4\)\?"):
        BatchRenorm2d(3)(torch.randn(2, 4, 3, 3))
    assert "r_max=3.0, d_max=5.0, r_steps=(5000, 40000), d_steps=(5000, 25000)" in repr(BatchRenorm2d(3))
