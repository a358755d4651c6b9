"""What techniques put into the flow of a training: other inputs, outputs and losses, and terms beside the loss."""

from __future__ import annotations

import contextlib
import copy
import io
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.conftest import network, train
from trimtab.training import attach, find
from trimtab.training.taps import Taps


def attached(lr: float = 0.1):
    model = network()
    return model, attach(model, torch.optim.SGD(model.parameters(), lr=lr))


def losses_of(training) -> list[float]:
    losses: list[float] = []
    training.on("step", lambda loss: losses.append(loss.item()))
    return losses


def test_input_is_changed_in_training_only(digits):
    model, training = attached()
    stop = training.change_input(torch.zeros_like)
    plain = copy.deepcopy(model)  # a copy has no part in the training
    x = digits[0][:8]
    assert torch.equal(model(x), plain(torch.zeros_like(x)))
    assert not torch.equal(plain(x), plain(torch.zeros_like(x)))
    with torch.no_grad():
        assert torch.equal(model(x), plain(x))
    assert torch.equal(model.eval()(x), plain(x))
    stop()
    assert torch.equal(model.train()(x), plain(x))


def test_a_model_that_is_called_once_more_keeps_its_input(digits):
    model, training = attached()
    plain, x, y = copy.deepcopy(model), digits[0][:8], digits[1][:8]
    once = F.cross_entropy(plain(x) + 1, y)
    expected = torch.autograd.grad(once, list(plain.parameters()))
    told: list[nn.Module] = []
    training.on("forward", told.append)
    training.change_input(torch.zeros_like)
    training.change_output(lambda y: y + 1)
    training.change_loss(lambda loss: loss() * 2)
    with training.repeating():
        assert torch.equal(model(x), plain(x) + 1)
        twice = F.cross_entropy(model(x), y)
    assert told == []
    assert twice == once  # the script sees its own number, and trains on ours
    for one, other in zip(torch.autograd.grad(twice, list(model.parameters())), expected, strict=True):
        torch.testing.assert_close(one, 2 * other)
    assert torch.equal(model(x), plain(torch.zeros_like(x)) + 1)
    assert told == [model]


def test_a_loss_without_an_argument_keeps_nothing_of_it_alive(digits):
    model, training = attached()
    kept = []
    training.change_loss(lambda loss: kept.append(loss.without("input")))
    F.cross_entropy(model(digits[0]), digits[1], label_smoothing=0.1)
    assert set(kept[0].arguments) == {"target", "label_smoothing"}
    other = torch.randn(512, 10)
    assert torch.equal(kept[0](input=other), F.cross_entropy(other, digits[1], label_smoothing=0.1))


class Named(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 2)

    def forward(self, ids: torch.Tensor, *, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"hidden": pixels * 2, "logits": self.head(pixels)}


def test_input_by_keyword_and_output_in_a_mapping():
    model = Named()
    training = attach(model, torch.optim.SGD(model.parameters(), lr=0.1))
    training.change_input(lambda x: x + 1)
    training.change_output(lambda y: y * 0)
    out = model(torch.arange(3), pixels=torch.zeros(4, 3))
    assert torch.equal(out["hidden"], torch.full((4, 3), 2.0))
    assert torch.equal(out["logits"], torch.zeros(4, 2))


def test_the_gradient_of_a_loss_is_changed_and_its_value_is_the_scripts(digits):
    model, training = attached()
    recorded = losses_of(training)
    stop = training.change_loss(lambda loss: loss() * 3)
    stop_too = training.change_loss(lambda loss: loss() + 1 if loss.name == "cross_entropy" else None)  # asked first
    x, y = digits[0][:32], digits[1][:32]
    loss = F.cross_entropy(model(x), y)
    with torch.no_grad():
        plain = F.cross_entropy(model(x), y)
    assert loss.item() == plain.item()
    loss.backward()
    gradient = model[0].weight.grad.clone()
    training.optimizers[0].step()
    assert recorded == [plain.item()]
    stop()
    stop_too()
    twin = network()
    F.cross_entropy(twin(x), y).backward()
    torch.testing.assert_close(gradient, 3 * twin[0].weight.grad)
    with torch.no_grad():  # evaluations are left alone
        assert F.cross_entropy(twin(x), y) == plain


def test_arguments_of_a_loss_have_names(digits):
    model, training = attached()
    seen = {}
    training.change_loss(lambda loss: seen.update(loss.arguments))
    x, y = digits[0][:32], digits[1][:32]
    weight = torch.ones(10)
    output = model(x)
    nn.CrossEntropyLoss(weight, reduction="sum")(output, y)
    assert seen["input"] is output and seen["target"] is y
    assert seen["weight"] is weight and seen["reduction"] == "sum"


