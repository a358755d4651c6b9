"""Sharpness-aware minimization of scripts that have never heard of it, against two passes written by hand."""

from __future__ import annotations

import copy
import itertools
import pickle
import weakref

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import trimtab as tt
from tests.conftest import network, torchrun, train
from trimtab import optim
from trimtab.training.stage import stage


def begin(text: str, model: nn.Module, lr: float = 0.1, **given):
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, **given)
    return optimizer, tt.attach(model, optimizer).apply(text)


def by_hand(model: nn.Module, loss, rho: float = 0.05, adaptive: bool = False) -> list[torch.Tensor]:
    """The gradients at the worst point nearby: ``loss()`` is evaluated twice, with the same random numbers, on a copy's buffers."""
    params = [p for p in model.parameters() if p.requires_grad]
    numbers, buffers = torch.get_rng_state(), copy.deepcopy(dict(model.named_buffers()))
    first = torch.autograd.grad(loss(), params, allow_unused=True)
    first = [torch.zeros_like(p) if g is None else g for p, g in zip(params, first, strict=True)]
    after, kept = copy.deepcopy(dict(model.named_buffers())), [p.detach().clone() for p in params]
    scaled = [p.detach().abs() * g if adaptive else g for p, g in zip(params, first, strict=True)]
    norm = torch.cat([g.flatten() for g in scaled]).norm()
    with torch.no_grad():
        for p, g in zip(params, first, strict=True):
            p += rho * (p**2 if adaptive else 1) * g / norm
        for name, buffer in model.named_buffers():
            buffer.copy_(buffers[name])
    torch.set_rng_state(numbers)
    second = torch.autograd.grad(loss(), params, allow_unused=True)
    with torch.no_grad():
        for p, value in zip(params, kept, strict=True):
            p.copy_(value)
        for name, buffer in model.named_buffers():
            buffer.copy_(after[name])
    return [torch.zeros_like(p) if g is None else g for p, g in zip(params, second, strict=True)]


def compare(model: nn.Module, expected: list[torch.Tensor], rtol: float = 1e-4, atol: float = 1e-6) -> None:
    """Two passes in float32, from weights that differ by the rounding of a norm."""
    found = [torch.zeros_like(p) if p.grad is None else p.grad for p in model.parameters() if p.requires_grad]
    for g, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(g, wanted, rtol=rtol, atol=atol)


class Net(nn.Module):
    """Batch norm, dropout, and an output in one of several forms."""

    def __init__(self, form: str = "logits", classes: int = 10) -> None:
        super().__init__()
        self.form = form
        self.body = nn.Sequential(nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3))
        self.head = nn.Linear(16, classes)
        self.unused = nn.Parameter(torch.ones(1))

    def forward(self, x, y=None, **options):
        z = self.head(self.body(x))
        if self.form == "tuple":
            return torch.zeros(1), z
        if self.form == "dict":
            return {"loss": F.cross_entropy(z, y), "logits": z} if y is not None else {"logits": z}
        if self.form == "loss":
            return F.cross_entropy(z, y)
        return z.squeeze(1) if self.form == "column" else z


