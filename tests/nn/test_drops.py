"""The dropout family: what every member owes, and the distributions of each."""

from __future__ import annotations

import copy
import io
import itertools
import math

import pytest
import torch
from scipy import stats
from torch import nn
from torch.utils.checkpoint import checkpoint

import trimtab.nn.functional as tf
from trimtab.nn import (
    AlphaDropout,
    DropBlock,
    Dropout,
    DropPath,
    GaussianDropout,
    linear_ramp,
    rates_by_depth,
    rates_by_width,
)

MAPS, SEQUENCE = (6, 5, 8, 8), (6, 7, 5)
MEMBERS = {
    "exact": (lambda **o: Dropout(0.4, count="exact", **o), MAPS),
    "channel": (lambda **o: Dropout(0.4, shape="channel", **o), MAPS),
    "locked": (lambda **o: Dropout(0.4, shape="locked", **o), SEQUENCE),
    "exact channel": (lambda **o: Dropout(0.4, shape="channel", count="exact", **o), MAPS),
    "original": (lambda **o: Dropout(0.4, scaling="original", **o), MAPS),
    "gaussian": (lambda **o: GaussianDropout(0.4, **o), MAPS),
    "gaussian, seed": (lambda **o: GaussianDropout(0.4, variance="seed", **o), MAPS),
    "alpha": (lambda **o: AlphaDropout(0.4, **o), MAPS),
    "path": (lambda **o: DropPath(0.4, **o), MAPS),
    "block": (lambda **o: DropBlock(0.4, 3, **o), MAPS),
}  # fmt: skip
every = pytest.mark.parametrize(("make", "shape"), MEMBERS.values(), ids=MEMBERS)


@pytest.fixture(autouse=True)
def fixed_seed():
    torch.manual_seed(0)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def saved(layer: nn.Module) -> nn.Module:
    buffer = io.BytesIO()
    torch.save(layer, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


# -- what every member owes ----------------------------------------------------------------------------------------------


@every
def test_evaluation_changes_nothing(make, shape):
    x, layer = torch.randn(shape), make().eval()
    expected = x * 0.6 if getattr(layer, "scaling", "") == "original" else x
    assert torch.equal(layer(x), expected)


@every
def test_draws_from_its_generator_alone(make, shape):
    x, before = torch.randn(shape), torch.get_rng_state()
    layer = make(generator=seeded())
    first = layer(x)
    assert torch.equal(before, torch.get_rng_state())
    assert not torch.equal(first, layer(x))
    assert torch.equal(first, make(generator=seeded())(x))


@every
def test_without_a_generator_torch_s_is_used(make, shape):
    x, layer = torch.randn(shape), make()
    torch.manual_seed(3)
    first, second = layer(x), layer(x)
    torch.manual_seed(3)
    assert torch.equal(first, layer(x))
    assert torch.equal(second, layer(x))
    assert not torch.equal(first, second)


@every
@pytest.mark.parametrize("how", [copy.deepcopy, saved])
def test_copies_go_on_with_the_same_masks(how, make, shape):
    x, layer = torch.randn(shape), make(generator=seeded())
    layer(x)
    twin = how(layer)
    assert torch.equal(layer(x), twin(x))
    assert torch.equal(layer(x), twin(x))
    assert layer.state_dict() == {}


@every
@pytest.mark.parametrize("form", [torch.contiguous_format, torch.channels_last])
def test_gradients_through_the_same_mask_in_float64(make, shape, form):
    if len(shape) != 4:
        form = torch.contiguous_format
    x = torch.randn(shape, dtype=torch.float64).contiguous(memory_format=form).requires_grad_()

    def run(x: torch.Tensor) -> torch.Tensor:
        return make(generator=seeded())(x)

    # every member is affine in its input: the difference of two outputs is that of the inputs through the same mask
    other, upstream = torch.randn(shape, dtype=torch.float64), torch.randn(shape, dtype=torch.float64)
    y = run(x)
    (gradient,) = torch.autograd.grad(y, x, upstream, create_graph=True)
    step = (upstream * (run(x + other) - y)).sum()
    # a few thousand products of numbers near 1, each rounded to 1e-16
    torch.testing.assert_close((gradient * other).sum(), step, rtol=1e-10, atol=1e-10)
    assert torch.autograd.gradcheck(run, torch.randn(shape[0], 2, *shape[2:], dtype=torch.float64)[:2].requires_grad_())


@every
@pytest.mark.parametrize("own", [False, True])
def test_checkpointing_gives_the_same_gradient(make, shape, own):
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(5, 5, 1) if len(shape) == 4 else nn.Linear(5, 5), nn.Tanh())
    gradients = []
    for kept in (True, False):
        block = nn.Sequential(layers[0], make(generator=seeded() if own else None), layers[1])
        torch.manual_seed(1)
        x = torch.randn(shape).requires_grad_()
        y = block(x) if kept else checkpoint(block, x, use_reentrant=False)
        gradients.append(torch.autograd.grad(y.square().sum(), [x, *layers.parameters()]))
    for a, b in zip(*gradients, strict=True):
        assert torch.equal(a, b)


