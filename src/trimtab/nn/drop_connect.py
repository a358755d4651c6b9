"""DropConnect: dropout of weights."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from trimtab.nn import ops
from trimtab.nn.checks import check_activation, check_count, check_number
from trimtab.nn.draws import OwnGenerator, check_choice, check_generator
from trimtab.nn.ops.common import hashes

GROUP = "regularization"
INFERENCE = ("moment_matching", "weight_scaling")
SCALING = ("original", "inverted")

Activation = str | Callable[[torch.Tensor], torch.Tensor]


def check_drop_connect(part: str, p: float) -> None:
    """Refuse a p outside [0, 1)."""
    check_number(part, "p", p, "[0, 1)", "is the probability of dropping a weight")


class DropConnectMask(OwnGenerator, nn.Module):
    """Drops entries of weights while training, and divides the others by 1 - p. All masks of a call come from one key."""

    def __init__(self, p: float, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.p, self.generator = p, generator

    def forward(self, *weights: torch.Tensor | None) -> tuple[Any, ...]:
        if not self.training or self.p == 0:
            return weights
        key = self.draw_key()
        return tuple(None if w is None else ops.dropout(w, self.p, key + place) for place, w in enumerate(weights))

    def extra_repr(self) -> str:
        return f"p={self.p}"


def _normals(samples: int, units: int, like: torch.Tensor) -> torch.Tensor:
    """Draws from N(0, 1), (samples, units), the same in every call: each unit takes the quantiles of the normal in an order of its own,
    a Latin hypercube, whose mean over the draws is far nearer to the expectation than that of free ones."""
    at = (torch.arange(samples, device=like.device, dtype=torch.float64) + 0.5) / samples
    quantiles = torch.special.ndtri(at)
    quantiles = quantiles / quantiles.square().mean().sqrt().clamp(
        min=1e-6
    )  # of variance 1, though the tails are missing
    key = torch.zeros(1, dtype=torch.int64)
    order = hashes(units * samples, key, like.device).view(units, samples).argsort(-1)
    return quantiles.to(like.dtype)[order].T


class _DropConnect(nn.Module):
    """What linear layers and convolutions share: torch's layer, with masks on its weight and bias."""

    weight: Any
    bias: Any
    _units: tuple[int, ...] = (-1,)  # the shape of one number for each unit beside an output

    def _set_up(
        self,
        p: float,
        activation: Activation,
        inference: str,
        samples: int,
        scaling: str,
        generator: torch.Generator | None,
    ) -> None:
        part = type(self).__name__
        check_drop_connect(part, p)
        check_choice(part, "inference", inference, INFERENCE)
        check_choice(part, "scaling", scaling, SCALING)
        check_activation(part, activation, or_function=True)
        check_count(part, "samples", samples, 1, "is the number of values for each output in evaluation")
        check_generator(part, generator)
        self.activation, self.inference, self.samples, self.scaling = activation, inference, samples, scaling
        self.mask = DropConnectMask(p, generator)

    @property
    def p(self) -> float:
        return self.mask.p

    @property
    def _mean(self) -> float:
        """Of what a weight is multiplied by."""
        return 1.0 if self.scaling == "inverted" else 1 - self.p

    def _map(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        raise NotImplementedError

    def _masked(self, x: torch.Tensor) -> torch.Tensor:
        """The summed inputs under one mask."""
        return self._map(x, *self.mask(self.weight, self.bias))

    def moments(self, input: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and variance of the summed inputs over all masks, each of the output's shape."""
        mean = self._mean * self._map(input, self.weight, self.bias)
        bias = None if self.bias is None else self.bias.square()
        factor = self._mean**2 * self.p / (1 - self.p)
        return mean, factor * self._map(input.square(), self.weight.square(), bias)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        f = ops.ACTIVATIONS[self.activation] if isinstance(self.activation, str) else self.activation
        if self.mask.training:
            return f(self._mean * self._masked(input))  # the mask has divided by 1 - p
        if self.inference == "weight_scaling" or self.activation == "none" or self.p == 0:
            return f(self._mean * self._map(input, self.weight, self.bias))
        mean, variance = self.moments(input)
        deviation = variance.clamp_min(torch.finfo(variance.dtype).tiny).sqrt()  # the root has no gradient at 0
        draws = _normals(self.samples, len(self.weight), mean).unflatten(1, self._units)
        total = torch.zeros_like(mean, dtype=torch.promote_types(mean.dtype, torch.float32))
        for draw in draws:
            total = total + f(mean + deviation * draw)
        return (total / self.samples).to(mean.dtype)

    def extra_repr(self) -> str:
        f = self.activation if isinstance(self.activation, str) else type(self.activation).__name__
        return f"{super().extra_repr()}, activation={f}, inference={self.inference}, scaling={self.scaling}"


class DropConnectLinear(_DropConnect, nn.Linear):
    r"""A linear layer whose weights and biases are dropped at random while training, and the activation that follows.

    .. math::
        \text{train:} \quad y &= f((W \odot M) x + b \odot m), \qquad M_{ij}, m_i \sim \mathrm{Bernoulli}(1 - p) \\
        \text{evaluation:} \quad y &= \frac1Z \sum_{z=1}^Z f(u_z), \qquad
        u_z \sim \mathcal N\big((1-p)(W x + b),\ p (1-p) ((W \odot W)(x \odot x) + b \odot b)\big)

    with x of shape (..., in_features), W of shape (out_features, in_features), and y of shape (..., out_features). The
    sum over many masked weights is nearly normal, with exactly these moments, so that evaluation averages the *outputs*
    of Z sub-networks; ``inference="weight_scaling"`` puts the mean through instead, ``y = f((1-p)(W x + b))``. Where f is the
    identity the two are one. The Z values of :math:`(u_z - \mu)/\sigma` are always the same, quantiles of the normal in an order that
    differs from unit to unit, so that evaluation draws from no generator and gives the same result every time.

    A drop-in for ``torch.nn.Linear``: same arguments, same keys of ``state_dict``. ``p`` is the probability of *dropping*;
    003's (and the paper's) p keeps. 003 multiplies f(W x) by the mean of f(u), which would apply f twice; here the mean is
    the output, as in the paper. The paper does not rescale while training, and neither does the default,
    ``scaling="original"``: a trained ``torch.nn.Linear`` of the same weights gives 1 / (1 - p) times as much in evaluation.
    ``"inverted"`` divides masked weights by 1 - p, as torch's dropout, fastai's WeightDropout, :class:`DropConnectLSTM` and the
    technique ``drop_connect`` do: then moments are ``W x + b`` and ``p / (1-p) (...)``, and weight scaling is the plain layer.
    What EfficientNet, timm and Keras models call ``drop_connect`` drops whole residual branches of a sample: that is DropPath.

    Args:
        in_features, out_features, bias, device, dtype: as in torch.
        p: probability of dropping a weight, 0 <= p < 1.
        activation: f, the activation that follows, applied here: "none", "relu", "gelu", "gelu_tanh", "silu", or a function.
        inference: "moment_matching" or "weight_scaling".
        samples: Z, the number of values for each output in evaluation.
        scaling: "original", masked weights as they are, or "inverted", divided by 1 - p.
        per_sample: draw a mask for each sample (each index of the first dimension), as the paper does, instead of one for the
            batch. It takes N times the memory of the weight.
        generator: source of masks; torch's global generator if ``None``. A CPU generator serves every device.

    Raises:
        ValueError: for a p outside [0, 1), fewer than one sample, and unknown choices.

    When it helps: fully connected layers with many weights that fit their training set and generalize worse. When it hurts:
    networks that do not even fit it, and time: evaluation costs two products and Z activations. Good first
    setting: p = 0.5 (the paper).

    Source: Wan et al., "Regularization of Neural Networks using DropConnect", ICML 2013; seeds 003, 004.

    >>> layer = DropConnectLinear(4, 3, activation="relu", generator=torch.Generator().manual_seed(0))
    >>> layer.load_state_dict(torch.nn.Linear(4, 3).state_dict())
    <All keys matched successfully>
    >>> layer(torch.ones(2, 4)).shape, layer.eval()(torch.ones(2, 4)).shape
    (torch.Size([2, 3]), torch.Size([2, 3]))
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
        *,
        p: float = 0.5,
        activation: Activation = "none",
        inference: str = "moment_matching",
        samples: int = 100,
        scaling: str = "original",
        per_sample: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(in_features, out_features, bias, device, dtype)
        self._set_up(p, activation, inference, samples, scaling, generator)
        self.per_sample = per_sample

    def _map(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        return F.linear(x, weight, bias)

    def _masked(self, x: torch.Tensor) -> torch.Tensor:
        if not self.per_sample:
            return super()._masked(x)
        n = x.shape[0] if x.dim() > 1 else 1
        rows = x.reshape(n, -1, self.in_features)
        weight, bias = self.mask(
            self.weight.expand(n, -1, -1), None if self.bias is None else self.bias.expand(n, 1, -1)
        )
        summed = rows @ weight.mT if bias is None else torch.baddbmm(bias, rows, weight.mT)
        return summed.reshape(*x.shape[:-1], self.out_features)


class _DropConnectConv(_DropConnect):
    def __init__(
        self,
        *args: Any,
        p: float = 0.5,
        activation: Activation = "none",
        inference: str = "moment_matching",
        samples: int = 100,
        scaling: str = "original",
        generator: torch.Generator | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self._set_up(p, activation, inference, samples, scaling, generator)
        self._units = (-1, *(1 for _ in self.kernel_size))  # type: ignore[union-attr]

    def _map(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        return self._conv_forward(x, weight, bias)  # type: ignore[operator]


class DropConnectConv1d(_DropConnectConv, nn.Conv1d):
    """``torch.nn.Conv1d`` with DropConnect: one mask on its kernel for the batch and all places.

    Arguments are those of torch, then those of :class:`DropConnectLinear` (without ``per_sample``) by keyword. In evaluation each
    output has its own moments, which are exact, and all places of a channel the same Z values.
    See :class:`DropConnectLinear`.

    >>> DropConnectConv1d(3, 8, 5, p=0.2)(torch.randn(2, 3, 16)).shape
    torch.Size([2, 8, 12])
    """


class DropConnectConv2d(_DropConnectConv, nn.Conv2d):
    """``torch.nn.Conv2d`` with DropConnect, as in one dimension. See :class:`DropConnectLinear`.

    >>> DropConnectConv2d(3, 8, 3, p=0.2, activation="relu")(torch.randn(2, 3, 9, 9)).shape
    torch.Size([2, 8, 7, 7])
    """


class DropConnectConv3d(_DropConnectConv, nn.Conv3d):
    """``torch.nn.Conv3d`` with DropConnect, as in one dimension. See :class:`DropConnectLinear`.

    >>> DropConnectConv3d(1, 2, 3, p=0.2)(torch.randn(2, 1, 5, 5, 5)).shape
    torch.Size([2, 2, 3, 3, 3])
    """


def recurrent_weights(rnn: nn.RNNBase) -> list[str]:
    """Names of the weights from the hidden state to the hidden state: one for each layer and direction."""
    return [name for name in rnn._flat_weights_names if name.startswith("weight_hh")]


def put_in(module: nn.Module, tensors: dict[str, torch.Tensor]) -> None:
    """Let a module compute with other tensors in the place of its parameters, which stay what and where they are."""
    module.__dict__.update(tensors)  # found before the parameters of the same names
    _refresh(module)


def take_out(module: nn.Module, names: Iterable[str]) -> None:
    """The end of :func:`put_in`."""
    for name in names:
        module.__dict__.pop(name, None)
    _refresh(module)


def _refresh(module: nn.Module) -> None:
    """Recurrent modules of torch keep a list of their weights."""
    if isinstance(module, nn.RNNBase):
        weights = [getattr(module, name) for name in module._flat_weights_names]
        module._flat_weights, module._flat_weight_refs = weights, [weakref.ref(weight) for weight in weights]


class _DropConnectRNN(nn.RNNBase):
    def __init__(self, *args: Any, p: float = 0.5, generator: torch.Generator | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        check_drop_connect(type(self).__name__, p)
        check_generator(type(self).__name__, generator)
        self.mask = DropConnectMask(p, generator)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if not self.mask.training:
            return super().forward(*args, **kwargs)
        names = recurrent_weights(self)
        put_in(self, dict(zip(names, self.mask(*(getattr(self, name) for name in names)), strict=True)))
        try:
            return super().forward(*args, **kwargs)
        finally:
            take_out(self, names)


class DropConnectLSTM(_DropConnectRNN, nn.LSTM):
    r"""An LSTM whose weights from hidden state to hidden state are dropped at random while training.

    .. math:: W_{hh} \to \frac{1}{1-p} M \odot W_{hh}, \qquad M_{ij} \sim \mathrm{Bernoulli}(1 - p)

    with one M of the shape of W_hh, (4H, H), for each layer, direction and call: the same at all time steps and for all
    sequences of the batch. In evaluation it is torch's LSTM with the weights as they are.

    Arguments, calls and keys of ``state_dict`` are those of ``torch.nn.LSTM``. Masked weights are divided by 1 - p (Merity et al.'s
    code and fastai's WeightDropout), unlike :class:`DropConnectLinear`'s by default.

    Args:
        p: probability of dropping a weight, 0 <= p < 1.
        generator: source of the masks; torch's global generator if ``None``. A CPU generator serves every device.

    Raises:
        ValueError: for a p outside [0, 1).

    When it helps: language models and other recurrent networks that fit their training set and generalize worse; unlike
    dropout of the state it lets the state remember, and torch's fast LSTM runs as it is. When it hurts: small
    networks that do not fit yet. On CUDA, cuDNN copies the weights in every call and warns of it once. Good first
    setting: p = 0.5 (Merity et al.).

    Source: Merity, Keskar, Socher, "Regularizing and Optimizing LSTM Language Models", ICLR 2018; Wan et al., 2013.

    >>> lstm = DropConnectLSTM(3, 8, batch_first=True, p=0.5)
    >>> output, (h, c) = lstm(torch.randn(5, 7, 3))
    >>> sorted(lstm.state_dict()) == sorted(torch.nn.LSTM(3, 8).state_dict())
    True
    """


class DropConnectGRU(_DropConnectRNN, nn.GRU):
    """``torch.nn.GRU`` with DropConnect on its weights from hidden state to hidden state. See :class:`DropConnectLSTM`.

    >>> DropConnectGRU(3, 8, p=0.5)(torch.randn(7, 5, 3))[0].shape
    torch.Size([7, 5, 8])
    """


class DropConnectRNN(_DropConnectRNN, nn.RNN):
    """``torch.nn.RNN`` with DropConnect on its weights from hidden state to hidden state. See :class:`DropConnectLSTM`.

    >>> DropConnectRNN(3, 8, p=0.5)(torch.randn(7, 5, 3))[0].shape
    torch.Size([7, 5, 8])
    """
