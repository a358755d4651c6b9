"""Zoneout: dropout of recurrent states, whose units keep their last value instead of going to zero."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.rnn import PackedSequence

from trimtab.nn import ops
from trimtab.nn.checks import check_number
from trimtab.nn.draws import OwnGenerator, check_generator
from trimtab.nn.ops.common import in_transform
from trimtab.nn.recurrent import STATES, State, _LayerNormRNN, _Weights

GROUP = "regularization"

STATES.update(RNN_TANH=("h",), RNN_RELU=("h",))


def _lstm_cell(x: torch.Tensor, state: State, w: _Weights) -> State:
    if not in_transform():
        return torch.lstm_cell(x, state, *w[:4])
    # vmap has no rule for torch's
    h, c = state
    gates = F.linear(x, w.weight_ih, w.bias_ih) + F.linear(h, w.weight_hh, w.bias_hh)
    i, f, g, o = gates.chunk(4, -1)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    return o.sigmoid() * c.tanh(), c


# of each mode, a time step: input, state and weights to the new state
CELLS: dict[str, Callable[[torch.Tensor, State, _Weights], State]] = {
    "LSTM": _lstm_cell,
    "GRU": lambda x, state, w: (torch.gru_cell(x, state[0], *w[:4]),),
    "RNN_TANH": lambda x, state, w: (torch.rnn_tanh_cell(x, state[0], *w[:4]),),
    "RNN_RELU": lambda x, state, w: (torch.rnn_relu_cell(x, state[0], *w[:4]),),
}


def check_zoneout(part: str, p: float, p_cell: float | None = None) -> None:
    """Refuse probabilities outside [0, 1)."""
    for name, given in (("p", p), ("p_cell", p_cell)):
        if given is not None or name == "p":
            check_number(part, name, given, "[0, 1)", "is the probability of keeping the last value")


class ZoneoutMask(OwnGenerator, nn.Module):
    """Mixes the old state into the new: at random while training, by its expectation else."""

    def __init__(self, p: float, p_cell: float | None = None, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.p, self.p_cell, self.generator = p, p if p_cell is None else p_cell, generator
        self.calls = 0

    def sampling(self) -> bool:
        """Whether masks are drawn."""
        return self.training

    def begin(self) -> None:
        """A sequence begins. All masks for it come from one key, so that activation checkpointing meets them again."""
        self.calls += 1
        self.drawn = 0
        self.key = self.draw_key() if self.sampling() else None

    def forward(self, old: State, new: State) -> State:
        return tuple(self._mix(a, b, p) for a, b, p in zip(old, new, (self.p, self.p_cell), strict=False))

    def _mix(self, old: torch.Tensor, new: torch.Tensor, p: float) -> torch.Tensor:
        change = new - old
        if self.key is not None and p > 0:
            self.drawn += 1
            change = ops.dropout(change, p, self.key + self.drawn)  # divided by 1 - p where it stays
        return old + (1 - p) * change

    def extra_repr(self) -> str:
        return f"p={self.p}, p_cell={self.p_cell}"


class _Zoneout(_LayerNormRNN):
    """What LSTM, GRU and RNN share: torch's module, its time steps in a loop. Has no norms, only the loop of the ones with norms."""

    def _zone(self, p: float, p_cell: float | None, generator: torch.Generator | None) -> None:
        part = type(self).__name__
        check_zoneout(part, p, p_cell)
        check_generator(part, generator)
        if self.proj_size:
            raise ValueError(
                f"{part}(proj_size={self.proj_size}): projections of the state are not supported, proj_size must be 0. "
                f"For outputs of size {self.proj_size} put a Linear({self.hidden_size}, {self.proj_size}) behind it."
            )
        self.zoneout = ZoneoutMask(p, p_cell, generator)

    def forward(self, input: torch.Tensor | PackedSequence, hx: Any = None) -> tuple[Any, Any]:
        pair = self.mode == "LSTM"
        self.zoneout.begin()
        output, state = self._run(input, hx if pair or hx is None else (hx,))
        return output, state if pair else state[0]

    def _scan(
        self, data: torch.Tensor, sizes: list[int], state: State, w: _Weights, reverse: bool
    ) -> tuple[torch.Tensor, State]:
        cell, steps, outputs = CELLS[self.mode], data.split(sizes), []
        for x in reversed(steps) if reverse else steps:
            n = len(x)
            old = tuple(s[:n] for s in state)
            new = self.zoneout(old, cell(x, old, w))
            outputs.append(new[0])
            state = tuple(a if n == len(s) else torch.cat([a, s[n:]]) for a, s in zip(new, state, strict=True))
        return torch.cat(outputs[::-1] if reverse else outputs), state

    def extra_repr(self) -> str:
        return nn.RNNBase.extra_repr(self)


