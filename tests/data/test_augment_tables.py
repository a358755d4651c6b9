"""Noise, scaling and masking of tables and sequences, against the distributions that they name."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.datasets import load_wine

from trimtab import data


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def wine() -> torch.Tensor:
    """178 wines with 13 features whose deviations differ by a factor of 2500."""
    return torch.tensor(load_wine().data, dtype=torch.float32)


def is_normal(values: torch.Tensor, std: float = 1.0) -> bool:
    return stats.kstest(values.flatten().numpy(), stats.norm(0, std).cdf).pvalue > 1e-3


# -- noise -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(20_000,), (200, 100), (20, 50, 20), (5, 4, 40, 25)])
def test_noise_is_normal_with_its_deviation(shape):
    x = torch.rand(shape, generator=generator(1), dtype=torch.float64) * 100
    z = (data.GaussianNoise(0.3, generator=generator())(x) - x) / 0.3
    assert z.numel() == 20_000 and is_normal(z)
    # five standard errors of mean and deviation
    assert abs(z.mean()) < 5 / 20_000**0.5 and abs(z.std() - 1) < 5 / 40_000**0.5


def test_noise_is_normal_over_seeds():
    """The first number of each of many generators: what one training sees does not hang on its seed."""
    x = torch.zeros(3, dtype=torch.float64)
    drawn = torch.stack([data.GaussianNoise(1.0, generator=generator(seed))(x) for seed in range(2000)])
    assert all(is_normal(drawn[:, place]) for place in range(3))
    assert abs(np.corrcoef(drawn.numpy().T)[np.triu_indices(3, 1)]).max() < 4 / 2000**0.5


def test_noise_of_a_feature_is_a_share_of_its_deviation(wine):
    part = data.FeatureNoise(13, 0.2, generator=generator())
    part(wine[:50])
    part(wine[50:])
    std = wine.double().std(0, correction=0)
    torch.testing.assert_close(part.statistics.variance.double().sqrt(), std, rtol=1e-4, atol=0)
    part.statistics.eval()  # measure with what is known
    x = wine.double().repeat(50, 1)
    z = (part(x) - x) / (0.2 * std)
    assert all(is_normal(z[:, feature]) for feature in range(13))


def test_noise_of_all_entries_has_one_deviation(digits):
    images = digits[0].view(-1, 1, 8, 8).double()
    part = data.FeatureNoise(None, 0.5, generator=generator())
    y = part(images)
    assert is_normal(y - images, 0.5 * images.std(correction=0).item())


def test_a_constant_feature_gets_no_noise():
    x = torch.cat([torch.full((10, 1), 7.0), torch.randn(10, 1, generator=generator())], 1)
    y = data.FeatureNoise(2, 0.5)(x)
    assert torch.equal(y[:, 0], x[:, 0]) and not torch.equal(y[:, 1], x[:, 1])


def test_statistics_belong_to_the_checkpoint(wine):
    part, other = data.FeatureNoise(13, 0.1), data.FeatureNoise(13, 0.1)
    part(wine)
    other.load_state_dict(part.state_dict())
    assert torch.equal(other.statistics.variance, part.statistics.variance)


# -- features ----------------------------------------------------------------------------------------------------------


def test_factors_are_normal_around_1(wine):
    x = wine.double().repeat(20, 1)
    factors = data.FeatureScaling(0.1, generator=generator())(x) / x
    for feature in range(13):
        column = factors[:, feature][x[:, feature] != 0]
        assert is_normal(column - 1, 0.1)
    assert abs(np.corrcoef(factors.numpy().T)[np.triu_indices(13, 1)]).max() < 4.5 / len(x) ** 0.5


@pytest.mark.parametrize("fill", ["mean", "zero"])
def test_entries_are_hidden_behind_the_mean_or_zero(wine, fill):
    x = wine.double() + 1  # no zeros, no entry that is its mean
    part = data.FeatureMasking(13, 0.3, fill, generator=generator())
    for _ in range(3):
        y = part(x)
    hidden = y != x
    behind = x.mean(0) if fill == "mean" else torch.zeros(13)
    # the running mean is kept in float32, merged three times
    torch.testing.assert_close(y[hidden], behind.double().expand_as(x)[hidden], rtol=1e-6, atol=0)
    assert stats.binomtest(int(hidden.sum()), hidden.numel(), 0.3).pvalue > 1e-3
    by_feature = hidden.sum(0).numpy()
    assert stats.chi2_contingency([by_feature, len(x) - by_feature]).pvalue > 1e-3


@pytest.mark.parametrize("part", [data.FeatureScaling(0.1), data.FeatureMasking(4, 0.1)])
@pytest.mark.parametrize(
    ("shape", "cure"), [((2, 8, 4), "For sequences there is TimeMasking."), ((4,), "It acts on tables only.")]
)
def test_what_is_no_table_is_refused(part, shape, cure):
    with pytest.raises(ValueError) as error:
        part(torch.zeros(shape))
    assert str(error.value) == (
        f"{type(part).__name__} got an input of shape {shape}. Tables must have the shape (N, features). {cure}"
    )


@pytest.mark.parametrize("part", [data.FeatureNoise(3, 0.1), data.FeatureMasking(3, 0.1)])
def test_another_number_of_features_is_refused(part):
    with pytest.raises(ValueError, match=re.escape("got input of shape (2, 4) with 4 features on axis -1")):
        part(torch.zeros(2, 4))


# -- time --------------------------------------------------------------------------------------------------------------


def stretches(hidden: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lengths and beginnings of the one stretch in each row."""
    lengths = hidden.sum(1)
    first = hidden.argmax(1)
    steps = np.arange(hidden.shape[1])
    expected = (steps >= first[:, None]) & (steps < (first + lengths)[:, None])
    assert np.array_equal(hidden, expected & (lengths > 0)[:, None])  # consecutive
    return lengths, first


