"""Dropout with a generator of its own."""

from __future__ import annotations

import copy
import io
import math
import pickle

import pytest
import torch

from trimtab.nn import Dropout


def made(p=0.5, seed=0):
    return Dropout(p, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_drops_a_share_of_p_and_keeps_the_mean(p):
    y = made(p)(torch.ones(100_000))
    # 100 000 draws: a standard error of sqrt(p (1 - p) / 1e5); 5 of them.
    error = 5 * math.sqrt(p * (1 - p) / 1e5)
    assert (y == 0).double().mean().item() == pytest.approx(p, abs=error)
    assert y.mean().item() == pytest.approx(1.0, abs=error / (1 - p))
    assert y.unique().tolist() == pytest.approx([0.0, 1 / (1 - p)])


def test_masks_of_one_generator_are_independent():
    # correlation of neighbours, and of one mask with the next: 5 standard errors of 1/sqrt(n)
    layer, n = made(), 1_000_000
    a, b = (layer(torch.ones(n)) - 1 for _ in range(2))
    assert abs((a[1:] * a[:-1]).mean().item()) < 5 / math.sqrt(n)
    assert abs((a * b).mean().item()) < 5 / math.sqrt(n)
    assert abs((a[1:] * b[:-1]).mean().item()) < 5 / math.sqrt(n)
    for lag in (2, 16, 64, 256, 1024, 65536):
        assert abs((a[lag:] * a[:-lag]).mean().item()) < 5 / math.sqrt(n - lag), lag


def test_every_layout_gets_a_gradient_through_its_mask():
    for form in (torch.contiguous_format, torch.channels_last):
        x = torch.ones(3, 5, 4, 4).contiguous(memory_format=form).requires_grad_()
        y = made()(x)
        (gradient,) = torch.autograd.grad(y, x, torch.ones(3, 5, 4, 4))  # arrives in another layout
        assert torch.equal(gradient, y)


def test_the_kernel_and_torch_s_operations_drop_the_same(monkeypatch):
    from trimtab.nn.ops import common

    x = torch.randn(77, 13)
    found = made()(x)
    monkeypatch.setattr(common, "FORCED", "torch")
    torch.testing.assert_close(made()(x), found)


def test_in_place():
    x = torch.ones(100)
    assert Dropout(0.5, inplace=True)(x) is x
    assert x.unique().tolist() == [0.0, 2.0]


def test_nothing_but_a_seed_is_kept_for_the_backward_pass():
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        made()(torch.ones(1000, requires_grad=True))
    assert kept == [1]


def test_checkpointing_draws_the_same_mask_again():
    torch.manual_seed(0)
    layer, x = Dropout(0.5), torch.ones(1000, requires_grad=True)
    y = torch.utils.checkpoint.checkpoint(layer, x, use_reentrant=False)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    assert torch.equal(gradient, y)


def test_the_gradient_is_the_mask_of_the_forward_pass():
    x = torch.randn(50, 7, requires_grad=True)
    y = made()(x)
    y.backward(torch.full_like(y, 3.0))
    assert torch.equal(x.grad, torch.where(y == 0, 0.0, 6.0))


def test_evaluation_changes_nothing():
    x = torch.randn(5, 4)
    layer = made().eval()
    assert layer(x) is x
    assert made(0.0)(x) is x
    assert torch.equal(made(1.0)(x), torch.zeros(5, 4))


def test_draws_nothing_from_the_global_generator():
    before = torch.get_rng_state()
    made()(torch.ones(100))
    assert torch.equal(before, torch.get_rng_state())


def test_without_a_generator_torch_s_is_used():
    torch.manual_seed(1)
    first = Dropout()(torch.ones(100))
    torch.manual_seed(1)
    assert torch.equal(first, Dropout()(torch.ones(100)))
    assert not torch.equal(first, Dropout()(torch.ones(100)))


def test_same_seed_same_masks():
    a, b, c = made(seed=1), made(seed=1), made(seed=2)
    x = torch.ones(100)
    first = a(x)
    assert torch.equal(first, b(x))
    assert not torch.equal(first, c(x))
    assert not torch.equal(first, a(x))  # the next mask is another one


def saved(layer):
    buffer = io.BytesIO()
    torch.save(layer, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


@pytest.mark.parametrize("how", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer)), saved])
def test_copies_go_on_with_the_same_masks(how):
    layer = made()
    x = torch.ones(100)
    layer(x)
    twin = how(layer)
    assert torch.equal(layer(x), twin(x))
    assert torch.equal(layer(x), twin(x))
    assert twin.generator is not layer.generator
    assert how(Dropout(0.3)).generator is None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_keeps_dtype_and_shape(dtype):
    y = made()(torch.ones(3, 0, 5, dtype=dtype)), made()(torch.ones(2, 3, dtype=dtype))
    assert [t.dtype for t in y] == [dtype, dtype]
    assert [t.shape for t in y] == [(3, 0, 5), (2, 3)]


@pytest.mark.parametrize("p", [-0.1, 1.1, math.nan])
def test_a_probability_outside_0_and_1_is_refused(p):
    with pytest.raises(ValueError, match="p is the probability of dropping an entry and must lie in"):
        Dropout(p)


def test_has_no_state_and_says_what_it_is():
    assert made().state_dict() == {}
    assert repr(Dropout(0.2)) == "Dropout(p=0.2, inplace=False)"


def test_compiles():
    torch._dynamo.reset()
    layer = Dropout(0.5).eval()
    x = torch.randn(4)
    assert torch.equal(torch.compile(layer, backend="eager")(x), x)
