"""Shapes of work, each as a formula, as torch operations, and as a CPU kernel: the four behind all norms, and some losses."""

from trimtab.nn.ops.channel_norm import channel_norm
from trimtab.nn.ops.common import ACTIVATIONS, backend_of, draw_key, torch_is_better
from trimtab.nn.ops.cross_entropy import cross_entropy
from trimtab.nn.ops.dropout import dropout
from trimtab.nn.ops.group_norm import group_norm
from trimtab.nn.ops.response_norm import response_norm
from trimtab.nn.ops.row_norm import row_norm

__all__ = [
    "ACTIVATIONS",
    "backend_of",
    "channel_norm",
    "cross_entropy",
    "draw_key",
    "dropout",
    "group_norm",
    "response_norm",
    "row_norm",
    "torch_is_better",
]