def test_a_term_joins_backward_and_not_the_record(digits):
    model, training = attached()
    recorded = losses_of(training)
    stop = training.add_loss(lambda: model[0].weight.square().sum())
    losses = train(model, training.optimizers[0], digits, 1)
    assert recorded == losses
    moved = model[0].weight.detach().clone()
    twin, other = attached()
    x, y = digits[0][:32], digits[1][:32]
    (F.cross_entropy(twin(x), y) + twin[0].weight.square().sum()).backward()
    other.optimizers[0].step()
    torch.testing.assert_close(moved, twin[0].weight)
    stop()
    before = copy.deepcopy(model)
    train(model, training.optimizers[0], digits, 1)
    train(before, torch.optim.SGD(before.parameters(), 0.1), digits, 1)
    assert torch.equal(model[0].weight, before[0].weight)


def test_a_term_is_scaled_with_the_loss(digits):
    gradients = []
    for scaled in (False, True):
        model, training = attached()
        training.add_loss(lambda model=model: model[0].weight.square().sum())
        x, y = digits[0][:32], digits[1][:32]
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, enabled=scaled)
        scaler.scale(F.cross_entropy(model(x), y)).backward()
        scaler.unscale_(training.optimizers[0])
        gradients.append(model[0].weight.grad)
    torch.testing.assert_close(*gradients)


def test_changes_belong_to_the_training_whose_model_ran(digits):
    _, one = attached()
    second, two = attached()
    one.change_loss(lambda loss: loss() * 2)
    one.add_loss(lambda: pytest.fail("this training did not run"))
    x, y = digits[0][:32], digits[1][:32]
    two.change_loss(lambda loss: None)
    loss = F.cross_entropy(second(x), y)
    assert loss == F.cross_entropy(copy.deepcopy(second)(x), y)
    loss.backward()


def test_evaluations_are_told_before_the_next_update(digits):
    model, training = attached()
    told = []
    training.on("evaluation", lambda name, value: told.append((name, value, model[0].weight.detach().clone())))
    train(model, training.optimizers[0], digits, 2)
    weight = model[0].weight.detach().clone()
    with torch.no_grad():
        val_loss = F.cross_entropy(model(digits[0]), digits[1])
    assert told == []
    train(model, training.optimizers[0], digits, 1)
    assert [name for name, *_ in told] == ["val loss", "val accuracy"]
    assert told[0][1] == pytest.approx(val_loss.item())
    assert torch.equal(told[0][2], weight)
    training.evaluated("score", 0.5)
    assert told[-1][:2] == ("score", 0.5)


def test_a_model_with_gates_pickles_and_compiles(digits):
    model, training = attached()
    training.change_input(torch.zeros_like)
    x = digits[0][:8]
    expected = model(x)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    read = torch.load(file, weights_only=False)
    assert not torch.equal(read(x), expected)  # a copy has no part in the training
    compiled = torch.compile(model, backend="eager")
    assert torch.equal(compiled(x), expected)
    with torch.no_grad():
        assert torch.equal(compiled(x), read(x))


def test_a_training_without_changes_is_left_alone_by_those_of_another(digits):
    _, plain = attached()
    model, changed = attached()
    changed.change_loss(lambda loss: loss() * 2)
    losses = train(model, changed.optimizers[0], digits, 1)
    assert losses == train(plain.model, plain.optimizers[0], digits, 1)
    for one, other in zip(model.parameters(), plain.model.parameters(), strict=True):
        torch.testing.assert_close(one.grad, 2 * other.grad)


def test_clipping_sees_gradients_that_a_fused_optimizer_is_going_to_unscale(digits):
    moves = []
    for scaled in (False, True):
        model = network()
        optimizer = torch.optim.SGD(model.parameters(), lr=1.0, fused=True)
        attach(model, optimizer).apply("clip_norm(max_norm=0.01)")
        before = model[0].weight.detach().clone()
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, enabled=scaled)
        scaler.scale(F.cross_entropy(model(digits[0][:32]), digits[1][:32])).backward()
        scaler.step(optimizer)
        moves.append(model[0].weight.detach() - before)
    assert moves[0].norm() > 0
    torch.testing.assert_close(*moves)


