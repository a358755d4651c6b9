"""drop_connect, standout, zoneout and r_drop on live trainings: what each computes, by hand."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

import trimtab as tt
from tests.conftest import LastStep, network, train

pytestmark = pytest.mark.usefixtures("trained_values")


def attached(model: nn.Module, text: str) -> tt.Training:
    """The handle on a training, to be kept: it lives as long as its optimizer, which nothing else holds here."""
    return tt.attach(model, torch.optim.SGD(model.parameters(), lr=0.1)).apply(text)


def saved(model: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def recurrent(kind: type[nn.RNNBase] = nn.LSTM, **options) -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Unflatten(1, (8, 8)), LastStep(kind(8, 16, batch_first=True, **options)), nn.Linear(16, 10))


COPIES = {"deepcopy": copy.deepcopy, "saved": saved}


# -- drop_connect ------------------------------------------------------------------------------------------------------


def test_drop_connect_masks_the_weights_of_hidden_layers(digits):
    model, x = network().double(), digits[0].double()
    plain = copy.deepcopy(model)
    attached(model, "drop_connect(p=0.25)")
    masks = [copy.deepcopy(model[place].drop_connect)(*plain[place].parameters()) for place in (0, 2)]
    for (weight, _), place in zip(masks, (0, 2), strict=True):
        share = (weight == 0).double().mean().item()
        assert 0.1 < share < 0.4  # of 256 and more
        kept = weight != 0
        torch.testing.assert_close(weight[kept], plain[place].weight[kept] / 0.75)
    wanted = plain[4](F.relu(F.linear(F.relu(F.linear(x, *masks[0])), *masks[1])))
    found = model(x)
    torch.testing.assert_close(found, wanted)
    found.sin().sum().backward()
    wanted.sin().sum().backward()
    for a, b in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)


@pytest.mark.parametrize("kind", ["mlp", "cnn", "recurrent"])
def test_drop_connect_leaves_evaluation_and_names_alone(kind, digits):
    model, x = network(kind), digits[0]
    plain = copy.deepcopy(model)
    attached(model, "drop_connect")
    assert model.state_dict().keys() == plain.state_dict().keys()
    assert not torch.equal(model(x), plain(x))
    assert [id(p) for p in model.parameters()] == [
        id(p) for m in model.modules() for p in m._parameters.values() if p is not None
    ]
    with torch.no_grad():
        assert torch.equal(model(x), plain(x))
    assert torch.equal(model.eval()(x), plain(x))


@pytest.mark.parametrize("how", COPIES.values(), ids=COPIES)
@pytest.mark.parametrize("kind", ["mlp", "recurrent"])
@pytest.mark.parametrize("technique", ["drop_connect", "standout", "zoneout"])
def test_copies_of_the_model_go_on_alike(technique, kind, how, digits):
    if (technique, kind) in {("zoneout", "mlp"), ("standout", "recurrent")}:
        kind = {"zoneout": "recurrent", "standout": "cnn"}[technique]
    model, x = network(kind), digits[0]
    attached(model, technique)
    first, twin = model(x), how(model)
    second = model(x)
    assert torch.equal(second, twin(x)) and not torch.equal(first, second)
    weight = next(twin.parameters())
    with torch.no_grad():
        weight.zero_()  # the copy computes with its own weights
    assert not torch.equal(how(model)(x), twin(x))


def test_drop_connect_serves_recurrent_layers(digits):
    model, x = recurrent(num_layers=2, bidirectional=False).double(), digits[0].double()
    plain = copy.deepcopy(model)
    attached(model, "drop_connect(on='recurrent')")
    rnn = model[1].rnn
    names = ["weight_hh_l0", "weight_hh_l1"]
    masked = copy.deepcopy(rnn.drop_connect)(*(getattr(rnn, name) for name in names))
    plain.load_state_dict({**plain.state_dict(), **{f"1.rnn.{n}": w for n, w in zip(names, masked, strict=True)}})
    torch.testing.assert_close(model(x), plain(x))
    with pytest.raises((RuntimeError, ValueError)):
        rnn(torch.randn(2, 3, 5).double())
    assert all(w is p for w, p in zip(rnn._flat_weights, rnn.parameters(), strict=True))


def test_drop_connect_goes_with_zoneout(digits):
    model, x = network("recurrent"), digits[0]
    training = attached(model, "zoneout, drop_connect(on='recurrent')")
    assert training.changes[0].summary == "DropConnect with p=0.5 on 1 layers: 1.rnn"
    rnn = copy.deepcopy(model[1].rnn)
    weight = copy.deepcopy(rnn.drop_connect)(rnn.weight_hh_l0)[0]
    plain = copy.deepcopy(rnn)
    plain.drop_connect.eval()  # the same module without masks, with masked weights
    plain.load_state_dict({**rnn.state_dict(), "weight_hh_l0": weight})
    steps = x.view(-1, 8, 8)
    torch.testing.assert_close(rnn(steps)[0], plain(steps)[0])


def test_a_call_that_fails_leaves_the_weights_in_place():
    model = network()
    attached(model, "drop_connect")
    with pytest.raises(RuntimeError):
        model(torch.randn(2, 63))
    assert model[0].weight is model[0]._parameters["weight"]


def test_drop_connect_leaves_computed_weights_alone_and_says_so(digits):
    model = network()
    parametrizations.weight_norm(model[0])
    (change,) = attached(model, "drop_connect").changes
    assert str(change) == "\n  ".join(
        ["DropConnect with p=0.5 on 1 layers: 2", "0: left alone, its weights are computed from other tensors"]
    )
    parametrizations.weight_norm(model[2])
    with pytest.raises(tt.NothingToDo, match="has no hidden linear layer whose weights are parameters of their own"):
        attached(model, "drop_connect(on='linear')")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "drop_connect(on='conv')",
            "drop_connect(on='conv') found nothing to act on: the model has no hidden conv layer.",
        ),
        ("zoneout", "zoneout found nothing to act on: the model has no LSTM, GRU or RNN."),
        ("r_drop", "r_drop found nothing to act on: the model has no dropout, so both passes would give the same."),
    ],
)
def test_nothing_to_do(text, message):
    with pytest.raises(tt.NothingToDo) as error:
        attached(network(), text)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("drop_connect(p=0)", "p=0 must lie strictly between 0 and 1: it is the probability of dropping a weight"),
        ("drop_connect(on='lstm')", "on='lstm' must be one of 'linear', 'conv', 'recurrent', 'all'"),
        ("standout(alpha=1e999)", "standout: alpha=1e999 must be a finite number"),
        ("zoneout(p=1)", "p is the probability of keeping the last value and must lie in [0, 1)"),
        ("zoneout(p=0)", "p and p_cell must not both be 0"),
        ("r_drop(alpha=0)", "alpha=0 must be positive: it is the weight of the divergence"),
        (
            "deep_ensemble, r_drop",
            "r_drop cannot be combined with deep_ensemble: their members would be given the doubled batch",
        ),
    ],
)
def test_bad_settings_say_what_to_do(text, message):
    with pytest.raises(tt.RecipeError) as error:
        attached(network("dropout"), text)
    assert message in str(error.value)


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # dynamo looks at it behind the break for the generator
@pytest.mark.parametrize(
    ("technique", "kind"), [("drop_connect", "mlp"), ("standout", "mlp"), ("drop_connect", "recurrent")]
)
def test_compiles(technique, kind, digits):
    torch._dynamo.reset()
    model, x = network(kind), digits[0]
    attached(model, technique)
    twin = copy.deepcopy(model)
    compiled = torch.compile(model, backend="eager")
    torch.testing.assert_close(compiled(x), twin(x))
    torch.testing.assert_close(compiled.eval()(x), twin.eval()(x))


# -- standout ----------------------------------------------------------------------------------------------------------


def test_standout_is_the_part_for_relu(digits):
    model, x = network(), digits[0]
    twin = copy.deepcopy(model)
    attached(model, "standout(alpha=2.0, beta=0.5)")
    layers = []
    for place in (0, 2):
        layers.append(tt.nn.Standout(twin[place], "relu", 2.0, 0.5))
        layers[-1].mask = copy.deepcopy(model[place].standout)
    parts = nn.Sequential(*layers, twin[4])
    torch.testing.assert_close(model(x), parts(x))
    with torch.no_grad():  # evaluation for a script that never calls eval()
        torch.testing.assert_close(model(x), parts.eval()(x))
    torch.testing.assert_close(model.eval()(x), parts(x))
    z = twin[0](x)
    torch.testing.assert_close(parts[0](x), z.relu() * torch.sigmoid(2 * z + 0.5))


# -- zoneout -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_zoneout_makes_the_module_the_part_and_back(kind, digits):
    model, x = recurrent(kind), digits[0]
    rnn, before = model[1].rnn, model(x)
    identities = [id(p) for p in model.parameters()]
    training = attached(model, "zoneout(p=0.25)")
    part = getattr(tt.nn, f"Zoneout{kind.__name__}")
    assert isinstance(rnn, part) and [id(p) for p in model.parameters()] == identities
    twin = part(8, 16, batch_first=True, p=0.25)
    twin.load_state_dict(rnn.state_dict())
    twin.zoneout.generator = copy.deepcopy(rnn.zoneout).generator
    steps = x.view(-1, 8, 8)
    torch.testing.assert_close(rnn(steps), twin(steps))
    with torch.no_grad():  # evaluation for a script that never calls eval()
        torch.testing.assert_close(rnn(steps), twin.eval()(steps))
    assert training.changes[0].acted()
    training.undo()
    assert type(rnn) is kind and not hasattr(rnn, "zoneout")
    assert torch.equal(model(x), before)


def test_zoneout_leaves_other_classes_alone_and_says_so():
    class Mine(nn.LSTM):
        pass

    model = nn.ModuleDict({"mine": Mine(3, 4), "projected": nn.LSTM(3, 4, proj_size=2), "plain": nn.GRU(3, 4)})
    training = attached(model, "zoneout(p=0.1, p_cell=0.5)")
    assert str(training.changes[0]) == "\n  ".join(
        [
            "zoneout with p=0.1 (p=0.5 for the cell) in 1 layers: plain",
            "mine: left alone, a Mine",
            "projected: left alone, a LSTM",
        ]
    )
    assert not training.changes[0].acted()  # never called
    with pytest.raises(tt.NothingToDo, match="no LSTM, GRU or RNN of torch's own class without projections, only mine"):
        attached(nn.ModuleDict({"mine": Mine(3, 4)}), "zoneout")


# -- r_drop ------------------------------------------------------------------------------------------------------------


def doubled(model: nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What a copy of the model, which takes no part in the training, says to the batch taken twice."""
    halves = copy.deepcopy(model)(torch.cat([x, x])).chunk(2)
    assert not torch.equal(*halves)
    return halves


