"""Noise for a privacy level."""

import pytest

from sanderling.coordinator.privacy.accounting import Charge, Sampling, continuous_epsilon, epsilon
from sanderling.coordinator.privacy.calibration import (
    LEVELS,
    calibrate,
    epsilon_of,
    noise_multiplier,
    noise_warning,
)
from sanderling.models.errors import UsageError

DELTA = 1e-5
POISSON = Sampling(probability=0.1, population=1000)
VECTORS = [(1.0, 3.942), (2.0, 2.248), (4.0, 1.386), (8.0, 0.936)]  # epsilon, z: q = 0.1, 100 rounds

pytestmark = pytest.mark.usefixtures("dp")


def test_levels():
    assert dict(LEVELS) == {"low": 8.0, "medium": 4.0, "high": 1.0}
    assert epsilon_of("medium") == 4.0
    assert epsilon_of(2) == 2.0
    for wrong in ("extreme", 0, -1.0, float("inf"), float("nan")):
        with pytest.raises(UsageError):
            epsilon_of(wrong)


@pytest.mark.parametrize(("target", "z"), VECTORS)
def test_the_vectors_multipliers_give_their_epsilon(target, z):
    charges = {Charge(noise_multiplier=z, sampling=POISSON): 100}
    assert continuous_epsilon(charges, DELTA, "pld") == pytest.approx(target, abs=2e-3)


@pytest.mark.parametrize(
    ("target", "z"), [VECTORS[0], *(pytest.param(*row, marks=pytest.mark.slow) for row in VECTORS[1:])]
)
def test_multiplier_under_sampling(target, z):
    found = noise_multiplier(target, DELTA, 100, POISSON)
    assert found == pytest.approx(z, abs=1e-3)
    assert epsilon({Charge(noise_multiplier=found, sampling=POISSON): 100}, DELTA) <= target


@pytest.mark.parametrize(("target", "rounds"), [(8.0, 1), (4.0, 100), (1.0, 1000), (0.05, 10), (60.0, 3)])
def test_multiplier_without_sampling_is_the_least(target, rounds):
    z = noise_multiplier(target, DELTA, rounds)
    assert epsilon({Charge(noise_multiplier=z): rounds}, DELTA) <= target
    assert epsilon({Charge(noise_multiplier=z * (1 - 2e-4)): rounds}, DELTA) > target


def test_calibration_with_the_grid_asks_for_more_noise():
    def on_grid(z: float) -> Charge:
        return Charge(noise_multiplier=z, sampling=POISSON, divergence=1e-11 / z**4)

    plain, coarse = noise_multiplier(0.2, DELTA, 10, POISSON), calibrate(0.2, DELTA, 10, on_grid)
    assert 1.001 * plain < coarse < 1.1 * plain


def test_warning_where_noise_drowns_the_clients():
    # 50 planned, z = 2: 625 coordinates have noise as long as the clipping norm
    assert noise_warning(625, 50, 2.0) == ""
    assert "at most 625" in noise_warning(626, 50, 2.0)
    assert "at least 51 devices" in noise_warning(626, 50, 2.0)


def test_no_rounds_are_refused():
    with pytest.raises(UsageError, match="1 or more"):
        noise_multiplier(1.0, DELTA, 0)
