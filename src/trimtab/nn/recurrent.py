"""LSTM and GRU with layer normalization inside, at each time step."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.rnn import PackedSequence

from trimtab.nn.checks import check_count, check_eps, check_p
from trimtab.nn.layer_norm import layer_norm

GROUP = "normalization"
State = tuple[torch.Tensor, ...]


class _Weights(NamedTuple):
    """What one direction of one layer learns; None for what it has not. G is 4H for the LSTM, 3H for the GRU."""

    weight_ih: torch.Tensor  # (G, input)
    weight_hh: torch.Tensor  # (G, H)
    bias_ih: torch.Tensor | None = None  # (G), as are the other three
    bias_hh: torch.Tensor | None = None
    gain_ih: torch.Tensor | None = None
    gain_hh: torch.Tensor | None = None
    gain_cell: torch.Tensor | None = None  # (H)
    bias_cell: torch.Tensor | None = None  # (H)


def _weights_of(module: nn.Module, suffix: str = "") -> _Weights:
    weights: Any = [getattr(module, name + suffix, None) for name in _Weights._fields]
    return _Weights(*weights)


def _norm(x: torch.Tensor, gain: torch.Tensor | None, bias: torch.Tensor | None, eps: float) -> torch.Tensor:
    return layer_norm(x, x.shape[-1:], gain, bias, eps)


def _gates_apart(
    x: torch.Tensor, gain: torch.Tensor | None, bias: torch.Tensor | None, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """The GRU's summed inputs with statistics of their own for the two gates, and for the candidate."""
    ends = (2 * x.shape[-1] // 3, x.shape[-1] // 3)
    parts: list[Any] = [(None, None) if t is None else t.split(ends, -1) for t in (x, gain, bias)]
    (x0, x1), (gain0, gain1), (bias0, bias1) = parts
    return _norm(x0, gain0, bias0, eps), _norm(x1, gain1, bias1, eps)


def _lstm_input(x: torch.Tensor, w: _Weights, eps: float) -> tuple[torch.Tensor]:
    return (_norm(F.linear(x, w.weight_ih), w.gain_ih, w.bias_ih, eps),)


def _lstm_step(inputs: State, state: State, w: _Weights, eps: float) -> State:
    h, c = state
    gates = inputs[0] + _norm(F.linear(h, w.weight_hh), w.gain_hh, w.bias_hh, eps)
    i, f, g, o = gates.chunk(4, -1)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    return o.sigmoid() * _norm(c, w.gain_cell, w.bias_cell, eps).tanh(), c


def _gru_input(x: torch.Tensor, w: _Weights, eps: float) -> tuple[torch.Tensor, torch.Tensor]:
    return _gates_apart(F.linear(x, w.weight_ih), w.gain_ih, w.bias_ih, eps)


def _gru_step(inputs: State, state: State, w: _Weights, eps: float) -> State:
    (h,) = state
    gates, candidate = _gates_apart(F.linear(h, w.weight_hh), w.gain_hh, w.bias_hh, eps)
    r, z = (inputs[0] + gates).sigmoid().chunk(2, -1)
    n = (inputs[1] + r * candidate).tanh()
    return ((1 - z) * n + z * h,)


# of each mode: how many gates, and of what the state consists; then what is done for all time steps at once, and for each
GATES = {"LSTM": 4, "GRU": 3}
STATES = {"LSTM": ("h", "c"), "GRU": ("h",)}
INPUT: dict[str, Any] = {"LSTM": _lstm_input, "GRU": _gru_input}
STEP: dict[str, Any] = {"LSTM": _lstm_step, "GRU": _gru_step}


def layer_norm_lstm_cell(
    input: torch.Tensor,
    hx: tuple[torch.Tensor, torch.Tensor],
    w_ih: torch.Tensor,
    w_hh: torch.Tensor,
    b_ih: torch.Tensor | None = None,
    b_hh: torch.Tensor | None = None,
    gain_ih: torch.Tensor | None = None,
    gain_hh: torch.Tensor | None = None,
    gain_cell: torch.Tensor | None = None,
    bias_cell: torch.Tensor | None = None,
    eps: float = 1e-5,
) -> tuple[torch.Tensor, torch.Tensor]:
    """``torch.lstm_cell`` with layer normalization. Formula and shapes are those of :class:`LayerNormLSTM`.

    >>> hx = torch.zeros(2, 4), torch.zeros(2, 4)
    >>> h, c = layer_norm_lstm_cell(torch.randn(2, 3), hx, torch.randn(16, 3), torch.randn(16, 4))
    >>> h.shape, c.shape
    (torch.Size([2, 4]), torch.Size([2, 4]))
    """
    w = _Weights(w_ih, w_hh, b_ih, b_hh, gain_ih, gain_hh, gain_cell, bias_cell)
    h, c = _lstm_step(_lstm_input(input, w, eps), hx, w, eps)
    return h, c


def layer_norm_gru_cell(
    input: torch.Tensor,
    hx: torch.Tensor,
    w_ih: torch.Tensor,
    w_hh: torch.Tensor,
    b_ih: torch.Tensor | None = None,
    b_hh: torch.Tensor | None = None,
    gain_ih: torch.Tensor | None = None,
    gain_hh: torch.Tensor | None = None,
    eps: float = 1e-5,
) -> torch.Tensor:
    """``torch.gru_cell`` with layer normalization. Formula and shapes are those of :class:`LayerNormGRU`.

    >>> layer_norm_gru_cell(torch.randn(2, 3), torch.zeros(2, 4), torch.randn(12, 3), torch.randn(12, 4)).shape
    torch.Size([2, 4])
    """
    w = _Weights(w_ih, w_hh, b_ih, b_hh, gain_ih, gain_hh)
    return _gru_step(_gru_input(input, w, eps), (hx,), w, eps)[0]


def _add_norms(module: nn.Module, mode: str, hidden: int, bias: bool, suffix: str, place: dict[str, Any]) -> None:
    sizes = {"gain_ih": GATES[mode] * hidden, "gain_hh": GATES[mode] * hidden}
    if mode == "LSTM":
        sizes |= {"gain_cell": hidden} | ({"bias_cell": hidden} if bias else {})
    for name, size in sizes.items():
        start = torch.zeros if name == "bias_cell" else torch.ones
        setattr(module, name + suffix, nn.Parameter(start(size, **place)))


def _reset_norms(module: nn.Module) -> None:
    for name, parameter in module.named_parameters(recurse=False):
        if name.startswith("gain"):
            nn.init.ones_(parameter)
        elif name.startswith("bias_cell"):
            nn.init.zeros_(parameter)


def _check_input(name: str, given: torch.Tensor, dims: tuple[int, ...], size: int, form: str) -> None:
    if given.dim() not in dims or given.shape[-1] != size:
        raise ValueError(
            f"{name} got an input of shape {tuple(given.shape)}. It must be {form} with input_size {size}."
            + (f" Did you mean {name}({given.shape[-1]}, ...)?" if given.dim() in dims else "")
        )


def _check_state(name: str, mode: str, given: Any, shape: tuple[int, ...]) -> None:
    shapes: Any = type(given).__name__
    if isinstance(given, tuple | list):
        shapes = [tuple(s.shape) if isinstance(s, torch.Tensor) else type(s).__name__ for s in given]
    if shapes != [shape] * len(STATES[mode]):
        wanted = f"a pair (h, c), each of shape {shape}" if mode == "LSTM" else f"one tensor of shape {shape}"
        raise ValueError(f"{name} got as hx {shapes}. It must be {wanted}; leave it out for zeros.")


class _LayerNormRNN(nn.RNNBase):
    """What LSTM and GRU share. Parameters, their names and their start are torch's."""

    def __init__(
        self,
        mode: str,
        input_size: int,
        hidden_size: int,
        num_layers: int,
        bias: bool,
        batch_first: bool,
        dropout: float,
        bidirectional: bool,
        device: Any,
        dtype: Any,
        eps: float,
    ) -> None:
        check_eps(type(self).__name__, eps)
        check_p(type(self).__name__, "dropout", dropout)
        for size, given in (("input_size", input_size), ("hidden_size", hidden_size), ("num_layers", num_layers)):
            check_count(type(self).__name__, size, given)
        super().__init__(
            mode, input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, 0, device, dtype
        )
        self.eps = eps
        for suffixes in self._suffixes():
            for suffix in suffixes:
                _add_norms(self, mode, hidden_size, bias, suffix, {"device": device, "dtype": dtype})

    def _suffixes(self) -> list[list[str]]:
        """Of the parameters of each layer: one for each direction."""
        directions = ["", "_reverse"] if self.bidirectional else [""]
        return [[f"_l{layer}{direction}" for direction in directions] for layer in range(self.num_layers)]

    def reset_parameters(self) -> None:
        super().reset_parameters()
        _reset_norms(self)

    def flatten_parameters(self) -> None:
        """Does nothing: it serves cuDNN, which has no norms."""

    def _run(self, input: Any, hx: State | None) -> tuple[Any, State]:
        name = type(self).__name__
        if isinstance(input, PackedSequence):
            data, batch_sizes, order, back = input
            _check_input(name, data, (2,), self.input_size, "a PackedSequence of (L, input_size) sequences")
            sizes, batched = batch_sizes.tolist(), True
        else:
            form = "(N, L, input_size)" if self.batch_first else "(L, N, input_size)"
            _check_input(name, input, (2, 3), self.input_size, f"{form} or (L, input_size)")
            batched, order, back = input.dim() == 3, None, None
            # (L, N, input): a packed sequence in which every step has all N
            steps = input.unsqueeze(1) if not batched else input.transpose(0, 1) if self.batch_first else input
            if steps.shape[0] == 0:
                raise ValueError(
                    f"{name} got an input of shape {tuple(input.shape)}. It must have one time step or more."
                )
            sizes, data = [steps.shape[1]] * steps.shape[0], steps.flatten(0, 1)

        rows = self.num_layers * (2 if self.bidirectional else 1)
        if hx is None:
            zeros = data.new_zeros(rows, sizes[0], self.hidden_size)
            state: State = (zeros,) * len(STATES[self.mode])
        else:
            shape = (rows, sizes[0], self.hidden_size) if batched else (rows, self.hidden_size)
            _check_state(name, self.mode, hx, shape)
            state = tuple(s if batched else s.unsqueeze(1) for s in hx)
            state = tuple(s if order is None else s.index_select(1, order) for s in state)

        data, state = self._layers(data, sizes, state)

        if isinstance(input, PackedSequence):
            state = tuple(s if back is None else s.index_select(1, back) for s in state)
            return PackedSequence(data, input.batch_sizes, order, back), state
        output = data.unflatten(0, (len(sizes), sizes[0]))
        if not batched:
            return output.squeeze(1), tuple(s.squeeze(1) for s in state)
        return output.transpose(0, 1) if self.batch_first else output, state

    def _layers(self, data: torch.Tensor, sizes: list[int], state: State) -> tuple[torch.Tensor, State]:
        ends: list[State] = []
        for layer, suffixes in enumerate(self._suffixes()):
            if layer > 0 and self.dropout > 0:
                data = F.dropout(data, self.dropout, self.training)
            outputs = []
            for reverse, suffix in enumerate(suffixes):
                start = tuple(s[len(ends)] for s in state)
                output, end = self._scan(data, sizes, start, _weights_of(self, suffix), bool(reverse))
                outputs.append(output)
                ends.append(end)
            data = torch.cat(outputs, -1)
        return data, tuple(torch.stack(end) for end in zip(*ends, strict=True))

    def _scan(
        self, data: torch.Tensor, sizes: list[int], state: State, w: _Weights, reverse: bool
    ) -> tuple[torch.Tensor, State]:
        """One direction of one layer. ``sizes``: how many sequences, longest first, have each time step.

        Rows of the state beyond a step's size stay as they are: forward these sequences have ended, backward they have
        not begun.
        """
        inputs = [t.split(sizes) for t in INPUT[self.mode](data, w, self.eps)]
        steps = list(zip(*inputs, strict=True))
        outputs = []
        for step in reversed(steps) if reverse else steps:
            n = len(step[0])
            new = STEP[self.mode](step, tuple(s[:n] for s in state), w, self.eps)
            outputs.append(new[0])
            state = tuple(a if n == len(s) else torch.cat([a, s[n:]]) for a, s in zip(new, state, strict=True))
        return torch.cat(outputs[::-1] if reverse else outputs), state

    def extra_repr(self) -> str:
        return super().extra_repr() + f", eps={self.eps}"


class LayerNormLSTM(_LayerNormRNN):
    r"""An LSTM with layer normalization of its summed inputs and of its cell, at each time step on its own.

    .. math::
        (i, f, g, o) &= \mathrm{LN}(W_{ih} x_t) + \mathrm{LN}(W_{hh} h_{t-1}) \\
        c_t &= \sigma(f) \odot c_{t-1} + \sigma(i) \odot \tanh(g) \\
        h_t &= \sigma(o) \odot \tanh(\mathrm{LN}(c_t)), \qquad
        \mathrm{LN}(a) = \gamma \odot \frac{a - \mu}{\sqrt{s^2 + \epsilon}} + b

    with input x_t of shape (N, input_size), h and c of shape (N, H), summed inputs of shape (N, 4H), whose mean and
    biased variance are those of all four gates together (the paper, 004; some implementations take each gate's own), of
    each sample and time step.

    Arguments and calls are those of ``torch.nn.LSTM``: ``output, (h_n, c_n) = lstm(input, (h_0, c_0))``, input batched
    or not or a PackedSequence. So are the names of parameters, and a checkpoint of it loads with ``strict=False``; as
    004 says, the biases of the norms and those of the linear maps are one, so torch's ``bias_ih_l0`` and ``bias_hh_l0``
    are the b of the two norms. New are, for each layer and direction, the gains ``gain_ih_l0`` (4H), ``gain_hh_l0`` (4H)
    and ``gain_cell_l0`` (H), and ``bias_cell_l0`` (H).

    Args:
        input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, device, dtype: as in torch.
        proj_size: must be 0.
        eps: added to the variance, inside the root.

    Raises:
        ValueError: for a proj_size, and for inputs and states of wrong shape.

    When it helps: recurrent networks that train slowly or whose states grow or fade over long sequences, and small
    batches, where BatchNorm cannot serve. When it hurts: speed, as it is a Python loop over time steps where
    torch has one call; a few hidden units, whose few numbers make poor statistics.

    Source: Ba, Kiros, Hinton, "Layer Normalization", 2016, equations 20-22; seed 004.

    >>> lstm = LayerNormLSTM(3, 8, num_layers=2, batch_first=True)
    >>> output, (h, c) = lstm(torch.randn(5, 7, 3))  # 5 sequences of 7 steps
    >>> output.shape, h.shape
    (torch.Size([5, 7, 8]), torch.Size([2, 5, 8]))
    >>> lstm.load_state_dict(torch.nn.LSTM(3, 8, 2).state_dict(), strict=False).unexpected_keys
    []
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: Any = None,
        dtype: Any = None,
        *,
        eps: float = 1e-5,
    ) -> None:
        if proj_size != 0:
            raise ValueError(
                f"LayerNormLSTM(proj_size={proj_size}): projections of the state are not supported, proj_size must be 0. "
                f"For outputs of size {proj_size} put a Linear({hidden_size}, {proj_size}) behind it."
            )
        super().__init__(
            "LSTM", input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, device, dtype, eps
        )

    def forward(
        self, input: torch.Tensor | PackedSequence, hx: tuple[torch.Tensor, torch.Tensor] | None = None
    ) -> tuple[Any, tuple[torch.Tensor, torch.Tensor]]:
        output, (h, c) = self._run(input, hx)
        return output, (h, c)


class LayerNormGRU(_LayerNormRNN):
    r"""A GRU with layer normalization of its summed inputs, at each time step on its own.

    .. math::
        (r, z) &= \sigma(\mathrm{LN}(W_{ih}^{rz} x_t) + \mathrm{LN}(W_{hh}^{rz} h_{t-1})) \\
        n &= \tanh(\mathrm{LN}(W_{ih}^{n} x_t) + r \odot \mathrm{LN}(W_{hh}^{n} h_{t-1})) \\
        h_t &= (1 - z) \odot n + z \odot h_{t-1}, \qquad
        \mathrm{LN}(a) = \gamma \odot \frac{a - \mu}{\sqrt{s^2 + \epsilon}} + b

    with input x_t of shape (N, input_size), h of shape (N, H), summed inputs of shape (N, 2H) for the two gates and
    (N, H) for the candidate, each with its own mean and biased variance, of each sample and time step. (Here z keeps,
    as in torch; in the paper it replaces.)

    Arguments and calls are those of ``torch.nn.GRU``: ``output, h_n = gru(input, h_0)``, input batched or not or a
    PackedSequence. So are the names of parameters, and a checkpoint of it loads with ``strict=False``; torch's
    ``bias_ih_l0`` and ``bias_hh_l0`` are the b of the norms. New are, for each layer and direction, the gains
    ``gain_ih_l0`` and ``gain_hh_l0`` (3H).

    Args:
        input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, device, dtype: as in torch.
        eps: added to the variance, inside the root.

    Raises:
        ValueError: for inputs and states of wrong shape.

    When it helps: recurrent networks that train slowly or whose states grow or fade over long sequences, and small
    batches. When it hurts: speed, as it is a Python loop over time steps where torch has one call; a few hidden units, whose
    few numbers make poor statistics.

    Source: Ba, Kiros, Hinton, "Layer Normalization", 2016, equations 23-26; seed 004.

    >>> output, h = LayerNormGRU(3, 8, bidirectional=True)(torch.randn(7, 5, 3))  # 7 steps of 5 sequences
    >>> output.shape, h.shape
    (torch.Size([7, 5, 16]), torch.Size([2, 5, 8]))
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: Any = None,
        dtype: Any = None,
        *,
        eps: float = 1e-5,
    ) -> None:
        super().__init__(
            "GRU", input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, device, dtype, eps
        )

    def forward(self, input: torch.Tensor | PackedSequence, hx: torch.Tensor | None = None) -> tuple[Any, torch.Tensor]:
        output, (h,) = self._run(input, None if hx is None else (hx,))
        return output, h


