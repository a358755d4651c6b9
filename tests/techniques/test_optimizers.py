"""Optimizers turned into others in place: they compute what the other one would, and scripts and schedulers notice nothing."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable

import pytest
import schedulefree
import torch
from torch import nn
from torch.optim import lr_scheduler

import trimtab as tt
from tests.conftest import network, train
from trimtab import optim
from trimtab.testing.trainings import same, state
from trimtab.watching.script import run_script

ROUNDING = {"rtol": 1e-5, "atol": 1e-7}  # some steps in float32, with rates that differ by a rounding


def weights(model: nn.Module) -> list[torch.Tensor]:
    return [p.detach().clone() for p in model.parameters()]


def turned(text: str, make: Callable = lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9), kind: str = "mlp"):
    model = network(kind)
    optimizer = make(model.parameters())
    return model, optimizer, tt.attach(model, optimizer).apply(text)


# -- what is computed ------------------------------------------------------------------------------------------------

WRITTEN = {  # the technique, and what one would write into the script
    "sgd(lr=0.05)": lambda p: optim.SGD(p, lr=0.05, momentum=0.9),
    "sgd(lr=0.05, momentum=0.5, nesterov=True)": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.5, nesterov=True),
    "adam": lambda p: torch.optim.Adam(p),
    "adam(lr=0.01, betas=(0.8, 0.99), eps=1e-4, amsgrad=True)": lambda p: torch.optim.Adam(
        p, lr=0.01, betas=(0.8, 0.99), eps=1e-4, amsgrad=True
    ),
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-3, weight_decay=0.01),
    "rmsprop(momentum=0.5, centered=True)": lambda p: torch.optim.RMSprop(p, momentum=0.5, centered=True),
    "adagrad(lr=0.05, lr_decay=0.1)": lambda p: torch.optim.Adagrad(p, lr=0.05, lr_decay=0.1),
    "adadelta(rho=0.95)": lambda p: torch.optim.Adadelta(p, rho=0.95),
}


@pytest.mark.parametrize("text", WRITTEN)
@pytest.mark.parametrize(
    "start",
    [torch.optim.SGD, torch.optim.AdamW, torch.optim.Adagrad, torch.optim.Rprop, torch.optim.LBFGS, optim.Adam],
    ids=lambda kind: kind.__name__,
)
def test_is_the_optimizer_that_one_would_write(text, start, digits):
    model, optimizer, _ = turned(
        text, lambda p: start(p, lr=0.3, **({"weight_decay": 0.0} if start is torch.optim.AdamW else {}))
    )
    other = network()
    written = WRITTEN[text](other.parameters())
    # an entry whose first gradient is near eps may differ a little more in its first steps
    torch.testing.assert_close(
        train(model, optimizer, digits, 8), train(other, written, digits, 8), rtol=1e-4, atol=1e-5
    )
    for p, q in zip(weights(model), weights(other), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-3, atol=1e-5)
    assert type(optimizer).__name__ == type(written).__name__


def test_muon_for_hidden_matrices_and_adamw_for_the_rest(digits):
    model, optimizer, training = turned("muon(weight_decay=0.1)")
    other = network()
    hidden = [other[2].weight]
    rest = [p for p in other.parameters() if p is not other[2].weight]
    muon = torch.optim.Muon(hidden, lr=0.02, momentum=0.95, weight_decay=0.1)
    adamw = torch.optim.AdamW(rest, lr=3e-4, betas=(0.9, 0.95), weight_decay=0.1)
    for rows in range(0, 256, 32):
        x, y = digits[0][rows : rows + 32], digits[1][rows : rows + 32]
        for m, optimizers in ((model, [optimizer]), (other, [muon, adamw])):
            for o in optimizers:
                o.zero_grad()
            nn.functional.cross_entropy(m(x), y).backward()
            for o in optimizers:
                o.step()
    for p, q in zip(weights(model), weights(other), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-6)
    assert training.changes[0].details[0] == "Muon: 2.weight"
    twin, resumed, _ = turned("muon(weight_decay=0.1)")
    twin.load_state_dict(model.state_dict())
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert train(twin, resumed, digits, 3) == train(model, optimizer, digits, 3)


# Not AdamW in front of batch norms: the gradient of a bias there is all rounding, which AdamW makes as large as any other.
@pytest.mark.parametrize(("form", "kind"), [("adamw", "mlp"), ("sgd", "mlp"), ("sgd", "normed")])
def test_schedule_free_is_the_package_with_its_switching(form, kind, digits):
    x = digits[0]
    made = {"adamw": schedulefree.AdamWScheduleFree, "sgd": schedulefree.SGDScheduleFree}[form]
    model, optimizer, _ = turned(f"schedule_free(form='{form}', lr=0.02, warmup_steps=3, r=1.0, batches=0)", kind=kind)
    scheduler = lr_scheduler.ExponentialLR(optimizer, 0.5)  # set aside
    other = network(kind)
    theirs = made(other.parameters(), lr=0.02, warmup_steps=3, r=1.0)
    for _ in range(3):
        theirs.train()
        other.train()
        model.train()
        assert train(model, optimizer, digits, 4) == pytest.approx(train(other, theirs, digits, 4), rel=1e-5)
        scheduler.step()
        theirs.eval()
        other.eval()
        model.eval()
        before = weights(model)
        with torch.no_grad():
            # the package comes back from its average by arithmetic, with a rounding each time; we do not
            torch.testing.assert_close(model(x), other(x), rtol=1e-3, atol=1e-4)
        assert not torch.equal(weights(model)[0], before[0])  # the average is in


def test_schedule_free_gathers_batch_norms_anew(digits):
    model, optimizer, _ = turned("schedule_free(lr=0.02, batches=4)", kind="normed")
    train(model, optimizer, digits, 4, batch=128)
    model.eval()
    with torch.no_grad():
        model(digits[0])
    average = copy.deepcopy(model)
    average[2].reset_running_stats()
    average[2].momentum = None
    average[2].train()
    with torch.no_grad():
        for rows in range(0, 512, 128):
            average[:3](digits[0][rows : rows + 128])
    # the mean over the same four inputs, under the averaged weights
    torch.testing.assert_close(model[2].running_mean, average[2].running_mean, rtol=1e-4, atol=1e-5)


# -- schedules -------------------------------------------------------------------------------------------------------

# Each with the rate that absolute numbers in it stand for.
SCHEDULES = {
    "exponential": lambda o, lr: lr_scheduler.ExponentialLR(o, 0.7),
    "cosine": lambda o, lr: lr_scheduler.CosineAnnealingLR(o, 5, eta_min=lr / 10),
    "lambda": lambda o, lr: lr_scheduler.LambdaLR(o, lambda step: min(1.0, (step + 1) / 4)),
    "one cycle": lambda o, lr: lr_scheduler.OneCycleLR(o, max_lr=3 * lr, total_steps=12),
    "restarts": lambda o, lr: lr_scheduler.CosineAnnealingWarmRestarts(o, 4, eta_min=lr / 10),
    "warm-up and then": lambda o, lr: lr_scheduler.SequentialLR(
        o, [lr_scheduler.LinearLR(o, 0.1, total_iters=3), lr_scheduler.PolynomialLR(o, 6)], [3]
    ),
}


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("name", SCHEDULES)
def test_a_schedule_keeps_its_shape(name, when, digits):
    peak = 3.0 if name == "one cycle" else 1.0  # of a one-cycle schedule, the rate stands for its peak
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    make = SCHEDULES[name]
    scheduler = make(optimizer, 0.1) if when == "before" else None
    training = tt.attach(model, optimizer).apply("adam(lr=0.01)")
    scheduler = scheduler or make(optimizer, 0.1)

    other = network()
    written = torch.optim.Adam(other.parameters(), lr=0.01 / peak)
    theirs = make(written, 0.01 / peak)
    shown = []
    for _ in range(10):
        [mine], [expected] = train(model, optimizer, digits, 1), train(other, written, digits, 1)
        shown.append((training.rates()[0], written.param_groups[0]["lr"]))
        if name == "one cycle" and when == "before":  # it cycles the momentum of SGD, and Adam's betas in the other
            written.param_groups[0]["betas"] = optimizer.param_groups[0]["betas"]
        scheduler.step()
        theirs.step()
        if name == "one cycle" and when == "before":
            written.param_groups[0]["betas"] = optimizer.param_groups[0]["betas"]
        assert name == "one cycle" or mine == pytest.approx(expected, rel=1e-4)
    for rate, wanted in shown:
        assert rate == pytest.approx(wanted, rel=1e-6, abs=1e-12)


def test_rates_set_by_hand_and_plateaus(digits):
    model, optimizer, training = turned("adam(lr=0.001)")
    plateau = lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=0)
    plateau.step(1.0)
    plateau.step(2.0)
    assert training.rates() == pytest.approx([0.0005])
    optimizer.param_groups[0]["lr"] = 0.2
    assert training.rates() == pytest.approx([0.002])
    train(model, optimizer, digits, 1)
    assert optimizer.param_groups[0]["lr"] == 0.2


def test_composes_with_what_changes_rates_and_decays(digits):
    model, optimizer, _ = turned("sgd(lr=0.01, momentum=0.0), lr_scale(factor=5), weight_decay(factor=0.5)")
    before = weights(model)
    nn.functional.cross_entropy(model(digits[0]), digits[1]).backward()
    grads = [p.grad.clone() for p in model.parameters()]
    optimizer.step()
    decayed = {id(model[i].weight) for i in (0, 2, 4)}
    for p, w, g in zip(model.parameters(), before, grads, strict=True):
        shrink = 1 - 0.05 * 0.5 if id(p) in decayed else 1.0
        torch.testing.assert_close(p, shrink * w - 0.05 * g, **ROUNDING)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("steps", [0, 1])
def test_torch_does_not_take_offence_at_the_order_of_steps(when, steps, digits):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = lr_scheduler.StepLR(optimizer, 2) if when == "before" else None
    training = tt.attach(model, optimizer).apply("adam")
    scheduler = scheduler or lr_scheduler.StepLR(optimizer, 2)
    for _ in range(steps):
        train(model, optimizer, digits, 1)
        scheduler.step()
    training.undo()
    train(model, optimizer, digits, 1)
    scheduler.step()
    assert type(optimizer) is torch.optim.SGD and not optimizer.state[model[0].weight]


# -- groups, and several optimizers ----------------------------------------------------------------------------------


def grouped(model: nn.Module) -> torch.optim.Optimizer:
    groups = [
        {"params": model[0].parameters(), "lr": 0.01, "weight_decay": 1e-3},
        {"params": [model[2].bias, model[4].bias], "weight_decay": 0.0},
        {"params": [model[2].weight, model[4].weight]},
    ]
    return torch.optim.SGD(groups, lr=0.1, weight_decay=1e-4)


def test_groups_keep_their_ratios_and_their_identity():
    model = network()
    optimizer = grouped(model)
    held = [(group, group["params"]) for group in optimizer.param_groups]
    training = tt.attach(model, optimizer).apply("adam(lr=0.001)")
    assert training.rates() == pytest.approx([1e-4, 1e-3, 1e-3])  # the rate is that of the largest
    assert [g["weight_decay"] for g in optimizer.param_groups] == [1e-3, 0.0, 1e-4]
    assert {g["decay"] for g in optimizer.param_groups} == {"coupled"}
    assert all(a is group and b is group["params"] for (a, b), group in zip(held, optimizer.param_groups, strict=True))
    assert training.changes[0].details == (
        "SGD: the base learning rate of 0.1 becomes 0.001; the groups show the script's",
        "SGD: the weight decay of 0.001 stays",
        "SGD: the weight decay of 0.0001 stays",
    )
    training.undo()
    training.apply("adamw(weight_decay=0.1)")
    assert [g["weight_decay"] for g in optimizer.param_groups] == pytest.approx([0.1, 0.0, 0.01])
    optimizer.add_param_group({"params": [nn.Parameter(torch.ones(1))], "lr": 0.05})
    assert training.rates() == pytest.approx([1e-4, 1e-3, 1e-3, 5e-4])


@pytest.mark.parametrize(
    ("make", "factor", "kind"),
    [
        (lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.2), 0.2, "decoupled"),
        (lambda p: torch.optim.NAdam(p, lr=0.1, weight_decay=0.2, decoupled_weight_decay=True), 0.2, "decoupled"),
        (lambda p: torch.optim.Adam(p, lr=0.1, weight_decay=0.2), 0.2, "coupled"),
        # of the base rate: one step at the base rate still takes away its share
        (lambda p: optim.SGD(p, lr=0.1, weight_decay=0.2, decay="independent"), 0.2, "independent"),
    ],
)
def test_the_decay_of_the_script_keeps_its_kind(make, factor, kind):
    model, optimizer, _ = turned("rmsprop(lr=0.01)", make)
    before = weights(model)
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    left = {"decoupled": 1 - 0.01 * factor, "independent": 1 - factor}.get(kind)
    for p, w in zip(model.parameters(), before, strict=True):
        if left is None:  # into the gradient, and with it into the mean square
            torch.testing.assert_close(p, w - 0.01 * factor * w / ((0.1 * factor * w).abs() + 1e-8), **ROUNDING)
        else:
            torch.testing.assert_close(p, left * w, **ROUNDING)


def test_all_optimizers_of_a_training_and_one_that_joins(digits):
    model = network()
    first = torch.optim.SGD(model[0].parameters(), lr=0.1)
    second = torch.optim.SGD(model[2].parameters(), lr=0.4)
    training = tt.attach(model, [first, second]).apply("adam(lr=0.001)")
    assert training.rates() == pytest.approx([0.001, 0.004])  # two of a kind keep their ratio
    third = torch.optim.Adagrad(model[4].parameters(), lr=5.0)
    training.join(third)
    nn.functional.cross_entropy(model(digits[0]), digits[1]).backward()
    for optimizer in (first, second, third):
        optimizer.step()
        assert type(optimizer) is optim.Adam
    assert training.rates() == pytest.approx([0.001, 0.004, 0.001])
    assert all(set(o.state[p]) == {"step", "exp_avg", "exp_avg_sq"} for o in (first, second, third) for p in o.state)
    training.undo()
    assert [type(o).__name__ for o in (first, second, third)] == ["SGD", "SGD", "Adagrad"]
    assert third.state[model[4].weight].keys() == {"step", "sum"}


def test_climbs_where_the_script_climbs(digits):
    model, optimizer, _ = turned("adam(lr=0.01)", lambda p: torch.optim.SGD(p, lr=0.1, maximize=True))
    other = network()
    written = torch.optim.Adam(other.parameters(), lr=0.01, maximize=True)
    assert train(model, optimizer, digits, 4) == pytest.approx(train(other, written, digits, 4), rel=1e-5)


# -- undo ------------------------------------------------------------------------------------------------------------


def test_undo_in_the_middle_of_a_training_with_its_scheduler(digits):
    x = digits
    model, other = network(), network()
    optimizer, plain = (torch.optim.SGD(m.parameters(), lr=0.1, momentum=0.9, nesterov=True) for m in (model, other))
    schedulers = [lr_scheduler.OneCycleLR(o, 0.2, total_steps=20) for o in (optimizer, plain)]
    before = None
    for o, m in ((optimizer, model), (plain, other)):
        train(m, o, x, 4)
    for scheduler in schedulers:
        scheduler.step()
    before = state(model, optimizer)
    own = dict(vars(optimizer))
    training = tt.attach(model, optimizer).apply("adamw(lr=0.01)")
    training.undo()
    assert same(state(model, optimizer), before)
    assert vars(optimizer)["step"] is own["step"] and vars(optimizer).keys() == own.keys()
    assert optimizer.defaults == plain.defaults
    assert train(model, optimizer, x, 4) == train(other, plain, x, 4)


def test_undo_leaves_rates_that_moved_on(digits):
    model, optimizer, training = turned("adam")
    scheduler = lr_scheduler.ExponentialLR(optimizer, 0.5)
    train(model, optimizer, digits, 1)
    scheduler.step()
    training.undo()
    assert optimizer.param_groups[0]["lr"] == 0.05 and optimizer.param_groups[0]["initial_lr"] == 0.1
    train(model, optimizer, digits, 1)
    assert set(optimizer.state[model[0].weight]) == {"momentum_buffer"}
    assert set(optimizer.param_groups[0]) == {*torch.optim.SGD(model.parameters()).param_groups[0], "initial_lr"}


# -- checkpoints -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["adam", "rmsprop(momentum=0.9)", "schedule_free", "sgd(lr=0.05)"])
def test_a_checkpoint_of_the_script_goes_on(text, digits, tmp_path):
    model, optimizer, _ = turned(text)
    scheduler = lr_scheduler.CosineAnnealingLR(optimizer, 20)
    for _ in range(3):
        train(model, optimizer, digits, 2)
        scheduler.step()
    parts = {"model": model, "optimizer": optimizer, "scheduler": scheduler}
    torch.save({name: part.state_dict() for name, part in parts.items()}, tmp_path / "checkpoint.pt")
    ahead = train(model, optimizer, digits, 3)

    again, resumed, training = turned(text)
    scheduler = lr_scheduler.CosineAnnealingLR(resumed, 20)
    saved = torch.load(tmp_path / "checkpoint.pt")
    again.load_state_dict(saved["model"])
    resumed.load_state_dict(saved["optimizer"])
    scheduler.load_state_dict(saved["scheduler"])
    assert train(again, resumed, digits, 3) == ahead
    training.undo()
    assert type(resumed) is torch.optim.SGD


def test_a_checkpoint_from_before_begins_anew_and_says_so(digits):
    model = network()
    plain = grouped(model)
    scheduler = lr_scheduler.ExponentialLR(plain, 0.5)
    train(model, plain, digits, 3)
    scheduler.step()
    saved = copy.deepcopy(plain.state_dict())
    saved["state"] = {0: {"momentum_buffer": torch.ones_like(model[0].weight)}}

    model = network()
    optimizer = grouped(model)
    training = tt.attach(model, optimizer).apply("adamw(lr=0.01, weight_decay=0.1, betas=(0.8, 0.9))")
    with pytest.warns(UserWarning, match="saved with another optimizer. Its state is left out"):
        optimizer.load_state_dict(saved)
    assert not optimizer.state
    assert training.rates() == pytest.approx([5e-4, 5e-3, 5e-3])  # the schedule goes on where it was
    assert [g["weight_decay"] for g in optimizer.param_groups] == pytest.approx([0.1, 0.0, 0.01])
    assert {g["betas"] for g in optimizer.param_groups} == {(0.8, 0.9)}
    train(model, optimizer, digits, 1)


def test_the_optimizer_can_be_copied_and_pickled(digits, tmp_path):
    model, optimizer, _ = turned("rmsprop")
    train(model, optimizer, digits, 2)
    twin = copy.deepcopy(optimizer)
    torch.save(optimizer, tmp_path / "optimizer.pt")
    read = torch.load(tmp_path / "optimizer.pt", weights_only=False)
    assert type(twin) is type(read) is optim.RMSprop
    assert same(read.state_dict(), optimizer.state_dict())


# -- scalers and closures --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fused", [False, True])
def test_under_a_gradient_scaler(fused, digits):
    model, optimizer, training = turned("adam(lr=0.01)", lambda p: torch.optim.SGD(p, lr=0.1, fused=fused))
    other = network()
    written = torch.optim.Adam(other.parameters(), lr=0.01)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12)
    for rows in range(0, 128, 32):
        x, y = digits[0][rows : rows + 32], digits[1][rows : rows + 32]
        optimizer.zero_grad()
        scaler.scale(nn.functional.cross_entropy(model(x), y)).backward()
        scaler.step(optimizer)
        scaler.update()
        written.zero_grad()
        nn.functional.cross_entropy(other(x), y).backward()
        written.step()
    for p, q in zip(weights(model), weights(other), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-6)
    training.undo()
    assert getattr(optimizer, "_step_supports_amp_scaling", False) is fused


@pytest.mark.parametrize("text", ["adam(lr=0.01)", "muon", "schedule_free(lr=0.01)"])
def test_closures(text, digits):
    x, y = digits
    model, optimizer, _ = turned(text, torch.optim.LBFGS)
    other, stepped, _ = turned(text, lambda p: torch.optim.SGD(p, lr=1.0))
    calls = []

    def closure():
        calls.append(1)
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        return loss

    losses = [optimizer.step(closure).item() for _ in range(3)]
    assert len(calls) == 3
    for expected in losses:
        stepped.zero_grad()
        loss = nn.functional.cross_entropy(other(x), y)
        loss.backward()
        stepped.step()
        assert loss.item() == expected


# -- what cannot be --------------------------------------------------------------------------------------------------


def replaced(p):
    optimizer = torch.optim.SGD(p, lr=0.1)
    optimizer.step = lambda closure=None: None
    return optimizer


@pytest.mark.parametrize(
    ("text", "make", "message"),
    [
        ("muon", lambda p: torch.optim.SGD(p, lr=0.1, maximize=True), "SGD maximizes, which MuonWithAdamW cannot"),
        ("adam", replaced, "SGD.step was replaced on the object, by code that would go on calling the old method"),
    ],
)
def test_what_cannot_be_turned_is_left_alone(text, make, message):
    model = network()
    optimizer = make(model.parameters())
    before = state(model, optimizer)
    with pytest.raises(tt.NothingToDo, match=message):
        tt.attach(model, optimizer).apply(text)
    assert same(state(model, optimizer), before)


def test_sparse_gradients_are_refused():
    model = nn.Sequential(nn.Embedding(4, 4, sparse=True), nn.Linear(4, 4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(tt.NothingToDo, match="0 gives sparse gradients, which Adam does not take"):
        tt.attach(model, optimizer).apply("adam")


def test_a_convolutional_network_has_no_matrix_for_muon():
    model = network("cnn")
    with pytest.raises(tt.NothingToDo, match="no weight with two dimensions that is trained"):
        tt.attach(model, torch.optim.SGD(model.parameters(), lr=0.1)).apply("muon")


def test_embeddings_and_tied_weights_are_not_for_muon():
    model = nn.Sequential(nn.Embedding(8, 4), nn.Linear(4, 4), nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 8))
    model[4].weight = model[0].weight
    training = tt.attach(model, torch.optim.SGD(model.parameters(), lr=0.1)).apply("muon")
    assert training.changes[0].details[0] == "Muon: 1.weight, 2.weight"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("adam(lr=0)", "adam: lr=0 must be a positive number: it is the base learning rate"),
        ("adam(betas=(0.9, 1.0))", "adam: betas=(0.9, 1.0) must each be at least 0 and below 1"),
        ("sgd", "sgd cannot take these arguments"),
        ("sgd(lr=0.1, momentum=0, nesterov=True)", "Nesterov's momentum needs momentum above 0"),
        ("adam, sgd(lr=0.1)", "adam cannot be combined with sgd: both would turn the optimizer into another one"),
        ("adam, muon", "cannot be combined with muon: both would turn the optimizer"),
        ("adam, learning_rate(lr=0.1)", "learning_rate cannot be combined with adam: the new optimizer needs a rate of its own"),
        ("schedule_free, ema", "schedule_free cannot be combined with ema: both decide which weights are evaluated"),
        ("schedule_free(form='lion')", "form='lion' must be one of 'adamw', 'sgd'"),
        ("schedule_free(momentum=1)", "momentum=1 must lie strictly between 0 and 1"),
        ("muon(adamw_lr=-1)", "lr=-1 must be a positive number"),
    ],
)  # fmt: skip
def test_bad_recipes_say_what_to_do(text, message):
    with pytest.raises(tt.RecipeError) as error:
        tt.Recipe.parse(text)
    assert message in str(error.value)


def test_a_missing_package_is_named_with_the_line_that_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "schedulefree", None)
    with pytest.raises(tt.RecipeError, match=r"Install it: pip install 'schedulefree>=1.4'"):
        tt.Recipe.parse("schedule_free")


# -- in scripts: the optimizer is turned while its constructor runs ---------------------------------------------------

HEAD = """
import torch
from torch import nn
torch.manual_seed(0)
torch.set_num_threads(1)
x = torch.randn(64, 4); y = x[:, :2].argmax(1)
model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
"""
LOOP = """
for _ in range(6):
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(x), y).backward()
    optimizer.step()