LOSSES = {  # the form of the output, and what the script makes of it; losses that a model computes itself too
    "plain": ("logits", lambda m, x, y: F.cross_entropy(m(x), y)),
    "a module": ("logits", lambda m, x, y: nn.CrossEntropyLoss(label_smoothing=0.1)(m(x), y)),
    "keywords": ("logits", lambda m, x, y: F.cross_entropy(input=m(x=x), target=y)),
    "a part of the sum": ("logits", lambda m, x, y: F.cross_entropy(m(x), y, reduction="none")[:20].sum() / 3),
    "log-softmax": ("logits", lambda m, x, y: F.nll_loss(F.log_softmax(m(x), -1), y)),
    "softmax": ("logits", lambda m, x, y: F.mse_loss(m(x).softmax(1), F.one_hot(y, 10).float())),
    "sigmoid": ("logits", lambda m, x, y: F.binary_cross_entropy(m(x).sigmoid(), F.one_hot(y, 10).float())),
    "double": ("logits", lambda m, x, y: F.cross_entropy(m(x).double(), y)),
    "a view": ("logits", lambda m, x, y: F.cross_entropy(m(x).view(2, -1, 10).transpose(1, 2), y.view(2, -1))),
    "a slice": ("logits", lambda m, x, y: F.cross_entropy(m(x)[::2, :10], y[::2])),
    "a column": ("column", lambda m, x, y: F.mse_loss(m(x), y.float())),
    "a slice of a column": ("column", lambda m, x, y: F.mse_loss(m(x)[5:], y[5:].float())),
    "a tuple": ("tuple", lambda m, x, y: F.cross_entropy(m(x)[1], y)),
    "a dict": ("dict", lambda m, x, y: F.cross_entropy(m(x)["logits"], y)),
    "its own loss": ("dict", lambda m, x, y: m(x, y=y)["loss"] / 4),
    "its own loss alone": ("loss", lambda m, x, y: m(x, y)),
    "two outputs in one": ("logits", lambda m, x, y: F.triplet_margin_loss(m(x), m(x.flip(0)), m(x * 0.5))),
}


@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("name", LOSSES)
def test_gradients_are_those_of_the_worst_point_nearby(name, adaptive, digits):
    form, loss = LOSSES[name]
    x, y = digits[0][:64], digits[1][:64]
    torch.manual_seed(3)
    model = Net(form, 1 if form == "column" else 10)
    twin = copy.deepcopy(model)
    optimizer, training = begin(f"sam(rho=0.5, adaptive={adaptive})", model)
    numbers = torch.get_rng_state()
    expected = by_hand(twin, lambda: loss(twin, x, y), 0.5, adaptive)
    torch.set_rng_state(numbers)
    before = [p.detach().clone() for p in model.parameters()]
    value = loss(model, x, y)
    torch.rand(5)  # the script goes on to draw
    after = torch.get_rng_state()
    value.backward()
    assert torch.equal(torch.get_rng_state(), after)
    assert training.changes[0].acted()
    compare(model, expected, rtol=1e-3, atol=1e-5)
    assert all(torch.equal(p, w) for p, w in zip(model.parameters(), before, strict=True))
    assert optimizer.param_groups[0]["params"][0] is model.unused and model.unused.grad is None
    for key, buffer in model.named_buffers():  # one update of batch norm's statistics for each call of the script
        torch.testing.assert_close(buffer, dict(twin.named_buffers())[key], rtol=0, atol=0)


def test_without_it_the_gradients_are_others(digits):
    """What the comparison above would let through: at its radius the plain gradient is far outside of its tolerance."""
    x, y = digits[0][:64], digits[1][:64]
    torch.manual_seed(3)
    model = Net()
    twin = copy.deepcopy(model)
    numbers = torch.get_rng_state()
    expected = by_hand(twin, lambda: F.cross_entropy(twin(x), y), 0.5)
    torch.set_rng_state(numbers)
    F.cross_entropy(model(x), y).backward()
    with pytest.raises(AssertionError):
        compare(model, expected, rtol=1e-1, atol=1e-3)


def test_what_is_frozen_or_in_no_optimizer_is_not_moved(digits):
    x, y = digits[0][:64], digits[1][:64]
    model = network()
    model[0].requires_grad_(False)
    twin = copy.deepcopy(model)
    training = tt.attach(model, torch.optim.SGD(model[2].parameters(), lr=0.1)).apply("sam(rho=0.5)")
    F.cross_entropy(model(x), y).backward()
    # the worst point is sought along the parameters that are trained; the last layer has a gradient there all the same
    params = list(twin[2].parameters())
    first = torch.autograd.grad(F.cross_entropy(twin(x), y), params)
    norm = torch.cat([g.flatten() for g in first]).norm()
    with torch.no_grad():
        for p, g in zip(params, first, strict=True):
            p += 0.5 * g / norm
    F.cross_entropy(twin(x), y).backward()
    assert training.changes[0].acted() and model[0].weight.grad is None
    compare(model, [p.grad for p in twin.parameters() if p.requires_grad])


