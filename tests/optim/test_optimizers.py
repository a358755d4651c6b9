"""Optimizers against their formulas in float64, by the kernel and by torch's operations; gradients that are not finite; errors."""

from __future__ import annotations

import copy
import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.optim import references
from tests.optim.optimizers import CASES, MEMBERS, Case, Fit, fitted, packed, rates_from
from trimtab import optim
from trimtab._kernels import kernels
from trimtab.optim import optimizer as base

STEPS = 200

every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
every_member = pytest.mark.parametrize("make", MEMBERS, ids=lambda make: make.__name__)


@pytest.fixture(params=["kernel", "foreach"])
def path(request, monkeypatch) -> str:
    """float32 on the processor goes through the kernel, or through torch's operations as everything else."""
    if request.param == "kernel" and kernels is None:
        pytest.skip("there is no compiled part here")
    monkeypatch.setattr(base, "FORCED", "" if request.param == "kernel" else "torch")
    return request.param


def taken(monkeypatch) -> list[str]:
    """The steps that the kernel makes from now on."""
    calls: list[str] = []

    def step(**arguments):
        calls.append(arguments["rule"])
        return kernels.optimizer_step(**arguments)

    monkeypatch.setitem(base.STEP.backends, "cpu", replace(base.STEP.backends["cpu"], forward=step))
    return calls


def step_with(optimizer: torch.optim.Optimizer, gradients: list[torch.Tensor]) -> None:
    """One step with given gradients, through a closure, which look-ahead forms need."""
    params = [p for group in optimizer.param_groups for p in group["params"]]

    def closure() -> None:
        for p, g in zip(params, gradients, strict=True):
            p.grad = g.clone(memory_format=torch.preserve_format)

    optimizer.step(closure)


# -- the formula -----------------------------------------------------------------------------------------------------


@every_case
def test_the_formula(case):
    ours, optimizer, _ = fitted(case, STEPS)
    fit = Fit()
    rates = rates_from(optimizer.defaults["lr"], STEPS)
    wanted = references.trajectory(references.OF[case.make], fit.start, fit.gradient, rates, optimizer.defaults)
    assert np.abs(wanted[-1] - fit.start).max() > 0.05
    # Some twenty roundings of 1.1e-16 in each step, which a training that settles does not carry on
    assert np.abs(ours - wanted).max() < 1e-13 * np.abs(wanted).max()


def test_every_member_is_here():
    members = {
        thing for name in optim.__all__ if issubclass(type(thing := getattr(optim, name)), type) and issubclass(thing, optim.Optimizer)
    }  # fmt: skip
    assert {case.make for case in CASES} == set(MEMBERS) == members - {optim.Optimizer} == references.OF.keys()


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("weight_decay", [0.0, 0.05])
@pytest.mark.parametrize("make", [optim.SGD, optim.RMSprop])
def test_the_usual_nesterov_form_is_the_real_one_seen_from_the_point_ahead(make, weight_decay, inside):
    fit = Fit()
    settings = {"lr": 0.005, "momentum": 0.9, "weight_decay": weight_decay, "lr_in_momentum": inside}
    real, usual = fit.parameters(), fit.parameters()
    walking, seen = make(real, lookahead=True, **settings), make(usual, nesterov=True, **settings)
    for step in range(1, 50):
        walking.step(lambda step=step: fit.give(real, step))
        seen.step(lambda step=step: fit.give(usual, step))
        ahead = [p - (1 if inside else 0.005) * 0.9 * walking.state[p]["momentum_buffer"] for p in real]
        np.testing.assert_allclose(packed(usual), packed(ahead), rtol=0, atol=1e-14)
    assert np.abs(packed(real) - packed(usual)).max() > 1e-4


def test_on_which_side_of_the_buffer_the_rate_stands_matters_when_it_changes():
    for inside in (False, True):
        p = torch.zeros((), dtype=torch.float64, requires_grad=True)
        optimizer = optim.SGD([p], lr=0.25, momentum=0.5, lr_in_momentum=inside)
        for lr, wanted in ((0.25, -0.25), (0.25, -0.625), (0.0, -0.8125 if inside else -0.625)):
            optimizer.param_groups[0]["lr"] = lr
            step_with(optimizer, [torch.ones((), dtype=torch.float64)])
            assert p.item() == wanted


