"""A byte stream over a serial line that loses, changes and repeats bytes: the gateway's end (docs/wire.md, "Serial link").

The node's end is firmware_export/runtime/src/frame.c. Pure: bytes and the time go in, events and bytes come out.
"""

from __future__ import annotations

import zlib
from collections import deque
from dataclasses import dataclass
from enum import IntEnum

PAYLOAD_BYTES = 128
WINDOW = 4
HEADER_BYTES = 5
CRC_BYTES = 4
FRAME_BYTES = HEADER_BYTES + PAYLOAD_BYTES + CRC_BYTES
PATIENCE_S = 0.25
MOST_PATIENCE_S = 2.0
REJECT_AGAIN_S = 0.1
CLOSING_S = 5.0  # what came before the end of a connection is delivered for this long


class Kind(IntEnum):
    """What a frame is. OPEN comes from the node; OPENED and CLOSED from the gateway."""

    OPEN = 1
    OPENED = 2
    CLOSED = 3
    DATA = 4
    ACKNOWLEDGE = 5
    REJECT = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """`acknowledge` is the sequence number that its sender expects next."""

    kind: int
    session: int  # u16
    sequence: int = 0  # u8
    acknowledge: int = 0  # u8
    payload: bytes = b""

    def encode(self) -> bytes:
        """As it goes on the line, between zero bytes."""
        head = bytes([self.kind, *self.session.to_bytes(2, "little"), self.sequence, self.acknowledge])
        return b"\0" + stuff(_with_crc(head + self.payload)) + b"\0"

    @classmethod
    def decode(cls, line: bytes) -> Frame | None:
        """The frame in what came between two zero bytes; None where it is damaged."""
        data = unstuff(line)
        if data is None or not HEADER_BYTES + CRC_BYTES <= len(data) <= FRAME_BYTES:
            return None
        body = data[:-CRC_BYTES]
        if _with_crc(body) != data:
            return None
        return cls(
            kind=body[0],
            session=int.from_bytes(body[1:3], "little"),
            sequence=body[3],
            acknowledge=body[4],
            payload=body[HEADER_BYTES:],
        )


def stuff(data: bytes) -> bytes:
    """Consistent overhead byte stuffing (Cheshire and Baker 1999) of less than 254 bytes: no zero byte is left."""
    return b"".join(bytes([len(block) + 1]) + block for block in data.split(b"\0"))


def unstuff(data: bytes) -> bytes | None:
    """None where `data` is not stuffed bytes."""
    blocks, place = [], 0
    while place < len(data):
        end = place + data[place]
        blocks.append(data[place + 1 : end])
        if data[place] == 0 or end > len(data):
            return None
        place = end
    return b"\0".join(blocks)


def _with_crc(body: bytes) -> bytes:
    return body + zlib.crc32(body).to_bytes(CRC_BYTES, "little")


@dataclass(frozen=True, slots=True)
class Open:
    """The node asks for a connection; one that it had before is to be closed. Answer with opened() or close()."""

    session: int


@dataclass(frozen=True, slots=True)
class Data:
    """Bytes of the node's stream, each once and in order."""

    data: bytes


