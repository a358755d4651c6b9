"""Techniques: what can be done to a live training, one file each. Importing this room registers them all by name."""

from trimtab.techniques.batch_norm import BatchNorm
from trimtab.techniques.clip_norm import ClipNorm
from trimtab.techniques.convert_norm import ConvertNorm
from trimtab.techniques.dropout import Dropout
from trimtab.techniques.fuse import Fuse
from trimtab.techniques.gn_ws import GnWs
from trimtab.techniques.group_norm import GroupNorm
from trimtab.techniques.he_init import HeInit
from trimtab.techniques.label_smoothing import LabelSmoothing
from trimtab.techniques.layer_norm import LayerNorm
from trimtab.techniques.lr_scale import LrScale
from trimtab.techniques.remove_redundant_bias import RemoveRedundantBias
from trimtab.techniques.rms_norm import RmsNorm
from trimtab.techniques.standardize_inputs import StandardizeInputs
from trimtab.techniques.weight_decay import WeightDecay
from trimtab.techniques.xavier_init import XavierInit
from trimtab.techniques.zero_init_residual import ZeroInitResidual

__all__ = [
    "BatchNorm",
    "ClipNorm",
    "ConvertNorm",
    "Dropout",
    "Fuse",
    "GnWs",
    "GroupNorm",
    "HeInit",
    "LabelSmoothing",
    "LayerNorm",
    "LrScale",
    "RemoveRedundantBias",
    "RmsNorm",
    "StandardizeInputs",
    "WeightDecay",
    "XavierInit",
    "ZeroInitResidual",
]
