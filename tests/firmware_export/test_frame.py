"""The node's end in C and the gateway's in Python, over a line that drops, flips, repeats and inserts bytes. No real time."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sanderling.broker.frame import Data, Frame, GatewayEnd, Kind, Open
from sanderling.models.native import Native

NOTHING, OPENED, DATA, CLOSED = range(4)
OK, PENDING = 0, 1


class Node:
    """The C end; `received` holds the stream of each session."""

    def __init__(self, runtime: Native) -> None:
        self.ffi, self.lib = runtime.ffi, runtime.lib
        self.link = self.ffi.new("sl_frame_link *")
        self.lib.sl_frame_begin(self.link)
        self.received: dict[int, bytes] = {}
        self.closed = 0

    @property
    def is_open(self) -> bool:
        return bool(self.lib.sl_frame_is_open(self.link))

    def open(self, session: int) -> None:
        self.lib.sl_frame_open(self.link, session)
        self.received[session] = b""

    def tick(self, now: float) -> None:
        self.lib.sl_frame_tick(self.link, round(now * 1000) % 2**32)

    def feed(self, data: bytes) -> list[int]:
        event, used, kinds = self.ffi.new("sl_frame_event *"), self.ffi.new("uint32_t *"), []
        while data:
            status = self.lib.sl_frame_feed(self.link, data, len(data), used, event)
            assert status == (PENDING if event.kind == NOTHING else OK)
            if event.kind == DATA:
                self.received[self.link.session] += bytes(self.ffi.buffer(event.bytes, event.size))
            elif event.kind == CLOSED:
                self.closed += 1
            if event.kind != NOTHING:
                kinds.append(event.kind)
            data = data[used[0] :]
        return kinds

    def write(self, data: bytes) -> int:
        return int(self.lib.sl_frame_write(self.link, data, len(data)))

    def output(self, most: int = 1 << 20) -> bytes:
        where, out = self.ffi.new("const uint8_t **"), b""
        while (size := min(self.lib.sl_frame_output(self.link, where), most - len(out))) > 0:
            out += bytes(self.ffi.buffer(where[0], size))
            self.lib.sl_frame_sent(self.link, size)
        return out


@dataclass
class Line:
    """What a real UART does to bytes, with a seed. Every rate is a probability per byte."""

    seed: int
    drop: float = 0.0
    flip: float = 0.0
    repeat: float = 0.0
    insert: float = 0.0
    burst: float = 0.0  # the next 50 bytes are lost
    _rng: random.Random = field(init=False)
    _lost: int = 0

    def __post_init__(self) -> None:
        self._rng = random.Random(self.seed)

    def carry(self, data: bytes) -> bytes:
        out, chance = bytearray(), self._rng.random
        for byte in data:
            if chance() < self.burst:
                self._lost = 50
            if self._lost > 0 or chance() < self.drop:
                self._lost = max(0, self._lost - 1)
                continue
            out.append(byte ^ 1 << self._rng.randrange(8) if chance() < self.flip else byte)
            if chance() < self.repeat:
                out.append(out[-1])
            if chance() < self.insert:
                out.append(self._rng.randrange(256))
        return bytes(out)


class Bench:
    """Both ends and the line between them, at 115,200 baud in steps of 2 ms of a clock that nobody waits for."""

    STEP_S, STEP_BYTES = 0.002, 23

    def __init__(self, runtime: Native, up: Line, down: Line, now: float = 0.0) -> None:
        self.node, self.gateway, self.now = Node(runtime), GatewayEnd(), now
        self.up, self.down, self.wire = up, down, bytearray()
        self.arrived: dict[int, bytes] = {}
        self.opens = self.current = 0

    def step(self, *, node_runs: bool = True) -> None:
        self.now += self.STEP_S
        if node_runs:
            self.node.tick(self.now)
        self.gateway.tick(self.now)
        upward = self.up.carry(self.node.output(self.STEP_BYTES)) if node_runs else b""
        for event in self.gateway.feed(upward, self.now):
            if isinstance(event, Open):
                self.opens += 1
                self.current = event.session
                self.arrived[self.current] = b""
                self.gateway.opened()
            elif isinstance(event, Data):
                self.arrived[self.current] += event.data
        self.wire += self.gateway.output(self.now)
        downward = self.down.carry(bytes(self.wire[: self.STEP_BYTES]))
        del self.wire[: self.STEP_BYTES]
        if node_runs:  # else it overruns: the bytes are lost
            self.node.feed(downward)

    def until(self, condition, seconds: float = 120.0) -> float:
        """How long it took, on the bench's clock."""
        begun = self.now
        while not condition():
            assert self.now - begun < seconds, (self.node.link.damaged, self.gateway.damaged)
            self.step()
        return self.now - begun


