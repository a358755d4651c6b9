"""What optimizers of torch lack: penalties, constraints, decay, averages of weights, and when to stop."""

from trimtab.optim.adadelta import Adadelta, WindowAdadelta
from trimtab.optim.adagrad import Adagrad
from trimtab.optim.adam import Adam, AdamW
from trimtab.optim.adaptive_clipping import ZClip, clip_grad_adaptive_
from trimtab.optim.averaging import EMA, SWA
from trimtab.optim.clip_stats import ClipStats
from trimtab.optim.clipping import clip_grad_norm_, clip_grad_value_
from trimtab.optim.constraints import (
    l1_ball_,
    l2_ball_,
    linf_ball_,
    max_norm_,
    non_negative_,
    simplex_,
    unit_norm_,
)
from trimtab.optim.early_stopping import EarlyStopping
from trimtab.optim.lagrangian import Lagrangian
from trimtab.optim.newton import Newton, SaddleFreeNewton
from trimtab.optim.noise_scale import gradient_noise_scale
from trimtab.optim.optimizer import Optimizer
from trimtab.optim.penalties import (
    add_penalty_gradient_,
    elastic_net_penalty,
    l1_penalty,
    l2_penalty,
    lp_penalty,
    prior_of_l1,
    prior_of_l2,
    proximal_step_,
)
from trimtab.optim.range_test import RangeTest, lr_range_test
from trimtab.optim.rmsprop import RMSprop
from trimtab.optim.sam import SAM
from trimtab.optim.schedules import (
    Cosine,
    Exponential,
    InverseTime,
    NaturalExponential,
    OneCycle,
    Warmup,
    WarmupStableDecay,
)
from trimtab.optim.sgd import SGD
from trimtab.optim.spikes import SpikeGuard
from trimtab.optim.weight_decay import weight_decay_
from trimtab.untouched import unchanged

__all__ = [
    "EMA",
    "SAM",
    "SGD",
    "SWA",
    "Adadelta",
    "Adagrad",
    "Adam",
    "AdamW",
    "ClipStats",
    "Cosine",
    "EarlyStopping",
    "Exponential",
    "InverseTime",
    "Lagrangian",
    "NaturalExponential",
    "Newton",
    "OneCycle",
    "Optimizer",
    "RMSprop",
    "RangeTest",
    "SaddleFreeNewton",
    "SpikeGuard",
    "Warmup",
    "WarmupStableDecay",
    "WindowAdadelta",
    "ZClip",
    "add_penalty_gradient_",
    "clip_grad_adaptive_",
    "clip_grad_norm_",
    "clip_grad_value_",
    "elastic_net_penalty",
    "gradient_noise_scale",
    "l1_ball_",
    "l1_penalty",
    "l2_ball_",
    "l2_penalty",
    "linf_ball_",
    "lp_penalty",
    "lr_range_test",
    "max_norm_",
    "non_negative_",
    "prior_of_l1",
    "prior_of_l2",
    "proximal_step_",
    "simplex_",
    "unchanged",
    "unit_norm_",
    "weight_decay_",
]