@every
@pytest.mark.parametrize("own", [False, True])
def test_compiles(make, shape, own):
    torch._dynamo.reset()
    x = torch.randn(shape).requires_grad_()
    found = []
    for compiled in (False, True):
        torch.manual_seed(2)
        layer = make(generator=seeded() if own else None)
        y = (torch.compile(layer, backend="eager") if compiled else layer)(x)
        found.append((y, *torch.autograd.grad(y.square().sum(), x)))
    for a, b in zip(*found, strict=True):
        # a compiled graph may scale by 1 / (1 - p) where the other divides
        torch.testing.assert_close(a, b)


@every
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_keeps_type_and_shape(make, shape, dtype):
    y = make()(torch.randn(shape).to(dtype))
    assert y.dtype is dtype and y.shape == shape


@every
def test_functions_do_as_the_modules(make, shape):
    x, layer = torch.randn(shape), make(generator=seeded())
    name, options = {
        Dropout: ("dropout", ("scaling", "count", "shape")), GaussianDropout: ("gaussian_dropout", ("variance",)),
        AlphaDropout: ("alpha_dropout", ()), DropPath: ("drop_path", ("scaling",)), DropBlock: ("drop_block", ("block_size",)),
    }[type(layer)]  # fmt: skip
    given = {option: getattr(layer, option) for option in options}
    y = getattr(tf, name)(x, p=0.4, training=True, generator=seeded(), **given)
    assert torch.equal(y, layer(x))
    assert torch.equal(getattr(tf, name)(x, p=0.4, training=False, **given), layer.eval()(x))


@every
def test_no_sample_is_no_problem(make, shape):
    assert make()(torch.ones(0, *shape[1:])).shape == (0, *shape[1:])


# -- dropout by count, channel, feature ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("p", "dropped"), [(0.1, 1), (0.25, 2), (0.5, 5), (0.77, 8)])
def test_exactly_so_many_units_of_every_sample_are_dropped(p, dropped):
    x = torch.ones(200, 10)
    y = Dropout(p, count="exact", generator=seeded())(x)
    assert ((y == 0).sum(1) == dropped).all()
    # 002: the sum over all units becomes n / |P| times the sum over the kept ones
    torch.testing.assert_close(y.sum(1), torch.full((200,), 10.0))
    assert Dropout(p, count="exact", scaling="original", generator=seeded())(x).unique().tolist() == [0, 1]
    evaluated = Dropout(p, count="exact", scaling="original").eval()(x)
    torch.testing.assert_close(evaluated, torch.full_like(x, 1 - dropped / 10))