"""
OWN = """
class Own(torch.optim.Optimizer):
    def __init__(self, params, lr):
        super().__init__(params, {"lr": lr})
        self.prepare()
    def prepare(self):
        for group in self.param_groups:
            for p in group["params"]:
                self.state[p]["seen"] = 0
    def step(self, closure=None):
        raise AssertionError("the old method was called")
"""
SCRIPTS = {
    "plain": "optimizer = torch.optim.SGD(model.parameters(), lr=0.5)" + LOOP,
    "eager state": "optimizer = torch.optim.Adagrad(model.parameters(), lr=0.5)" + LOOP,
    "a constructor with methods": OWN + "optimizer = Own(model.parameters(), lr=0.5)" + LOOP,
    "fused and scaled": """
optimizer = torch.optim.SGD(model.parameters(), lr=0.5, fused=True)
scaler = torch.amp.GradScaler("cpu")
for _ in range(6):
    optimizer.zero_grad()
    scaler.scale(nn.functional.cross_entropy(model(x), y)).backward()
    scaler.step(optimizer)
    scaler.update()
""",
    "closure": """
optimizer = torch.optim.LBFGS(model.parameters(), lr=0.5)
def closure():
    optimizer.zero_grad()
    loss = nn.functional.cross_entropy(model(x), y)
    loss.backward()
    return loss
