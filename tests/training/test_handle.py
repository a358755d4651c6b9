"""The live handle: what counts as a step, which loss is its loss, and what techniques see."""

from __future__ import annotations

import contextlib
import copy
import gc
import os
import subprocess
import sys
import weakref

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import trimtab as tt
from tests.conftest import network, train
from trimtab.training import attach
from trimtab.training.stage import stage
from trimtab.watching.script import trainings_found


class Steps:
    """What a training told: its losses step by step, and how often gradients were ready and updates were made."""

    def __init__(self, training):
        self.training = training
        self.losses, self.gradients, self.before, self.after = [], [], [], []
        training.on("step", lambda loss: self.losses.append(None if loss is None else loss.item()))
        training.on("gradients", lambda optimizer: self.gradients.append(id(optimizer)))
        training.on("before_step", lambda optimizer: self.before.append(id(optimizer)))
        training.on("after_step", lambda optimizer: self.after.append(id(optimizer)))


def followed(model, *optimizers):
    return Steps(attach(model, list(optimizers)))


def sgd(model, lr=0.1):
    return torch.optim.SGD(model.parameters(), lr=lr)


def loss_of(model, data, step=0, size=32):
    rows = slice(step * size, step * size + size)
    return F.cross_entropy(model(data[0][rows]), data[1][rows])


# -- steps and losses ------------------------------------------------------------------------------------------------


def test_plain_loop(digits):
    model = network()
    optimizer = sgd(model)
    steps = followed(model, optimizer)
    losses = train(model, optimizer, digits)
    assert steps.losses == losses
    assert steps.training.step == len(losses) == len(steps.gradients) == len(steps.before) == len(steps.after)


def test_accumulated_gradients_are_one_step_with_the_sum_of_their_losses(digits):
    model = network()
    optimizer = sgd(model)
    steps = followed(model, optimizer)
    expected = []
    for step in range(3):
        parts = []
        for micro in range(4):
            loss = loss_of(model, digits, 4 * step + micro) / 4
            loss.backward()
            parts.append(loss.detach())
        optimizer.step()
        optimizer.zero_grad()
        expected.append(sum(parts[1:], start=parts[0]).item())
    assert steps.losses == expected
    assert len(steps.gradients) == 3


def test_two_optimizers_after_one_backward_make_one_step(digits):
    model = network()
    lower, upper = torch.optim.SGD(model[:2].parameters(), 0.1), torch.optim.Adam(model[2:].parameters())
    steps = followed(model, lower, upper)
    expected = []
    for step in range(3):
        lower.zero_grad()
        upper.zero_grad()
        loss = loss_of(model, digits, step)
        loss.backward()
        lower.step()
        upper.step()
        expected.append(loss.item())
    assert steps.losses == expected
    assert (
        steps.gradients == [id(lower), id(upper)] * 3
    )  # each optimizer's gradients are announced: clipping reaches both


def test_an_optimizer_that_steps_more_rarely_makes_no_steps_of_its_own(digits):
    model = network()
    often, seldom = torch.optim.SGD(model[:2].parameters(), 0.1), torch.optim.SGD(model[2:].parameters(), 0.1)
    steps = followed(model, often, seldom)
    for step in range(6):
        loss_of(model, digits, step).backward()
        often.step()
        often.zero_grad()
        if step % 3 == 2:
            seldom.step()
            seldom.zero_grad()
    assert steps.training.step == 6


