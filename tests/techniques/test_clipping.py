"""Clipping and skipping in a live training: the same updates as by hand, whatever the training does around them."""

from __future__ import annotations

import copy
import math
import re
import warnings

import pytest
import torch
import torch.multiprocessing as mp
import torch.nn.functional as F
from torch import nn

import trimtab as tt
from tests.conftest import network, numbers, same, train
from tests.techniques.two_processes import SHARDED, sums_after, work
from tests.trial.conftest import clusters
from trimtab.optim import ZClip, clip_grad_adaptive_, clip_grad_norm_, clip_grad_value_
from trimtab.trial.run import Job, run_job
from trimtab.trial.subjects import Script


def last_of(model: nn.Module) -> set[int]:
    return {id(p) for p in list(model.children())[-1].parameters()}


def by_hand(text: str):
    """``clip(model, optimizer)`` with the functions of trimtab.optim."""
    if text.startswith("zclip"):
        clippers = {}

        def zclip(model, optimizer):
            clippers.setdefault(optimizer, ZClip(warmup_steps=3, z_threshold=0.1))(params(optimizer))

        return zclip
    if text.startswith("agc"):
        return lambda model, o: clip_grad_adaptive_([p for p in params(o) if id(p) not in last_of(model)], 0.02)
    return {
        "clip_norm(max_norm=0.1)": lambda model, o: clip_grad_norm_(params(o), 0.1),
        "clip_norm(max_norm=0.05, per_parameter=True)": lambda model, o: clip_grad_norm_(
            params(o), 0.05, per_parameter=True
        ),
        "clip_value(low=-0.01, high=0.02)": lambda model, o: clip_grad_value_(params(o), (-0.01, 0.02)),
    }[text]


CLIPS = (
    "clip_norm(max_norm=0.1)", "clip_norm(max_norm=0.05, per_parameter=True)", "clip_value(low=-0.01, high=0.02)",
    "agc(factor=0.02)", "zclip(warmup_steps=3, z_threshold=0.1)",
)  # fmt: skip
OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9),
    "adamw": lambda p: torch.optim.AdamW(p, 0.01),
    "lbfgs": lambda p: torch.optim.LBFGS(p, 0.5, max_iter=3),
}


def params(optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    return [p for group in optimizer.param_groups for p in group["params"]]


def loss_of(model: nn.Module, data: tuple, rows: slice = slice(0, 64)) -> torch.Tensor:
    return F.cross_entropy(model(data[0][rows]), data[1][rows])


def assert_same(one: nn.Module, other: nn.Module, **close: float) -> None:
    for p, q in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p, q, **(close or {"rtol": 0, "atol": 0}))


# -- the same as by hand ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("text", CLIPS)
def test_updates_are_those_of_clipping_by_hand(text, optimizer, digits):
    """With accumulation, and in closures."""
    models = [network(), network(), network()]
    mine, its, plain = (OPTIMIZERS[optimizer](model.parameters()) for model in models)
    training = tt.attach(models[0], mine).apply(text)
    clip = by_hand(text)
    for step in range(8):
        for model, one, after in ((models[0], mine, None), (models[1], its, clip), (models[2], plain, None)):

            def closure(model=model, one=one, after=after, step=step):
                one.zero_grad()
                for part in range(2):  # accumulated
                    start = 64 * step + 32 * part
                    loss = loss_of(model, digits, slice(start, start + 32)) / 2 * (1 if step % 5 else 3)
                    loss.backward()
                if after:
                    after(model, one)
                return loss

            if optimizer == "lbfgs":
                one.step(closure)
            else:
                closure()
                one.step()
    assert_same(models[0], models[1])
    assert any(not torch.equal(p, q) for p, q in zip(models[0].parameters(), models[2].parameters(), strict=True))
    assert re.search(r"acted in \d+ of \d+ steps", training.changes[0].outcome()) and training.changes[0].acted()


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("text", CLIPS)
def test_gradients_are_judged_unscaled(text, fused, digits):
    """Also where a fused optimizer takes scaled gradients and unscales them itself."""
    models = []
    for scaled in (False, True):
        model = network()
        optimizer = torch.optim.SGD(model.parameters(), 0.1, fused=fused)
        training = tt.attach(model, optimizer).apply(text)
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, enabled=scaled)
        for step in range(5):
            optimizer.zero_grad()
            scaler.scale(loss_of(model, digits, slice(64 * step, 64 * step + 64))).backward()
            scaler.step(optimizer)
            scaler.update()
        models.append(model)
    # a power of two scales float32 exactly; only bounds are rounded differently
    assert_same(*models, rtol=1e-6, atol=1e-7)
    assert " 5 steps" in training.changes[0].outcome()