for _ in range(6):
    optimizer.step(closure)
""",
    "scheduler": """
optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
for _ in range(6):
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(x), y).backward()
    optimizer.step()
    scheduler.step()
""",
    "accelerate": """
from accelerate import Accelerator
accelerator = Accelerator(cpu=True)
optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
model, optimizer, scheduler = accelerator.prepare(model, optimizer, scheduler)
for _ in range(6):
    optimizer.zero_grad()
    accelerator.backward(nn.functional.cross_entropy(model(x), y))
    optimizer.step()
    scheduler.step()
""",
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_in_an_unmodified_script(name, script, digits):
    kept = []

    def apply(training, place):
        kept.append((training.apply("adam(lr=0.01)"), training.model, *training.optimizers))

    outcome = run_script(script(HEAD + SCRIPTS[name]), on_training=apply)
    assert outcome.exit_code == 0, outcome.error
    ((training, model, optimizer),) = kept
    assert training.changes[0].acted()
    assert type(optimizer) is optim.Adam
    found = weights(model)

    scope: dict = {}
    exec(HEAD + "optimizer = torch.optim.Adam(model.parameters(), lr=0.01)" + LOOP, scope)
    for p, q in zip(found, weights(scope["model"]), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-6)
    assert {*optimizer.state[model[0].weight]} == {"step", "exp_avg", "exp_avg_sq"}


LIGHTNING = """
import logging, warnings
warnings.simplefilter("ignore")
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
import lightning, torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

