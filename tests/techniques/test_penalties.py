"""Penalties in a live training: the same updates as with the penalty in the loss, whatever the training does around them."""

from __future__ import annotations

import copy
import io
import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn import linear_model
from sklearn.datasets import load_diabetes
from torch import nn

import trimtab as tt
from tests.conftest import network, train
from trimtab import optim as P
from trimtab.recipe import NothingToDo
from trimtab.techniques.engines.choose import chosen

PENALTIES = {
    "l1(factor=0.01)": lambda ws: P.l1_penalty(ws, 0.01),
    "l2(factor=0.1)": lambda ws: P.l2_penalty(ws, 0.1),
    "elastic_net(l1=0.01, l2=0.1)": lambda ws: P.elastic_net_penalty(ws, 0.01, 0.1),
    "lp(factor=0.01, p=1.5)": lambda ws: P.lp_penalty(ws, 0.01, 1.5),
}
OPTIMIZERS = {
    "sgd": lambda ps: torch.optim.SGD(ps, 0.1, momentum=0.9, nesterov=True),
    "adamw": lambda ps: torch.optim.AdamW(ps, 0.01),
    "maximize": lambda ps: torch.optim.SGD(ps, 0.1, maximize=True),
    "lbfgs": lambda ps: torch.optim.LBFGS(ps, 0.5, max_iter=3),
}
CLOSE = {"rtol": 1e-10, "atol": 1e-12}  # float64, some steps: the order of a sum of two gradients


def weights_of(model: nn.Module) -> list[torch.Tensor]:
    return [p for name, p in model.named_parameters() if name.endswith("weight")]


def loss_of(model: nn.Module, data: tuple, rows: slice = slice(0, 64)) -> torch.Tensor:
    return F.cross_entropy(model(data[0][rows]), data[1][rows])


@pytest.fixture
def doubles(digits) -> tuple[torch.Tensor, torch.Tensor]:
    return digits[0].double(), digits[1]


def pair(make) -> tuple:
    """A network in float64 with its optimizer, and its twin."""
    models = [network().double() for _ in range(2)]
    return [(model, make(model.parameters())) for model in models]


def assert_same_weights(one: nn.Module, other: nn.Module, **close: float) -> None:
    for p, q in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p, q, **(close or CLOSE))


# -- the same as in the loss -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("text", PENALTIES)
def test_updates_are_those_of_the_penalty_in_the_loss(text, optimizer, doubles):
    (model, mine), (twin, its) = pair(OPTIMIZERS[optimizer])
    training = tt.attach(model, mine).apply(text)
    sign = -1 if optimizer == "maximize" else 1  # a penalty is to shrink weights, whatever the loss is for
    for _ in range(3):

        def plain():
            mine.zero_grad()
            loss = sign * loss_of(model, doubles)
            loss.backward()
            return loss

        def with_penalty():
            its.zero_grad()
            loss = sign * (loss_of(twin, doubles) + PENALTIES[text](weights_of(twin)))
            loss.backward()
            return loss

        for closure, one in ((plain, mine), (with_penalty, its)):
            if optimizer == "lbfgs":
                one.step(closure)
            else:
                closure()
                one.step()
    assert_same_weights(model, twin)
    assert not torch.equal(model[0].weight, network().double()[0].weight)
    assert training.changes[0].acted()


@pytest.mark.parametrize("text", PENALTIES)
def test_a_penalty_is_added_once_whatever_the_accumulation(text, doubles):
    (model, mine), (twin, its) = pair(OPTIMIZERS["sgd"])
    tt.attach(model, mine).apply(text)
    for _ in range(2):
        mine.zero_grad()
        for part in range(4):
            (loss_of(model, doubles, slice(16 * part, 16 * part + 16)) / 4).backward()
        mine.step()
        its.zero_grad()
        (loss_of(twin, doubles) + PENALTIES[text](weights_of(twin))).backward()
        its.step()
    assert_same_weights(model, twin)


@pytest.mark.parametrize("fused", [False, True])
def test_a_penalty_is_not_scaled_with_the_loss(fused, digits):
    """Also where a fused optimizer takes scaled gradients and unscales them itself."""
    trained = []
    for scaled in (False, True):
        model = network()
        optimizer = torch.optim.Adam(model.parameters(), 0.01, fused=fused)
        tt.attach(model, optimizer).apply("l2(factor=1.0)")
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, enabled=scaled)
        for _ in range(3):
            optimizer.zero_grad()
            scaler.scale(loss_of(model, digits)).backward()
            scaler.step(optimizer)
            scaler.update()
        trained.append(model)
    # a power of two scales float32 exactly
    assert_same_weights(*trained, rtol=1e-6, atol=1e-6)