def exchange(bench: Bench, up: bytes, down: bytes, session: int = 5) -> float:
    """Both streams at once; the seconds it took."""
    node, gateway = bench.node, bench.gateway
    node.tick(bench.now)
    node.open(session)
    begun = bench.now
    bench.until(lambda: node.is_open)
    gateway.write(down)
    written = 0

    def done() -> bool:
        nonlocal written
        written += node.write(up[written:])
        return bench.arrived[session] == up and node.received[session] == down

    bench.until(done)
    return bench.now - begun


def noise(rng: random.Random, size: int) -> bytes:
    return bytes(rng.choice((0, 0, 255, rng.randrange(256))) for _ in range(size))


def test_a_clean_line_carries_both_streams_at_its_own_speed(runtime: Native) -> None:
    bench = Bench(runtime, Line(1), Line(2))
    up, down = noise(random.Random(1), 20_000), noise(random.Random(2), 20_000)
    seconds = exchange(bench, up, down)
    assert bench.node.link.damaged == bench.gateway.damaged == 0
    assert bench.node.link.repeated == bench.gateway.repeated == 0
    assert 20_000 / seconds > 0.85 * 11_500  # bytes a second


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    drop=st.floats(0, 0.003),
    flip=st.floats(0, 0.003),
    repeat=st.floats(0, 0.003),
    insert=st.floats(0, 0.003),
    burst=st.floats(0, 0.0005),
    sizes=st.tuples(st.integers(0, 3000), st.integers(0, 3000)),
)
def test_every_byte_arrives_once_and_in_order_over_a_bad_line(
    runtime: Native,
    seed: int,
    drop: float,
    flip: float,
    repeat: float,
    insert: float,
    burst: float,
    sizes: tuple[int, int],
) -> None:
    rates = {"drop": drop, "flip": flip, "repeat": repeat, "insert": insert, "burst": burst}
    bench = Bench(runtime, Line(seed, **rates), Line(seed + 1, **rates), now=2**32 / 1000 - 1)
    rng = random.Random(seed)
    exchange(bench, noise(rng, sizes[0]), noise(rng, sizes[1]))
    assert bench.opens == 1


@pytest.mark.parametrize("kind", ["drop", "flip", "repeat", "insert"])
def test_one_byte_in_a_hundred_is_survived(runtime: Native, kind: str) -> None:
    bench = Bench(runtime, Line(3, **{kind: 0.01}), Line(4, **{kind: 0.01}))
    rng = random.Random(5)
    exchange(bench, noise(rng, 5000), noise(rng, 5000))
    assert bench.node.link.damaged > 0 and bench.gateway.damaged > 0
    assert bench.node.link.repeated > 0 and bench.gateway.repeated > 0


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32), boots=st.lists(st.integers(1, 700), min_size=1, max_size=4))
def test_a_node_that_boots_begins_a_new_stream_and_nothing_of_the_old_one_gets_into_it(
    runtime: Native, seed: int, boots: list[int]
) -> None:
    rates = {"drop": 0.001, "flip": 0.001, "repeat": 0.001}
    bench = Bench(runtime, Line(seed, **rates), Line(seed + 1, **rates))
    for session, steps in enumerate([*boots, 4000], 1):
        before, bench.node = bench.node, Node(runtime)
        bench.node.received = before.received
        bench.node.tick(bench.now)
        bench.node.open(session)
        up, down, written, wrote = b"up %d " % session * 300, b"down %d " % session * 300, 0, False
        for _ in range(steps):
            bench.step()
            written += bench.node.write(up[written:]) if bench.node.is_open else 0
            if bench.gateway.session == session and not wrote:
                bench.gateway.write(down)
                wrote = True
        assert up.startswith(bench.arrived.get(session, b""))
        assert down.startswith(bench.node.received[session])
    assert (bench.arrived[session], bench.node.received[session]) == (up, down)


