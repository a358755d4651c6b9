"""Bagging and deep ensembles of a live training: every member as if it were trained alone, and their common answer."""

from __future__ import annotations

import copy
import io
import threading

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.testing._internal.distributed.fake_pg import FakeStore

import trimtab as tt
from tests.conftest import network, train
from tests.test_copies import COMPUTED
from trimtab.data import content_weights


def attached(model: nn.Module, text: str = "", make=lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9)):
    training = tt.attach(model, make(model.parameters()))
    return training.apply(text) if text else training


def mlp(*extra: nn.Module) -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(64, 16), *extra, nn.ReLU(), nn.Linear(16, 10))


def further(model: nn.Module) -> list[nn.Module]:
    """The members beside the model, as they are now."""
    host = next(m for m in model.modules() if hasattr(m, "ensemble"))
    return list(host.ensemble.networks)


def answer(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    model.eval()
    with torch.no_grad():
        y = model(x)
    model.train()
    return y


@pytest.mark.parametrize(
    "extra", [(), (nn.Dropout(0.3),), (nn.BatchNorm1d(16),)], ids=["plain", "dropout", "batch norm"]
)
def test_the_script_s_own_network_trains_as_it_would_alone(extra, digits):
    plain, model = mlp(*copy.deepcopy(extra)), mlp(*copy.deepcopy(extra))
    training = attached(model, "deep_ensemble(members=3)")
    torch.manual_seed(5)
    expected = train(plain, attached(plain).optimizers[0], digits)
    torch.manual_seed(5)
    assert train(model, training.optimizers[0], digits) == expected
    found = model.state_dict()
    assert all(torch.equal(found[name], value) for name, value in plain.state_dict().items())


@pytest.mark.parametrize("extra", [(), (nn.BatchNorm1d(16),)], ids=["plain", "batch norm"])
def test_every_other_member_trains_as_it_would_alone(extra, digits):
    model = mlp(*extra)
    training = attached(model, "deep_ensemble(members=3)")
    alone = copy.deepcopy(further(model))
    start = [one[0].weight for one in (model, *alone)]
    assert not any(torch.equal(start[i], start[j]) for i in range(3) for j in range(i))
    train(model, training.optimizers[0], digits)
    for one, member in zip(alone, further(model), strict=True):
        train(one, attached(one).optimizers[0], digits)
        for name, value in one.state_dict().items():
            # one sum of losses in the graph in the place of one loss: the same gradients bit for bit
            assert torch.equal(member.state_dict()[name], value), name


def test_bagging_weighs_each_member_s_losses_by_its_own_bootstrap(digits):
    model = mlp()
    x, y = digits[0][:128], digits[1][:128]
    training = attached(model, "bagging(members=3)", lambda p: torch.optim.SGD(p, lr=0.1))
    seed = next(hook.__self__ for hook in model._forward_hooks.values() if hasattr(hook, "__self__")).seed
    weights = content_weights(x, 3, seed)
    alone = copy.deepcopy([model, *further(model)])
    for one in alone:
        one._forward_hooks.clear()
    train(model, training.optimizers[0], (x, y), 8)
    for one, weight, member in zip(alone, weights, [model, *further(model)], strict=True):
        optimizer = torch.optim.SGD(one.parameters(), lr=0.1)
        for step in range(8):  # two epochs: a sample has the same weight in both
            rows = slice(step * 32 % 128, step * 32 % 128 + 32)
            optimizer.zero_grad()
            (F.cross_entropy(one(x[rows]), y[rows], reduction="none") * weight[rows]).mean().backward()
            optimizer.step()
        # eight steps in float32, and another order of the sums
        torch.testing.assert_close(member[2].weight, one[2].weight, rtol=1e-4, atol=1e-6)


def test_bootstrap_is_that_of_the_data_the_script_gave(digits):
    """Noise on the inputs does not draw new weights: members see the noise, the bootstrap does not."""
    weights = []
    for text in ("bagging(members=2)", "dropout, bagging(members=2)", "bagging(members=2)"):
        training = attached(mlp())
        if not weights:
            training.change_input(lambda x: x + 1)
        training.apply(text)
        hook = next(h.__self__ for h in training.models[0]._forward_hooks.values() if hasattr(h, "__self__"))
        hook.seed = 3
        training.models[0](digits[0])
        weights.append(hook.weights)
    assert torch.equal(weights[0], weights[2]) and torch.equal(weights[0], content_weights(digits[0], 2, 3))


def test_members_answer_by_their_mean_probability(digits):
    model = mlp()
    training = attached(model, "deep_ensemble(members=4)")
    train(model, training.optimizers[0], digits)
    x = digits[0]
    with torch.no_grad():
        members = [one(x).double() for one in further(model)]
        found = answer(model, x)
        training.undo()
        members.append(model(x).double())
    mean = torch.stack(members).softmax(2).mean(0)
    torch.testing.assert_close(found.double().softmax(1), mean, rtol=1e-5, atol=1e-7)  # float32 logits
    assert torch.equal(found.argmax(1), mean.argmax(1))
    assert (
        F.cross_entropy(found, digits[1]) < torch.stack([F.cross_entropy(y, digits[1]) for y in members]).mean()
    )  # Jensen


class Sequence(nn.Module):
    """(N, T) whole numbers in, (N, T, V) logits out."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(16, 6), nn.Linear(6, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.embed(x))


class Thin(nn.Module):
    """A view as output."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x).squeeze(1)


CLASSES = torch.arange(6) % 5
CASES = {
    "cross entropy": (mlp, lambda y: F.cross_entropy(y, CLASSES), "softmax"),
    "weights, ignored, smoothed": (
        mlp, lambda y: F.cross_entropy(y, CLASSES, torch.arange(1.0, 11), ignore_index=3, label_smoothing=0.1), "softmax",
    ),
    "target probabilities": (mlp, lambda y: F.cross_entropy(y, torch.full((6, 10), 0.1)), "softmax"),
    "sum": (mlp, lambda y: F.cross_entropy(y, CLASSES, reduction="sum"), "softmax"),
    "none": (mlp, lambda y: F.cross_entropy(y, CLASSES, reduction="none").mean(), "softmax"),
    "in double": (mlp, lambda y: F.cross_entropy(y.double(), CLASSES), "softmax"),
    "nll of log_softmax outside": (mlp, lambda y: F.nll_loss(F.log_softmax(y, -1), CLASSES), "softmax"),
    "nll of log_softmax inside": (lambda: mlp().append(nn.LogSoftmax(1)), lambda y: F.nll_loss(y, CLASSES), "exp"),
    "tokens": (Sequence, lambda y: F.cross_entropy(y.view(-1, 5), torch.arange(24) % 5), "softmax"),
    "tokens, classes second": (Sequence, lambda y: F.cross_entropy(y.transpose(1, 2), torch.arange(24).view(6, 4) % 5), "softmax"),
    "binary with logits": (Thin, lambda y: F.binary_cross_entropy_with_logits(y, CLASSES % 2.0), "sigmoid"),
    "binary, sigmoid outside": (Thin, lambda y: F.binary_cross_entropy(y.sigmoid(), CLASSES % 2.0), "sigmoid"),
    "binary, a view": (lambda: nn.Linear(64, 1), lambda y: F.binary_cross_entropy_with_logits(y[:, 0], CLASSES % 2.0), "sigmoid"),
    "numbers": (Thin, lambda y: nn.MSELoss()(y, CLASSES.float()), "values"),
    "numbers, huber": (Thin, lambda y: F.smooth_l1_loss(y, CLASSES.float()), "values"),
}  # fmt: skip
AS_PROBABILITIES = {
    "softmax": lambda y: y.softmax(-1), "exp": torch.exp, "sigmoid": torch.sigmoid, "values": lambda y: y,
}  # fmt: skip


@pytest.mark.parametrize("text", ["deep_ensemble(members=3)", "bagging(members=3)"])
@pytest.mark.parametrize("case", CASES)
def test_losses_of_all_kinds_reach_every_member(case, text, digits):
    make, loss, form = CASES[case]
    torch.manual_seed(0)
    model = make()
    x = torch.arange(24).view(6, 4) % 16 if make is Sequence else digits[0][:6]
    training = attached(model, text)
    recorded = []
    training.on("step", lambda value: recorded.append(value.item()))
    optimizer = training.optimizers[0]
    before = [copy.deepcopy(one.state_dict()) for one in further(model)]
    alone = copy.deepcopy(further(model))
    value = loss(model(x))
    value.backward()
    optimizer.step()
    assert training.changes[0].acted()
    assert all(
        any(not torch.equal(v, old[k]) for k, v in one.state_dict().items())
        for one, old in zip(further(model), before, strict=True)
    )
    if "deep" in text:
        assert recorded == [value.item()]
        for one, member in zip(alone, further(model), strict=True):
            loss(one(x)).backward()
            for p, q in zip(one.parameters(), member.parameters(), strict=True):
                torch.testing.assert_close(q.grad, p.grad)
    found = answer(model, x)
    with torch.no_grad():
        members = [one(x) for one in further(model)]
        training.undo()
        members.append(model(x))
    as_probabilities = AS_PROBABILITIES[form]
    mean = torch.stack([as_probabilities(y) for y in members]).mean(0)
    torch.testing.assert_close(as_probabilities(found), mean)


@pytest.mark.parametrize("case", [name for name in CASES if name != "none"])
def test_weights_of_one_are_the_loss_itself(case, digits, monkeypatch):
    make, loss, _ = CASES[case]
    torch.manual_seed(0)
    model = make()
    x = torch.arange(24).view(6, 4) % 16 if make is Sequence else digits[0][:6]
    expected = loss(model(x)).item()
    training = attached(model, "bagging(members=2)")
    monkeypatch.setattr(
        "trimtab.techniques.ensemble.content_weights", lambda x, members, seed: torch.ones(members, len(x))
    )
    assert loss(model(x)).item() == pytest.approx(expected, rel=1e-6)
    assert training.changes[0].acted()


def test_scaled_and_accumulated_losses(digits):
    """A loss divided by hand divides the gradients of all members."""
    grads = []
    for parts in (1, 2):
        model = mlp()
        training = attached(model, "deep_ensemble(members=2)")
        for rows in torch.arange(64).chunk(parts):
            (F.cross_entropy(model(digits[0][rows]), digits[1][rows]) / parts).backward()
        training.optimizers[0].step()
        grads.append(further(model)[0][0].weight.grad)
    torch.testing.assert_close(*grads)


def test_two_forward_passes_before_their_losses(digits):
    grads = []
    for order in (1, -1):
        model = mlp()
        training = attached(model, "deep_ensemble(members=2)")
        halves = [(model(digits[0][rows]), digits[1][rows]) for rows in torch.arange(64).chunk(2)]
        sum(F.cross_entropy(*half) for half in halves[::order]).backward()
        assert training.changes
        grads.append(further(model)[0][0].weight.grad)
    one = copy.deepcopy(further(model)[0])
    one.zero_grad()
    (2 * F.cross_entropy(one(digits[0][:64]), digits[1][:64])).backward()
    torch.testing.assert_close(grads[0], one[0].weight.grad)
    torch.testing.assert_close(*grads)


def test_a_loss_of_one_s_own_is_not_followed_and_nothing_is_claimed(digits):
    model = mlp()
    training = attached(model, "deep_ensemble")
    before = copy.deepcopy(further(model)[0].state_dict())
    (model(digits[0][:8]) - 1).square().mean().backward()
    training.optimizers[0].step()
    assert not training.changes[0].acted()
    assert all(torch.equal(v, before[k]) for k, v in further(model)[0].state_dict().items())
    found = answer(model, digits[0][:8])  # of the one network that has learnt
    training.undo()
    assert torch.equal(found, answer(model, digits[0][:8]))


def test_files_and_copies_answer_together_and_train_alone(digits):
    model = mlp()
    training = attached(model, "bagging(members=3)")
    train(model, training.optimizers[0], digits)
    expected = answer(model, digits[0])
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    for again in (copy.deepcopy(model), torch.load(file, weights_only=False)):
        assert torch.equal(answer(again, digits[0]), expected)
        before = copy.deepcopy(further(again)[0].state_dict())
        train(again, torch.optim.SGD(again.parameters(), lr=0.1), digits, 2)
        assert all(torch.equal(v, before[k]) for k, v in further(again)[0].state_dict().items())
    assert torch.equal(answer(model, digits[0]), expected)


def test_a_compiled_model_trains_its_members_too(digits):
    losses, states = [], []
    for compiled in (False, True):
        model = mlp()
        training = attached(model, "deep_ensemble(members=2)")
        losses.append(
            train(torch.compile(model, backend="eager") if compiled else model, training.optimizers[0], digits, 2)
        )
        states.append(further(model)[0].state_dict())
        assert training.changes[0].acted()
    assert losses[0] == losses[1]
    assert all(torch.equal(states[0][name], value) for name, value in states[1].items())


def test_several_processes_are_refused():
    torch.distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=2)
    try:
        with pytest.raises(
            tt.NothingToDo, match="several processes train, and the members' gradients would not be averaged"
        ):
            attached(mlp(), "bagging")
    finally:
        torch.distributed.destroy_process_group()


