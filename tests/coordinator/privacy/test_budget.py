"""The budget's pure core: never exceeded, one noise a round, and each adversary's view."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sanderling.coordinator.privacy.accounting import Charge, Sampling, epsilon
from sanderling.coordinator.privacy.budget import (
    Budget,
    BudgetSpentError,
    Spending,
    affordable,
    cancel,
    freeze,
    release,
    reserve,
    spent,
    spent_by_device,
)
from sanderling.coordinator.privacy.noise import FrozenSet, NoiseKey, NoiseSize, seeded_key
from sanderling.models.errors import UnsoundError

DELTA = 1e-5
CHARGE = Charge(noise_multiplier=2.0)
SIZE = NoiseSize(coordinates=1, variance=100)


def cost(rounds: int, charge: Charge = CHARGE, **more: bool) -> float:
    return epsilon({charge: rounds}, DELTA, **more)


def of(limit: float, device: float | None = None) -> Spending:
    return Spending(budget=Budget(epsilon=limit, delta=DELTA, device_epsilon=device))


def frozen(number: int, content: int = 0, *, private: bool = True) -> FrozenSet:
    key = NoiseKey(secret=bytes([number] * 32), private=private)
    return FrozenSet(number=number, accepted_hash=bytes([content] * 32), size=SIZE, key=key)


def test_a_round_that_would_break_the_budget_does_not_start():
    state = of(cost(2))
    state = reserve(state, 1, CHARGE, "ab")
    state = reserve(state, 2, CHARGE, "ab")
    with pytest.raises(BudgetSpentError, match="round 3 does not start: 2 rounds spent"):
        reserve(state, 3, CHARGE, "ab")
    with pytest.raises(BudgetSpentError):
        reserve(of(cost(1) * 0.999), 1, CHARGE, "ab")


def test_reserved_counts_as_spent_before_anything_is_released():
    state = reserve(of(9.0), 1, CHARGE, "a")
    assert spent(state)[0].epsilon == cost(1)
    assert spent_by_device(state) == {"a": cost(1)}


def test_each_device_has_a_budget_of_its_own():
    state = of(cost(5), cost(2))
    state = reserve(state, 1, CHARGE, ["a", "b"])
    state = reserve(state, 2, CHARGE, ["a", "c"])
    assert affordable(state, CHARGE, "abcd") == {"b", "c", "d"}
    with pytest.raises(BudgetSpentError, match="a cannot bear it") as refusal:
        reserve(state, 3, CHARGE, ["a", "b"])
    assert refusal.value.devices == ("a",)
    state = reserve(state, 3, CHARGE, affordable(state, CHARGE, "abcd"))
    assert spent_by_device(state) == {"a": cost(2), "b": cost(2), "c": cost(2), "d": cost(1)}
    assert spent(state)[0].epsilon == cost(3)


def test_a_device_that_did_not_report_is_not_charged_but_the_federation_is():
    state = reserve(of(9.0), 1, CHARGE, "abc")
    state = freeze(state, frozen(1), "ac")
    assert spent_by_device(state) == {"a": cost(1), "c": cost(1)}
    assert spent(state)[0].epsilon == cost(1)
    with pytest.raises(UnsoundError, match="accepted d"):
        freeze(reserve(of(9.0), 1, CHARGE, "abc"), frozen(1), "ad")


def test_a_resumed_round_keeps_its_noise_and_late_reports_never_enter():
    state = freeze(reserve(of(9.0), 1, CHARGE, "abc"), frozen(1), "ab")
    other_key = FrozenSet(number=1, accepted_hash=bytes(32), size=SIZE, key=seeded_key(1))
    resumed = freeze(state, other_key, "ab")
    assert resumed.entries[1].frozen.key.secret == bytes([1] * 32)
    with pytest.raises(UnsoundError, match="late reports never enter"):
        freeze(state, frozen(1, content=5), "abc")
    resized = FrozenSet(
        number=1, accepted_hash=bytes(32), size=NoiseSize(coordinates=1, variance=99), key=seeded_key(1)
    )
    with pytest.raises(UnsoundError, match="other noise"):
        freeze(state, resized, "ab")


def test_the_order_of_a_rounds_life_is_kept():
    with pytest.raises(UnsoundError, match="no reservation"):
        freeze(of(9.0), frozen(1), "a")
    state = reserve(of(9.0), 1, CHARGE, "a")
    with pytest.raises(UnsoundError, match="not frozen"):
        release(state, 1, b"model")
    state = release(freeze(state, frozen(1), "a"), 1, b"model")
    assert release(state, 1, b"model") == state
    with pytest.raises(UnsoundError, match="re-publish the stored model"):
        release(state, 1, b"other")
    with pytest.raises(UnsoundError, match="stays charged"):
        cancel(state, 1)


def test_reserving_again_changes_nothing_unless_it_differs():
    state = reserve(of(cost(1)), 1, CHARGE, "ab")
    assert reserve(state, 1, CHARGE, "ba") is state
    after = freeze(state, frozen(1), "a")
    assert (
        reserve(after, 1, CHARGE, "ab") is after
    )  # a resumed round, whose cohort has shrunk to who reported
    with pytest.raises(UnsoundError, match="another charge or cohort"):
        reserve(state, 1, CHARGE, "abc")


def test_an_abandoned_round_gives_its_reservation_back_unless_it_was_sampled(dp):
    state = reserve(of(cost(1)), 1, CHARGE, "ab")
    assert cancel(state, 1).entries == {}
    assert cancel(state, 2) is state
    sampled = Charge(noise_multiplier=20.0, sampling=Sampling(probability=0.1, population=100))
    state = reserve(of(9.0), 1, sampled, "ab")
    assert cancel(state, 1) is state


def test_each_adversary_has_its_own_epsilon(dp):
    sampled = Charge(noise_multiplier=4.0, sampling=Sampling(probability=0.1, population=100))
    state = freeze(reserve(of(9.0), 1, sampled, "ab"), frozen(1), "a")
    observer, participant, coordinator = spent(state)
    assert observer.epsilon == participant.epsilon == cost(1, sampled) < cost(1, sampled, amplified=False)
    assert coordinator.epsilon == math.inf
    assert "trusted" in coordinator.note
    # who knows the cohort sees no amplification; a device that was drawn stays charged though it did not report
    assert spent_by_device(state) == {
        "a": cost(1, sampled, amplified=False),
        "b": cost(1, sampled, amplified=False),
    }


def test_a_participant_of_a_capped_cohort_gets_no_amplification(dp):
    capped = Charge(noise_multiplier=4.0, sampling=Sampling(probability=0.1, population=100, cap=20))
    observer, participant, _ = spent(reserve(of(9.0), 1, capped, "ab"))
    assert observer.epsilon < participant.epsilon == cost(1, capped, amplified=False)


def test_seeded_noise_promises_nothing():
    state = freeze(reserve(of(9.0), 1, CHARGE, "a"), frozen(1, private=False), "a")
    assert all(view.epsilon == math.inf and "not private" in view.note for view in spent(state))
    assert spent_by_device(state) == {"a": math.inf}


def test_turning_devices_away_under_sampling_is_refused():
    sampled = Charge(noise_multiplier=4.0, sampling=Sampling(probability=0.1, population=100))
    with pytest.raises(UnsoundError, match="device_epsilon"):
        reserve(of(9.0, 9.0), 1, sampled, "a")


def test_a_sampled_run_keeps_its_noise_and_its_coin(dp):
    sampling = Sampling(probability=0.1, population=100)
    state = reserve(of(9.0), 1, Charge(noise_multiplier=4.0, sampling=sampling), "a")
    for other in (CHARGE, Charge(noise_multiplier=5.0, sampling=sampling)):
        with pytest.raises(UnsoundError, match="rounds of 2 kinds"):
            reserve(state, 2, other, "a")
    reserve(
        state, 2, Charge(noise_multiplier=4.0, sampling=sampling, divergence=1e-20), "a"
    )  # fewer coordinates


def test_a_budget_of_nothing_is_refused():
    for wrong in ({"epsilon": 0.0}, {"delta": 0.0}, {"delta": 1.0}, {"device_epsilon": -1.0}):
        with pytest.raises(UnsoundError):
            Budget(**({"epsilon": 1.0, "delta": DELTA} | wrong))


DEVICES = st.frozensets(st.sampled_from("abcd"), min_size=1)


@settings(max_examples=40, deadline=None)
@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from(["reserve", "freeze", "release", "cancel"]),
            st.integers(1, 6),
            st.integers(1, 3),
            DEVICES,
        ),
        max_size=25,
    )
)
def test_whatever_is_asked_no_limit_is_exceeded(steps):
    state, released = of(2.5, 1.5), {}
    for action, number, z, devices in steps:
        try:
            match action:
                case "reserve":
                    state = reserve(state, number, Charge(noise_multiplier=2.0 * z), devices)
                case "freeze":
                    state = freeze(state, frozen(number, content=z), devices)
                case "release":
                    state = release(state, number, bytes([z]))
                    released.setdefault(number, bytes([z]))
                case "cancel":
                    state = cancel(state, number)
        except UnsoundError:
            pass
        assert spent(state)[0].epsilon <= 2.5
        assert max(spent_by_device(state).values(), default=0) <= 1.5
        assert released == {n: entry.model_hash for n, entry in state.entries.items() if entry.model_hash}
