"""Errors of the backward pass as integers: mantissas of 12 bits and a sign, one exponent an example and tensor.

An error is the derivative of one example's loss by the real value of an activation, mantissa * 2**-exponent: block
floating point, as in NITI (Wang et al. 2020, arXiv 2009.13108). docs/arithmetic.md, "Training a deeper tail", "Errors".
Arrays are (clients, examples, *shape); integers are held in float64, where all of this is exact.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sanderling.models.training import round_half_up

Float64Array = NDArray[np.float64]
Int64Array = NDArray[np.int64]
Int8Array = NDArray[np.int8]
Array = NDArray[Any]

MANTISSA_BITS = 12
FACTOR_BITS = 15
ALIGNMENT_BITS = 16  # kept below the larger of two errors that are added
NOTHING = 1 << 10  # exponent of an error that is zero everywhere


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Error:
    """mantissas * 2**-exponents: (clients, examples, *shape) and (clients, examples)."""

    mantissas: Float64Array
    exponents: Int64Array

    def with_mantissas(self, mantissas: Float64Array) -> Error:
        return Error(mantissas=mantissas, exponents=self.exponents)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Factor:
    """A real factor, one for each channel as a rule: mantissas * 2**(exponent - 15), the largest of full width."""

    mantissas: Float64Array
    exponent: int


def normalized(sums: Float64Array, exponents: Int64Array) -> Error:
    """sums * 2**-exponents with the mantissas shifted, and rounded half up, to use their 12 bits."""
    largest = np.abs(sums).max(axis=tuple(range(2, sums.ndim)))
    shifts = np.frexp(largest)[1] - MANTISSA_BITS
    mantissas = round_half_up(np.ldexp(sums, -_spread(shifts, sums)))
    return Error(mantissas=mantissas, exponents=np.where(largest > 0, exponents - shifts, NOTHING))


def as_factor(reals: Sequence[float] | Float64Array) -> Factor:
    """Positive reals as a Factor."""
    values = np.asarray(reals, dtype=np.float64)
    exponent = math.frexp(values.max())[1]
    return Factor(mantissas=round_half_up(values * 2.0 ** (FACTOR_BITS - exponent)), exponent=exponent)


def shortened(reals: Any) -> Any:
    """Reals, or an array of them, each rounded half up to the 15 bits that a factor has."""
    mantissas, exponents = np.frexp(reals)
    return np.ldexp(np.floor(np.ldexp(mantissas, FACTOR_BITS) + 0.5), exponents - FACTOR_BITS)


def times(error: Error, factor: Factor) -> Error:
    """The product, each mantissa rounded half up."""
    mantissas = round_half_up(error.mantissas * factor.mantissas * 2.0**-FACTOR_BITS)
    return Error(mantissas=mantissas, exponents=error.exponents - factor.exponent)


def plus(a: Error, b: Error) -> Error:
    """The sum, aligned to 16 bits below the larger."""
    exponents = np.minimum(a.exponents, b.exponents) + ALIGNMENT_BITS
    aligned = [
        round_half_up(np.ldexp(e.mantissas, _spread(exponents - e.exponents, e.mantissas))) for e in (a, b)
    ]
    return normalized(aligned[0] + aligned[1], exponents)


def passed(error: Error, y: Int8Array, low: int, high: int) -> Error:
    """The error where y was not clamped to low or high."""
    return error.with_mantissas(error.mantissas * ((y > low) & (y < high)))


def _spread(values: Int64Array, like: Array) -> Int64Array:
    return values.reshape(*values.shape, *(1,) * (like.ndim - values.ndim))
