"""AdaNorm: its paper's formula and gradient, and its errors."""

from __future__ import annotations

import pytest
import torch

from trimtab.nn.ada_norm import AdaNorm, ada_norm


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_output_is_the_papers():
    x = 3 * random(5, 8) + 1
    y = (x - x.mean(1, keepdim=True)) / (x.var(1, correction=0, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(AdaNorm(8, k=0.2, scale=1.5)(x), 1.5 * (1 - 0.2 * y) * y)


def test_gradient_takes_the_factor_for_a_constant():
    x, g = (3 * random(5, 8) + 1).requires_grad_(), random(5, 8, seed=1)
    deviation = (x.detach().var(1, correction=0, keepdim=True) + 1e-5).sqrt()
    y = (x.detach() - x.detach().mean(1, keepdim=True)) / deviation
    factor = 1.5 * (1 - 0.1 * y)
    by_y = g * factor  # then layer norm's backward pass in closed form
    wanted = (by_y - by_y.mean(1, keepdim=True) - y * (by_y * y).mean(1, keepdim=True)) / deviation
    (found,) = torch.autograd.grad(AdaNorm(8, scale=1.5)(x), x, g)
    torch.testing.assert_close(found, wanted)


def test_mean_of_the_output_is_as_the_paper_says():
    z = AdaNorm(64, eps=0.0, scale=2.0)(random(5, 64))
    torch.testing.assert_close(z.mean(1), torch.full((5,), -0.2, dtype=torch.float64))


def test_k_of_zero_is_layer_norm_simple():
    x = random(5, 8)
    torch.testing.assert_close(ada_norm(x, (8,), k=0.0), torch.nn.functional.layer_norm(x, (8,)))


def test_vmap():
    x = random(3, 5, 8).float()
    torch.testing.assert_close(torch.func.vmap(AdaNorm(8))(x), AdaNorm(8)(x))


def test_learns_and_saves_nothing():
    assert not AdaNorm(8).state_dict()
    assert repr(AdaNorm((3, 8), scale=2.0)) == "AdaNorm((3, 8), eps=1e-05, k=0.1, scale=2.0)"


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: AdaNorm(8, k=-1), "AdaNorm(k=-1): k must not be negative. The paper's is 0.1; 0 is LayerNormSimple."),
        (
            lambda: AdaNorm(8, scale=0),
            "AdaNorm(scale=0): scale must be positive, it is the norm's gain at 0. Try 1.0.",
        ),
        (
            lambda: AdaNorm(8)(torch.ones(2, 5)),
            "AdaNorm(8) got an input of shape (2, 5). Its last dimensions must equal normalized_shape. Did you mean AdaNorm(5)?",
        ),
        (
            lambda: ada_norm(torch.ones(2, 5), (8,)),
            "ada_norm(input, (8,)) got an input of shape (2, 5). Its last dimensions must equal normalized_shape. Did you mean ada_norm(input, (5,))?",
        ),
    ],
)
def test_errors_say_what_to_do(make, message):
    with pytest.raises(ValueError) as error:
        make()
    assert str(error.value) == message
