"""Functions behind the modules of :mod:`trimtab.nn`, with the names and argument order of ``torch.nn.functional``."""

from trimtab.nn.ada_norm import ada_norm
from trimtab.nn.batch_norm import batch_norm, batch_norm_backward, batch_norm_backward_collected
from trimtab.nn.batch_renorm import batch_renorm
from trimtab.nn.cross_entropy import cross_entropy
from trimtab.nn.detach_norm import detach_norm
from trimtab.nn.dropout import dropout
from trimtab.nn.dynamic_tanh import dynamic_tanh
from trimtab.nn.ghost_batch_norm import ghost_batch_norm
from trimtab.nn.group_norm import group_norm
from trimtab.nn.instance_norm import instance_norm
from trimtab.nn.layer_norm import layer_norm
from trimtab.nn.layer_norm_simple import layer_norm_simple
from trimtab.nn.power_norm import power_norm
from trimtab.nn.recurrent import layer_norm_gru_cell, layer_norm_lstm_cell
from trimtab.nn.response_norm import local_response_norm
from trimtab.nn.rms_norm import rms_norm
from trimtab.nn.sync_batch_norm import sync_batch_norm
from trimtab.nn.weight_norms import standardize_weight

__all__ = [
    "ada_norm",
    "batch_norm",
    "batch_norm_backward",
    "batch_norm_backward_collected",
    "batch_renorm",
    "cross_entropy",
    "detach_norm",
    "dropout",
    "dynamic_tanh",
    "ghost_batch_norm",
    "group_norm",
    "instance_norm",
    "layer_norm",
    "layer_norm_gru_cell",
    "layer_norm_lstm_cell",
    "layer_norm_simple",
    "local_response_norm",
    "power_norm",
    "rms_norm",
    "standardize_weight",
    "sync_batch_norm",
]
