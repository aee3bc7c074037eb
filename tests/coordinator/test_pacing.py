"""Pacing by small numbers, and a coordinator's core under it."""

from dataclasses import replace

import pytest

from sanderling.broker.messages import StatusMessage
from sanderling.coordinator import pacing
from sanderling.coordinator.pacing import Candidate, Reach, answered, density, missed, scale_shift, wait_s
from sanderling.coordinator.rounds import Announce, RecordClosed, RecordOpened, update_plan


def status() -> StatusMessage:
    return StatusMessage(
        state="online",
        num_examples=5,
        boot=bytes(8),
        backend="reference",
        software="t",
        arithmetic_drift_lsb=None,
        detail="",
        receive_buffer_bytes=None,
    )


def candidate(name: str, seconds: float | None, bytes_left: int | None = None) -> Candidate:
    reach = None if seconds is None else Reach(smoothed_s=seconds, deviation_s=0.0)
    return Candidate(device_id=name, reach=reach, bytes_left=bytes_left)


def pace(candidates: list[Candidate], number: int = 1, **changes: int) -> pacing.Pace:
    choices = {"quorum": 2, "longest_s": 600.0, "round_bytes": 1000, "rounds_left": 10}
    return pacing.pace(candidates, number=number, **(choices | changes))


def test_a_reach_is_tcps_smoothed_round_trip():
    reach = answered(answered(None, 8.0), 16.0)
    assert reach == Reach(smoothed_s=9.0, deviation_s=5.0)  # 8 + 8/8; 4 + (8 - 4)/4
    assert reach.expected_s == 29.0


def test_two_missed_rounds_may_be_an_outage_and_more_double_the_wait():
    reach = missed(missed(Reach(smoothed_s=2.0, deviation_s=0.5), 4.0), 4.0)
    assert reach.expected_s == 4.0
    reach = missed(missed(reach, 4.0), 8.0)
    assert reach.expected_s == 16.0
    assert answered(reach, 30.0) == answered(None, 30.0)  # what was known no longer holds
    assert missed(None, 60.0).expected_s == 120.0


@pytest.mark.parametrize(("rounds", "lane"), [(1, 1), (2, 2), (3, 4), (9, 4)])
def test_who_missed_rounds_is_asked_less_often(rounds, lane):
    silent = Candidate(device_id="c", reach=Reach(smoothed_s=1e-6, deviation_s=0.0, missed=rounds))
    fleet = [candidate("a", 1.0), candidate("b", 1.0), silent]
    asked = [number for number in range(1, 10) if "c" in pace(fleet, number).cohort]
    assert asked == list(range(1, 10, lane))


def test_a_late_device_is_waited_for_as_much_longer_as_its_report_would_add():
    inside = [Reach(smoothed_s=1.0, deviation_s=1.0)] * 4
    assert (
        wait_s(inside, [Reach(smoothed_s=2.0, deviation_s=1.0)], 600.0) == 2.5
    )  # 2 * (1 + 1/4), before 2 + 4 * 1
    assert wait_s(inside, [Reach(smoothed_s=2.0, deviation_s=0.1)], 600.0) == 2.4
    assert wait_s(inside, [], 600.0) == 0.0
    assert wait_s(inside, [Reach(smoothed_s=900.0, deviation_s=0.0)], 600.0) == 600.0


def test_who_never_answered_is_waited_for_to_the_end_unless_nearly_everyone_is_in():
    inside = [Reach(smoothed_s=3.0, deviation_s=0.0)] * 4
    assert wait_s(inside, [None, None], 600.0) == 600.0
    assert wait_s(inside, [None], 600.0) == 6.0


def test_the_first_round_asks_everyone_and_waits_as_long_as_allowed():
    chosen = pace([candidate("b", None), candidate("a", None)])
    assert (chosen.cohort, chosen.deadline_s) == (("a", "b"), 600.0)


def test_a_fleet_of_one_speed_is_asked_in_every_round_and_waited_for_no_longer_than_it_takes():
    fleet = [candidate(name, 3.0) for name in "abc"]
    for number in (1, 2, 3, 4):
        assert pace(fleet, number).cohort == ("a", "b", "c")
    assert pace(fleet, 2).deadline_s == 3.0


@pytest.mark.parametrize(("times_slower", "lane"), [(3, 1), (4, 2), (15, 2), (16, 4), (10_000, 4)])
def test_a_slow_device_is_asked_in_every_square_roots_round(times_slower, lane):
    fleet = [candidate("a", 1.0), candidate("b", 1.0), candidate("slow", float(times_slower))]
    asked = [number for number in range(1, 9) if "slow" in pace(fleet, number, longest_s=1e6).cohort]
    assert asked == list(range(1, 9, lane))
    waits = {number: pace(fleet, number, longest_s=1e6).deadline_s for number in range(1, 9)}
    assert all(waits[number] == (times_slower if number in asked else 1.0) for number in waits)