class GatewayEnd:
    """The gateway's end of one serial line. `damaged` and `repeated` count frames."""

    def __init__(self) -> None:
        self.session: int | None = None
        self.is_open = False
        self.accepting = True  # False: what comes is left to be sent again
        self.damaged = self.repeated = 0
        self._line = bytearray()
        self._control: deque[Frame] = deque()
        self._reset()

    def _reset(self) -> None:
        self._stream = bytearray()  # not cut into pieces yet
        self._pieces: deque[bytes] = deque()  # not acknowledged; the oldest has the number _first
        self._first = self._next = self._sent = self._expected = 0
        self._rejected_at: float | None = None
        self._acknowledge_due = False
        self._closing_since: float | None = None
        self._waiting_since, self._patience_s = 0.0, PATIENCE_S

    # --- the broker's side ---

    def opened(self) -> None:
        """The node's connection stands."""
        if self.session is not None:
            self.is_open = True
            self._control.append(Frame(kind=Kind.OPENED, session=self.session))

    def write(self, data: bytes) -> None:
        """Bytes for the node."""
        if self.is_open and self._closing_since is None:
            self._stream += data

    @property
    def backlog(self) -> int:
        """Bytes that the node has not acknowledged."""
        return len(self._stream) + sum(map(len, self._pieces))

    def close(self, now: float) -> None:
        """The connection ended, or could not be made; the node learns it after what came before."""
        if self.session is None:
            return
        if self.is_open and self.backlog:
            self._closing_since = self._closing_since or now
        else:
            self._say_closed(self.session)
            self.session, self.is_open = None, False
            self._reset()

    # --- the line's side ---

    def tick(self, now: float) -> None:
        """The time, in seconds."""
        if self._closing_since is not None and (not self.backlog or now - self._closing_since >= CLOSING_S):
            self._stream.clear()
            self._pieces.clear()
            self.close(now)
        if self._sent and now - self._waiting_since >= self._patience_s:
            self._next, self._waiting_since = 0, now
            self._patience_s = min(2 * self._patience_s, MOST_PATIENCE_S)

    def feed(self, data: bytes, now: float) -> list[Open | Data]:
        """Takes bytes of the line."""
        events: list[Open | Data] = []
        for part in data.split(b"\0")[:-1]:
            events += self._end_of_frame(bytes(self._line) + part, now)
            self._line.clear()
        self._line += data.rpartition(b"\0")[2]
        del self._line[2 * FRAME_BYTES :]  # it is damaged already
        return events

    def output(self, now: float) -> bytes:
        """All that is due on the line."""
        frames = list(self._control)
        self._control.clear()
        while self.is_open and self._take_piece():
            again = self._next < self._sent
            if self._next == 0:
                self._waiting_since = now
            number = (self._first + self._next) % 256
            frames.append(self._frame(Kind.DATA, number, self._pieces[self._next]))
            self._next += 1
            self.repeated += again
            self._sent = max(self._sent, self._next)
            self._acknowledge_due = False
        if self.is_open and self._acknowledge_due:
            frames.append(self._frame(Kind.ACKNOWLEDGE))
            self._acknowledge_due = False
        return b"".join(frame.encode() for frame in frames)

    def _take_piece(self) -> bool:
        """Whether there is a piece to go out next."""
        if self._next == len(self._pieces) < WINDOW and self._stream:
            self._pieces.append(bytes(self._stream[:PAYLOAD_BYTES]))
            del self._stream[:PAYLOAD_BYTES]
        return self._next < len(self._pieces)

    def _frame(self, kind: Kind, sequence: int = 0, payload: bytes = b"") -> Frame:
        assert self.session is not None
        return Frame(
            kind=kind,
            session=self.session,
            sequence=sequence,
            acknowledge=self._expected,
            payload=payload,
        )

    def _end_of_frame(self, line: bytes, now: float) -> list[Open | Data]:
        if not line:
            return []
        frame = Frame.decode(line)
        if frame is None:
            self.damaged += 1
            self._reject(now)
            return []
        if frame.kind == Kind.OPEN:
            return self._take_open(frame.session)
        if frame.kind not in (Kind.DATA, Kind.ACKNOWLEDGE, Kind.REJECT):
            return []
        if frame.session != self.session:
            self._say_closed(frame.session)
            return []
        return self._take_stream(frame, now) if self.is_open else []

    def _take_open(self, session: int) -> list[Open | Data]:
        if session == self.session:
            if self.is_open:  # it has not heard that
                self.opened()
            return []
        self.session, self.is_open = session, False
        self._control.clear()
        self._reset()
        return [Open(session)]

    def _take_stream(self, frame: Frame, now: float) -> list[Open | Data]:
        count = (frame.acknowledge - self._first) % 256
        if 0 < count <= self._sent:
            for _ in range(count):
                self._pieces.popleft()
            self._first = frame.acknowledge
            self._sent, self._next = self._sent - count, max(0, self._next - count)
            self._waiting_since, self._patience_s = now, PATIENCE_S
        if frame.kind == Kind.REJECT:
            self._next = 0
        if frame.kind != Kind.DATA or self._closing_since is not None or not self.accepting:
            return []
        self._acknowledge_due = True
        ahead = (frame.sequence - self._expected) % 256
        if ahead == 0 and frame.payload:
            self._expected = (self._expected + 1) % 256
            self._rejected_at = None
            return [Data(frame.payload)]
        if ahead < 128:
            self._reject(now)
        return []

    def _reject(self, now: float) -> None:
        """Something is missing: asks for it again, but not at each of the frames that were behind it."""
        asked = self._rejected_at is not None and now - self._rejected_at < REJECT_AGAIN_S
        if self.is_open and self._closing_since is None and not asked:
            self._rejected_at = now
            self._control.append(self._frame(Kind.REJECT))

    def _say_closed(self, session: int) -> None:
        closed = Frame(kind=Kind.CLOSED, session=session)
        if closed not in self._control:
            self._control.append(closed)
