"""The noise of a release: enough of it, everywhere, and bound to one set of reports."""

import math
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from sanderling.coordinator.privacy.accounting import Sampling
from sanderling.coordinator.privacy.noise import (
    FrozenSet,
    NoiseKey,
    NoiseSize,
    accepted_hash,
    charge_of,
    draw_key,
    noise_size,
    noised,
    noised_bits,
    seeded_key,
)
from sanderling.coordinator.privacy.sensitivity import Sensitivity
from sanderling.models.errors import UnsoundError
from sanderling.models.updates import Aggregate

K, D = 4000, 5000
COORDINATES = np.arange(500, 500 + K, dtype=np.int32)
SIZE = NoiseSize(coordinates=K, variance=10**12, bit_variance=9 * 65536**2)
FROZEN = FrozenSet(number=3, accepted_hash=bytes(32), size=SIZE, key=seeded_key(7))


def aggregate_of(sent: slice = slice(500, 600)) -> Aggregate:
    mean = np.zeros(D, dtype=np.int64)
    mean[sent] = 1000
    return Aggregate(mean=mean, total_weight=1, participants=("a",))


def is_noised_as_accounted(before: Aggregate, after: Aggregate, size: NoiseSize) -> bool:
    """Variance on every twentieth of the round's coordinates within 5 of its own deviations, nothing elsewhere."""
    difference = after.mean - before.mean
    spots = difference[COORDINATES].reshape(20, -1).astype(float)
    ratios = (spots**2).mean(axis=1) / size.variance
    elsewhere = np.delete(difference, COORDINATES)
    return bool((abs(ratios - 1) < 5 * math.sqrt(2 / spots.shape[1])).all()) and not elsewhere.any()


def test_noise_covers_all_coordinates_of_the_round_and_no_others():
    before = aggregate_of()
    after = noised(before, COORDINATES, FROZEN)
    assert is_noised_as_accounted(before, after, SIZE)
    assert after.participants == before.participants


def test_planted_faults_are_seen():
    before = aggregate_of()
    after = noised(before, COORDINATES, FROZEN)
    noise = after.mean - before.mean
    on_sent = np.where(before.mean != 0, noise, 0)
    halved = noised(before, COORDINATES, replace(FROZEN, size=replace(SIZE, variance=SIZE.variance // 4)))
    for planted in (before, replace(before, mean=before.mean + on_sent), halved):
        assert not is_noised_as_accounted(before, planted, SIZE)


def test_a_resumed_round_makes_the_same_bytes_and_another_set_others():
    before = aggregate_of()
    once, again = (noised(before, COORDINATES, FROZEN).mean for _ in range(2))
    assert once.tobytes() == again.tobytes()
    changes = (
        {"accepted_hash": bytes([1] * 32)},
        {"number": 4},
        {"key": seeded_key(8)},
        {"size": replace(SIZE, variance=SIZE.variance + 1)},
    )
    for change in changes:
        other = noised(before, COORDINATES, replace(FROZEN, **change)).mean
        assert (other != once)[COORDINATES].mean() > 0.99


def test_the_frozen_sets_hash_covers_all_that_decides_it():
    base = accepted_hash("run", 1, b"plan", {"a": b"1", "b": b"2"})
    assert base == accepted_hash("run", 1, b"plan", {"b": b"2", "a": b"1"})
    others = [
        accepted_hash("run2", 1, b"plan", {"a": b"1", "b": b"2"}),
        accepted_hash("run", 2, b"plan", {"a": b"1", "b": b"2"}),
        accepted_hash("run", 1, b"plan2", {"a": b"1", "b": b"2"}),
        accepted_hash("run", 1, b"plan", {"a": b"1"}),
        accepted_hash("run", 1, b"plan", {"a": b"2", "b": b"1"}),
        accepted_hash("run", 1, b"plan", {"a": b"1b", "": b"2"}),
    ]
    assert len({base, *others}) == 7


def test_noise_on_the_sent_support_only_is_refused():
    with pytest.raises(UnsoundError, match="all of the round's coordinates"):
        noised(aggregate_of(), COORDINATES[:100], FROZEN)
    with pytest.raises(UnsoundError, match="moved 100 coordinates"):
        noised(aggregate_of(slice(400, 600)), COORDINATES, FROZEN)


def test_only_the_systems_generator_makes_a_private_key(seeded):
    assert draw_key().private
    assert draw_key().secret != draw_key().secret
    assert not draw_key(seeded()).private
    assert not seeded_key(1, "run").private
    assert seeded_key(1, "run") != seeded_key(1, "run2")
    assert "secret" not in repr(NoiseKey(secret=b"secret" * 5, private=True))


def test_an_erased_key_makes_no_noise():
    with pytest.raises(UnsoundError, match="erased"):
        noised(aggregate_of(), COORDINATES, replace(FROZEN, key=NoiseKey(secret=b"", private=True)))


def test_size_by_hand():
    # C / n = 3 theta units = 196608 grid units, + 10 for rounding 100 coordinates, + 1; times z = 1.5, squared
    sensitivity = Sensitivity(zero_out=Fraction(3), replace=Fraction(6))
    size = noise_size(sensitivity, 100, 1.5, bit_multiplier=2.0)
    assert size.variance == math.ceil(Fraction(9, 4) * 196619**2)
    assert size.bit_variance == 4 * 65536**2
    replaced = noise_size(sensitivity, 100, 1.5, bit_multiplier=2.0, adjacency="replace")
    assert replaced.variance == math.ceil(Fraction(9, 4) * (2 * 196608 + 11) ** 2)
    assert replaced.bit_variance == 4 * size.bit_variance


def test_only_sampled_releases_are_charged_for_the_grid():
    sampling = Sampling(probability=0.1, population=100)
    assert charge_of(SIZE, 1.5).divergence == 0.0
    charge = charge_of(SIZE, 1.5, sampling)
    assert charge.divergence == pytest.approx(K * 0.01 / 1e24 + 0.01 / SIZE.bit_variance**2)
    assert (charge.noise_multiplier, charge.sampling) == (1.5, sampling)


def test_the_clipping_bits_share_is_noised_around_the_truth():
    # 30 within and 10 beyond of 50 planned: 1/2 + 20/100; noise of deviation 3 on the sum of +-1
    shares = [float(noised_bits(30, 10, 50, replace(FROZEN, key=seeded_key(seed)))) for seed in range(2000)]
    deviation = 3 / 100
    assert np.mean(shares) == pytest.approx(0.7, abs=4 * deviation / math.sqrt(2000))
    assert np.std(shares) == pytest.approx(deviation, rel=4 / math.sqrt(2 * 2000))
    with pytest.raises(UnsoundError, match="bit_multiplier"):
        noised_bits(1, 1, 2, replace(FROZEN, size=replace(SIZE, bit_variance=0)))
