"""DropConnect: dropout of the weights of hidden layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from trimtab.nn.drop_connect import DropConnectMask, put_in, recurrent_weights, take_out
from trimtab.reading.order import doubts, hidden_layers
from trimtab.recipe import Change, Technique, TrainingLike
from trimtab.techniques.engines.surgery import Hung, listed_names, nothing_for, training_now

KINDS = ("linear", "conv", "recurrent", "all")


@dataclass(frozen=True)
class DropConnect(Technique):
    """Drops weights at random while training, where dropout drops units.

    ``w -> m w / (1 - p)`` with ``m`` 1 with probability 1 - p and 0 otherwise, drawn anew for every entry and call: weights and
    biases of linear and convolution layers but the last of the model, and the weights from hidden state to hidden state of
    LSTM, GRU and RNN (one mask for all time steps). Masked weights are divided by 1 - p, so that the live network keeps the
    scale it has learned, and evaluation is the network as it is (weight scaling). :class:`trimtab.nn.DropConnectLinear` knows the
    activation that follows and evaluates by moment matching; it does not divide by 1 - p unless it is given
    ``scaling="inverted"``. Masks come from a generator of their own. What other
    libraries call ``drop_connect`` is DropPath.

    Helps: layers with many weights, and recurrent networks, that fit their training set and generalize worse. Hurts: networks that
    do not even fit it. Good first setting: 0.5 for large linear and recurrent layers, 0.1 to 0.2 for small ones and convolutions.

    Args:
        p: probability of dropping a weight.
        on: "linear", "conv", "recurrent" or "all" of them.

    Source: Wan et al., "Regularization of Neural Networks using DropConnect", ICML 2013; Merity et al., "Regularizing and
    Optimizing LSTM Language Models", ICLR 2018.

    >>> import torch, trimtab as tt
    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> training = tt.attach(model, torch.optim.SGD(model.parameters(), lr=0.1)).apply("drop_connect(p=0.2)")
    >>> model[0].drop_connect
    DropConnectMask(p=0.2)
    """

    acts_on = "model"
    moment = "noise"
    group = "regularization"

    p: float = 0.5
    on: str = "all"

    def __post_init__(self) -> None:
        if not 0 < self.p < 1:
            raise ValueError(
                f"p={self.p} must lie strictly between 0 and 1: it is the probability of dropping a weight."
            )
        if self.on not in KINDS:
            raise ValueError(f"on={self.on!r} must be one of {', '.join(map(repr, KINDS))}.")

    def apply(self, training: TrainingLike) -> Change:
        found: list[tuple[str, Any, list[str]]] = []
        if self.on != "recurrent":
            found += [(name, layer, ["weight", "bias"]) for name, layer in hidden_layers(training, self.on)]
        if self.on in ("recurrent", "all"):
            rnns = ((n, m) for n, m in training.named_modules() if isinstance(m, nn.RNNBase))
            found += [(name, rnn, recurrent_weights(rnn)) for name, rnn in rnns]
        # what is computed from other tensors is masked nowhere: not before, as these are no weights, and not after
        computed = [name for name, layer, weights in found if weights[0] not in layer._parameters]
        found = [one for one in found if one[0] not in computed]
        if not found:
            why = " whose weights are parameters of their own" if computed else ""
            kinds = "linear, convolution or recurrent" if self.on == "all" else self.on
            raise nothing_for(self, f"the model has no hidden {kinds} layer{why}.")
        hung = [
            _Masked(
                layer,
                [one for one in weights if layer._parameters.get(one) is not None],
                DropConnectMask(self.p, training.generator(f"drop_connect {name}")),
            )
            for name, layer, weights in found
        ]

        def undo() -> None:
            for one in hung:
                one.take_off()

        listed = listed_names([(name, layer) for name, layer, _ in found])
        details = tuple(f"{name}: left alone, its weights are computed from other tensors" for name in computed)
        summary = f"DropConnect with p={self.p:g} on {len(found)} layers: {listed}"
        return Change(summary, undo, lambda: any(one.acted for one in hung), (*details, *doubts(training)))


class _Masked(Hung):
    """Puts masked weights in the place of a layer's own while it runs."""

    def __init__(self, layer: nn.Module, weights: list[str], mask: DropConnectMask) -> None:
        self.weights = weights
        super().__init__(layer, "drop_connect", mask, put_in, before=True)
        self.end = layer.register_forward_hook(self._after, always_call=True)

    def _before(self, layer: nn.Module, inputs: tuple) -> None:  # type: ignore[override]
        mask = layer._modules[self.child]
        assert mask is not None
        if training_now(mask):
            self.acted = True
            masked = mask(*(getattr(layer, name) for name in self.weights))
            self.call(layer, dict(zip(self.weights, masked, strict=True)))

    def _after(self, layer: nn.Module, inputs: tuple, output: Any) -> None:  # type: ignore[override]
        take_out(layer, self.weights)

    def take_off(self) -> None:
        self.end.remove()
        super().take_off()