def test_the_recorded_loss_stays_plain_and_the_report_tells_the_penalty(digits):
    model = network()
    training = tt.attach(model, torch.optim.SGD(model.parameters(), 0.1, weight_decay=0.01)).apply("l2(factor=0.5)")
    recorded: list[float] = []
    training.on("step", lambda loss: recorded.append(loss.item()))
    assert train(model, training.optimizers[0], digits, 2) == recorded
    change = training.changes[0]
    value = P.l2_penalty(weights_of(model), 0.5).item()
    assert str(change).split("\n  ") == [
        f"l2(factor=0.5) on 3 parameters: 0.weight, 2.weight, 4.weight: the penalty is {value:.4g}",
        "SGD has weight_decay=0.01 of its own, which comes on top",
    ]


def test_each_optimizer_is_penalized_for_its_own_parameters(doubles):
    model, twin = (network().double() for _ in range(2))

    def halves(model):
        return torch.optim.SGD(model[:2].parameters(), 0.1), torch.optim.Adam(model[2:].parameters(), 0.01)

    mine, its = halves(model), halves(twin)
    tt.attach(model, list(mine)).apply("l1(factor=0.01)")
    loss_of(model, doubles).backward()
    (loss_of(twin, doubles) + P.l1_penalty(weights_of(twin), 0.01)).backward()
    for one in (*mine, *its):
        one.step()
    assert_same_weights(model, twin)


def test_parameters_without_a_gradient_are_left_alone(doubles):
    model = nn.ModuleDict({"used": nn.Linear(64, 10), "unused": nn.Linear(64, 10)}).double()
    before = model["unused"].weight.detach().clone()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for text in ("l2(factor=1.0)", "l1(factor=1.0, proximal=True)"):
        training = tt.attach(model, optimizer).apply(text)
        loss_of(model["used"], doubles).backward()
        optimizer.step()
        training.undo()
    assert torch.equal(model["unused"].weight, before)


# -- proximal ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def diabetes() -> tuple[torch.Tensor, torch.Tensor]:
    x, y = load_diabetes(return_X_y=True)
    return torch.tensor((x - x.mean(0)) / x.std(0)), torch.tensor((y - y.mean()) / y.std()).unsqueeze(1)


def regress(diabetes, text: str, steps: int = 1500, **options) -> nn.Linear:
    model = nn.Linear(10, 1).double()
    optimizer = torch.optim.SGD(model.parameters(), **options)
    tt.attach(model, optimizer).apply(text)
    for _ in range(steps):
        optimizer.zero_grad()
        F.mse_loss(model(diabetes[0]), diabetes[1]).backward()
        optimizer.step()
    return model


@pytest.mark.parametrize("options", [{"lr": 0.1}, {"lr": 0.03, "momentum": 0.8}, {"lr": 0.1, "momentum": 0.8, "dampening": 0.5}])  # fmt: skip
def test_proximal_l1_trains_the_lasso(options, diabetes):
    # mse is twice the mean of half squares, so its lambda is 2 alpha
    peer = linear_model.Lasso(alpha=0.1, tol=1e-12).fit(diabetes[0], diabetes[1].squeeze(1))
    model = regress(diabetes, "l1(factor=0.2, proximal=True)", **options)
    w = model.weight.detach().squeeze(0).numpy()
    np.testing.assert_allclose(w, peer.coef_, atol=1e-4)
    assert np.array_equal(w == 0, peer.coef_ == 0) and (w == 0).sum() >= 5


def test_proximal_elastic_net_trains_scikit_learns(diabetes):
    peer = linear_model.ElasticNet(alpha=0.1, l1_ratio=0.5, tol=1e-12).fit(diabetes[0], diabetes[1].squeeze(1))
    model = regress(diabetes, "elastic_net(l1=0.1, l2=0.1, proximal=True)", lr=0.1, momentum=0.5)
    np.testing.assert_allclose(model.weight.detach().squeeze(0).numpy(), peer.coef_, atol=1e-4)


