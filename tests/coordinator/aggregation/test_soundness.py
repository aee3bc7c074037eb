from fractions import Fraction
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sanderling.coordinator.aggregation.coordinate_rules import mean, median, trimmed_mean
from sanderling.coordinator.aggregation.krum import krum, multi_krum
from sanderling.coordinator.aggregation.pre_aggregators import bucketing, nnm, norm_bound, zero_filled
from sanderling.coordinator.aggregation.reweighted import centered_clipping, geometric_median
from sanderling.coordinator.aggregation.soundness import (
    hostile_in_cohort,
    require_aligned,
    require_enough,
    require_minority,
    tail,
)
from sanderling.models.errors import UnsoundError

KEY = (1, 2)


@pytest.mark.parametrize(
    ("rule", "fewest"),
    [
        (trimmed_mean(2), 5),
        (krum(2), 7),
        (multi_krum(2), 7),
        (multi_krum(1, selected=6), 7),
        (nnm(2) >> mean(), 5),
        (nnm(2) >> krum(2), 7),
        (bucketing(2, KEY) >> trimmed_mean(2), 9),  # 9 reports make 5 buckets
        (bucketing(3, KEY) >> nnm(1) >> krum(1), 13),
        (norm_bound(1.0) >> mean(), 1),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_a_rule_is_refused_below_the_fewest_it_needs(rule, fewest) -> None:
    require_enough(rule, fewest)
    for count in range(1, fewest):
        with pytest.raises(UnsoundError, match=f"quorum to {fewest}") as refusal:
            require_enough(rule, count)
        assert rule.name in str(refusal.value)


def test_zeros_for_the_missing_let_any_number_report() -> None:
    require_enough(zero_filled(9) >> trimmed_mean(4), 1)
    with pytest.raises(UnsoundError, match="at least 9"):
        require_enough(zero_filled(8) >> trimmed_mean(4), 100)


@given(st.integers(0, 40), st.integers(0, 40))
def test_only_a_minority_may_be_hostile(hostile, count) -> None:
    if 2 * hostile < count:
        require_minority(hostile, count)
        return
    with pytest.raises(UnsoundError, match=f"at least {2 * hostile + 1} groups"):
        require_minority(hostile, count, "groups")


def test_topk_updates_are_for_rules_that_do_not_compare_coordinates() -> None:
    for rule in (median(), trimmed_mean(1), krum(1), nnm(1) >> mean(), geometric_median(1.0)):
        require_aligned(rule, shared_coordinates=True)
        with pytest.raises(UnsoundError, match="top-k updates"):
            require_aligned(rule, shared_coordinates=False)
    for rule in (mean(), norm_bound(1.0) >> mean(), centered_clipping(1.0), bucketing(2, KEY) >> mean()):
        require_aligned(rule, shared_coordinates=False)


@pytest.mark.parametrize(("population", "hostile", "cohort"), [(7, 3, 4), (8, 0, 3), (6, 6, 2), (9, 4, 9)])
def test_the_tail_counts_cohorts(population, hostile, cohort) -> None:
    cohorts = list(combinations(range(population), cohort))
    for bound in range(-1, cohort + 1):
        over = sum(sum(device < hostile for device in chosen) > bound for chosen in cohorts)
        assert tail(population, hostile, cohort, bound) == Fraction(over, len(cohorts))


def test_the_tail_agrees_with_scipy() -> None:
    stats = pytest.importorskip("scipy.stats")
    for bound in (0, 3, 8, 15):
        expected = stats.hypergeom(1000, 100, 40).sf(bound)
        assert float(tail(1000, 100, 40, bound)) == pytest.approx(expected, rel=1e-9)


def test_the_bound_in_the_cohort_is_the_least_that_holds() -> None:
    # 10 of 100 hostile, cohorts of 20, once in a thousand over 50 rounds: a share of 10 % becomes 8 of 20
    bound = hostile_in_cohort(100, 10, 20, failure=1e-3, rounds=50)
    assert tail(100, 10, 20, bound) <= Fraction(1e-3) / 50 < tail(100, 10, 20, bound - 1)
    assert bound == 8
    assert hostile_in_cohort(100, 0, 20, failure=0.0) == 0
    assert hostile_in_cohort(20, 3, 20, failure=0.0) == 3


def test_a_cohort_that_may_hold_a_hostile_majority_is_refused() -> None:
    with pytest.raises(UnsoundError, match="no rule bears 2f >= m"):
        hostile_in_cohort(100, 30, 10, failure=1e-3)
    # a minority of the cohort, but not of the reports that a round makes do with
    assert hostile_in_cohort(50, 4, 20, failure=1e-6) == 4
    with pytest.raises(UnsoundError, match="4 hostile of 8 reports"):
        hostile_in_cohort(50, 4, 20, failure=1e-6, reports=8)
