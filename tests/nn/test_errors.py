"""The texts of errors of the norms: what must hold, what was given, what to do, where."""

from __future__ import annotations

import pytest
import torch

import trimtab.nn as tn
from trimtab.nn import functional as F
from trimtab.nn import ops

SET = "activation must be one of none, relu, gelu, gelu_tanh, silu."
SHARE = "is the probability of dropping an entry and must lie in [0, 1]."
ADDED = "They are added, so their shapes must be equal."


def of(*shape: int) -> torch.Tensor:
    return torch.ones(shape)


# fmt: off
MAKING = [
    (lambda: tn.BatchNorm2d(4, activation="swish"), f"BatchNorm2d(activation='swish'): {SET}"),
    (lambda: tn.InstanceNorm1d(4, activation="swish"), f"InstanceNorm1d(activation='swish'): {SET}"),
    (lambda: tn.LayerNorm(4, activation="ReLU"), f"LayerNorm(activation='ReLU'): {SET}"),
    (lambda: tn.RMSNorm(4, activation="swish"), f"RMSNorm(activation='swish'): {SET}"),
    (lambda: tn.GroupNorm(2, 4, activation="swish"), f"GroupNorm(activation='swish'): {SET}"),
    (lambda: tn.BatchNorm1d(4, dropout=1.5), f"BatchNorm1d(dropout=1.5): dropout {SHARE}"),
    (lambda: tn.InstanceNorm2d(4, dropout=-1), f"InstanceNorm2d(dropout=-1): dropout {SHARE}"),
    (lambda: tn.LayerNorm(4, dropout=1.5), f"LayerNorm(dropout=1.5): dropout {SHARE}"),
    (lambda: tn.RMSNorm(4, dropout=float("nan")), f"RMSNorm(dropout=nan): dropout {SHARE}"),
    (lambda: tn.GroupNorm(2, 4, dropout=2), f"GroupNorm(dropout=2): dropout {SHARE}"),
    (lambda: tn.AddLayerNorm(4, dropout=2), f"AddLayerNorm(dropout=2): dropout {SHARE}"),
    (lambda: tn.AddRMSNorm(4, dropout=2), f"AddRMSNorm(dropout=2): dropout {SHARE}"),
    (lambda: tn.Dropout(1.5), f"Dropout(p=1.5): p {SHARE}"),
    (lambda: tn.GroupNorm(4, 6), "GroupNorm(4, 6): num_channels must be a multiple of num_groups. 6 channels divide into 1, 2, 3, 6 groups."),
    (lambda: tn.GroupNorm(0, 7), "GroupNorm(0, 7): num_channels must be a multiple of num_groups. 7 channels divide into 1, 7 groups."),
    (lambda: tn.BatchNorm2d(4, statistics="mean"), "BatchNorm2d(statistics='mean'): statistics must be 'ema' or 'population'."),
    (lambda: tn.BatchNorm2d(4, statistics="population", track_running_stats=False), "BatchNorm2d(statistics='population', track_running_stats=False): population statistics are running statistics, of all batches: leave track_running_stats=True."),
    (lambda: tn.GhostBatchNorm1d(4, 2, statistics="population", momentum=(0.1, 0.5)), "GhostBatchNorm1d(statistics='population', momentum=(0.1, 0.5)): every batch counts the same in the mean of all, so that there is no momentum. Leave it out, or use statistics='ema'."),
    (lambda: tn.BatchNorm2d(4, track_running_stats=False, frozen=True), "BatchNorm2d(frozen=True, track_running_stats=False): a frozen norm uses running statistics."),
    (lambda: tn.BatchNorm2d(4, units=[1, 4]), "BatchNorm2d(4, units=(1, 4)): units must be channel numbers below 4."),
    (lambda: tn.LayerNorm((3, 4), channels_first=True), "LayerNorm((3, 4), channels_first=True): the norm is over the channels alone, so normalized_shape must be one number, that of the channels."),
    (lambda: tn.AddLayerNorm((3, 4)), "AddLayerNorm((3, 4)): normalized_shape must be one number, the last dimension."),
    (lambda: tn.AddRMSNorm((3, 4)), "AddRMSNorm((3, 4)): normalized_shape must be one number, the last dimension."),
]

