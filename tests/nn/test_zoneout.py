"""Zoneout: torch's recurrent layers without it, the paper's formula in a loop with it."""

from __future__ import annotations

import copy
import math
import pickle

import pytest
import torch
from scipy import stats
from torch import nn
from torch.nn.utils import rnn
from torch.utils.checkpoint import checkpoint

from trimtab.nn import ZoneoutGRU, ZoneoutLSTM, ZoneoutRNN
from trimtab.nn.zoneout import ZoneoutMask

PAIRS = {
    "LSTM": (ZoneoutLSTM, nn.LSTM, {}),
    "GRU": (ZoneoutGRU, nn.GRU, {}),
    "tanh": (ZoneoutRNN, nn.RNN, {}),
    "relu": (ZoneoutRNN, nn.RNN, {"nonlinearity": "relu"}),
}
OPTIONS = {
    "plain": {},
    "deep": {"num_layers": 3, "batch_first": True},
    "both ways": {"num_layers": 2, "bidirectional": True},
    "no bias": {"bias": False, "bidirectional": True},
}


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def made(kind="LSTM", seed=0, **options):
    torch.manual_seed(seed)
    ours, _, more = PAIRS[kind]
    return ours(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed), **more, **options)


def flat(output, state):
    data = output.data if isinstance(output, rnn.PackedSequence) else output
    return [data, *state] if isinstance(state, tuple) else [data, state]


@pytest.mark.parametrize("kind", PAIRS)
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("form", ["batch", "one sequence", "packed"])
def test_with_probability_0_it_is_torchs(kind, options, form):
    ours = made(kind, p=0.0, **options)
    theirs = PAIRS[kind][1](3, 4, dtype=torch.float64, **PAIRS[kind][2], **options)
    theirs.load_state_dict(ours.state_dict())
    x = random(7, 3) if form == "one sequence" else random(5, 7, 3)
    if form == "packed":
        x = rnn.pack_padded_sequence(x, torch.tensor([4, 7, 1, 6, 4]), batch_first=True, enforce_sorted=False)
    rows = ours.num_layers * (2 if ours.bidirectional else 1)
    batch = {"batch": (5 if options.get("batch_first") else 7,), "one sequence": (), "packed": (5,)}[form]
    h, c = random(rows, *batch, 4, seed=1), random(rows, *batch, 4, seed=2)
    for state in (None, (h, c) if kind == "LSTM" else h):
        found, wanted = flat(*ours(x, state)), flat(*theirs(x, state))
        torch.testing.assert_close(found, wanted)
    names = [name for name, _ in theirs.named_parameters()]
    for a, b in zip(
        torch.autograd.grad(sum(t.sin().sum() for t in found), [ours.get_parameter(name) for name in names]),
        torch.autograd.grad(sum(t.sin().sum() for t in wanted), [theirs.get_parameter(name) for name in names]),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


def step(kind, w, x, h, c):
    """One time step of the paper's equations, without zoneout: next h and c."""
    a, b = x @ w["weight_ih"].T + w["bias_ih"], h @ w["weight_hh"].T + w["bias_hh"]
    if kind == "LSTM":
        i, f, g, o = (a + b).unflatten(1, (4, 4)).unbind(1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(c), c
    if kind == "GRU":
        r, z = torch.sigmoid(a[:, :4] + b[:, :4]), torch.sigmoid(a[:, 4:8] + b[:, 4:8])
        return (1 - z) * torch.tanh(a[:, 8:] + r * b[:, 8:]) + z * h, c
    return (torch.tanh(a + b) if kind == "tanh" else torch.relu(a + b)), c


def loop(kind, layer, x, masks):
    """Independent zoneout over all time steps: ``masks(t)`` gives what share of the last h and c stays."""
    w = {name.removesuffix("_l0"): p for name, p in layer.named_parameters()}
    h = c = torch.zeros(x.shape[1], 4, dtype=torch.float64)
    outputs = []
    for t, now in enumerate(x):
        new_h, new_c = step(kind, w, now, h, c)
        stay_h, stay_c = masks(t)
        h, c = stay_h * h + (1 - stay_h) * new_h, stay_c * c + (1 - stay_c) * new_c
        outputs.append(h)
    return torch.stack(outputs)


def drawn(layer, x, kind):
    """The masks that the layer is going to draw: 1 where the last value stays."""
    twin = copy.deepcopy(layer.zoneout)
    twin.begin()
    shape, pairs = (x.shape[1], 4), []
    ones, zeros = torch.ones(shape, dtype=torch.float64), torch.zeros(shape, dtype=torch.float64)
    for _ in x:
        found = twin((ones, ones)[: 1 + (kind == "LSTM")], (zeros, zeros)[: 1 + (kind == "LSTM")])
        pairs.append((found[0], found[-1]))
    return pairs


@pytest.mark.parametrize("kind", PAIRS)
def test_training_is_the_papers_formula_and_so_is_its_gradient(kind):
    options = {"p": 0.3, "p_cell": 0.6} if kind == "LSTM" else {"p": 0.3}
    layer, x = made(kind, **options), random(6, 3, 3).requires_grad_()
    pairs = drawn(layer, x, kind)
    assert all(set(m.unique().tolist()) <= {0.0, 1.0} for pair in pairs for m in pair)
    wanted, found = loop(kind, layer, x, lambda t: pairs[t]), layer(x)[0]
    torch.testing.assert_close(found, wanted)
    inputs = [*layer.parameters(), x]
    for a, b in zip(
        torch.autograd.grad(found.sin().sum(), inputs), torch.autograd.grad(wanted.sin().sum(), inputs), strict=True
    ):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("kind", PAIRS)
def test_evaluation_takes_the_expectation(kind):
    options = {"p": 0.3, "p_cell": 0.6} if kind == "LSTM" else {"p": 0.3}
    layer, x = made(kind, **options).eval(), random(6, 2, 3)
    torch.testing.assert_close(layer(x)[0], loop(kind, layer, x, lambda t: (0.3, 0.6)))


def test_state_is_that_of_the_last_step():
    layer, x = made(p=0.5), random(6, 2, 3)
    output, (h, _) = layer(x)
    assert torch.equal(output[-1], h[0])


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_units_keep_their_last_value_with_probability_p(p):
    layer, n = made("tanh", p=p), 5000
    with torch.no_grad():
        output, _ = layer(random(3, n, 3))  # three steps of n sequences
    kept = (
        torch.stack([output[0] == 0, output[1] == output[0], output[2] == output[1]])
        .double()
        .transpose(0, 1)
        .flatten(1)
    )
    # 12 independent shares, each nearly normal with variance p (1 - p) / n
    fit = ((kept.mean(0) - p) ** 2 * n / (p * (1 - p))).sum().item()
    assert 1e-4 < stats.chi2.sf(fit, 12) < 1 - 1e-4
    assert (torch.corrcoef(kept.T) - torch.eye(12)).abs().max() < 5 / math.sqrt(n)


def test_hidden_state_and_cell_have_masks_of_their_own():
    mask, n = ZoneoutMask(0.3, 0.6, torch.Generator().manual_seed(0)), 100_000
    mask.begin()
    h, c = mask((torch.ones(n), torch.ones(n)), (torch.zeros(n), torch.zeros(n)))
    assert abs(h.mean() - 0.3) < 5 * math.sqrt(0.21 / n) and abs(c.mean() - 0.6) < 5 * math.sqrt(0.24 / n)
    assert abs(torch.corrcoef(torch.stack([h, c]))[0, 1]) < 5 / math.sqrt(n)


def test_layers_directions_and_calls_have_masks_of_their_own():
    layer, x = made(num_layers=2, bidirectional=True, p=0.5), random(5, 3, 3)
    layer(x)
    assert layer.zoneout.drawn == 5 * 2 * 2 * 2  # steps, layers, directions, hidden state and cell
    assert not torch.equal(layer(x)[0], layer(x)[0])


@pytest.mark.parametrize("how", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))])
@pytest.mark.parametrize("kind", ["LSTM", "tanh"])
def test_copies_go_on_with_the_same_masks(kind, how):
    layer, x = made(kind, p=0.5), random(4, 2, 3)
    first, twin = layer(x)[0], how(layer)
    second = layer(x)[0]
    assert torch.equal(second, twin(x)[0])
    assert not torch.equal(first, second)


