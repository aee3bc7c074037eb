"""A round's updates as one exact value: integer combinations of the rows that the devices sent.

Every pre-aggregator is linear once its choice is made, so what it gives is a small integer matrix over the same int8
rows: nothing is rounded before the rule's result, inner products follow from those of the rows, and a rule needs
memory for one block of coordinates beside the reports. docs/arithmetic.md, "Robust rules", is the specification.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cmp_to_key, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sanderling.coordinator.reports import Report
from sanderling.models.updates import Int32Vector, Int64Vector

# int8 to int64, or Python's integers (dtype object) where 64 bits are too few
Integers = NDArray[Any]

ONE_Q16 = 1 << 16
BLOCK = 1024  # coordinates: 1024 products of two values in -127..127 sum up exactly in float32
WIDE_BLOCK = 8 * BLOCK  # 100 vectors of int8 as wide lie in a core's cache


@dataclass(frozen=True, slots=True, kw_only=True)
class Vectors:
    """m vectors over k coordinates. Vector i is `unit * sum_j mixing[i, j] * rows[j]`, in theta's units."""

    rows: tuple[Integers, ...]  # n arrays (k,), in ascending order of device id
    unit: Fraction
    mixing: Integers | None = None  # (m, n); None: the rows themselves
    gram: Integers | None = None  # (n, n), the rows' inner products, once something needed them

    @property
    def count(self) -> int:
        """m."""
        return len(self.rows) if self.mixing is None else len(self.mixing)

    @property
    def width(self) -> int:
        """k."""
        return int(self.rows[0].size)


def vectors_of(reports: Sequence[Report]) -> tuple[Vectors, Int32Vector]:
    """The reports' vectors and the coordinates (k,) they span: the shared ones, else the union, zero where not sent.

    Raises ValueError without reports.
    """
    if not reports:
        raise ValueError("robust aggregation needs at least one report, got none")
    updates = [report.update for report in sorted(reports, key=lambda report: report.device_id)]
    step = min(update.scale_shift for update in updates)
    values = [_at_step(update.values, update.scale_shift - step) for update in updates]
    coordinates = updates[0].coordinates
    if not are_aligned(reports):
        coordinates = np.unique(np.concatenate([update.coordinates for update in updates]))
        places = [np.searchsorted(coordinates, update.coordinates) for update in updates]
        values = [_spread(sent, at, coordinates.size) for sent, at in zip(values, places, strict=True)]
    return Vectors(rows=tuple(values), unit=Fraction(1 << step)), coordinates


def are_aligned(reports: Sequence[Report]) -> bool:
    """Whether every report holds the same coordinates."""
    first = reports[0].update.coordinates
    return all(np.array_equal(report.update.coordinates, first) for report in reports)


def mixed(vectors: Vectors, weights: Integers, denominator: int) -> Vectors:
    """`weights` (m', m) over the vectors, divided by `denominator`: m' vectors."""
    mixing = weights if vectors.mixing is None else exact_product(weights, vectors.mixing)
    return replace(vectors, mixing=mixing, unit=vectors.unit / denominator)


def blocks(vectors: Vectors, width: int = BLOCK) -> Iterator[Integers]:
    """The vectors as integers of `unit`, (m, up to `width`), one block of coordinates after the other."""
    if vectors.mixing is not None:
        yield from (_block(vectors, start, width) for start in range(0, vectors.width, width))
        return
    for start in range(0, vectors.width, WIDE_BLOCK):  # collected from the rows in longer pieces
        piece = _block(vectors, start, WIDE_BLOCK)
        yield from (piece[:, at : at + width] for at in range(0, piece.shape[1], width))


def combination(vectors: Vectors, weights: Sequence[int]) -> Integers:
    """sum_i weights[i] * vector i, (k,), as integers of `unit`."""
    row: Integers = np.array([weights], dtype=object)
    if vectors.mixing is not None:
        row = exact_product(row, vectors.mixing)
    # Cut so short that float32 multiplies them, where it can: casting the blocks to it once is what costs.
    size = max(largest(values) for values in vectors.rows) * len(vectors.rows)
    limbs, powers = _limbs(row, max(24 - size.bit_length(), 6))
    raw = blocks(replace(vectors, mixing=None))
    parts = np.concatenate([exact_product(limbs, block) for block in raw], axis=1)
    combined: Integers = exact_product(powers, parts)[0]
    return combined


