"""Fixed and adaptive clipping."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sanderling.coordinator.privacy.accounting import zcdp_epsilon
from sanderling.coordinator.privacy.clipping import (
    AdaptiveClipping,
    clipped_again,
    clipping_norm,
    initial_norm,
    next_norm,
    update_multiplier,
)
from sanderling.models.compression import compress, squared_norm
from sanderling.models.errors import UnsoundError, UsageError
from sanderling.models.updates import QuantizedUpdate

SETTINGS = AdaptiveClipping(initial=100, largest=10000, bit_multiplier=5.0)


def test_the_norm_follows_the_median_of_the_clients_norms():
    norms = np.random.default_rng(0).lognormal(np.log(800), 0.5, size=200)
    state = initial_norm(SETTINGS)
    for _ in range(100):
        within = int((norms <= clipping_norm(state)).sum())
        state = next_norm(SETTINGS, state, Fraction(within, 200))
    assert clipping_norm(state) == pytest.approx(np.median(norms), rel=0.03)


def test_one_step_by_hand():
    # share 0.9, quantile 0.5, rate 0.2: times exp(-0.08) = 0.92311634...
    assert next_norm(SETTINGS, 100 << 16, Fraction(9, 10)) == 6049735
    assert clipping_norm(6049735) == 92
    assert next_norm(SETTINGS, 100 << 16, Fraction(1, 2)) == 100 << 16


def test_a_wild_share_stays_within_the_settings():
    assert clipping_norm(next_norm(SETTINGS, 100 << 16, Fraction(1000))) == 2  # exp(-4), not further
    assert clipping_norm(next_norm(SETTINGS, 9999 << 16, Fraction(-1000))) == 10000
    assert clipping_norm(next_norm(SETTINGS, 1 << 16, Fraction(1000))) == 1


def test_update_and_bit_together_cost_one_release():
    z, bit = 1.1, 5.0
    update = update_multiplier(z, bit)
    assert update > z
    together = 1 / (2 * update**2) + 1 / (2 * bit**2)
    assert zcdp_epsilon(together, 1e-5) == pytest.approx(zcdp_epsilon(1 / (2 * z**2), 1e-5))
    with pytest.raises(UnsoundError, match="raise bit_multiplier"):
        update_multiplier(2.0, 2.0)


@given(
    values=st.lists(st.integers(-127, 127), min_size=1, max_size=20),
    norm=st.integers(0, 3000),
    shift=st.integers(0, 6),
)
def test_clipped_again_is_within_the_norm(values, norm, shift):
    update = QuantizedUpdate(
        dimension=len(values),
        coordinates=np.arange(len(values), dtype=np.int32),
        values=np.array(values, dtype=np.int8),
        scale_shift=shift,
    )
    again = clipped_again(update, norm)
    assert squared_norm(again.values.astype(np.int32) << shift) <= norm * norm


def test_an_honest_update_is_unchanged():
    rng = np.random.default_rng(1)
    for seed in range(20):
        wanted = rng.integers(-5000, 5000, size=64).astype(np.int32)
        sent = compress(wanted, np.arange(64, dtype=np.int32), 3000, 5, (seed, 1))
        assert np.array_equal(clipped_again(sent, 3000).values, sent.values)


@pytest.mark.parametrize(
    "wrong",
    [{"initial": 0}, {"largest": 99}, {"least": 101}, {"quantile": 1.0}, {"learning_rate": 0.0}],
)
def test_settings_that_make_no_sense_are_refused(wrong):
    with pytest.raises(UsageError):
        AdaptiveClipping(**({"initial": 100, "largest": 10000, "bit_multiplier": 5.0} | wrong))
