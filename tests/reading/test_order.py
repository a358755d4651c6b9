"""First, last, behind and in front of: what a model does counts, and not in which order its layers are defined."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import trimtab as tt
from trimtab.reading import order as read
from trimtab.records import OUTPUT
from trimtab.watching.flow import FlowReader


class HeadFirst(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(8, 3)
        self.last = nn.Linear(8, 8)
        self.first = nn.Linear(4, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.last(torch.relu(self.first(x)))))


class HeadFirstByValue(HeadFirst):
    """The same, whose code cannot be followed."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        if x.max().item() > -1e9:
            x = torch.relu(x)
        return self.head(torch.relu(self.last(x)))


class NormsApart(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList([nn.BatchNorm1d(8), nn.BatchNorm1d(8)])
        self.layers = nn.ModuleList([nn.Linear(4, 8), nn.Linear(8, 8)])
        self.head = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = torch.relu(norm(layer(x)))
        return self.head(x)


class TwoHeads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Linear(8, 3), nn.Linear(8, 1)
        self.body = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU())

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = self.body(x)
        return self.one(x), self.other(x)


class ByMethods(nn.Module):
    """Never called itself, as modules of Lightning."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(8, 3)
        self.body = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU())

    def training_step(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(self.head(self.body(x)), torch.zeros(len(x), dtype=torch.long))


def trained(model: nn.Module, recorded: bool = False) -> tt.Training:
    """A training of the model; with ``recorded``, after one pass was seen."""
    training = tt.attach(model, torch.optim.SGD(model.parameters(), lr=0.1))
    if recorded:
        reader = FlowReader(training.models, {id(m): name for name, m in training.named_modules()}, training.heads)
        hook = nn.modules.module.register_module_forward_hook(reader.forward)
        call = getattr(model, "training_step", model)
        call(torch.randn(5, 4))
        hook.remove()
        training.seen = reader.flow()
    return training


def names(found: object, training: tt.Training) -> list[str]:
    """Names of modules, given as pairs or by their ids."""
    if isinstance(found, set):
        return sorted(name for name, module in training.named_modules() if id(module) in found)
    return [name for name, _ in found]  # type: ignore[attr-defined]


@pytest.mark.parametrize("recorded", [False, True])
@pytest.mark.parametrize(
    ("make", "in_order", "last", "behind"),
    [
        (HeadFirst, ["first", "last", "head"], ["head"], ["last", "head"]),
        (HeadFirstByValue, ["first", "last", "head"], ["head"], ["last", "head"]),
        (NormsApart, ["layers.0", "layers.1", "head"], ["head"], ["layers.1", "head"]),
        (TwoHeads, ["body.0", "body.2", "one", "other"], ["one", "other"], ["body.2", "one", "other"]),
        (ByMethods, ["body.0", "body.2", "head"], ["head"], ["body.2", "head"]),
    ],
)
def test_what_is_first_and_last(make, in_order, last, behind, recorded):
    training = trained(make(), recorded)
    if not recorded and make in (HeadFirstByValue, ByMethods):
        assert any("order" in doubt for doubt in read.doubts(training)), read.doubts(training)
        return
    assert names(read.layers(training), training) == in_order
    assert names(read.answers(training), training) == last
    assert names(read.first_layers(training), training) == in_order[:1]
    assert names(read.behind_the_first(training), training) == behind
    assert names(read.hidden_layers(training), training) == [name for name in in_order if name not in last]


def test_what_parts_of_a_model_give_that_is_not_called_is_an_answer_where_nothing_follows():
    seen = trained(ByMethods(), recorded=True).seen
    assert seen is not None
    assert [source for source, target, _ in seen.edges if target == OUTPUT] == ["head"]  # and not the body


@pytest.mark.parametrize("recorded", [False, True])
def test_norms_are_found_by_what_leads_to_them(recorded):
    training = trained(NormsApart(), recorded)
    model = training.models[0]
    assert all(read.followed_by_norm(training, layer) for layer in model.layers)
    assert not read.followed_by_norm(training, model.head)
    with pytest.raises(tt.NothingToDo):
        training.apply("batch_norm")


def test_several_models_have_an_order_each():
    body, head = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8)), nn.Sequential(nn.ReLU(), nn.Linear(8, 3))
    training = tt.attach([body, head], torch.optim.SGD([*body.parameters(), *head.parameters()], lr=0.1))
    assert len(read.orders(training)) == 2
    assert [id(module) for _, module in read.layers(training)] == [id(body[0]), id(body[2]), id(head[1])]