DIMENSIONS = [
    (lambda: tn.BatchNorm2d(4)(of(2, 4)), "BatchNorm2d got an input of shape (2, 4). It must have 4 dimensions: (N, C, H, W). Did you mean BatchNorm1d?"),
    (lambda: tn.BatchNorm1d(4)(of(2, 4, 5, 5)), "BatchNorm1d got an input of shape (2, 4, 5, 5). It must have 2 or 3 dimensions: (N, C) or (N, C, L). Did you mean BatchNorm2d?"),
    (lambda: tn.BatchNorm3d(4)(of(4)), "BatchNorm3d got an input of shape (4,). It must have 5 dimensions: (N, C, D, H, W)."),
    (lambda: tn.BatchNorm3d(4)(of(2, 4, 5, 5, 5, 5)), "BatchNorm3d got an input of shape (2, 4, 5, 5, 5, 5). It must have 5 dimensions: (N, C, D, H, W)."),
    (lambda: tn.InstanceNorm2d(4)(of(2, 4, 5, 5, 5)), "InstanceNorm2d got an input of shape (2, 4, 5, 5, 5). It must have 4 dimensions: (N, C, H, W). Did you mean InstanceNorm3d?"),
    (lambda: tn.InstanceNorm2d(4)(of(2, 4)), "InstanceNorm2d got an input of shape (2, 4). It must have 4 dimensions: (N, C, H, W)."),
    (lambda: tn.LocalResponseNorm(3)(of(2, 4)), "local_response_norm got an input of shape (2, 4). It must be (N, C, ...), with 3 dimensions or more."),
    (lambda: F.batch_norm(of(4), None, None, training=True), "batch_norm got an input of shape (4,). It must be (N, C, ...), with 2 dimensions or more."),
    (lambda: F.group_norm(of(4), 2), "group_norm got an input of shape (4,). It must be (N, C, ...), with 2 dimensions or more."),
    (lambda: F.instance_norm(of(4, 4)), "instance_norm got an input of shape (4, 4). It must be (N, C, ...), with 3 dimensions or more."),
    (lambda: tn.LayerNorm(6)(torch.tensor(1.0)), "LayerNorm(6) got an input of shape (). Its last dimensions must equal normalized_shape."),
]

CHANNELS = [
    (lambda: tn.BatchNorm2d(4)(of(2, 3, 5, 5)), "BatchNorm2d(4) got an input of shape (2, 3, 5, 5), which has 3 channels. The second dimension must equal num_features. Did you mean BatchNorm2d(3)?"),
    (lambda: tn.BatchNorm1d(4)(of(2, 9, 4)), "BatchNorm1d(4) got an input of shape (2, 9, 4), which has 9 channels. The second dimension must equal num_features. Did you mean BatchNorm1d(9)? Or do the channels stand last, where there are 4? Then give it input.movedim(-1, 1)."),
    (lambda: tn.InstanceNorm1d(4)(of(2, 3, 5)), "InstanceNorm1d(4) got an input of shape (2, 3, 5), which has 3 channels. The second dimension must equal num_features. Did you mean InstanceNorm1d(3)?"),
    (lambda: tn.GroupNorm(2, 6)(of(2, 4, 5)), "GroupNorm(2, 6) got an input of shape (2, 4, 5). It must be (N, 6, ...). Did you mean GroupNorm(2, 4)?"),
    (lambda: tn.GroupNorm(2, 6)(of(2, 5, 8, 6)), "GroupNorm(2, 6) got an input of shape (2, 5, 8, 6). It must be (N, 6, ...). Did you mean GroupNorm(1, 5)? Or do the channels stand last, where there are 6? Then give it input.movedim(-1, 1)."),
    (lambda: tn.GroupNorm(2, 6)(of(6)), "GroupNorm(2, 6) got an input of shape (6,). It must be (N, 6, ...)."),
    (lambda: F.group_norm(of(2, 6, 3), 4), "group_norm(num_groups=4) got an input of shape (2, 6, 3). Its second dimension, the channels, must be a multiple of num_groups. 6 channels divide into 1, 2, 3, 6 groups."),
    (lambda: F.group_norm(of(2, 6, 3), 0), "group_norm(num_groups=0) got an input of shape (2, 6, 3). Its second dimension, the channels, must be a multiple of num_groups. 6 channels divide into 1, 2, 3, 6 groups."),
    (lambda: tn.LayerNorm(256)(of(2, 128)), "LayerNorm(256) got an input of shape (2, 128). Its last dimensions must equal normalized_shape. Did you mean LayerNorm(128)?"),
    (lambda: tn.LayerNorm((3, 4))(of(2, 5, 4)), "LayerNorm((3, 4)) got an input of shape (2, 5, 4). Its last dimensions must equal normalized_shape. Did you mean LayerNorm((5, 4))?"),
    (lambda: tn.LayerNorm(6, channels_first=True)(of(2, 5, 7, 6)), "LayerNorm(6, channels_first=True) got an input of shape (2, 5, 7, 6). It must be (N, 6, ...). Did you mean LayerNorm(5, channels_first=True)? Or do the channels stand last, where there are 6? Then give it input.movedim(-1, 1)."),
    (lambda: tn.LayerNorm(6, channels_first=True)(of(6)), "LayerNorm(6, channels_first=True) got an input of shape (6,). It must be (N, 6, ...)."),
    (lambda: tn.RMSNorm(256)(of(2, 128)), "RMSNorm(256) got an input of shape (2, 128). Its last dimensions must equal normalized_shape. Did you mean RMSNorm(128)?"),
    (lambda: tn.AddLayerNorm(256)(of(2, 128), of(2, 128)), "AddLayerNorm(256) got an input of shape (2, 128). Its last dimensions must equal normalized_shape. Did you mean AddLayerNorm(128)?"),
    (lambda: tn.AddRMSNorm(256)(of(2, 128), of(2, 128)), "AddRMSNorm(256) got an input of shape (2, 128). Its last dimensions must equal normalized_shape. Did you mean AddRMSNorm(128)?"),
    (lambda: F.layer_norm(of(2, 128), (256,)), "layer_norm(input, (256,)) got an input of shape (2, 128). Its last dimensions must equal normalized_shape. Did you mean layer_norm(input, (128,))?"),
    (lambda: F.rms_norm(of(2, 5, 4), (3, 4)), "rms_norm(input, (3, 4)) got an input of shape (2, 5, 4). Its last dimensions must equal normalized_shape. Did you mean rms_norm(input, (5, 4))?"),
]

