"""Our optimizers under what torch tests of its own: every entry of its database, with our class in the place of torch's."""

from __future__ import annotations

import copy
import functools
import io
import itertools
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import nn

from tests.peers import torchs
from trimtab import optim

NAMES = ("SGD", "Adam", "AdamW", "Adagrad", "Adadelta", "RMSprop")
STEPS = 6
# some thirty roundings of a step, in another order than torch's, six times over
CLOSE = {
    torch.float64: {"rtol": 1e-12, "atol": 1e-13},
    torch.float32: {"rtol": 1e-5, "atol": 1e-6},
    torch.complex128: {"rtol": 1e-12, "atol": 1e-13},
}

DIFFERENT = {
    "`fused` and `foreach` cannot be `True` together": "both are taken and change nothing, so they cannot contradict each other",
    "lr as Tensor doesn't work with foreach & not capturable": "it does",
    "betas must be either both floats or both Tensors": "they may be mixed: each is read as a number",
    r"betas\[0\] as a Tensor is not supported for capturable=False and foreach=True": "it is",
    "capturable": "a step asks how often each parameter has moved, which a CUDA graph cannot be asked",
    "differentiable": "a step is not recorded for gradients",
    "sparse": "sparse gradients are refused, with torch.optim.SparseAdam as the way out",
}


@functools.cache
def info(name: str) -> Any:
    """What torch's database says of an optimizer."""
    return next(one for one in torchs("common_optimizers").optim_db if one.optim_cls.__name__ == name)


def inputs(name: str, device: str = "cpu") -> list[tuple[str, dict[str, Any]]]:
    """All settings that torch tests it with. Those for another device differ in ``capturable`` alone, and are made here."""
    return [(one.desc, one.kwargs) for one in info(name).optim_inputs_func(device=device)]


def both(name: str) -> tuple[Callable[..., Any], Callable[..., Any]]:
    return getattr(optim, name), getattr(torch.optim, name)


every = pytest.mark.parametrize("name", NAMES)


# -- trainings -------------------------------------------------------------------------------------------------------


def weights(dtype: torch.dtype, layout: str = "plain") -> list[nn.Parameter]:
    draw = torch.Generator().manual_seed(0)
    shapes = [(4, 3), (3,), (), (2, 3, 4, 4), (0, 2), (1, 1)]
    made = [
        torch.randn(shape, generator=draw, dtype=torch.complex128 if dtype.is_complex else torch.float64)
        for shape in shapes
    ]
    if layout == "strided":
        made = [t.repeat_interleave(2, 0)[::2] if t.ndim else t for t in made]
        made[0] = made[0].t().contiguous().t()
    if layout == "channels_last":
        made[3] = made[3].contiguous(memory_format=torch.channels_last)
    return [nn.Parameter(t.to(dtype)) for t in made]


def push(params: list[nn.Parameter], step: int) -> torch.Tensor:
    """Gradients of a sum of bowls; in every third step one parameter has none. Gives the loss."""
    for p in params:
        p.grad = None
    loss = sum(((p - 0.3 * number).abs().square() * (1 + number)).sum() for number, p in enumerate(params))
    loss.backward()
    if step % 3 == 2:
        params[1].grad = None
    return loss.detach()


def go(
    optimizer: torch.optim.Optimizer, params: list[nn.Parameter], begin: int = 0, steps: int = STEPS, how: str = "plain"
) -> list[torch.Tensor]:
    """Some steps; gives where each ends."""
    places = []
    for step in range(begin, begin + steps):
        if how == "closure":
            with torch.no_grad():  # a closure has gradients also where the caller has none
                optimizer.step(torch.enable_grad()(lambda step=step: push(params, step)))
        else:
            push(params, step)
            given = [None if p.grad is None else p.grad.clone() for p in params]
            optimizer.step()
            for p, g in zip(params, given, strict=True):  # gradients are never written to
                assert g is None or torch.equal(p.grad, g)
        places.append(torch.cat([p.detach().reshape(-1) for p in params]))
    return places


def alike(found: list[torch.Tensor], wanted: list[torch.Tensor]) -> None:
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, **CLOSE[one.dtype])


def settings(name: str, flags: bool = False) -> Iterator[dict[str, Any]]:
    """All settings of the database, and each with torch's flags of speed."""
    known = info(name).supported_impls
    for _, given in inputs(name):
        yield given
        for flag in {"foreach", "fused"} & set(known) if flags else ():
            if not any(isinstance(value, torch.Tensor) for value in given.values()):
                yield {**given, flag: True}


# -- numbers ---------------------------------------------------------------------------------------------------------


def compare(name: str, dtype: torch.dtype, layout: str, how: str, flags: bool) -> None:
    ours, theirs = both(name)
    for given in settings(name, flags):
        pairs = []
        for make in (ours, theirs):
            params = weights(dtype, layout)
            groups = [{"params": params[:2], "lr": 0.02, "weight_decay": 0.01}, {"params": params[2:]}]
            # torch's fused kernels for the processor round otherwise: what is wanted comes from its plain loop
            plain = {key: value for key, value in given.items() if make is ours or key not in ("foreach", "fused")}
            pairs.append(go(make(groups if how == "groups" else params, **copy.deepcopy(plain)), params, how=how))
        alike(*pairs)


@every
def test_numbers(name):
    for how in ("plain", "closure", "groups"):
        compare(name, torch.float64, "plain", how, flags=how == "plain")
    compare(name, torch.complex128, "plain", "plain", flags=False)


