"""How many bytes a device has moved and may still move, counted whole, and a hard promise not to move more.

Counted are MQTT packets both ways, acknowledgements and pings among them, each with what TCP, IP and TLS add by the
constants below (RFC 791, RFC 9293, RFC 8446). The durable record runs ahead of what was moved by a reserve, so that
nothing crosses that is not on the disk already: a crash loses bytes of the budget, and never gains any.

A day is one of UTC by the device's clock. A clock set back begins no new day; one set forward does.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import cbor2

from sanderling.models.errors import UsageError

DAY_S = 86_400
IP_TCP_BYTES = 52  # IPv4 and TCP with timestamps
SEGMENT_BYTES = 1_400
TLS_RECORD_BYTES = 29  # TLS 1.2 with AES-GCM; TLS 1.3 takes 22
TLS_HANDSHAKE_BYTES = 4_096  # both sides' P-256 certificates
TCP_SESSION_BYTES = 7 * IP_TCP_BYTES  # three segments to open, four to close
RESERVE_BYTES = (
    2_048  # what may come unasked, a plan for instance, or be owed: acknowledgements, pings, a goodbye
)
SMALL_BYTES = 640
BLOCK_BYTES = 1_024  # written ahead at once, beside the reserve
PUBACK_BYTES, PACKET_BYTES = 4, 10  # of MQTT; and at most, around topic and payload of a PUBLISH
RECORD = "bytes"
_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ByteBudget:
    """Bytes a day and a round; None is no limit."""

    per_day: int | None = None
    per_round: int | None = None

    def __post_init__(self) -> None:
        for name, value in (("a day", self.per_day), ("a round", self.per_round)):
            if value is not None and value < 2 * RESERVE_BYTES:
                raise UsageError(
                    f"a budget of {value} bytes {name}: expected at least {2 * RESERVE_BYTES}, of which "
                    f"{RESERVE_BYTES} are a reserve for what comes unasked"
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """What counts against a budget. `round_ends` is when the round's count is over, 0 without a round."""

    day: int = 0  # since 1970
    day_bytes: int = 0
    round_bytes: int = 0
    round_ends: float = 0.0

    def plus(self, size: int) -> Spent:
        return replace(self, day_bytes=self.day_bytes + size, round_bytes=self.round_bytes + size)


@dataclass(frozen=True, slots=True, kw_only=True)
class Left:
    """What may still be moved, the reserve set aside; None is no limit."""

    day: int | None
    round: int | None

    @property
    def least(self) -> int | None:
        """The tighter of both."""
        limits = [value for value in (self.day, self.round) if value is not None]
        return min(limits) if limits else None