def test_is_the_optimizer_of_trimtab_with_a_closure(digits):
    model, other = network(), network()
    optimizer, _ = begin("sam(rho=0.1)", model, momentum=0.9)
    written = optim.SAM(other.parameters(), torch.optim.SGD, rho=0.1, lr=0.1, momentum=0.9)
    losses = train(model, optimizer, digits, 5)
    for step, loss in enumerate(losses):
        x, y = (part[step * 32 : step * 32 + 32] for part in digits)

        def closure(x=x, y=y):
            written.zero_grad()
            value = F.cross_entropy(other(x), y)
            value.backward()
            return value

        assert written.step(closure).item() == pytest.approx(loss, rel=1e-5)


@pytest.mark.parametrize("closure", [False, True])
def test_the_script_goes_on_as_ever_around_it(closure, digits):
    """Accumulation in parts, a scaler, clipping, a penalty of the script and one of ours, a scheduler, a closure."""
    torch.manual_seed(0)
    model = Net()
    model.body[3].p = 0.0
    twin = copy.deepcopy(model)
    optimizer, _ = begin("l2(factor=0.01), sam(rho=0.2)", model)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    parts = [slice(0, 32), slice(32, 64)]

    def gradients():
        optimizer.zero_grad()
        for part in parts:
            loss = F.cross_entropy(model(digits[0][part]), digits[1][part]) / 2
            loss = loss + 0.1 * model.head.weight.square().sum()
            (loss if closure else scaler.scale(loss)).backward()
        return loss

    expected = [torch.zeros_like(p) for p in twin.parameters()]
    for part in parts:
        found = by_hand(twin, lambda part=part: F.cross_entropy(twin(digits[0][part]), digits[1][part]) / 2, 0.2)
        expected = [e + g for e, g in zip(expected, found, strict=True)]
    before = [p.detach().clone() for p in model.parameters()]
    total = []
    for p, (name, _), e in zip(before, model.named_parameters(), expected, strict=True):
        g = e + (0.4 * p if name == "head.weight" else 0)  # the script's own term, once for each part
        total.append(g)
    norm = torch.cat([g.flatten() for g in total]).norm()
    total = [g if closure else g * min(1.0, 0.5 / norm.item()) for g in total]
    total = [
        g + (0.01 * w if w.ndim == 2 else 0) for g, w in zip(total, before, strict=True)
    ]  # ours comes after clipping
    if closure:
        optimizer.step(gradients)
    else:
        gradients()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        scaler.step(optimizer)
        scaler.update()
    for p, w, g in zip(model.parameters(), before, total, strict=True):
        if p is not model.unused:
            torch.testing.assert_close(p, w - 0.1 * g, rtol=1e-4, atol=1e-5)


def test_mixed_precision_is_that_of_the_script(digits):
    model = network()
    twin = copy.deepcopy(model)
    optimizer, _ = begin("sam(rho=0.5)", model)
    x, y = digits

    def loss(m):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return F.cross_entropy(m(x), y)

    optimizer.zero_grad()
    loss(model).backward()
    compare(model, by_hand(twin, lambda: loss(twin), 0.5), rtol=1e-2, atol=1e-4)  # eight bits
    twin.zero_grad()
    F.cross_entropy(twin(x), y).backward()
    with pytest.raises(AssertionError):
        compare(model, [p.grad for p in twin.parameters()], rtol=1e-1, atol=1e-3)


