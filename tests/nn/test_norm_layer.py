"""norm_layer: every name makes a norm that runs; unknown names are told the near ones."""

from __future__ import annotations

import pickle

import pytest
import torch
from torch import nn

import trimtab.nn as tn
from trimtab.nn.norm_layer import NORMS, norm_layer

SHAPES = {
    "1d": (4, 8, 5), "2d": (4, 8, 5, 3), "3d": (4, 8, 2, 5, 3),
    "group": (4, 8, 5, 3), "layer_channels_first": (4, 8, 5, 3), "sync": (4, 8, 5, 3),
}  # fmt: skip


@pytest.mark.parametrize("name", NORMS)
def test_every_name_makes_a_norm_that_runs(name):
    shape = SHAPES.get(name) or SHAPES.get(name[-2:]) or (4, 5, 8)
    options = {"groups": 4} if name == "group" else {}
    x = torch.randn(shape)
    at_once, later = norm_layer(name, 8, **options), norm_layer(name, **options)(8)
    assert type(at_once) is type(later) and repr(at_once) == repr(later)
    torch.testing.assert_close(at_once.eval()(x), later.eval()(x))
    assert at_once.train()(x).shape == x.shape


def test_what_the_names_mean():
    assert type(norm_layer("batch2d", 8)) is tn.BatchNorm2d
    assert type(norm_layer("rms", 8)) is tn.RMSNorm
    assert norm_layer("layer_channels_first", 8).channels_first
    assert norm_layer("group", 64).num_groups == 32
    assert norm_layer("batch2d", 8, activation="relu").activation == "relu"
    assert norm_layer("ghost2d", 8, ghost_batch_size=4).ghost_batch_size == 4


def test_what_is_made_fits_norm_layer_arguments():
    make = pickle.loads(pickle.dumps(norm_layer("group", groups=8)))
    block = nn.Sequential(nn.Conv2d(3, 16, 3), make(16, eps=1e-3))  # timm passes further options
    assert (block[1].num_groups, block[1].num_channels, block[1].eps) == (8, 16, 1e-3)


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("gruop", "'group'"),
        ("batch", "'batch1d' or 'batch2d' or 'batch3d'"),
        ("layernorm", "'layer'"),
        ("renorm", "'renorm"),
    ],
)
def test_unknown_names_are_told_the_near_ones(name, near):
    for call in (lambda: norm_layer(name, 8), lambda: norm_layer(name)):
        with pytest.raises(ValueError) as error:
            call()
        text = str(error.value)
        assert text.startswith(f"norm_layer({name!r}): there is no norm of this name. Did you mean ")
        assert near in text.split("?")[0]
        assert text.endswith(f"? Known are {', '.join(NORMS)}.")


def test_a_name_near_to_nothing():
    with pytest.raises(ValueError) as error:
        norm_layer("xyz", 8)
    assert str(error.value) == (
        "norm_layer('xyz'): there is no norm of this name. Known are batch1d, batch2d, batch3d, dynamic_tanh, ghost1d, "
        "ghost2d, ghost3d, group, instance1d, instance2d, instance3d, layer, layer_channels_first, none, power, renorm1d, "
        "renorm2d, renorm3d, rms, sync."
    )