class Classifier(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    def training_step(self, batch, number):
        return nn.functional.cross_entropy(self.body(batch[0]), batch[1])
    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=0.5)
        return [optimizer], [torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 3)]

torch.manual_seed(0)
x = torch.randn(64, 4)
trainer = lightning.Trainer(
    max_epochs=3, logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    accelerator="cpu", gradient_clip_val=0.5,
)
trainer.fit(Classifier(), DataLoader(TensorDataset(x, x[:, :2].argmax(1)), 16))
"""
TRANSFORMERS = """
import tempfile, warnings
warnings.simplefilter("ignore")
import torch
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments
torch.manual_seed(0)
data = [{"input_ids": torch.randint(2, 50, (6,)), "labels": i % 2} for i in range(32)]
config = BertConfig(
    vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, max_position_embeddings=8,
    hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
)
model = BertForSequenceClassification(config)
arguments = TrainingArguments(
    tempfile.mkdtemp(), num_train_epochs=3, per_device_train_batch_size=8, gradient_accumulation_steps=2, report_to="none",
    save_strategy="no", use_cpu=True, disable_tqdm=True,
)
Trainer(model, arguments, train_dataset=data, optimizers=(torch.optim.SGD(model.parameters(), lr=0.5), None)).train()
"""


@pytest.mark.parametrize("name", ["lightning", "transformers"])
def test_in_a_trainer(name, script, monkeypatch):
    pytest.importorskip(name)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    text = {"lightning": LIGHTNING, "transformers": TRANSFORMERS}[name]
    kept = []

    def run(text, recipe):
        outcome = run_script(
            script(text), on_training=lambda t, place: kept.append((t.apply(recipe), t.model, *t.optimizers))
        )
        assert outcome.exit_code == 0, outcome.error
        return kept[-1][1]

    turned_model = run(text, "adam(lr=0.01)")
    assert type(kept[-1][2]) is optim.Adam
    written_model = run(text.replace("SGD(", "Adam(").replace("lr=0.5", "lr=0.01"), "")
    for p, q in zip(weights(turned_model), weights(written_model), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-3, atol=1e-5)


# -- optimizers that know all parameters in a row --------------------------------------------------------------------


def rounds(model: nn.Module, optimizer: torch.optim.Optimizer, data: tuple, steps: int) -> list[float]:
    def closure():
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(data[0]), data[1])
        loss.backward()
        return loss

    return [optimizer.step(closure).item() for _ in range(steps)]


@pytest.mark.parametrize("begun", [0, 2])
@pytest.mark.parametrize("text", ["rms_norm", "layer_norm, l0", "deep_ensemble(members=2)", "remove_redundant_bias"])
def test_lbfgs_begins_anew_when_parameters_come_or_go(text, begun, digits):
    model, data = network("normed"), (digits[0][:64], digits[1][:64])
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=3)
    if begun:  # as after a checkpoint: the groups are other lists than those that it was made with
        optimizer.load_state_dict(optimizer.state_dict())
    training, old = tt.attach(model, optimizer), {id(p) for p in model.parameters()}
    rounds(model, optimizer, data, begun)
    try:
        training.apply(text)
    except tt.NothingToDo as error:
        assert begun and "apply the recipe before the first step" in str(error)
        return
    assert optimizer._params is optimizer.param_groups[0]["params"]
    before = [(p, p.detach().clone()) for p in optimizer.param_groups[0]["params"] if id(p) not in old]
    rounds(model, optimizer, data, 3)
    assert (
        any(not torch.equal(p, value) for p, value in before) or text == "remove_redundant_bias"
    )  # new ones learn too
    training.undo()
    twin = copy.deepcopy(model)
    fresh = torch.optim.LBFGS(twin.parameters(), lr=0.1, max_iter=3)
    assert rounds(model, optimizer, data, 3) == rounds(twin, fresh, data, 3)


def test_names_of_parameters_come_and_go_with_them(digits):
    model = network("normed")
    optimizer = torch.optim.SGD(model.named_parameters(), lr=0.1)
    before = list(optimizer.param_groups[0]["param_names"])
    training = tt.attach(model, optimizer).apply("remove_redundant_bias, rms_norm")
    now = {id(p): name for name, p in training.named_parameters()}
    assert (
        optimizer.param_groups[0]["param_names"] == [now[id(p)] for p in optimizer.param_groups[0]["params"]] != before
    )
    optimizer.load_state_dict(optimizer.state_dict())  # other lists than before
    training.undo()
    assert optimizer.param_groups[0]["param_names"] == before
    assert list(map(id, optimizer.param_groups[0]["params"])) == list(map(id, model.parameters()))