def test_stretches_of_time_have_the_lengths_and_places_of_specaugment():
    n, steps, longest = 12_000, 10, 4
    y = data.TimeMasking(0.4, fill=5.0, generator=generator())(torch.zeros(n, steps, 3))
    assert set(y.unique().tolist()) == {0.0, 5.0}
    assert torch.equal(y[..., :1].expand_as(y), y)  # all channels together
    lengths, first = stretches((y[..., 0] == 5).numpy())
    assert stats.chisquare(np.bincount(lengths, minlength=longest + 1)).pvalue > 1e-3
    for length in range(1, longest + 1):
        places = np.bincount(first[lengths == length], minlength=steps - length + 1)
        assert len(places) == steps - length + 1
        assert stats.chisquare(places).pvalue > 1e-3


def test_several_stretches_are_independent():
    one = (data.TimeMasking(0.4, fill=1.0, generator=generator())(torch.zeros(20_000, 10)) == 1).float().mean(0)
    three = (data.TimeMasking(0.4, 3, fill=1.0, generator=generator())(torch.zeros(20_000, 10)) == 1).float().mean(0)
    # shares of 20000: a standard error of 0.0035 at most, three of them on one side
    torch.testing.assert_close(three, 1 - (1 - one) ** 3, rtol=0, atol=0.03)


def test_the_axis_says_where_time_is():
    x = torch.randn(6, 20, 3, generator=generator(1))
    y = data.TimeMasking(0.3, 2, generator=generator())(x)
    other = data.TimeMasking(0.3, 2, axis=2, generator=generator())(x.transpose(1, 2))
    assert torch.equal(other.transpose(1, 2), y)
    assert torch.equal(torch.where(y == 0, x, y), x)


def test_shares_are_not_cut_by_rounding():
    y = data.TimeMasking(0.29, fill=1.0, generator=generator())(torch.zeros(20_000, 100))
    assert y.sum(1).max() == 29


@pytest.mark.parametrize(
    ("axis", "shape", "message"),
    [
        (1, (2, 3, 4, 5), "TimeMasking(axis=1) got an input of shape (2, 3, 4, 5). Sequences must have the shape (N, T, C) or (N, T); "),
        (2, (2, 3), "TimeMasking(axis=2) got an input of shape (2, 3). Sequences must have the shape (N, C, T); axis tells"),
        (1, (2, 4, 90), "TimeMasking(share=0.2) got sequences of 4 steps, of which that share is less than one. Give a share of 0.25"),
    ],
)  # fmt: skip
def test_what_is_no_sequence_is_refused(axis, shape, message):
    with pytest.raises(ValueError) as error:
        data.TimeMasking(0.2, axis=axis)(torch.zeros(shape))
    assert str(error.value).startswith(message)
