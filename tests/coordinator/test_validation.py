import numpy as np
import pytest

from sanderling.coordinator.validation import (
    Limits,
    Quarantine,
    QuarantineSettings,
    anomalies,
    flags,
    is_confined,
    observe,
)
from tests.coordinator import attacks
from tests.coordinator.aggregation.samples import report

SETTINGS = QuarantineSettings(strikes=2, memory_rounds=3, rounds=5, most=2)
NOTHING = np.zeros(64, dtype=np.int64)


def honest_rows(seed: int, count: int = 8) -> np.ndarray:
    rng = np.random.default_rng(seed)
    common = rng.normal(0, 12, 64)
    return np.clip(np.rint(common + rng.normal(0, 8, (count, 64))), -127, 127).astype(np.int64)


def test_figures_of_three_updates_worked_by_hand() -> None:
    # norms 5, 10, 10 steps of 2; their median 10, the deviations 5, 0, 0 and their median 0; the median is (6, 8)
    reports = [
        report("c", [6, 8], shift=1),
        report("a", [4, 3], shift=1, examples=100),
        report("b", [6, 8], shift=1),
    ]
    previous = np.array([-1, 0] + [0] * 62)
    a, b, c = anomalies(reports, previous)
    assert (a.device_id, b.device_id, c.device_id) == ("a", "b", "c")
    assert (a.norm, a.norm_ratio, a.norm_score) == (10.0, 0.5, 0.0)
    assert a.cosine_median == pytest.approx((24 + 24) / 50)
    assert a.cosine_previous == pytest.approx(-4 / 5)
    assert (a.positive_share, a.zero_share) == (1.0, 0.0)
    assert a.count_ratio == 10.0
    assert (b.norm_ratio, b.cosine_median) == (1.0, pytest.approx(1.0))


def test_an_update_of_zeros_has_no_direction_and_no_signs() -> None:
    zero, *_ = anomalies([report("a", [0, 0]), report("b", [1, 1]), report("c", [1, 1])], NOTHING)
    assert (zero.norm, zero.cosine_median, zero.positive_share, zero.zero_share) == (0.0, 0.0, 0.0, 1.0)
    assert flags(zero, Limits()) == ()


@pytest.mark.parametrize(
    ("attack", "reason"),
    [
        (attacks.boosted(), "norm ratio"),
        (attacks.sign_flip(), "cosine to the median"),
        (attacks.inner_product(0.5), "cosine to the median"),
        (attacks.gaussian(100.0), "norm ratio"),
    ],
)
def test_crude_attacks_are_flagged_and_honest_devices_are_not(attack, reason) -> None:
    rows = honest_rows(1)
    hostile = attack(rows, 1, np.random.default_rng(2))
    reports = [report(f"h{i}", row) for i, row in enumerate(rows)] + [report("x", hostile[0])]
    found = {anomaly.device_id: flags(anomaly, Limits()) for anomaly in anomalies(reports, NOTHING)}
    assert any(reason in why for why in found.pop("x"))
    assert set(found.values()) == {()}


def test_attacks_made_to_hide_are_not_seen_so_scores_replace_no_robust_rule() -> None:
    rows = honest_rows(1)
    for attack in (attacks.little_is_enough(), attacks.mimic()):
        hostile = attack(rows, 1, np.random.default_rng(2))
        reports = [report(f"h{i}", row) for i, row in enumerate(rows)] + [report("x", hostile[0])]
        assert all(flags(anomaly, Limits()) == () for anomaly in anomalies(reports, NOTHING))


def test_signs_of_one_kind_and_an_inflated_count_are_flagged() -> None:
    reports = [report(f"h{i}", row) for i, row in enumerate(honest_rows(1))]
    reports.append(report("x", np.abs(honest_rows(1)[0]), examples=1000))
    *_, x = anomalies(reports, NOTHING)
    reasons = flags(x, Limits())
    assert "share of one sign 1, limit 0.95" in reasons
    assert "count ratio 100, limit 20" in reasons


def test_a_device_is_set_aside_after_its_strikes_with_reasons_and_returns() -> None:
    state = observe(Quarantine(), {"x": ("norm ratio 9, limit 3",), "a": ()}, 1, SETTINGS)
    assert not state.confined
    state = observe(state, {"x": ("norm ratio 8, limit 3",), "a": ()}, 2, SETTINGS)
    assert state.confined["x"].reasons == ("norm ratio 8, limit 3",)
    assert [is_confined(state, "x", number) for number in (3, 7, 8)] == [True, True, False]
    assert not is_confined(state, "a", 3)
    state = observe(state, {}, 7, SETTINGS)
    assert not state.confined
    assert not state.strikes


def test_strikes_are_forgotten() -> None:
    state = observe(Quarantine(), {"x": ("odd",)}, 1, SETTINGS)
    state = observe(state, {"x": ("odd",)}, 4, SETTINGS)  # round 1 is 3 rounds ago
    assert not state.confined
    assert state.strikes == {"x": (4,)}


def test_no_more_are_set_aside_than_may_be_hostile_the_most_flagged_first() -> None:
    odd = ("odd",)
    state = observe(Quarantine(), {"a": odd}, 1, SETTINGS)
    state = observe(state, {"b": odd, "c": odd}, 2, SETTINGS)
    settings = QuarantineSettings(strikes=2, memory_rounds=3, rounds=5, most=1)
    state = observe(state, {"a": odd, "b": odd, "c": odd}, 3, settings)
    assert set(state.confined) == {"a"}
    state = observe(state, {"b": odd, "c": odd}, 4, SETTINGS)
    assert set(state.confined) == {"a", "b"}