def test_l2_trains_the_ridge_also_with_lbfgs(diabetes):
    # Ridge has the sum of squares plus alpha ||w||^2; mse plus lambda/2 ||w||^2 is that over n with lambda = 2 alpha / n
    peer = linear_model.Ridge(alpha=44.2).fit(diabetes[0], diabetes[1].squeeze(1))
    model = nn.Linear(10, 1).double()
    optimizer = torch.optim.LBFGS(model.parameters(), 0.5, max_iter=200, tolerance_change=1e-14)
    tt.attach(model, optimizer).apply("l2(factor=0.2)")

    def closure():
        optimizer.zero_grad()
        loss = F.mse_loss(model(diabetes[0]), diabetes[1])
        loss.backward()
        return loss

    optimizer.step(closure)
    np.testing.assert_allclose(model.weight.detach().squeeze(0).numpy(), peer.coef_, atol=1e-5)


def test_l1_makes_networks_sparse_and_l2_does_not(digits):
    shares = {}
    for text in ("l1(factor=0.003, proximal=True)", "l1(factor=0.003)", "l2(factor=0.003)"):
        model = network()
        optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
        tt.attach(model, optimizer).apply(text)
        losses = train(model, optimizer, digits, 150)
        assert losses[-1] < 0.5
        shares[text] = [(p == 0).double().mean().item() for p in weights_of(model)]
    proximal, gradient, l2 = shares.values()
    assert min(proximal) > 0.2
    assert gradient == l2 == [0.0, 0.0, 0.0]


# -- L0 ------------------------------------------------------------------------------------------------------------------


def test_l0_closes_gates_and_keeps_the_network(digits):
    shares, accuracies = [], []
    for factor in (1e-12, 1e-3):
        model = network()
        optimizer = torch.optim.Adam(model.parameters(), 0.02)
        training = tt.attach(model, optimizer).apply(f"l0(factor={factor})")
        train(model, optimizer, digits, 300, batch=64)
        model.eval()
        with torch.no_grad():
            accuracies.append((model(digits[0]).argmax(1) == digits[1]).double().mean().item())
            closed = sum((model[i].gates() == 0).sum().item() for i in (0, 2, 4))
        assert str(training.changes[0]).endswith(f"{closed} of 1440 gates are closed")
        shares.append(closed / 1440)
    assert shares[0] < 0.1 and shares[1] > 0.3
    assert min(accuracies) > 0.9


def test_l0_adds_the_gradient_of_its_expected_count(digits):
    gradients = []
    for factor in (1e-12, 0.5):
        model = network().double()
        optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
        tt.attach(model, optimizer).apply(f"l0(factor={factor})")
        before = model[0].gates.log_alpha.detach().clone()
        loss_of(model, (digits[0].double(), digits[1])).backward()  # the same gates are drawn: one seed
        optimizer.step()
        gradients.append(before - model[0].gates.log_alpha.detach())
    open_ = torch.sigmoid(before - 2 / 3 * np.log(0.1 / 1.1))
    torch.testing.assert_close(gradients[1] - gradients[0], 0.5 * open_ * (1 - open_), rtol=1e-9, atol=1e-11)


def test_l0_leaves_evaluation_as_it_was_at_the_start(digits):
    model = network("cnn")
    plain = copy.deepcopy(model)
    tt.attach(model, torch.optim.Adam(model.parameters())).apply("l0")
    x = digits[0][:16]
    with torch.no_grad():
        assert torch.equal(model(x), plain(x))
    assert torch.equal(model.eval()(x), plain.eval()(x))
    assert not torch.equal(model.train()(x), plain.train()(x))
    assert "weight" not in vars(model[1])  # the gated weight stands in its place during the call only


def test_l0_after_an_error_in_the_layer_finds_its_weight_again():
    model = nn.Linear(3, 2)
    training = tt.attach(model, torch.optim.Adam(model.parameters())).apply("l0")
    with pytest.raises(RuntimeError, match="shape"):
        model(torch.ones(1, 4))
    assert model.weight is dict(model.named_parameters())["weight"]
    training.undo()
    assert list(model.state_dict()) == ["weight", "bias"]


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # torch 2.13: dynamo's own
def test_l0_pickles_copies_and_compiles(digits):
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    tt.attach(model, optimizer).apply("l0(factor=0.01, p=0.4)")
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    read, copied, x = torch.load(file, weights_only=False), copy.deepcopy(model), digits[0][:8]
    expected = model(x)
    assert torch.equal(read(x), expected)  # the same gates are drawn
    assert torch.equal(copied(x), expected)
    torch.compiler.reset()  # what other tests compiled shall not decide how often the code is entered
    assert torch.equal(torch.compile(read, backend="eager")(x), model(x))
    with torch.no_grad():
        copied[0].gates.log_alpha.fill_(-9.0)
        assert torch.equal(copied[0](x), copied[0].bias.expand(8, -1))  # its own gates, all closed
    assert torch.equal(read.eval()(x), model.eval()(x))