def test_what_is_counted_is_the_units_of_a_sample():
    share = {"generator": seeded(), "count": "exact", "p": 0.5}
    assert Dropout(**share)(torch.ones(9, 3, 4, 5)).count_nonzero(dim=(1, 2, 3)).tolist() == [30] * 9
    assert Dropout(**share, shape="channel")(torch.ones(9, 8, 4, 5)).count_nonzero(dim=(1, 2, 3)).tolist() == [80] * 9
    assert Dropout(**share, shape="locked")(torch.ones(9, 3, 8)).count_nonzero(dim=(1, 2)).tolist() == [12] * 9
    assert Dropout(**share)(torch.ones(12)).count_nonzero() == 6


def test_every_choice_of_units_is_as_likely():
    y = Dropout(0.5, count="exact", generator=seeded())(torch.ones(24_000, 4))
    kept = (y > 0).long() @ torch.tensor([1, 2, 4, 8])
    counts = [(kept == sum(1 << i for i in pair)).sum().item() for pair in itertools.combinations(range(4), 2)]
    assert sum(counts) == 24_000
    assert stats.chisquare(counts).pvalue > 1e-3


@pytest.mark.parametrize("shape", ["element", "channel", "locked"])
def test_masks_are_bernoulli(shape):
    # the number of dropped ones of 8 units, over samples, is binomial
    x = torch.ones(20_000, 8, 3) if shape == "channel" else torch.ones(20_000, 3, 8)
    y = Dropout(0.3, shape=shape, generator=seeded())(x)
    zeros = ((y[:, :, 0] if shape == "channel" else y[:, 0]) == 0).sum(1)
    expected = stats.binom(8, 0.3).pmf(range(9)) * 20_000
    counts = torch.bincount(zeros, minlength=9).double().numpy()
    few = expected < 5  # too few for the test: joined
    joined = [[*c[~few], c[few].sum()] for c in (counts, expected)]
    assert stats.chisquare(*joined, sum_check=False).pvalue > 1e-3
    assert y.unique().tolist() == pytest.approx([0, 1 / 0.7])


def test_channels_go_whole_and_features_for_all_time_steps():
    y = Dropout(0.5, shape="channel", generator=seeded())(torch.ones(50, 4, 5, 3))
    assert (y == y[:, :, :1, :1]).all() and not (y == y[:, :1]).all()
    y = Dropout(0.5, shape="locked", generator=seeded())(torch.ones(50, 7, 4))
    assert (y == y[:, :1]).all() and not (y == y[:, :, :1]).all() and not (y == y[:1]).all()


def test_original_scaling_is_the_papers():
    x = torch.randn(100, 20)
    layer = Dropout(0.3, scaling="original", generator=seeded())
    y = layer(x)
    assert torch.equal(y[y != 0], x[y != 0])  # not scaled at all
    assert torch.equal(layer.eval()(x), x * 0.7)
    # the same masks as in the inverted form
    torch.testing.assert_close(Dropout(0.3, generator=seeded())(x) * 0.7, y)


@pytest.mark.parametrize("scaling", ["inverted", "original"])
@pytest.mark.parametrize("p", [0.0, 1.0])
def test_the_ends_of_the_range(p, scaling):
    x = torch.randn(5, 4)
    for make in (Dropout, DropPath):
        layer = make(p, scaling=scaling)
        assert torch.equal(layer(x), x * (1 - p))
        assert torch.equal(layer.eval()(x), x * (1 - p) if scaling == "original" else x)