def test_the_chain_of_a_sequential_stays_what_it_was():
    model = mlp()
    attached(model, "deep_ensemble(members=2)")
    assert len(model) == 3 and [type(m) for m in model] == [nn.Linear, nn.ReLU, nn.Linear]


def test_frozen_parameters_are_the_same_in_all_members(digits):
    model = mlp()
    model[0].requires_grad_(False)
    training = tt.attach(model, torch.optim.SGD(model[2].parameters(), lr=0.1)).apply("deep_ensemble(members=2)")
    (other,) = further(model)
    assert torch.equal(other[0].weight, model[0].weight) and not torch.equal(other[2].weight, model[2].weight)
    assert len(training.optimizers[0].param_groups[0]["params"]) == 4
    train(model, training.optimizers[0], digits)
    assert torch.equal(other[0].weight, model[0].weight)


def test_members_join_the_group_of_their_counterpart():
    model = mlp()
    groups = [
        {"params": [model[0].weight], "lr": 0.1},
        {"params": [model[2].weight, model[0].bias, model[2].bias], "lr": 0.2},
    ]
    training = tt.attach(model, torch.optim.SGD(groups)).apply("deep_ensemble(members=3)")
    assert [len(g["params"]) for g in training.optimizers[0].param_groups] == [3, 9]
    training.undo()
    assert [len(g["params"]) for g in training.optimizers[0].param_groups] == [1, 3]


