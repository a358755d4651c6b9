"""ONNX's conformance cases for normalization, run on our parts: what the standard says, from people who never saw our code."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from onnx import helper
from onnx.backend.test.loader import load_model_tests

import trimtab.nn as tn
from trimtab.nn import functional as F
from trimtab.nn.ops import common

Arrays = list[torch.Tensor]

# How many cases onnx 1.23 has of each. A newer onnx may have more: then run those too and raise the number.
CASES = {
    "BatchNormalization": 4,  # two of them in training mode
    "GroupNormalization": 2,
    "InstanceNormalization": 2,
    "LayerNormalization": 19,
    "LRN": 2,
    "MeanVarianceNormalization": 1,
    "RMSNormalization": 19,
}


@pytest.fixture(scope="module")
def cases() -> dict[str, list[Any]]:
    """The cases that are one node, by operator; ``*_expanded`` cases are the same numbers as graphs of primitive operators."""
    with warnings.catch_warnings():
        # onnx 1.23 makes its data here, for all operators, and means the infinities that numpy warns of
        warnings.simplefilter("ignore", RuntimeWarning)
        loaded = load_model_tests(kind="node")
    found: dict[str, list[Any]] = {name: [] for name in CASES}
    for case in loaded:
        nodes = case.model.graph.node
        if len(nodes) == 1 and nodes[0].op_type in found:
            found[nodes[0].op_type].append(case)
    return found


def batch_normalization(x, weight, bias, mean, variance, *, epsilon=1e-5, momentum=0.9, training_mode=0) -> Arrays:
    # ONNX's momentum is the share of the old value, and its running variance is the biased one
    part = tn.BatchNorm2d(x.shape[1], epsilon, 1 - momentum, unbiased=False).train(bool(training_mode))
    state = {"weight": weight, "bias": bias, "running_mean": mean, "running_var": variance}
    part.load_state_dict(state, strict=False)
    y = part(x)
    return [y, part.running_mean, part.running_var] if training_mode else [y]


def group_normalization(x, weight, bias, *, num_groups, epsilon=1e-5) -> Arrays:
    part = tn.GroupNorm(num_groups, x.shape[1], epsilon)
    part.load_state_dict({"weight": weight, "bias": bias})
    return [part(x)]


def instance_normalization(x, weight, bias, *, epsilon=1e-5) -> Arrays:
    part = tn.InstanceNorm2d(x.shape[1], epsilon, affine=True)
    part.load_state_dict({"weight": weight, "bias": bias})
    return [part(x)]


def layer_normalization(x, weight, bias, *, axis=-1, epsilon=1e-5) -> Arrays:
    part = tn.LayerNorm(x.shape[axis:], epsilon)
    part.load_state_dict({"weight": weight, "bias": bias})
    # ONNX also returns the statistics; our part keeps them to itself, so these two are the formula's, not ours
    axes = list(range(axis % x.dim(), x.dim()))
    variance, mean = torch.var_mean(x, axes, correction=0, keepdim=True)
    return [part(x), mean, (variance + epsilon).rsqrt()]


def rms_normalization(x, weight, *, axis=-1, epsilon=1e-5) -> Arrays:
    part = tn.RMSNorm(x.shape[axis:], epsilon)
    part.load_state_dict({"weight": weight})
    return [part(x)]


def lrn(x, *, size, alpha=1e-4, beta=0.75, bias=1.0) -> Arrays:
    return [tn.LocalResponseNorm(size, alpha, beta, bias)(x)]


def mean_variance_normalization(x) -> Arrays:
    # ONNX adds 1e-9 to the deviation; this much added to the variance is as little beside it
    return [F.batch_norm(x, None, None, training=True, eps=1e-18)]


RUN: dict[str, Callable[..., Arrays]] = {
    "BatchNormalization": batch_normalization,
    "GroupNormalization": group_normalization,
    "InstanceNormalization": instance_normalization,
    "LayerNormalization": layer_normalization,
    "LRN": lrn,
    "MeanVarianceNormalization": mean_variance_normalization,
    "RMSNormalization": rms_normalization,
}


@pytest.mark.parametrize("backend", ["kernels", "torch"])
@pytest.mark.parametrize("operator", CASES)
def test_every_case_of_the_operator(operator, backend, cases, subtests, monkeypatch):
    if backend == "torch":
        monkeypatch.setattr(common, "FORCED", "torch")
    else:  # the cases are so small that torch would do them
        monkeypatch.setattr(common, "SMALL", {kind: {} for kind in common.SMALL})
    assert len(cases[operator]) == CASES[operator]
    for case in cases[operator]:
        with subtests.test(case.name):
            (node,) = case.model.graph.node
            options = {one.name: helper.get_attribute_value(one) for one in node.attribute}
            assert len(case.data_sets) == 1
            inputs, wanted = case.data_sets[0]
            found = RUN[operator](*(torch.from_numpy(np.array(one)) for one in inputs), **options)
            assert len(found) == len(wanted) == len(node.output)
            for ours, theirs in zip(found, wanted, strict=True):
                assert tuple(ours.shape) == theirs.shape
                np.testing.assert_allclose(ours.detach().numpy(), theirs, rtol=case.rtol, atol=case.atol)


def test_no_norm_of_the_standard_is_left_out(cases):
    assert sum(map(len, cases.values())) == 49
    assert RUN.keys() == CASES.keys()
