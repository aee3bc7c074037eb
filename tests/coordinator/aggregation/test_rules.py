"""Values worked by hand and the laws of each rule. Results here are in steps of the int8 values."""

import tracemalloc
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sanderling.coordinator.aggregation.aggregator import aggregate
from sanderling.coordinator.aggregation.coordinate_rules import mean, median, trimmed_mean
from sanderling.coordinator.aggregation.krum import krum, multi_krum, selection
from sanderling.coordinator.aggregation.pre_aggregators import bucketing, nnm, norm_bound, zero_filled
from sanderling.coordinator.aggregation.reweighted import centered_clipping, geometric_median
from sanderling.coordinator.aggregation.vectors import combination, squared_norms
from sanderling.models.errors import UnsoundError
from sanderling.models.random_bits import derive_key
from tests.coordinator.aggregation.samples import STEP, matrices, report, result, vectors

LADDER = [[1, 2, 3], [4, 5, 6], [7, 8, 9]]
KEY = derive_key("bucketing", "lab", 1)

# every rule at f = 1 that three vectors suffice for
RULES = (
    mean(),
    trimmed_mean(1),
    median(),
    krum(1),
    multi_krum(1),
    geometric_median(STEP / 8),
    centered_clipping(40 * STEP),
    centered_clipping(5.5 * STEP, iterations=3),
    norm_bound(30 * STEP) >> mean(),
    norm_bound(30 * STEP) >> trimmed_mean(1),
    nnm(1) >> mean(),
    nnm(1) >> trimmed_mean(1),
    nnm(1) >> median(),
    nnm(1) >> geometric_median(STEP / 8),
    norm_bound(30 * STEP) >> nnm(1) >> trimmed_mean(1),
    norm_bound(30 * STEP) >> nnm(1) >> krum(1),
)
# ... of them, those that ask for no origin
EQUIVARIANT = tuple(rule for rule in RULES if "bound" not in rule.name and "clipping" not in rule.name)


def named(rules):
    return pytest.mark.parametrize("rule", rules, ids=lambda rule: rule.name)


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (geometric_median(0.1 * STEP, iterations=3, start="zero"), [3.78788764, 4.78788764, 5.78788764]),
        (krum(1), [1, 2, 3]),
        (multi_krum(1), [2.5, 3.5, 4.5]),
        (trimmed_mean(1), [4, 5, 6]),
        (median(), [4, 5, 6]),
        (mean(), [4, 5, 6]),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_the_ladder_of_three(rule, expected) -> None:
    assert result(rule, LADDER) == pytest.approx(expected, rel=1e-8)


def test_the_median_of_an_even_number_is_the_mean_of_the_two_in_the_middle() -> None:
    assert result(median(), [[1], [9], [2], [100]]).tolist() == [5.5]


def test_trimming_drops_as_many_at_each_end() -> None:
    # of -100 1 2 6 100 without one at each end: (1 + 2 + 6) / 3
    assert result(trimmed_mean(1), [[6], [100], [1], [-100], [2]]).tolist() == [3]


def test_krum_counts_the_papers_neighbours_and_byzfls_on_request() -> None:
    rows = np.array([[0], [2], [9], [10], [14], [17]])
    # n = 6, f = 1. Three nearest: 14 has 17, 10, 9 at 9 + 16 + 25 = 50, 10 has 1 + 16 + 49 = 66, 9 has 1 + 25 + 49 = 75
    assert result(krum(1), rows).tolist() == [14]
    assert selection(vectors(rows), 1, 3) == [4, 3, 2]
    # four: 10 has 66 + 64 = 130, 9 has 75 + 64 = 139, 14 has 50 + 144 = 194
    assert result(krum(1, neighbours=4), rows).tolist() == [10]
    # one: 9 and 10 tie at 1, and the smaller is taken
    assert result(krum(1, neighbours=1), rows).tolist() == [9]


def test_nnm_takes_the_mean_of_the_nearest_before_the_rule() -> None:
    # without the farthest: 0 -> (0 + 1 + 4) / 3, 1 -> the same, 4 -> the same, 20 -> (20 + 4 + 1) / 3
    mixed = nnm(1).transform(vectors([[0], [1], [4], [20]]))
    assert mixed.unit == Fraction(STEP, 3)
    assert [int(combination(mixed, np.eye(4, dtype=int)[i].tolist())[0]) for i in range(4)] == [5, 5, 5, 25]


def test_buckets_are_means_and_the_last_may_be_smaller() -> None:
    made = bucketing(2, KEY).transform(vectors([[6], [12], [36]]))
    values = sorted(int(value) for value in combination_of_each(made))
    assert made.unit == Fraction(STEP, 2)
    assert values in ([18, 72], [24, 42], [12, 48])  # twice the mean of two, twice the third
    assert bucketing(2, KEY).remaining(3) == 2