def gan(data, wiring):
    """Two networks against each other; gives what each training was told and what it should have been told."""
    torch.manual_seed(0)
    maker, judge = nn.Linear(4, 64), nn.Linear(64, 1)
    make, rate = sgd(maker), sgd(judge)
    told = {"maker": followed(maker, make), "judge": followed(judge, rate)}
    expected: dict[str, list[float]] = {"maker": [], "judge": []}
    ones, zeros = torch.ones(32, 1), torch.zeros(32, 1)
    for step in range(3):
        real, fake = data[0][32 * step : 32 * step + 32], maker(torch.randn(32, 4))
        if wiring == "module":
            judge.zero_grad()
        else:
            rate.zero_grad()
        a = F.binary_cross_entropy_with_logits(judge(real), ones)
        b = F.binary_cross_entropy_with_logits(judge(fake.detach()), zeros)
        if wiring == "interleaved":
            (a + b).backward()
            expected["judge"].append((a + b).item())
            make.zero_grad()
            for p in judge.parameters():
                p.requires_grad_(False)
            c = F.binary_cross_entropy_with_logits(judge(fake), ones)
            c.backward()
            for p in judge.parameters():
                p.requires_grad_(True)
            rate.step()
        else:
            a.backward()
            b.backward()
            expected["judge"].append((a.detach() + b.detach()).item())
            rate.step()
            (maker if wiring == "module" else make).zero_grad()
            c = F.binary_cross_entropy_with_logits(judge(fake), ones)
            c.backward()
        make.step()
        expected["maker"].append(c.item())
    return told, expected


@pytest.mark.parametrize("wiring", ["optimizer", "module", "interleaved"])
def test_two_models_with_an_optimizer_each_keep_their_losses_apart(wiring, digits):
    told, expected = gan(digits, wiring)
    assert told["judge"].losses == expected["judge"]
    assert told["maker"].losses == expected["maker"]


def test_two_models_in_one_handle_have_prefixed_names(digits):
    encoder, decoder = nn.Linear(64, 8), nn.Linear(8, 64)
    optimizer = torch.optim.SGD([*encoder.parameters(), *decoder.parameters()], 0.1)
    training = attach([encoder, decoder], optimizer)
    assert [name for name, _ in training.named_parameters()] == [
        "linear0.weight",
        "linear0.bias",
        "linear1.weight",
        "linear1.bias",
    ]


def test_a_model_called_several_times_a_step(digits):
    model = network()
    optimizer = sgd(model)
    steps = followed(model, optimizer)
    expected = []
    for step in range(3):
        optimizer.zero_grad()
        loss = loss_of(model, digits, step) + loss_of(model, digits, step + 3) * 0.5
        loss.backward()
        optimizer.step()
        expected.append(loss.item())
    assert steps.losses == expected


def test_the_loss_of_the_update_is_known_from_its_gradients_on(digits):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    training = attach(model, optimizer)
    known = []
    training.on("gradients", lambda _: known.append(float(training.loss)))
    training.on("after_step", lambda _: known.append(float(training.loss)))
    losses = train(model, optimizer, digits, 2)
    assert known == [losses[0], losses[0], losses[1], losses[1]] and training.loss is None


def test_lbfgs_makes_one_step_a_closure_however_often_it_calls_it(digits):
    model = network()
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.5, max_iter=5)
    steps = followed(model, optimizer)
    expected = []

    def closure():
        optimizer.zero_grad()
        loss = loss_of(model, digits)
        loss.backward()
        return loss

    for _ in range(3):
        expected.append(optimizer.step(closure).item())  # LBFGS gives the loss of its first call
    assert steps.losses == expected
    assert steps.training.step == 3
    assert len(steps.gradients) > 6  # a technique that clips sees the gradients of every call


def test_a_closure_called_by_hand_first_counts_once(digits):
    model = network()
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=2)
    steps = followed(model, optimizer)

    def closure():
        optimizer.zero_grad()
        loss = loss_of(model, digits)
        loss.backward()
        return loss

    loss = closure()
    optimizer.step(closure)
    assert steps.losses == [loss.item()]