def test_the_window_forgets_everything_behind_it():
    rings = []
    for first in (1e8, 1.0):
        p = torch.zeros(3, requires_grad=True)
        optimizer = optim.WindowAdadelta([p], window=5)
        for g in (first, *range(1, 6)):
            step_with(optimizer, [torch.full((3,), float(g))])
        rings.append(optimizer.state[p]["square_window"])
    assert torch.equal(*rings)
    assert sorted(rings[0][:, 0].tolist()) == [1.0, 4.0, 9.0, 16.0, 25.0]


# -- types and layouts -----------------------------------------------------------------------------------------------


def layouts(dtype: torch.dtype) -> list[list[torch.Tensor]]:
    """Two groups: tensors of all sizes, some longer than what a thread takes at once; and some that are not in one piece."""
    g = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=g).to(dtype)

    plain = [draw(), draw(0), draw(1), draw(17), draw(3, 5, 7), draw(40003)]
    images = draw(4, 6, 3, 3).contiguous(memory_format=torch.channels_last)
    groups = [[*plain, images], [draw(9, 5).t(), draw(31, 2)[:, 0], draw(12)]]
    return [[p.requires_grad_() for p in params] for params in groups]


def gradients_for(params: list[torch.Tensor], steps: int) -> list[list[torch.Tensor]]:
    """Gradients of very unlike size, laid out as the parameters are; one entry never gets any.

    All others are at least 0.1, so that coupled decay, some 0.01 of a weight, does not cancel them: what is left of a cancellation
    is rounding, and adaptive methods make a whole step of it.
    """
    g = torch.Generator().manual_seed(1)
    found = []
    for _ in range(steps):
        drawn = [torch.randn(p.shape, generator=g) for p in params]
        sizes = [(d.abs() + 0.1).copysign(d) * 10.0 ** (n % 5) for n, d in enumerate(drawn)]
        grads = [torch.empty_like(p).copy_(size) for p, size in zip(params, sizes, strict=True)]
        grads[3][2] = 0
        found.append(grads)
    return found


def moved(case: Case, dtype: torch.dtype, steps: int = 6) -> tuple[list[np.ndarray], ...]:
    """Parameters after each step, what the formula has, and the start, for each of two groups with rates of their own."""
    groups = layouts(dtype)
    rates = [case.settings["lr"], case.settings["lr"] / 4]
    optimizer = case([{"params": params, "lr": lr} for params, lr in zip(groups, rates, strict=True)])
    starts = [packed(params) for params in groups]
    history = gradients_for([*groups[0], *groups[1]], steps)
    found: list[list[np.ndarray]] = [[], []]
    for gradients in history:
        step_with(optimizer, [-g if optimizer.defaults["maximize"] else g for g in gradients])
        for params, rows in zip(groups, found, strict=True):
            rows.append(packed(params))
    wanted = []
    for start, lr, part in zip(starts, rates, (slice(len(groups[0])), slice(len(groups[0]), None)), strict=True):
        given = [packed(gradients[part]) for gradients in history]
        wanted.append(
            references.trajectory(
                references.OF[case.make],
                start,
                lambda _, t, given=given: given[t - 1],
                [lr] * steps,
                optimizer.defaults,
            )
        )
    return [np.array(rows) for rows in found], wanted, starts


def assert_within_roundings(case: Case, dtype: torch.dtype, unit: float) -> None:
    """The weight takes up three roundings in a step (decay, its factor, the step), and the step itself has some eight."""
    for found, wanted, start in zip(*moved(case, dtype), strict=True):
        steps = np.diff(wanted, axis=0, prepend=start[None])
        bound = unit * (3 * np.abs(wanted).cumsum(0) + 8 * np.abs(steps).max() * np.arange(1, len(wanted) + 1)[:, None])
        assert (np.abs(found - wanted) <= bound).all(), (np.abs(found - wanted) / bound).max()


