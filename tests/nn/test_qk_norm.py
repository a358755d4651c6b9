"""QKNorm: its three kinds by their formulas, inside attention, and its errors."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from tests.nn.norms import lively
from trimtab.nn.qk_norm import QKNorm


def queries_and_keys(dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(2, 6, 5, 8, generator=generator, dtype=torch.float64) * 3 + 1
    return q.to(dtype), (torch.randn(2, 3, 7, 8, generator=generator, dtype=torch.float64) * 2 - 1).to(dtype)


@pytest.mark.parametrize("kind", ["rms", "layer"])
def test_rms_and_layer_are_norms_over_a_head(kind):
    q, k = queries_and_keys()
    layer = lively(QKNorm(8, kind, bias=kind == "layer")).double()
    for found, x, norm in zip(layer(q, k), (q, k), (layer.q_norm, layer.k_norm), strict=True):
        if kind == "layer":
            x = x - x.mean(-1, keepdim=True)
        wanted = norm.weight * x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt()
        torch.testing.assert_close(found, wanted + norm.bias if kind == "layer" else wanted)


def test_l2_makes_logits_of_scaled_cosines():
    q, k = queries_and_keys()
    k = k.repeat_interleave(2, 1)
    layer = QKNorm(8, "l2", eps=0.0, scale_init=12.5).double()
    a, b = layer(q, k)
    wanted = 12.5 * F.cosine_similarity(q.unsqueeze(-2), k.unsqueeze(-3), dim=-1)
    torch.testing.assert_close(a @ b.transpose(-1, -2) / math.sqrt(8), wanted)
    v = torch.randn_like(k)
    torch.testing.assert_close(F.scaled_dot_product_attention(a, b, v), wanted.softmax(-1) @ v)


def test_logits_are_bounded_whatever_the_input():
    q, k = queries_and_keys(torch.float32)
    a, b = QKNorm(8)(1e4 * q, 1e-2 * k)
    assert (a @ b.repeat_interleave(2, 1).transpose(-1, -2) / math.sqrt(8)).abs().max() <= math.sqrt(8) * (1 + 1e-5)


def test_parameters():
    assert set(QKNorm(8).state_dict()) == {"q_norm.weight", "k_norm.weight"}
    assert set(QKNorm(8, "layer").state_dict()) == {"q_norm.weight", "k_norm.weight"}
    assert QKNorm(8, "l2").state_dict() == {"scale": torch.tensor(10.0)}
    assert repr(QKNorm(8, "l2")).startswith("QKNorm(\n  8, kind=l2")


@pytest.mark.parametrize("kind", ["rms", "layer", "l2"])
def test_types_and_derivatives(kind):
    layer = lively(QKNorm(8, kind))
    assert all(t.dtype is torch.bfloat16 for t in layer(*queries_and_keys(torch.bfloat16)))
    q, k = (t[0, 0].requires_grad_() for t in queries_and_keys())
    assert torch.autograd.gradcheck(layer.double(), (q, k))
    torch.autograd.backward([t.sum() for t in layer(q, k)])
    assert all(p.grad is not None for p in layer.parameters())


def test_compiled_without_a_graph_break():
    torch._dynamo.reset()
    layer, (q, k) = lively(QKNorm(8, "l2")), queries_and_keys(torch.float32)
    found = torch.compile(layer, fullgraph=True, backend="aot_eager")(q, k)
    torch.testing.assert_close(found, layer(q, k))


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: QKNorm(8, "batch"), "QKNorm(kind='batch'): kind must be one of rms, layer, l2."),
        (
            lambda: QKNorm(8, bias=True),
            "QKNorm(kind='rms', bias=True): only kind='layer' can have a bias. Leave out bias=True.",
        ),
        (
            lambda: QKNorm(8)(torch.ones(2, 8), torch.ones(2, 32)),
            "QKNorm(8) got keys of shape (2, 32). Their last dimension must equal head_dim, the size of one head: "
            "split the heads first, or did you mean QKNorm(32)?",
        ),
    ],
)
def test_errors_say_what_to_do(make, message):
    with pytest.raises(ValueError) as error:
        make()
    assert str(error.value) == message