class ZoneoutLSTM(_Zoneout, nn.LSTM):
    r"""An LSTM in which units of the hidden state and of the cell keep their last value at random, at each time step.

    .. math::
        c_t &= d^c_t \odot c_{t-1} + (1 - d^c_t) \odot \hat c_t, \qquad
        h_t = d^h_t \odot h_{t-1} + (1 - d^h_t) \odot \hat h_t \\
        d^h_t &\sim \mathrm{Bernoulli}(p), \quad d^c_t \sim \mathrm{Bernoulli}(p_{cell}) \quad \text{while training,} \qquad
        d^h_t = p, \quad d^c_t = p_{cell} \quad \text{in evaluation,}

    with the LSTM's own next state ``h^, c^`` from (x_t, h_{t-1}, c_{t-1}), all of shape (N, H), and a mask of its own for every
    unit, sample and time step. The hidden state is that of the LSTM's new cell, before the cell is mixed. In evaluation
    each d is its expectation.

    Arguments, calls and keys of ``state_dict`` are those of ``torch.nn.LSTM``: batched, one sequence or a PackedSequence, layers,
    both directions. ``p`` is the probability of keeping the *last* value; with 0 this is torch's LSTM.

    Args:
        input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, device, dtype: as in torch.
        proj_size: must be 0.
        p: probability for the hidden state, 0 <= p < 1.
        p_cell: probability for the cell; p if ``None``.
        generator: source of the masks; torch's global generator if ``None``. A CPU generator serves every device.

    Raises:
        ValueError: for a probability outside [0, 1), a proj_size, and inputs and states of wrong shape.

    When it helps: recurrent networks that fit their training set and generalize worse: state and gradients pass
    through units that stay, where dropout would cut them. When it hurts: speed, as it is a Python loop over time steps
    where torch has one call; tasks whose every step counts. Good first settings: 0.05 for the hidden state and 0.5 for
    the cell of character models, 0.15 for both on sequences of pixels (the paper).

    Source: Krueger et al., "Zoneout: Regularizing RNNs by Randomly Preserving Hidden Activations", ICLR 2017.

    >>> lstm = ZoneoutLSTM(3, 8, num_layers=2, batch_first=True, p=0.05, p_cell=0.5)
    >>> output, (h, c) = lstm(torch.randn(5, 7, 3))  # 5 sequences of 7 steps
    >>> output.shape, h.shape
    (torch.Size([5, 7, 8]), torch.Size([2, 5, 8]))
    >>> lstm.load_state_dict(torch.nn.LSTM(3, 8, 2).state_dict())
    <All keys matched successfully>
    """

    def __init__(
        self,
        *args: Any,
        p: float = 0.1,
        p_cell: float | None = None,
        generator: torch.Generator | None = None,
        **kwargs: Any,
    ) -> None:
        nn.LSTM.__init__(self, *args, **kwargs)
        self._zone(p, p_cell, generator)


class ZoneoutGRU(_Zoneout, nn.GRU):
    """``torch.nn.GRU`` with zoneout of its hidden state, by p. See :class:`ZoneoutLSTM`.

    >>> ZoneoutGRU(3, 8, bidirectional=True, p=0.1)(torch.randn(7, 5, 3))[0].shape
    torch.Size([7, 5, 16])
    """

    def __init__(self, *args: Any, p: float = 0.1, generator: torch.Generator | None = None, **kwargs: Any) -> None:
        nn.GRU.__init__(self, *args, **kwargs)
        self._zone(p, None, generator)


class ZoneoutRNN(_Zoneout, nn.RNN):
    """``torch.nn.RNN`` with zoneout of its hidden state, by p. See :class:`ZoneoutLSTM`.

    >>> ZoneoutRNN(3, 8, nonlinearity="relu", p=0.1)(torch.randn(7, 5, 3))[0].shape
    torch.Size([7, 5, 8])
    """

    def __init__(self, *args: Any, p: float = 0.1, generator: torch.Generator | None = None, **kwargs: Any) -> None:
        nn.RNN.__init__(self, *args, **kwargs)
        self._zone(p, None, generator)