def to_q16(numerators: Integers, unit: Fraction) -> Int64Vector:
    """numerators * unit in 2**-16 of theta's unit, rounded to nearest, half up: the result of every rule."""
    scale = unit * ONE_Q16
    a, b = scale.numerator, scale.denominator
    size = largest(numerators)
    result: Int64Vector
    if numerators.dtype == object or size * a >= b << 50 or max(a, b, size) >= 1 << 60:
        result = ((numerators.astype(object) * a + b // 2) // b).astype(np.int64)
        return result
    guess = np.floor(numerators * (a / b)).astype(np.int64)
    # What the guess leaves is a few b: right as it stands, though each product may have gone round 2**64.
    result = guess + (numerators.astype(np.int64) * a + b // 2 - guess * b) // b
    return result


def with_gram(vectors: Vectors) -> Vectors:
    """The same vectors with `gram`."""
    if vectors.gram is not None:
        return vectors
    bound = max(largest(row) for row in vectors.rows) ** 2 * vectors.width
    dtype: Any = np.int64 if bound < 1 << 62 else object
    gram: Integers = np.zeros((len(vectors.rows),) * 2, dtype=dtype)
    for block in blocks(replace(vectors, mixing=None)):
        gram = gram + _gram(block)
    return replace(vectors, gram=gram)


def inner_products(vectors: Vectors) -> Integers:
    """Of every two vectors, (m, m), as integers of unit**2."""
    gram, mixing = with_gram(vectors).gram, vectors.mixing
    assert gram is not None
    return gram if mixing is None else exact_product(exact_product(mixing, gram), mixing.T)


def squared_distances(vectors: Vectors) -> Integers:
    """Of every two vectors, (m, m), as integers of unit**2. A sum over m of them does not overflow."""
    products = inner_products(vectors)
    if largest(products) * 4 * vectors.count >= 1 << 63:
        products = products.astype(object)
    norms = np.diagonal(products)
    distances: Integers = norms[:, None] + norms[None, :] - 2 * products
    return distances


def squared_norms(vectors: Vectors) -> list[int]:
    """Of each vector, as integers of unit**2."""
    if vectors.mixing is None and vectors.gram is None:
        return [_square(row) for row in vectors.rows]
    return [int(value) for value in np.diagonal(inner_products(vectors))]


def ranks(vectors: Vectors) -> list[int]:
    """Each vector's place in lexicographic order, so that ties go by content, not by who sent it."""
    block = lru_cache(maxsize=2)(lambda start: _block(vectors, start))

    def compare(i: int, j: int) -> int:
        for start in range(0, vectors.width, BLOCK):
            values = block(start)
            at = int((values[i] != values[j]).argmax())
            if values[i, at] != values[j, at]:
                return -1 if values[i, at] < values[j, at] else 1
        return 0

    order = sorted(range(vectors.count), key=cmp_to_key(compare))
    places = [0] * vectors.count
    for place, i in enumerate(order):
        places[i] = place
    return places


def exact_product(a: Integers, b: Integers) -> Integers:
    """a @ b for integers of any size; int64, or Python's where 63 bits might not do.

    Floating point multiplies as long as every partial sum is a whole number that it holds, so no order of summation
    changes a bit. Beyond that the larger factor is cut in two.
    """
    size_a, size_b = largest(a), largest(b)
    bound = size_a * size_b * a.shape[1]
    if bound < 1 << 53:
        dtype: Any = np.float32 if bound < 1 << 24 else np.float64
        product: Integers = (a.astype(dtype) @ b.astype(dtype)).astype(np.int64)
        return product
    wide: Any = np.int64 if bound < 1 << 61 else object
    half = max(size_a, size_b).bit_length() // 2
    if size_a >= size_b:
        high, low = exact_product(a >> half, b), exact_product(a & ((1 << half) - 1), b)
    else:
        high, low = exact_product(a, b >> half), exact_product(a, b & ((1 << half) - 1))
    return (high.astype(wide) << half) + low


def narrowed(values: Integers) -> Integers:
    """The same integers in the smallest type that holds them and their negatives."""
    return values.astype(smallest_type(largest(values)), copy=False)


def smallest_type(size: int) -> Any:
    """The smallest signed type for integers up to this magnitude, else object for Python's."""
    types = (np.int8, np.int16, np.int32, np.int64)
    return next((dtype for dtype in types if size <= np.iinfo(dtype).max), object)


def largest(values: Integers) -> int:
    """The largest magnitude, 0 of nothing."""
    return max(abs(int(values.min())), abs(int(values.max()))) if values.size else 0


def ceil_sqrt(value: int) -> int:
    """The least integer whose square is not below `value`."""
    return math.isqrt(value - 1) + 1 if value > 0 else 0


def _block(vectors: Vectors, start: int, width: int = BLOCK) -> Integers:
    raw = np.stack([row[start : start + width] for row in vectors.rows])
    return raw if vectors.mixing is None else exact_product(vectors.mixing, raw)


def _gram(block: Integers) -> Integers:
    """block @ block.T; of one and the same array BLAS computes a half."""
    bound = largest(block) ** 2 * block.shape[1]
    if bound >= 1 << 53:
        return exact_product(block, block.T)
    same: Integers = block.astype(np.float32 if bound < 1 << 24 else np.float64)
    product: Integers = (same @ same.T).astype(np.int64)
    return product


def _limbs(row: Integers, bits: int) -> tuple[Integers, Integers]:
    """(1, n) integers as (c, n) of `bits` each, the last signed, and (1, c) powers: powers @ limbs is the row."""
    count = largest(row).bit_length() // bits + 1
    limbs = np.concatenate([row.astype(object) >> (bits * i) for i in range(count)])
    limbs[:-1] &= (1 << bits) - 1
    powers = np.array([[1 << (bits * i) for i in range(count)]], dtype=object)
    return narrowed(limbs), narrowed(powers)


def _square(row: Integers) -> int:
    parts = (row[start : start + BLOCK][None, :] for start in range(0, row.size, BLOCK))
    return sum(int(_gram(part)[0, 0]) for part in parts)


def _at_step(values: Integers, shift: int) -> Integers:
    return values if shift == 0 else values.astype(np.int64) << shift


def _spread(values: Integers, places: NDArray[np.int64], width: int) -> Integers:
    row = np.zeros(width, dtype=values.dtype)
    row[places] = values
    return row