@pytest.mark.parametrize("how", ["position", "keyword"])
def test_sgd_with_a_closure_of_two_parts(how, digits):
    model = network()
    optimizer = sgd(model)
    steps = followed(model, optimizer)
    expected = []

    def closure():
        optimizer.zero_grad()
        parts = [loss_of(model, digits, part) / 2 for part in range(2)]
        for part in parts:
            part.backward()
        expected.append((parts[0].detach() + parts[1].detach()).item())
        return parts[0]

    for _ in range(3):
        result = optimizer.step(closure) if how == "position" else optimizer.step(closure=closure)
        assert isinstance(result, torch.Tensor)
    assert steps.losses == expected
    assert len(steps.gradients) == 3


def test_an_exception_in_a_closure_leaves_the_handle_right(digits):
    model = network()
    optimizer = sgd(model)
    steps = followed(model, optimizer)

    def closure():
        raise RuntimeError("no data")

    with pytest.raises(RuntimeError, match="no data"):
        optimizer.step(closure)
    assert steps.losses == []
    other = network()
    other_optimizer = sgd(other)
    other_steps = followed(other, other_optimizer)
    assert train(other, other_optimizer, digits) == other_steps.losses
    assert train(model, optimizer, digits) == steps.losses


def test_grad_scaler_records_the_unscaled_loss(digits):
    model = network()
    optimizer = sgd(model)
    steps = followed(model, optimizer)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    expected, norms = [], []
    steps.training.on("gradients", lambda o: norms.append(model[0].weight.grad.norm().item()))
    for step in range(3):
        optimizer.zero_grad()
        loss = loss_of(model, digits, step)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        expected.append(loss.item())
    assert steps.losses == expected
    assert max(norms) < 10  # unscaled too when techniques and signals see them; scaled they are over 100


def test_a_step_that_the_scaler_skips_is_no_step(digits):
    model = network()
    optimizer = sgd(model)
    steps = followed(model, optimizer)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    for step in range(4):
        optimizer.zero_grad()
        loss = loss_of(model, digits, step) * (float("inf") if step == 1 else 1.0)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
    assert steps.training.step == 3
    assert all(torch.isfinite(torch.tensor(steps.losses)))


def test_raw_tensors_without_a_module():
    w = torch.ones(3, requires_grad=True)
    optimizer = torch.optim.SGD([w], lr=0.1)
    found = []
    with trainings_found(lambda training, _: found.append(Steps(training))):
        torch.optim.SGD([torch.ones(1, requires_grad=True)], lr=0.1)  # a second one is a training of its own
        other = torch.optim.SGD([w], lr=0.1)
    assert len(found) == 2
    (steps,) = [one for one in found if other in one.training.optimizers]
    assert steps.training.models == ()
    assert steps.training.model is None
    assert [name for name, _ in steps.training.named_parameters()] == ["parameter0"]
    (w**2).sum().backward()
    other.step()
    assert steps.losses == [3.0]
    assert optimizer not in steps.training.optimizers


def erase_by_optimizer(model, optimizer):
    optimizer.zero_grad()


def erase_to_zero(model, optimizer):
    optimizer.zero_grad(set_to_none=False)


def erase_by_module(model, optimizer):
    model.zero_grad()


def erase_by_hand(model, optimizer):
    for p in model.parameters():
        p.grad = None


@pytest.mark.parametrize("erase", [erase_by_optimizer, erase_to_zero, erase_by_module, erase_by_hand])
def test_a_backward_that_is_thrown_away_does_not_count(erase, digits):
    """As in training on adversarial examples: the first backward is only for the gradient of the input."""
    model = network()
    optimizer = sgd(model)
    steps = followed(model, optimizer)
    expected = []
    for step in range(3):
        erase(model, optimizer)
        x = digits[0][32 * step : 32 * step + 32].clone().requires_grad_(True)
        F.cross_entropy(model(x), digits[1][32 * step : 32 * step + 32]).backward()
        erase(model, optimizer)
        loss = F.cross_entropy(model(x.detach() + 0.1 * x.grad.sign()), digits[1][32 * step : 32 * step + 32])
        loss.backward()
        optimizer.step()
        expected.append(loss.item())
    assert steps.losses == expected


