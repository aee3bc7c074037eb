import pytest

from sanderling.broker.link_measure import AcknowledgementMeter


def test_nothing_is_known_before_the_first_acknowledgement():
    meter = AcknowledgementMeter()
    meter.sent(1, 100, 0.0)
    assert meter.round_trip_s is None
    assert meter.goodput_bytes_s is None


def test_one_message_of_100_bytes_in_two_seconds():
    meter = AcknowledgementMeter()
    meter.sent(1, 100, 10.0)
    meter.acknowledged(1, 12.0)
    assert meter.round_trip_s == 2.0
    assert meter.goodput_bytes_s == 50.0


def test_idle_time_does_not_count_against_goodput():
    meter = AcknowledgementMeter()
    for start in (0.0, 1000.0):
        meter.sent(1, 100, start)
        meter.acknowledged(1, start + 1.0)
    assert meter.goodput_bytes_s == pytest.approx(100.0)


def test_overlapping_messages_count_their_common_time_once():
    meter = AcknowledgementMeter()
    meter.sent(1, 100, 0.0)
    meter.sent(2, 100, 0.0)
    meter.acknowledged(1, 1.0)
    meter.acknowledged(2, 2.0)
    assert meter.goodput_bytes_s == pytest.approx((7 / 8 * 100 + 100) / (7 / 8 * 1 + 1))


def test_round_trips_are_smoothed_by_an_eighth():
    meter = AcknowledgementMeter()
    for start, trip in [(0.0, 1.0), (10.0, 9.0)]:
        meter.sent(1, 1, start)
        meter.acknowledged(1, start + trip)
    assert meter.round_trip_s == 2.0


def test_a_repeated_message_gives_no_round_trip_and_its_waiting_is_not_goodput():
    meter = AcknowledgementMeter()
    meter.sent(1, 100, 0.0)
    assert meter.repeated(100.0) == (1, 100)
    meter.acknowledged(1, 101.0)
    assert meter.round_trip_s is None
    assert meter.goodput_bytes_s == 100.0


def test_an_unknown_acknowledgement_changes_nothing():
    meter = AcknowledgementMeter()
    meter.acknowledged(5, 1.0)
    assert meter.round_trip_s is None