class _LayerNormCell(nn.RNNCellBase):
    mode = ""

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
        *,
        eps: float = 1e-5,
    ) -> None:
        check_eps(type(self).__name__, eps)
        for size, given in (("input_size", input_size), ("hidden_size", hidden_size)):
            check_count(type(self).__name__, size, given)
        super().__init__(input_size, hidden_size, bias, GATES[self.mode], device, dtype)
        self.eps = eps
        _add_norms(self, self.mode, hidden_size, bias, "", {"device": device, "dtype": dtype})

    def reset_parameters(self) -> None:
        super().reset_parameters()
        _reset_norms(self)

    def _run(self, input: torch.Tensor, hx: State | None) -> State:
        name = type(self).__name__
        _check_input(name, input, (1, 2), self.input_size, "(N, input_size) or (input_size,)")
        if hx is None:
            hx = (input.new_zeros(*input.shape[:-1], self.hidden_size),) * len(STATES[self.mode])
        _check_state(name, self.mode, hx, (*input.shape[:-1], self.hidden_size))
        w = _weights_of(self)
        return STEP[self.mode](INPUT[self.mode](input, w, self.eps), tuple(hx), w, self.eps)

    def extra_repr(self) -> str:
        return super().extra_repr() + f", eps={self.eps}"


class LayerNormLSTMCell(_LayerNormCell):
    """One time step of :class:`LayerNormLSTM`, with arguments, calls and parameter names of ``torch.nn.LSTMCell``.

    ``h, c = cell(input, (h, c))`` with input of shape (N, input_size) or (input_size,), and states of shape (N, H) or
    (H,), by default zeros. New parameters are ``gain_ih``, ``gain_hh`` (4H), ``gain_cell`` and ``bias_cell`` (H).

    >>> h, c = LayerNormLSTMCell(3, 8)(torch.randn(5, 3))
    >>> h.shape
    torch.Size([5, 8])
    """

    mode = "LSTM"

    def forward(
        self, input: torch.Tensor, hx: tuple[torch.Tensor, torch.Tensor] | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        h, c = self._run(input, hx)
        return h, c


class LayerNormGRUCell(_LayerNormCell):
    """One time step of :class:`LayerNormGRU`, with arguments, calls and parameter names of ``torch.nn.GRUCell``.

    ``h = cell(input, h)`` with input of shape (N, input_size) or (input_size,), and state of shape (N, H) or (H,), by
    default zeros. New parameters are ``gain_ih`` and ``gain_hh`` (3H).

    >>> LayerNormGRUCell(3, 8)(torch.randn(5, 3)).shape
    torch.Size([5, 8])
    """

    mode = "GRU"

    def forward(self, input: torch.Tensor, hx: torch.Tensor | None = None) -> torch.Tensor:
        return self._run(input, None if hx is None else (hx,))[0]