def kl(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    return (p * (p.log() - q.log())).sum(-1)


def symmetric(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    p, q = a.softmax(-1), b.softmax(-1)
    return (kl(p, q) + kl(q, p)) / 2


def test_r_drop_is_its_formula(digits):
    model, x, y = network("dropout").double(), digits[0].double(), digits[1]
    twin = copy.deepcopy(model)
    one, two = twin(torch.cat([x, x])).chunk(2)
    wanted = (F.cross_entropy(one, y) + F.cross_entropy(two, y)) / 2 + 0.7 * symmetric(one, two).mean()
    training = attached(model, "r_drop(alpha=0.7)")
    recorded = []
    training.on("step", lambda loss: recorded.append(loss.item()))
    output = model(x)
    assert torch.equal(output, one)
    loss = F.cross_entropy(output, y)
    torch.testing.assert_close(loss, wanted)
    loss.backward()
    wanted.backward()
    for a, b in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)
    training.optimizers[0].step()
    assert recorded == [F.cross_entropy(one, y).item()]  # the record is the plain loss


@pytest.mark.parametrize(
    "name", ["log probabilities", "binary", "regression", "regression, target first", "sum", "ignored"]
)
def test_r_drop_with_other_losses(name, digits):
    model, x, y = network("dropout").double(), digits[0].double(), digits[1]
    if name == "log probabilities":
        model.append(nn.LogSoftmax(-1))
    training = attached(model, "r_drop(alpha=0.7)")
    one, two = doubled(model, x)
    hot = F.one_hot(y, 10).double()
    if name == "log probabilities":
        loss, divergence = F.nll_loss, symmetric(one, two).mean()
        wanted = (loss(one, y) + loss(two, y)) / 2
        found = loss(model(x), y)
    elif name == "binary":
        loss, p, q = F.binary_cross_entropy_with_logits, one.sigmoid(), two.sigmoid()
        both = [torch.stack([p, 1 - p], -1), torch.stack([q, 1 - q], -1)]
        divergence = (kl(*both) + kl(*both[::-1])).mean() / 2
        wanted = (loss(one, hot) + loss(two, hot)) / 2
        found = loss(model(x), hot)
    elif name.startswith("regression"):
        divergence = F.mse_loss(one, two)
        wanted = (F.mse_loss(one, hot) + F.mse_loss(two, hot)) / 2
        found = F.mse_loss(hot, model(x)) if "first" in name else F.mse_loss(model(x), hot)
    else:
        kept = y != 3
        given = {"reduction": "sum"} if name == "sum" else {"ignore_index": 3}
        each = symmetric(one, two)
        divergence = each.sum() if name == "sum" else each[kept].mean()
        wanted = (F.cross_entropy(one, y, **given) + F.cross_entropy(two, y, **given)) / 2
        found = nn.CrossEntropyLoss(**given)(model(x), y)
    torch.testing.assert_close(found, wanted + 0.7 * divergence)
    assert training.changes[0].acted()


class Words(nn.Module):
    """Classes for each of several positions, of whole numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Embedding(17, 8), tt.nn.Dropout(0.3, generator=torch.Generator().manual_seed(0)), nn.Linear(8, 5)
        )

    def forward(self, words: torch.Tensor) -> torch.Tensor:
        return self.body(words)[:, 1:]


@pytest.mark.parametrize(
    "view",
    [
        lambda z: z.movedim(-1, 1),
        lambda z: z[:, :2].movedim(-1, 1),
        lambda z: z[3:, 0],
        lambda z: z.unsqueeze(0).squeeze()[:, 1].view(2, -1, 5).movedim(-1, 1),
        lambda z: z.log_softmax(-1).movedim(-1, 1),
    ],
    ids=["channels second", "first positions", "rows", "long way", "log-probabilities"],
)
def test_r_drop_follows_views_of_the_output(view, digits):
    torch.manual_seed(0)
    model, words = Words(), (digits[0][:, 20:25] * 8 + 8).long()
    training = attached(model, "r_drop")
    one, two = (view(half) for half in doubled(model, words))
    classes = words[: one.numel() // 5].flatten()[: one.numel() // 5].view(one[:, 0].shape) % 5
    mean = (F.cross_entropy(one, classes) + F.cross_entropy(two, classes)) / 2
    divergence = symmetric(one.movedim(1, -1), two.movedim(1, -1)).mean()
    torch.testing.assert_close(F.cross_entropy(view(model(words)), classes), mean + divergence)
    assert training.changes[0].acted()


def test_r_drop_says_that_it_did_nothing(digits):
    for change in (lambda z: z * 2, lambda z: z.mul_(0.5)):
        model = network("dropout")
        training = attached(model, "r_drop")
        z = change(model(digits[0]))
        F.cross_entropy(z, digits[1]).backward()
        assert not training.changes[0].acted()


def test_r_drop_takes_part_in_training_only(digits):
    model, (x, y) = network("dropout"), digits
    training = attached(model, "r_drop")
    plain = copy.deepcopy(model)
    with torch.no_grad():
        assert F.cross_entropy(model(x), y) == F.cross_entropy(plain(x), y)
    assert torch.equal(model.eval()(x), plain.eval()(x))
    training.undo()
    model.train(), plain.train()
    assert F.cross_entropy(model(x), y) == F.cross_entropy(plain(x), y)


def test_r_drop_goes_with_dropout_and_label_smoothing(digits):
    model, (x, y) = network(), digits
    training = attached(model, "r_drop(alpha=0.5), label_smoothing(0.1), dropout(p=0.3)")
    one, two = copy.deepcopy(model)(torch.cat([x, x])).chunk(2)
    mean = sum(F.cross_entropy(half, y, label_smoothing=0.1) for half in (one, two)) / 2
    torch.testing.assert_close(F.cross_entropy(model(x), y), mean + 0.5 * symmetric(one, two).mean())
    assert all(change.acted() for change in training.changes)


def test_r_drop_needs_rows_in_and_out(digits):
    model = nn.Sequential(nn.Linear(64, 10), nn.Dropout(0.5), nn.Flatten(0))
    training = attached(model, "r_drop")
    with pytest.raises(ValueError) as error:
        model(digits[0][:8])
    assert not training.changes[0].acted()
    assert str(error.value) == (
        "r_drop: the model's output must have a row for each row of its input, which were 8, taken twice; its shape was (160,). "
        "Leave r_drop out, or use trimtab.nn.functional.r_drop_loss in the script."
    )


@pytest.mark.parametrize(
    ("dropout", "found"),
    [
        (nn.Dropout(0.1), True),
        (nn.Dropout(0.0), False),
        (nn.LSTM(4, 4, 2, dropout=0.1), True),
        (nn.LSTM(4, 4), False),
        (nn.MultiheadAttention(4, 2, dropout=0.1), True),
        (tt.nn.DropConnectLinear(4, 4), True),
        (tt.nn.ZoneoutGRU(4, 4), True),
        (tt.nn.Standout(nn.Linear(4, 4)), True),
        (nn.PairwiseDistance(p=2), False),
    ],
)
def test_r_drop_finds_dropout_of_any_kind(dropout, found):
    model = nn.ModuleList([nn.Linear(4, 4), dropout])
    if found:
        assert "through 1 dropout" in attached(model, "r_drop").changes[0].summary
    else:
        with pytest.raises(tt.NothingToDo):
            attached(model, "r_drop")


def test_all_of_them_train(digits):
    for kind, text in (
        ("mlp", "drop_connect(p=0.2)"),
        ("mlp", "standout"),
        ("recurrent", "zoneout"),
        ("dropout", "r_drop"),
    ):
        model = network(kind)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        training = tt.attach(model, optimizer).apply(text)
        train(model, optimizer, digits, 120)
        assert training.changes[0].acted()
        model.eval()
        with torch.no_grad():
            right = (model(digits[0]).argmax(1) == digits[1]).double().mean().item()
        assert right > 0.8, (text, right)  # of ten classes


@pytest.mark.parametrize(
    ("technique", "kind"), [("drop_connect", "mlp"), ("standout", "mlp"), ("zoneout", "recurrent")]
)
def test_monte_carlo_samples_them(technique, kind, digits):
    model = network(kind)
    training = attached(model, technique)
    spread = tt.nn.monte_carlo(model.eval(), digits[0][:8], samples=10).std
    assert spread.min() > 0
    training.undo()
    assert not any("mask" in type(module).__name__.lower() for module in model.modules())