def combination_of_each(made):
    return [combination(made, [int(i == j) for i in range(made.count)])[0] for j in range(made.count)]


def test_a_bucket_depends_on_its_key_alone() -> None:
    rows = np.arange(60).reshape(20, 3)
    rule = bucketing(3, KEY) >> trimmed_mean(2)
    other = bucketing(3, derive_key("bucketing", "lab", 2)) >> trimmed_mean(2)
    assert (result(rule, rows) == result(rule, rows)).all()
    assert (result(rule, rows) != result(other, rows)).any()


def test_clipping_shortens_the_long_alone() -> None:
    # (30, 40) has norm 50: (3, 4) at a bound of 5; (0, 3) stays
    assert result(norm_bound(5 * STEP) >> mean(), [[30, 40], [0, 3]]) == pytest.approx([1.5, 3.5], rel=1e-9)


def test_a_centre_is_where_clipping_begins() -> None:
    # from (0, 100): (30, 140) is (30, 40) off, clipped to (3, 4)
    centre = np.array([0, 100 * STEP * 65536])
    rule = centered_clipping(5 * STEP, centre=centre)
    assert result(rule, [[30, 120 + 20]]) == pytest.approx([3, 104], rel=1e-9)
    with pytest.raises(ValueError, match="2 coordinates"):
        result(centered_clipping(5.0, centre=np.zeros(3, dtype=np.int64)), [[1, 2]])


def test_missing_reports_are_zeros() -> None:
    assert result(zero_filled(4) >> mean(), [[4], [8]]).tolist() == [3]
    assert result(bucketing(1, KEY) >> zero_filled(3) >> median(), [[4], [8]]).tolist() == [4]
    with pytest.raises(ValueError, match="planned were 1"):
        result(zero_filled(1) >> mean(), [[4], [8]])


@named(RULES)
def test_zeros_and_copies_give_themselves(rule) -> None:
    assert result(rule, np.zeros((5, 4), dtype=int)).tolist() == [0] * 4
    assert result(rule, [[1, -2, 2]] * 5) == pytest.approx([1, -2, 2], rel=1e-9)


@named(RULES)
@given(rows=matrices(least=3), seed=st.integers(0, 2**32))
@settings(max_examples=25, deadline=None)
def test_the_order_of_vectors_changes_no_bit(rule, rows, seed) -> None:
    shuffled = np.random.default_rng(seed).permutation(rows)
    assert (rule.combine(vectors(rows)) == rule.combine(vectors(shuffled))).all()


@named(EQUIVARIANT)
@given(rows=matrices(least=3), shift=st.integers(-1000, 1000))
@settings(max_examples=25, deadline=None)
def test_a_translation_goes_through_to_the_last_bit(rule, rows, shift) -> None:
    moved = rule.combine(vectors(rows + shift))
    assert (moved == rule.combine(vectors(rows)) + shift * STEP * 65536).all()


@named([rule for rule in EQUIVARIANT if "geometric" not in rule.name])
@given(rows=matrices(least=3), factor=st.integers(1, 50))
@settings(max_examples=25, deadline=None)
def test_a_scale_goes_through(rule, rows, factor) -> None:
    scaled = rule.combine(vectors(rows * factor))
    assert np.abs(scaled - factor * rule.combine(vectors(rows))).max() <= (factor + 1) / 2


@given(rows=matrices(least=3), factor=st.integers(1, 50))
@settings(max_examples=25, deadline=None)
def test_the_geometric_median_scales_with_its_smoothing(rows, factor) -> None:
    small = geometric_median(STEP / 8).combine(vectors(rows))
    large = geometric_median(factor * STEP / 8).combine(vectors(rows * factor))
    assert np.abs(large - factor * small).max() <= factor * (1 + 1e-6 * np.abs(small).max())


@given(rows=matrices(least=1), bound=st.floats(0.5, 300.0))
@settings(deadline=None)
def test_a_clipped_norm_is_never_above_the_bound(rows, bound) -> None:
    clipped = norm_bound(bound * STEP).transform(vectors(rows))
    for square in squared_norms(clipped):
        assert square * clipped.unit**2 <= Fraction(bound * STEP) ** 2


def spread(rows: np.ndarray) -> float:
    """The mean squared distance to the mean."""
    return float(((rows - rows.mean(axis=0)) ** 2).sum(axis=1).mean())


def coefficient(name: str, n: int, f: int) -> float:
    """kappa of Allouah et al., "Fixing by mixing" (AISTATS 2023), table 1 and lemma 1."""
    ratio = 1 + f / (n - 2 * f)
    if name.startswith("nnm"):
        return 8 * f / (n - f) * (coefficient(name.split(" >> ")[1], n, f) + 1)
    rule = name.split("(")[0]
    return {
        "trimmed_mean": 6 * f / (n - 2 * f) * ratio,
        "krum": 6 * ratio,
        "geometric_median": 4 * ratio**2,
        "median": 4 * ratio**2,
    }[rule]