TOGETHER = [
    (lambda: tn.BatchNorm2d(3)(of(2, 3, 4, 4), of(2, 3, 4, 5)), f"BatchNorm2d got an input of shape (2, 3, 4, 4) and a residual of shape (2, 3, 4, 5). {ADDED}"),
    (lambda: tn.LayerNorm(4)(of(2, 4), of(4)), f"LayerNorm got an input of shape (2, 4) and a residual of shape (4,). {ADDED} To broadcast it, give residual.expand_as(input)."),
    (lambda: tn.LayerNorm(4, channels_first=True)(of(2, 4, 5), of(2, 5, 4)), f"LayerNorm got an input of shape (2, 4, 5) and a residual of shape (2, 5, 4). {ADDED}"),
    (lambda: tn.RMSNorm(4)(of(2, 4), of(2, 3, 4)), f"RMSNorm got an input of shape (2, 4) and a residual of shape (2, 3, 4). {ADDED}"),
    (lambda: tn.GroupNorm(2, 4)(of(2, 4, 3), of(1, 4, 3)), f"GroupNorm got an input of shape (2, 4, 3) and a residual of shape (1, 4, 3). {ADDED} To broadcast it, give residual.expand_as(input)."),
    (lambda: tn.InstanceNorm1d(4)(of(2, 4, 3), of(2, 4, 2)), f"InstanceNorm1d got an input of shape (2, 4, 3) and a residual of shape (2, 4, 2). {ADDED}"),
    (lambda: tn.AddLayerNorm(4)(of(2, 4), of(3, 4)), f"AddLayerNorm got an input of shape (2, 4) and a residual of shape (3, 4). {ADDED}"),
    (lambda: tn.AddRMSNorm(4)(of(2, 4), of(3, 4)), f"AddRMSNorm got an input of shape (2, 4) and a residual of shape (3, 4). {ADDED}"),
    (lambda: tn.BatchNorm1d(3)(of(2, 3, 4), mask=of(2, 3).bool()), "BatchNorm1d got an input of shape (2, 3, 4) and a mask of shape (2, 3). The mask says which positions count: its shape must be (2, 4)."),
    (lambda: tn.BatchNorm1d(3)(of(2, 3, 4), mask=of(2, 4)), "BatchNorm1d got a mask of type float32. The mask says which positions count and must be of bools: mask.bool()."),
]

# kernels read memory by address: what does not fit must not reach them
ENTRIES = [
    (lambda: F.batch_norm(of(4, 5), None, None, of(2), training=True), "batch_norm got an input of shape (4, 5) and a weight of shape (2,). The shape of the weight must be (5,)."),
    (lambda: F.batch_norm(of(4, 5), of(5), of(3)), "batch_norm got an input of shape (4, 5) and a running_var of shape (3,). The shape of the running_var must be (5,)."),
    (lambda: F.layer_norm(of(4, 5), (5,), of(3), activation="relu"), "layer_norm got an input of shape (4, 5) and a weight of shape (3,). The shape of the weight must be (5,)."),
    (lambda: F.layer_norm(of(4, 3, 5), (3, 5), of(3, 5), of(15), activation="relu"), "layer_norm got an input of shape (4, 3, 5) and a bias of shape (15,). The shape of the bias must be (3, 5)."),
    (lambda: F.rms_norm(of(4, 5), (5,), of(1)), "rms_norm got an input of shape (4, 5) and a weight of shape (1,). The shape of the weight must be (5,)."),
    (lambda: F.group_norm(of(4, 6, 3), 2, of(2)), "group_norm got an input of shape (4, 6, 3) and a weight of shape (2,). The shape of the weight must be (6,)."),
    (lambda: F.instance_norm(of(4, 6, 3), bias=of(3)), "instance_norm got an input of shape (4, 6, 3) and a bias of shape (3,). The shape of the bias must be (6,)."),
]

