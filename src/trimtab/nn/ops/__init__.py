"""Shapes of work, each as a formula, as torch operations, and as a CPU kernel: the four behind all norms, and some losses."""

from trimtab.nn.ops.channel_norm import CHANNEL_NORM, channel_norm
from trimtab.nn.ops.common import ACTIVATIONS, backend_of, draw_key, torch_is_better
from trimtab.nn.ops.cross_entropy import CROSS_ENTROPY, cross_entropy
from trimtab.nn.ops.dropout import DROPOUT, dropout
from trimtab.nn.ops.group_norm import GROUP_NORM, group_norm
from trimtab.nn.ops.response_norm import RESPONSE_NORM, response_norm
from trimtab.nn.ops.row_norm import ROW_NORM, row_norm

OPS = (CHANNEL_NORM, CROSS_ENTROPY, DROPOUT, GROUP_NORM, RESPONSE_NORM, ROW_NORM)

__all__ = [
    "ACTIVATIONS",
    "OPS",
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
