"""What goes before a robust rule: nearest-neighbour mixing (Allouah et al., AISTATS 2023), bucketing (Karimireddy et
al., ICLR 2022), the norm bound (Sun et al., arXiv 1911.07963), and zeros for the reports that are missing.
"""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction

import numpy as np

from sanderling.coordinator.aggregation.aggregator import PreAggregator
from sanderling.coordinator.aggregation.vectors import (
    Integers,
    Vectors,
    ceil_sqrt,
    mixed,
    narrowed,
    ranks,
    squared_distances,
    squared_norms,
    with_gram,
)
from sanderling.models.random_bits import Key, permutation

FACTOR_BITS = 36  # of the factor that shrinks a vector to its bound
_NORM_BITS = 36  # of a norm's fraction


def nnm(hostile: int) -> PreAggregator:
    """Replaces each vector by the mean of its n - f nearest, itself among them; ties go by content."""

    def transform(vectors: Vectors) -> Vectors:
        kept = vectors.count - hostile
        if kept <= 0:
            raise ValueError(f"nnm({hostile}) of {vectors.count} vectors keeps none")
        vectors = with_gram(vectors)
        distances, places = squared_distances(vectors), ranks(vectors)
        weights = np.zeros((vectors.count, vectors.count), dtype=np.int64)
        for row, of_row in zip(weights, distances.tolist(), strict=True):
            nearest = sorted(range(vectors.count), key=list(zip(of_row, places, strict=True)).__getitem__)
            row[nearest[:kept]] = 1
        return mixed(vectors, weights, kept)

    def objection(count: int) -> str:
        return "" if count > 2 * hostile else f"nnm against {hostile} needs at least {2 * hostile + 1}"

    return PreAggregator(name=f"nnm({hostile})", transform=transform, objection=objection, aligned=True)


def bucketing(size: int, key: Key) -> PreAggregator:
    """The means of buckets of `size` vectors, shuffled by `permutation(key, n)`; the last bucket may be smaller.

    f hostile vectors spoil up to f buckets: the rule behind must bear as many. The key must be new each round.
    """
    if size < 1:
        raise ValueError(f"buckets of {size}, expected at least 1")

    def transform(vectors: Vectors) -> Vectors:
        order = permutation(key, vectors.count)
        buckets = [order[start : start + size] for start in range(0, vectors.count, size)]
        denominator = math.lcm(*(len(bucket) for bucket in buckets))
        weights = np.zeros((len(buckets), vectors.count), dtype=np.int64)
        for row, bucket in zip(weights, buckets, strict=True):
            row[bucket] = denominator // len(bucket)
        return mixed(vectors, weights, denominator)

    return PreAggregator(
        name=f"bucketing({size})",
        transform=transform,
        objection=lambda _: "",
        remaining=lambda count: -(-count // size),
    )


def norm_bound(bound: float) -> PreAggregator:
    """Shrinks each vector longer than `bound` (theta's units) to it, never above: the factor is rounded down."""

    def transform(vectors: Vectors) -> Vectors:
        factors = [_shrink(square, bound, vectors) for square in squared_norms(vectors)]
        return vectors if set(factors) == {1 << FACTOR_BITS} else _scaled(vectors, factors)

    return PreAggregator(name=f"norm_bound({bound:g})", transform=transform, objection=lambda _: "")


def zero_filled(planned: int) -> PreAggregator:
    """Zero vectors for the reports missing of `planned`, whose number then stays the plan's (for privacy)."""

    def transform(vectors: Vectors) -> Vectors:
        missing = planned - vectors.count
        if missing < 0:
            raise ValueError(f"{vectors.count} vectors, planned were {planned}")
        if vectors.mixing is None:
            zero = np.zeros(vectors.width, dtype=vectors.rows[0].dtype)
            return replace(vectors, rows=vectors.rows + (zero,) * missing, gram=None)
        zeros = np.zeros((missing, len(vectors.rows)), dtype=np.int64)
        return replace(vectors, mixing=np.concatenate([vectors.mixing, zeros]))

    return PreAggregator(
        name=f"zero_filled({planned})",
        transform=transform,
        objection=lambda _: "",
        remaining=lambda _: planned,
    )


def _shrink(square: int, bound: float, vectors: Vectors) -> int:
    """min(1, bound / norm) in 2**-FACTOR_BITS, rounded down; the norm is rounded up."""
    norm = ceil_sqrt(square << (2 * _NORM_BITS))
    limit = Fraction(bound) / vectors.unit * (1 << (_NORM_BITS + FACTOR_BITS))
    return min(1 << FACTOR_BITS, int(limit) // norm) if norm else 1 << FACTOR_BITS


def _scaled(vectors: Vectors, factors: list[int]) -> Vectors:
    diagonal: Integers = np.diag(np.array(factors, dtype=np.int64))
    if vectors.mixing is not None:
        diagonal = np.array(factors, dtype=object)[:, None] * vectors.mixing
    return replace(vectors, mixing=narrowed(diagonal), unit=vectors.unit / (1 << FACTOR_BITS))