def test_other_techniques_see_both_passes_alike(digits):
    """Noise and a mix are drawn once, label smoothing holds in both passes."""
    x, y = digits[0][:64], digits[1][:64]
    model, twin = network(), network()
    last: list[torch.Tensor] = []
    for m, text in (
        (model, "noise(std=0.5), mixup, label_smoothing, sam(rho=0.3)"),
        (twin, "noise(std=0.5), mixup, label_smoothing"),
    ):
        kept = begin(text, m)
        seen: list[torch.Tensor] = []
        hook = m[0].register_forward_pre_hook(lambda _, args, seen=seen: seen.append(args[0].detach().clone()))
        torch.manual_seed(0)
        loss = F.cross_entropy(m(x), y)
        loss.backward()
        if m is model:
            assert len(seen) == 2 and torch.equal(*seen) and kept[1].changes[-1].acted()
            values = loss.item()
        m(x)
        hook.remove()
        last.append(seen[-1])
    assert values == loss.item()
    assert torch.equal(*last)  # the second pass took nothing from what is drawn next


def test_recorded_loss_and_evaluations_stay_plain(digits):
    model, other = network(), network()
    optimizer, _ = begin("sam", model)
    recorder = tt.attach(other, plain := torch.optim.SGD(other.parameters(), lr=0.1))
    said: list[float] = []
    recorder.on("step", lambda loss: said.append(loss.item()))
    assert train(model, optimizer, digits, 1) == train(other, plain, digits, 1) == said
    with torch.no_grad():
        assert not F.cross_entropy(model(digits[0]), digits[1]).requires_grad
    model.eval()  # training in evaluation mode is left alone, as by all that changes losses
    twin = copy.deepcopy(model)
    optimizer.zero_grad()
    F.cross_entropy(model(digits[0]), digits[1]).backward()
    F.cross_entropy(twin(digits[0]), digits[1]).backward()
    assert all(torch.equal(p.grad, q.grad) for p, q in zip(model.parameters(), twin.parameters(), strict=True))


@pytest.mark.parametrize(
    "loss",
    [
        lambda m, x, y: F.cross_entropy(m(x) * 2, y),
        lambda m, x, y: F.cross_entropy(m(x.clone().requires_grad_()), y),
        lambda m, x, y: F.mse_loss(m(x), m(x.clone().requires_grad_())),
        lambda m, x, y: (m(x) ** 2).mean(),
    ],
    ids=["a function of the output", "an input with a gradient", "one of two", "no loss of torch"],
)
def test_what_is_no_function_of_a_model_call_is_left_alone(loss, digits):
    x, y = digits
    model = network()
    twin = copy.deepcopy(model)
    optimizer, training = begin("sam(rho=0.5)", model)
    for m in (model, twin):
        loss(m, x, y).backward()
    optimizer.step()
    assert all(torch.equal(p.grad, q.grad) for p, q in zip(model.parameters(), twin.parameters(), strict=True))
    assert not training.changes[0].acted()


def test_an_input_that_was_overwritten_meanwhile(digits):
    class Shifted(nn.Module):
        def __init__(self):
            super().__init__()
            self.shift, self.layer = nn.Parameter(torch.ones(64)), nn.Linear(64, 10)

        def forward(self, x):
            return self.layer(x + self.shift)  # keeps no x for its backward

    model = Shifted()
    twin = copy.deepcopy(model)
    _, training = begin("sam(rho=0.5)", model)
    for m in (model, twin):
        batch = digits[0].clone()
        loss = F.cross_entropy(m(batch), digits[1])
        batch.zero_()  # the place of the next batch
        loss.backward()
    assert torch.equal(model.layer.weight.grad, twin.layer.weight.grad)
    assert not training.changes[0].acted()


