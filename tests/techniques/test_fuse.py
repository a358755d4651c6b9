"""Fusing chains around norms: the same numbers, fewer calls, and what must not be touched."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import trimtab as tt
import trimtab.nn as tn


class Block(nn.Module):
    """A residual block as people write it, with one ReLU module used twice and an addition in place."""

    def __init__(self, inner: int, outer: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inner, outer, 3, padding=1, bias=False), nn.BatchNorm2d(outer)
        self.conv2, self.bn2 = nn.Conv2d(outer, outer, 3, padding=1, bias=False), nn.BatchNorm2d(outer)
        self.relu = nn.ReLU(inplace=True)
        self.shortcut = nn.Sequential(nn.Conv2d(inner, outer, 1, bias=False), nn.BatchNorm2d(outer))

    def forward(self, x):
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += self.shortcut(x)
        return self.relu(out)


class PreNorm(nn.Module):
    """Transformer blocks by hand: the sum is the norm's input and the next residual."""

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.LayerNorm(width), nn.RMSNorm(width), nn.LayerNorm(width)
        self.mix, self.feed = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x):
        x = x + self.mix(self.first(x))
        x = x + F.gelu(self.feed(self.second(x)))
        return self.last(x)


class Functional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc, self.norm, self.drop = nn.Linear(12, 12), nn.LayerNorm(12), nn.Dropout(0.0)

    def forward(self, x):
        return self.drop(F.gelu(self.norm(self.fc(x)), approximate="tanh"))


def cnn():
    return nn.Sequential(
        Block(3, 8),
        nn.Sequential(nn.Conv2d(8, 8, 3), nn.GroupNorm(2, 8), nn.SiLU()),
        nn.Flatten(),
        nn.Linear(8 * 36, 5),
    )


def encoder(norm_first):
    layer = nn.TransformerEncoderLayer(12, 3, 24, dropout=0.0, batch_first=True, norm_first=norm_first)
    return nn.Sequential(
        nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Flatten(), nn.Linear(12 * 5, 5)
    )


NETWORKS = {
    "residual blocks": (cnn, (4, 3, 8, 8), 3),
    "pre-norm": (lambda: nn.Sequential(PreNorm(), PreNorm(), nn.Flatten(), nn.Linear(60, 5)), (4, 5, 12), 4),
    "functional": (lambda: nn.Sequential(Functional(), nn.Flatten(), nn.Linear(60, 5)), (4, 5, 12), 1),
    "encoder, post-norm": (lambda: encoder(False), (4, 5, 12), 2),
    "encoder, pre-norm": (lambda: encoder(True), (4, 5, 12), 2),
}


def pair(name):
    """The network as it is and fused, both attached, and data for it."""
    torch.manual_seed(0)
    make, shape, _ = NETWORKS[name]
    plain = make()
    fused = copy.deepcopy(plain)
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9) for model in (plain, fused)]
    training = tt.attach(fused, optimizers[1]).apply("fuse")
    return plain, fused, optimizers, training, torch.randn(shape), torch.randint(5, (4,))


@pytest.mark.parametrize("name", NETWORKS)
def test_the_numbers_stay_the_same(name):
    plain, fused, optimizers, training, x, y = pair(name)
    chains = [line for line in training.changes[-1].details if not line.startswith("left")]
    assert len(chains) >= NETWORKS[name][2], training.changes[-1]
    for _ in range(5):
        losses = []
        for model, optimizer in zip((plain, fused), optimizers, strict=True):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    torch.testing.assert_close(fused.eval()(x), plain.eval()(x), rtol=1e-3, atol=1e-4)
    assert list(fused.state_dict()) == list(plain.state_dict())


@pytest.mark.parametrize("name", NETWORKS)
def test_undo_copies_and_pickles(name):
    plain, fused, _, training, x, _ = pair(name)
    buffer = io.BytesIO()
    torch.save(fused, buffer)
    buffer.seek(0)
    for twin in (copy.deepcopy(fused), torch.load(buffer, weights_only=False)):
        torch.testing.assert_close(twin(x), fused(x))
        assert not {id(p) for p in twin.parameters()} & {id(p) for p in fused.parameters()}
    fused.load_state_dict(plain.state_dict())
    training.undo()
    assert torch.equal(fused(x), plain(x))
    assert [type(m) for m in fused.modules()] == [type(m) for m in plain.modules()]
    assert [set(m.__dict__) for m in fused.modules()] == [set(m.__dict__) for m in plain.modules()]