@pytest.mark.peers
@pytest.mark.parametrize("dtype", CLOSE, ids=str)
@pytest.mark.parametrize("layout", ["plain", "strided", "channels_last"])
@every
def test_numbers_of_every_kind(name, layout, dtype):
    for how in ("plain", "closure", "groups"):
        compare(name, dtype, layout, how, flags=True)


@every
def test_a_rate_that_is_a_tensor(name):
    for rate in (torch.tensor(0.05), torch.tensor([0.05]), torch.tensor(0.05, dtype=torch.float64)):
        (ours, theirs), params = both(name), [weights(torch.float64) for _ in range(2)]
        made = ours(params[0], lr=rate)
        assert made.param_groups[0]["lr"] is rate  # a schedule that writes into it is heard
        alike(go(made, params[0]), go(theirs(params[1], lr=float(rate)), params[1]))


@every
def test_schedulers(name):
    for makes in info(name).scheduler_inputs:
        pairs = []
        for make in both(name):
            params = weights(torch.float64)
            optimizer = make(params, lr=0.1)
            schedules, places = [one(optimizer) for one in makes], []
            for step in range(STEPS):
                places += go(optimizer, params, begin=step, steps=1)
                for schedule in schedules:
                    schedule.step(1.0) if isinstance(
                        schedule, torch.optim.lr_scheduler.ReduceLROnPlateau
                    ) else schedule.step()
                places.append(torch.tensor([float(optimizer.param_groups[0]["lr"])], dtype=torch.float64))
            pairs.append(places)
        alike(*pairs)


# -- checkpoints -----------------------------------------------------------------------------------------------------

FLAGS = ("foreach", "maximize", "capturable", "differentiable", "fused", "decoupled_weight_decay")


def old(state: dict[str, Any]) -> dict[str, Any]:
    """As torch before 1.12 wrote it: steps are numbers, and of the flags there are none (a climb needs its own)."""
    for known in state["state"].values():
        if "step" in known:
            known["step"] = int(known["step"])
    for group in state["param_groups"]:
        for key in FLAGS:
            if not group.get(key):
                group.pop(key, None)
    return state


def saved(state: dict[str, Any]) -> dict[str, Any]:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@every
def test_checkpoints_of_either_go_on_in_the_other(name):
    ways = [copy.deepcopy, lambda state: saved(copy.deepcopy(state)), lambda state: old(copy.deepcopy(state))]
    for given, (first, second), way in itertools.product(settings(name), itertools.permutations(both(name)), ways):
        params = weights(torch.float64)
        began = first(params, **copy.deepcopy(given))
        go(began, params)
        others = [nn.Parameter(p.detach().clone()) for p in params]
        loaded = second(
            others, **{key: value for key, value in given.items() if key in ("maximize", "decoupled_weight_decay")}
        )
        loaded.load_state_dict(way(began.state_dict()))
        alike(go(loaded, others, begin=STEPS), go(began, params, begin=STEPS))


@every
def test_its_own_checkpoint_and_copies_are_itself(name):
    for given in settings(name):
        params = weights(torch.float64)
        optimizer = both(name)[0](params, **copy.deepcopy(given))
        go(optimizer, params)
        before = optimizer.state_dict()
        assert before["state"] or (name == "SGD" and not given.get("momentum"))
        optimizer.load_state_dict(copy.deepcopy(before))
        after = optimizer.state_dict()
        assert after["param_groups"] == before["param_groups"]
        assert list(after["param_groups"][0]) == list(before["param_groups"][0])
        torch.testing.assert_close(after["state"], before["state"], rtol=0, atol=0)
        assert set(torch.optim.__dict__[name](params).state_dict()["param_groups"][0]) <= set(after["param_groups"][0])
        others = [copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))]
        ends = [go(one, one.param_groups[0]["params"], begin=STEPS) for one in (optimizer, *others)]
        assert all(torch.equal(one, ends[0][-1]) for _, *_, one in ends)
        assert all(set(vars(one)) >= {key for key in vars(optimizer) if not key.startswith("_")} for one in others)
        assert name in repr(optimizer)


# -- errors ----------------------------------------------------------------------------------------------------------


@every
def test_errors(name):
    make, passed, known = both(name)[0], set(), set()
    for one in info(name).optim_error_inputs_func(device="cpu", dtype=torch.float64):
        given = one.optimizer_error_input
        known.add(given.desc)
        params = [nn.Parameter(torch.randn(2, 3))] if given.params is None else given.params
        try:
            if one.error_type is UserWarning:
                with pytest.warns(UserWarning, match=one.error_regex):
                    make(params, **given.kwargs)
            else:
                make(params, **given.kwargs)
                passed.add(given.desc)
        except (ValueError, TypeError) as error:  # of ours, with a text of its own
            assert (
                "must" in str(error) or "should" in str(error) or "not possible" in str(error) or "param" in str(error)
            ), given.desc
    assert passed == known & set(DIFFERENT)


@every
def test_what_differs_on_purpose_is_refused_with_a_reason(name):
    make = both(name)[0]
    for flag in {"capturable", "differentiable"} & set(info(name).not_og_supported_flags):
        if flag == "capturable" and not info(name).has_capturable_arg:
            continue
        assert DIFFERENT[flag]
        with pytest.raises(ValueError, match=f"^{name}: {flag}=True is not possible: .* take torch.optim's"):
            make(weights(torch.float32), **{flag: True})
    table = nn.Embedding(3, 2, sparse=True)
    optimizer = make(table.parameters())
    table(torch.tensor([1])).sum().backward()
    with pytest.raises(ValueError, match=r"got a sparse gradient .* torch\.optim\.SparseAdam"):
        optimizer.step()