def test_inputs_made_in_inference_mode(digits):
    class Indexed(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.layer = nn.Embedding(64, 8), nn.Linear(8, 10)

        def forward(self, x):
            return self.layer(self.table.weight[x.tolist()])

    with torch.inference_mode():
        x = torch.arange(64)
    model = Indexed()
    _, training = begin("sam(rho=0.5)", model)
    F.cross_entropy(model(x), digits[1][:64]).backward()
    assert training.changes[0].acted()


def test_gradients_that_are_differentiated_again_are_the_plain_ones(digits):
    x, y = digits[0][:16], digits[1][:16]
    model = nn.Sequential(nn.Linear(64, 8), nn.Tanh(), nn.Linear(8, 10))
    twin = copy.deepcopy(model)
    kept = begin("sam(rho=0.5)", model)
    found = []
    for m in (model, twin):
        params = list(m.parameters())
        grads = torch.autograd.grad(F.cross_entropy(m(x), y), params, create_graph=True)
        found.append(torch.autograd.grad(sum(g.square().sum() for g in grads), params))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-7)
    assert not kept[1].changes[0].acted()


def test_backward_twice_through_one_loss(digits):
    x, y = digits[0][:16], digits[1][:16]
    model = network()
    kept = begin("sam(rho=0.5)", model)
    loss = F.cross_entropy(model(x), y)
    loss.backward(retain_graph=True)
    once = [p.grad.clone() for p in model.parameters()]
    loss.backward()
    for p, g in zip(model.parameters(), once, strict=True):
        torch.testing.assert_close(p.grad, 2 * g, rtol=1e-5, atol=1e-7)
    assert kept[1].changes[0].acted()
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        loss.backward()


def test_terms_that_share_the_graph_keep_their_gradient(digits):
    x, y = digits[0][:64], digits[1][:64]
    model = network()
    twin = copy.deepcopy(model)
    kept = begin("sam(rho=0.5)", model)
    output = model(x)
    (F.cross_entropy(output, y) + 0.1 * output.square().mean() + F.mse_loss(output, torch.zeros(64, 10))).backward()
    expected = by_hand(twin, lambda: F.cross_entropy(twin(x), y), 0.5)
    other = by_hand(twin, lambda: F.mse_loss(twin(x), torch.zeros(64, 10)), 0.5)
    plain = torch.autograd.grad(0.1 * twin(x).square().mean(), list(twin.parameters()))
    assert kept[1].changes[0].acted()
    compare(model, [a + b + c for a, b, c in zip(expected, other, plain, strict=True)])


def test_the_graph_goes_with_the_backward(digits):
    class Kept:
        def __init__(self, tensor):
            self.tensor = tensor

    model = network()
    _, training = begin("sam", model)
    held = []

    def pack(tensor):
        kept = Kept(tensor.detach())  # an output that is saved would hold its own graph
        held.append(weakref.ref(kept))
        return kept

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda kept: kept.tensor):
        loss = F.cross_entropy(model(digits[0]), digits[1])
    assert held and all(ref() for ref in held)
    loss.backward()
    assert not any(ref() for ref in held)  # while the script still holds its loss
    assert training.changes[0].acted()


