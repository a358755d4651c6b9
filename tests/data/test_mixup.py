"""Mixup and CutMix: the arithmetic against kornia and written-out formulas, the random numbers against their distributions."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from kornia.augmentation import RandomCutMixV2, RandomMixUpV2
from scipy import stats

from trimtab.data import CutMix, Mix, MixUp, cutmix, mixup


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(digits) -> tuple[torch.Tensor, torch.Tensor]:
    return digits[0].view(-1, 1, 8, 8), digits[1]


# -- the arithmetic --------------------------------------------------------------------------------------------------


def test_kornia_mixes_the_same(digits):
    x, y = images(digits)
    torch.manual_seed(0)
    theirs = RandomMixUpV2(data_keys=["input", "class"])
    mixed, labels = theirs(x, y)
    partner, other = theirs._params["mixup_pairs"], theirs._params["mixup_lambdas"]  # their lambda is the partner's
    mix = Mix(partner, 1 - other)
    # two products and a sum of numbers up to 1 in float32, grouped differently
    torch.testing.assert_close(mix.inputs(x), mixed, rtol=0, atol=2e-7)
    torch.testing.assert_close(y[mix.partner], labels[:, 1].long())

    logits = torch.randn(len(x), 10, generator=generator())
    own, others = (F.cross_entropy(logits, y_.long(), reduction="none") for y_ in (labels[:, 0], labels[:, 1]))
    loss_of_their_docs = ((1 - labels[:, 2]) * own + labels[:, 2] * others).mean()
    ours = mix.loss(lambda o, t: F.cross_entropy(o, t, reduction="none"), logits, y).mean()
    torch.testing.assert_close(ours, loss_of_their_docs)


def test_kornia_cuts_the_same(digits):
    x, y = images(digits)
    torch.manual_seed(0)
    theirs = RandomCutMixV2(data_keys=["input", "class"], use_correct_lambda=True)
    mixed, labels = theirs(x, y)
    corners = theirs._params["crop_src"][0].long()  # (N, 4, 2), x before y; the last corner is inside the box
    left, top, right, bottom = corners[:, 0, 0], corners[:, 0, 1], corners[:, 2, 0], corners[:, 2, 1]
    place = torch.arange(8)
    rows = (place >= top[:, None]) & (place <= bottom[:, None])
    columns = (place >= left[:, None]) & (place <= right[:, None])
    cut = rows[:, None, :, None] & columns[:, None, None, :]
    mix = Mix(theirs._params["mix_pairs"][0], 1 - cut.float().mean((1, 2, 3)), cut)
    assert torch.equal(mix.inputs(x), mixed)
    torch.testing.assert_close(mix.share, labels[0, :, 2])
    assert 0.3 < mix.share.mean() < 0.9


@pytest.mark.parametrize("per_sample", [False, True])
def test_mixup_is_its_formula(per_sample, digits):
    x = digits[0][:32].double()
    mixed, mix = mixup(x, alpha=1.0, per_sample=per_sample, generator=generator())
    assert sorted(mix.partner.tolist()) == list(range(32))
    share = mix.share.double().expand(32)
    assert len(set(share.tolist())) == (32 if per_sample else 1)
    for i in range(32):
        torch.testing.assert_close(mixed[i], share[i] * x[i] + (1 - share[i]) * x[mix.partner[i]])


@pytest.mark.parametrize("per_sample", [False, True])
def test_cutmix_cuts_one_box_and_tells_its_area(per_sample):
    """Each image shows its own number, so that every pixel tells where it is from."""
    n = 200
    x = torch.arange(float(n)).view(n, 1, 1, 1).expand(n, 3, 9, 6)
    mixed, mix = cutmix(x, per_sample=per_sample, generator=generator(1))
    share = mix.share.expand(n)
    assert len(set(share.tolist())) == 1 or per_sample
    for i in range(n):
        if mix.partner[i] == i:
            continue
        foreign = mixed[i] == mix.partner[i]
        assert torch.equal(foreign | (mixed[i] == i), torch.ones(3, 9, 6, dtype=torch.bool))
        assert torch.equal(foreign, foreign[:1].expand(3, 9, 6))
        rows, columns = foreign[0].any(1).nonzero().flatten(), foreign[0].any(0).nonzero().flatten()
        assert foreign[0].sum() == len(rows) * len(columns)  # a box ...
        assert all(len(w) == 0 or w[-1] - w[0] + 1 == len(w) for w in (rows, columns))  # ... without gaps
        # the share is 1 - k / 54 in float32
        assert share[i].item() == pytest.approx(1 - foreign[0].float().mean().item(), abs=2e-7)


def test_images_of_bytes_can_be_cut():
    x = torch.randint(256, (8, 3, 6, 6), dtype=torch.uint8, generator=generator())
    mixed, mix = cutmix(x, generator=generator())
    assert mixed.dtype == torch.uint8
    assert torch.equal(mixed, torch.where(mix.cut, x[mix.partner], x))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_rounded_once(dtype, digits):
    x = digits[0][:32].to(dtype)
    mixed, mix = mixup(x, alpha=1.0, generator=generator())
    assert mixed.dtype == dtype
    share = mix.share.double()
    exact = share * x.double() + (1 - share) * x[mix.partner].double()
    # half a step of the type, plus float32's rounding before it
    torch.testing.assert_close(mixed.double(), exact, rtol=torch.finfo(dtype).eps / 2 * 1.01, atol=1e-6)


def test_gradients_reach_both_samples(digits):
    x = digits[0][:8].double().requires_grad_()
    mixed, mix = mixup(x, alpha=1.0, per_sample=True, generator=generator())
    weight = torch.randn(8, 64, dtype=torch.float64, generator=generator())
    (mixed * weight).sum().backward()
    share = mix.share.double()[:, None]
    expected = share * weight
    expected[mix.partner] += (1 - share) * weight
    torch.testing.assert_close(x.grad, expected)


# -- targets and losses ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("per_sample", [False, True])
def test_mixed_loss_is_cross_entropy_of_mixed_targets(per_sample, digits):
    x, y = digits[0][:64].double(), digits[1][:64]
    mixed, mix = mixup(x, alpha=1.0, per_sample=per_sample, generator=generator())
    logits = mixed[:, :10]
    losses = mix.loss(lambda o, t: F.cross_entropy(o, t, reduction="none"), logits, y)
    soft = mix.targets(y, 10).double()
    # targets are float32: a relative rounding of 6e-8
    torch.testing.assert_close(losses, F.cross_entropy(logits, soft, reduction="none"), rtol=1e-6, atol=0)
    if not per_sample:
        torch.testing.assert_close(
            mix.loss(F.cross_entropy, logits, y), F.cross_entropy(logits, soft), rtol=1e-6, atol=0
        )


def test_means_over_class_weights_and_ignored_targets_stay_right(digits):
    x, y = digits[0][:64].double(), digits[1][:64].clone()
    y[::5] = -100
    weight = torch.rand(10, dtype=torch.float64, generator=generator()) + 0.1
    mixed, mix = mixup(x, alpha=1.0, generator=generator())
    logits, share = mixed[:, :10], mix.share.item()
    found = mix.loss(lambda o, t: F.cross_entropy(o, t, weight), logits, y)
    total = weights = 0.0
    log_p = logits.log_softmax(1)
    for targets, part in ((y, share), (y[mix.partner], 1 - share)):
        for i in range(64):
            if targets[i] != -100:
                total += part * -weight[targets[i]] * log_p[i, targets[i]]
                weights += part * weight[targets[i]]
    torch.testing.assert_close(found, total / weights)


def test_mixed_numbers_have_the_gradient_of_mixed_losses(digits):
    """For square losses the two differ by a constant."""
    x, y = digits[0][:32].double(), digits[1][:32].double()
    mixed, mix = mixup(x, alpha=1.0, generator=generator())
    gradients = []
    for targets in (None, mix.targets(y)):
        output = mixed.sum(1).requires_grad_()
        loss = mix.loss(F.mse_loss, output, y) if targets is None else F.mse_loss(output, targets)
        gradients += torch.autograd.grad(loss, output)
    torch.testing.assert_close(*gradients)


def test_targets_of_pixels_become_probabilities_of_pixels():
    y = torch.tensor([[0, 2], [1, 1]])
    targets = Mix(torch.tensor([1, 0]), torch.tensor(0.75)).targets(y, 3)
    expected = torch.tensor([[[0.75, 0], [0.25, 0.25], [0, 0.75]], [[0.25, 0], [0.75, 0.75], [0, 0.25]]])
    assert torch.equal(targets, expected)


@pytest.mark.parametrize(("make", "function"), [(MixUp, mixup), (CutMix, cutmix)])
def test_the_callable_is_the_function(make, function, digits):
    x, y = images(digits)
    for alpha in ({}, {"alpha": 0.5}):
        mixed, targets = make(10, **alpha, per_sample=True, generator=generator(3))(x, y)
        expected, mix = function(x, **alpha, per_sample=True, generator=generator(3))
        assert torch.equal(mixed, expected)
        assert torch.equal(targets, mix.targets(y, 10))
        torch.testing.assert_close(targets.sum(1), torch.ones(len(y)))
    again = pickle.loads(pickle.dumps(make(10, generator=generator(3))))  # as to the workers of a loader
    assert torch.equal(again(x, y)[0], make(10, generator=generator(3))(x, y)[0])
    assert repr(again).startswith(f"{make.__name__}(classes=10, alpha=")


# -- random numbers --------------------------------------------------------------------------------------------------


def check_beta(share: np.ndarray, alpha: float) -> None:
    """The lower half by Kolmogorov and Smirnov, its weight by the binomial. (Above, float32 rounds what is near 1 to 1.)"""
    low = share[share < 0.5]
    beta = stats.beta(alpha, alpha)
    assert stats.kstest(low, lambda x: beta.cdf(x) / beta.cdf(0.5)).pvalue > 0.001
    assert stats.binomtest(len(low), len(share), 0.5).pvalue > 0.001


@pytest.mark.parametrize("alpha", [0.1, 0.2, 1.0, 4.0])
def test_lambda_is_beta(alpha):
    _, mix = mixup(torch.zeros(20_000, 1), alpha, per_sample=True, generator=generator(7))
    check_beta(mix.share.double().numpy(), alpha)


def test_lambda_is_beta_over_seeds():
    """Generators that are seeded 0, 1, 2 ... must not give shares that resemble each other."""
    x = torch.zeros(4, 1)
    check_beta(np.array([mixup(x, 0.4, generator=generator(seed))[1].share.item() for seed in range(3000)]), 0.4)


def test_a_tiny_alpha_does_not_underflow():
    """Gamma variables of 0.002 are below 1e-38 in 84 % of all draws: as a quotient, the share would be 0/0."""
    _, mix = mixup(torch.zeros(20_000, 1), 0.002, per_sample=True, generator=generator())
    share = mix.share
    assert torch.isfinite(share).all()
    between = ((share > 0.01) & (share < 0.99)).sum().item()
    beta = stats.beta(0.002, 0.002)
    assert stats.binomtest(between, 20_000, beta.cdf(0.99) - beta.cdf(0.01)).pvalue > 0.001
    assert stats.binomtest(int((share < 0.5).sum()), 20_000, 0.5).pvalue > 0.001


@pytest.mark.parametrize("alpha", [0.5, 1.0])
def test_boxes_lie_where_the_paper_puts_them(alpha):
    """How often each pixel is cut, against the authors' code summed over lambda and all centres."""
    height, width, n, grid = 7, 4, 20_000, 4000
    _, mix = cutmix(torch.zeros(n, 1, height, width), alpha, per_sample=True, generator=generator(5))
    root = np.sqrt(1 - stats.beta(alpha, alpha).ppf((np.arange(grid) + 0.5) / grid))

    def inside(size: int) -> np.ndarray:
        """(grid, centres, places)"""
        centre, half = np.arange(size)[None, :], (size * root).astype(int)[:, None] // 2
        low, high = np.clip(centre - half, 0, size), np.clip(centre + half, 0, size)
        place = np.arange(size)
        return (place >= low[..., None]) & (place < high[..., None])

    rows, columns = inside(height), inside(width)
    expected = np.einsum("gi,gj->ij", rows.mean(1), columns.mean(1)) / grid
    found = mix.cut.double().mean((0, 1)).numpy()
    deviation = np.sqrt(expected * (1 - expected) / n)
    # 28 pixels within 5 standard deviations, and the sums over lambda within one cell of the grid for each of its jumps
    assert (np.abs(found - expected) < 5 * deviation + 8 / grid).all()

    area = np.einsum("gci,gdj->gcd", rows.astype(float), columns.astype(float)) / (height * width)
    lost = mix.share.double().numpy()
    assert lost.mean() == pytest.approx(1 - area.mean(), abs=5 * area.std() / np.sqrt(n) + 8 / grid)
    assert lost.var() == pytest.approx(area.var(), rel=0.05)  # 5 standard deviations of a variance of bounded numbers