def test_dropout_goes_into_the_norm_and_drops_its_share():
    model = nn.Sequential(nn.Linear(20, 500), nn.LayerNorm(500), nn.ReLU(), nn.Dropout(0.3))
    tt.attach(model, torch.optim.SGD(model.parameters(), lr=0.1)).apply("fuse")
    assert [type(m) for m in model] == [nn.Linear, tn.LayerNorm, nn.Identity, nn.Identity]
    x = torch.randn(200, 20)
    alive, dropped = model.eval()(x), model.train()(x)
    share = ((dropped == 0) & (alive > 0)).sum() / (alive > 0).sum()
    assert share.item() == pytest.approx(0.3, abs=0.01)  # 50 000 draws: five standard errors
    assert torch.equal(model.eval()(x), alive)


def test_hooks_shared_norms_and_odd_forwards_are_left_alone():
    hooked = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.ReLU())
    seen = []
    hooked[2].register_forward_hook(lambda *_: seen.append(1))

    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm1d(4)

        def forward(self, x):
            return F.relu(self.norm(x)) if x.sum() > 0 else F.relu(-self.norm(x))

    class ByMode(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm1d(4)

        def forward(self, x):
            return F.dropout(F.relu(self.norm(x)), 0.5, self.training)

    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm1d(4)

        def forward(self, x):
            return F.relu(self.norm(x)) + self.norm(x)

    class Optional(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm1d(4)

        def forward(self, x, scale=None):
            return F.relu(self.norm(x)) if scale is None else x

    model = nn.Sequential(hooked, Odd(), ByMode(), Twice(), Optional())
    training = tt.attach(model, torch.optim.SGD(model.parameters(), lr=0.1)).apply("fuse")
    details = "\n".join(training.changes[-1].details)
    assert "left alone 1: torch.fx cannot trace it" in details
    assert "left alone 2: its forward is another one in evaluation" in details
    assert "left alone 4: its forward has optional arguments" in details
    assert all(norm.activation == "none" for norm in model.modules() if isinstance(norm, tn.BatchNorm1d))
    model(torch.randn(6, 4))
    assert seen == [1]


def test_additions_that_broadcast():
    class Embed(nn.Module):
        def __init__(self):
            super().__init__()
            self.place, self.norm, self.fc = nn.Parameter(torch.randn(1, 5, 12)), nn.LayerNorm(12), nn.Linear(12, 12)

        def forward(self, x):
            return self.norm(self.place + self.fc(x))

    model = nn.Sequential(Embed(), nn.Flatten(), nn.Linear(60, 2))
    x = torch.randn(3, 5, 12)
    wanted = model(x)
    tt.attach(model, torch.optim.SGD(model.parameters(), lr=0.1)).apply("fuse")
    assert type(model[0].norm) is tn.AddLayerNorm
    found = model(x)
    torch.testing.assert_close(found, wanted)
    found.sum().backward()
    assert model[0].place.grad.shape == (1, 5, 12)


def test_bert_from_a_config():
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=50, hidden_size=24, num_hidden_layers=2, num_attention_heads=3, intermediate_size=48,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    model = transformers.BertModel(config)
    tokens = torch.randint(50, (3, 7))
    wanted = model(tokens).last_hidden_state
    training = tt.attach(model, torch.optim.AdamW(model.parameters())).apply("fuse")
    torch.testing.assert_close(model(tokens).last_hidden_state, wanted, rtol=1e-4, atol=1e-5)
    joined = [type(m).__name__ for m in model.modules()].count("AddLayerNorm")
    assert joined >= 4, training.changes[-1]  # behind attention and behind the feed-forward part of both layers
    training.undo()
    assert torch.equal(model(tokens).last_hidden_state, wanted)


def test_a_model_without_norms_is_told_so():
    model = nn.Linear(3, 2)
    with pytest.raises(LookupError, match="neither torch norms nor dropouts"):
        tt.attach(model, torch.optim.SGD(model.parameters(), lr=0.1)).apply("fuse")


@pytest.mark.parametrize(
    "drop",
    [tn.Dropout(0.3, count="exact"), tn.Dropout(0.3, scaling="original"), tn.Dropout(0.3, shape="channel")],
    ids=str,
)
def test_a_dropout_of_another_kind_stays_what_it_is(drop):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), drop, nn.Flatten(), nn.LazyLinear(2))
    model(torch.randn(2, 3, 8, 8))
    tt.attach(model, torch.optim.SGD(model.parameters(), 0.1)).apply("fuse")
    assert model[1].activation == "relu" and model[1].dropout == 0.0
    assert model[3] is drop
