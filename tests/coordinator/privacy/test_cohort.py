"""Hidden independent coins."""

import os

import numpy as np
import pytest

from sanderling.coordinator.privacy.accounting import Sampling
from sanderling.coordinator.privacy.cohort import poisson_cohort
from sanderling.models.errors import UnsoundError

DEVICES = [f"d{i:02}" for i in range(50)]


def drawn(source, rounds: int, **sampling: object) -> np.ndarray:
    cohorts = [
        poisson_cohort(DEVICES, Sampling(population=50, probability=0.2, **sampling), source)
        for _ in range(rounds)
    ]
    return np.array([[device in cohort for device in DEVICES] for cohort in cohorts])


def test_every_device_joins_with_the_probability_and_alone(seeded):
    joined = drawn(seeded(), 1000)
    assert abs(joined.mean() - 0.2) < 4 * np.sqrt(0.16 / joined.size)
    assert abs(joined.mean(axis=0) - 0.2).max() < 4.5 * np.sqrt(0.16 / 1000)
    # independent coins: the cohort's size has the binomial's variance, 50 * 0.16 = 8
    assert joined.sum(axis=1).var() == pytest.approx(8, rel=4 * np.sqrt(2 / 1000))


def test_a_cap_turns_devices_away_evenly(seeded):
    joined = drawn(seeded(), 1000, cap=8)
    sizes = joined.sum(axis=1)
    assert sizes.max() == 8
    assert sizes.min() < 8
    share = joined.mean()
    assert abs(joined.mean(axis=0) - share).max() < 4.5 * np.sqrt(share * (1 - share) / 1000)


def test_the_systems_coins_differ_each_time():
    assert not np.array_equal(*(drawn(os.urandom, 3) for _ in range(2)))


def test_a_population_that_was_not_accounted_for_is_refused(seeded):
    with pytest.raises(UnsoundError, match="49 devices, accounted for were 50"):
        poisson_cohort(DEVICES[1:], Sampling(population=50, probability=0.2), seeded())
