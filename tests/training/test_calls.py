"""Calls of a training made again: what comes of them, and that nothing of it is left behind."""

from __future__ import annotations

import collections
import copy
import gc
import random
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations, spectral_norm
from torch.nn.utils.weight_norm import WeightNorm

import trimtab as tt
from tests.conftest import network, same
from trimtab.training import attach


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.1)


class Drawing(nn.Module):
    """Draws from everywhere, counts its calls, keeps what it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 10)
        self.generator, self.own = torch.Generator().manual_seed(1), np.random.default_rng(2)
        self.calls, self.seen, self.last = 0, [], None
        self.sources, self.counted = [torch.Generator().manual_seed(4)], collections.Counter()
        self.total = torch.zeros((), requires_grad=True) * 1.0  # of a graph, and added to in place

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        self.seen.append(x.mean().item())
        self.counted["calls"] += 1
        self.last = self.layer(x)
        self.total += self.last.mean()
        noise = (
            torch.rand(10, generator=self.generator)
            + torch.rand(10, generator=self.sources[0])
            + float(self.own.random() + np.random.rand() + random.random())
        )
        return F.dropout(self.last) + noise


def hooked() -> nn.Module:
    model = network("dropout")
    model.seen = []
    model[0].register_forward_hook(lambda module, args, output: model.seen.append(output.sum().item()))
    return model


def weight_normed() -> nn.Module:
    model = network()
    WeightNorm.apply(model[0], "weight", 0)
    return model


MODELS = {
    "dropout": lambda: network("dropout"),
    "batch norm": lambda: nn.Sequential(nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 10)),
    "spectral norm": lambda: nn.Sequential(spectral_norm(nn.Linear(64, 32)), nn.ReLU(), nn.Linear(32, 10)),
    "spectral norm as a parametrization": lambda: nn.Sequential(
        parametrizations.spectral_norm(nn.Linear(64, 32)), nn.ReLU(), nn.Linear(32, 10)
    ),
    "weight norm": weight_normed,
    "weight norm as a parametrization": lambda: nn.Sequential(parametrizations.weight_norm(nn.Linear(64, 10))),
    "hooks": hooked,
    "generators of its own": Drawing,
    "ours": lambda: nn.Sequential(
        nn.Linear(64, 32), tt.nn.Dropout(0.5, generator=torch.Generator().manual_seed(3)), nn.Linear(32, 10)
    ),
}


def all_of(model: nn.Module) -> dict[str, Any]:
    """Everything that a call could leave behind in a model and in the process."""
    found: dict[str, Any] = {
        "python": random.getstate(),
        "torch": torch.get_rng_state(),
        "cached": torch.is_autocast_cache_enabled(),
    }
    found["numpy"] = [np.array(one).tolist() for one in np.random.get_state()]
    for name, module in model.named_modules():
        for key, value in vars(module).items():
            if key in ("_parameters", "_buffers"):
                for k, x in value.items():
                    found[f"{name}.{k}"] = None if x is None else (id(x), x.detach().clone(), x.requires_grad)
                    found[f"{name}.{k}.grad"] = None if x is None or x.grad is None else x.grad.clone()
            elif isinstance(value, torch.Tensor):
                found[f"{name}.{key}"] = (id(value), value.detach().clone())
            elif isinstance(value, torch.Generator):
                found[f"{name}.{key}"] = value.get_state()
            elif isinstance(value, np.random.Generator):
                found[f"{name}.{key}"] = value.bit_generator.state
            elif key == "sources":
                found[f"{name}.{key}"] = [one.get_state() for one in value]
            elif isinstance(value, collections.Counter):
                found[f"{name}.{key}"] = dict(value)
            else:
                found[f"{name}.{key}"] = (
                    {k: id(v) for k, v in value.items()} if isinstance(value, dict) else copy.copy(value)
                )
    return found


@pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated:FutureWarning")
@pytest.mark.parametrize("precision", ["float32", "autocast"])
@pytest.mark.parametrize("name", MODELS)
def test_a_call_made_again_is_the_same_and_leaves_nothing_behind(name, precision, digits):
    model = MODELS[name]()
    training = attach(model, sgd(model))
    calls = []
    stop = training.calls.remember(lambda call, output: calls.append((call, output)))
    x, y = digits[0][:64], digits[1][:64]
    F.cross_entropy(model(x), y).backward()  # there are gradients, and one call more
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "autocast"):
        loss = F.cross_entropy(model(x), y)
        before = all_of(model)
        with training.calls.apart():
            call, output = calls[-1]
            again = call.again()
            exact = name.startswith("spectral")  # whose direction moves on with every call in training mode
            torch.testing.assert_close(again, output, rtol=0.2 if exact else 0, atol=0.1 if exact else 0)
            model.eval()
            with torch.no_grad():
                for p in model.parameters():
                    p.data.mul_(2)
                assert not torch.equal(call.again(), output)
            model.register_forward_hook(lambda module, args, output: None)
        after = all_of(model)
    assert [key for key in {**before, **after} if not same(before.get(key), after.get(key))] == []
    assert len(calls) == 2  # nobody is told of those made again
    loss.backward()  # the graph of the first call is good
    stop()
    model(x)
    assert len(calls) == 2


def test_an_answer_is_found_through_views_and_functions(digits):
    model = network()
    training = attach(model, sgd(model))
    training.calls.remember(lambda call, output: None)
    x, other = digits[0][:6], torch.randn(6, 10)
    y = model(x)
    for what in (
        lambda y: y,
        lambda y: y.t(),
        lambda y: y[2:4, 1:].unsqueeze(0)[..., 3:],
        lambda y: y.log_softmax(-1),
        lambda y: y.softmax(0),
        lambda y: y.sigmoid(),
        lambda y: y.double(),
        lambda y: y.log_softmax(1).t()[2:],
    ):
        answer = training.calls.answer_of(what(y))
        assert answer is not None
        torch.testing.assert_close(answer.of(other), what(other), rtol=0, atol=0)
        assert answer.call.model is model
    for nothing in (y * 2, y.exp(), y.sum(), x, model(x).add_(1), model(x).detach(), None, 3):
        assert training.calls.answer_of(nothing) is None
    strange = attach(other_model := network(), sgd(other_model))
    assert strange.calls.answer_of(y) is None


def test_answers_in_tuples_and_mappings_and_of_several_calls(digits):
    class Many(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(64, 20)

        def forward(self, x: torch.Tensor, named: bool = False) -> Any:
            both = self.layer(x)
            return {"logits": both[:, :10], "more": both[:, 10:]} if named else both.chunk(2, 1)

    model = Many()
    training = attach(model, sgd(model))
    training.calls.remember(lambda call, output: None)
    first, second = model(digits[0][:4]), model(digits[0][4:8], named=True)
    found = training.calls.answer_of(first[1]), training.calls.answer_of(second["logits"])
    assert found[0].call is not found[1].call
    with training.calls.apart():
        assert torch.equal(found[0].of(found[0].call.again()), first[1])
        assert torch.equal(found[1].of(found[1].call.again()), second["logits"])


def test_calls_in_an_evaluation_are_not_remembered(digits):
    model = network()
    training = attach(model, sgd(model))
    calls = []
    training.calls.remember(lambda call, output: calls.append(call))
    with torch.no_grad():
        model(digits[0])
    model.eval()(digits[0])
    assert calls == []
    x = digits[0][:8].clone()
    model.train()(x)
    assert calls[0].intact
    x.zero_()
    assert not calls[0].intact


def test_calls_of_a_training_that_is_gone(digits):
    model = network()
    training = attach(model, sgd(model))
    calls = training.calls
    calls.remember(lambda call, output: None)
    del training
    gc.collect()
    with pytest.raises(RuntimeError, match="as long as their training lives"), calls.apart():
        pass


def test_a_second_call_is_made_in_the_mode_of_the_first(digits):
    model = nn.Sequential(nn.Linear(64, 32), nn.BatchNorm1d(32), nn.Linear(32, 10))
    training = attach(model, sgd(model))
    calls = []
    training.calls.remember(lambda call, output: calls.append(call))
    output = model(digits[0][:8])
    model.eval()
    with training.calls.apart():
        assert torch.equal(calls[0].again(), output)
        with torch.no_grad():
            assert not torch.equal(calls[0].again(training=False), output)
    assert not any(module.training for module in model.modules())


@pytest.mark.parametrize("lent", ["tensors", "parameters"])
def test_a_call_with_weights_that_were_lent_is_not_intact(lent, digits):
    model = network()
    training = attach(model, sgd(model))
    calls = []
    training.calls.remember(lambda call, output: calls.append(call))
    weights = {k: v * 0.5 if lent == "tensors" else nn.Parameter(v.detach()) for k, v in model.named_parameters()}
    torch.func.functional_call(model, weights, (digits[0][:8],))
    model(digits[0][:8])
    assert [call.intact for call in calls] == [False, True]
