"""LayerNormSimple is LayerNorm without gain and bias."""

from __future__ import annotations

import torch

from trimtab.nn import LayerNorm
from trimtab.nn.layer_norm_simple import LayerNormSimple, layer_norm_simple


def test_is_layer_norm_without_parameters():
    x = torch.randn(4, 3, 8)
    assert torch.equal(LayerNormSimple(8)(x), LayerNorm(8, elementwise_affine=False)(x))
    assert torch.equal(LayerNormSimple((3, 8))(x), layer_norm_simple(x, (3, 8)))
    assert torch.equal(
        LayerNormSimple(3, channels_first=True)(x), layer_norm_simple(x.movedim(1, -1), (3,)).movedim(-1, 1)
    )
    assert not LayerNormSimple(8).state_dict()


def test_repr_does_not_speak_of_gain_and_bias():
    assert repr(LayerNormSimple(8)) == "LayerNormSimple((8,), eps=1e-05)"
    assert repr(LayerNormSimple(8, dropout=0.1)) == "LayerNormSimple((8,), eps=1e-05, dropout=0.1)"


def test_without_eps_a_constant_row_gives_zeros():
    assert torch.equal(LayerNormSimple(4, eps=0.0)(torch.full((2, 4), 7.0)), torch.zeros(2, 4))
