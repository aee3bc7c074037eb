"""Epsilon against the vectors (delta 1e-5), against dp-accounting's PLD, and the grid's term."""

import logging
import math

import numpy as np
import pytest

from sanderling.coordinator.privacy.accounting import (
    Charge,
    Sampling,
    continuous_epsilon,
    epsilon,
    event,
    fits,
    grid_divergence,
    rdp_epsilon,
    total_variation,
    zcdp_epsilon,
)
from sanderling.models.errors import UnsoundError

DELTA = 1e-5
VECTORS = [  # q, z, rounds, RDP, PLD
    (256 / 60000, 1.1, 14063, 2.5967, 2.3818),
    (0.01, 1.0, 1000, 2.1014, 1.8282),
    (0.1, 1.0, 100, 7.9039, 7.0466),
    (0.1, 2.0, 100, 2.5806, 2.3374),
    (1.0, 10.0, 100, 4.7285, 4.3772),
    (1.0, 1.0, 10, 19.0536, 17.8566),
]

pytestmark = pytest.mark.usefixtures("dp")


def charge(z: float, q: float = 1.0, *, cap: int | None = None, **more: float) -> Charge:
    sampling = None if q == 1.0 else Sampling(probability=q, population=1000, cap=cap)
    return Charge(noise_multiplier=z, sampling=sampling, **more)


@pytest.mark.parametrize(("q", "z", "rounds", "rdp", "pld"), VECTORS)
def test_rdp_and_pld_agree_with_the_vectors(q, z, rounds, rdp, pld):
    charges = {charge(z, q): rounds}
    assert continuous_epsilon(charges, DELTA, "rdp") == pytest.approx(rdp, abs=1e-3)
    assert continuous_epsilon(charges, DELTA, "pld") == pytest.approx(pld, abs=1e-3)
    claimed = epsilon(charges, DELTA)  # zCDP takes the best of all orders: 19.0473 in the last row
    assert pld - 1e-3 <= claimed <= (rdp if q == 1.0 else pld) + 1e-3


def test_zcdp_is_the_rdp_of_all_orders():
    # rho = 100 / (2 * 10^2): dp-accounting's RDP takes the best of its orders, ours of all, PLD is exact.
    claimed = zcdp_epsilon(0.5, DELTA)
    assert claimed <= continuous_epsilon({charge(10): 100}, DELTA, "rdp")
    assert claimed == pytest.approx(4.7285, abs=1e-3)
    assert zcdp_epsilon(1e-30, DELTA) == 0.0


@pytest.mark.parametrize("rho", [1e-4, 0.02, 0.5, 5.0, 80.0])
def test_zcdp_search_finds_the_best_order(rho):
    orders = 1 + np.logspace(-5, 9, 40001)
    grid = orders * rho + np.log1p(-1 / orders) - (math.log(DELTA) + np.log(orders)) / (orders - 1)
    assert zcdp_epsilon(rho, DELTA) == pytest.approx(max(0.0, grid.min()), rel=1e-6)


def test_a_replaced_client_costs_what_pld_says_when_its_sensitivity_is_doubled(dp):
    # The vector: z = 10 for 100 rounds under REPLACE_ONE is 9.997, where RDP says 4.73. Doubling halves z.
    halved = {charge(5): 100}
    pld = dp.pld.PLDAccountant(dp.NeighboringRelation.REPLACE_ONE)
    pld.compose(dp.GaussianDpEvent(10), 100)
    assert pld.get_epsilon(DELTA) == pytest.approx(9.997, abs=1e-3)
    assert continuous_epsilon(halved, DELTA, "pld") == pytest.approx(9.997, abs=1e-3)
    assert epsilon(halved, DELTA) >= pld.get_epsilon(DELTA)


def test_amplification_counts_only_where_it_is_asked_for():
    charges = {charge(2, 0.1): 100}
    assert (
        epsilon(charges, DELTA, amplified=False)
        == epsilon({charge(2): 100}, DELTA)
        > 5 * epsilon(charges, DELTA)
    )


