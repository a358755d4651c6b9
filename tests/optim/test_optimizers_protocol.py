"""Optimizers where torch's stand: checkpoints, copies, schedulers, gradient scaling, hooks, compilation, live trainings."""

from __future__ import annotations

import copy
import inspect
import io
import pickle

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook

import trimtab as tt
from tests.conftest import network, same, train
from tests.optim.optimizers import CASES, MEMBERS, fitted, packed
from trimtab import optim

# 20 steps of some twenty roundings of 1.1e-16, in another order than torch's
SAME = {"rtol": 1e-13, "atol": 1e-14}

every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
cases_of_torch = pytest.mark.parametrize("case", [case for case in CASES if case.theirs], ids=lambda case: case.name)
every_member = pytest.mark.parametrize("make", MEMBERS, ids=lambda make: make.__name__)


# -- torch's own -----------------------------------------------------------------------------------------------------


@cases_of_torch
def test_torch_has_the_same(case):
    ours, theirs = (fitted(make, 20)[0] for make in (case, case.torchs))
    np.testing.assert_allclose(ours, theirs, **SAME)


@every_member
def test_names_order_and_defaults_are_those_of_torch(make):
    if make is optim.WindowAdadelta:
        return
    ours, theirs = (
        list(inspect.signature(one).parameters.values()) for one in (make, getattr(torch.optim, make.__name__))
    )
    by_position = [[(p.name, p.default) for p in one if p.kind is p.POSITIONAL_OR_KEYWORD] for one in (ours, theirs)]
    assert by_position[0] == by_position[1]
    assert {(p.name, p.default) for p in theirs} <= {(p.name, p.default) for p in ours}


@every_member
def test_torchs_flags_of_speed_change_nothing_and_others_are_refused(make):
    p = [torch.ones(2, requires_grad=True)]
    known = inspect.signature(make).parameters
    for flag in {"foreach", "fused"} & set(known):
        for value in (True, False, None):
            assert make(p, **{flag: value}).param_groups[0][flag] is value
    for flag in {"capturable", "differentiable"} & set(known):
        make(p, **{flag: False})
        for made in (lambda flag=flag: make(p, **{flag: True}), lambda flag=flag: make([{"params": p, flag: True}])):
            with pytest.raises(ValueError, match=f"{make.__name__}: {flag}=True is not possible: .* torch.optim's."):
                made()
    assert "differentiable" in known and "foreach" in known


def test_torchs_word_for_decoupled_decay():
    p, q = torch.ones(1, requires_grad=True), torch.ones(1, requires_grad=True)
    adam = optim.Adam([{"params": [p]}, {"params": [q], "decoupled_weight_decay": False}], decoupled_weight_decay=True)
    assert [group["decay"] for group in adam.param_groups] == ["decoupled", "coupled"]
    there = torch.optim.Adam([{"params": [p]}, {"params": [q]}])
    there.load_state_dict(adam.state_dict())
    assert [group["decoupled_weight_decay"] for group in there.param_groups] == [True, False]
    with pytest.raises(
        ValueError, match="decoupled_weight_decay=True is decay='decoupled'; got decay='independent' too"
    ):
        optim.Adam([p], decoupled_weight_decay=True, decay="independent")


@every_case
def test_loading_its_own_checkpoint_changes_nothing(case):
    _, optimizer, _ = fitted(case, 2)
    before = copy.deepcopy(optimizer.state_dict())
    optimizer.load_state_dict(optimizer.state_dict())
    after = optimizer.state_dict()
    assert after["param_groups"] == before["param_groups"] and list(after["param_groups"][0]) == list(
        before["param_groups"][0]
    )
    assert same(after["state"], before["state"])


@cases_of_torch
def test_a_checkpoint_of_torch_goes_on_as_torch_would(case):
    _, began, params = fitted(case.torchs, 10)
    ours = copy.deepcopy(params)
    loaded = case.make(ours, lr=123.0)  # the settings come with the checkpoint
    loaded.load_state_dict(copy.deepcopy(began.state_dict()))
    theirs = fitted(None, 10, begin=10, params=params, optimizer=began)[0]
    loaded.defaults["lr"] = case.settings["lr"]
    np.testing.assert_allclose(fitted(None, 10, begin=10, params=ours, optimizer=loaded)[0], theirs, **SAME)


