"""Numbers that only go up: how a device reserves its nonces, what a receiver accepts again, how they are written.

Nonces are reserved in blocks before any of them is used (docs/wire.md, "Sealing"): a crash at any instant skips numbers and
repeats none. The replay window is that of RFC 4303 (3.4.3). State comes in and goes out; storing it is the caller's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sanderling.broker.errors import MessageError, NonceError, OutsideWindowError, ReplayedError

MAX_COUNTER = 2**48 - 1
WINDOW = 64
BLOCK = 64  # nonces of one reservation, so of one write to storage
_GROUPS = 7  # of 7 bits, enough for MAX_COUNTER
_MARK_BYTES = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Nonces:
    """A device's nonces under one key: `used` was the last one, and all up to `mark` are reserved durably."""

    used: int
    mark: int

    def take(self, reserve: Callable[[int], None]) -> tuple[int, Nonces]:
        """A number never given before, and what is left.

        `reserve(mark)` returns when the new mark is durable. What it raises passes through: then no number was given, and the
        device abstains. Raises NonceError after MAX_COUNTER.
        """
        mark = self.mark
        if self.used == mark:
            mark = min(mark + BLOCK, MAX_COUNTER)
            if mark == self.mark:
                raise NonceError(f"all {MAX_COUNTER} nonces of this key are used; rotate the device's key")
            reserve(mark)
        return self.used + 1, Nonces(used=self.used + 1, mark=mark)


def write_mark(mark: int, public_key: bytes) -> bytes:
    """What `reserve` stores: the mark and the key it belongs to. With mark 0, what enrolment stores beside a new key."""
    return mark.to_bytes(_MARK_BYTES, "big") + public_key


def restored(content: bytes | None, public_key: bytes) -> Nonces:
    """The nonces after a restart. NonceError where the mark is lost: beginning again would use nonces twice."""
    if (
        content is None
        or len(content) != _MARK_BYTES + len(public_key)
        or content[_MARK_BYTES:] != public_key
    ):
        raise NonceError(
            "the mark of used nonces is lost, or another key's; enrol this device with a new key"
        )
    mark = int.from_bytes(content[:_MARK_BYTES], "big")
    return Nonces(used=mark, mark=mark)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayWindow:
    """Which of a device's messages were accepted: bit i of `seen` is for `highest` - i. Empty at first."""

    highest: int = 0
    seen: int = 0

    def accept(self, counter: int, device_id: str) -> ReplayWindow:
        """The window with `counter` in it. Raises ReplayedError or OutsideWindowError."""
        if counter > self.highest:
            ahead = counter - self.highest
            kept = self.seen << ahead if ahead < WINDOW else 0
            return ReplayWindow(highest=counter, seen=(kept | 1) & (2**WINDOW - 1))
        behind = self.highest - counter
        if behind >= WINDOW:
            raise OutsideWindowError(device_id, counter, self.highest - WINDOW + 1)
        if self.seen >> behind & 1:
            raise ReplayedError(device_id, counter)
        return ReplayWindow(highest=self.highest, seen=self.seen | 1 << behind)


def next_sequence(newest: int, now_unix_s: float) -> int:
    """The sequence of an announcement after `newest`; by the clock, so that it goes on rising where `newest` was lost."""
    return max(newest + 1, min(round(now_unix_s * 1000), MAX_COUNTER))


def write_leb128(value: int) -> bytes:
    """Seven bits a byte, least significant first, as short as possible."""
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def read_leb128(name: str, data: bytes, at: int, most: int) -> tuple[int, int]:
    """The number at `at`, and where the next byte is. MessageError where it is not the shortest form, or over `most`."""
    value = 0
    for position, byte in enumerate(data[at : at + _GROUPS]):
        value |= (byte & 0x7F) << 7 * position
        if byte < 0x80:
            if value > most or (position and not byte):
                break
            return value, at + position + 1
    raise MessageError(name, f"expected a number of at most {most} in its shortest LEB128 form at byte {at}")
