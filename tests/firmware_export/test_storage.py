"""Records survive a loss of power between any two changes of the storage."""

import copy
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sanderling.models.native import Native
from tests.firmware_export.memory_port import AREA_BYTES, MemoryPort


def opened(runtime: Native, board: MemoryPort):
    record = runtime.ffi.new("sl_record *")
    assert runtime.lib.sl_record_open(record, board.port, 0) == 0
    return record


def write(runtime: Native, record, *parts: bytes) -> int:
    status = runtime.lib.sl_record_begin(record)
    for part in parts:
        status = status or runtime.lib.sl_record_append(record, part, len(part))
    return status or runtime.lib.sl_record_commit(record)


def content(runtime: Native, record) -> bytes:
    target = runtime.ffi.new("uint8_t[]", max(1, record.size))
    if record.size:
        assert runtime.lib.sl_record_read(record, 0, target, record.size) == 0
    return bytes(target)[: record.size]


@given(data=st.binary(max_size=64))
def test_the_checksum_is_the_common_crc32(runtime: Native, data: bytes) -> None:
    assert runtime.lib.sl_crc32(0, data, len(data)) == zlib.crc32(data)


def test_a_new_board_has_no_record(runtime: Native) -> None:
    record = opened(runtime, MemoryPort(runtime))
    assert (record.size, record.newest) == (0, 2)
    assert runtime.lib.sl_record_read(record, 0, runtime.ffi.new("uint8_t[1]"), 1) == -2


@given(records=st.lists(st.lists(st.binary(max_size=70), max_size=4), min_size=1, max_size=5))
def test_the_newest_record_is_read_back_after_a_restart(runtime: Native, records: list[list[bytes]]) -> None:
    board = MemoryPort(runtime)
    record = opened(runtime, board)
    for parts in records:
        assert write(runtime, record, *parts) == 0
    again = opened(runtime, MemoryPort(runtime, board.contents))
    assert content(runtime, again) == content(runtime, record) == b"".join(records[-1])


@pytest.mark.parametrize("before", [0, 1, 2, 3])
def test_power_lost_between_any_two_changes_leaves_the_old_record_or_the_new_one(
    runtime: Native, before: int
) -> None:
    board = MemoryPort(runtime)
    record = opened(runtime, board)
    for number in range(before):
        assert write(runtime, record, b"%d" % number * 100) == 0
    old, new = content(runtime, record), b"new" * 50
    whole = MemoryPort(runtime, copy.deepcopy(board.contents))
    assert write(runtime, opened(runtime, whole), new[:7], new[7:]) == 0
    assert whole.changes > 10
    for changes in range(whole.changes + 1):
        cut = MemoryPort(runtime, copy.deepcopy(board.contents), changes_left=changes)
        done = write(runtime, opened(runtime, cut), new[:7], new[7:])
        restarted = MemoryPort(runtime, cut.contents)
        record = opened(runtime, restarted)
        assert content(runtime, record) == (new if changes == whole.changes else old)
        assert (done == 0) == (changes == whole.changes)
        # ... and what comes next is written as if nothing had happened.
        assert write(runtime, record, b"next") == 0
        assert content(runtime, opened(runtime, restarted)) == b"next"


def test_a_record_larger_than_an_area_is_refused_and_the_old_one_stays(runtime: Native) -> None:
    board = MemoryPort(runtime)
    record = opened(runtime, board)
    assert write(runtime, record, b"old") == 0
    assert write(runtime, record, bytes(AREA_BYTES)) == -2
    assert content(runtime, record) == content(runtime, opened(runtime, board)) == b"old"


@given(position=st.integers(0, 30), bit=st.integers(0, 7))
def test_a_flipped_bit_costs_the_record_it_is_in(runtime: Native, position: int, bit: int) -> None:
    board = MemoryPort(runtime)
    record = opened(runtime, board)
    assert write(runtime, record, b"first record..") == 0
    assert write(runtime, record, b"second record.") == 0
    newest = board.contents[record.newest]
    newest[position if position < 30 else 0] ^= 1 << bit
    assert content(runtime, opened(runtime, board)) == b"first record.."


@pytest.mark.parametrize("text", [b"", b"1234567", b"12345678"])
def test_a_mark_outlives_a_restart_and_not_the_next_record(runtime: Native, text: bytes) -> None:
    board = MemoryPort(runtime)
    record = opened(runtime, board)
    assert runtime.lib.sl_record_mark(record) == 0  # there is nothing to mark
    assert write(runtime, record, text) == 0
    assert not opened(runtime, board).marked
    assert runtime.lib.sl_record_mark(record) == runtime.lib.sl_record_mark(record) == 0
    again = opened(runtime, board)
    assert again.marked
    assert content(runtime, again) == text
    assert write(runtime, again, text) == 0
    assert not opened(runtime, board).marked


def test_a_torn_mark_is_a_mark(runtime: Native) -> None:
    board = MemoryPort(runtime)
    assert write(runtime, opened(runtime, board), b"text") == 0
    cut = MemoryPort(runtime, board.contents, changes_left=0)
    assert runtime.lib.sl_record_mark(opened(runtime, cut)) == -12
    again = opened(runtime, MemoryPort(runtime, cut.contents))
    assert again.marked
    assert runtime.lib.sl_record_mark(again) == 0