def test_gradients_erased_before_they_are_used_still_make_a_step(digits):
    """A mistake that scripts make: zero_grad between backward and step. The run is seen, and seen not to learn."""
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    steps = followed(model, optimizer)
    loss = loss_of(model, digits)
    loss.backward()
    optimizer.zero_grad()
    optimizer.step()
    assert steps.losses == [loss.item()]


def test_gradients_set_by_hand_make_steps(digits):
    model = network()
    optimizer = sgd(model)
    steps, losses = followed(model, optimizer), []
    optimizer.step()  # nothing to do: no step
    for step in range(3):
        parameters = list(model.parameters())
        losses.append(loss_of(model, digits, step))
        for p, grad in zip(parameters, torch.autograd.grad(losses[-1], parameters), strict=True):
            p.grad = grad
        optimizer.step()
    for p in model.parameters():  # from nowhere
        p.grad = torch.ones_like(p)
    optimizer.step()
    assert steps.losses == [*(loss.item() for loss in losses), None]


def test_gradients_that_are_only_looked_at_are_no_loss(digits):
    model = network()
    optimizer = sgd(model)
    steps = followed(model, optimizer)
    for step in range(2):
        optimizer.zero_grad()
        loss = loss_of(model, digits, step)
        torch.autograd.grad(loss, list(model.parameters()), retain_graph=True)
        loss.backward()
        optimizer.step()
    assert steps.losses == [loss_of_step for loss_of_step in steps.losses if loss_of_step is not None]
    assert steps.losses[-1] == loss.item()


def test_backward_from_several_numbers_has_no_loss_of_its_own(digits):
    model = network()
    optimizer = sgd(model)
    steps = followed(model, optimizer)
    losses = F.cross_entropy(model(digits[0][:4]), digits[1][:4], reduction="none")
    losses.backward(torch.ones(4))
    optimizer.step()
    assert steps.losses == [None]


def test_a_loss_changed_in_place_afterwards_was_recorded_as_it_was(digits):
    model = network()
    optimizer = sgd(model)
    steps = followed(model, optimizer)
    loss = loss_of(model, digits)
    value = loss.item()
    loss.backward()
    with torch.no_grad():
        loss.mul_(0)
    optimizer.step()
    assert steps.losses == [value]


# -- compiled and wrapped models -------------------------------------------------------------------------------------