def test_in_place_in_every_form():
    for options in ({"shape": "channel"}, {"count": "exact"}, {"scaling": "original"}):
        x = torch.ones(10, 4, 6)
        assert Dropout(0.5, inplace=True, **options)(x) is x
        assert 0 in x.unique().tolist()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Dropout(scaling="down"), "Dropout(scaling='down'): scaling must be one of 'inverted', 'original'."),
        (lambda: Dropout(count="some"), "Dropout(count='some'): count must be one of 'bernoulli', 'exact'."),
        (lambda: Dropout(shape="row"), "Dropout(shape='row'): shape must be one of 'element', 'channel', 'locked'."),
        (lambda: Dropout(shape="locked")(torch.ones(3)), "Dropout(shape='locked') got an input of shape (3,). It must be (N, C, ...)"),
        (lambda: GaussianDropout(1.0), "GaussianDropout(p=1.0): p is the dropping probability of the dropout that is like it and must lie in [0, 1)."),
        (lambda: GaussianDropout(variance="p"), "GaussianDropout(variance='p'): variance must be one of 'paper', 'seed'."),
        (lambda: AlphaDropout(-1), "AlphaDropout(p=-1): p is the probability of dropping an entry"),
        (lambda: DropPath(2), "DropPath(p=2): p is the probability of dropping an entry"),
        (lambda: DropBlock(block_size=0), "DropBlock(block_size=0): block_size is the side of a block and must be a whole number, 1 or more."),
        (lambda: DropBlock()(torch.ones(2, 3)), "DropBlock got an input of shape (2, 3). It must be (N, C, L), (N, C, H, W)"),
        (lambda: rates_by_width([4, 0]), "rates_by_width([4, 0]): every width must be at least 1"),
        (lambda: rates_by_width([4], 2), "rates_by_width(p=2): p is the probability"),
        (lambda: rates_by_depth(0), "rates_by_depth(blocks=0): there must be at least 1 block."),
        (lambda: linear_ramp(1, 0, 0.5), "linear_ramp(steps=0): it must be at least 1"),
    ],
)  # fmt: skip
def test_errors_say_what_to_do(make, message):
    with pytest.raises(ValueError) as error:
        make()
    assert message in str(error.value)


def test_says_what_it_is():
    assert (
        repr(Dropout(0.2, count="exact", shape="channel"))
        == "Dropout(p=0.2, inplace=False, count=exact, shape=channel)"
    )
    assert repr(DropPath(0.2)) == "DropPath(p=0.2)"
    assert repr(DropBlock(0.2, 5)) == "DropBlock(p=0.2, block_size=5)"


# -- Gaussian dropout ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("variance", "expected"), [("paper", lambda p: p / (1 - p)), ("seed", lambda p: p * (1 - p))])
@pytest.mark.parametrize("p", [0.1, 0.5, 0.8])
def test_the_noise_is_normal(p, variance, expected):
    noise = GaussianDropout(p, variance=variance, generator=seeded())(torch.ones(50_000, dtype=torch.float64))
    std = math.sqrt(expected(p))
    assert noise.mean().item() == pytest.approx(1, abs=5 * std / math.sqrt(50_000))
    assert noise.var().item() == pytest.approx(std**2, rel=5 * math.sqrt(2 / 50_000))
    assert stats.kstest(noise.numpy(), stats.norm(1, std).cdf).pvalue > 1e-3


def test_nothing_but_a_seed_is_kept_for_the_backward_pass():
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        x = torch.ones(1000, requires_grad=True)
        y = GaussianDropout(0.5)(x)
    assert kept == [1]
    assert torch.equal(torch.autograd.grad(y, x, torch.ones(1000))[0], y)


def test_forward_mode_and_second_derivatives_of_gaussian_dropout():
    x = torch.randn(20, dtype=torch.float64, requires_grad=True)

    def run(x: torch.Tensor) -> torch.Tensor:
        return GaussianDropout(0.5, generator=seeded())(x).square()

    assert torch.autograd.gradgradcheck(run, x)
    _, along = torch.func.jvp(run, (x,), (torch.ones_like(x),))
    torch.testing.assert_close(along, torch.autograd.grad(run(x).sum(), x)[0])


