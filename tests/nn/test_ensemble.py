"""Ensembles run and trained as one network, and how their answers are put together."""

from __future__ import annotations

import copy
import io
import warnings

import numpy as np
import pytest
import scipy.stats
import torch
import torch.nn.functional as F
from torch import nn

import trimtab.nn as tn
from trimtab.data import bootstrap_indices, bootstrap_weights
from trimtab.nn import Ensemble
from trimtab.nn.functional import average_members, member_losses, vote

NETWORKS = {
    "mlp": lambda: nn.Sequential(nn.Linear(64, 12), nn.Tanh(), nn.Linear(12, 10)),
    "batch norm": lambda: nn.Sequential(nn.Linear(64, 12, bias=False), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 10)),
    "our norm": lambda: nn.Sequential(nn.Linear(64, 12), tn.RMSNorm(12), nn.GELU(), nn.Linear(12, 10)),
    "cnn": lambda: nn.Sequential(nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 3, 3), nn.GroupNorm(3, 3), nn.ReLU(), nn.MaxPool2d(2),
                                 nn.Flatten(), nn.Linear(27, 10)),
    "recurrent": lambda: Recurrent(),
}  # fmt: skip
OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-3),
    # Where a norm follows, some gradients are 0 but for rounding; the eps keeps Adam from making steps of them.
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, eps=1e-6),
}


