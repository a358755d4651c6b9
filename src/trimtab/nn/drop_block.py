"""DropBlock: dropout of contiguous regions of feature maps."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn

from trimtab.nn import ops
from trimtab.nn.checks import check_count, check_p
from trimtab.nn.draws import OwnGenerator, bernoulli, check_generator, kept

GROUP = "regularization"
POOLS = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}


def drop_block(
    input: torch.Tensor,
    p: float = 0.1,
    block_size: int = 7,
    training: bool = True,
    *,
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    """Drops blocks of neighbouring entries; see :class:`DropBlock`.

    >>> drop_block(torch.ones(1, 1, 3), training=False)
    tensor([[[1., 1., 1.]]])
    """
    check_block("drop_block", p, block_size)
    return without_blocks(input, p, block_size, ops.draw_key(generator)) if training and p > 0 else input


def check_block(part: str, p: float, block_size: int) -> None:
    """Refuse settings that mean nothing."""
    check_p(part, "p", p)
    check_count(part, "block_size", block_size, 1, "is the side of a block")


class DropBlock(OwnGenerator, nn.modules.dropout._DropoutNd):
    r"""Sets blocks of neighbouring entries of feature maps to zero while training, and scales the rest.

    .. math:: y = \frac{|m|}{\sum m} \, m x, \qquad \gamma = \frac{p}{k^d} \prod_i \frac{s_i}{s_i - k + 1}

    for ``x`` of shape ``(N, C, L)``, ``(N, C, H, W)`` or ``(N, C, D, H, W)`` with d sizes ``s_i``. Every place where a block of side
    k fits inside a map begins one with probability gamma, each channel by itself; ``m`` is 0 in the blocks and 1 elsewhere, ``|m|``
    counts its entries. Where a map is smaller than a block, the block is as large as the map. The share that is dropped is
    p, a little less where blocks overlap. With ``block_size=1`` it is dropout by entries. In evaluation mode ``y = x``.

    Args:
        p: share of entries to drop, 0 <= p <= 1.
        block_size: side k of a block.
        generator: source of the masks; torch's global generator if ``None``. A CPU generator serves every device.

    Raises:
        ValueError: if p is outside [0, 1], block_size below 1, or the input has no such shape.

    When it helps: convolutional networks that fit their training set: entries dropped one by one can be told from
    their neighbours. The paper lets p grow linearly from 0 (``trimtab.nn.linear_ramp``). When it hurts: small networks, and large p
    early in training.

    Source: Ghiasi, Lin & Le, "DropBlock: A regularization method for convolutional networks", NeurIPS 2018.

    >>> layer = DropBlock(0.3, block_size=3, generator=torch.Generator().manual_seed(4))
    >>> (layer(torch.ones(1, 1, 10)) > 0).int()
    tensor([[[1, 0, 0, 0, 1, 0, 0, 0, 1, 1]]], dtype=torch.int32)
    """

    def __init__(self, p: float = 0.1, block_size: int = 7, *, generator: torch.Generator | None = None) -> None:
        check_block("DropBlock", p, block_size)
        check_generator("DropBlock", generator)
        super().__init__(p)
        self.block_size, self.generator = block_size, generator

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if not self.training or self.p == 0:
            return input
        return without_blocks(input, self.p, self.block_size, self.draw_key())

    def extra_repr(self) -> str:
        return f"p={self.p}, block_size={self.block_size}"


def without_blocks(x: torch.Tensor, p: float, block_size: int, key: torch.Tensor) -> torch.Tensor:
    """DropBlock with the mask of a key."""
    keep = kept_blocks(tuple(x.shape), p, block_size, key, x.device)
    count = keep.sum().clamp(min=1).to(torch.promote_types(x.dtype, torch.float32))
    return kept(keep, x * (keep.numel() / count).to(x.dtype))


def kept_blocks(
    shape: tuple[int, ...], p: float, block_size: int, key: torch.Tensor, device: torch.device
) -> torch.Tensor:
    """Which entries lie in no block."""
    sizes = shape[2:]
    if len(sizes) not in POOLS:
        raise ValueError(
            f"DropBlock got an input of shape {shape}. It must be (N, C, L), (N, C, H, W) or (N, C, D, H, W): blocks lie in feature maps."
        )
    sides = [min(block_size, size) for size in sizes]
    places = [size - side + 1 for size, side in zip(sizes, sides, strict=True)]
    gamma = min(1.0, p * math.prod(sizes) / (math.prod(sides) * math.prod(places)))
    begins = ~bernoulli((*shape[:2], *places), gamma, key, device)
    # an entry lies in a block that begins at most a side before it
    around = [side - 1 for side in reversed(sides) for _ in range(2)]
    return POOLS[len(sizes)](F.pad(begins.float(), around), tuple(sides), stride=1) == 0
