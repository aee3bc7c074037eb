from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sanderling.coordinator.aggregation.vectors import (
    BLOCK,
    Vectors,
    ceil_sqrt,
    combination,
    exact_product,
    inner_products,
    mixed,
    ranks,
    squared_distances,
    squared_norms,
    to_q16,
    vectors_of,
)
from tests.coordinator.aggregation.samples import matrices, report, vectors


@given(
    st.integers(1, 62),
    st.integers(1, 62),
    st.integers(1, 4),
    st.integers(1, 40),
    st.integers(1, 4),
    st.data(),
)
@settings(deadline=None)
def test_a_product_is_exact_whatever_the_size_of_its_integers(bits_a, bits_b, n, width, m, data) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    a = rng.integers(-(2**bits_a), 2**bits_a, (n, width))
    b = rng.integers(-(2**bits_b), 2**bits_b, (width, m))
    expected = a.astype(object) @ b.astype(object)
    assert (exact_product(a, b) == expected).all()


def test_a_block_of_the_largest_values_stays_exact_in_float32() -> None:
    row = np.full((1, BLOCK), 127, dtype=np.int8)
    assert 127 * 127 * BLOCK < 1 << 24
    assert exact_product(row, row.T)[0, 0] == 127 * 127 * BLOCK


def test_inner_products_past_64_bits_stay_exact() -> None:
    large = Vectors(rows=tuple(np.full((2, 3000), 2**31 - 1, dtype=np.int64)), unit=Fraction(1))
    assert (inner_products(large) == 3000 * (2**31 - 1) ** 2).all()
    assert (squared_distances(large) == 0).all()
    assert squared_norms(large) == [3000 * (2**31 - 1) ** 2] * 2


@given(matrices(), st.integers(0, 2**32), st.integers(2, 40))
@settings(deadline=None)
def test_mixing_is_linear_and_distances_follow_from_the_rows(rows, seed, bits) -> None:
    weights = np.random.default_rng(seed).integers(0, 2**bits, (4, len(rows)))
    derived = mixed(vectors(rows), weights, 7)
    expected = weights.astype(object) @ rows.astype(object)
    assert derived.unit == Fraction(1 << 14, 7)
    assert (combination(derived, [1, 0, 2, 0]) == expected[0] + 2 * expected[2]).all()
    difference = expected[:, None, :] - expected[None, :, :]
    assert (squared_distances(derived) == (difference**2).sum(axis=-1)).all()
    assert squared_norms(derived) == (expected**2).sum(axis=-1).tolist()


@given(matrices())
def test_ranks_are_the_lexicographic_order(rows) -> None:
    places = ranks(vectors(rows))
    assert sorted(places) == list(range(len(rows)))
    in_order = [tuple(rows[places.index(place)]) for place in range(len(rows))]
    assert in_order == sorted(in_order)


def test_ranks_look_past_the_first_block() -> None:
    rows = np.zeros((3, BLOCK + 5), dtype=np.int8)
    rows[0, -1], rows[2, BLOCK] = 1, -1
    assert ranks(vectors(rows)) == [2, 1, 0]


@given(st.integers(-(2**40), 2**40), st.integers(1, 2**40), st.integers(1, 2**40))
def test_a_result_is_rounded_to_the_nearest_half_up(value, numerator, denominator) -> None:
    exact = Fraction(value * numerator, denominator)
    if abs(exact) * 65536 < 2**62:
        rounded = int(to_q16(np.array([value]), Fraction(numerator, denominator))[0])
        assert -Fraction(1, 2) < rounded - exact * 65536 <= Fraction(1, 2)


@given(st.integers(0, 2**80))
def test_the_root_is_rounded_up(value) -> None:
    root = ceil_sqrt(value)
    assert root**2 >= value
    assert root == 0 or (root - 1) ** 2 < value


def test_reports_of_different_steps_are_brought_to_the_finest_in_order_of_device_id() -> None:
    found, coordinates = vectors_of([report("b", [1, -2], shift=3), report("a", [5, 6], shift=1)])
    assert [row.tolist() for row in found.rows] == [[5, 6], [4, -8]]
    assert found.unit == 2
    assert coordinates.tolist() == [0, 1]


def test_reports_on_different_coordinates_span_their_union() -> None:
    found, coordinates = vectors_of(
        [report("a", [5, 6], coordinates=[1, 7]), report("b", [9], coordinates=[3])]
    )
    assert coordinates.tolist() == [1, 3, 7]
    assert [row.tolist() for row in found.rows] == [[5, 0, 6], [0, 9, 0]]


def test_without_reports_there_are_no_vectors() -> None:
    with pytest.raises(ValueError, match="at least one report"):
        vectors_of([])