def test_checkpoints_are_torchs():
    assert made().state_dict().keys() == nn.LSTM(3, 4).state_dict().keys()
    made(num_layers=2).load_state_dict(nn.LSTM(3, 4, 2).state_dict())


def test_draws_from_the_global_generator_only_without_one_of_its_own():
    layer, x = made(p=0.5), random(4, 2, 3)
    before = torch.get_rng_state()
    layer(x)
    assert torch.equal(torch.get_rng_state(), before)
    layer.zoneout.generator = None
    results = []
    for _ in range(2):
        torch.manual_seed(3)
        results.append(layer(x)[0])
    assert torch.equal(*results) and not torch.equal(results[0], layer(x)[0])


def test_checkpointing_meets_the_same_masks_again():
    layer, x, gradients = made(p=0.5, num_layers=2), random(4, 2, 3), []
    for run in (layer, copy.deepcopy(layer)):
        output, _ = run(x) if run is layer else checkpoint(run, x, use_reentrant=False)
        output.sin().sum().backward()
        gradients.append([p.grad for p in run.parameters()])
    assert all(map(torch.equal, *gradients))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"p": 1.0}, "ZoneoutLSTM(p=1.0): p is the probability of keeping the last value and must lie in [0, 1)."),
        ({"p_cell": -0.1}, "ZoneoutLSTM(p_cell=-0.1): p_cell is the probability"),
        ({"proj_size": 2}, "ZoneoutLSTM(proj_size=2): projections of the state are not supported"),
    ],
)
def test_bad_arguments_are_refused(options, message):
    with pytest.raises(ValueError) as error:
        made(**options)
    assert message in str(error.value)


def test_bad_inputs_are_refused():
    with pytest.raises(
        ValueError, match=r"ZoneoutLSTM got an input of shape \(5, 2, 7\). It must be .* with input_size 3"
    ):
        made()(random(5, 2, 7))
    with pytest.raises(ValueError, match=r"ZoneoutRNN got as hx .* It must be one tensor of shape \(1, 2, 4\)"):
        made("tanh")(random(5, 2, 3), random(1, 3, 4))


def test_says_what_it_is():
    assert repr(ZoneoutLSTM(3, 4, p=0.1, p_cell=0.5)).splitlines()[:3] == [
        "ZoneoutLSTM(",
        "  3, 4",
        "  (zoneout): ZoneoutMask(p=0.1, p_cell=0.5)",
    ]