@cases_of_torch
def test_torch_goes_on_from_our_checkpoint(case):
    _, began, params = fitted(case, 10)
    theirs = copy.deepcopy(params)
    loaded = getattr(torch.optim, case.make.__name__)(theirs, lr=123.0)
    loaded.load_state_dict(copy.deepcopy(began.state_dict()))
    ours = fitted(None, 10, begin=10, params=params, optimizer=began)[0]
    loaded.defaults["lr"] = case.settings["lr"]
    np.testing.assert_allclose(fitted(None, 10, begin=10, params=theirs, optimizer=loaded)[0], ours, **SAME)


def test_decoupled_decay_comes_with_a_checkpoint_of_torchs_adam():
    p = torch.ones(2, requires_grad=True)
    ours = optim.Adam([p])
    ours.load_state_dict(torch.optim.AdamW([torch.ones(2)], weight_decay=0.1).state_dict())
    assert ours.param_groups[0]["decay"] == "decoupled" and ours.param_groups[0]["weight_decay"] == 0.1


@cases_of_torch
@pytest.mark.parametrize(
    "step",
    [int, float, np.int64, lambda n: torch.tensor(int(n)), lambda n: n.double()],
    ids=["int", "float", "numpy", "whole", "double"],
)
def test_steps_of_old_checkpoints_are_numbers(case, step):
    _, began, params = fitted(case.torchs, 3)
    saved = copy.deepcopy(began.state_dict())
    for state in saved["state"].values():
        if "step" in state:
            state["step"] = step(state["step"])
    for group in saved["param_groups"]:  # older versions had less
        for key in ("foreach", "maximize", "capturable", "differentiable", "fused", "decoupled_weight_decay"):
            group.pop(key, None)
    ours = copy.deepcopy(params)
    loaded = case(ours)
    loaded.load_state_dict(saved)
    theirs = fitted(None, 2, begin=3, params=params, optimizer=began)[0]
    np.testing.assert_allclose(fitted(None, 2, begin=3, params=ours, optimizer=loaded)[0], theirs, **SAME)


def test_checkpoints_of_old_versions_of_torch_hold_empty_buffers():
    p = torch.ones(1, requires_grad=True)
    ours = optim.SGD([p], momentum=0.5)
    saved = torch.optim.SGD([torch.ones(1)], lr=1.0, momentum=0.5).state_dict()
    ours.load_state_dict({**saved, "state": {0: {"momentum_buffer": None}}})
    p.grad = torch.ones(1)
    ours.step()
    assert p.item() == 0.0 and ours.state[p]["momentum_buffer"].item() == 1.0


def test_the_base_rate_of_independent_decay_after_a_checkpoint_of_torch():
    p = torch.ones(1, dtype=torch.float64, requires_grad=True)
    ours = optim.SGD([p], lr=7.0, decay="independent")
    ours.load_state_dict(torch.optim.SGD([torch.ones(1)], lr=2.0, weight_decay=0.25).state_dict())
    ours.param_groups[0]["lr"] /= 2
    p.grad = torch.zeros_like(p)
    ours.step()
    assert p.item() == 1 - 0.25 / 2


# -- checkpoints and copies ------------------------------------------------------------------------------------------


