"""Folding batch normalization into the layer before it, for inference."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils import parametrize
from torch.nn.utils.fusion import fuse_conv_bn_weights, fuse_linear_bn_weights

from trimtab.copies import copied_module
from trimtab.graph import ModelGraph, follow

GROUP = "normalization"
_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "none": nn.Identity,
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "gelu_tanh": lambda: nn.GELU("tanh"),
    "silu": nn.SiLU,
}


def fold_batch_norm(model: nn.Module) -> nn.Module:
    r"""A copy of the model, in evaluation mode, whose BatchNorms are part of the layers before them.

    .. math:: W' = \frac{\gamma}{\sqrt{\sigma^2 + \epsilon}} W, \qquad b' = \beta + \frac{\gamma}{\sqrt{\sigma^2 + \epsilon}} (b - \mu)

    per output channel, with the running statistics :math:`\mu, \sigma^2`. The copy computes what ``model.eval()`` computes, up to
    rounding, with one pass over memory less for each norm. Linear, Conv1d to Conv3d and transposed convolutions take a
    norm up when their output goes into it and nowhere else; that is read from the model's code (``torch.fx``), container by container
    where the whole cannot be followed. An ``Identity`` stays in the norm's place, or the activation that one of
    our norms has in the same pass. A norm that a technique (``batch_norm``) hung on a layer goes away altogether, and the state_dict
    is that of the network before. Parametrizations (weight standardization) of these layers are baked in.

    Args:
        model: as trained; it is not changed.

    Raises:
        ValueError: when no norm could be folded.

    Warns:
        UserWarning: naming the norms that stay, with the reasons.

    When it helps: inference with convolutional networks, export, quantization. When it hurts: the copy is not for training.

    Source: Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference",
    CVPR 2018, section 3.2.

    >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU()).eval()
    >>> folded = fold_batch_norm(model)
    >>> folded[1]
    Identity()
    >>> x = torch.randn(2, 3, 8, 8)
    >>> torch.allclose(folded(x), model(x), atol=1e-5)
    True
    """
    folded = copied_module(model).eval()
    flow, done, left = follow(folded), 0, []
    for layer in list(folded.modules()):
        if isinstance(layer, (nn.Linear, _ConvNd)):
            done += _fold_hung(layer)
    for name, norm in list(folded.named_modules()):
        if not isinstance(norm, _BatchNorm):
            continue
        layer = _layer_before(flow, norm)
        why_not = layer if isinstance(layer, str) else _why_not(layer, norm)
        if why_not:
            left.append(f"{name or 'the model'}: {why_not}")
            continue
        _fuse(layer, norm)
        _replace(folded, norm, _ACTIVATIONS[getattr(norm, "activation", "none")]())
        done += 1
    if not done:
        raise ValueError(f"fold_batch_norm found nothing to fold. {' '.join(left) or 'The model has no BatchNorm.'}")
    if left:
        warnings.warn(f"fold_batch_norm left {len(left)} norms in the model. {' '.join(left)}", stacklevel=2)
    return folded


def _layer_before(flow: ModelGraph, norm: nn.Module) -> Any:
    call = flow.call(norm)
    if call is None:
        return "the code that calls it could not be followed, or calls it more than once."
    source = call.source()
    layer = call.scope.module(source)
    if source is None or not isinstance(layer, (nn.Linear, _ConvNd)):
        return "what comes before it is no linear or convolution layer."
    if flow.call(layer) is None or len(source.users) != 1:
        return "the layer before it is used elsewhere too."
    if len(call.node.all_input_nodes) != 1:
        return "it adds a residual."
    return layer


def _why_not(layer: Any, norm: Any, own_hooks: int = 0) -> str:
    if norm.running_mean is None or norm.running_var is None:
        return "it has no running statistics."
    if getattr(norm, "units", None) is not None:
        return "it normalizes only some of its channels."
    if norm.num_features != _outputs(layer):
        return f"it has {norm.num_features} channels, and the layer before it {_outputs(layer)}."
    if layer._forward_pre_hooks or len(layer._forward_hooks) > own_hooks:
        return "the layer before it has forward hooks, which may change its weight or output."
    if norm._forward_pre_hooks or norm._forward_hooks:
        return "it has forward hooks, which would go away with it."
    return ""


def _outputs(layer: Any) -> int:
    return int(getattr(layer, "out_features" if isinstance(layer, nn.Linear) else "out_channels"))


@torch.no_grad()
def _fuse(layer: Any, norm: Any) -> None:
    if parametrize.is_parametrized(layer):
        # Not remove_parametrizations: it takes the property off the class, which the copy shares with the original.
        values = {name: getattr(layer, name) for name in layer.parametrizations}
        layer.__class__ = parametrize.type_before_parametrizations(layer)
        del layer._modules["parametrizations"]
        for name, value in values.items():
            layer.register_parameter(name, nn.Parameter(value.detach().clone()))
    statistics = (norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias)
    weight, bias = layer.weight, layer.bias
    if isinstance(layer, nn.Linear):
        weight, bias = fuse_linear_bn_weights(weight, bias, *statistics)
    elif not layer.transposed:
        weight, bias = fuse_conv_bn_weights(weight, bias, *statistics)
    else:
        # (in, out / groups, ...) becomes (out, in / groups, ...), which torch's function then takes as a plain convolution
        groups, shape = layer.groups, weight.shape
        rows = weight.view(groups, shape[0] // groups, *shape[1:]).transpose(1, 2)
        fused, bias = fuse_conv_bn_weights(rows.reshape(-1, *rows.shape[2:]), bias, *statistics)
        weight = nn.Parameter(fused.view(rows.shape).transpose(1, 2).reshape(shape).contiguous())
    layer.weight = nn.Parameter(weight.detach().to(layer.weight.dtype), layer.weight.requires_grad)
    layer.bias = nn.Parameter(bias.detach().to(layer.weight.dtype), layer.weight.requires_grad)


def _replace(model: nn.Module, old: nn.Module, new: nn.Module) -> None:
    for parent in model.modules():
        for slot, child in parent._modules.items():
            if child is old:
                parent._modules[slot] = new


def _owner(layer: nn.Module) -> tuple[int, Any] | None:
    """The hook with which a technique calls a BatchNorm that it hung on the layer: its key, and what it belongs to."""
    for key, hook in layer._forward_hooks.items():
        owner = getattr(hook, "__self__", None)
        norm = layer._modules.get(str(getattr(owner, "child", "")))
        if isinstance(norm, _BatchNorm):
            return key, owner
    return None


def _fold_hung(layer: Any) -> int:
    """Fold what hangs on the layer itself, if it is the only thing that does."""
    hung = _owner(layer)
    if hung is None:
        return 0
    key, owner = hung
    norm = layer._modules[owner.child]
    if _why_not(layer, norm, own_hooks=1) or getattr(norm, "activation", "none") != "none":
        return 0
    del layer._forward_hooks[key], layer._modules[owner.child]
    _fuse(layer, norm)
    return 1