class Raw(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale, self.layer = nn.Parameter(torch.ones(64)), nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x * self.scale)


def test_says_what_could_not_be_drawn_anew():
    training = attached(Raw(), "deep_ensemble(members=2)")
    assert training.changes[0].details == (
        "scale: starts with the model's values in every member, since its layer cannot draw them anew",
    )


def test_each_member_of_a_treated_model_is_treated(digits):
    """Techniques that change the model come first; masks of the members are their own."""
    model = network()
    training = attached(model, "deep_ensemble(members=2), dropout(p=0.3), batch_norm, label_smoothing")
    (other,) = further(model)
    assert [name for name, _ in other.named_modules() if "dropout" in name] == ["2.dropout", "4.dropout"]
    assert all(torch.isfinite(torch.tensor(train(model, training.optimizers[0], digits))))
    x = torch.ones(1, 16)
    assert not torch.equal(other[2].dropout(x) != 0, model[2].dropout(x) != 0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("bagging(members=1)", "members=1 must be a whole number of at least 2"),
        ("deep_ensemble(members=2.5)", "members=2.5 must be a whole number"),
        ("bagging, deep_ensemble", "cannot be combined with"),
    ],
)
def test_bad_settings_say_what_to_do(text, message):
    with pytest.raises(tt.RecipeError) as error:
        attached(mlp(), text)
    assert message in str(error.value)