def test_a_model_that_cannot_be_called_twice(digits):
    calls = itertools.count(1)

    class Once(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(64, 10)

        def forward(self, x):
            if next(calls) == 2:
                raise RuntimeError("only once")
            return self.layer(x)

    model = Once()
    twin = copy.deepcopy(model)
    _, training = begin("sam(rho=0.5)", model)
    with pytest.warns(RuntimeWarning, match="sam: the model could not be called a second time, .*only once"):
        F.cross_entropy(model(digits[0]), digits[1]).backward()
    F.cross_entropy(twin(digits[0]), digits[1]).backward()
    assert torch.equal(model.layer.weight.grad, twin.layer.weight.grad)
    F.cross_entropy(model(digits[0]), digits[1]).backward()
    assert not training.changes[0].acted()


def test_copies_and_pickles_of_the_model_know_nothing_of_it(digits, no_other_training):
    model = network()
    _, training = begin("sam(rho=0.5)", model)
    twins = copy.deepcopy(model), pickle.loads(pickle.dumps(model))
    for twin in twins:
        loss = F.cross_entropy(twin(digits[0]), digits[1])
        assert type(loss.grad_fn).__name__ == "NllLossBackward0"
    with stage.taps.true_values():
        assert type(F.cross_entropy(model(digits[0]), digits[1]).grad_fn).__name__ == "_WorstBackward"
    training.undo()
    assert type(F.cross_entropy(model(digits[0]), digits[1]).grad_fn).__name__ == "NllLossBackward0"


def test_line_searches_and_loose_tensors_are_refused():
    model = network()
    optimizer = torch.optim.LBFGS(model.parameters(), line_search_fn="strong_wolfe")
    with pytest.raises(tt.NothingToDo, match="searches along a line for a lower loss"):
        tt.attach(model, optimizer).apply("sam")
    with pytest.raises(tt.RecipeError, match=r"sam: rho=-1 must be a positive number"):
        tt.Recipe.parse("sam(rho=-1)")


SCRIPT = """
import sys
import torch, torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
import trimtab as tt

dist.init_process_group("gloo")
torch.set_num_threads(1)
rank = dist.get_rank()
model, x, y = torch.load(sys.argv[1], weights_only=False)
wrapped = DistributedDataParallel(model)
optimizer = torch.optim.SGD(wrapped.parameters(), lr=0.1)
tt.attach(wrapped, optimizer).apply("sam(rho=0.5)")
own = slice(rank * 16, rank * 16 + 16)
for step in range(3):
    optimizer.zero_grad()
    nn.functional.mse_loss(wrapped(x[own]), y[own]).backward()
    optimizer.step()
if rank == 0:
    torch.save(model.state_dict(), sys.argv[2])
dist.destroy_process_group()
"""


def test_each_process_seeks_its_own_worst_point(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 2)).double()
    x, y = torch.randn(32, 5, dtype=torch.double), torch.randn(32, 2, dtype=torch.double)
    torch.save((model, x, y), tmp_path / "start.pt")
    torchrun(SCRIPT, tmp_path, "start.pt", "end.pt")
    found = torch.load(tmp_path / "end.pt")
    for _ in range(3):
        halves = [by_hand(model, lambda h=h: F.mse_loss(model(x[h]), y[h]), 0.5) for h in (slice(0, 16), slice(16, 32))]
        with torch.no_grad():
            for p, a, b in zip(model.parameters(), *halves, strict=True):
                p -= 0.1 * (a + b) / 2
    for name, value in model.state_dict().items():
        torch.testing.assert_close(found[name], value, rtol=1e-9, atol=1e-9)


def test_parameters_frozen_before_the_backward(digits):
    model = network()
    training = tt.attach(model, torch.optim.SGD(model.parameters(), lr=0.1)).apply("sam")
    loss = F.cross_entropy(model(digits[0][:8]), digits[1][:8])
    model[0].requires_grad_(False)
    loss.backward()
    assert model[0].weight.grad is None and model[2].weight.grad.abs().sum() > 0
    assert training.changes[0].acted()


def test_weights_that_were_lent_get_the_plain_gradient(digits):
    model = network()
    training = tt.attach(model, torch.optim.SGD(model.parameters(), lr=0.1)).apply("sam(rho=0.5)")
    x, y = digits[0][:8], digits[1][:8]

    def loss() -> torch.Tensor:
        return F.cross_entropy(
            torch.func.functional_call(model, {k: 0.5 * v for k, v in model.named_parameters()}, (x,)), y
        )

    loss().backward()
    found = [p.grad.clone() for p in model.parameters()]
    assert "weights that are not its own" in training.changes[0].outcome()
    training.undo().close()
    model.zero_grad()
    loss().backward()
    for ours, p in zip(found, model.parameters(), strict=True):
        assert torch.equal(ours, p.grad)
