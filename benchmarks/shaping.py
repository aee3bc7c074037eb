"""What a radio does to a TCP stream, as arithmetic on a clock that is passed in, and a proxy that does it to a real one.

Assumptions, not measurements of a network; each figure stands beside its source in `SHAPES`. A segment takes its air
time at the link's rate, then the one-way latency. A duty cycle keeps the sender silent after a segment for
air time / duty - air time (LoRaWAN 1.0's rule). A lost segment is sent again after TCP's timeout, which doubles
(RFC 6298), and what is behind it waits; in an outage nothing starts.
"""

from __future__ import annotations

import contextlib
import random
import socket
import threading
import time
from dataclasses import dataclass

IP_TCP_BYTES = 40  # IPv4 and TCP headers of a segment on air, without options


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """One kind of link. `source` says where the figures come from."""

    name: str
    source: str
    up_bit_s: float
    down_bit_s: float
    latency_s: float  # one way
    up_duty: float = 1.0
    down_duty: float = 1.0
    loss: float = 0.0  # of segments, each way
    timeout_s: float = 0.2  # TCP's first
    up_s: float | None = None  # outages: mean time between two, exponential
    out_s: float = 0.0  # and their mean length
    segment_bytes: int = 1400
    header_bytes: int = IP_TCP_BYTES


SHAPES = {
    shape.name: shape
    for shape in (
        Shape(
            name="lora",
            source="2 kbit/s; duty cycles 1 % up (868.0-868.6 MHz) and 10 % down (869.4-869.65 MHz), ETSI EN 300 220-2; "
            "headers compressed to 4 bytes, RFC 8724 (SCHC); 222-byte frames, LoRaWAN RP002 EU868 DR4-5",
            up_bit_s=2e3,
            down_bit_s=2e3,
            latency_s=0.1,
            up_duty=0.01,
            down_duty=0.1,
            segment_bytes=222,
            header_bytes=4,
        ),
        Shape(
            name="nb-iot",
            source="26 kbit/s down, 16.9 kbit/s up in single tone (3GPP Rel-13, Cat NB1, half duplex, throughput at the RLC); "
            "0.8 s one way: assumed, within the 1.6-10 s round trip that 3GPP TS 45.820 aims at",
            up_bit_s=16.9e3,
            down_bit_s=26e3,
            latency_s=0.8,
        ),
        Shape(
            name="lte-m",
            source="300 kbit/s down, 375 kbit/s up (3GPP Rel-13, Cat M1, half duplex); 0.1 s one way and outages of "
            "20 s in the mean every 60 s in the mean: assumed, a moving device at the edge of a cell",
            up_bit_s=375e3,
            down_bit_s=300e3,
            latency_s=0.1,
            up_s=60.0,
            out_s=20.0,
        ),
        Shape(
            name="wifi",
            source="6.5 Mbit/s (802.11n, MCS 0), 10 ms one way, 5 % of segments lost above the radio's own retries: assumed, a busy 2.4 GHz hall",
            up_bit_s=6.5e6,
            down_bit_s=6.5e6,
            latency_s=0.01,
            loss=0.05,
        ),
    )
}


class Outages:
    """When a link is out: one schedule for both directions, drawn as it is needed."""

    def __init__(self, shape: Shape, rng: random.Random) -> None:
        self._shape, self._rng = shape, rng
        self._out: list[tuple[float, float]] = []
        self._known_until = 0.0

    def next_up(self, now: float) -> float:
        """`now`, or the end of the outage that holds it."""
        if self._shape.up_s is None:
            return now
        while self._known_until <= now:
            start = self._known_until + self._rng.expovariate(1 / self._shape.up_s)
            self._known_until = start + self._rng.expovariate(1 / self._shape.out_s)
            self._out.append((start, self._known_until))
        return next((end for start, end in self._out[-4:] if start <= now < end), now)


class Wire:
    """One direction of a link: `carry` says when bytes handed over now arrive, in order."""

    def __init__(self, shape: Shape, up: bool, outages: Outages, rng: random.Random) -> None:
        self._shape, self._outages, self._rng = shape, outages, rng
        self._bit_s, self._duty = (
            (shape.up_bit_s, shape.up_duty) if up else (shape.down_bit_s, shape.down_duty)
        )
        self._free_at = 0.0
        self.stream_bytes = 0  # of the TCP stream
        self.air_bytes = 0  # with headers and repetitions

    def carry(self, size: int, now: float) -> float:
        """Seconds of the clock of `now` at which the last of `size` bytes arrives."""
        self.stream_bytes += size
        arrives = now
        for first in range(0, size, self._shape.segment_bytes):
            arrives = self._segment(min(self._shape.segment_bytes, size - first), now)
        return arrives

    def _segment(self, size: int, now: float) -> float:
        on_air = size + self._shape.header_bytes
        timeout_s = self._shape.timeout_s
        while True:
            start = self._outages.next_up(max(now, self._free_at))
            air_s = 8 * on_air / self._bit_s
            self.air_bytes += on_air
            self._free_at = start + air_s / self._duty
            if self._rng.random() >= self._shape.loss:
                return start + air_s + self._shape.latency_s
            self._free_at = max(self._free_at, start + air_s + timeout_s)
            timeout_s = min(2 * timeout_s, 60.0)


@dataclass(frozen=True, slots=True)
class Duplex:
    """Both directions of one device's link."""

    up: Wire
    down: Wire

    @classmethod
    def of(cls, shape: Shape, seed: str) -> Duplex:
        rng = random.Random(seed)
        outages = Outages(shape, random.Random(seed + " outages"))
        return cls(Wire(shape, True, outages, rng), Wire(shape, False, outages, rng))

    @property
    def stream_bytes(self) -> int:
        return self.up.stream_bytes + self.down.stream_bytes

    @property
    def air_bytes(self) -> int:
        return self.up.air_bytes + self.down.air_bytes


class ShapedProxy:
    """A TCP relay in front of a broker that gives its connections the times of `shape`, `scale` times as fast.

    With an outage the wire is silent, not cut: TCP rides it out, as a phone network's does.
    """

    def __init__(self, target_port: int, shape: Shape, seed: str, scale: float) -> None:
        self.duplex = Duplex.of(shape, seed)
        self._target_port, self._scale, self._begin = target_port, scale, time.monotonic()
        self._segment_bytes = shape.segment_bytes
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._lock = threading.Lock()
        self._ends: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def close(self) -> None:
        """Ends every connection."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            for end in self._ends:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(5)

    def __enter__(self) -> ShapedProxy:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            far = socket.create_connection(("127.0.0.1", self._target_port))
            for end in (near, far):
                # What a radio's modem would buffer, not the megabytes that loopback does.
                end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self._ends += [near, far]
            for source, sink, wire in ((near, far, self.duplex.up), (far, near, self.duplex.down)):
                thread = threading.Thread(target=self._relay, args=(source, sink, wire), daemon=True)
                self._threads.append(thread)
                thread.start()

    def _relay(self, source: socket.socket, sink: socket.socket, wire: Wire) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(self._segment_bytes):
                now = (time.monotonic() - self._begin) * self._scale
                due = self._begin + wire.carry(len(data), now) / self._scale
                time.sleep(max(0.0, due - time.monotonic()))
                sink.sendall(data)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_RDWR)
        source.close()
