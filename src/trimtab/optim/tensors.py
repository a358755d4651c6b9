"""The tensors of a model by name: taking copies of them and putting copies back."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

ModelOrTensors = nn.Module | Mapping[str, torch.Tensor]  # a model, or named tensors


def tensors_of(model: ModelOrTensors) -> dict[str, torch.Tensor]:
    """Parameters and buffers by name; tensors that are shared stand there once.

    >>> list(tensors_of(nn.BatchNorm1d(2)))
    ['weight', 'bias', 'running_mean', 'running_var', 'num_batches_tracked']
    """
    return (
        {**dict(model.named_parameters()), **dict(model.named_buffers())} if isinstance(model, nn.Module) else {**model}
    )


def copied(model: ModelOrTensors) -> dict[str, torch.Tensor]:
    """Copies of all parameters and buffers."""
    with torch.inference_mode(False):  # copies made inside inference mode could not be used outside it
        return {name: tensor.detach().clone() for name, tensor in tensors_of(model).items()}


def fitting(model: ModelOrTensors, values: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Those of the values for which the model has a tensor of that name and shape."""
    own = tensors_of(model)
    return {name: value for name, value in values.items() if name in own and own[name].shape == value.shape}


def write(model: ModelOrTensors, values: Mapping[str, torch.Tensor]) -> None:
    """Write the values into the model's tensors of the same names, in place.

    Raises:
        ValueError: if the model lacks one of them.
    """
    own = tensors_of(model)
    if missing := [name for name in values if name not in own]:
        raise ValueError(
            f"The model has no {', '.join(missing[:4])}{' ...' if len(missing) > 4 else ''}, of which values were kept. "
            "Put them back into the model they were taken from."
        )
    for name, value in values.items():
        # Through .data: a graph that still waits for its backward is not declared invalid. Who writes for a while only
        # (an average during an evaluation) has the old values back by then.
        own[name].data.copy_(value)
