"""PowerNorm: its two phases, its approximate gradient, and padding."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch

from trimtab.nn.power_norm import PowerNorm, power_norm


def inputs(seed=0, shape=(4, 6, 3)):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2 + 0.5


def made(**options):
    layer = PowerNorm(3, **{"warmup": 0, **options}).double()
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([0.5, 1.0, 1.5]))
        layer.bias.copy_(torch.tensor([0.1, 0.2, 0.3]))
        layer.running_square.copy_(torch.tensor([3.0, 4.0, 5.0]))
        layer.running_gradient.copy_(torch.tensor([0.2, -0.1, 0.4]))
    return layer


def test_forward_and_backward_are_the_papers_algorithm():
    layer, alpha = made(momentum=(0.3, 0.05)), (0.7, 0.95)
    square, nu = layer.running_square.clone(), layer.running_gradient.clone()
    weight, bias = layer.weight.detach().clone(), layer.bias.detach().clone()
    for step in range(3):  # the second and third see what the first left
        x, upstream = inputs(step).requires_grad_(), inputs(10 + step)
        y = layer(x)
        found = torch.autograd.grad(y, (x, layer.weight, layer.bias), upstream)
        # Algorithm 2 of the paper, line by line
        psi = (square + layer.eps).sqrt()
        normalized = x.detach() / psi
        torch.testing.assert_close(y, weight * normalized + bias)
        square = square + (1 - alpha[0]) * (x.detach().square().mean((0, 1)) - square)
        by_normalized = weight * upstream
        intermediate = by_normalized - nu * normalized
        gamma = (normalized * normalized).mean((0, 1))
        lambda_ = (by_normalized * normalized).mean((0, 1))
        nu = nu * (1 - (1 - alpha[1]) * gamma) + (1 - alpha[1]) * lambda_
        torch.testing.assert_close(found[0], intermediate / psi)
        torch.testing.assert_close(found[1], (upstream * normalized).sum((0, 1)))
        torch.testing.assert_close(found[2], upstream.sum((0, 1)))
        torch.testing.assert_close(layer.running_square, square)
        torch.testing.assert_close(layer.running_gradient, nu)


def test_warm_up_is_by_the_batch_with_its_true_gradient():
    layer = made(warmup=2)
    x, upstream = inputs().requires_grad_(), inputs(1)

    def formula(x):
        return x / (x.square().mean((0, 1)) + layer.eps).sqrt() * layer.weight + layer.bias

    for _ in range(2):
        assert layer.warming_up
        y = layer(x)
        torch.testing.assert_close(y, formula(x))
        torch.testing.assert_close(torch.autograd.grad(y, x, upstream), torch.autograd.grad(formula(x), x, upstream))
    assert not layer.warming_up and layer.num_batches_tracked == 2
    assert (layer(x) - formula(x)).abs().max() > 0.1, "then by the running estimate"


def test_both_estimates_settle_during_warm_up_so_that_the_approximation_is_good():
    layer = PowerNorm(3, warmup=200).double()
    generator = torch.Generator().manual_seed(0)

    def draw():
        return torch.randn(2000, 3, generator=generator, dtype=torch.float64).requires_grad_()

    def upstream(x):
        return x.detach() * 0.8 + 0.3

    for _ in range(200):
        x = draw()
        layer(x).backward(upstream(x))
    x = draw()
    (found,) = torch.autograd.grad(layer(x), x, upstream(x))
    (wanted,) = torch.autograd.grad(x / (x.square().mean(0) + layer.eps).sqrt(), x, upstream(x))
    assert (found - wanted).norm() < 0.1 * wanted.norm()  # means of 2000 numbers fluctuate by 1/sqrt(2000) = 2%
    (without,) = torch.autograd.grad(x / (layer.running_square + layer.eps).sqrt(), x, upstream(x))
    assert (without - wanted).norm() > 0.5 * wanted.norm(), "which it would not be without nu"


def test_evaluation_is_the_training_formula_and_changes_nothing():
    layer, x = made().eval(), inputs().requires_grad_()
    before = copy.deepcopy(layer.state_dict())
    y = layer(x)
    torch.testing.assert_close(y, x / (layer.running_square + layer.eps).sqrt() * layer.weight + layer.bias)
    y.sum().backward()
    torch.testing.assert_close(layer.state_dict(), before)
    torch.testing.assert_close(made()(x), y)


@pytest.mark.parametrize("warmup", [0, 5])
def test_padding_enters_nothing(warmup):
    inside = torch.arange(6) < torch.tensor([[6], [3], [4], [1]])
    x = inputs()
    x[~inside] = float("nan")
    masked, packed = made(warmup=warmup), made(warmup=warmup)
    x.requires_grad_()
    short = x.detach()[inside].requires_grad_()
    y, wanted = masked(x, mask=inside), packed(short)
    torch.testing.assert_close(y[inside], wanted)
    assert (y[~inside] == 0).all()
    upstream = inputs(1)
    found = torch.autograd.grad(y, (x, masked.weight, masked.bias), upstream)
    exactly = torch.autograd.grad(wanted, (short, packed.weight, packed.bias), upstream[inside])
    torch.testing.assert_close(found[0][inside], exactly[0])
    assert (found[0][~inside] == 0).all()
    torch.testing.assert_close(found[1:], exactly[1:])
    torch.testing.assert_close(masked.state_dict(), packed.state_dict())


def test_layer_scale_is_an_rms_norm_before():
    x = inputs()
    wanted = made()(torch.nn.functional.rms_norm(x, (3,), eps=1e-5))
    torch.testing.assert_close(made(layer_scale=1)(x), wanted)
    torch.testing.assert_close(
        made(layer_scale=3)(x), made()(x / (x.square() + 1e-5).sqrt())
    )  # one feature in each group


def test_low_precision_keeps_its_type_and_float32_estimates():
    layer, x = PowerNorm(3, warmup=0), inputs().bfloat16().requires_grad_()
    y = layer(x)
    y.sum().backward()
    assert y.dtype is x.grad.dtype is torch.bfloat16
    assert layer.running_square.dtype is layer.running_gradient.dtype is torch.float32
    torch.testing.assert_close(layer.running_square, 0.9 + 0.1 * x.detach().float().square().mean((0, 1)))


def test_compiled_with_a_graph_break_it_is_the_same():
    torch._dynamo.reset()
    plain, other = made(), made()
    compiled = torch.compile(other, backend="aot_eager")
    for step in range(2):
        gradients = []
        for layer in (plain, compiled):
            x = inputs(step).requires_grad_()
            layer(x).backward(inputs(3))
            gradients.append(x.grad)
        torch.testing.assert_close(gradients[1], gradients[0])
    torch.testing.assert_close(other.state_dict(), plain.state_dict())


def test_parts_and_copies():
    assert list(made().state_dict()) == ["weight", "bias", "running_square", "running_gradient", "num_batches_tracked"]
    assert PowerNorm(3, affine=False).weight is None and PowerNorm(3, bias=False).bias is None
    x = inputs()
    torch.testing.assert_close(pickle.loads(pickle.dumps(made()))(x), made()(x))
    assert repr(PowerNorm(3, layer_scale=3)) == (
        "PowerNorm(3, eps=1e-05, momentum=0.1, affine=True, warmup=4000, layer_scale=3)"
    )
    bare = power_norm(x, torch.full((3,), 4.0).double(), torch.zeros(3).double())
    torch.testing.assert_close(bare, x / (4 + 1e-5) ** 0.5)


def test_messages():
    with pytest.raises(ValueError) as error:
        PowerNorm(3)(torch.ones(2, 4))
    assert str(error.value) == (
        "PowerNorm(3) got an input of shape (2, 4). Its last dimensions must equal normalized_shape. Did you mean PowerNorm(4)?"
    )
    with pytest.raises(ValueError) as error:
        PowerNorm(3)(torch.ones(2, 5, 3), torch.ones(2, 3))
    assert str(error.value) == (
        "PowerNorm got an input of shape (2, 5, 3) and a mask of shape (2, 3) and type float32. The mask says which positions "
        "count: it must have the shape (2, 5) and be of bools."
    )
    with pytest.raises(ValueError) as error:
        PowerNorm(3, warmup=-1)
    assert (
        str(error.value) == "PowerNorm(warmup=-1): warmup is a number of steps and must be a whole number, 0 or more."
    )
    with pytest.raises(ValueError) as error:
        PowerNorm(3, layer_scale=2)
    assert str(error.value) == (
        "PowerNorm(3, layer_scale=2): layer_scale is a number of groups of features, and num_features must be a multiple of "
        "it; 0 scales nothing."
    )
    x = inputs().requires_grad_()
    with pytest.raises(RuntimeError) as error:
        torch.autograd.grad(made()(x).sum(), x, create_graph=True)
    assert str(error.value) == (
        "PowerNorm has no second derivatives: after its warm-up its gradient is an approximation, and not the gradient of any "
        "function. Use LayerNorm or RMSNorm where create_graph=True is needed."
    )
