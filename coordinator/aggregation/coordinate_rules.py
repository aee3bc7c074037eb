"""Rules that treat each coordinate alone: mean, trimmed mean, median (Yin et al., "Byzantine-robust distributed
learning: towards optimal statistical rates", ICML 2018).

They read a block of coordinates at a time: beside the reports they hold O(d).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from sanderling.coordinator.aggregation.aggregator import Aggregator
from sanderling.coordinator.aggregation.vectors import (
    BLOCK,
    WIDE_BLOCK,
    Integers,
    Vectors,
    blocks,
    combination,
    largest,
    smallest_type,
    to_q16,
)
from sanderling.models.updates import Int64Vector


def mean() -> Aggregator:
    """The plain mean of the vectors: robust only behind norm_bound, and then only as far as the bound."""

    def combine(vectors: Vectors) -> Int64Vector:
        return to_q16(combination(vectors, [1] * vectors.count), vectors.unit / vectors.count)

    return Aggregator(name="mean", combine=combine, objection=lambda _: "", aligned=False)


def trimmed_mean(trim: int) -> Aggregator:
    """The mean of each coordinate's values without its `trim` smallest and `trim` largest."""

    def objection(count: int) -> str:
        return "" if count > 2 * trim else f"trimming {trim} at each end needs at least {2 * trim + 1}"

    return Aggregator(
        name=f"trimmed_mean({trim})", combine=lambda vectors: _trimmed(vectors, trim), objection=objection
    )


def median() -> Aggregator:
    """Each coordinate's median; of an even number, the mean of the two in the middle."""
    return Aggregator(
        name="median",
        combine=lambda vectors: _trimmed(vectors, (vectors.count - 1) // 2),
        objection=lambda _: "",
    )


def _trimmed(vectors: Vectors, trim: int) -> Int64Vector:
    left = vectors.count - 2 * trim
    if left <= 0:
        raise ValueError(f"trimming {trim} at each end of {vectors.count} vectors leaves none")
    sums = [
        _trimmed_sum(block, trim)
        for block in blocks(vectors, WIDE_BLOCK if vectors.mixing is None else BLOCK)
    ]
    return to_q16(np.concatenate(sums), vectors.unit / left)


def _trimmed_sum(values: Integers, trim: int) -> Integers:
    """Values beyond the order statistics of ranks trim and m - 1 - trim count as those, which are then taken off."""
    size = largest(values)
    wide = smallest_type(2 * size * len(values))
    if trim == 0:
        total: Integers = values.sum(axis=0, dtype=wide)
        return total
    values = values.astype(smallest_type(size), copy=False)
    low, high = _order_statistics(values, size, trim, len(values) - 1 - trim)
    clamped = np.maximum(values, low)
    total = np.minimum(clamped, high, out=clamped).sum(axis=0, dtype=wide)
    trimmed: Integers = total - trim * low.astype(wide) - trim * high.astype(wide)
    return trimmed


def _order_statistics(values: Integers, size: int, first: int, last: int) -> tuple[Integers, Integers]:
    """Each column's values of ranks `first` and `last`, counted from 0; `size` is the largest magnitude."""
    if values.dtype.itemsize <= 2:
        bits = size.bit_length()
        return _by_bisection(values, bits, first), _by_bisection(values, bits, last)
    ordered = np.sort(values, axis=0)
    return ordered[first], ordered[last]


def _by_bisection(values: Integers, bits: int, rank: int) -> Integers:
    """Of values within +-(2**bits - 1), one bit after the other from the top: set where at most `rank` lie below."""
    counter: Any = np.uint8 if len(values) < 256 else np.int64
    found = np.full(values.shape[1], -(1 << bits), dtype=np.int32)
    lies_below = np.empty(
        values.shape, dtype=np.bool_
    )  # one for all: a new one costs more than the comparison
    for bit in reversed(range(bits + 1)):
        candidate = found + (1 << bit)
        np.less(values, candidate.astype(values.dtype), out=lies_below)
        below = lies_below.view(np.uint8).sum(axis=0, dtype=counter)
        found = np.where(below <= rank, candidate, found)
    return found.astype(values.dtype)