@pytest.mark.parametrize("text", [*CLIPS, "skip_spikes"])
def test_a_step_that_the_scaler_leaves_out_is_not_clipped_nor_counted(text, digits):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, fused=True)
    training = tt.attach(model, optimizer).apply(text)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)  # overflows
    before = numbers(model, optimizer)
    scaler.scale(loss_of(model, digits) * 1e4).backward()
    scaler.step(optimizer)
    scaler.update()
    assert same(numbers(model, optimizer), before)
    assert training.changes[0].outcome() == ("" if text == "skip_spikes" else "no step was made")
    assert not training.changes[0].acted()


@pytest.mark.parametrize("text", CLIPS)
def test_each_optimizer_is_clipped_by_itself(text, digits):
    models = [network(), network()]
    pairs = [(torch.optim.SGD(m[:2].parameters(), 0.1), torch.optim.Adam(m[2:].parameters(), 0.01)) for m in models]
    tt.attach(models[0], list(pairs[0])).apply(text)
    clip = by_hand(text)
    for step in range(6):
        rows = slice(64 * step, 64 * step + 64)
        for model, optimizers, after in zip(models, pairs, (None, clip), strict=True):
            model.zero_grad()
            loss_of(model, digits, rows).backward()
            for one in optimizers:
                if after:
                    after(model, one)
                one.step()
    assert_same(*models)


def test_penalties_are_clipped_in_whatever_order_they_are_written(digits):
    for text in ("l2(factor=100.0), clip_norm(max_norm=0.5)", "clip_norm(max_norm=0.5), l2(factor=100.0)"):
        model = network()
        optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
        tt.attach(model, optimizer).apply(text)
        before = torch.cat([p.detach().flatten() for p in model.parameters()])
        loss_of(model, digits).backward()
        optimizer.step()
        after = torch.cat([p.detach().flatten() for p in model.parameters()])
        assert float((before - after).norm()) == pytest.approx(0.5, rel=1e-4)


def test_a_bound_that_is_never_reached_leaves_every_bit(digits):
    model, plain = network(), network()
    one, other = (torch.optim.SGD(m.parameters(), 0.1, momentum=0.9) for m in (model, plain))
    text = "skip_spikes, clip_norm(max_norm=1e6), clip_value(low=1e6), agc(factor=1e6), zclip(z_threshold=1e6)"
    training = tt.attach(model, one).apply(text)
    assert train(model, one, digits, 30) == train(plain, other, digits, 30)
    assert_same(model, plain)
    outcomes = [change.outcome() for change in training.changes]
    assert outcomes == ["never acted in 30 updates", *["never acted in 30 steps"] * 4]
    assert all(change.acted() for change in training.changes)


# -- the last layer --------------------------------------------------------------------------------------------------


def test_agc_leaves_out_the_last_layer_of_each_model(digits):
    encoder, head = network(), nn.Sequential(nn.ConvTranspose1d(2, 4, 1), nn.Linear(3, 3))
    optimizer = torch.optim.SGD([*encoder.parameters(), *head.parameters()], lr=1.0)
    training = tt.attach([encoder, head], optimizer).apply("agc(factor=1e-4)")
    change = training.changes[0]
    assert change.summary == "gradients of 6 parameters clipped at 0.0001 of the size of their weights"
    assert change.details == ("sequential0.4: left out, the last layer", "sequential1.1: left out, the last layer")
    training.undo().apply("agc(factor=1e-4, last=True)")
    assert training.changes[0].summary.startswith("gradients of 10 parameters") and not training.changes[0].details
    alone = nn.Linear(3, 3)
    with pytest.raises(tt.NothingToDo, match=r"agc found nothing to act on: .*Clip it too with last=True\."):
        tt.attach(alone, torch.optim.SGD(alone.parameters(), 0.1)).apply("agc")


