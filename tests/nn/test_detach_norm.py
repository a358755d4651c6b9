"""DetachNorm: the output of LayerNorm, and its gradient term by term."""

from __future__ import annotations

import pytest
import torch

from trimtab.nn.detach_norm import DetachNorm, detach_norm


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("detach", ["both", "mean", "variance"])
def test_only_the_named_term_of_the_gradient_is_left_out(detach):
    x, g = (3 * random(5, 8) + 1).requires_grad_(), random(5, 8, seed=1)
    y = DetachNorm(8, detach=detach)(x)
    torch.testing.assert_close(y, torch.nn.functional.layer_norm(x, (8,)))
    of_mean = g.mean(1, keepdim=True)
    of_variance = y.detach() * (g * y.detach()).mean(1, keepdim=True)
    wanted = g - (of_mean if detach == "variance" else 0) - (of_variance if detach == "mean" else 0)
    wanted = wanted / (x.detach().var(1, correction=0, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(torch.autograd.grad(y, x, g)[0], wanted)


def test_without_eps_a_constant_row_gives_zeros_and_finite_gradients():
    for detach in ("both", "mean", "variance"):
        x = torch.full((2, 4), 7.0, requires_grad=True)
        y = DetachNorm(4, eps=0.0, detach=detach)(x)
        assert torch.equal(y, torch.zeros(2, 4))
        y.sum().backward()
        assert x.grad.isfinite().all()


@pytest.mark.parametrize("detach", ["both", "mean", "variance"])
def test_vmap(detach):
    x, layer = random(3, 5, 8).float(), DetachNorm(8, detach=detach)
    torch.testing.assert_close(torch.func.vmap(layer)(x), layer(x))


def test_repr():
    assert repr(DetachNorm(8, detach="mean")) == "DetachNorm((8,), eps=1e-05, detach=mean)"


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: DetachNorm(8, detach="all"), "DetachNorm(detach='all'): detach must be one of both, mean, variance."),
        (
            lambda: detach_norm(torch.ones(2, 8), (8,), detach=""),
            "detach_norm(detach=''): detach must be one of both, mean, variance.",
        ),
        (
            lambda: DetachNorm(8)(torch.ones(2, 5)),
            "DetachNorm(8) got an input of shape (2, 5). Its last dimensions must equal normalized_shape. "
            "Did you mean DetachNorm(5)?",
        ),
    ],
)
def test_errors_say_what_to_do(make, message):
    with pytest.raises(ValueError) as error:
        make()
    assert str(error.value) == message
