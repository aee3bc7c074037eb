import pytest
from hypothesis import given
from hypothesis import strategies as st

from sanderling.coordinator.aggregation.fixed_mean import fixed_mean
from sanderling.coordinator.aggregation.mean import weighted_mean
from tests.coordinator.aggregation.samples import report


def test_a_missing_report_counts_as_zero() -> None:
    # weights 10/10 and 5/10 of 4 planned: (8 + 0.5 * 4) / 4 = 2.5, in steps of 2: 5
    found = fixed_mean([report("b", [8], shift=1), report("a", [4], shift=1, examples=5)], 3, 10, 4)
    assert found.mean.tolist() == [5 << 16, 0, 0]
    assert found.total_weight == 40
    assert found.participants == ("a", "b")
    assert fixed_mean([], 3, 10, 4).mean.tolist() == [0, 0, 0]


def test_a_full_cohort_at_the_cap_is_the_weighted_mean() -> None:
    reports = [report(device, [value, -value], examples=99) for device, value in {"a": 3, "b": 100}.items()]
    assert (fixed_mean(reports, 2, 20, 2).mean == weighted_mean(reports, 2, 20).mean).all()


@given(
    st.lists(st.tuples(st.integers(-127, 127), st.integers(0, 10**6)), min_size=1, max_size=8),
    st.integers(1, 1000),
)
def test_one_report_moves_it_by_its_value_over_the_plan_whatever_count_it_claims(entries, cap) -> None:
    reports = [report(f"d{i}", [value], examples=count) for i, (value, count) in enumerate(entries)]
    moved = fixed_mean(reports, 1, cap, 8).mean - fixed_mean(reports[1:], 1, cap, 8).mean
    assert abs(int(moved[0])) <= abs(entries[0][0]) * 65536 / 8 + 1


def test_more_reports_than_planned_or_sums_past_64_bits_are_refused() -> None:
    with pytest.raises(ValueError, match="planned were 1"):
        fixed_mean([report("a", [1]), report("b", [1])], 1, 1, 1)
    with pytest.raises(ValueError, match="64 bits"):
        fixed_mean([report("a", [1], shift=14)], 1, 1 << 20, 1 << 10)
    with pytest.raises(ValueError, match="not positive"):
        fixed_mean([], 1, 1, 0)
