"""Drop-in modules and functions."""

from trimtab.nn import functional
from trimtab.nn.ada_norm import AdaNorm
from trimtab.nn.batch_norm import BatchNorm1d, BatchNorm2d, BatchNorm3d
from trimtab.nn.batch_renorm import BatchRenorm1d, BatchRenorm2d, BatchRenorm3d
from trimtab.nn.cross_entropy import CrossEntropyLoss
from trimtab.nn.detach_norm import DetachNorm
from trimtab.nn.dropout import Dropout
from trimtab.nn.dynamic_tanh import DynamicTanh
from trimtab.nn.fold import fold_batch_norm
from trimtab.nn.ghost_batch_norm import GhostBatchNorm1d, GhostBatchNorm2d, GhostBatchNorm3d
from trimtab.nn.group_norm import GroupNorm
from trimtab.nn.identity_init import identity_init
from trimtab.nn.instance_norm import InstanceNorm1d, InstanceNorm2d, InstanceNorm3d
from trimtab.nn.layer_norm import AddLayerNorm, LayerNorm
from trimtab.nn.layer_norm_simple import LayerNormSimple
from trimtab.nn.norm_layer import norm_layer
from trimtab.nn.power_norm import PowerNorm
from trimtab.nn.qk_norm import QKNorm
from trimtab.nn.recalibrate import recalibrate
from trimtab.nn.recurrent import LayerNormGRU, LayerNormGRUCell, LayerNormLSTM, LayerNormLSTMCell
from trimtab.nn.response_norm import LocalResponseNorm
from trimtab.nn.rms_norm import AddRMSNorm, RMSNorm
from trimtab.nn.sync_batch_norm import SyncBatchNorm
from trimtab.nn.weight_norms import spectral_norm, weight_norm, weight_standardization

__all__ = [
    "AdaNorm",
    "AddLayerNorm",
    "AddRMSNorm",
    "BatchNorm1d",
    "BatchNorm2d",
    "BatchNorm3d",
    "BatchRenorm1d",
    "BatchRenorm2d",
    "BatchRenorm3d",
    "CrossEntropyLoss",
    "DetachNorm",
    "Dropout",
    "DynamicTanh",
    "GhostBatchNorm1d",
    "GhostBatchNorm2d",
    "GhostBatchNorm3d",
    "GroupNorm",
    "InstanceNorm1d",
    "InstanceNorm2d",
    "InstanceNorm3d",
    "LayerNorm",
    "LayerNormGRU",
    "LayerNormGRUCell",
    "LayerNormLSTM",
    "LayerNormLSTMCell",
    "LayerNormSimple",
    "LocalResponseNorm",
    "PowerNorm",
    "QKNorm",
    "RMSNorm",
    "SyncBatchNorm",
    "fold_batch_norm",
    "functional",
    "identity_init",
    "norm_layer",
    "recalibrate",
    "spectral_norm",
    "weight_norm",
    "weight_standardization",
]
