"""EMA and SWA: torch's AveragedModel is the second opinion."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn

from tests.conftest import network, train
from trimtab.nn import recalibrate
from trimtab.optim import EMA, SWA
from trimtab.optim.averaging import WeightAverage


def started(kind: str = "mlp") -> tuple[nn.Module, torch.optim.Optimizer]:
    model = network(kind)
    return model, torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9)


def part(data: tuple, step: int) -> tuple:
    """One batch of 64 of the data."""
    return tuple(tensor[step * 64 : step * 64 + 64] for tensor in data)


@pytest.mark.parametrize("kind", ["mlp", "normed"])
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (lambda: EMA(0.7, warmup=False), {"multi_avg_fn": get_ema_multi_avg_fn(0.7)}),
        (lambda: SWA(), {}),
    ],
    ids=["ema", "swa"],
)
def test_torch_gives_the_same_average(kind, ours, theirs, digits):
    model, optimizer = started(kind)
    average, reference = ours(), AveragedModel(model, use_buffers=True, **theirs)
    for step in range(8):
        train(model, optimizer, part(digits, step), 2)
        average.update(model)
        reference.update_parameters(model)
    twin = copy.deepcopy(model)
    average.copy_to(twin)
    found = dict(twin.named_parameters()) | dict(twin.named_buffers())
    expected = dict(reference.module.named_parameters()) | dict(reference.module.named_buffers())
    for name, value in expected.items():
        if value.is_floating_point():  # torch averages integers too
            torch.testing.assert_close(found[name], value, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("ours", [lambda: EMA(0.7, warmup=False), lambda: SWA(2, 3)], ids=["ema", "swa"])
def test_torchs_average_goes_on_here_and_back(ours, digits):
    model, optimizer = started("normed")
    reference = AveragedModel(
        model, use_buffers=True, **({"multi_avg_fn": get_ema_multi_avg_fn(0.7)} if isinstance(ours(), EMA) else {})
    )
    fresh = ours()
    fresh.load_state_dict(reference.state_dict())  # before its first average, what it holds is none
    assert (fresh.average, fresh.averaged) == ({}, 0)
    kept = ours()
    for step in range(1, 9):
        train(model, optimizer, part(digits, step - 1), 1)
        if isinstance(kept, EMA) or step in (2, 5, 8):
            reference.update_parameters(model)
        if step == 5:
            kept.load_state_dict(copy.deepcopy(reference.state_dict()))
            assert all(value.is_floating_point() for value in kept.average.values()) and kept.averaged == int(
                reference.n_averaged
            )
        elif step > 5:
            kept.update(model)
    back = AveragedModel(network("normed"), use_buffers=True)
    kept.copy_to(back.module)
    back.n_averaged.fill_(kept.averaged)
    for name, value in reference.state_dict().items():
        if value.is_floating_point() or name == "n_averaged":
            torch.testing.assert_close(back.state_dict()[name], value, rtol=1e-6, atol=1e-6)


def test_torch_gathers_the_same_statistics(digits):
    model, optimizer = started("normed")
    average, reference = SWA(start=3, every=2), AveragedModel(model)
    for step in range(1, 8):
        train(model, optimizer, part(digits, step), 1)
        average.update(model)
        if step in (3, 5, 7):
            reference.update_parameters(model)
    assert average.averaged == 3
    batches = [part(digits, step)[0] for step in range(4)]
    update_bn(batches, reference)
    before = copy.deepcopy(model.state_dict())
    with average.applied(model):
        recalibrate(model, batches)
        with torch.no_grad():
            found, expected = model.eval()(digits[0]), reference.eval()(digits[0])
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)  # statistics and weights, each to 1e-6
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_averages_in_float64(digits):
    model, optimizer = started()
    ema, swa = EMA(0.9), SWA(start=2, every=3)
    states = []
    for step in range(8):
        train(model, optimizer, part(digits, step), 1)
        ema.update(model)
        swa.update(model)
        states.append(model[0].weight.detach().double())
    expected = states[0]
    for t, state in enumerate(states[1:], start=2):
        decay = min(
            0.9, t / (t + 9)
        )  # as the docstring has it: d_t with t - 1 averaged before counts 1 + (t - 1) over 10 + (t - 1)
        expected = decay * expected + (1 - decay) * state
    torch.testing.assert_close(ema.average["0.weight"].double(), expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(
        swa.average["0.weight"].double(), torch.stack(states[1::3]).mean(0), rtol=1e-6, atol=1e-6
    )


def test_low_precision_does_not_lose_small_steps():
    model = nn.Linear(4, 4).bfloat16()
    ema = EMA(0.999, warmup=False)
    nn.init.zeros_(model.weight)
    ema.update(model)
    nn.init.ones_(model.weight)
    for _ in range(100):
        ema.update(model)
    # in bfloat16 the average would stand still at 0.4, where a thousandth is less than half a unit in the last place
    expected = 1 - 0.999**100
    torch.testing.assert_close(ema.average["weight"], torch.full((4, 4), expected), rtol=1e-5, atol=0)
    with ema.applied(model):
        assert torch.equal(model.weight, torch.full((4, 4), expected).bfloat16())
    assert torch.equal(model.weight, torch.ones(4, 4).bfloat16())


@pytest.mark.parametrize("average", [EMA(0.5), SWA(start=2, every=2)], ids=["ema", "swa"])
def test_goes_on_from_a_checkpoint(average, digits):
    model, optimizer = started()
    for step in range(3):
        train(model, optimizer, part(digits, step), 1)
        average.update(model)
    other = type(average)(**({"decay": 0.5} if isinstance(average, EMA) else {"start": 2, "every": 2}))
    other.load_state_dict(pickle.loads(pickle.dumps(average.state_dict())))
    for step in range(3):
        train(model, optimizer, part(digits, step), 1)
        average.update(model)
        other.update(model)
    assert other.averaged == average.averaged
    assert all(torch.equal(value, average.average[name]) for name, value in other.average.items())


def test_a_parameter_that_joins_later_and_one_that_leaves(digits):
    model = nn.Sequential(nn.Linear(2, 2))
    ema = EMA(0.5, warmup=False)
    ema.update(model)
    model.append(nn.Linear(2, 2))
    ema.update(model)
    assert torch.equal(ema.average["1.weight"], model[1].weight)
    model[1] = nn.Linear(2, 3)
    ema.update(model)
    assert torch.equal(ema.average["1.weight"], model[1].weight)
    del model[1]
    with ema.applied(model):
        assert torch.equal(model[0].weight, ema.average["0.weight"])


def test_models_of_several_types():
    tensors = {
        "double": torch.zeros(2, dtype=torch.float64),
        "complex": torch.zeros(2, dtype=torch.complex64),
        "half": torch.zeros(2, dtype=torch.float16),
        "flag": torch.tensor(True),
    }
    swa = SWA()
    swa.update(tensors)
    swa.update({name: tensor + 1 for name, tensor in tensors.items()})
    kinds = {"double": torch.float64, "complex": torch.complex64, "half": torch.float32}
    assert {name: value.dtype for name, value in swa.average.items()} == kinds
    assert all(torch.equal(value, torch.full_like(value, 0.5)) for value in swa.average.values())


@torch.inference_mode()
def test_inside_inference_mode(digits):
    with torch.inference_mode(False):
        model, optimizer = started()
        train(model, optimizer, digits, 1)
    ema = EMA()
    ema.update(model)
    with ema.applied(model):
        model(digits[0])
    with torch.inference_mode(False):
        train(model, optimizer, digits, 1)
        ema.update(model)
    assert ema.averaged == 2


def test_an_error_inside_restores_the_weights(digits):
    model, optimizer = started()
    ema = EMA(0.5)
    for _ in range(2):
        train(model, optimizer, digits, 1)
        ema.update(model)
    before = model[0].weight.detach().clone()
    with pytest.raises(KeyError), ema.applied(model):
        assert not torch.equal(model[0].weight, before)
        raise KeyError
    assert torch.equal(model[0].weight, before)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: EMA(1.0),
            "decay=1.0 must lie strictly between 0 and 1: it is the share of the old average that stays.",
        ),
        (lambda: SWA(start=0), "start=0 must be a whole number of steps, at least 1."),
        (lambda: SWA(every=0.5), "every=0.5 must be a whole number of steps, at least 1."),
    ],
)
def test_errors(make, message):
    with pytest.raises(ValueError) as error:
        make()
    assert str(error.value) == message


def test_the_base_has_no_average_of_its_own():
    average = WeightAverage()
    average.update(nn.Linear(1, 1))
    with pytest.raises(NotImplementedError):
        average.update(nn.Linear(1, 1))