def test_agc_knows_units_of_transposed_convolutions():
    model = nn.Sequential(nn.ConvTranspose1d(4, 6, 3, groups=2), nn.Flatten(), nn.Linear(6 * 7, 2)).double()
    twin = copy.deepcopy(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    tt.attach(model, optimizer).apply("agc(factor=1e-3)")
    x = torch.randn(3, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for one in (model, twin):
        one(x).square().sum().backward()
    optimizer.step()
    clip_grad_adaptive_(twin[0].parameters(), 1e-3, transposed={twin[0].weight: 2})
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p, q - q.grad, rtol=1e-12, atol=1e-12)


# -- updates that are left out ---------------------------------------------------------------------------------------

ALL = {
    **{
        name: (lambda p, cls=cls: cls(p, lr=0.01))
        for name, cls in vars(torch.optim).items()
        if isinstance(cls, type) and issubclass(cls, torch.optim.Optimizer)
        and name not in ("Optimizer", "SparseAdam", "Muon", "LBFGS")
    },
    "fused Adam": lambda p: torch.optim.Adam(p, fused=True),
    "plain AdamW": lambda p: torch.optim.AdamW(p, foreach=False, amsgrad=True),
    "LBFGS": lambda p: torch.optim.LBFGS(p, 0.1, max_iter=3),
    "SGD with a closure": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, weight_decay=0.1),
    "trimtab's SGD": lambda p: tt.optim.SGD(p, 0.1, momentum=0.9, weight_decay=0.1),
    "trimtab's AdamW": lambda p: tt.optim.AdamW(p, 0.1),
}  # fmt: skip


@pytest.mark.parametrize("name", ALL)
def test_a_step_that_is_left_out_changes_nothing_whatever_the_optimizer(name, digits):
    model = network("normed")
    optimizer = ALL[name](model.parameters())
    training = tt.attach(model, optimizer).apply(
        "skip_spikes, l1(factor=0.1, proximal=True)" if name == "SGD" else "skip_spikes"
    )
    scale = 1.0

    def closure():
        optimizer.zero_grad()
        loss = loss_of(model, digits) * scale
        loss.backward()
        return loss

    def step():
        if name in ("LBFGS", "SGD with a closure"):
            return optimizer.step(closure)
        loss = closure()
        optimizer.step()
        return loss

    for _ in range(3):
        step()
    before = numbers(model, optimizer)
    scale = math.nan
    assert step().isnan()
    after = numbers(model, optimizer)
    if name == "LBFGS":  # it counts evaluations
        assert [s.pop("func_evals") for s in (before[1][0], after[1][0])] == [9, 10]
    assert same(after, before)
    assert all(p.grad is not None for p in model.parameters())  # they are there again
    scale = 1.0
    step()
    assert not same(numbers(model, optimizer), before)
    assert training.changes[-1].outcome() == "skipped 1 of 5 updates (3)"


@pytest.mark.parametrize("text", ["weight_decay(factor=10.0)", "weight_decay(factor=10.0, kind='coupled')", "l1(factor=1.0)",
                                  "constrain(radius=0.5)", "clip_norm", "zclip"])  # fmt: skip
def test_nothing_else_acts_in_a_step_that_is_left_out(text, digits):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)
    training = tt.attach(model, optimizer).apply(f"skip_spikes, {text}")
    train(model, optimizer, digits, 3)
    before = numbers(model, optimizer)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # clipping does not see what is not finite
        train(model, optimizer, (digits[0] * math.nan, digits[1]), 1)
    assert same(numbers(model, optimizer), before)
    assert "skipped 1 of 4" in training.changes[text.startswith("l1")].outcome()
    if "clip" in text:
        assert "3 steps" in training.changes[1].outcome()


def test_optimizers_that_step_after_one_backward_are_left_out_together(digits):
    model = network()
    optimizers = [torch.optim.SGD(model[:2].parameters(), 0.1), torch.optim.Adam(model[2:].parameters(), 0.01)]
    training = tt.attach(model, optimizers).apply("skip_spikes(warmup=5)")

    def step(rows: slice, scale: float = 1.0) -> None:
        model.zero_grad()
        (loss_of(model, digits, rows) * scale).backward()
        for one in optimizers:
            one.step()

    for start in range(10):
        step(slice(32 * start, 32 * start + 32))
    before = [p.detach().clone() for p in model.parameters()]
    step(slice(0, 32), 1e3)
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))
    step(slice(0, 32))
    assert all(not torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))
    assert training.changes[0].outcome() == "SGD: skipped 1 of 12 updates (10); Adam: never acted in 11 updates"