def through_a_file(optimizer: torch.optim.Optimizer, params: list[torch.Tensor]) -> tuple:
    file = io.BytesIO()
    torch.save({"params": params, "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    kept = torch.load(file)  # nothing but tensors and numbers
    params = [p.detach().requires_grad_() for p in kept["params"]]
    made = type(optimizer)(params)
    made.load_state_dict(kept["optimizer"])
    made.defaults["lr"] = optimizer.defaults["lr"]
    return made, params


def by_pickle(optimizer: torch.optim.Optimizer, params: list[torch.Tensor]) -> tuple:
    made = pickle.loads(pickle.dumps(optimizer))
    return made, made.param_groups[0]["params"]


def by_deepcopy(optimizer: torch.optim.Optimizer, params: list[torch.Tensor]) -> tuple:
    made = copy.deepcopy(optimizer)
    return made, made.param_groups[0]["params"]


@every_case
def test_copies_go_on_bit_by_bit(case):
    _, optimizer, params = fitted(case, 5)
    stopped = packed(params)
    copies = [copied(optimizer, params) for copied in (through_a_file, by_pickle, by_deepcopy)]
    wanted = fitted(None, 5, begin=5, params=params, optimizer=optimizer)[0]
    for made, others in copies:
        np.testing.assert_array_equal(packed(others), stopped)
        np.testing.assert_array_equal(fitted(None, 5, begin=5, params=others, optimizer=made)[0], wanted)


# -- closures, groups, gradients -------------------------------------------------------------------------------------


@every_member
def test_a_closure_gives_its_loss(make):
    p = torch.ones(3, requires_grad=True)
    optimizer = make([p], lr=0.1)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = p.square().sum()
        loss.backward()
        return loss

    with torch.no_grad():  # as in some loops
        loss = optimizer.step(closure)
    assert loss.item() == 3.0 and (p < 1).all()
    assert optimizer.step() is None
    optimizer.zero_grad()
    assert p.grad is None
    p.grad = torch.ones(3)
    optimizer.zero_grad(set_to_none=False)
    assert p.grad.tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    "case", [case for case in CASES if "lookahead" not in case.settings], ids=lambda case: case.name
)
def test_each_parameter_has_its_own_age(case):
    """Parameters together in one optimizer, with gradients now and then, do as each would in one of its own."""
    has_gradient = [(0, 1), (0,), (), (1, 2), (0, 1, 2), (0, 2), (2,)]
    draw = torch.Generator().manual_seed(0)
    together = [torch.ones(4, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    alone = [torch.ones(4, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    optimizer, optimizers = case(together), [case([p]) for p in alone]
    for present in has_gradient:
        for number, (p, q) in enumerate(zip(together, alone, strict=True)):
            p.grad = q.grad = torch.randn(4, generator=draw, dtype=torch.float64) if number in present else None
        optimizer.step()
        for one in optimizers:
            one.step()
    assert all(map(torch.equal, together, alone))
    assert not torch.equal(together[0], together[1])


@every_member
def test_groups_and_names(make):
    model = network("mlp")
    named = dict(model.named_parameters())
    optimizer = make([(name, p) for name, p in named.items() if name.startswith("0.")], lr=0.5)
    assert optimizer.param_groups[0]["param_names"] == ["0.weight", "0.bias"]
    optimizer.add_param_group({"params": [("2.weight", named["2.weight"])], "lr": 0.25, "weight_decay": 0.5})
    assert [(group["lr"], group["weight_decay"]) for group in optimizer.param_groups] == [
        (0.5, optimizer.defaults["weight_decay"]), (0.25, 0.5),
    ]  # fmt: skip
    before = copy.deepcopy(model.state_dict())
    model(torch.ones(2, 64)).sum().backward()
    optimizer.step()
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {"0.weight", "0.bias", "2.weight"}


def test_independent_decay_is_relative_to_the_rate_that_a_group_was_made_with():
    first, second = (torch.ones(1, dtype=torch.float64, requires_grad=True) for _ in range(2))
    optimizer = optim.SGD(
        [{"params": [first]}, {"params": [second], "lr": 8.0}], lr=2.0, weight_decay=0.25, decay="independent"
    )
    for group in optimizer.param_groups:
        group["lr"] /= 2
    first.grad, second.grad = torch.zeros_like(first), torch.zeros_like(second)
    optimizer.step()
    assert first.item() == second.item() == 1 - 0.25 / 2


@every_member
def test_a_rate_may_be_a_tensor(make):
    found = []
    for lr in (0.1, torch.tensor(0.1, dtype=torch.float64)):
        p = torch.ones(3, dtype=torch.float64, requires_grad=True)
        optimizer = make([p], lr=lr)
        for _ in range(3):
            p.grad = p.detach().clone()
            optimizer.step()
        found.append(p)
    assert torch.equal(*found)


# -- schedulers, scaling, hooks, compilation -------------------------------------------------------------------------

SCHEDULES = {
    "LambdaLR": lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda step: 1 / (1 + step)),
    "OneCycleLR": lambda o: torch.optim.lr_scheduler.OneCycleLR(o, max_lr=0.1, total_steps=12),
}


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(
    ("name", "settings"),
    [("SGD", {"momentum": 0.9, "nesterov": True}), ("RMSprop", {"momentum": 0.5, "centered": True}), ("Adam", {}), ("AdamW", {"amsgrad": True})],
)  # fmt: skip
def test_schedulers(name, settings, schedule, digits):
    found = []
    for room in (optim, torch.optim):
        model = network("mlp").double()
        optimizer = getattr(room, name)(model.parameters(), lr=0.01, **settings)
        scheduler = SCHEDULES[schedule](optimizer)
        for _ in range(10):
            train(model, optimizer, (digits[0].double(), digits[1]), steps=1)
            scheduler.step()
        found.append(packed(list(model.parameters())))
        group = optimizer.param_groups[0]
        momentum = group["betas"][0] if "betas" in group else group["momentum"]
        assert (momentum != {"SGD": 0.9, "RMSprop": 0.5}.get(name, 0.9)) == (schedule == "OneCycleLR")
    np.testing.assert_allclose(*found, rtol=1e-10, atol=1e-12)  # through a network, which enlarges roundings


def test_one_cycle_over_other_optimizers_cycles_the_rate():
    for make in (optim.Adagrad, optim.Adadelta, optim.WindowAdadelta):
        optimizer = make([torch.ones(1, requires_grad=True)])
        torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=12, cycle_momentum=False)
        assert optimizer.param_groups[0]["lr"] == pytest.approx(0.1 / 25)


@every_member
def test_gradient_scaling(make, digits):
    """Scales are powers of two, so that unscaled gradients are the same bits; the scaler leaves out steps that overflow."""
    found = []
    for scaled in (False, True):
        model = network("mlp")
        optimizer = make(model.parameters(), lr=0.01)
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, enabled=scaled)
        for step in range(4):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(digits[0][:32]), digits[1][:32])
            scaler.scale(loss).backward()
            if step == 2:
                if not scaled:
                    continue
                model[0].weight.grad[0, 0] = torch.inf
            scaler.step(optimizer)
            scaler.update()
        found.append(packed(list(model.parameters())))
    assert scaler.get_scale() == 512.0
    np.testing.assert_array_equal(*found)


@every_member
def test_hooks_of_steps(make):
    p = torch.ones(2, requires_grad=True)
    heard, optimizer = [], make([p], lr=0.1)
    handles = [
        optimizer.register_step_pre_hook(lambda o, *_: heard.append(("before", p[0].item()))),
        optimizer.register_step_post_hook(lambda o, *_: heard.append(("after", p[0].item()))),
        register_optimizer_step_post_hook(lambda o, *_: heard.append(("any", type(o)))),
    ]
    p.grad = torch.ones(2)
    optimizer.step()
    for handle in handles:
        handle.remove()
    optimizer.step()
    assert heard[0] == ("before", 1.0) and heard[1][0] == "after" and heard[1][1] < 1 and heard[2] == ("any", make)
    assert len(heard) == 3


@pytest.mark.parametrize(
    ("make", "whole"), [(optim.SGD, True), (optim.Adam, True), (optim.WindowAdadelta, True), (optim.Adam, False)]
)
def test_compiled_steps_are_the_same(make, whole, digits):
    """Compilers go around the step, whether the training step is compiled or the optimizer's alone."""
    found = []
    for compiled in (False, True):
        torch._dynamo.reset()
        model = network("mlp")
        optimizer = make(model.parameters(), lr=0.01)

        def step(x, y, model=model, optimizer=optimizer):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            return loss

        if compiled and whole:
            step = torch.compile(step, backend="eager")
        elif compiled:
            optimizer.step = torch.compile(optimizer.step, backend="eager")
        for number in range(3):
            step(digits[0][32 * number : 32 * number + 32], digits[1][32 * number : 32 * number + 32])
        found.append(packed(list(model.parameters())))
    np.testing.assert_array_equal(*found)


# -- a live training -------------------------------------------------------------------------------------------------


@every_member
def test_a_live_training(make, digits):
    model = network("mlp")
    optimizer = make(model.parameters(), lr=0.01)
    training = tt.attach(model, optimizer)
    with training.watch(every=1) as recorder:
        training.apply("batch_norm, clip_norm(max_norm=1.0), lr_scale(factor=0.5)")
        norms = [p for p in model.parameters() if p.dim() == 1 and (p == 1).all()]
        before = [p.detach().clone() for p in norms]
        losses = train(model, optimizer, digits, steps=6)
    record = recorder.close().main
    assert record.steps == 6 and np.isfinite(losses).all()
    assert len(norms) == 2 and not any(map(torch.equal, norms, before))
