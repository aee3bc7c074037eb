"""What a link knows about itself from acknowledgements alone, without a probe of its own.

Round trips are smoothed as in RFC 6298; a message that was sent twice gives no sample (Karn's algorithm). Goodput
is payload acknowledged over the time in which something was waiting for an acknowledgement.
"""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass
from typing import Any

_ROUND_TRIP_GAIN = 1 / 8  # alpha in RFC 6298
_GOODPUT_MEMORY = 7 / 8  # what a further acknowledgement leaves of the old sums


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkMeasure:
    """A snapshot; None where nothing was measured yet. Bytes are of payloads, without MQTT's framing."""

    connected: bool
    protocol: str | None  # "MQTT 5" or "MQTT 3.1.1"
    goodput_bytes_s: float | None
    round_trip_s: float | None  # from publish to PUBACK
    queued_messages: int  # handed to the link and not acknowledged
    queued_bytes: int
    payload_bytes_up: int  # sent, repetitions included
    payload_bytes_down: int
    connections: int
    repeated_messages: int
    dropped_messages: int  # QoS 0, arrived while nobody read
    mqtt_bytes_up: int = 0  # whole packets as they crossed, acknowledgements and pings among them
    mqtt_bytes_down: int = 0
    segment_loss: float | None = None  # share of this connection's segments that TCP sent again (Linux)


def segment_loss(connection: Any) -> float | None:
    """What TCP knows of its own repetitions: tcpi_total_retrans over tcpi_segs_out of tcp_info (linux/tcp.h)."""
    if connection is None or not hasattr(socket, "TCP_INFO"):
        return None
    try:
        info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 140)
    except OSError:  # closed meanwhile, or no TCP
        return None
    if len(info) < 140:
        return None
    (repeated,), (sent,) = struct.unpack_from("=I", info, 100), struct.unpack_from("=I", info, 136)
    return min(1.0, repeated / sent) if sent else None


class AcknowledgementMeter:
    """Fed with every message sent and acknowledged; times in seconds of one monotonic clock."""

    def __init__(self) -> None:
        self.round_trip_s: float | None = None
        self._sent: dict[int, tuple[float, int, bool]] = {}
        self._busy_since = 0.0
        self._bytes = 0.0
        self._seconds = 0.0

    @property
    def goodput_bytes_s(self) -> float | None:
        return self._bytes / self._seconds if self._seconds > 0 else None

    def sent(self, mid: int, payload_bytes: int, now: float) -> None:
        if not self._sent:
            self._busy_since = now
        self._sent[mid] = (now, payload_bytes, False)

    def repeated(self, now: float) -> tuple[int, int]:
        """A new connection sends all that is unacknowledged again; how many messages and bytes that is."""
        self._sent = {mid: (now, size, True) for mid, (_, size, _) in self._sent.items()}
        self._busy_since = now
        return len(self._sent), sum(size for _, size, _ in self._sent.values())

    def acknowledged(self, mid: int, now: float) -> None:
        if (entry := self._sent.pop(mid, None)) is None:
            return
        sent_at, payload_bytes, ambiguous = entry
        self._bytes = _GOODPUT_MEMORY * self._bytes + payload_bytes
        self._seconds = _GOODPUT_MEMORY * self._seconds + (now - self._busy_since)
        self._busy_since = now
        if not ambiguous:
            sample = now - sent_at
            known = sample if self.round_trip_s is None else self.round_trip_s
            self.round_trip_s = known + _ROUND_TRIP_GAIN * (sample - known)