class Recurrent(nn.Module):
    """vmap has no rule for LSTM."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(8, 6, batch_first=True), nn.Linear(6, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.lstm(x.view(-1, 8, 8))[0][:, -1])


class Twice(nn.Module):
    """One matrix in two places, and a buffer that is set anew at every call."""

    seen: torch.Tensor

    def __init__(self, branching: bool = False) -> None:
        super().__init__()
        self.first, self.second, self.branching = nn.Linear(4, 4), nn.Linear(4, 4), branching
        self.second.weight = self.first.weight
        self.register_buffer("seen", torch.zeros(()))
        self.norm = nn.BatchNorm1d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen = self.seen + x.shape[0]
        y = self.norm(self.second(self.first(x)))
        return -y if self.branching and float(y.sum()) > 1e9 else y


def made(make, members: int = 3) -> list[nn.Module]:
    torch.manual_seed(0)
    return [make().double() for _ in range(members)]


def compare(ensemble: Ensemble, single: list[nn.Module], tolerance: float) -> None:
    for one, other in zip(single, ensemble.members(), strict=True):
        assert type(one) is type(other)
        expected, found = one.state_dict(), other.state_dict()
        assert expected.keys() == found.keys()
        for name in expected:
            torch.testing.assert_close(found[name], expected[name], rtol=tolerance, atol=tolerance, msg=name)


@pytest.mark.filterwarnings("ignore:The 3 members of an Ensemble of Recurrent run one after another")
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("network", NETWORKS)
def test_trains_every_member_as_if_it_were_alone(network, optimizer, digits):
    x, y = digits[0].double(), digits[1]
    single = made(NETWORKS[network])
    ensemble = Ensemble(copy.deepcopy(single))
    assert not ensemble.one_by_one
    weights = bootstrap_weights(bootstrap_indices(len(x), 3, generator=torch.Generator().manual_seed(0))).double()
    together = OPTIMIZERS[optimizer](ensemble.parameters())
    for rows in torch.arange(256).split(32):
        together.zero_grad()
        member_losses(F.cross_entropy, ensemble(x[rows]), y[rows], weights[:, rows]).sum().backward()
        together.step()
    for model, weight in zip(single, weights, strict=True):
        own = OPTIMIZERS[optimizer](model.parameters())
        for rows in torch.arange(256).split(32):
            own.zero_grad()
            (F.cross_entropy(model(x[rows]), y[rows], reduction="none") * weight[rows]).mean().backward()
            own.step()
    # Sums of at most 64 doubles in another order: about 64 * 1.1e-16 relative, over 8 steps, and Adam divides by small roots.
    compare(ensemble, single, 1e-10)


def test_one_step_is_the_step_on_the_resampled_data(digits):
    """The definition of bagging: a mean over drawn samples, some of them several times."""
    x, y = digits[0][:100].double(), digits[1][:100]
    single = made(NETWORKS["mlp"])
    ensemble = Ensemble(copy.deepcopy(single))
    indices = bootstrap_indices(100, 3, generator=torch.Generator().manual_seed(1))
    losses = member_losses(F.cross_entropy, ensemble(x), y, bootstrap_weights(indices))
    for model, loss, drawn in zip(single, losses, indices, strict=True):
        torch.testing.assert_close(
            loss, F.cross_entropy(model(x[drawn]), y[drawn]), rtol=1e-6, atol=0
        )  # weights are float32


@pytest.mark.parametrize("mode", [True, False])
@pytest.mark.filterwarnings("ignore:The 3 members of an Ensemble of Recurrent run one after another")
@pytest.mark.parametrize("network", NETWORKS)
def test_a_batch_for_all_or_one_for_each(network, mode, digits):
    x = digits[0][:48].double().view(3, 16, 64)
    single = made(NETWORKS[network])
    ensemble = Ensemble(copy.deepcopy(single)).train(mode)
    for model in single:
        model.train(mode)
    torch.testing.assert_close(ensemble(x[0]), torch.stack([model(x[0]) for model in single]), rtol=1e-12, atol=1e-12)
    each = torch.stack([model(batch) for model, batch in zip(single, x, strict=True)])
    torch.testing.assert_close(ensemble(x, per_member=True), each, rtol=1e-12, atol=1e-12)
    compare(ensemble, single, 1e-12)


def test_members_draw_masks_of_their_own():
    torch.manual_seed(0)
    ensemble = Ensemble([nn.Sequential(Scale(), nn.Dropout(0.5)) for _ in range(2)])
    masks = ensemble(torch.ones(10_000)) != 0
    # Independent masks agree on half of the places: a standard error of 0.005, and 5 of them.
    assert abs((masks[0] == masks[1]).double().mean().item() - 0.5) < 0.025
    assert torch.equal(ensemble.eval()(torch.ones(3)), torch.ones(2, 3))


class Scale(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.scale


@pytest.mark.parametrize("branching", [False, True])
def test_buffers_that_are_set_anew_and_shared_parameters(branching):
    single = made(lambda: Twice(branching))
    ensemble = Ensemble(copy.deepcopy(single))
    x = torch.randn(8, 4, dtype=torch.double)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2):
            ensemble(x)
    told = [str(one.message) for one in caught if "run one after another" in str(one.message)]
    assert len(told) == (1 if branching else 0)  # once
    for model in single:
        for _ in range(2):
            model(x)
    compare(ensemble, single, 1e-12)  # also where vmap failed half way: no batch counts twice
    assert [member.seen.item() for member in ensemble.members()] == [16.0] * 3
    assert len(list(ensemble.parameters())) == 5
    first = ensemble.members()[1]
    assert first.first.weight is first.second.weight


def test_says_when_members_run_one_after_another(digits):
    ensemble = Ensemble(made(Recurrent))
    with pytest.warns(
        UserWarning, match="The 3 members of an Ensemble of Recurrent run one after another, since torch.func.vmap"
    ):
        ensemble(digits[0][:4].double())
    assert "lstm" in ensemble.one_by_one
    with pytest.raises(RuntimeError, match="invalid for input of size"):
        Ensemble(made(Recurrent))(torch.zeros(1, 3))  # the fault of the input: no word of vmap


def test_checkpoints_copies_and_members():
    ensemble = Ensemble(NETWORKS["batch norm"], members=4)
    assert len(ensemble) == 4
    assert "members=4" in repr(ensemble)
    assert list(ensemble.state_dict()) == [f"stacked.{name}" for name in NETWORKS["batch norm"]().state_dict()]
    x = torch.randn(16, 64)
    ensemble(x)
    other = Ensemble(NETWORKS["batch norm"], members=4)
    other.load_state_dict(ensemble.state_dict())
    file = io.BytesIO()
    torch.save(ensemble, file)
    file.seek(0)
    for again in (other, copy.deepcopy(ensemble), torch.load(file, weights_only=False), Ensemble(ensemble.members())):
        assert torch.equal(again.eval()(x), ensemble.eval()(x))
    member = ensemble.members()[2]
    torch.testing.assert_close(member(x), ensemble(x)[2])
    with torch.no_grad():
        member[0].weight.zero_()  # a copy
    assert ensemble.stacked[0].weight[2].any()


def test_frozen_parameters_stay_frozen():
    def make():
        model = NETWORKS["mlp"]()
        model[0].requires_grad_(False)
        return model

    assert [p.requires_grad for p in Ensemble(make, 2).parameters()] == [False, False, True, True]


@pytest.mark.parametrize(
    ("of", "probabilities"),
    [
        ("logits", torch.softmax),
        ("log_probabilities", lambda y, dim: y.exp()),
        ("binary_logits", lambda y, dim: y.sigmoid()),
    ],
)
@pytest.mark.parametrize("dim", [1, -1, 2])
def test_logits_are_averaged_as_the_probabilities_they_stand_for(of, probabilities, dim):
    torch.manual_seed(0)
    outputs = torch.randn(5, 7, 4, 3, dtype=torch.double) * 3
    if of == "log_probabilities":
        outputs = outputs.log_softmax(dim if dim < 0 else dim + 1)
    mean = torch.stack([probabilities(y, dim=dim) for y in outputs]).mean(0)
    found = average_members(outputs, of, dim)
    torch.testing.assert_close(probabilities(found, dim=dim), mean, rtol=1e-12, atol=1e-12)
    if of == "logits":
        last, found = mean.movedim(dim, -1), found.movedim(dim, -1)
        target = torch.randint(last.shape[-1], last.shape[:-1])
        by_hand = -np.log(last.gather(-1, target[..., None]).numpy()).mean()
        torch.testing.assert_close(F.cross_entropy(found.flatten(0, -2), target.flatten()).item(), by_hand)


def test_average_of_values_and_extreme_logits():
    outputs = torch.tensor([[1.0, 200.0], [3.0, -200.0]])
    assert average_members(outputs).tolist() == [2.0, 0.0]
    assert (
        average_members(outputs, "binary_logits")[1].item() == 0.0
    )  # half of the members are sure, and half of the opposite
    assert torch.isfinite(average_members(torch.tensor([[[1e4, -1e4]], [[1e4, -1e4]]]), "logits")).all()


def test_vote_is_the_most_frequent_choice():
    torch.manual_seed(0)
    outputs = torch.randn(7, 200, 5)
    expected = scipy.stats.mode(outputs.argmax(2).numpy(), axis=0).mode  # of several, the smallest
    assert np.array_equal(vote(outputs).numpy(), expected)
    assert torch.equal(vote(outputs.movedim(2, 1), dim=0), vote(outputs))
    assert torch.equal(vote(outputs, dim=-1), vote(outputs))
    segmented = torch.randn(3, 4, 5, 6, 6)
    assert torch.equal(vote(segmented)[1, 2], vote(segmented[:, 1, :, 2].movedim(1, 2)))


def test_the_mean_is_never_worse_than_the_members_on_average(digits):
    """Jensen: the logarithm is concave."""
    torch.manual_seed(0)
    outputs = torch.randn(6, 512, 10)
    mean = F.cross_entropy(average_members(outputs, "logits"), digits[1])
    assert mean < member_losses(F.cross_entropy, outputs, digits[1]).mean()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: Ensemble(nn.Linear(2, 2)), TypeError, "got a Linear, which is one member. Give a function that makes one, Ensemble(lambda: Linear("),
        (lambda: Ensemble([]), ValueError, "got no members; it needs at least one"),
        (lambda: Ensemble([nn.Linear(2, 2)] * 2), ValueError, "the same module several times. Every member must be a module of its own"),
        (lambda: Ensemble(nn.ReLU, 2), ValueError, "members of type ReLU without parameters"),
        (lambda: Ensemble(lambda: nn.LazyLinear(2), 2), ValueError, "lazy layers; call each once with an input"),
        (lambda: Ensemble([nn.Linear(2, 2), nn.Linear(2, 3)]), ValueError, "member 1 differs from member 0, for instance in ('bias', ((2,)"),
        (lambda: Ensemble(lambda: nn.Linear(2, 2), 3)(torch.zeros(2, 4, 2), per_member=True), ValueError,
         "of 3 members got inputs of shapes (2, 4, 2). With per_member=True their first dimension must be 3"),
        (lambda: average_members(torch.zeros(2, 2), "odds"), ValueError, "of='odds'): of must be one of 'values', 'logits'"),
        (lambda: member_losses(F.mse_loss, torch.zeros(2, 5), torch.zeros(5), torch.ones(2, 9)), ValueError,
         "outputs of 2 members on 5 samples and weights of shape (2, 9). Their shape must be (2, 5); for a batch of a data set give weights[:, rows]."),
    ],
)  # fmt: skip
def test_errors_say_what_to_do(call, error, message):
    with pytest.raises(error) as raised:
        call()
    assert message in str(raised.value)
