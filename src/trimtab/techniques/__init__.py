"""Techniques: what can be done to a live training, one file each. Importing this room registers them all by name."""

from trimtab.techniques.activity_penalty import ActivityPenalty
from trimtab.techniques.adadelta import Adadelta
from trimtab.techniques.adagrad import Adagrad
from trimtab.techniques.adam import Adam
from trimtab.techniques.adamw import AdamW
from trimtab.techniques.add_skips import AddSkips
from trimtab.techniques.affine import Affine
from trimtab.techniques.agc import Agc
from trimtab.techniques.alpha_dropout import AlphaDropout
from trimtab.techniques.batch_norm import BatchNorm
from trimtab.techniques.clip_norm import ClipNorm
from trimtab.techniques.clip_value import ClipValue
from trimtab.techniques.confidence_penalty import ConfidencePenalty
from trimtab.techniques.constrain import Constrain
from trimtab.techniques.convert_norm import ConvertNorm
from trimtab.techniques.cosine_decay import CosineDecay
from trimtab.techniques.cutmix import Cutmix
from trimtab.techniques.cutout import Cutout
from trimtab.techniques.drop_block import DropBlock
from trimtab.techniques.drop_connect import DropConnect
from trimtab.techniques.drop_path import DropPath
from trimtab.techniques.dropout import Dropout
from trimtab.techniques.early_stopping import EarlyStopping
from trimtab.techniques.elastic_net import ElasticNet
from trimtab.techniques.ema import Ema
from trimtab.techniques.ensemble import Bagging, DeepEnsemble
from trimtab.techniques.exponential_decay import ExponentialDecay
from trimtab.techniques.feature_masking import FeatureMasking
from trimtab.techniques.feature_scaling import FeatureScaling
from trimtab.techniques.flip import Flip
from trimtab.techniques.fuse import Fuse
from trimtab.techniques.gaussian_dropout import GaussianDropout
from trimtab.techniques.gn_ws import GnWs
from trimtab.techniques.group_norm import GroupNorm
from trimtab.techniques.he_init import HeInit
from trimtab.techniques.identity_init import IdentityInit
from trimtab.techniques.inverse_time_decay import InverseTimeDecay
from trimtab.techniques.jacobian_penalty import JacobianPenalty
from trimtab.techniques.l0 import L0
from trimtab.techniques.l1 import L1
from trimtab.techniques.l2 import L2
from trimtab.techniques.label_smoothing import LabelSmoothing
from trimtab.techniques.layer_norm import LayerNorm
from trimtab.techniques.learning_rate import LearningRate
from trimtab.techniques.logit_soft_cap import LogitSoftCap
from trimtab.techniques.lp import Lp
from trimtab.techniques.lr_scale import LrScale
from trimtab.techniques.lsuv_init import LsuvInit
from trimtab.techniques.mixup import Mixup
from trimtab.techniques.muon import Muon
from trimtab.techniques.natural_exp_decay import NaturalExpDecay
from trimtab.techniques.noise import Noise
from trimtab.techniques.one_cycle import OneCycle
from trimtab.techniques.orthogonal_init import OrthogonalInit
from trimtab.techniques.orthogonal_penalty import OrthogonalPenalty
from trimtab.techniques.r_drop import RDrop
from trimtab.techniques.rand_augment import RandAugment
from trimtab.techniques.remove_redundant_bias import RemoveRedundantBias
from trimtab.techniques.rms_norm import RmsNorm
from trimtab.techniques.rmsprop import RMSprop
from trimtab.techniques.rotate import Rotate
from trimtab.techniques.sam import SAM
from trimtab.techniques.scale_inputs import ScaleInputs
from trimtab.techniques.schedule_free import ScheduleFree
from trimtab.techniques.sgd import SGD
from trimtab.techniques.skip_spikes import SkipSpikes
from trimtab.techniques.standardize_inputs import StandardizeInputs
from trimtab.techniques.standout import Standout
from trimtab.techniques.surrogate_loss import SurrogateLoss
from trimtab.techniques.swa import Swa
from trimtab.techniques.time_masking import TimeMasking
from trimtab.techniques.translate import Translate
from trimtab.techniques.warmup import Warmup
from trimtab.techniques.warmup_stable_decay import WarmupStableDecay
from trimtab.techniques.weight_decay import WeightDecay
from trimtab.techniques.whiten_inputs import WhitenInputs
from trimtab.techniques.xavier_init import XavierInit
from trimtab.techniques.z_loss import ZLoss
from trimtab.techniques.zclip import Zclip
from trimtab.techniques.zero_init_residual import ZeroInitResidual
from trimtab.techniques.zoneout import Zoneout
from trimtab.techniques.zoom import Zoom

__all__ = [
    "L0",
    "L1",
    "L2",
    "SAM",
    "SGD",
    "ActivityPenalty",
    "Adadelta",
    "Adagrad",
    "Adam",
    "AdamW",
    "AddSkips",
    "Affine",
    "Agc",
    "AlphaDropout",
    "Bagging",
    "BatchNorm",
    "ClipNorm",
    "ClipValue",
    "ConfidencePenalty",
    "Constrain",
    "ConvertNorm",
    "CosineDecay",
    "Cutmix",
    "Cutout",
    "DeepEnsemble",
    "DropBlock",
    "DropConnect",
    "DropPath",
    "Dropout",
    "EarlyStopping",
    "ElasticNet",
    "Ema",
    "ExponentialDecay",
    "FeatureMasking",
    "FeatureScaling",
    "Flip",
    "Fuse",
    "GaussianDropout",
    "GnWs",
    "GroupNorm",
    "HeInit",
    "IdentityInit",
    "InverseTimeDecay",
    "JacobianPenalty",
    "LabelSmoothing",
    "LayerNorm",
    "LearningRate",
    "LogitSoftCap",
    "Lp",
    "LrScale",
    "LsuvInit",
    "Mixup",
    "Muon",
    "NaturalExpDecay",
    "Noise",
    "OneCycle",
    "OrthogonalInit",
    "OrthogonalPenalty",
    "RDrop",
    "RMSprop",
    "RandAugment",
    "RemoveRedundantBias",
    "RmsNorm",
    "Rotate",
    "ScaleInputs",
    "ScheduleFree",
    "SkipSpikes",
    "StandardizeInputs",
    "Standout",
    "SurrogateLoss",
    "Swa",
    "TimeMasking",
    "Translate",
    "Warmup",
    "WarmupStableDecay",
    "WeightDecay",
    "WhitenInputs",
    "XavierInit",
    "ZLoss",
    "Zclip",
    "ZeroInitResidual",
    "Zoneout",
    "Zoom",
]