class Owner(nn.Module):
    """Is not called itself: as a module of Lightning, whose steps call its parts."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.loss = net, nn.CrossEntropyLoss()

    def training_step(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return self.loss(self.net(x), y)


class Callable(Owner):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x)

    def training_step(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return self.loss(self(x), y)


@pytest.mark.parametrize("kind", [Owner, Callable])
def test_parts_that_are_called_stand_for_a_model_that_is_not(kind, digits):
    owner = kind(network())
    assert find.called_modules(owner) == (owner, owner.net)  # and not the loss
    optimizer = torch.optim.SGD(owner.parameters(), lr=0.1)
    training = attach(owner, optimizer)
    seen, changed = [], []
    training.change_input(lambda x: seen.append(x) or x + 1)
    training.change_loss(lambda loss: changed.append(loss.name))
    inside: list[torch.Tensor] = []
    owner.net.register_forward_pre_hook(lambda module, args: inside.append(args[0]))
    x, y = digits[0][:16], digits[1][:16]
    owner.training_step(x, y).backward()
    optimizer.step()
    assert len(seen) == 1 and changed == ["cross_entropy"] and torch.equal(inside[0], x + 1)  # once
    owner.eval()
    with torch.no_grad():
        owner.training_step(x, y)
    assert len(seen) == 1 and torch.equal(inside[1], x)


def test_a_training_that_ended_in_the_middle_does_not_change_the_next(digits):
    """Its model was called last, and the next one is in evaluation mode while it trains."""
    x, y = digits[0][:16], digits[1][:16]
    second = network().eval()
    F.cross_entropy(second(x), y).backward()
    own = second[0].weight.grad.clone()
    first, training = attached()
    training.change_loss(lambda loss: 3 * loss())
    first(x)
    attach(second, torch.optim.SGD(second.parameters(), lr=0.1)).change_input(lambda x: x)
    second.zero_grad()
    F.cross_entropy(second(x), y).backward()
    assert torch.equal(second[0].weight.grad, own)


def test_a_scripted_model_beside_a_treated_one_is_left_alone(digits):
    x, y = digits[0][:16], digits[1][:16]
    scripted = torch.jit.script(network())
    optimizer = torch.optim.SGD(scripted.parameters(), lr=0.1)
    with attach(scripted, optimizer):
        model, training = attached()
        training.change_loss(lambda loss: 3 * loss())
        F.cross_entropy(scripted(x), y).backward()
        optimizer.step()
        F.cross_entropy(model(x), y).backward()
        assert model[0].weight.grad.norm() > 0
        training.close()


def test_a_call_that_is_interrupted_ends_no_gate(digits):
    x, y = digits[0][:16], digits[1][:16]
    model, training = attached()
    calls, interrupted = [], [False]
    training.change_input(lambda x: calls.append(1))

    def interrupt(*_: object) -> None:
        if interrupted[0]:
            raise KeyboardInterrupt

    model[2].register_forward_hook(interrupt)
    for number in range(5):
        interrupted[0] = number == 2
        with contextlib.suppress(KeyboardInterrupt):
            F.cross_entropy(model(x), y).backward()
            training.optimizers[0].step()
        assert len(calls) == number + 1


def test_undo_of_one_handle_leaves_what_another_has_put_in(digits, no_other_training):
    x, y = digits[0][:64], digits[1][:64]
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    first = attach(model, optimizer).apply("dropout(p=0.5)")
    attach(model, optimizer).apply("l2(factor=0.01)").undo()
    for _ in range(2):
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    model(x)  # an evaluation, in training mode and with gradients: nothing is dropped
    assert torch.equal(model(x), model(x))
    first.undo()
    assert b"trimtab" not in pickle.dumps(model)


def test_what_puts_nothing_into_a_model_leaves_nothing_in_its_file(digits, no_other_training):
    model = network()
    with attach(model, torch.optim.SGD(model.parameters(), lr=0.1)).apply("clip_norm, l2, adam"):
        assert not any("trimtab" in key for module in model.modules() for key in vars(module))
    assert b"trimtab" not in pickle.dumps(model)


class Leaving(list):
    """A list of listeners in whose growing the last other listener leaves, as it does when a training is collected just then."""

    def __init__(self, leave):
        self.leave = leave

    def append(self, call):
        self.leave()
        super().append(call)


def test_a_listener_that_leaves_while_another_comes_takes_no_taps_with_it():
    taps, made = Taps(), []
    taps._listeners["optimizer"] = Leaving(taps.listen("saved", lambda *_: None))
    stop = taps.listen("optimizer", made.append)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    stop()
    assert made == [optimizer]
