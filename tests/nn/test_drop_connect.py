"""DropConnect: the masks' distribution, the moments of the summed inputs, and the average of sub-networks in evaluation."""

from __future__ import annotations

import copy
import io
import math
import pickle

import pytest
import torch
from scipy import stats
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from trimtab.nn import (
    DropConnectConv1d,
    DropConnectConv2d,
    DropConnectConv3d,
    DropConnectGRU,
    DropConnectLinear,
    DropConnectLSTM,
    DropConnectRNN,
)

CONVS = {
    "1d": (DropConnectConv1d, nn.Conv1d, (2, 4, 9)),
    "2d": (DropConnectConv2d, nn.Conv2d, (2, 4, 6, 5)),
    "3d": (DropConnectConv3d, nn.Conv3d, (2, 4, 4, 4, 5)),
}
RECURRENT = {
    "LSTM": (DropConnectLSTM, nn.LSTM),
    "GRU": (DropConnectGRU, nn.GRU),
    "RNN": (DropConnectRNN, nn.RNN),
}
MASKS = 10_000


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def random(*shape, seed=0):
    return torch.randn(shape, generator=seeded(seed), dtype=torch.float64)


def made(n_in=6, n_out=5, seed=0, **options):
    torch.manual_seed(seed)
    return DropConnectLinear(n_in, n_out, dtype=torch.float64, generator=seeded(seed), **options)


def masked(layer):
    """Weight and bias under the next mask of the layer, which draws it again."""
    weight, bias = copy.deepcopy(layer.mask)(layer.weight, layer.bias)
    scale = 1.0 if layer.scaling == "inverted" else 1 - layer.p
    return weight * scale, bias * scale


def assert_moments(found, mean, variance):
    """The mean and variance of ``found``, (draws, ...), within 5 standard errors: of these, that of the variance has the fourth moment."""
    n, away = len(found), found - found.mean(0)
    spread = away.square().mean(0)
    assert ((found.mean(0) - mean).abs() <= 5 * (variance / n).sqrt() + 1e-12).all()
    error = ((away**4).mean(0) - spread**2).clamp_min(0).div(n).sqrt()
    assert ((spread - variance).abs() <= 5 * error + 1e-12).all()


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_weights_and_biases_are_dropped_each_by_itself(p):
    layer = made(4, 3, p=p)
    nn.init.ones_(layer.weight)
    nn.init.ones_(layer.bias)
    n, probe = 3000, torch.cat([torch.zeros(1, 4), torch.eye(4)]).double()
    draws = []
    for _ in range(n):
        y = layer(probe).detach()
        draws.append(torch.cat([y[0], (y[1:] - y[0]).flatten()]))  # biases, then weights
    masks = torch.stack(draws)
    assert torch.tensor([0.0, 1.0]).double().sub(masks.unique()).abs().max() < 1e-12  # kept ones are not rescaled
    kept = masks.mean(0)
    # 15 independent shares, each nearly normal with variance p (1 - p) / n
    fit = ((kept - (1 - p)) ** 2 * n / (p * (1 - p))).sum().item()
    assert 1e-4 < stats.chi2.sf(fit, 15) < 1 - 1e-4
    off_diagonal = torch.corrcoef(masks.T) - torch.eye(15)
    assert off_diagonal.abs().max() < 5 / math.sqrt(n)
    following = (masks[1:] - (1 - p)) * (masks[:-1] - (1 - p)) / (p * (1 - p))
    assert following.mean(0).abs().max() < 5 / math.sqrt(n)


@pytest.mark.parametrize(
    ("scaling", "p", "per_sample"), [("original", 0.5, False), ("original", 0.2, True), ("inverted", 0.2, True)]
)
def test_moments_are_those_of_sampled_masks(scaling, per_sample, p):
    layer, x = made(scaling=scaling, per_sample=per_sample, p=p), random(6)
    with torch.no_grad():
        found = layer(x.expand(MASKS, 6)) if per_sample else torch.stack([layer(x) for _ in range(MASKS)])
        assert_moments(found, *layer.moments(x))


