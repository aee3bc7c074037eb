"""The CBOR subset in C: what it writes is what cbor2 writes, and it reads the shortest encodings only."""

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sanderling.models.native import Native

UINT, BYTES, TEXT, ARRAY, MAP, NULL = 0, 2, 3, 4, 5, 7
PENDING, MALFORMED = 1, -1


def feed(runtime: Native, data: bytes) -> tuple[int, int, int]:
    """Status, type and value of the head that `data` holds."""
    head = runtime.ffi.new("sl_cbor_head *")
    status = PENDING
    for byte in data:
        assert status == PENDING
        status = runtime.lib.sl_cbor_feed_head(head, byte)
    return status, head.type, head.value


@given(value=st.integers(0, 2**64 - 1) | st.integers(0, 70000))
def test_an_integer_is_written_and_read_as_cbor2_does(runtime: Native, value: int) -> None:
    buffer = runtime.ffi.new("uint8_t[9]")
    writer = runtime.ffi.new("sl_cbor_writer *", {"bytes": buffer, "capacity": 9})
    runtime.lib.sl_cbor_put(writer, UINT, value)
    written = bytes(buffer)[: writer.size]
    assert written == cbor2.dumps(value)
    assert feed(runtime, written) == (0, UINT, value)
    for size in range(len(written)):
        assert feed(runtime, written[:size])[0] == PENDING


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("one byte where none is needed", "1817"),
        ("two bytes where one is enough", "1900ff"),
        ("four bytes where two are enough", "1a0000ffff"),
        ("eight bytes where four are enough", "1b00000000ffffffff"),
        ("a reserved length", "1c"),
        ("an indefinite length", "5f"),
        ("a negative number", "20"),
        ("a tag", "c0"),
        ("true", "f5"),
        ("undefined", "f7"),
        ("a float", "f9"),
    ],
)
def test_all_but_the_subset_in_its_shortest_encoding_is_refused(
    runtime: Native, name: str, data: str
) -> None:
    assert feed(runtime, bytes.fromhex(data))[0] == MALFORMED


@given(
    text=st.text(st.characters(min_codepoint=1, max_codepoint=127), max_size=40),
    data=st.binary(max_size=300),
    capacity=st.integers(0, 400),
)
def test_what_does_not_fit_is_counted_and_nothing_is_written_beyond(
    runtime: Native, text: str, data: bytes, capacity: int
) -> None:
    buffer = runtime.ffi.new("uint8_t[500]", b"\xee" * 500)
    writer = runtime.ffi.new("sl_cbor_writer *", {"bytes": buffer, "capacity": capacity})
    runtime.lib.sl_cbor_put(writer, ARRAY, 3)
    runtime.lib.sl_cbor_put_text(writer, text.encode())
    runtime.lib.sl_cbor_put_bytes(writer, data, len(data))
    runtime.lib.sl_cbor_put(writer, NULL, 0)
    expected = cbor2.dumps([text, data, None])
    assert writer.size == len(expected)
    assert bytes(buffer)[capacity:] == b"\xee" * (500 - capacity)
    if capacity >= len(expected):
        assert bytes(buffer)[: len(expected)] == expected


@given(data=st.binary(max_size=40), cut=st.integers(0, 60), least=st.integers(0, 40), most=st.integers(0, 40))
def test_a_cursor_reads_within_its_message_and_stays_bad(
    runtime: Native, data: bytes, cut: int, least: int, most: int
) -> None:
    message = cbor2.dumps([7, data, 300])[:cut]
    buffer = runtime.ffi.from_buffer(message)
    cursor = runtime.ffi.new("sl_cbor_cursor *", {"bytes": buffer, "size": len(message)})
    size = runtime.ffi.new("uint32_t *")
    lib = runtime.lib
    count, first = lib.sl_cbor_get(cursor, ARRAY), lib.sl_cbor_get(cursor, UINT)
    found = lib.sl_cbor_get_bytes(cursor, least, most, size)
    last = lib.sl_cbor_get(cursor, UINT)
    if len(message) == len(cbor2.dumps([7, data, 300])) and least <= len(data) <= most:
        assert (count, first, last, cursor.bad) == (3, 7, 300, False)
        assert bytes(runtime.ffi.buffer(found, size[0])) == data
        assert cursor.place == len(message)
    else:
        assert cursor.bad and last == 0
        assert lib.sl_cbor_get(cursor, UINT) == 0 and cursor.bad
