"""Bytes counted by hand, and the promise under any traffic and any crash."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sanderling.edge_runtime import byte_budget
from sanderling.edge_runtime.byte_budget import (
    DAY_S,
    RESERVE_BYTES,
    ByteAccount,
    ByteBudget,
    Spent,
    fetch_bytes,
    left,
    message_bytes,
    on_day,
    wire_bytes,
)
from sanderling.models.errors import UsageError


class Disk:
    """A disk that keeps what was written, and may be full."""

    def __init__(self) -> None:
        self.content: dict[str, bytes] = {}
        self.writes = 0
        self.full = False

    def read(self, name: str) -> bytes | None:
        return self.content.get(name)

    def write(self, name: str, content: bytes) -> None:
        if self.full:
            raise OSError(28, "No space left on device")
        self.content[name] = content
        self.writes += 1


class Clock:
    def __init__(self, now: float = 10.0 * DAY_S) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def account(per_day: int | None = 10_000, per_round: int | None = None) -> tuple[ByteAccount, Disk, Clock]:
    disk, clock = Disk(), Clock()
    return ByteAccount(ByteBudget(per_day=per_day, per_round=per_round), disk, clock), disk, clock


def test_a_ping_costs_fifty_times_its_two_bytes():
    assert wire_bytes(2) == 2 + 2 * 52
    assert wire_bytes(2, tls=True) == 2 + 29 + 2 * 52
    assert wire_bytes(1_400) == 1_400 + 2 * 52
    assert wire_bytes(1_401) == 1_401 + 4 * 52


def test_a_message_is_counted_with_topic_framing_and_acknowledgement():
    assert message_bytes("a/b", 100) == wire_bytes(10 + 3 + 100) + wire_bytes(4)
    assert fetch_bytes("a/b", 100) == message_bytes("a/b", 100) + 2 * (wire_bytes(13) + wire_bytes(10))


def test_a_new_day_begins_at_nothing_and_a_clock_set_back_begins_none():
    spent = Spent(day=10, day_bytes=500)
    assert on_day(spent, 11 * DAY_S).day_bytes == 0
    assert on_day(spent, 11 * DAY_S - 1).day_bytes == 500
    assert on_day(spent, 0.0) == spent


def test_a_rounds_count_ends_with_the_round():
    spent = Spent(day=10, day_bytes=500, round_bytes=300, round_ends=10 * DAY_S + 60)
    assert on_day(spent, 10 * DAY_S + 59).round_bytes == 300
    assert on_day(spent, 10 * DAY_S + 60) == Spent(day=10, day_bytes=500)


def test_what_is_left_sets_the_reserve_aside():
    spent = Spent(day=10, day_bytes=500, round_bytes=300, round_ends=1.0)
    both = left(ByteBudget(per_day=10_000, per_round=5_000), spent)
    assert (both.day, both.round, both.least) == (
        9_500 - RESERVE_BYTES,
        4_700 - RESERVE_BYTES,
        4_700 - RESERVE_BYTES,
    )
    assert left(ByteBudget(), spent).least is None


def test_a_budget_smaller_than_its_reserve_is_refused():
    with pytest.raises(UsageError, match="4095 bytes a day: expected at least 4096"):
        ByteBudget(per_day=4_095)


def test_the_record_runs_ahead_of_what_was_moved():
    kept, disk, _ = account()
    assert kept.open()
    kept.use(100)
    stored = byte_budget._from_bytes(disk.content["bytes"])
    assert stored.day_bytes >= kept.used().day_bytes + RESERVE_BYTES
    assert disk.writes == 1  # the block holds the packet


def test_an_orderly_end_gives_back_what_was_written_ahead_and_a_crash_does_not():
    kept, disk, clock = account()
    kept.open()
    kept.use(100)
    after_a_crash = ByteAccount(kept.budget, disk, clock)
    assert after_a_crash.used().day_bytes == RESERVE_BYTES + byte_budget.BLOCK_BYTES
    kept.close()
    assert ByteAccount(kept.budget, disk, clock).used() == kept.used()


def test_nothing_is_moved_when_the_record_cannot_be_written():
    kept, disk, _ = account()
    disk.full = True
    assert not kept.open()
    with pytest.raises(OSError, match="No space left"):
        kept.prepare(10)
    disk.full = False
    assert kept.open()


def test_once_only_the_reserve_is_left_the_account_is_closed_until_the_next_day():
    kept, _, clock = account(per_day=5_000)
    assert kept.can(2_952)
    assert not kept.can(2_953)
    assert kept.count(2_951)
    assert not kept.count(1)
    assert not kept.open()
    clock.now += DAY_S
    assert kept.open()


def test_a_round_has_its_own_count_until_it_ends():
    kept, _, clock = account(per_day=None, per_round=5_000)
    assert kept.count(100_000)
    kept.begin_round(300, ends=clock.now + 60)
    assert kept.can(2_652)
    assert not kept.count(2_652)
    clock.now += 60
    assert kept.open()


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("send"), st.integers(1, 3_000)),
            st.tuples(st.just("come"), st.integers(1, RESERVE_BYTES - 800)),
            st.tuples(st.just("crash"), st.just(0)),
            st.tuples(st.just("later"), st.integers(1, DAY_S)),
        ),
        max_size=60,
    )
)
def test_no_day_moves_more_than_its_budget_whatever_happens(events):
    kept, disk, clock = account(per_day=12_000)
    moved: dict[int, int] = {}
    for kind, value in events:
        day = int(clock.now // DAY_S)
        match kind:
            case "send" if kept.open() and kept.can(value):
                kept.count(value)
                moved[day] = moved.get(day, 0) + value
            case "come" if kept.open():  # unasked, while the link is up; it closes when the account does
                kept.count(value)
                moved[day] = moved.get(day, 0) + value
            case "crash":
                kept = ByteAccount(kept.budget, disk, clock)
            case "later":
                clock.now += value
    assert all(size <= 12_000 for size in moved.values())