def test_l0_that_cannot_join_the_optimizer_leaves_nothing_behind(digits):
    model = network()
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=2)

    def closure():
        optimizer.zero_grad()
        loss = loss_of(model, digits)
        loss.backward()
        return loss

    optimizer.step(closure)  # its history has begun
    training = tt.attach(model, optimizer)
    keys, count = list(model.state_dict()), len(optimizer.param_groups[0]["params"])
    with pytest.raises(NothingToDo, match="apply the recipe before the first step"):
        training.apply("l0")
    assert list(model.state_dict()) == keys and len(optimizer.param_groups[0]["params"]) == count
    assert not any(module._forward_pre_hooks for module in model)


def test_l0_leaves_parametrized_layers_alone_and_takes_only_what_is_named():
    model = nn.Sequential(nn.Linear(4, 4), nn.Conv1d(4, 4, 1), nn.Linear(4, 2))
    nn.utils.parametrizations.spectral_norm(model[0])
    optimizer = torch.optim.Adam(model.parameters())
    training = tt.attach(model, optimizer).apply("l0")
    assert training.changes[0].details == ("0: left alone: its weight is parametrized.",)
    assert [name for name, p in model.named_parameters() if "log_alpha" in name] == ["1.gates.log_alpha", "2.gates.log_alpha"]  # fmt: skip
    training.undo().apply("l0(only='Conv1d')")
    assert [name for name, p in model.named_parameters() if "log_alpha" in name] == ["1.gates.log_alpha"]
    training.undo()
    with pytest.raises(NothingToDo, match=r"l0\(only='0\.\*'\) found nothing to act on: 0: left alone"):
        training.apply("l0(only='0.*')")
    with pytest.raises(NothingToDo, match="these are no weights of linear or convolution layers"):
        training.apply("l0(only='1.bias')")


# -- which parameters --------------------------------------------------------------------------------------------------


