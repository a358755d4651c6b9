"""Functions behind the modules of :mod:`trimtab.nn`, with the names and argument order of ``torch.nn.functional``."""

from trimtab.nn.activation_penalties import activity_penalty, confidence_penalty, jacobian_penalty
from trimtab.nn.ada_norm import ada_norm
from trimtab.nn.alpha_dropout import alpha_dropout
from trimtab.nn.batch_norm import batch_norm, batch_norm_backward, batch_norm_backward_collected
from trimtab.nn.batch_renorm import batch_renorm
from trimtab.nn.cross_entropy import cross_entropy
from trimtab.nn.detach_norm import detach_norm
from trimtab.nn.drop_block import drop_block
from trimtab.nn.drop_path import drop_path
from trimtab.nn.dropout import dropout
from trimtab.nn.dynamic_tanh import dynamic_tanh
from trimtab.nn.ensemble import average_members, member_losses, vote
from trimtab.nn.gaussian_dropout import gaussian_dropout
from trimtab.nn.ghost_batch_norm import ghost_batch_norm
from trimtab.nn.group_norm import group_norm
from trimtab.nn.hard_concrete import expected_l0, hard_concrete
from trimtab.nn.instance_norm import instance_norm
from trimtab.nn.layer_norm import layer_norm
from trimtab.nn.layer_norm_simple import layer_norm_simple
from trimtab.nn.orthogonal import orthogonal_penalty
from trimtab.nn.power_norm import power_norm
from trimtab.nn.r_drop import r_drop_loss, symmetric_kl
from trimtab.nn.recurrent import layer_norm_gru_cell, layer_norm_lstm_cell
from trimtab.nn.response_norm import local_response_norm
from trimtab.nn.rms_norm import rms_norm
from trimtab.nn.soft_cap import soft_cap
from trimtab.nn.surrogates import surrogate_loss
from trimtab.nn.sync_batch_norm import sync_batch_norm
from trimtab.nn.weight_norms import standardize_weight
from trimtab.nn.z_loss import z_loss

__all__ = [
    "activity_penalty",
    "ada_norm",
    "alpha_dropout",
    "average_members",
    "batch_norm",
    "batch_norm_backward",
    "batch_norm_backward_collected",
    "batch_renorm",
    "confidence_penalty",
    "cross_entropy",
    "detach_norm",
    "drop_block",
    "drop_path",
    "dropout",
    "dynamic_tanh",
    "expected_l0",
    "gaussian_dropout",
    "ghost_batch_norm",
    "group_norm",
    "hard_concrete",
    "instance_norm",
    "jacobian_penalty",
    "layer_norm",
    "layer_norm_gru_cell",
    "layer_norm_lstm_cell",
    "layer_norm_simple",
    "local_response_norm",
    "member_losses",
    "orthogonal_penalty",
    "power_norm",
    "r_drop_loss",
    "rms_norm",
    "soft_cap",
    "standardize_weight",
    "surrogate_loss",
    "symmetric_kl",
    "sync_batch_norm",
    "vote",
    "z_loss",
]