def test_a_gateway_that_begins_anew_closes_the_session_it_does_not_know(runtime: Native) -> None:
    bench = Bench(runtime, Line(1), Line(2))
    exchange(bench, b"before", b"before")
    bench.gateway = GatewayEnd()
    assert bench.node.write(b"into the void") == 13
    assert bench.until(lambda: bench.node.closed == 1) < 0.5
    assert not bench.node.is_open and bench.node.write(b"x") == 0
    exchange(bench, b"after", b"after", session=6)


def test_the_end_of_the_connection_comes_after_what_the_broker_said_last(runtime: Native) -> None:
    bench = Bench(runtime, Line(1, drop=0.002), Line(2, drop=0.002))
    exchange(bench, b"hello", b"")
    bench.gateway.write(b"refused" * 100)
    bench.gateway.close(bench.now)
    bench.until(lambda: bench.node.closed == 1 or bench.node.write(b"ping") < 0)
    assert bench.node.received[5] == b"refused" * 100


def test_a_node_busy_for_seconds_loses_bytes_but_nothing_of_the_stream(runtime: Native) -> None:
    bench = Bench(runtime, Line(1), Line(2))
    exchange(bench, b"x", b"y")
    stream = noise(random.Random(1), 10_000)
    bench.gateway.write(stream)
    for step in range(15_000):
        bench.step(node_runs=step % 5000 < 300 or step > 14_000)
    assert bench.node.received[5] == b"y" + stream


def test_small_writes_share_a_frame_that_has_not_gone_out(runtime: Native) -> None:
    bench = Bench(runtime, Line(1), Line(2))
    exchange(bench, b"", b"")
    for byte in range(200):
        assert bench.node.write(bytes([byte])) == 1
    decoded = [Frame.decode(part) for part in bench.node.output().split(b"\0") if part]
    assert [len(frame.payload) for frame in decoded if frame.kind == Kind.DATA] == [128, 72]
    assert bench.node.write(bytes(1000)) == 2 * 128


@given(data=st.lists(st.binary(max_size=300), max_size=10))
def test_noise_is_never_taken_for_the_stream(runtime: Native, data: list[bytes]) -> None:
    node = Node(runtime)
    node.open(1)
    node.feed(Frame(kind=Kind.OPENED, session=1).encode())
    assert node.is_open
    for piece in data:
        assert node.feed(piece) == []


def test_frames_of_another_session_or_out_of_place_change_nothing(runtime: Native) -> None:
    node = Node(runtime)
    node.open(1)
    assert node.feed(Frame(kind=Kind.DATA, session=1, payload=b"early").encode()) == []
    assert node.feed(Frame(kind=Kind.OPENED, session=2).encode()) == []
    assert node.feed(Frame(kind=Kind.OPENED, session=1).encode()) == [OPENED]
    assert node.feed(Frame(kind=Kind.CLOSED, session=2).encode()) == []
    assert node.feed(Frame(kind=Kind.DATA, session=2, payload=b"other").encode()) == []
    assert node.feed(Frame(kind=Kind.ACKNOWLEDGE, session=1, acknowledge=3).encode()) == []
    assert node.feed(Frame(kind=Kind.DATA, session=1, sequence=200, payload=b"old").encode()) == []
    assert node.feed(Frame(kind=Kind.DATA, session=1, payload=b"good").encode()) == [DATA]
    assert node.received[1] == b"good"