def test_refusals_say_why():
    with pytest.raises(tt.NothingToDo, match="the model has no layer of torch that the members could hang on"):
        attached(nn.Sequential(nn.PReLU()), "bagging")
    linear = nn.utils.parametrizations.weight_norm(nn.Linear(3, 2, bias=False))
    with pytest.raises(tt.NothingToDo, match="no layer whose parameters are trained and can be drawn anew"):
        attached(linear, "deep_ensemble")
    two = tt.attach([nn.Linear(2, 2), nn.Linear(2, 2)], torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1))
    with pytest.raises(tt.NothingToDo, match="it needs one model that is called, and 2 are trained here"):
        two.apply("bagging")


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning")
@pytest.mark.parametrize("text", ["deep_ensemble(members=3)", "bagging(members=3)"])
@pytest.mark.parametrize("kind", COMPUTED)
def test_models_that_hold_computed_tensors(kind, text, digits):
    model = nn.Sequential(COMPUTED[kind](nn.Linear(64, 16)), nn.ReLU(), COMPUTED[kind](nn.Linear(16, 10)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    train(model, optimizer, digits, 1)  # what is computed has a graph now
    training = tt.attach(model, optimizer)
    if "new" in kind or kind == "orthogonal":  # no layer of which could be drawn anew
        with pytest.raises(tt.NothingToDo, match="no layer whose parameters are trained and can be drawn anew"):
            training.apply(text)
        return
    training.apply(text)
    x = digits[0][:8]
    networks = next(m for m in model.modules() if type(m).__name__ == "_Members").networks
    drawn = [network(x).detach() for network in networks]
    assert (drawn[0] - drawn[1]).abs().min() > 0 and all(y.std() < 2 for y in drawn)  # as large as a new layer's
    train(model, optimizer, digits, 2)
    assert all((network(x) - y).abs().max() > 1e-3 for network, y in zip(networks, drawn, strict=True))
    assert training.changes[0].acted()
    training.undo()
    train(model, optimizer, digits, 1)


def test_a_model_that_cannot_be_copied_is_left_alone_with_the_reason():
    model = nn.Sequential(nn.Linear(4, 2))
    model.lock = threading.Lock()
    training = tt.attach(model, torch.optim.SGD(model.parameters(), lr=0.1))
    with pytest.raises(
        tt.NothingToDo, match=r"deep_ensemble found nothing to act on: a copy of this Sequential cannot be made .*lock"
    ):
        training.apply("deep_ensemble")
