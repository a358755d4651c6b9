"""The generator of dropout masks: statistical tests of its bits, within a seed and between seeds.

Masks of p = 0.5 are looked at as streams of bits. Every test gives a p-value for the hypothesis of fair, independent bits;
seeds are fixed, so a test either always passes or always fails, and 1e-5 is a bound that 400 p-values of a good
generator all keep with a chance of 99.6 %.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from trimtab.nn import ops

LEAST = 1e-5
COUNT = 1 << 20


def bits(seed: int, count: int = COUNT, p: float = 0.5) -> np.ndarray:
    """The mask of a seed as 0 and 1."""
    return ops.dropout(torch.ones(count), p, torch.tensor([seed])).numpy() > 0


def two_sided(z: float) -> float:
    return float(2 * stats.norm.sf(abs(z)))


def balance(x: np.ndarray) -> float:
    """How likely so uneven a share of ones is."""
    return two_sided((x.sum() - x.size / 2) / np.sqrt(x.size / 4))


SEEDS = [0, 1, 2, 3, 1 << 32, (1 << 62) - 1, 123456789, 0x9E3779B97F4A7C15 >> 2]


@pytest.mark.parametrize("seed", SEEDS)
def test_bits_of_one_seed(seed):
    x = bits(seed)
    assert balance(x) > LEAST
    for width in (4, 8, 12):  # words of neighbouring bits come equally often
        words = x[: x.size // width * width].reshape(-1, width) @ (1 << np.arange(width))
        assert stats.chisquare(np.bincount(words, minlength=1 << width)).pvalue > LEAST
    for lag in (1, 2, 3, 7, 16, 64, 768, 4096, 65536):  # rows of tensors are often of such lengths
        assert balance(x[lag:] ^ x[:-lag]) > LEAST, lag
    ones = x.reshape(-1, 64).sum(1)  # the weights of words are binomial
    seen = np.bincount(np.clip(ones, 20, 44) - 20, minlength=25)
    shares = stats.binom.pmf(np.arange(65), 64, 0.5)
    expected = np.concatenate([[shares[:21].sum()], shares[21:44], [shares[44:].sum()]]) * len(ones)
    assert stats.chisquare(seen, expected).pvalue > LEAST
    edges = np.flatnonzero(np.diff(x))  # lengths of runs are geometric
    runs = np.minimum(np.diff(edges), 12)
    lengths = np.array([0.5**k for k in range(1, 12)] + [0.5**11])
    assert stats.chisquare(np.bincount(runs, minlength=13)[1:], lengths * len(runs)).pvalue > LEAST


def test_every_place_is_kept_equally_often_over_seeds():
    kept = sum(bits(seed, 4096).astype(int) for seed in range(4000))
    z = (kept - 2000) / np.sqrt(1000)
    assert stats.kstest(z, "norm").pvalue > 1e-3  # near normal but for its steps of 0.03
    assert stats.chi2.sf(np.square(z).sum(), 4096) > LEAST and stats.chi2.cdf(np.square(z).sum(), 4096) > LEAST


@pytest.mark.parametrize("pair", [(0, 1), (1, 2), (5, 5 + (1 << 32)), (7, 7 ^ (1 << 61)), (10, 11), (100, 200)])
def test_seeds_are_independent_of_each_other(pair):
    x, y = (np.where(bits(seed, 1 << 18), 1.0, -1.0) for seed in pair)
    assert two_sided((x * y).sum() / np.sqrt(x.size)) > LEAST
    # at every distance: correlation by the Fourier transform
    shifted = np.fft.irfft(np.fft.rfft(x) * np.conj(np.fft.rfft(y)), x.size) / np.sqrt(x.size)
    assert two_sided(np.abs(shifted).max()) * x.size > LEAST
    # and with the places permuted by every xor, as hashes of (place xor seed) would be: by the Walsh transform
    permuted = walsh(walsh(x) * walsh(y)) / x.size / np.sqrt(x.size)
    assert two_sided(np.abs(permuted).max()) * x.size > LEAST


def walsh(x: np.ndarray) -> np.ndarray:
    """The Walsh-Hadamard transform."""
    x, step = x.copy(), 1
    while step < x.size:
        a, b = x.reshape(-1, 2, step)[:, 0].copy(), x.reshape(-1, 2, step)[:, 1].copy()
        x.reshape(-1, 2, step)[:, 0], x.reshape(-1, 2, step)[:, 1] = a + b, a - b
        step *= 2
    return x


def test_masks_of_many_seeds_differ_in_half_of_their_places():
    masks = np.stack([bits(seed, 8192) for seed in range(300)]).astype(np.float32) * 2 - 1
    z = (masks @ masks.T)[np.triu_indices(300, 1)] / np.sqrt(8192)
    assert stats.kstest(z, "norm").pvalue > 1e-3
    assert two_sided(np.abs(z).max()) * z.size > LEAST


@pytest.mark.parametrize("p", [0.001, 0.1, 0.3, 0.9, 0.999])
def test_rates(p):
    kept = sum(int(bits(seed, COUNT, p).sum()) for seed in range(4))
    assert stats.binomtest(kept, 4 * COUNT, 1 - p).pvalue > LEAST


def test_these_tests_find_the_flaw_of_a_hash_with_one_key():
    # the same permutation of counters for all seeds: masks of two seeds are then permutations of each other
    def flawed(key: int) -> np.ndarray:
        h = (np.arange(1 << 18, dtype=np.uint64) ^ key) & 0xFFFFFFFF
        h = ((h ^ (h >> 16)) * 0x7FEB352D) & 0xFFFFFFFF
        h = ((h ^ (h >> 15)) * 0x846CA68B) & 0xFFFFFFFF
        return np.where((h ^ (h >> 16)) >= 1 << 31, 1.0, -1.0)

    x, y = flawed(1234), flawed(98765)
    permuted = walsh(walsh(x) * walsh(y)) / x.size / np.sqrt(x.size)
    assert two_sided(np.abs(permuted).max()) * x.size < LEAST
