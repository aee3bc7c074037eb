"""Numbers that only go up: no nonce twice whatever crashes, no message twice within the window."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sanderling.broker.counters import (
    BLOCK,
    MAX_COUNTER,
    WINDOW,
    Nonces,
    ReplayWindow,
    next_sequence,
    read_leb128,
    restored,
    write_leb128,
    write_mark,
)
from sanderling.broker.errors import MessageError, NonceError, OutsideWindowError, ReplayedError

PUBLIC = bytes(range(32))


class PowerLostError(Exception):
    pass


class Disk:
    """One record that is replaced as a whole. It may fail, or lose power, before or after that."""

    def __init__(self) -> None:
        self.content: bytes | None = write_mark(0, PUBLIC)
        self.fate = "well"
        self.writes = 0

    def reserve(self, mark: int) -> None:
        if self.fate == "lost before":
            raise PowerLostError
        if self.fate == "full":
            raise OSError(28, "no space left")
        self.content = write_mark(mark, PUBLIC)
        self.writes += 1
        if self.fate == "lost after":
            raise PowerLostError
        if self.fate == "written, but reported as failed":
            raise OSError(5, "input/output error")


FATES = ["well", "full", "lost before", "lost after", "written, but reported as failed"]
lives = st.lists(  # what befalls the device: takes under one fate of the disk, then a restart or none
    st.tuples(st.integers(1, 2 * BLOCK), st.sampled_from(FATES), st.booleans()), min_size=1, max_size=12
)


@given(lives)
def test_no_nonce_is_given_twice_whatever_happens_to_the_disk_and_the_power(
    life: list[tuple[int, str, bool]],
) -> None:
    disk, given_out = Disk(), []
    nonces = restored(disk.content, PUBLIC)
    for takes, disk.fate, restart in life:
        for _ in range(takes):
            try:
                number, nonces = nonces.take(disk.reserve)
                given_out.append(number)
            except OSError:
                continue  # the device abstains, and tries again at the next round
            except PowerLostError:
                nonces = restored(disk.content, PUBLIC)
                disk.fate = "well"
        if restart:
            nonces = restored(disk.content, PUBLIC)
    assert len(set(given_out)) == len(given_out)
    assert given_out == sorted(given_out)
    assert all(number <= int.from_bytes((disk.content or b"")[:6], "big") for number in given_out)


def test_a_block_costs_one_write() -> None:
    disk = Disk()
    nonces = restored(disk.content, PUBLIC)
    for expected in range(1, 3 * BLOCK + 1):
        number, nonces = nonces.take(disk.reserve)
        assert number == expected
    assert disk.writes == 3
    assert restored(disk.content, PUBLIC) == Nonces(used=3 * BLOCK, mark=3 * BLOCK)


def test_a_device_whose_disk_fails_gets_no_nonce_and_can_try_again() -> None:
    disk = Disk()
    nonces = restored(disk.content, PUBLIC)
    disk.fate = "full"
    with pytest.raises(OSError, match="no space"):
        nonces.take(disk.reserve)
    disk.fate = "well"
    assert nonces.take(disk.reserve)[0] == 1


@pytest.mark.parametrize("content", [None, b"", write_mark(5, PUBLIC)[:-1], write_mark(5, bytes(32))])
def test_a_lost_mark_stops_the_device_instead_of_beginning_again(content: bytes | None) -> None:
    with pytest.raises(NonceError):
        restored(content, PUBLIC)


def test_nonces_end() -> None:
    nonces = Nonces(used=MAX_COUNTER - 1, mark=MAX_COUNTER - 1)
    number, nonces = nonces.take(lambda mark: None)
    assert number == MAX_COUNTER
    with pytest.raises(NonceError):
        nonces.take(lambda mark: None)


@given(st.lists(st.integers(1, 2 * WINDOW) | st.integers(1, 2**20), max_size=60))
def test_the_window_is_a_set_that_forgets_what_is_far_behind(order: list[int]) -> None:
    window, accepted, highest = ReplayWindow(), set[int](), 0
    for counter in order:
        too_late = counter <= highest - WINDOW
        try:
            window = window.accept(counter, "pi-3")
        except OutsideWindowError:
            assert too_late
        except ReplayedError:
            assert counter in accepted and not too_late
        else:
            assert counter not in accepted and not too_late
            accepted.add(counter)
            highest = max(highest, counter)
        assert window.highest == highest
        assert window.seen < 2**WINDOW


@given(st.integers(0, MAX_COUNTER))
def test_leb128_is_read_as_written_and_in_no_other_form(value: int) -> None:
    data = write_leb128(value)
    assert read_leb128("x", data + b"\x05", 0, MAX_COUNTER) == (value, len(data))
    for bad in (data[:-1], data[:-1] + bytes([data[-1] | 0x80, 0])):
        with pytest.raises(MessageError):
            read_leb128("x", bad, 0, MAX_COUNTER)
    if value:
        with pytest.raises(MessageError):
            read_leb128("x", data, 0, value - 1)


def test_sequences_rise_by_the_clock_and_without_it() -> None:
    assert next_sequence(0, 1_700_000_000.0) == 1_700_000_000_000
    assert next_sequence(1_700_000_000_000, 1_600_000_000.0) == 1_700_000_000_001
    assert next_sequence(5, 1e30) == MAX_COUNTER
