"""Worked numbers and laws of the integer rules; tests/models/test_tflm_equality.py holds them against TFLM."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sanderling.models import arithmetic

INT32 = st.integers(-(2**31), 2**31 - 1)


def test_quantize_multiplier_splits_into_mantissa_and_exponent():
    # 0.75 = 0.75 * 2**0; 3 = 0.75 * 2**2; 0.75 * 2**31 = 1610612736
    assert arithmetic.quantize_multiplier(0.75) == (1610612736, 0)
    assert arithmetic.quantize_multiplier(3.0) == (1610612736, 2)
    assert arithmetic.quantize_multiplier(1.0) == (1 << 30, 1)


def test_quantize_multiplier_carries_when_the_mantissa_rounds_to_one():
    assert arithmetic.quantize_multiplier(1 - 2**-40) == (1 << 30, 1)


def test_quantize_multiplier_flushes_what_has_no_bits_left():
    assert arithmetic.quantize_multiplier(0.0) == (0, 0)
    assert arithmetic.quantize_multiplier(2.0**-32) == (1 << 30, -31)
    assert arithmetic.quantize_multiplier(2.0**-33) == (0, 0)


@pytest.mark.parametrize("real", [-1.0, math.nan, math.inf, 2.0**31])
def test_quantize_multiplier_refuses_what_it_cannot_hold(real):
    with pytest.raises(ValueError, match="real multiplier"):
        arithmetic.quantize_multiplier(real)


@given(st.floats(2.0**-30, 2.0**29))
def test_quantize_multiplier_is_within_half_a_unit_of_the_last_bit(real):
    multiplier, shift = arithmetic.quantize_multiplier(real)
    assert 2**30 <= multiplier < 2**31
    assert multiplier * 2.0 ** (shift - 31) == pytest.approx(real, rel=2.0**-31)


def test_rounding_divide_by_pot_rounds_halves_away_from_zero():
    x = np.array([-6, -5, -3, -2, -1, 0, 1, 2, 3, 5, 6])
    assert arithmetic.rounding_divide_by_pot(x, 2).tolist() == [-2, -1, -1, -1, 0, 0, 0, 1, 1, 1, 2]
    assert arithmetic.rounding_divide_by_pot(x, 0).tolist() == x.tolist()


def test_doubling_high_mul_rounds_halves_up_and_saturates():
    half = 1 << 30
    assert arithmetic.doubling_high_mul(half, 3) == 2  # 1.5
    assert arithmetic.doubling_high_mul(half, -3) == -1  # -1.5
    assert arithmetic.doubling_high_mul(-(2**31), -(2**31)) == 2**31 - 1


def test_multiply_rounds_twice():
    # 3 * 0.375: the high product is 2.25 / 2 = 1.125 -> 1, then halved: .5 -> 1. Rounded once it were 1.125 -> 1.
    multiplier, shift = arithmetic.quantize_multiplier(0.375)
    assert arithmetic.multiply_by_quantized_multiplier(3, multiplier, shift) == 1
    # 5 * 0.1875 = 0.9375: high product 3.75 -> 4, then a quarter: 1. And 7 * 0.1875 = 1.3125: 5.25 -> 5 -> 1.25 -> 1.
    multiplier, shift = arithmetic.quantize_multiplier(0.1875)
    assert arithmetic.multiply_by_quantized_multiplier([5, 7], multiplier, shift).tolist() == [1, 1]


@given(x=INT32, multiplier=st.integers(2**30, 2**31 - 1), shift=st.integers(-31, 30))
def test_multiply_equals_the_definition_in_whole_numbers(x, multiplier, shift):
    shifted = (x << max(shift, 0)) & (2**32 - 1)
    shifted -= (shifted >> 31) << 32  # 32 bits, wrapped
    product = shifted * multiplier
    nudge = 2**30 if product >= 0 else 1 - 2**30
    high = int(math.copysign(abs(product + nudge) // 2**31, product + nudge))
    power = 2 ** max(-shift, 0)
    expected = int(math.copysign((2 * abs(high) + power) // (2 * power), high))
    assert int(arithmetic.multiply_by_quantized_multiplier(x, multiplier, shift)) == expected


def test_multiply_takes_one_multiplier_for_each_channel():
    multipliers, shifts = arithmetic.quantize_multipliers([0.5, 2.0])
    scaled = arithmetic.multiply_by_quantized_multiplier([[10, 10], [-7, -7]], multipliers, shifts)
    assert scaled.dtype == np.int32
    # -3.5: the high product of -7 and 2**30 / 2**31 is -3.5, halves up: -3
    assert scaled.tolist() == [[5, 20], [-3, -14]]


def test_activation_ranges():
    assert arithmetic.activation_range("none", 0.1, 5) == (-128, 127)
    assert arithmetic.activation_range("relu", 0.1, 5) == (5, 127)
    assert arithmetic.activation_range("relu6", 0.1, 5) == (5, 65)  # 5 + 6 / 0.1
    assert arithmetic.activation_range("relu6", 0.01, -128) == (-128, 127)


def test_requantize_saturates():
    multiplier, shift = arithmetic.quantize_multiplier(1.0)
    values = arithmetic.requantize(np.array([-1000, -3, 3, 1000], np.int32), multiplier, shift, 10, low=5)
    assert values.tolist() == [5, 7, 13, 127]


@given(
    x=st.lists(st.integers(-(2**21), 2**21), min_size=1, max_size=50),
    bias=st.integers(-(2**20), 2**20),
    multiplier=st.one_of(st.just(2**30), st.integers(2**30, 2**31 - 1)),
    shift=st.integers(-20, 0),
    zero_point=st.integers(-128, 127),
    low=st.integers(-128, 0),
)
def test_requantising_in_floats_gives_the_same_bytes(x, bias, multiplier, shift, zero_point, low):
    rescale = (np.array([multiplier]), np.array([shift]), zero_point, low)
    column = np.array(x, np.float32)[:, np.newaxis]
    in_floats = arithmetic.float_requantizer(np.array([bias], np.int32), *rescale)(column)
    in_integers = arithmetic.requantize(column.astype(np.int32) + np.int32(bias), *rescale)
    np.testing.assert_array_equal(in_floats, in_integers)


def test_requantising_in_floats_rounds_every_half_away_from_zero():
    bias, one_half = np.zeros(1, np.int32), (np.array([2**30]), np.array([-3]))
    x = np.arange(-5000, 5000)[:, np.newaxis]
    in_floats = arithmetic.float_requantizer(bias, *one_half, 0)(x.astype(np.float32))
    np.testing.assert_array_equal(in_floats, arithmetic.requantize(x.astype(np.int32), *one_half, 0))


@pytest.mark.parametrize(
    ("function", "exact"),
    [(arithmetic.tanh, np.tanh), (arithmetic.logistic, lambda x: 1 / (1 + np.exp(-x)))],
)
def test_fixed_point_functions_are_close_to_the_real_ones(function, exact):
    x = np.linspace(-15.9, 15.9, 1001)
    values = function(np.round(x * 2**27).astype(np.int64)) / 2**31
    assert np.abs(values - exact(x)).max() < 1e-7


def test_exp_on_negative_values_is_close_to_exp():
    x = np.linspace(-31, 0, 1001)
    values = arithmetic.exp_on_negative_values(np.round(x * 2**26).astype(np.int64), 5) / 2**31
    assert np.abs(values - np.exp(x)).max() < 3e-7  # the Taylor series' remainder at the ends of a quarter