def test_moments_are_003s_formula():
    layer, x, p = made(p=0.3), random(4, 6), 0.3
    mean, variance = layer.moments(x)
    torch.testing.assert_close(mean, (1 - p) * (x @ layer.weight.T + layer.bias))
    torch.testing.assert_close(variance, p * (1 - p) * (x**2 @ layer.weight.T**2 + layer.bias**2))


def test_moments_of_a_convolution_are_those_of_sampled_masks():
    torch.manual_seed(0)
    layer, x = DropConnectConv1d(4, 2, 3, padding=1, p=0.4, dtype=torch.float64, generator=seeded()), random(1, 4, 9)
    with torch.no_grad():
        assert_moments(torch.stack([layer(x) for _ in range(3000)]), *layer.moments(x))


def test_evaluation_is_the_mean_activation_of_the_normal_distribution():
    layer, x = made(p=0.5, activation="relu", samples=50).eval(), random(4, 6)
    with torch.no_grad():
        mean, variance = layer.moments(x)
        z = mean / variance.sqrt()
        normal = torch.distributions.Normal(0.0, 1.0)
        wanted = mean * normal.cdf(z) + variance.sqrt() * normal.log_prob(z).exp()  # E max(0, u), in closed form
        # a sum over 50 quantiles: free draws would be off by a seventh of a deviation
        assert ((layer(x) - wanted).abs() <= 0.01 * variance.sqrt()).all()
        torch.testing.assert_close(
            layer(x)[1:], layer(x[1:])
        )  # the other samples do not matter, but for how sums are rounded
        assert torch.equal(made(p=0.5, activation="relu", samples=1).eval()(x), mean.relu())
        layer.activation = lambda u: u.softmax(-1)  # of units that vary each by itself
        free = mean + variance.sqrt() * torch.randn(20_000, *mean.shape, dtype=torch.float64, generator=seeded())
        layer.samples = 2000
        assert (
            layer(x) - free.softmax(-1).mean(0)
        ).abs().max() < 0.01  # free: 5 / sqrt(20 000) of a deviation below 0.3


def test_moment_matching_is_nearer_to_the_average_of_sub_networks_than_weight_scaling():
    layer, x = made(100, 5, p=0.5, activation="relu", per_sample=True), random(100, 100)[:8]
    with torch.no_grad():
        average = layer(x.expand(MASKS, 8, 100)).mean(0)
        layer.eval()
        matched = layer(x)
        layer.inference = "weight_scaling"
        scaled = layer(x)
    assert (matched - average).abs().max() < 0.2 * (scaled - average).abs().max()


@pytest.mark.parametrize("scaling", ["original", "inverted"])
def test_weight_scaling(scaling):
    layer, x = made(p=0.25, scaling=scaling, inference="weight_scaling", activation="relu").eval(), random(4, 6)
    plain = F.linear(x, layer.weight, layer.bias)
    assert torch.equal(layer(x), F.relu(plain if scaling == "inverted" else 0.75 * plain))


def test_without_an_activation_the_mean_is_exact_and_draws_nothing():
    layer, x = made(p=0.5).eval(), random(4, 6)
    assert torch.equal(layer(x), 0.5 * F.linear(x, layer.weight, layer.bias))


def test_gradient_of_evaluation_is_finite_where_nothing_varies():
    layer, x = made(activation="relu", bias=False).eval(), torch.zeros(2, 6, dtype=torch.float64, requires_grad=True)
    layer(x).sum().backward()
    assert torch.isfinite(x.grad).all() and torch.isfinite(layer.weight.grad).all()


@pytest.mark.parametrize("scaling", ["original", "inverted"])
def test_output_and_gradient_have_one_mask(scaling):
    layer, x = made(p=0.5, scaling=scaling, activation=torch.tanh), random(4, 6).requires_grad_()
    weight, bias = masked(layer)
    weight_mask, bias_mask = (weight != 0).double(), (bias != 0).double()
    scale = 2.0 if scaling == "inverted" else 1.0
    w, b = layer.weight.detach().clone().requires_grad_(), layer.bias.detach().clone().requires_grad_()
    wanted = torch.tanh(F.linear(x, scale * weight_mask * w, scale * bias_mask * b))
    found = layer(x)
    torch.testing.assert_close(found, wanted)
    for a, c in zip(
        torch.autograd.grad(found.sin().sum(), [layer.weight, layer.bias, x]),
        torch.autograd.grad(wanted.sin().sum(), [w, b, x]),
        strict=True,
    ):
        torch.testing.assert_close(a, c)