def test_losses_that_take_turns_are_judged_each_by_its_own(digits):
    """As of two players: what is usual for one is a spike for the other."""
    models = [network(), network()]
    optimizers = [torch.optim.SGD(model.parameters(), 0.01) for model in models]
    training = tt.attach(models, optimizers).apply("skip_spikes(warmup=5)")
    before = None
    for step in range(20):
        for model, one, scale in zip(models, optimizers, (1e-4, 1e4 if step == 15 else 1.0), strict=True):
            one.zero_grad()
            (loss_of(model, digits) * scale).backward()
            before = [p.detach().clone() for p in model.parameters()]
            one.step()
            assert (step, scale) != (15, 1e4) or all(map(torch.equal, model.parameters(), before))
    assert training.changes[0].outcome() == "SGD: never acted in 20 updates; SGD: skipped 1 of 20 updates (15)"


def test_broken_weights_go_back_with_all_optimizers(digits):
    model = network("normed")
    optimizers = [
        torch.optim.SGD(model[:5].parameters(), 0.05, momentum=0.9),
        torch.optim.Adam(model[5:].parameters(), 0.005),
    ]
    training = tt.attach(model, optimizers).apply("skip_spikes(rollback=3, every=4, warmup=10)")
    losses, kept = [], {}
    for step in range(44):
        if step == 36:  # the last snapshot
            kept = [numbers(model, one) for one in optimizers]
        model.zero_grad()
        loss = loss_of(model, digits, slice(64 * step % 512, 64 * step % 512 + 64))
        loss.backward()
        for one in optimizers:
            one.step()
        losses.append(loss.item())
        if step == 39:  # a step that looked harmless
            with torch.no_grad():
                model[-1].weight.mul_(-100)
        if step == 42:
            weights = [name for name, _ in model.named_parameters()]
            for one, then in zip(optimizers, kept, strict=True):
                now = numbers(model, one)
                assert all(torch.equal(now[0][name], then[0][name]) for name in weights) and same(now[1], then[1])
    assert losses[40] > 20 * losses[39] and losses[43] < 1.5
    assert "went back to earlier weights at 42" in training.changes[0].outcome()


def test_the_scale_of_gradients_is_none_of_their_size(digits):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, fused=True)
    training = tt.attach(model, optimizer).apply("skip_spikes(warmup=5)")
    scaler = torch.amp.GradScaler("cpu", init_scale=1.0, growth_factor=2.0**20, growth_interval=8)
    for step in range(12):
        optimizer.zero_grad()
        scaler.scale(loss_of(model, digits, slice(32 * step, 32 * step + 32))).backward()
        scaler.step(optimizer)
        scaler.update()
    assert scaler.get_scale() == 2.0**20 and training.changes[0].outcome() == "never acted in 12 updates"


class Interrupted(torch.optim.SGD):
    """Raises in its second step, once the gradients are there. Each of its steps has a step of torch's inside, which has hooks too."""

    made = 0

    def step(self, closure=None):
        self.made += 1
        if closure is not None:
            with torch.enable_grad():
                closure()
        if self.made == 2:
            raise KeyboardInterrupt
        return super().step()


@pytest.mark.parametrize("closed", [False, True])
def test_a_step_that_ends_in_an_exception_is_over(closed, digits):
    model = network()
    optimizer = Interrupted(model.parameters(), 0.1)
    training = tt.attach(model, optimizer).apply("skip_spikes")

    def closure(scale: float = 1.0) -> None:
        optimizer.zero_grad()
        (loss_of(model, digits) * scale).backward()

    def step(scale: float = 1.0) -> None:
        if closed:
            optimizer.step(lambda: closure(scale))
        else:
            closure(scale)
            optimizer.step()

    step()
    with pytest.raises(KeyboardInterrupt):
        step()
    before = [p.detach().clone() for p in model.parameters()]
    step(math.nan)
    assert all(map(torch.equal, model.parameters(), before))
    assert training.changes[0].outcome() == "skipped 1 of 3 updates (2)"


