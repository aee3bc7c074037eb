"""The integer rules of inference: fixed-point rescaling, rounding, and exp, tanh and logistic on integers.

TensorFlow Lite Micro's arithmetic in its double-rounding form (tensorflow/lite/kernels/internal/common.h),
and gemmlowp's fixed-point functions (https://github.com/google/gemmlowp/blob/master/fixedpoint/fixedpoint.h).
docs/arithmetic.md, "Rounding", says the same in words. Arrays hold int32 values; intermediates are int64.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

INT32_MIN, INT32_MAX = -(2**31), 2**31 - 1

Int8Array = NDArray[np.int8]
Int32Array = NDArray[np.int32]
Int64Array = NDArray[np.int64]


def quantize_multiplier(real: float) -> tuple[int, int]:
    """(multiplier, shift) with real = multiplier * 2**(shift - 31), multiplier in 2**30..2**31-1 or 0.

    Below 2**-32 it is (0, 0). TFLite's QuantizeMultiplier. ValueError when negative, not finite or 2**31.
    """
    if not 0 <= real <= 2**31 - 1:
        raise ValueError(f"a real multiplier must lie in 0..2**31 - 1, got {real}")
    fraction, shift = math.frexp(real)
    multiplier = math.floor(fraction * 2**31 + 0.5)
    if multiplier == 2**31:
        multiplier, shift = 2**30, shift + 1
    return (multiplier, shift) if multiplier and shift >= -31 else (0, 0)


def quantize_multipliers(reals: Sequence[float]) -> tuple[Int64Array, Int64Array]:
    """`quantize_multiplier` of each: multipliers and shifts, both (len(reals),)."""
    pairs = np.array([quantize_multiplier(real) for real in reals], dtype=np.int64).reshape(-1, 2)
    return pairs[:, 0], pairs[:, 1]


def multiply_by_quantized_multiplier(x: ArrayLike, multiplier: ArrayLike, shift: ArrayLike) -> Int32Array:
    """x * multiplier * 2**(shift - 31), rounded twice; x holds int32 values, arguments broadcast.

    A left shift that leaves 32 bits wraps around.
    """
    shift = np.asarray(shift, dtype=np.int64)
    shifted = np.asarray(x, dtype=np.int64) << np.maximum(shift, 0)
    product = doubling_high_mul(_wrap32(shifted) if shift.max(initial=0) > 0 else shifted, multiplier)
    return rounding_divide_by_pot(product, np.maximum(-shift, 0)).astype(np.int32)


def doubling_high_mul(a: ArrayLike, b: ArrayLike) -> Int64Array:
    """a * b / 2**31 to the nearest integer, halves up; the square of -2**31 saturates to 2**31 - 1."""
    product = np.asarray(a, dtype=np.int64) * np.asarray(b, dtype=np.int64)
    product += 1 << 30
    product >>= 31
    return np.minimum(product, INT32_MAX)


def rounding_divide_by_pot(x: ArrayLike, exponent: ArrayLike) -> Int64Array:
    """x / 2**exponent to the nearest integer, halves away from zero; 0 <= exponent <= 31."""
    x, exponent = np.asarray(x, dtype=np.int64), np.asarray(exponent, dtype=np.int64)
    half = (1 << exponent) >> 1
    quotient: Int64Array = (x + half + (x >> 63) * (exponent > 0)) >> exponent
    return quotient


def round_half_away(x: ArrayLike) -> NDArray[np.float64]:
    """The nearest integer, halves away from zero: C's round(), for values that are exactly a float32."""
    x = np.asarray(x, dtype=np.float64)
    rounded: NDArray[np.float64] = np.copysign(np.floor(np.abs(x) + 0.5), x)
    return rounded


def saturate(x: ArrayLike, low: int = -128, high: int = 127) -> Int8Array:
    """x clamped to low..high, as int8."""
    clamped: Int8Array = np.clip(np.asarray(x), low, high).astype(np.int8)
    return clamped


def requantize(
    accumulators: Int32Array,
    multiplier: ArrayLike,
    shift: ArrayLike,
    zero_point: int,
    low: int = -128,
    high: int = 127,
) -> Int8Array:
    """Accumulators (..., channels) to int8: rescaled, moved to `zero_point`, clamped to low..high."""
    scaled = multiply_by_quantized_multiplier(accumulators, multiplier, shift)
    return saturate(scaled + np.int32(zero_point), low, high)


def float_requantizer(
    bias: Int32Array,
    multiplier: Int64Array,
    shift: Int64Array,
    zero_point: int,
    low: int = -128,
    high: int = 127,
) -> Callable[[NDArray[Any]], Int8Array]:
    """`requantize(x + bias, ...)` as a function of float x (..., channels), with the same bytes and much faster.

    Exact while x, bias and x + bias are whole numbers below 2**22 in size and shifts lie in -20..0: then every
    number here has at most 53 bits, and nothing is rounded but by floor. The factor 1 + 2**-24 moves halves, and
    only those, away from zero.
    """
    factors = np.ldexp(multiplier.astype(np.float64), -31)
    offsets = bias * factors + 0.5
    powers = np.ldexp(1 + 2.0**-24, shift.astype(np.int32))
    rise = zero_point + 128.5  # to what is positive, where a cast is a floor

    def apply(x: NDArray[Any]) -> Int8Array:
        y = x * factors
        y += offsets
        np.floor(y, out=y)
        y *= powers
        y += rise
        np.maximum(y, low + 128, out=y)
        np.minimum(y, high + 128, out=y)
        moved = y.astype(np.uint8) ^ np.uint8(128)
        return moved.view(np.int8)

    return apply


