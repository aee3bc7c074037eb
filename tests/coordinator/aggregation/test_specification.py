"""docs/arithmetic.md, "Robust rules", written down again in plain Python over whole vectors: the same integers."""

from fractions import Fraction
from math import floor, isqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sanderling.coordinator.aggregation.coordinate_rules import mean, trimmed_mean
from sanderling.coordinator.aggregation.krum import multi_krum
from sanderling.coordinator.aggregation.pre_aggregators import nnm, norm_bound
from sanderling.coordinator.aggregation.reweighted import centered_clipping, geometric_median
from tests.coordinator.aggregation.samples import matrices, vectors

ONE = 2**36
U = Fraction(16)


def root_up(value: int) -> int:
    root = isqrt(value)
    return root if root * root == value else root + 1


def rounded(numerators: list[int], unit: Fraction) -> list[int]:
    scale = unit * 65536
    a, b = scale.numerator, scale.denominator
    return [(value * a + b // 2) // b for value in numerators]


def combined(weights: list[int], rows: list[list[int]]) -> list[int]:
    return [sum(w * x for w, x in zip(weights, column, strict=True)) for column in zip(*rows, strict=True)]


def lengths(rows: list[list[int]], weights: list[int], total: int) -> list[int]:
    """Roots, rounded up, of |total * row - sum of weights * rows| squared."""
    estimate = combined(weights, rows)
    return [root_up(sum((total * x - z) ** 2 for x, z in zip(row, estimate, strict=True))) for row in rows]


@given(matrices(), st.floats(0.01, 500.0), st.booleans(), st.integers(1, 6))
@settings(deadline=None)
def test_geometric_median(rows, smoothing, from_zero, iterations) -> None:
    v = rows.tolist()
    weights = [0 if from_zero else ONE] * len(v)
    total = ONE if from_zero else ONE * len(v)
    for _ in range(iterations):
        r = [max(length, floor(Fraction(smoothing) / U * total), 1) for length in lengths(v, weights, total)]
        g = [(min(r) << 46) // length for length in r]
        old, old_total = weights, total
        weights = [(value << 36) // sum(g) for value in g]
        total = sum(weights)
        if (
            sum(abs(w * old_total - o * total) for w, o in zip(weights, old, strict=True)) << 24
            < total * old_total
        ):
            break
    rule = geometric_median(smoothing, iterations=iterations, start="zero" if from_zero else "mean")
    assert rule.combine(vectors(rows, U)).tolist() == rounded(combined(weights, v), U / total)


@given(matrices(), st.floats(0.0, 3000.0), st.integers(1, 4), st.integers(0, 2**32), st.booleans())
@settings(deadline=None)
def test_centered_clipping(rows, tau, iterations, seed, has_centre) -> None:
    v, unit, m, k = rows.tolist(), U, *rows.shape
    centre = np.random.default_rng(seed).integers(-(2**28), 2**28, k) if has_centre else None
    c = [0] * k
    if centre is not None:
        scale = U * 65536
        v = [[scale.numerator * x for x in row] for row in v]
        c = [scale.denominator * x for x in centre.tolist()]
        unit = U / scale.numerator
    weights = [0] * m + [ONE]
    for _ in range(iterations):
        r = lengths([*v, c], weights, ONE)[:-1]
        f = [min(ONE, floor(Fraction(tau) / unit * 2**72) // length) if length else ONE for length in r]
        kept = m * ONE - sum(f)
        moved = [(w * kept + x * ONE) // (m * ONE) for w, x in zip(weights[:-1], f, strict=True)]
        weights = [*moved, ONE - sum(moved)]
    rule = centered_clipping(tau, iterations=iterations, centre=centre)
    assert rule.combine(vectors(rows, U)).tolist() == rounded(combined(weights, [*v, c]), unit / ONE)


def chosen(v: list[list[int]], scores: list[int], count: int) -> list[list[int]]:
    return [v[i] for i in sorted(range(len(v)), key=lambda i: (scores[i], v[i]))[:count]]


def squared(a: list[int], b: list[int]) -> int:
    return sum((x - y) ** 2 for x, y in zip(a, b, strict=True))


@given(matrices(least=3), st.integers(0, 2), st.floats(1.0, 3000.0))
@settings(max_examples=60, deadline=None)
def test_rules_that_choose(rows, f, bound) -> None:
    v, m = rows.tolist(), len(rows)
    f = min(f, (m - 1) // 2, m - 2)
    ones = [1] * (m - f)
    scores = [sum(sorted(squared(a, b) for b in v)[1 : m - f - 1]) for a in v]
    best = combined(ones, chosen(v, scores, m - f))
    assert multi_krum(f).combine(vectors(rows, U)).tolist() == rounded(best, U / (m - f))
    mixed = [combined(ones, chosen(v, [squared(a, b) for b in v], m - f)) for a in v]
    middle = [sum(sorted(column)[f : m - f]) for column in zip(*mixed, strict=True)]
    rule = nnm(f) >> trimmed_mean(f)
    assert rule.combine(vectors(rows, U)).tolist() == rounded(middle, U / (m - f) / (m - 2 * f))

    limit = floor(Fraction(bound) / U * 2**72)
    norms = [sum(x * x for x in row) for row in v]
    factors = [min(ONE, limit // root_up(norm << 72)) if norm else ONE for norm in norms]
    rule = norm_bound(bound) >> mean()
    assert rule.combine(vectors(rows, U)).tolist() == rounded(combined(factors, v), U / ONE / m)


@pytest.mark.parametrize("count", [255, 256, 300])
def test_trimming_more_vectors_than_a_byte_counts(count) -> None:
    rows = np.random.default_rng(count).integers(-127, 128, (count, 5))
    expected = [sum(sorted(column)[40 : count - 40]) for column in rows.T.tolist()]
    found = trimmed_mean(40).combine(vectors(rows, U)).tolist()
    assert found == rounded(expected, U / (count - 80))