def wire_bytes(mqtt_bytes: int, *, tls: bool = False) -> int:
    """What `mqtt_bytes` handed to TCP at once cost, with the acknowledgement of each segment."""
    records = -(-mqtt_bytes // (1 << 14)) * TLS_RECORD_BYTES if tls else 0
    segments = -(-(mqtt_bytes + records) // SEGMENT_BYTES)
    return mqtt_bytes + records + segments * 2 * IP_TCP_BYTES


def message_bytes(topic: str, payload_bytes: int, *, tls: bool = False) -> int:
    """A PUBLISH at QoS 1 and its PUBACK, either way."""
    packet = PACKET_BYTES + len(topic) + payload_bytes
    return wire_bytes(packet, tls=tls) + wire_bytes(PUBACK_BYTES, tls=tls)


def fetch_bytes(topic: str, payload_bytes: int, *, tls: bool = False) -> int:
    """A retained message by subscribing to its topic, and unsubscribing."""
    asking = 2 * (wire_bytes(PACKET_BYTES + len(topic), tls=tls) + wire_bytes(PACKET_BYTES, tls=tls))
    return asking + message_bytes(topic, payload_bytes, tls=tls)


def connection_bytes(*, tls: bool = False) -> int:
    """A connection's opening and closing below MQTT."""
    return TCP_SESSION_BYTES + (TLS_HANDSHAKE_BYTES if tls else 0)


def on_day(spent: Spent, now: float) -> Spent:
    """`spent` at `now` (Unix seconds): a new day begins at nothing, a passed one does not come back."""
    day = int(now // DAY_S)
    spent = replace(spent, day=day, day_bytes=0) if day > spent.day else spent
    over = spent.round_ends and now >= spent.round_ends
    return replace(spent, round_bytes=0, round_ends=0.0) if over else spent


def left(budget: ByteBudget, spent: Spent) -> Left:
    """May be negative: then the reserve is being used."""

    def of(limit: int | None, used: int) -> int | None:
        return None if limit is None else limit - RESERVE_BYTES - used

    return Left(
        day=of(budget.per_day, spent.day_bytes),
        round=of(budget.per_round, spent.round_bytes) if spent.round_ends else None,
    )


class Disk(Protocol):
    """Where the record lies (edge_runtime/storage.py)."""

    def read(self, name: str) -> bytes | None: ...
    def write(self, name: str, content: bytes) -> None: ...


class ByteAccount:
    """A budget being kept, from any thread; broker.mqtt_client.Gate for a link.

    `use` counts what crosses; `can` asks before; while `open` is false nothing may be begun. A disk that fails closes
    it: what cannot be recorded may not be moved.
    """

    def __init__(
        self, budget: ByteBudget, disk: Disk, clock: Callable[[], float], *, tls: bool = False
    ) -> None:
        self.budget, self.tls = budget, tls
        self._disk, self._clock = disk, clock
        self._lock = threading.Lock()
        stored = disk.read(RECORD)
        self._used = Spent() if stored is None else _from_bytes(stored)
        self._ahead = 0  # on the disk, beyond what was used

    def use(self, mqtt_bytes: int) -> bool:
        """Counts MQTT bytes that are about to cross, or came; False once only the reserve is left."""
        return self.count(wire_bytes(mqtt_bytes, tls=self.tls))

    def count(self, size: int) -> bool:
        """`use` for bytes that hold every overhead already."""
        with self._lock:
            self._roll()
            self._used = self._used.plus(size)
            self._ahead -= size
            return self._is_open() and self._is_ahead()

    def prepare(self, mqtt_bytes: int) -> None:
        """Makes the count of MQTT bytes that are about to be sent durable. OSError when it cannot."""
        with self._lock:
            needed = wire_bytes(mqtt_bytes, tls=self.tls) + RESERVE_BYTES
            if self._ahead < needed:
                self._write(needed + BLOCK_BYTES)

    def may_connect(self, queued_bytes: int) -> bool:
        """Whether a connection and the messages sent again on it fit; counts the connection below MQTT."""
        size = connection_bytes(tls=self.tls)
        if not self.can(size + wire_bytes(queued_bytes, tls=self.tls)) or not self.open():
            return False
        return self.count(size)

    def may_send(self, mqtt_bytes: int) -> bool:
        """What is small may take from the reserve: a status that says why the device rests."""
        if mqtt_bytes <= SMALL_BYTES and self.open():
            return True
        return self.can(wire_bytes(mqtt_bytes, tls=self.tls))

    def can(self, size: int) -> bool:
        """Whether `size` bytes, overheads among them, may be begun."""
        least = self.left().least
        return least is None or size <= least

    def open(self) -> bool:
        """Whether anything may cross. Charges the reserve first, for something may come at once."""
        with self._lock:
            self._roll()
            return self._is_open() and self._is_ahead()

    def left(self) -> Left:
        with self._lock:
            self._roll()
            return left(self.budget, self._used)

    def used(self) -> Spent:
        with self._lock:
            self._roll()
            return self._used

    def begin_round(self, plan_bytes: int, ends: float) -> None:
        """A round's own count, from the plan that opened it (counted for the day already) to `ends`."""
        with self._lock:
            self._used = replace(self._used, round_bytes=plan_bytes, round_ends=ends)
            self._write(max(self._ahead, RESERVE_BYTES))

    def close(self) -> None:
        """After an orderly end the record holds what was used, no more."""
        with self._lock:
            self._write(0)

    def _is_ahead(self) -> bool:
        """Whether the record holds the reserve, after writing it where it did not; False when the disk fails."""
        if self._ahead < RESERVE_BYTES:
            try:
                self._write(RESERVE_BYTES + BLOCK_BYTES)
            except OSError:
                return False
        return True

    def _is_open(self) -> bool:
        least = left(self.budget, self._used).least
        return least is None or least > 0

    def _roll(self) -> None:
        rolled = on_day(self._used, self._clock())
        if rolled.day != self._used.day:
            self._ahead = 0  # what was written ahead belongs to the day that is over
        self._used = rolled

    def _write(self, ahead: int) -> None:
        self._disk.write(RECORD, _to_bytes(self._used.plus(ahead)))
        self._ahead = ahead


def _to_bytes(spent: Spent) -> bytes:
    return cbor2.dumps([_VERSION, spent.day, spent.day_bytes, spent.round_bytes, spent.round_ends])


def _from_bytes(data: bytes) -> Spent:
    version, day, day_bytes, round_bytes, round_ends = cbor2.loads(data)
    if version != _VERSION:
        raise UsageError(f"the byte account is of version {version}, this build reads {_VERSION}")
    return Spent(day=day, day_bytes=day_bytes, round_bytes=round_bytes, round_ends=round_ends)