VALUES = [
    (lambda: tn.BatchNorm1d(4)(of(1, 4)), "batch_norm got a batch of shape (1, 4), one value per channel, whose variance is 0. While training it needs more than one: use a larger batch (drop_last=True in the loader), or a norm that does not look at the batch, such as GroupNorm or LayerNorm."),
    (lambda: tn.BatchNorm2d(4)(of(1, 4, 1, 1)), "batch_norm got a batch of shape (1, 4, 1, 1), one value per channel, whose variance is 0. While training it needs more than one: use a larger batch (drop_last=True in the loader), or a norm that does not look at the batch, such as GroupNorm or LayerNorm."),
    (lambda: tn.InstanceNorm2d(4)(of(3, 4, 1, 1)), "instance_norm got an input of shape (3, 4, 1, 1), one value per channel and sample, whose variance is 0. It needs more than one position: leave it out where maps have shrunk to one, or use GroupNorm there."),
    (lambda: F.batch_norm(of(4, 5), None, None), "batch_norm(training=False) needs running_mean and running_var: the statistics to normalize with."),
    (lambda: F.instance_norm(of(4, 5, 3), use_input_stats=False), "instance_norm(use_input_stats=False) needs running_mean and running_var to normalize with."),
    (lambda: F.local_response_norm(of(2, 4, 3), 0), "local_response_norm(size=0): size is a number of channels and must be a whole number, 1 or more."),
    (lambda: F.batch_norm(of(4, 5), of(5), of(5), activation="tanh"), f"batch_norm(activation='tanh'): {SET}"),
    (lambda: F.layer_norm(of(4, 5), (5,), activation="tanh"), f"layer_norm(activation='tanh'): {SET}"),
    (lambda: F.rms_norm(of(4, 5), (5,), dropout=2), f"rms_norm(dropout=2): dropout {SHARE}"),
    (lambda: F.group_norm(of(4, 6), 2, activation="tanh"), f"group_norm(activation='tanh'): {SET}"),
    (lambda: F.instance_norm(of(4, 6, 2), dropout=2), f"instance_norm(dropout=2): dropout {SHARE}"),
    (lambda: F.dropout(of(3), -0.5), f"dropout(p=-0.5): p {SHARE}"),
    (lambda: F.local_response_norm(of(2, 4, 3).long(), 2), "local_response_norm must get floating-point numbers, and got an input of type torch.int64. Convert it first: input.float()."),
    (lambda: tn.DynamicTanh(3)(of(2, 3).long()), "dynamic_tanh must get floating-point numbers, and got an input of type torch.int64. Convert it first: input.float()."),
    (lambda: ops.group_norm(of(2, 4, 3), 0), "groups=0 must divide the 4 channels of the input."),
    (lambda: ops.group_norm(of(2, 4, 3), 3), "groups=3 must divide the 4 channels of the input."),
]
# fmt: on


@pytest.mark.parametrize(
    ("wrong", "told"),
    [pytest.param(*case, id=case[1][:50]) for case in MAKING + DIMENSIONS + CHANNELS + TOGETHER + ENTRIES + VALUES],
)
def test_what_is_wrong_is_told(wrong, told):
    with pytest.raises(ValueError) as caught:
        wrong()
    assert str(caught.value) == told


def test_entries_that_do_not_fit_are_refused_at_any_size():
    """Small plain norms are torch's, which has words of its own for it; large ones are ours."""
    for rows in (4, 100_000):
        for wrong in (of(3), of(7)):
            with pytest.raises((ValueError, RuntimeError)):
                F.layer_norm(of(rows, 5), (5,), wrong)
            with pytest.raises((ValueError, RuntimeError)):
                F.batch_norm(of(rows, 5), None, None, wrong, training=True)


def test_what_comes_with_the_message_is_right():
    """The advice in the messages, followed."""
    tn.GroupNorm(1, 5)(of(2, 5, 8, 6))
    tn.BatchNorm1d(4)(of(2, 9, 4).movedim(-1, 1))
    tn.LayerNorm(4)(of(2, 4), of(4).expand_as(of(2, 4)))
    tn.BatchNorm1d(3)(of(2, 3, 4), mask=of(2, 4).bool())
    F.layer_norm(of(2, 128), (128,))
    tn.BatchNorm1d(4).eval()(of(1, 4))


def test_an_empty_batch_is_no_error():
    assert tn.InstanceNorm2d(4)(of(0, 4, 3, 3)).shape == (0, 4, 3, 3)
    assert tn.LayerNorm(4)(of(0, 4)).shape == (0, 4)