@every_case
def test_float32_within_its_roundings(case, path, monkeypatch):
    calls = taken(monkeypatch)
    assert_within_roundings(case, torch.float32, 2**-24)
    # of the two groups, one has tensors that the kernel does not walk over
    assert calls == ([case.make.kernel] * 6 if path == "kernel" and case.make.kernel else [])


@every_case
def test_bfloat16_within_its_roundings(case):
    assert_within_roundings(case, torch.bfloat16, 2**-8)


@pytest.mark.parametrize(
    "name", ["momentum", "adagrad", "adadelta", "rmsprop, centered, momentum", "adamw, amsgrad, maximize"]
)
def test_threads_change_nothing(name):
    (case,) = (case for case in CASES if case.name == name)
    found = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        found.append(moved(case, torch.float32, steps=2)[0])
    for one, two in zip(*found, strict=True):
        np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("case", [case for case in CASES if case.theirs], ids=lambda case: case.name)
def test_complex_parameters_are_pairs_of_numbers_as_in_torch(case):
    g = torch.Generator().manual_seed(0)
    draws = [torch.randn(5, generator=g, dtype=torch.complex128) for _ in range(8)]
    ours, theirs = (draws[0].clone().requires_grad_() for _ in range(2))
    optimizers = case([ours]), case.torchs([theirs])
    for draw in draws[1:]:
        for optimizer, p in zip(optimizers, (ours, theirs), strict=True):
            p.grad = draw.clone()
            optimizer.step()
    torch.testing.assert_close(ours, theirs, rtol=1e-13, atol=1e-14)


# -- gradients that are not finite -----------------------------------------------------------------------------------


BAD = [float("nan"), float("inf"), -float("inf")]


def small(case: Case, **others) -> optim.Optimizer:
    """A matrix, a vector with less entries than a kernel takes at once, and a scalar."""
    params = [
        torch.linspace(-1, 2, 21).view(3, 7).requires_grad_(),
        torch.ones(5).requires_grad_(),
        torch.ones(()).requires_grad_(),
    ]
    return case(params, **others)


def gradients_of(step: int) -> list[torch.Tensor]:
    return [
        0.1 + torch.sin(torch.arange(n) * step + step).view(shape) for n, shape in ((21, (3, 7)), (5, (5,)), (1, ()))
    ]