class Everything(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(3, 4)
        self.lstm = nn.LSTM(4, 4)
        self.attention = nn.MultiheadAttention(4, 2)
        self.norm = nn.LayerNorm(4)
        self.scales = nn.Parameter(torch.ones(2, 4))
        self.bilinear = nn.Bilinear(2, 2, 2)
        self.conv = nn.utils.parametrizations.weight_norm(nn.Conv1d(1, 2, 1))
        self.spectral = nn.utils.parametrizations.spectral_norm(nn.Linear(4, 4))
        self.head = nn.Linear(4, 3)
        self.tied = nn.Linear(4, 3)
        self.tied.weight = self.head.weight
        self.lazy = nn.LazyLinear(2)


@pytest.mark.parametrize(
    ("only", "names"),
    [
        (
            "",
            "lstm.weight_ih_l0 lstm.weight_hh_l0 attention.in_proj_weight attention.out_proj.weight bilinear.weight "
            "spectral.parametrizations.weight.original head.weight",
        ),
        ("lstm.*hh*", "lstm.weight_hh_l0 lstm.bias_hh_l0"),
        ("*norm*", "norm.weight norm.bias"),
        ("LayerNorm", "norm.weight norm.bias"),
        ("scales", "scales"),
        (
            "Linear",
            "attention.out_proj.weight attention.out_proj.bias spectral.bias spectral.parametrizations.weight.original "
            "head.weight head.bias tied.bias",
        ),
        ("Everything", "scales"),
    ],
)
def test_chosen(only, names):
    model = Everything()
    parameters = [p for p in model.parameters() if not isinstance(p, nn.UninitializedParameter)]
    training = tt.attach(model, torch.optim.SGD(parameters, 0.1))
    found = chosen("a technique", training, only)
    assert [name for name, _ in found] == names.split()
    everything = dict(model.named_parameters())
    assert all(everything[name] is p for name, p in found)


@pytest.mark.parametrize(
    ("form", "made_of"),
    [
        pytest.param(
            nn.utils.weight_norm,
            "0.weight_g and 0.weight_v",
            marks=pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning"),
        ),
        (
            nn.utils.parametrizations.weight_norm,
            "0.parametrizations.weight.original0 and 0.parametrizations.weight.original1",
        ),
    ],
)
@pytest.mark.parametrize(
    "text", ["weight_decay", "l1", "l0", "orthogonal_penalty", "constrain", "constrain(method='lagrangian')"]
)
def test_both_forms_of_weight_norm_are_left_alone_and_told(text, form, made_of):
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    form(model[0])
    training = tt.attach(model, torch.optim.SGD(model.parameters(), 0.1))
    (change,) = training.apply(text).changes
    left = f"left alone, as several parameters make one (0.weight is made of {made_of}): "
    assert change.details == (f"{left}0.weight",)
    assert re.search(r"\b1 (weights|parameters|layers)", change.summary)
    training.undo()
    form(model[2])
    with pytest.raises(NothingToDo, match=re.escape(f"weights. L{left[1:]}0.weight, 2.weight.")):
        training.apply(text)
    gains = made_of.split()[0].replace("0", "*", 1)  # of a weight norm; they can be named
    assert [name for name, _ in chosen("a technique", training, gains)] == [gains.replace("*", one) for one in "02"]


@pytest.mark.parametrize(
    ("only", "message"),
    [
        ("linear", "the model has no parameter and no class of modules 'linear'. Did you mean 'Bilinear' or 'Linear'"),
        ("heads.weight", "no class of modules 'heads.weight'. Did you mean 'head.weight'"),
        ("§", "no class of modules '§'. Its classes are Bilinear, Conv1d, Embedding, Everything, LSTM, LayerNorm, "),
    ],
)
def test_a_pattern_that_matches_nothing_is_answered_with_the_nearest(only, message):
    model = Everything()
    training = tt.attach(model, torch.optim.SGD(model.head.parameters(), 0.1))
    with pytest.raises(NothingToDo, match=re.escape(message)):  # fmt: skip
        training.apply(f"l1(only='{only}')")


def test_only_what_is_named_is_penalized(doubles):
    (model, mine), (twin, its) = pair(OPTIMIZERS["sgd"])
    tt.attach(model, mine).apply("l2(factor=0.5, only='4.*')")
    loss_of(model, doubles).backward()
    (loss_of(twin, doubles) + P.l2_penalty(twin[4].parameters(), 0.5)).backward()
    mine.step()
    its.step()
    assert_same_weights(model, twin)


# -- what is refused -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("l1(factor=0)", "l1: factor=0 must be a positive number: it is the strength of the penalty."),
        ("l2(factor=-1)", "l2: factor=-1 must be a positive number"),
        ("elastic_net(l2=0)", "elastic_net: l2=0 must be a positive number"),
        ("lp(p=0)", "lp: p=0 must be a positive number: 1 is L1, 2 is L2; for the number of non-zeros see l0."),
        ("l0(p=1)", "l0(p=1): p is about the share of gates closed at the start"),
        ("l1, elastic_net", "elastic_net cannot be combined with l1: both have an L1 penalty"),
        ("elastic_net, l2", "both have an L2 penalty"),
    ],
)
def test_bad_settings(text, message):
    model = network()
    with pytest.raises(tt.RecipeError, match=re.escape(message)):
        tt.attach(model, torch.optim.SGD(model.parameters(), 0.1)).apply(text)


def test_lp_below_one_warns_when_it_is_made_and_not_at_every_step(doubles):
    (model, mine), (twin, its) = pair(OPTIMIZERS["sgd"])
    with pytest.warns(UserWarning, match=r"p=0\.5 is below 1"):
        tt.attach(model, mine).apply("lp(factor=0.01, p=0.5)")
    for _ in range(2):  # warnings are errors here
        mine.zero_grad()
        loss_of(model, doubles).backward()
        mine.step()
        its.zero_grad()
        rounded = sum(((w.square() + 1e-6) ** 0.25 - 1e-3**0.5).sum() for w in weights_of(twin))
        (loss_of(twin, doubles) + 0.01 / 0.5 * rounded).backward()
        its.step()
    assert_same_weights(model, twin)


@pytest.mark.parametrize("text", [*PENALTIES, "l0"])
def test_a_line_search_is_refused(text):
    model = network()
    training = tt.attach(model, torch.optim.LBFGS(model.parameters(), line_search_fn="strong_wolfe"))
    keys = list(model.state_dict())
    with pytest.raises(
        NothingToDo, match=re.escape("LBFGS searches along a line for a lower loss, which the penalty is")
    ):
        training.apply(text)
    assert list(model.state_dict()) == keys
