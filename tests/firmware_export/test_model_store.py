"""A model's pieces survive a loss of power, a download goes on where it was, and older versions are refused."""

import copy

import pytest

from sanderling.models.native import Native
from tests.firmware_export.memory_port import MemoryPort

OLD, NEW = bytes(range(100)), bytes(range(200, 20, -1))
PIECE = 44  # not a multiple of 8


def opened(runtime: Native, board: MemoryPort):
    store = runtime.ffi.new("sl_model_store *")
    assert runtime.lib.sl_model_store_open(store, board.port, 0) == 0
    return store


def begin(runtime: Native, store, theta: bytes, version: int, run: int = 7) -> int:
    model = {"hash": [version] * 32, "version": version, "run": run, "size": len(theta), "piece_bytes": PIECE}
    return runtime.lib.sl_model_store_begin(store, runtime.ffi.new("sl_stored_model *", model))


def fetch(runtime: Native, store, theta: bytes, version: int, run: int = 7) -> int:
    """The rest of a download; the first status that is not SL_OK."""
    status = begin(runtime, store, theta, version, run)
    while status == 0 and store.pieces * PIECE < len(theta):
        piece = theta[store.pieces * PIECE :][:PIECE]
        status = runtime.lib.sl_model_store_append(store, piece, len(piece))
    return status or runtime.lib.sl_model_store_commit(store)


def content(runtime: Native, store) -> bytes:
    if store.good == 2:
        return b""
    target = runtime.ffi.new("uint8_t[]", store.model.size)
    assert runtime.lib.sl_model_store_read(store, 0, target, store.model.size) == 0
    tail = runtime.ffi.new("uint8_t[]", store.model.size - 41)
    assert runtime.lib.sl_model_store_read(store, 41, tail, store.model.size - 41) == 0
    assert bytes(target)[41:] == bytes(tail)
    return bytes(target)


def test_a_model_is_read_back_after_a_restart(runtime: Native) -> None:
    board = MemoryPort(runtime)
    store = opened(runtime, board)
    assert content(runtime, store) == b""
    for theta, version in ((OLD, 1), (NEW, 2), (OLD, 3)):
        assert fetch(runtime, store, theta, version) == 0
        again = opened(runtime, MemoryPort(runtime, board.contents))
        assert content(runtime, store) == content(runtime, again) == theta
        assert again.model.version == version


@pytest.mark.parametrize("before", [False, True])
def test_power_lost_between_any_two_changes_costs_no_model_and_no_whole_piece(
    runtime: Native, before: bool
) -> None:
    board = MemoryPort(runtime)
    if before:
        assert fetch(runtime, opened(runtime, board), OLD, 1) == 0
    whole = MemoryPort(runtime, copy.deepcopy(board.contents))
    assert fetch(runtime, opened(runtime, whole), NEW, 2) == 0
    resumed = 0
    for changes in range(whole.changes + 1):
        cut = MemoryPort(runtime, copy.deepcopy(board.contents), changes_left=changes)
        fetch(runtime, opened(runtime, cut), NEW, 2)
        restarted = MemoryPort(runtime, cut.contents)
        store = opened(runtime, restarted)
        assert content(runtime, store) in ((OLD if before else b""), NEW)
        stored = store.pieces
        if content(runtime, store) != NEW:
            assert fetch(runtime, store, NEW, 2) == 0
            resumed += stored
        assert content(runtime, opened(runtime, restarted)) == NEW
    assert resumed > 10


def test_an_older_version_of_the_run_is_refused_and_nothing_changes(runtime: Native) -> None:
    board = MemoryPort(runtime)
    store = opened(runtime, board)
    assert fetch(runtime, store, NEW, 5) == 0
    changes = board.changes
    assert begin(runtime, store, OLD, 4) == -7
    assert board.changes == changes
    assert content(runtime, store) == NEW
    assert fetch(runtime, store, OLD, 1, run=8) == 0  # another run begins with its own versions


def test_what_does_not_fit_is_refused(runtime: Native) -> None:
    store = opened(runtime, MemoryPort(runtime))
    assert begin(runtime, store, bytes(1024), 1) == -2


def test_a_piece_of_another_size_and_an_early_commit_are_out_of_order(runtime: Native) -> None:
    store = opened(runtime, MemoryPort(runtime))
    assert runtime.lib.sl_model_store_append(store, b"x", 1) == -20
    assert begin(runtime, store, NEW, 1) == 0
    assert runtime.lib.sl_model_store_append(store, NEW, PIECE - 1) == -20
    assert runtime.lib.sl_model_store_commit(store) == -20


def test_a_damaged_piece_is_fetched_again(runtime: Native) -> None:
    board = MemoryPort(runtime)
    store = opened(runtime, board)
    assert begin(runtime, store, NEW, 1) == 0
    for first in (0, PIECE):
        assert runtime.lib.sl_model_store_append(store, NEW[first : first + PIECE], PIECE) == 0
    board.contents[0][56 + 8 + 48 + 8 + 5] ^= 1  # in the second piece
    again = opened(runtime, MemoryPort(runtime, board.contents))
    assert again.pieces == 1
    assert fetch(runtime, again, NEW, 1) == 0
    assert content(runtime, again) == NEW
