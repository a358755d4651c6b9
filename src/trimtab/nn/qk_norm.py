"""Normalization of queries and keys before attention."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from trimtab.nn.checks import check_count, check_eps, check_number
from trimtab.nn.layer_norm import LayerNorm
from trimtab.nn.rms_norm import RMSNorm

GROUP = "normalization"
KINDS = ("rms", "layer", "l2")


class QKNorm(nn.Module):
    r"""Normalizes queries and keys over the dimension of a head, so that attention logits cannot grow without bound.

    With q of shape (..., L, D), k of shape (..., S, D) and D = head_dim:

    .. math::
        \text{rms:} \quad & q' = \gamma_q \odot \frac{q}{\sqrt{\frac1D \sum q^2 + \epsilon}}, \quad
            k' = \gamma_k \odot \frac{k}{\sqrt{\frac1D \sum k^2 + \epsilon}} \\
        \text{layer:} \quad & \text{the same with the mean subtracted, and the variance under the root} \\
        \text{l2:} \quad & \frac{q' \cdot k'}{\sqrt D} = g \frac{q \cdot k}{\|q\| \|k\|}

    with learned gains :math:`\gamma_q, \gamma_k` of shape (D,), or one learned number g. All kinds are made for the
    usual logits :math:`q' \cdot k' / \sqrt D`, what ``scaled_dot_product_attention`` computes by default: leave its
    ``scale`` alone. Heads share the gains. Queries and keys may differ in their other dimensions, as in cross and
    grouped-query attention.

    Keys of the ``state_dict``: ``q_norm.weight`` and ``k_norm.weight`` (with ``bias``, where there is one), or
    ``scale``.

    Args:
        head_dim: D, of queries and of keys.
        kind: ``"rms"`` (most language models), ``"layer"`` (ViT-22B) or ``"l2"`` (Henry et al.).
        eps: added to the mean square or variance, inside the root.
        bias: whether the norms of ``"layer"`` have one; ViT-22B's have not.
        scale_init: g at the start, for ``"l2"``. Henry et al. take log2(L² - L) with L so long that 97.5 % of the
            training sequences are not longer; 10 belongs to an L of 32, 18 to one of 512.
        device, dtype: as in torch.

    Raises:
        ValueError: for another kind, a bias with a kind that has none, and an input whose last dimension is not
            head_dim.

    When it helps: attention that collapses to one key or a loss that diverges, at large learning rates, in wide models,
    in low precision; apply it after the projections and before rotary embeddings. When it hurts: pretrained weights
    that were trained without it (it must be there from the start), and attention over very many keys with a gain that
    is too small to single one out.

    Source: Henry, Dachapally, Pawar, Chen, "Query-Key Normalization for Transformers", 2020; Dehghani et al., "Scaling
    Vision Transformers to 22 Billion Parameters", 2023.

    >>> q, k, v = torch.randn(3, 2, 4, 5, 8)  # batch 2, heads 4, positions 5, head_dim 8
    >>> q, k = QKNorm(8)(100 * q, k)
    >>> logits = q @ k.transpose(-1, -2) / 8**0.5
    >>> logits.abs().max() <= 8**0.5
    tensor(True)
    >>> torch.nn.functional.scaled_dot_product_attention(q, k, v).shape
    torch.Size([2, 4, 5, 8])
    """

    def __init__(
        self,
        head_dim: int,
        kind: str = "rms",
        eps: float = 1e-6,
        bias: bool = False,
        scale_init: float = 10.0,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        check_count("QKNorm", "head_dim", head_dim, 1, "is the size of one head")
        check_eps("QKNorm", eps)
        check_number("QKNorm", "scale_init", scale_init, "(-inf, inf)")
        if kind not in KINDS:
            raise ValueError(f"QKNorm(kind={kind!r}): kind must be one of {', '.join(KINDS)}.")
        if bias and kind != "layer":
            raise ValueError(
                f"QKNorm(kind={kind!r}, bias=True): only kind='layer' can have a bias. Leave out bias=True."
            )
        self.head_dim, self.kind = head_dim, kind
        place = {"device": device, "dtype": dtype}
        self.q_norm: nn.Module
        self.k_norm: nn.Module
        if kind == "layer":
            self.q_norm = LayerNorm(head_dim, eps, bias=bias, **place)
            self.k_norm = LayerNorm(head_dim, eps, bias=bias, **place)
        else:
            affine = kind == "rms"
            self.q_norm = RMSNorm(head_dim, eps, affine, **place)
            self.k_norm = RMSNorm(head_dim, eps, affine, **place)
        self.scale = nn.Parameter(torch.tensor(float(scale_init), **place)) if kind == "l2" else None

    def forward(self, q: torch.Tensor, k: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        for name, tensor in (("queries", q), ("keys", k)):
            if tensor.shape[-1] != self.head_dim:
                raise ValueError(
                    f"QKNorm({self.head_dim}) got {name} of shape {tuple(tensor.shape)}. Their last dimension must equal "
                    f"head_dim, the size of one head: split the heads first, or did you mean QKNorm({tensor.shape[-1]})?"
                )
        q, k = self.q_norm(q), self.k_norm(k)
        if self.scale is not None:
            # RMS-normalized vectors have length sqrt(D) each, so the logits would be sqrt(D) times their cosine
            q = q * (self.scale / math.sqrt(self.head_dim)).to(q.dtype)
        return q, k

    def extra_repr(self) -> str:
        return f"{self.head_dim}, kind={self.kind}"