class Small(nn.Module):
    """A module whose forward is code of the user, as the compiler wants it."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.first, self.second, self.last = nn.Linear(64, 16), nn.Linear(16, 16), nn.Linear(16, 10)

    def forward(self, x):
        return self.last(F.relu(self.second(F.relu(self.first(x)))))


def run_compiled(digits, moment, watched, recipe="", backend="aot_eager"):
    """A short training of a compiled model: its losses, and what the compiler did."""
    from torch._dynamo.utils import counters

    torch._dynamo.reset()
    torch.compile(Small(), backend=backend)(digits[0][:4])  # the first one in a process may take more
    torch._dynamo.reset()
    counters.clear()
    model = Small()
    run = torch.compile(model, backend=backend) if moment == "before" else model
    optimizer = sgd(run)
    recorder = tt.Recorder(every=1) if watched else None
    training = attach(run, optimizer)
    if recipe:
        training.apply(recipe)
    if recorder:
        recorder.watch(training)
    if moment == "after":
        run = torch.compile(model, backend=backend)
    elif moment == "in place":
        model.compile(backend=backend)
    losses = train(run, optimizer, digits)
    done = {
        **counters["stats"],
        "breaks": sum(counters["graph_break"].values()),
        "frames": counters["frames"]["total"],
    }
    return losses, done, recorder.close() if recorder else None


@pytest.mark.parametrize("moment", ["before", "after", "in place"])
def test_watching_a_compiled_model_changes_nothing_and_compiles_nothing_twice(moment, digits):
    plain, compiled, _ = run_compiled(digits, moment, watched=False)
    seen, watched, record = run_compiled(digits, moment, watched=True)
    assert seen == plain
    assert watched == compiled
    assert watched["unique_graphs"] == 1
    assert record.main.get("loss").values == tuple(plain)
    assert "grad_norms" in record.main.profiles
    assert "activation_std" not in record.main.profiles
    assert "compiled" in record.main.notes[0]


@pytest.mark.parametrize("moment", ["before", "after", "in place"])
def test_a_technique_takes_effect_in_a_compiled_model(moment, digits):
    plain, _, _ = run_compiled(digits, moment, watched=False)
    treated, _, _ = run_compiled(digits, moment, watched=False, recipe="batch_norm")
    model = Small()
    optimizer = sgd(model)
    attach(model, optimizer).apply("batch_norm")
    assert treated != plain
    # The same operations in eager mode; the compiler may order sums otherwise: five steps of roundings of 1e-7.
    assert treated == pytest.approx(train(model, optimizer, digits), rel=1e-5)


def test_a_compiled_step_with_loss_and_backward_inside(digits):
    torch._dynamo.reset()

    def losses(watch):
        model = Small()
        optimizer = sgd(model)
        recorder = tt.Recorder(every=1) if watch else None
        if recorder:
            recorder.watch(attach(model, optimizer))

        @torch.compile(backend="eager")
        def forward(x, y):
            return F.cross_entropy(model(x), y)

        values = []
        for step in range(4):
            optimizer.zero_grad()
            loss = forward(digits[0][32 * step : 32 * step + 32], digits[1][32 * step : 32 * step + 32])
            loss.backward()
            optimizer.step()
            values.append(loss.item())
        if recorder:
            assert recorder.close().main.get("loss").values == tuple(values)
            assert recorder.guard.off == ""
        return values

    assert losses(True) == losses(False)


def test_a_training_collected_in_the_midst_of_a_compilation_moves_no_hook_until_the_next_step(
    digits, no_other_training
):
    torch._dynamo.reset()
    model = Small()
    optimizer, x = sgd(model), digits[0][:32]
    steps = followed(model, optimizer)

    treated = Small()
    other = attach(treated, sgd(treated))
    other.change_input(lambda x: x)
    other.itself = other  # only the garbage collector finds it
    hooks = dict(model._forward_hooks)
    del other, treated

    def collecting(graph, inputs):
        gc.collect()
        assert dict(model._forward_hooks) == hooks
        return graph.forward

    F.cross_entropy(torch.compile(model, backend=collecting)(x), digits[1][:32]).backward()
    optimizer.step()
    assert len(steps.losses) == 1
    assert not hooks.keys() & model._forward_hooks.keys()  # they tell, and change nothing from here on


def test_ddp_is_seen_through(tmp_path, digits):
    torch.distributed.init_process_group(
        "gloo", store=torch.distributed.FileStore(str(tmp_path / "s"), 1), rank=0, world_size=1
    )
    try:
        inner = network()
        model = nn.parallel.DistributedDataParallel(inner)
        optimizer = sgd(model)
        steps = followed(model, optimizer)
        assert steps.training.models == (inner,)
        assert train(model, optimizer, digits) == steps.losses
        found = []
        with trainings_found(lambda training, _: found.append(training)):
            kept = sgd(model)
        assert found[0].models == (inner,)
        assert kept in found[0].optimizers
    finally:
        torch.distributed.destroy_process_group()


# -- finding trainings -----------------------------------------------------------------------------------------------


def test_models_on_one_shelf_are_trainings_of_their_own(digits):
    found = []
    shelf = nn.ModuleList(nn.Linear(64, 10) for _ in range(3))
    with trainings_found(lambda training, _: found.append(Steps(training))):
        expected = []
        for model in shelf:
            optimizer = sgd(model)
            expected.append(train(model, optimizer, digits, 2))
    assert [steps.training.models for steps in found] == [(model,) for model in shelf]
    assert [steps.losses for steps in found] == expected


def test_a_list_inside_a_model_is_part_of_it():
    class Stack(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])

    model = Stack()
    found = []
    with trainings_found(lambda training, _: found.append(training)):
        kept = [sgd(model.layers[0]), sgd(model.layers[1])]
    assert [training.models for training in found] == [(model,)]
    assert found[0].optimizers == kept


def test_a_replaced_optimizer_is_not_kept_alive(digits):
    """Some scripts make a new optimizer every epoch; the old one and its moments must go."""
    model = network()
    found = []
    with trainings_found(lambda training, _: found.append(Steps(training))):
        optimizer = torch.optim.Adam(model.parameters())
        first = weakref.ref(optimizer)
        losses = train(model, optimizer, digits, 2)
        optimizer = sgd(model)
        losses += train(model, optimizer, digits, 2)
    gc.collect()
    assert first() is None
    assert len(found) == 1
    assert found[0].training.optimizers == [optimizer]
    assert found[0].losses == losses


def test_a_finished_training_is_freed(digits):
    gone = []
    with trainings_found(lambda training, _: gone.append(weakref.ref(training))):
        model = network()
        optimizer = sgd(model)
        train(model, optimizer, digits, 2)
        del model, optimizer
        gc.collect()
    assert gone[0]() is None


def test_a_handle_survives_copies_of_its_optimizer_and_model(digits):
    model = network()
    optimizer = sgd(model)
    steps = followed(model, optimizer)
    twin = copy.deepcopy(model)
    state = copy.deepcopy(optimizer.state_dict())
    train(twin, sgd(twin), digits, 2)
    optimizer.load_state_dict(state)
    assert steps.losses == []
    assert train(model, optimizer, digits, 2) == steps.losses


# -- attach ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((1, 2), "got int where a Module belongs."),
        ((nn.Linear(1, 1), "sgd"), "got str where a Optimizer belongs."),
        ((torch.optim.SGD(nn.Linear(1, 1).parameters()), nn.Linear(1, 1)), "got SGD where a Module belongs."),
        (([nn.Linear(1, 1), 3], []), "got int where a Module belongs."),
        ((nn.Linear(1, 1), []), "attach(model, optimizer) needs at least one optimizer"),
    ],
)
def test_attach_says_what_it_takes(arguments, message):
    with pytest.raises(TypeError) as error:
        attach(*arguments)
    assert message in str(error.value)


def test_attach_looks_into_wrappers_of_optimizers(digits):
    class Wrapper(torch.optim.Optimizer):
        """As accelerate does it: an optimizer by name that never called its base."""

        def __init__(self, optimizer):
            self.optimizer = optimizer

        def step(self, closure=None):
            self.optimizer.step(closure)

        def zero_grad(self, set_to_none=True):
            self.optimizer.zero_grad(set_to_none)

    model = network()
    wrapped = Wrapper(sgd(model))
    steps = followed(model, wrapped)
    assert train(model, wrapped, digits) == steps.losses


def test_phase_follows_mode_and_gradients():
    model = network()
    training = attach(model, sgd(model))
    assert training.phase == "train"
    with torch.no_grad():
        assert training.phase == "eval"
    model.eval()
    assert training.phase == "eval"


def test_a_listener_can_stop(digits):
    model = network()
    optimizer = sgd(model)
    training = attach(model, optimizer)
    seen = []
    stop = training.on("before_step", seen.append)
    train(model, optimizer, digits, 2)
    stop()
    stop()  # a second time does no harm
    train(model, optimizer, digits, 2)
    assert len(seen) == 2


def test_pytorch_is_as_it_was_without_listeners():
    code = """