def test_who_cannot_afford_the_round_is_not_asked():
    chosen = pace([candidate("a", 1.0), candidate("b", 1.0), candidate("poor", 1.0, bytes_left=999)])
    assert chosen.cohort == ("a", "b")
    assert chosen.reason == "asks 2 of 3, waits 1.0 s; 1 cannot afford 1000 B"
    short = pace([candidate("a", 1.0), candidate("poor", 1.0, bytes_left=999)])
    assert short.cohort == ()
    assert short.reason == "1 of 2 devices can afford a round"


def test_a_budget_for_half_of_the_rounds_lasts_for_all_of_them():
    fleet = [candidate("a", 1.0), candidate("b", 1.0), candidate("metered", 1.0, bytes_left=5000)]
    asked = [number for number in range(1, 11) if "metered" in pace(fleet, number).cohort]
    assert asked == [1, 5, 9]
    assert len(asked) * 1000 <= 5000


def test_a_quorum_is_asked_even_where_only_slow_devices_are_left():
    fleet = [candidate("a", 1.0), candidate("b", 100.0), candidate("c", 90.0)]
    assert pace(fleet, 2, longest_s=1e3, quorum=3).cohort == ("a", "b", "c")


def test_density_is_the_ratio_of_what_travels_in_any_case_to_what_grows_with_it():
    assert density(fixed_bytes=225, dimension=2000) == pytest.approx((225 + pacing.FRAMING_BYTES) / 1250)
    assert density(fixed_bytes=200_000, dimension=100_000) == 1.0
    assert density(fixed_bytes=0, dimension=1_000_000) == pacing.LEAST_DENSITY


def test_the_scale_shift_moves_by_one_where_steps_are_too_fine_or_too_coarse():
    assert scale_shift(7, [0.5, 0.5, 40.0]) == 6
    assert scale_shift(7, [40.0, 40.0, 0.5]) == 8
    assert scale_shift(7, [4.0]) == 7
    assert scale_shift(7, []) == 7
    assert scale_shift(pacing.MIN_SHIFT, [0.0]) == pacing.MIN_SHIFT


# ------------------------------------------------------------------------- in the coordinator's core


def adaptive(lab, **changes):
    lab = lab(**({"count": 20, "deadline_s": 100.0} | changes))
    lab.settings = replace(lab.settings, adaptive=True)
    return lab


def test_a_round_waits_for_each_device_as_long_as_it_took_before(lab):
    lab = adaptive(lab)
    lab.announce("a", "b")
    assert lab.state.open.deadline == lab.now + 100.0
    lab.tick(2.0)
    lab.report("a", "b")
    assert lab.state.open.deadline == lab.now + 2.0 + 4 * 1.0  # deviation: half of the first sample
    lab.tick(5.9)
    assert len(lab.of(RecordClosed)) == 1
    lab.tick(0.2)
    assert len(lab.of(RecordClosed)) == 2


def test_who_misses_one_round_is_asked_again_in_the_next(lab):
    lab = adaptive(lab, minimum=3)
    lab.announce("a", "b", "c")
    lab.tick(2.0)
    lab.report("a", "b", "c")
    lab.tick(1.0)
    lab.report("a", "b")
    lab.tick(6.0)
    assert lab.state.reaches["c"].missed == 1
    assert lab.state.open.cohort == ("a", "b", "c")


def test_a_report_stands_for_the_rounds_its_device_was_not_asked_in(lab):
    lab = adaptive(lab, density=1.0)
    fast, slow = Reach(smoothed_s=1.0, deviation_s=0.0), Reach(smoothed_s=16.0, deviation_s=0.0)
    lab.state = replace(
        lab.state,
        devices=dict.fromkeys("abc", status()),
        reaches={"a": fast, "b": fast, "c": slow},
        answered={"a": 4, "b": 4, "c": 1},
        rounds_closed=4,
    )
    lab.tick()
    assert lab.state.open.cohort == ("a", "b", "c")
    lab.report("a", "b", value=0)
    lab.report("c", value=3)
    (closed,) = lab.of(RecordClosed)
    assert (closed.model.theta - range(6)).tolist() == [2] * 6  # (0 + 0 + 4 * 3) / (1 + 1 + 4)
    assert lab.state.open.cohort == ("a", "b")


def test_density_and_shift_are_the_rounds_own_and_the_door_holds_to_them(lab):
    lab = adaptive(lab, density=0.5)
    lab.announce("a", "b")
    opened = lab.of(RecordOpened)[0].round
    assert opened.update.coordinates == 6  # of 6: plan and body outweigh any update
    assert lab.of(Announce)[0].plan.update == opened.update
    lab.report("a", "b", value=4)
    (closed,) = lab.of(RecordClosed)
    # Twice as dense as the settings say: each coordinate moves by half, as it would in the mean over the rounds.
    assert (closed.model.theta - range(6)).tolist() == [2] * 6


def test_without_adaptive_nothing_is_paced(lab):
    lab = lab(density=0.5)
    lab.announce("a", "b")
    assert lab.state.open.reason == ""
    assert update_plan(lab.settings, lab.state, 1).coordinates == 3
