"""Frames of the serial line, and what the gateway's end does with them. Both ends together: tests/firmware_export/test_frame.py."""

from hypothesis import given
from hypothesis import strategies as st

from sanderling.broker.frame import (
    CLOSING_S,
    PATIENCE_S,
    PAYLOAD_BYTES,
    WINDOW,
    Data,
    Frame,
    GatewayEnd,
    Kind,
    Open,
    stuff,
    unstuff,
)

frames = st.builds(
    Frame,
    kind=st.sampled_from(list(Kind)),
    session=st.integers(0, 2**16 - 1),
    sequence=st.integers(0, 255),
    acknowledge=st.integers(0, 255),
    payload=st.binary(max_size=PAYLOAD_BYTES) | st.builds(bytes, st.integers(0, PAYLOAD_BYTES)),
)


def sent(end: GatewayEnd, now: float = 0.0) -> list[Frame]:
    """What the end puts on the line, decoded."""
    parts = [part for part in end.output(now).split(b"\0") if part]
    decoded = [Frame.decode(part) for part in parts]
    assert None not in decoded
    return decoded


def opened(session: int = 7) -> GatewayEnd:
    end = GatewayEnd()
    assert end.feed(Frame(kind=Kind.OPEN, session=session).encode(), 0.0) == [Open(session)]
    end.opened()
    assert [frame.kind for frame in sent(end)] == [Kind.OPENED]
    return end


def data(sequence: int, payload: bytes, session: int = 7, acknowledge: int = 0) -> bytes:
    return Frame(
        kind=Kind.DATA, session=session, sequence=sequence, payload=payload, acknowledge=acknowledge
    ).encode()


@given(data=st.binary(max_size=253))
def test_stuffed_bytes_hold_no_zero_and_come_back(data: bytes) -> None:
    stuffed = stuff(data)
    assert 0 not in stuffed and len(stuffed) == len(data) + 1
    assert unstuff(stuffed) == data


@given(frame=frames)
def test_a_frame_comes_back(frame: Frame) -> None:
    line = frame.encode()
    assert line[0] == line[-1] == 0 and len(line) <= 140
    assert Frame.decode(line[1:-1]) == frame


@given(frame=frames, place=st.integers(0, 137), change=st.integers(1, 255))
def test_a_changed_byte_is_noticed(frame: Frame, place: int, change: int) -> None:
    line = bytearray(frame.encode()[1:-1])
    line[place % len(line)] ^= change
    assert all(Frame.decode(bytes(part)) is None for part in bytes(line).split(b"\0"))


@given(line=st.binary(max_size=300), cut=st.integers(0, 300))
def test_noise_is_no_frame(line: bytes, cut: int) -> None:
    end = opened()
    assert end.feed(line[:cut], 0.0) == [] and end.feed(line[cut:], 0.0) == []


def test_a_stream_is_cut_into_pieces_and_the_window_holds_it_back() -> None:
    end = opened()
    stream = bytes(i % 251 for i in range(PAYLOAD_BYTES * 6 + 5))
    end.write(stream)
    first = sent(end)
    assert [frame.sequence for frame in first] == list(range(WINDOW)) and sent(end) == []
    end.feed(Frame(kind=Kind.ACKNOWLEDGE, session=7, acknowledge=WINDOW).encode(), 0.0)
    rest = sent(end)
    assert b"".join(frame.payload for frame in first + rest) == stream
    assert end.backlog == len(stream) - WINDOW * PAYLOAD_BYTES


def test_what_is_not_acknowledged_goes_out_again_ever_more_slowly() -> None:
    end = opened()
    end.write(b"abc")
    assert [frame.payload for frame in sent(end, 1.0)] == [b"abc"]
    now, waits = 1.0, []
    for wait in (PATIENCE_S, 0.5, 1.0, 2.0, 2.0):
        end.tick(now + wait - 0.125)
        assert sent(end, now + wait - 0.125) == []
        now += wait
        end.tick(now)
        waits += [frame.payload for frame in sent(end, now)]
    assert waits == [b"abc"] * 5 and end.repeated == 5


def test_a_gap_is_asked_for_once_and_duplicates_are_only_acknowledged() -> None:
    end = opened()
    assert end.feed(data(1, b"b") + data(2, b"c"), 0.0) == []
    assert [(frame.kind, frame.acknowledge) for frame in sent(end)] == [
        (Kind.REJECT, 0),
        (Kind.ACKNOWLEDGE, 0),
    ]
    assert end.feed(data(2, b"c"), 0.05) == []
    assert Kind.REJECT not in [frame.kind for frame in sent(end)]
    assert end.feed(data(0, b"a") + data(0, b"a") + data(1, b"b"), 0.1) == [Data(b"a"), Data(b"b")]
    assert [(frame.kind, frame.acknowledge) for frame in sent(end)] == [(Kind.ACKNOWLEDGE, 2)]


def test_a_new_gateway_says_that_it_knows_no_session() -> None:
    end = GatewayEnd()
    assert end.feed(data(5, b"lost", session=9), 0.0) == []
    assert sent(end) == [Frame(kind=Kind.CLOSED, session=9)]


def test_a_new_session_takes_the_place_of_the_one_before() -> None:
    end = opened(7)
    end.write(b"of the old one")
    assert end.feed(Frame(kind=Kind.OPEN, session=8).encode(), 0.0) == [Open(8)]
    assert sent(end) == [] and end.backlog == 0
    assert end.feed(data(0, b"before it is open", session=8), 0.0) == []
    end.opened()
    assert end.feed(Frame(kind=Kind.OPEN, session=8).encode(), 0.0) == []
    assert [frame.kind for frame in sent(end)] == [Kind.OPENED, Kind.OPENED]
    assert end.feed(data(0, b"late", session=7), 0.0) == []
    assert sent(end) == [Frame(kind=Kind.CLOSED, session=7)]


def test_what_the_broker_said_last_is_delivered_before_the_end() -> None:
    end = opened()
    end.write(b"refused")
    sent(end)
    end.close(0.0)
    assert end.feed(data(0, b"nobody is there"), 0.0) == []
    end.tick(0.1)
    assert sent(end) == []
    end.feed(Frame(kind=Kind.ACKNOWLEDGE, session=7, acknowledge=1).encode(), 0.2)
    end.tick(0.2)
    assert sent(end) == [Frame(kind=Kind.CLOSED, session=7)]
    deaf = opened()
    deaf.write(b"refused")
    deaf.close(0.0)
    deaf.tick(CLOSING_S)
    assert Frame(kind=Kind.CLOSED, session=7) in sent(deaf, CLOSING_S)


def test_a_broker_that_does_not_read_holds_the_node_back() -> None:
    end = opened()
    end.accepting = False
    assert end.feed(data(0, b"a"), 0.0) == [] and sent(end) == []
    end.accepting = True
    assert end.feed(data(0, b"a"), 0.0) == [Data(b"a")]