def test_a_mask_for_each_sample_serves_all_its_rows():
    layer, x = made(per_sample=True), random(6).expand(3, 4, 6)
    y = layer(x)
    assert torch.equal(y[:, 0], y[:, 3])
    assert len(y[:, 0].unique(dim=0)) == 3
    weight, bias = copy.deepcopy(layer.mask)(layer.weight.expand(3, -1, -1), layer.bias.expand(3, 1, -1))
    rows = random(3, 4, 6, seed=1)
    wanted = [F.linear(row, w / 2, b[0] / 2) for row, w, b in zip(rows, weight, bias, strict=True)]
    torch.testing.assert_close(layer(rows), torch.stack(wanted))
    assert layer(random(6)).shape == (5,)
    torch.testing.assert_close(made(per_sample=True, p=0.0)(rows), F.linear(rows, layer.weight, layer.bias))


@pytest.mark.parametrize("kind", CONVS)
@pytest.mark.parametrize(
    "options", [{}, {"stride": 2, "padding": 1, "groups": 2}, {"padding": 1, "padding_mode": "circular"}]
)
def test_a_convolution_is_torchs_with_masked_weights(kind, options):
    ours, theirs, shape = CONVS[kind]
    layer = ours(4, 6, 3, p=0.5, dtype=torch.float64, generator=seeded(), **options)
    plain, x = theirs(4, 6, 3, dtype=torch.float64, **options), random(*shape)
    weight, bias = masked(layer)
    plain.load_state_dict({"weight": weight, "bias": bias})
    torch.testing.assert_close(layer(x), plain(x))
    plain.load_state_dict(layer.state_dict())
    torch.testing.assert_close(layer.eval()(x), 0.5 * plain(x))


@pytest.mark.parametrize("kind", RECURRENT)
@pytest.mark.parametrize(
    "options", [{}, {"num_layers": 2, "bidirectional": True, "batch_first": True}, {"bias": False}]
)
def test_recurrent_layers_are_torchs_with_masked_recurrent_weights(kind, options):
    ours, theirs = RECURRENT[kind]
    layer = ours(3, 4, p=0.5, dtype=torch.float64, generator=seeded(), **options)
    plain, x = theirs(3, 4, dtype=torch.float64, **options), random(5, 7, 3)
    plain.load_state_dict(layer.state_dict())
    names = [name for name in layer.state_dict() if name.startswith("weight_hh")]
    weights = copy.deepcopy(layer.mask)(*(layer.state_dict()[name] for name in names))
    factors = [w / layer.state_dict()[name] for name, w in zip(names, weights, strict=True)]
    assert all(set(f.round(decimals=9).unique().tolist()) == {0.0, 2.0} for f in factors)
    plain.load_state_dict({**layer.state_dict(), **dict(zip(names, weights, strict=True))})
    found, wanted = layer(x)[0], plain(x)[0]
    torch.testing.assert_close(found, wanted)
    found.sin().sum().backward()
    wanted.sin().sum().backward()
    for name, parameter in layer.named_parameters():
        gradient = plain.get_parameter(name).grad
        gradient = gradient * factors[names.index(name)] if name in names else gradient
        torch.testing.assert_close(parameter.grad, gradient)
    plain.load_state_dict(layer.state_dict())
    assert torch.equal(layer.eval()(x)[0], plain(x)[0])


@pytest.mark.filterwarnings("ignore:LSTM with projections")  # oneDNN has none
def test_recurrent_layers_keep_nothing_of_a_call():
    layer, x = DropConnectLSTM(3, 4, generator=seeded()), torch.randn(5, 2, 3)
    with pytest.raises((RuntimeError, ValueError)):
        layer(torch.randn(5, 2, 7))
    layer(x)
    assert all(w is p for w, p in zip(layer._flat_weights, layer.parameters(), strict=True))
    assert not any(name.startswith("weight") for name in layer.__dict__)
    twin = copy.deepcopy(layer)
    assert torch.equal(layer(x)[0], twin(x)[0])
    projected = DropConnectLSTM(3, 4, proj_size=2)
    assert projected(x)[0].shape == (5, 2, 2) and projected.proj_size == 2