# -- alpha dropout -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("p", [0.05, 0.5])
def test_alpha_dropout_is_torch_s(p):
    x = torch.randn(100_000)
    ours, theirs = AlphaDropout(p, generator=seeded())(x), nn.AlphaDropout(p)(x)
    # dropped entries have one value, kept ones lie on one line
    assert ours.mode().values.item() == pytest.approx(theirs.mode().values.item(), rel=1e-5)
    lines = []
    for y in (ours, theirs):
        kept = y != y.mode().values
        lines.append(torch.linalg.lstsq(torch.stack([x, torch.ones_like(x)], 1)[kept], y[kept]).solution)
    torch.testing.assert_close(*lines, rtol=1e-4, atol=1e-4)
    assert (ours == ours.mode().values).double().mean().item() == pytest.approx(p, abs=5 * math.sqrt(p * (1 - p) / 1e5))
    assert abs(ours.mean().item()) < 5 / math.sqrt(1e5)
    assert ours.var().item() == pytest.approx(1, abs=0.05)
    assert torch.equal(AlphaDropout(1.0)(x), nn.AlphaDropout(1.0)(x))


# -- paths and blocks ----------------------------------------------------------------------------------------------------


def test_paths_are_dropped_by_sample():
    y = DropPath(0.3, generator=seeded())(torch.ones(20_000, 2, 3))
    assert (y == y[:, :1, :1]).all()
    assert y.unique().tolist() == pytest.approx([0, 1 / 0.7])
    assert stats.binomtest((y[:, 0, 0] == 0).sum().item(), 20_000, 0.3).pvalue > 1e-3


@pytest.mark.parametrize("sizes", [(11,), (9, 7), (5, 4, 6)])
@pytest.mark.parametrize("side", [1, 2, 3, 20])
def test_blocks_fall_as_the_paper_says(sizes, side):
    n, p = 8000, 0.2
    dropped = (DropBlock(p, side, generator=seeded())(torch.ones(n, 1, *sizes)) == 0)[:, 0]
    sides = [min(side, size) for size in sizes]
    gamma = p * math.prod(s / (k * (s - k + 1)) for s, k in zip(sizes, sides, strict=True))
    for at in {tuple(0 for _ in sizes), tuple(s // 2 for s in sizes), tuple(s - 1 for s in sizes)}:
        # an entry stays if none of the blocks that would cover it begins
        covering = math.prod(min(a, s - k) - max(a - k + 1, 0) + 1 for a, s, k in zip(at, sizes, sides, strict=True))
        found = dropped[(slice(None), *at)].sum().item()
        assert stats.binomtest(found, n, 1 - (1 - gamma) ** covering).pvalue > 1e-3 / 3
    # what is dropped is made of whole blocks: everything lies in one that is dropped throughout
    pool = {1: nn.functional.max_pool1d, 2: nn.functional.max_pool2d, 3: nn.functional.max_pool3d}[len(sizes)]
    gone = dropped[:, None].float()
    whole = -pool(-gone, tuple(sides), stride=1)
    grown = pool(nn.functional.pad(whole, [k - 1 for k in reversed(sides) for _ in range(2)]), tuple(sides), stride=1)
    assert torch.equal(grown, gone)


def test_blocks_keep_the_mean_of_what_is_left():
    y = DropBlock(0.3, 3, generator=seeded())(torch.ones(20, 3, 8, 8))
    assert y.mean().item() == pytest.approx(1, rel=1e-5)
    assert len(y.unique()) == 2
    assert torch.equal(DropBlock(1.0, 20)(torch.randn(2, 3, 8, 8)), torch.zeros(2, 3, 8, 8))


# -- rates ---------------------------------------------------------------------------------------------------------------


def test_rates():
    assert rates_by_width([100, 50, 200], 0.4) == pytest.approx([0.2, 0.1, 0.4])
    depths = rates_by_depth(10, 0.5)
    assert depths[-1] == 0.5 and [b - a for a, b in itertools.pairwise(depths)] == pytest.approx([0.05] * 9)
    assert [linear_ramp(t, 4, 0.2, 0.6) for t in (0, 1, 4, 9)] == pytest.approx([0.6, 0.5, 0.2, 0.2])