def everything(optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    """Parameters and their state, entry by entry."""
    return [
        t.detach().clone()
        for p in optimizer.param_groups[0]["params"]
        for t in (p, *(optimizer.state[p][slot] for slot in optimizer.slots(optimizer.param_groups[0])))
    ]


@every_case
def test_mask_leaves_the_entries_as_they_are(case, path):
    left, clean = (small(case) for _ in range(2))
    for step in (1, 2):
        for optimizer in (left, clean):
            step_with(optimizer, gradients_of(step))
    before, gradients = everything(left), gradients_of(3)
    step_with(clean, gradients)
    bad = [torch.zeros(g.shape, dtype=torch.bool) for g in gradients]
    bad[0][1, 2] = bad[0][2, 6] = bad[1][4] = True
    for mask, value in zip((bad[0], bad[1]), ([BAD[0], BAD[1]], [BAD[2]]), strict=True):
        gradients[0 if mask is bad[0] else 1][mask] = torch.tensor(value)
    said = (
        f"{case.make.__name__}: 3 of 27 entries of the gradient were not finite. Their weights and state were left as they "
        "are; find the cause (trimtab watch), or give nonfinite='skip' or 'raise'."
    )
    with pytest.warns(RuntimeWarning, match=f"^{re.escape(said)}$"):
        step_with(left, gradients)
    masks = [mask for mask in bad for _ in range(len(before) // 3)]
    for old, new, wanted, mask in zip(before, everything(left), everything(clean), masks, strict=True):
        assert torch.equal(new, torch.where(mask, old, wanted))


@every_member
def test_the_warning_names_the_line_of_the_step(make, path):
    p = torch.ones(2, requires_grad=True)
    p.grad = torch.tensor([1.0, torch.nan])
    for nonfinite in ("mask", "skip"):
        optimizer = make([p], nonfinite=nonfinite)
        with pytest.warns(RuntimeWarning) as caught:
            optimizer.step()
        assert [one.filename for one in caught] == [__file__]


@every_case
def test_skip_leaves_out_the_step(case, path):
    skipping, clean = (small(case, nonfinite="skip") for _ in range(2))
    for step in (1, 2, 3):
        for optimizer in (skipping, clean):
            step_with(optimizer, gradients_of(step))
        if step == 2:
            gradients = gradients_of(9)
            gradients[2].fill_(torch.nan)
            said = f"{case.make.__name__}: the gradient is not finite; the step was left out."
            with pytest.warns(RuntimeWarning, match=f"^{re.escape(said)}$"):
                step_with(skipping, gradients)
    for ours, wanted in zip(everything(skipping), everything(clean), strict=True):
        assert torch.equal(ours, wanted)


@every_case
def test_raise_raises_before_anything_moves(case, path):
    optimizer = small(case, nonfinite="raise")
    step_with(optimizer, gradients_of(1))
    before, gradients = everything(optimizer), gradients_of(2)
    gradients[1][0] = torch.inf
    said = f"{case.make.__name__}: the gradient is not finite; no weight has moved. Find the cause with trimtab watch."
    with pytest.raises(FloatingPointError, match=f"^{re.escape(said)}$"):
        step_with(optimizer, gradients)
    assert all(map(torch.equal, everything(optimizer), before))


@pytest.mark.parametrize("nonfinite", ["mask", "skip", "raise"])
def test_large_numbers_are_finite(nonfinite):
    p = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    optimizer = optim.SGD([p], lr=1.0, nonfinite=nonfinite)
    step_with(optimizer, [torch.tensor([1e300, 0.0], dtype=torch.float64)])
    assert p.tolist() == [-1e300, 0.0]


def test_groups_may_differ(path):
    first, second = (torch.ones(2, requires_grad=True) for _ in range(2))
    optimizer = optim.SGD([{"params": [first], "nonfinite": "raise"}, {"params": [second]}], lr=0.5)
    with pytest.warns(RuntimeWarning, match="^SGD: 1 of 4 entries"):
        step_with(optimizer, [torch.ones(2), torch.tensor([1.0, torch.nan])])
    assert first.tolist() == [0.5, 0.5] and second.tolist() == [0.5, 1.0]


def test_an_error_in_the_closure_leaves_the_parameters_where_they_were():
    p = torch.ones(3, requires_grad=True)
    optimizer = optim.SGD([p], lr=0.1, momentum=0.9, lookahead=True)
    step_with(optimizer, [torch.ones(3)])
    before = p.detach().clone()

    def broken() -> None:
        assert not torch.equal(p, before)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        optimizer.step(broken)
    assert torch.equal(p, before)


def test_a_variance_that_rounding_makes_negative_is_zero(path):
    p = torch.ones(1000, requires_grad=True)
    optimizer = optim.RMSprop([p], lr=0.01, alpha=0.5, centered=True)
    gradient = torch.linspace(0.1, 3, 1000)
    for _ in range(60):  # of equal gradients: the variance falls to nothing
        step_with(optimizer, [gradient])
    state = optimizer.state[p]
    assert (state["square_avg"] < state["grad_avg"].double().square()).any()
    assert p.isfinite().all()


# -- errors ----------------------------------------------------------------------------------------------------------


def refused(call, said: str, kind: type[Exception] = ValueError) -> None:
    with pytest.raises(kind, match=f"^{re.escape(said)}$"):
        call()


@every_member
def test_numbers_out_of_range(make):
    p, name = [torch.ones(1, requires_grad=True)], make.__name__
    refused(lambda: make(p, lr=-0.1), f"{name}: lr=-0.1 must be 0 or more.")
    refused(lambda: make(p, lr=float("nan")), f"{name}: lr=nan must be 0 or more.")
    refused(lambda: make(p, weight_decay=-1), f"{name}: weight_decay=-1 must be 0 or more.")
    refused(lambda: make(p, decay="L2"), f"{name}: decay='L2' must be one of 'coupled', 'decoupled', 'independent'.")
    refused(lambda: make(p, nonfinite="ignore"), f"{name}: nonfinite='ignore' must be one of 'mask', 'skip', 'raise'.")
    if make is not optim.SGD:
        refused(lambda: make(p, eps=-1e-8), f"{name}: eps=-1e-08 must be 0 or more.")


@pytest.mark.parametrize(
    ("make", "settings", "said"),
    [
        (optim.SGD, {"momentum": 1}, "SGD: momentum=1 must be at least 0 and below 1."),
        (optim.SGD, {"nesterov": True}, "SGD: Nesterov's momentum needs momentum above 0, usually 0.9; got momentum=0.0."),
        (optim.RMSprop, {"lookahead": True}, "RMSprop: Nesterov's momentum needs momentum above 0, usually 0.9; got momentum=0.0."),
        (
            optim.SGD, {"nesterov": True, "momentum": 0.9, "dampening": 0.1},
            "SGD: Nesterov's momentum needs dampening=0; got dampening=0.1.",
        ),
        (
            optim.RMSprop, {"nesterov": True, "lookahead": True, "momentum": 0.9},
            "RMSprop: nesterov=True and lookahead=True are two forms of the same method; choose one of them.",
        ),
        (optim.RMSprop, {"alpha": 1.0}, "RMSprop: alpha=1.0 must be at least 0 and below 1."),
        (optim.Adagrad, {"lr_decay": -1}, "Adagrad: lr_decay=-1 must be 0 or more."),
        (optim.Adagrad, {"initial_accumulator_value": -1}, "Adagrad: initial_accumulator_value=-1 must be 0 or more."),
        (optim.Adadelta, {"rho": (0.9, 1.0)}, "Adadelta: rho=(0.9, 1.0) must be at least 0 and below 1, each of a pair too."),
        (optim.Adadelta, {"eps": 0}, "Adadelta: eps=0 must be above 0: the first step is as large as its root."),
        (optim.WindowAdadelta, {"eps": 0}, "WindowAdadelta: eps=0 must be above 0: the first step is as large as its root."),
        (optim.WindowAdadelta, {"window": 0}, "WindowAdadelta: window=0 must be a number of steps, 1 or more."),
        (optim.WindowAdadelta, {"window": 2.5}, "WindowAdadelta: window=2.5 must be a number of steps, 1 or more."),
        (optim.Adam, {"betas": (0.9, 1.0)}, "Adam: betas=(0.9, 1.0) must each be at least 0 and below 1."),
    ],
)  # fmt: skip
def test_settings_of_members(make, settings, said):
    refused(lambda: make([torch.ones(1, requires_grad=True)], **settings), said)


@every_member
def test_sparse_gradients_are_refused_before_anything_moves(make):
    layer, table = torch.nn.Linear(2, 1), torch.nn.Embedding(4, 2, sparse=True)
    optimizer = make([*layer.parameters(), *table.parameters()], nonfinite="skip")
    layer(table(torch.tensor([1]))).sum().backward()
    before = copy.deepcopy(layer.state_dict())
    refused(
        optimizer.step,
        f"{make.__name__} got a sparse gradient for a parameter of shape (4, 2). Make its layer without sparse=True, or give it to "
        "torch.optim.SparseAdam.",
    )
    assert all(map(torch.equal, layer.state_dict().values(), before.values())) and not optimizer.state


def test_lookahead_needs_a_closure():
    p = torch.ones(1, requires_grad=True)
    p.grad = torch.ones(1)
    refused(
        optim.RMSprop([p], momentum=0.9, lookahead=True).step,
        "RMSprop(lookahead=True) takes the gradient at the point ahead, so it computes the loss itself: call optimizer.step(closure), "
        "where closure() zeroes the gradients, computes the loss, calls backward and returns it.",
    )


def test_the_base_alone_is_no_optimizer():
    with pytest.raises(TypeError, match="abstract"):
        optim.Optimizer([torch.ones(1)], {})
