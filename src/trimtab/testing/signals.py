"""What every signal holds: it declares what it reads, reads numbers, forgets them, and leaves the training as it is."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from trimtab.signals import Signal
from trimtab.testing.trainings import Data, clusters, network

MANY = 350  # samples: some signals want as many before they say anything


def check_signal(signal: type[Signal], data: Data | None = None) -> None:
    """Run the suite that all signals pass: two steps of a training, at the moments at which a watch asks.

    Args:
        signal: a class derived from :class:`trimtab.signals.Signal`.
        data: inputs (350 or more, 64) and ten classes; clusters of points by default.

    Raises:
        AssertionError: with what must hold.
    """
    name, (x, y) = signal.__name__, data or clusters()
    x, y = x[:MANY], y[:MANY]
    assert signal.__doc__, f"{name}: it has no docstring"
    assert signal.cost, f"{name}: cost must say what it costs on a sampled step"
    declared = {one.name: one for one in signal.measures}
    assert declared and len(declared) == len(signal.measures), f"{name}: measures must name what it reads, each once"
    for one in signal.measures:
        assert one.title and "_" not in one.title, f"{name}: the title of {one.name} must be words"
        assert one.meaning.endswith("."), f"{name}: the meaning of {one.name} must be a sentence"
    model, made = network(), signal()
    read = {}
    for _ in range(2):
        model.zero_grad()
        read = _step(made, model, x, y)
    assert read.keys() == declared.keys(), f"{name}: it reads {sorted(read)}, and declares {sorted(declared)}"
    for key, value in read.items():
        single = isinstance(value, float)
        assert single or all(isinstance(v, float) for v in value.values()), f"{name}: {key} must be numbers"
        assert single == (declared[key].of in ("run", "training")), (
            f"{name}: {key} is declared to be of a {declared[key].of}"
        )
    if not signal.remembers:
        assert made.read() == {}, f"{name}: it must forget what it has read, or say that it remembers"


def _step(signal: Signal, model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> dict:
    hidden = x
    for name, module in model.named_children():
        inputs, hidden = (hidden,), module(hidden)
        signal.forward(name, module, inputs, hidden)
    loss = F.cross_entropy(hidden, y)
    signal.loss("cross_entropy", hidden, y, loss)
    loss.backward()
    parameters = list(model.named_parameters())
    before = [p.detach().clone() for p in model.parameters()]
    random = torch.get_rng_state()
    signal.gradients(parameters)
    signal.before_step(parameters)
    signal.after_step(parameters)
    signal.trained(loss.detach())
    read = dict(signal.read())
    name = type(signal).__name__
    assert torch.equal(random, torch.get_rng_state()), f"{name}: it draws random numbers"
    same = all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert same, f"{name}: it changes parameters"
    held = [v for value in vars(signal).values() for v in _flat(value)]
    assert not any(t.requires_grad for t in held), f"{name}: it keeps a graph alive"
    return read


def _flat(value: object) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    return [tensor for one in inside for tensor in _flat(one)]
