"""The discrete Gaussian's distribution, its determinism, and the exactness of its coins."""

import math
import os
import time
from fractions import Fraction
from itertools import chain, repeat

import numpy as np
import pytest

from sanderling.coordinator.privacy import discrete_gaussian as module
from sanderling.coordinator.privacy.discrete_gaussian import discrete_gaussian


def words_of(*words: int):
    return chain(words, repeat(0))


@pytest.mark.parametrize("variance", [1, 2, 9, 40])
def test_chi_square_against_the_exact_masses(variance, seeded):
    count, reach = 40000, 3 * math.isqrt(variance)
    samples = discrete_gaussian(variance, count, seeded(variance))
    x = np.arange(-60, 61)
    mass = np.exp(-(x**2) / (2 * variance))
    mass /= mass.sum()
    inner = np.abs(x) <= reach
    expected = np.append(mass[inner], mass[~inner].sum()) * count
    seen = [(samples == value).sum() for value in x[inner]]
    observed = np.array([*seen, count - sum(seen)])
    statistic = ((observed - expected) ** 2 / expected).sum()
    cells = expected.size - 1
    assert abs(statistic - cells) < 4 * math.sqrt(2 * cells)


def test_wide_samples_are_normal(seeded):
    """Kolmogorov's distance of 20,000 samples is below 1.63 / sqrt(n) in 99 of 100 draws; the seed is fixed."""
    variance, count = (1 << 44) + 12345, 20000
    samples = np.sort(discrete_gaussian(variance, count, seeded()))
    below = np.array([0.5 * (1 + math.erf(value / math.sqrt(2 * variance))) for value in samples.tolist()])
    ranks = np.arange(1, count + 1) / count
    assert max((ranks - below).max(), (below - ranks + 1 / count).max()) < 1.63 / math.sqrt(count)
    assert samples.var() / variance == pytest.approx(1, abs=4 * math.sqrt(2 / count))
    assert np.unique(samples % 4, return_counts=True)[1].min() > 0.94 * count / 4  # no coarser grid inside


def test_samples_are_independent(seeded):
    samples = discrete_gaussian(10**10, 20000, seeded(3)) / 1e5
    for lag in (1, 2, 7):
        assert abs((samples[lag:] * samples[:-lag]).mean()) < 4 / math.sqrt(20000)


def test_same_bytes_same_samples(seeded):
    first, again = (discrete_gaussian(1000, 50, seeded(5)) for _ in range(2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, discrete_gaussian(1000, 50, seeded(6)))
    assert not np.array_equal(*(discrete_gaussian(1000, 50, os.urandom) for _ in range(2)))


def test_a_coin_compares_every_bit():
    third = (1 << 64) // 3
    assert module.bernoulli(1, 3, words_of(third - 1))
    assert not module.bernoulli(1, 3, words_of(third + 1))
    assert module.bernoulli(1, 3, words_of(third, third - 1))  # the same to 64 bits: the next word decides
    assert not module.bernoulli(1, 3, words_of(third, third + 1))
    assert module.bernoulli(1, 1, words_of((1 << 64) - 1))
    assert not module.bernoulli(0, 1, words_of(1))


@pytest.mark.parametrize("gamma", [Fraction(0), Fraction(1, 3), Fraction(1), Fraction(7, 3)])
def test_exponential_coin(gamma, seeded):
    count, words = 20000, module.words_from(seeded(8))
    hits = sum(module._bernoulli_exp(gamma.numerator, gamma.denominator, words) for _ in range(count))
    expected = math.exp(-gamma)
    assert abs(hits / count - expected) <= 4 * math.sqrt(expected * (1 - expected) / count)


def test_twenty_thousand_within_seconds():
    began = time.process_time()
    discrete_gaussian(1 << 44, 20000, os.urandom)
    assert time.process_time() - began < 5


@pytest.mark.parametrize("variance", [0, -1, 1 << 101])
def test_a_variance_out_of_range_is_refused(variance):
    with pytest.raises(ValueError, match="expected an integer in"):
        discrete_gaussian(variance, 1, os.urandom)


def test_a_source_that_runs_dry_is_refused():
    with pytest.raises(ValueError, match="byte source gave 3"):
        discrete_gaussian(1, 1, lambda count: b"abc")