@pytest.mark.parametrize("f", [1, 2])
@given(
    honest=matrices(least=6, most=8, limit=60), hostile=matrices(least=1, most=1), scale=st.integers(1, 2000)
)
@settings(max_examples=60, deadline=None)
def test_hostile_vectors_move_the_result_no_farther_than_the_proven_bound(f, honest, hostile, scale) -> None:
    k = honest.shape[1]
    lie = np.resize(hostile, (1, k)) * scale
    rows = np.concatenate([honest] + [lie] * f)
    n = len(rows)
    base = (
        trimmed_mean(f),
        median(),
        krum(f, neighbours=n - f - 1),
        geometric_median(1.0),
    )
    for rule in base + tuple(nnm(f) >> rule for rule in base):
        off = result(rule, rows) - honest.mean(axis=0)
        assert off @ off <= coefficient(rule.name, n, f) * spread(honest) * (1 + 1e-6) + 1e-4, rule.name


# Sensitivities of one vector against zeros, of vectors no longer than C (the privacy table's L2, zero-out).
SENSITIVITIES = {
    "trimmed_mean": (lambda f: trimmed_mean(f), lambda n, f, c: c / (n - 2 * f)),
    "nnm mean": (lambda f: nnm(f) >> mean(), lambda n, f, c: (2 * c * (n - 1) / (n - f) + 2 * c) / n),
    "nnm trimmed_mean": (
        lambda f: nnm(f) >> trimmed_mean(f),
        lambda n, f, c: (2 * c * (n - 1) / (n - f) + 2 * c) / (n - 2 * f),
    ),
    "mean": (lambda f: mean(), lambda n, f, c: c / n),
    "centered_clipping": (lambda f: centered_clipping(c_half(f)), lambda n, f, c: c_half(f) / STEP / n),
}


def c_half(f: int) -> float:
    return 20.0 * STEP * f


@pytest.mark.parametrize("name", SENSITIVITIES)
@given(rows=matrices(least=4), f=st.integers(1, 3), bound=st.integers(1, 200))
@settings(max_examples=50, deadline=None)
def test_one_vector_moves_a_rule_by_no_more_than_its_sensitivity(name, rows, f, bound) -> None:
    n = len(rows)
    f = min(f, (n - 1) // 2)
    rule, limit = SENSITIVITIES[name]
    clipped = norm_bound(bound * STEP)
    without = np.concatenate([np.zeros_like(rows[:1]), rows[1:]])
    moved = result(clipped >> rule(f), rows) - result(clipped >> rule(f), without)
    assert np.linalg.norm(moved) <= limit(n, f, bound) * (1 + 1e-9) + 1e-7


@named(RULES)
def test_beside_the_reports_memory_is_that_of_a_few_vectors(rule) -> None:
    n, k = 64, 40_000
    rows = vectors(np.random.default_rng(3).integers(-127, 128, (n, k)))
    rule.combine(rows)  # the first call loads and caches
    tracemalloc.start()
    rule.combine(rows)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # As int64 the vectors would be 20 MB. A result rounded in Python's integers is up to 5 MB, a block 0.5 MB.
    assert peak < 7e6


def test_reports_become_an_aggregate_of_the_whole_model() -> None:
    reports = [
        report(device, [value, 0], coordinates=[2, 5], shift=1)
        for device, value in {"c": 9, "a": 1, "b": 2}.items()
    ]
    change = aggregate(median(), reports, 8)
    assert change.mean.tolist() == [0, 0, 4 << 16, 0, 0, 0, 0, 0]
    assert change.participants == ("a", "b", "c")
    assert change.total_weight == 3


def test_rules_that_compare_coordinates_refuse_topk() -> None:
    reports = [report("a", [9], coordinates=[2]), report("b", [1], coordinates=[3])]
    for rule in (median(), trimmed_mean(0), krum(0), nnm(0) >> mean(), geometric_median(1.0)):
        with pytest.raises(UnsoundError, match="update mode 'mask'"):
            aggregate(rule, reports, 8)
    assert aggregate(norm_bound(1.0) >> mean(), reports, 8).mean[[2, 3]].tolist() == [32768, 32768]


def test_too_few_reports_are_refused() -> None:
    reports = [report(device, [1]) for device in "abcd"]
    for rule in (
        krum(1),
        multi_krum(1),
        trimmed_mean(2),
        nnm(2) >> mean(),
        bucketing(2, KEY) >> trimmed_mean(1),
    ):
        with pytest.raises(UnsoundError, match="4 reports"):
            aggregate(rule, reports, 8)