def quantized_value(real: float, scale: float, zero_point: int) -> int:
    """The integer nearest to real / scale + zero_point, not clamped; the division is float32's."""
    return int(round_half_away(np.float32(real) / np.float32(scale))) + zero_point


def activation_range(activation: str, scale: float, zero_point: int) -> tuple[int, int]:
    """The int8 range an output of this scale is clamped to under "none", "relu" or "relu6"."""
    low = -128 if activation == "none" else max(-128, zero_point)
    high = min(127, quantized_value(6.0, scale, zero_point)) if activation == "relu6" else 127
    return low, high


# Functions on fixed-point numbers. Qm has m integer bits and 31 - m fraction bits; Q0's one is 2**31 - 1.


def exp_on_negative_values(x: ArrayLike, integer_bits: int) -> Int64Array:
    """exp(x) in Q0 for x <= 0 in Q`integer_bits`, which is at most 5."""
    x = np.asarray(x, dtype=np.int64)
    fraction_bits = 31 - integer_bits
    quarter = 1 << (fraction_bits - 2)
    remainder = (x & (quarter - 1)) - quarter  # in [-1/4, 0)
    result = _exp_between_minus_quarter_and_0(_saturating_left_shift(remainder, integer_bits))
    quarters = remainder - x
    # exp(-2**k) in Q0, k = -2..4
    factors = (1672461947, 1302514674, 790015084, 290630308, 39332535, 720401, 242)
    for k, factor in zip(range(-2, integer_bits), factors, strict=False):
        has_bit = quarters & (1 << (fraction_bits + k)) != 0
        result = np.where(has_bit, doubling_high_mul(result, factor), result)
    return np.where(x == 0, INT32_MAX, result)


def reciprocal_of_one_plus(x: ArrayLike) -> Int64Array:
    """1 / (1 + x) in Q0 for x in Q0 from 0 to 1."""
    return _saturating_left_shift(_half_denominator_reciprocal(x), 1)


def tanh(x: ArrayLike) -> Int64Array:
    """tanh(x) in Q0 for x in Q4."""
    x = np.asarray(x, dtype=np.int64)
    exponential = exp_on_negative_values(-np.abs(x), 5)  # exp(-2|x|): the same bits with one integer bit more
    magnitude = _saturating_left_shift(_half_denominator_reciprocal(exponential) - (1 << 29), 2)
    signed: Int64Array = np.sign(x) * magnitude
    return signed


def logistic(x: ArrayLike) -> Int64Array:
    """1 / (1 + exp(-x)) in Q0 for x in Q4."""
    x = np.asarray(x, dtype=np.int64)
    positive = reciprocal_of_one_plus(exp_on_negative_values(-np.abs(x), 4))
    return np.where(x == 0, 1 << 30, np.where(x > 0, positive, INT32_MAX - positive))


def _exp_between_minus_quarter_and_0(a: Int64Array) -> Int64Array:
    x = a + (1 << 28)  # a Taylor series around -1/8
    x2 = doubling_high_mul(x, x)
    x3 = doubling_high_mul(x2, x)
    x4_over_4 = rounding_divide_by_pot(doubling_high_mul(x2, x2), 2)
    third = 715827883
    tail = rounding_divide_by_pot(doubling_high_mul(x4_over_4 + x3, third) + x2, 1)
    exp_of_minus_eighth = 1895147668
    return exp_of_minus_eighth + doubling_high_mul(exp_of_minus_eighth, x + tail)


def _half_denominator_reciprocal(a: ArrayLike) -> Int64Array:
    """2 / (1 + a) in Q2 for a in Q0 from 0 to 1: three Newton-Raphson steps."""
    half_denominator = (np.asarray(a, dtype=np.int64) + INT32_MAX + 1) >> 1
    forty_eight_seventeenths, minus_thirty_two_seventeenths = 1515870810, -1010580540
    x = forty_eight_seventeenths + doubling_high_mul(half_denominator, minus_thirty_two_seventeenths)
    for _ in range(3):
        error = (1 << 29) - doubling_high_mul(half_denominator, x)
        x = x + _saturating_left_shift(doubling_high_mul(x, error), 2)
    return x


def _saturating_left_shift(x: Int64Array, exponent: int) -> Int64Array:
    shifted: Int64Array = np.clip(x << exponent, INT32_MIN, INT32_MAX)
    return shifted


def _wrap32(x: Int64Array) -> Int64Array:
    return x.astype(np.int32).astype(np.int64)