@pytest.mark.parametrize(
    ("ours", "theirs", "sizes"),
    [
        (DropConnectLinear, nn.Linear, (3, 4)),
        (DropConnectConv2d, nn.Conv2d, (3, 4, 3)),
        (DropConnectGRU, nn.GRU, (3, 4)),
    ],
)
def test_checkpoints_are_torchs(ours, theirs, sizes):
    ours(*sizes).load_state_dict(theirs(*sizes).state_dict())
    theirs(*sizes).load_state_dict(ours(*sizes).state_dict())


def saved(layer):
    buffer = io.BytesIO()
    torch.save(layer, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


@pytest.mark.parametrize("how", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer)), saved])
def test_copies_go_on_with_the_same_masks(how):
    layer, x = made(), random(4, 6)
    first, twin = layer(x), how(layer)
    second = layer(x)
    assert torch.equal(second, twin(x))
    assert not torch.equal(first, second)


def test_draws_from_the_global_generator_only_without_one_of_its_own():
    before = torch.get_rng_state()
    layer, x = (
        DropConnectLinear(6, 5, activation="relu", samples=2, generator=seeded()),
        torch.randn(4, 6, generator=seeded()),
    )
    torch.set_rng_state(before)
    layer(x)
    layer.eval()(x)
    assert torch.equal(torch.get_rng_state(), before)
    layer.mask.generator = None
    results = []
    for _ in range(2):
        torch.manual_seed(3)
        results.append(layer.train()(x))
    assert torch.equal(*results) and not torch.equal(results[0], layer(x))


def test_checkpointing_meets_the_same_masks_again():
    for layer in (
        made(activation="relu"),
        DropConnectLSTM(6, 5, num_layers=2, dtype=torch.float64, generator=seeded()),
    ):
        x, gradients = random(3, 4, 6), []
        for run in (layer, copy.deepcopy(layer)):
            y = run(x) if run is layer else checkpoint(run, x, use_reentrant=False)
            (y if isinstance(y, torch.Tensor) else y[0]).sin().sum().backward()
            gradients.append([p.grad for p in run.parameters()])
        assert all(map(torch.equal, *gradients))


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # dynamo looks at it behind the break for the generator
@pytest.mark.parametrize("kind", ["linear", "conv", "LSTM"])
def test_compiles(kind):
    torch._dynamo.reset()
    layer = {
        "linear": lambda: made(activation="relu", samples=3).float(),
        "conv": lambda: DropConnectConv1d(3, 4, 3, generator=seeded()),
        "LSTM": lambda: DropConnectLSTM(6, 4, generator=seeded()),
    }[kind]()
    x, twin = random(2, 3, 6).float(), copy.deepcopy(layer)
    compiled = torch.compile(layer, backend="eager")
    for mode in (True, False):
        found, wanted = compiled.train(mode)(x), twin.train(mode)(x)
        torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"p": 1.0}, "DropConnectLinear(p=1.0): p is the probability of dropping a weight and must lie in [0, 1)."),
        ({"p": math.nan}, "must lie in [0, 1)"),
        ({"inference": "mean"}, "inference must be one of 'moment_matching', 'weight_scaling'"),
        ({"scaling": "none"}, "scaling must be one of 'original', 'inverted'"),
        (
            {"samples": 0},
            "DropConnectLinear(samples=0): samples is the number of values for each output in evaluation and must be a whole number",
        ),
        ({"activation": "tanh"}, "activation must be one of none, relu"),
    ],
)
def test_bad_arguments_are_refused(options, message):
    with pytest.raises(ValueError) as error:
        made(**options)
    assert message in str(error.value)
    if "p" in options:
        with pytest.raises(ValueError, match="DropConnectGRU"):
            DropConnectGRU(3, 4, **options)


def test_says_what_it_is():
    assert repr(DropConnectLinear(3, 4, p=0.2)).startswith(
        "DropConnectLinear(\n  in_features=3, out_features=4, bias=True, activation=none, inference=moment_matching, scaling=original"
    )
    assert "(mask): DropConnectMask(p=0.2)" in repr(DropConnectLSTM(3, 4, p=0.2))
