"""What optimizers of torch lack: penalties, constraints, decay, averages of weights, and when to stop."""

from trimtab.optim.adam import Adam, AdamW
from trimtab.optim.averaging import EMA, SWA
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
from trimtab.optim.sgd import SGD
from trimtab.optim.weight_decay import weight_decay_

__all__ = [
    "EMA",
    "SGD",
    "SWA",
    "Adam",
    "AdamW",
    "EarlyStopping",
    "Lagrangian",
    "Optimizer",
    "add_penalty_gradient_",
    "elastic_net_penalty",
    "l1_ball_",
    "l1_penalty",
    "l2_ball_",
    "l2_penalty",
    "linf_ball_",
    "lp_penalty",
    "max_norm_",
    "non_negative_",
    "prior_of_l1",
    "prior_of_l2",
    "proximal_step_",
    "simplex_",
    "unit_norm_",
    "weight_decay_",
]