def test_a_capped_cohort_has_the_truncated_event_and_costs_more(dp):
    capped = charge(6, 0.1, cap=110)
    assert event(capped) == dp.TruncatedSubsampledGaussianDpEvent(1000, 0.1, 110, 6)
    plain = epsilon({charge(6, 0.1): 3}, DELTA)
    assert epsilon({capped: 3}, DELTA) > 1.05 * plain
    assert epsilon({charge(6, 0.1, cap=1000): 3}, DELTA) == plain


def test_nothing_released_costs_nothing():
    assert epsilon({}, DELTA) == 0.0


def test_the_grid_is_paid_for_by_delta():
    # eta^2 = 100 rounds * 1e-16 / 2; what is left of delta must pay (1 + e^epsilon) eta.
    charges = {charge(4, 0.1, divergence=1e-16): 100}
    eta = total_variation(charges)
    assert eta == pytest.approx(math.sqrt(100 * 1e-16 / 2))
    claimed = epsilon(charges, DELTA)
    plain = {charge(4, 0.1): 100}
    assert claimed > epsilon(plain, DELTA)
    assert claimed >= continuous_epsilon(plain, DELTA - (1 + math.exp(claimed)) * eta, "pld")
    with pytest.raises(UnsoundError, match="more than half of delta"):
        epsilon({charge(4, 0.1, divergence=1e-9): 100}, DELTA)


@pytest.mark.parametrize("variance", [16, 25, 100, 1000])
def test_the_grid_bound_holds_and_is_within_tenfold(variance):
    x = np.arange(-15 * math.isqrt(variance) - 15, 15 * math.isqrt(variance) + 16, dtype=np.longdouble)
    discrete = np.exp(-(x**2) / (2 * variance))
    discrete /= discrete.sum()
    t = np.linspace(-0.5, 0.5, 2001, dtype=np.longdouble)  # Simpson over each cell
    weights = np.ones(2001, dtype=np.longdouble)
    weights[1:-1:2], weights[2:-1:2] = 4, 2
    density = np.exp(-((x[:, None] + t) ** 2) / (2 * variance)) / np.sqrt(2 * np.pi * variance)
    rounded = density @ weights / weights.sum()
    divergence = float((discrete * np.log(discrete / rounded)).sum())
    assert 0.1 * grid_divergence(variance, 1) < divergence <= grid_divergence(variance, 1)
    assert grid_divergence(variance, 7) == pytest.approx(7 * grid_divergence(variance, 1))


def test_a_grid_too_coarse_is_refused():
    with pytest.raises(UnsoundError, match="too coarse"):
        grid_divergence(15, 1)


def test_fits_is_epsilon_against_a_limit():
    sampled, plain = {charge(2, 0.1): 100}, {charge(10): 100}
    assert rdp_epsilon(sampled, DELTA) == pytest.approx(2.5806, abs=1e-3)
    assert fits(sampled, 2.6, DELTA)  # by RDP
    assert fits(sampled, 2.4, DELTA)  # by PLD only
    assert not fits(sampled, 2.3, DELTA)
    assert not fits(sampled, 2.6, DELTA, amplified=False)
    assert fits(plain, 4.7285, DELTA)
    assert not fits(plain, 4.72, DELTA)


def test_the_accountants_warnings_about_left_out_orders_are_not_passed_on(caplog):
    logger = logging.getLogger("absl")
    level = logger.level
    continuous_epsilon({charge(1, 0.1): 1}, DELTA, "rdp")
    assert not caplog.records
    assert logger.level == level


@pytest.mark.parametrize("z", [0.0, -1.0, math.inf, math.nan])
def test_no_noise_is_no_charge(z):
    with pytest.raises(UnsoundError, match="not private"):
        Charge(noise_multiplier=z)


@pytest.mark.parametrize("q", [0.0, 1.0, -0.1, math.nan])
def test_a_coin_that_is_none_is_refused(q):
    with pytest.raises(UnsoundError, match="expected a probability"):
        Sampling(probability=q, population=10)