def test_undo_within_a_step_that_is_left_out(digits):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    training = tt.attach(model, optimizer).apply("skip_spikes")
    training.on("before_step", lambda optimizer: training.undo())
    before = numbers(model, optimizer)
    (loss_of(model, digits) * math.nan).backward()
    optimizer.step()
    assert all(p.grad is not None for p in model.parameters()) and not same(numbers(model, optimizer), before)


# -- what they are for -----------------------------------------------------------------------------------------------


class Reader(nn.Module):
    """Reads the rows of an image; its state has no bound."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.rnn = nn.RNN(8, 32, nonlinearity="relu", batch_first=True)
        self.out = nn.Linear(32, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.rnn(x.view(-1, 8, 8))[0][:, -1])


def accuracy_after(text: str, bad: float, digits: tuple, steps: int = 160) -> tuple[float, str]:
    """A recurrent network on digits, one of whose batches is multiplied by ``bad``."""
    model = Reader()
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    training = tt.attach(model, optimizer).apply(text)
    generator = torch.Generator().manual_seed(1)
    for step in range(steps):
        rows = torch.randint(0, 400, (32,), generator=generator)
        optimizer.zero_grad()
        F.cross_entropy(model(digits[0][rows] * (bad if step == 100 else 1.0)), digits[1][rows]).backward()
        optimizer.step()
    with torch.no_grad():
        accuracy = (model(digits[0][400:]).argmax(1) == digits[1][400:]).double().mean().item()
    return accuracy, "; ".join(change.outcome() for change in training.changes)


def test_one_bad_batch_destroys_a_recurrent_network_and_skipping_saves_it(digits):
    assert accuracy_after("", 1.0, digits)[0] > 0.55
    for bad in (-100.0, math.nan):
        assert accuracy_after("", bad, digits)[0] < 0.2
        accuracy, outcome = accuracy_after("skip_spikes", bad, digits)
        assert accuracy > 0.55 and outcome == "skipped 1 of 160 updates (100)"


@pytest.mark.parametrize("text", ["clip_norm", "clip_value(low=0.1)", "zclip"])
def test_clipping_saves_it_where_the_gradient_is_finite(text, digits):
    accuracy, outcome = accuracy_after(text, -100.0, digits)
    assert accuracy > 0.55
    assert float(re.search(r"strongest (\S+)", outcome)[1]) < 2e-3


def test_clipping_does_not_save_it_from_what_is_not_finite_and_says_so(digits):
    with pytest.warns(UserWarning, match="6 of 6 gradients are not finite"):
        accuracy, outcome = accuracy_after("clip_norm", math.nan, digits)
    assert accuracy < 0.2 and outcome.endswith("gradients were not finite in 60")


# -- several processes -----------------------------------------------------------------------------------------------


def test_processes_decide_alike_and_shards_are_clipped_as_a_whole(tmp_path):
    mp.spawn(work, (str(tmp_path),), nprocs=2)
    one, other = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert (
        one["DDP"][0] == other["DDP"][0] == "skipped 3 of 30 updates (15, 20, 21), went back to earlier weights at 21"
    )
    assert all(map(torch.equal, one["DDP"][1], other["DDP"][1]))
    for text in SHARDED:
        assert one[text] == other[text]
        assert one[text] == pytest.approx(sums_after(text), rel=1e-5)


# -- in trials -------------------------------------------------------------------------------------------------------


def test_trials_tell_how_hard_it_was(tmp_path):
    file = tmp_path / "train.py"
    file.write_text(clusters())
    recipe = "skip_spikes, clip_norm(max_norm=0.1), zclip, clip_value(low=1e6)"  # zclip judges before others clip
    trial = run_job(Job(Script(str(file)), recipe, seed=0)).trial
    assert trial.status == "ok"
    told = [re.sub(r"\d+(\.\d+)?(e[-+]\d+)?", "#", sentence) for sentence in trial.changed]
    assert told == [
        "updates left out whose loss or gradient is beyond # deviations: never acted in # updates",
        told[1],
        "gradient norm clipped at #: acted in # of # steps (# %), mean factor #, strongest #",
        "entries of gradients clipped into [-#, #]: never acted in # steps",
    ]