def test_permutations_are_even():
    source = generator(2)
    draws = [tuple(mixup(torch.zeros(3, 1), generator=source)[1].partner.tolist()) for _ in range(3000)]
    counts = [draws.count(order) for order in set(draws)]
    assert len(counts) == 6
    assert stats.chisquare(counts).pvalue > 0.001


@pytest.mark.parametrize("function", [mixup, cutmix])
def test_a_generator_leaves_the_global_one_alone(function, digits):
    x, _ = images(digits)
    before = torch.get_rng_state()
    first = function(x, generator=generator(4))[0]
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first, function(x, generator=generator(4))[0])
    torch.manual_seed(0)
    drawn = function(x)[0]
    assert not torch.equal(drawn, function(x)[0])
    torch.manual_seed(0)
    assert torch.equal(drawn, function(x)[0])


# -- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda x, y: mixup(x, 0),
            "mixup: alpha=0 must be positive: lambda is drawn from Beta(alpha, alpha). Try 0.2.",
        ),
        (lambda x, y: cutmix(x, -1), "cutmix: alpha=-1 must be positive"),
        (lambda x, y: MixUp(10, float("nan")), "MixUp: alpha=nan must be positive"),
        (lambda x, y: CutMix(10, float("inf")), "CutMix: alpha=inf must be positive"),
        (
            lambda x, y: mixup(x.long()),
            "mixup needs inputs of a floating-point type; got torch.int64. Scale images to 0..1 first.",
        ),
        (
            lambda x, y: cutmix(x[0]),
            "cutmix takes images of shape (N, C, H, W); got shape (1, 8, 8). mixup takes any shape.",
        ),
        (
            lambda x, y: mixup(x)[1].targets(y),
            "targets of type torch.int64 are classes: say how many there are, classes=...",
        ),
        (lambda x, y: mixup(x)[1].inputs(x[:3]), "this mix is of 512 samples; got inputs of shape (3, 1, 8, 8)."),
        (
            lambda x, y: cutmix(x)[1].inputs(x[:, :, 1:]),
            "this mix cuts images of 8 x 8 pixels; got inputs of shape (512, 1, 7, 8).",
        ),
        (
            lambda x, y: mixup(x, per_sample=True)[1].loss(F.cross_entropy, x.flatten(1), y),
            "each of the 512 samples has a share of its own, so the loss must give one number for each; got shape (). Compute "
            'it with reduction="none", or mix with per_sample=False.',
        ),
    ],
)
def test_errors_say_what_to_do(call, message, digits):
    with pytest.raises(ValueError) as error:
        call(*images(digits))
    assert message in str(error.value)
