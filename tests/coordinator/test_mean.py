import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sanderling.coordinator.aggregation.mean import weighted_mean
from sanderling.coordinator.reports import Report
from sanderling.models.updates import QuantizedUpdate


def report(device: str, values: dict[int, int], examples: int, scale_shift: int = 0) -> Report:
    update = QuantizedUpdate(
        dimension=4,
        coordinates=np.array(sorted(values), dtype=np.int32),
        values=np.array([values[key] for key in sorted(values)], dtype=np.int8),
        scale_shift=scale_shift,
    )
    return Report(
        device_id=device,
        num_examples=examples,
        update=update,
        validation_correct=0,
        validation_count=0,
        validation_loss=0.0,
        training_loss=0.0,
        message=b"",
    )


def test_reports_weigh_by_their_examples() -> None:
    # (1 * 10 + 3 * 2) / 4 = 4, at steps of 4: 16
    mean = weighted_mean([report("a", {1: 10}, 1, 2), report("b", {1: 2}, 3, 2)], 4, 100)
    assert (mean.mean / 65536).tolist() == [0, 16, 0, 0]
    assert mean.total_weight == 4
    assert mean.participants == ("a", "b")


def test_a_claim_of_many_examples_weighs_no_more_than_the_cap() -> None:
    mean = weighted_mean([report("a", {0: 100}, 10**9), report("b", {0: 0}, 10)], 4, 10)
    assert mean.mean[0] / 65536 == 50


def test_a_coordinate_nobody_sent_does_not_change() -> None:
    assert weighted_mean([report("a", {2: 5}, 1)], 4, 10).mean.tolist() == [0, 0, 5 << 16, 0]


def test_without_an_example_there_is_no_mean() -> None:
    with pytest.raises(ValueError, match="at least one report"):
        weighted_mean([], 4, 10)


@given(
    st.lists(st.tuples(st.integers(-127, 127), st.integers(1, 4096)), min_size=1, max_size=12),
    st.randoms(use_true_random=False),
)
def test_the_order_of_reports_changes_no_bit_and_the_mean_is_rounded_to_nearest(entries, random) -> None:
    reports = [report(f"d{index}", {3: value}, weight, 10) for index, (value, weight) in enumerate(entries)]
    mean = weighted_mean(reports, 4, 4096).mean
    exact = (
        sum(value * weight for value, weight in entries) * 1024 * 65536 / sum(weight for _, weight in entries)
    )
    assert abs(int(mean[3]) - exact) <= 0.5 + 1e-6 * abs(exact)
    random.shuffle(reports)
    assert (weighted_mean(reports, 4, 4096).mean == mean).all()
