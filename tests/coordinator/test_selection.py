from collections import Counter

from sanderling.coordinator.selection import cohort_size, select
from sanderling.coordinator.settings import SelectionSettings
from sanderling.models.random_bits import derive_key

DEVICES = [f"d{number}" for number in range(20)]


def settings(cohort: int, expected_dropout: float = 0.0) -> SelectionSettings:
    return SelectionSettings(cohort=cohort, expected_dropout=expected_dropout, minimum=1)


def test_a_cohort_of_zero_asks_everyone() -> None:
    assert select(settings(0), DEVICES, (1, 2)) == tuple(sorted(DEVICES))


def test_more_are_asked_where_some_are_expected_to_fail() -> None:
    assert cohort_size(settings(6, 0.25), 20) == 8
    assert cohort_size(settings(6, 0.25), 7) == 7


def test_selection_depends_on_the_key_and_not_on_the_order_of_arrival() -> None:
    assert select(settings(5), DEVICES, (1, 2)) == select(settings(5), DEVICES[::-1], (1, 2))
    assert select(settings(5), DEVICES, (1, 2)) != select(settings(5), DEVICES, (1, 3))


def test_every_device_is_asked_about_as_often() -> None:
    asked = Counter(
        device for number in range(2000) for device in select(settings(5), DEVICES, derive_key("s", number))
    )
    # 500 expected, standard deviation 19.4; five of them on either side
    assert all(400 < asked[device] < 600 for device in DEVICES)
