"""Rules that weigh vectors by their distance to an estimate, again and again: the geometric median (Pillutla et al.,
"Robust aggregation for federated learning", IEEE TSP 2022) and centered clipping (Karimireddy et al., ICML 2021).

The estimate is always a combination of the vectors, so distances follow from their inner products and only the
weights iterate: m integers. Square roots are whole-number ones, rounded up. docs/arithmetic.md has the steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Literal

import numpy as np

from sanderling.coordinator.aggregation.aggregator import Aggregator
from sanderling.coordinator.aggregation.vectors import (
    BLOCK,
    ONE_Q16,
    Integers,
    Vectors,
    blocks,
    ceil_sqrt,
    combination,
    exact_product,
    inner_products,
    narrowed,
    to_q16,
)
from sanderling.models.updates import Int64Vector

WEIGHT_BITS = 36
_ONE = 1 << WEIGHT_BITS
_INVERSE_BITS = 46
SETTLED_BITS = 24  # weights whose shares move by less than 2**-24 in sum have settled


def geometric_median(
    smoothing: float, *, iterations: int = 100, start: Literal["mean", "zero"] = "mean"
) -> Aggregator:
    """The point with the least sum of distances, by Weiszfeld's iteration.

    `smoothing` (nu, theta's units) is the least distance counted. Ends once the weights have settled, or after
    `iterations`. ByzFL starts at zero and iterates 3 times, nu = 0.1.
    """

    def combine(vectors: Vectors) -> Int64Vector:
        gram = inner_products(vectors)
        weights = [_ONE if start == "mean" else 0] * vectors.count
        total = sum(weights) or _ONE
        floor = Fraction(smoothing) / vectors.unit
        for _ in range(iterations):
            lengths = [max(length, int(floor * total), 1) for length in _distances(gram, weights, total)]
            before, before_total = weights, total
            weights = _inverse(lengths)
            total = sum(weights)
            if not _moved(before, before_total, weights, total):
                break
        return to_q16(combination(vectors, weights), vectors.unit / total)

    return Aggregator(name=f"geometric_median({smoothing:g})", combine=combine, objection=lambda _: "")


def centered_clipping(tau: float, *, iterations: int = 1, centre: Int64Vector | None = None) -> Aggregator:
    """centre + mean of (vector - centre), each clipped to `tau` (theta's units), `iterations` times.

    `centre` (k,) is in 2**-16 of theta's unit on the round's coordinates; None is zero. A vector moves an iteration's
    result by at most tau / m.
    """

    def combine(vectors: Vectors) -> Int64Vector:
        # In integers of one unit: the vectors times a, the centre times b.
        scale = Fraction(1) if centre is None else vectors.unit * ONE_Q16
        a, b = scale.numerator, scale.denominator
        unit = vectors.unit / a
        gram = _with_centre(vectors, centre, a, b)
        limit = int(Fraction(tau) / unit * _ONE * _ONE)
        weights = [0] * vectors.count + [_ONE]
        for _ in range(iterations):
            lengths = _distances(gram, weights, _ONE)[:-1]
            factors = [min(_ONE, limit // length) if length else _ONE for length in lengths]
            weights = _moved_towards(weights, factors)
        result = combination(vectors, weights[:-1])
        if centre is not None:
            result = result.astype(object) * a + centre.astype(object) * (weights[-1] * b)
        return to_q16(result, unit / _ONE)

    return Aggregator(
        name=f"centered_clipping({tau:g})", combine=combine, objection=lambda _: "", aligned=False
    )


def _distances(gram: Integers, weights: Sequence[int], total: int) -> list[int]:
    """Of each vector to sum_i weights[i] vector_i / total, as integers of unit / total, rounded up."""
    column = narrowed(np.array(weights, dtype=object))[:, None]
    products = [int(value) for value in exact_product(gram, column)[:, 0]]
    square = sum(weight * product for weight, product in zip(weights, products, strict=True))
    norms = [int(value) for value in np.diagonal(gram)]
    return [
        ceil_sqrt(total * total * norm - 2 * total * product + square)
        for norm, product in zip(norms, products, strict=True)
    ]


def _inverse(lengths: list[int]) -> list[int]:
    """Weights in proportion to 1 / length, in 2**-WEIGHT_BITS; rounded down, so that they sum up to 1 or just below."""
    least = min(lengths)
    inverses = [(least << _INVERSE_BITS) // length for length in lengths]
    total = sum(inverses)
    return [(inverse << WEIGHT_BITS) // total for inverse in inverses]


def _moved(before: list[int], before_total: int, after: list[int], after_total: int) -> bool:
    """Whether the shares of the whole moved by 2**-SETTLED_BITS or more, summed up."""
    moved = sum(abs(w * after_total - v * before_total) for w, v in zip(before, after, strict=True))
    return moved << SETTLED_BITS >= before_total * after_total


def _moved_towards(weights: list[int], factors: list[int]) -> list[int]:
    """w + mean_i f_i (e_i - w); the centre's weight, the last, takes what rounding leaves."""
    count = len(factors)
    kept = count * _ONE - sum(factors)
    rows = [
        (weight * kept + factor * _ONE) // (count * _ONE)
        for weight, factor in zip(weights[:-1], factors, strict=True)
    ]
    return [*rows, _ONE - sum(rows)]


def _with_centre(vectors: Vectors, centre: Int64Vector | None, a: int, b: int) -> Integers:
    """Inner products of the vectors, times a, and last of the centre, times b."""
    gram = inner_products(vectors)
    if centre is None:
        return np.pad(gram, (0, 1))
    if centre.shape != (vectors.width,):
        raise ValueError(
            f"a centre of shape {centre.shape}, expected the round's {vectors.width} coordinates"
        )
    parts = np.split(centre, range(BLOCK, vectors.width, BLOCK))
    cross: Integers = np.zeros((vectors.count, 1), dtype=object)
    for block, part in zip(blocks(vectors), parts, strict=True):
        cross = cross + exact_product(block, part[:, None])
    square = sum(int(exact_product(part[None, :], part[:, None])[0, 0]) for part in parts)
    corner = np.array([[square * b * b]], dtype=object)
    return np.block([[gram.astype(object) * (a * a), cross * (a * b)], [cross.T * (a * b), corner]])
