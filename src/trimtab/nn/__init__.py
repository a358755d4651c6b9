"""Drop-in modules and functions: names, arguments and their order, checkpoints, layouts and numbers are torch's.

``make peers`` holds them against torch's own databases of test inputs. What differs on purpose:

* Wrong arguments are refused where the layer is made, with a ``ValueError`` that says what must hold; torch takes some of them until the
  first call (``BatchNorm2d(8, eps=-1.0)``), or for good. So are inputs that do not fit, where torch raises a ``RuntimeError``.
* ``InstanceNorm`` refuses another number of channels without affine too, where torch warns; ``batch_norm`` wants (N, C, ...), where torch
  takes an empty tensor of one dimension.
* ``InstanceNorm`` keeps channels_last, which torch's loses. ``LocalResponseNorm`` takes half types, and layouts, for which torch's has
  no pooling.
* Weights of another type than the input are computed with in the wider type, so that their gradients keep its digits; torch refuses
  some of these pairs, and rounds the gradients of others.
* Dropout draws its masks in its own way: ``torch.manual_seed`` makes them the same again, and not those of torch.
* A norm with a dropout asks whether it trains, as ``torch.nn.LayerNorm`` does not.
* ``torch.compile``, ``torch.export`` and ``torch.jit.trace`` take the layers. ``torch.jit.script``, which torch has deprecated, does not compile
  their checks of arguments, and for ``torch.fx`` they are leaves only where a tracer says so, as it does by itself of ``torch.nn``:

  >>> import torch
  >>> class Tracer(torch.fx.Tracer):
  ...     def is_leaf_module(self, module, name):
  ...         return type(module).__module__.startswith("trimtab.nn.") or super().is_leaf_module(module, name)
  >>> print(Tracer().trace(torch.nn.Sequential(torch.nn.Linear(4, 4), LayerNorm(4))))
  graph():
      %input_1 : [num_users=1] = placeholder[target=input]
      %_0 : [num_users=1] = call_module[target=0](args = (%input_1,), kwargs = {})
      %_1 : [num_users=1] = call_module[target=1](args = (%_0,), kwargs = {})
      return _1

* The constructors of recurrent layers refuse ``proj_size``, but for :class:`DropConnectLSTM`, which is torch's and, like torch's, has no
  rule for ``torch.func.vmap``.
"""

from trimtab.nn import functional
from trimtab.nn.ada_norm import AdaNorm
from trimtab.nn.alpha_dropout import AlphaDropout
from trimtab.nn.batch_norm import BatchNorm1d, BatchNorm2d, BatchNorm3d
from trimtab.nn.batch_renorm import BatchRenorm1d, BatchRenorm2d, BatchRenorm3d
from trimtab.nn.bias_variance import bias_variance
from trimtab.nn.cross_entropy import CrossEntropyLoss
from trimtab.nn.detach_norm import DetachNorm
from trimtab.nn.drop_block import DropBlock
from trimtab.nn.drop_connect import (
    DropConnectConv1d,
    DropConnectConv2d,
    DropConnectConv3d,
    DropConnectGRU,
    DropConnectLinear,
    DropConnectLSTM,
    DropConnectRNN,
)
from trimtab.nn.drop_path import DropPath
from trimtab.nn.dropout import Dropout
from trimtab.nn.dynamic_tanh import DynamicTanh
from trimtab.nn.ensemble import Ensemble
from trimtab.nn.fold import fold_batch_norm
from trimtab.nn.gains import calculate_gain
from trimtab.nn.gaussian_dropout import GaussianDropout
from trimtab.nn.ghost_batch_norm import GhostBatchNorm1d, GhostBatchNorm2d, GhostBatchNorm3d
from trimtab.nn.group_norm import GroupNorm
from trimtab.nn.hard_concrete import HardConcrete
from trimtab.nn.identity_init import identity_init
from trimtab.nn.instance_norm import InstanceNorm1d, InstanceNorm2d, InstanceNorm3d
from trimtab.nn.layer_norm import AddLayerNorm, LayerNorm
from trimtab.nn.layer_norm_simple import LayerNormSimple
from trimtab.nn.lsuv import lsuv_
from trimtab.nn.monte_carlo import compare_with_weight_scaling, monte_carlo
from trimtab.nn.norm_layer import norm_layer
from trimtab.nn.power_norm import PowerNorm
from trimtab.nn.qk_norm import QKNorm
from trimtab.nn.rates import linear_ramp, rates_by_depth, rates_by_width
from trimtab.nn.recalibrate import recalibrate
from trimtab.nn.recurrent import LayerNormGRU, LayerNormGRUCell, LayerNormLSTM, LayerNormLSTMCell
from trimtab.nn.residual import Residual
from trimtab.nn.response_norm import LocalResponseNorm
from trimtab.nn.rms_norm import AddRMSNorm, RMSNorm
from trimtab.nn.soft_cap import SoftCap
from trimtab.nn.standout import Standout
from trimtab.nn.surrogates import SurrogateLoss
from trimtab.nn.sync_batch_norm import SyncBatchNorm
from trimtab.nn.weight_norms import spectral_norm, weight_norm, weight_standardization
from trimtab.nn.z_loss import ZLoss
from trimtab.nn.zoneout import ZoneoutGRU, ZoneoutLSTM, ZoneoutRNN

__all__ = [
    "AdaNorm",
    "AddLayerNorm",
    "AddRMSNorm",
    "AlphaDropout",
    "BatchNorm1d",
    "BatchNorm2d",
    "BatchNorm3d",
    "BatchRenorm1d",
    "BatchRenorm2d",
    "BatchRenorm3d",
    "CrossEntropyLoss",
    "DetachNorm",
    "DropBlock",
    "DropConnectConv1d",
    "DropConnectConv2d",
    "DropConnectConv3d",
    "DropConnectGRU",
    "DropConnectLSTM",
    "DropConnectLinear",
    "DropConnectRNN",
    "DropPath",
    "Dropout",
    "DynamicTanh",
    "Ensemble",
    "GaussianDropout",
    "GhostBatchNorm1d",
    "GhostBatchNorm2d",
    "GhostBatchNorm3d",
    "GroupNorm",
    "HardConcrete",
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
    "Residual",
    "SoftCap",
    "Standout",
    "SurrogateLoss",
    "SyncBatchNorm",
    "ZLoss",
    "ZoneoutGRU",
    "ZoneoutLSTM",
    "ZoneoutRNN",
    "bias_variance",
    "calculate_gain",
    "compare_with_weight_scaling",
    "fold_batch_norm",
    "functional",
    "identity_init",
    "linear_ramp",
    "lsuv_",
    "monte_carlo",
    "norm_layer",
    "rates_by_depth",
    "rates_by_width",
    "recalibrate",
    "spectral_norm",
    "weight_norm",
    "weight_standardization",
]