import torch
from trimtab.training.stage import stage
places = [(torch.autograd, "backward"), (torch.optim.Optimizer, "__init__"), (torch.nn.functional, "mse_loss"), (torch, "compile")]
before = [getattr(owner, name) for owner, name in places]
stops = [stage.taps.listen("backward", print), stage.taps.listen("loss", print)]
assert all(getattr(owner, name) is not old for (owner, name), old in zip(places, before))
for stop in stops: stop()
assert all(getattr(owner, name) is old for (owner, name), old in zip(places, before))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ)
    assert done.returncode == 0, done.stderr


def test_two_hundred_trainings_that_are_gone_leave_nothing_behind():
    code = """
import gc, torch, torch._dynamo, trimtab as tt
from trimtab.training.stage import stage
F = torch.nn.functional
owners = torch.nn.functional, torch.optim.Optimizer, torch.nn.Module, torch.autograd, torch
before = [dict(vars(owner)) for owner in owners]
x, y = torch.randn(8, 4), torch.randint(0, 3, (8,))
for number in range(200):
    model = torch.nn.Linear(4, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    training = tt.attach(model, optimizer)
    training.on("evaluation", lambda name, value: None)
    if number % 2: training.apply("early_stopping, clip_norm, label_smoothing")
    if number % 3 == 0:
        with training.watch(): F.cross_entropy(model(x), y).backward(); optimizer.step()
    else: F.cross_entropy(model(x), y).backward(); optimizer.step()
    with torch.no_grad(): F.cross_entropy(model(x), y)
    del training, model, optimizer
gc.collect()
changed = [name for owner, old in zip(owners, before) for name in old if vars(owner).get(name) is not old[name]]
assert not changed, changed
assert not stage.alive() and not any(stage.taps._listeners.values()), stage.taps._listeners
assert not torch.nn.modules.module._global_forward_hooks and not stage.taps._changers and not stage.taps._terms
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ)
    assert done.returncode == 0, done.stderr


def test_taps_keep_names_and_docs():
    stop = stage.taps.listen("loss", lambda *_: None)
    try:
        assert F.cross_entropy.__name__ == "cross_entropy"
        assert "Compute the cross entropy" in F.cross_entropy.__doc__
    finally:
        stop()


def test_a_model_that_torchscript_has_compiled_trains_and_is_refused(digits):
    model = torch.jit.script(network("mlp"))
    training = tt.attach(model, torch.optim.SGD(model.parameters(), lr=0.1))
    for text in ("dropout", "batch_norm", "label_smoothing", "noise"):
        with pytest.raises(tt.NothingToDo):
            training.apply(text)
    training.apply("l2(factor=0.1, only='*weight'), clip_norm(max_norm=0.1)")
    train(model, training.optimizers[0], digits, 2)
    assert all(change.acted() for change in training.changes)


@pytest.mark.parametrize(
    "recipe",
    ["batch_norm", "dropout(p=0.5)", "he_init", "l1(factor=0.1)", "l0", "weight_decay", "muon", "drop_connect"],
)
def test_weights_that_are_computed_are_looked_at_without_a_trace(recipe):
    class Noisy(nn.Module):
        def forward(self, weight):
            return weight + 0.01 * torch.randn_like(weight)

    model = network()
    nn.utils.parametrizations.spectral_norm(model[0])
    nn.utils.parametrize.register_parametrization(model[2], "weight", Noisy())
    before, drawn = copy.deepcopy(dict(model.named_buffers())), torch.get_rng_state()
    training = tt.attach(model, torch.optim.SGD(model.parameters(), lr=0.1))
    with contextlib.suppress(tt.NothingToDo):
        training.apply(recipe)
    assert torch.equal(drawn, torch.get_rng_state())
    now = dict(model.named_buffers())
    assert all(torch.equal(value, now[name]) for name, value in before.items())
    assert all(part.training for part in model.modules())
