"""The MQTT client in C: a rule and a status for every bad packet, and a life with the real mosquitto."""

import itertools
import socket
import time
from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sanderling.broker.mosquitto import find_mosquitto
from sanderling.broker.run import Broker, start_broker
from sanderling.models.native import Native
from tests.firmware_export.mqtt_client import (
    CONNECTED,
    DELIVERED,
    LINK_LOST,
    MALFORMED,
    NO_SPACE,
    OK,
    OUT_OF_ORDER,
    PENDING,
    RECEIVED,
    REFUSED,
    REFUSED_BY_BROKER,
    SUBSCRIBED,
    TIMEOUT,
    TOO_LARGE,
    UNSUBSCRIBED,
    Client,
    Event,
)

CONNACK, SESSION = bytes.fromhex("20020000"), bytes.fromhex("20020100")
PINGRESP = bytes.fromhex("d000")


def length(count: int) -> bytes:
    out = b""
    while True:
        count, low = divmod(count, 128)
        out += bytes([low | (128 if count else 0)])
        if not count:
            return out


def publish(topic: str, payload: bytes, *, qos: int = 1, mid: int = 7, flags: int = 0) -> bytes:
    body = len(topic).to_bytes(2, "big") + topic.encode() + (mid.to_bytes(2, "big") if qos else b"") + payload
    return bytes([0x30 | qos << 1 | flags]) + length(len(body)) + body


def puback(mid: int) -> bytes:
    return b"\x40\x02" + mid.to_bytes(2, "big")


def connected(runtime: Native, connack: bytes = CONNACK, **settings: object) -> Client:
    client = Client(runtime, **settings)
    assert client.connect() == OK
    client.output()
    assert client.feed(connack) == PENDING
    client.events.clear()
    return client


# --- what goes out, byte for byte (MQTT 3.1.1, chapter 3) ---


def test_connect_asks_for_a_persistent_session_and_leaves_a_will(runtime: Native) -> None:
    client = Client(
        runtime, client_id="ab", will=("w/t", b"gone"), keep_alive_s=258, user=("me", b"\x01\x02")
    )
    assert client.output() == b"" and client.connect() == OK
    body = b"\0\4MQTT\4\xec\1\2" + b"\0\2ab" + b"\0\3w/t" + b"\0\4gone" + b"\0\2me" + b"\0\2\1\2"
    assert client.output() == bytes([0x10, len(body)]) + body
    bare = Client(runtime, client_id="ab")
    bare.connect()
    assert bare.output() == b"\x10\x0e\0\4MQTT\4\0\0\x0a\0\2ab"


def test_each_packet_of_a_client(runtime: Native) -> None:
    client = connected(runtime)
    assert client.subscribe("a/b") == OK
    assert client.output() == b"\x82\x08\0\1\0\3a/b\1"
    assert client.unsubscribe("a") == OK
    assert client.output() == b"\xa2\x05\0\2\0\1a"
    assert client.publish("t", b"xyz", retain=True) == OK
    assert client.output() == b"\x33\x08\0\1t\0\3xyz"
    client.feed(publish("q", b"", mid=513))
    assert client.acknowledge(client.events[-1].receipt) == OK
    assert client.output() == b"\x40\x02\2\1"
    assert client.lib.sl_mqtt_disconnect(client.mqtt) == OK
    assert client.output() == b"\xe0\x00"


@given(size=st.integers(0, 20_000), step=st.integers(1, 700))
def test_a_published_message_is_one_packet_however_it_is_sent(runtime: Native, size: int, step: int) -> None:
    client, payload = connected(runtime), bytes(i % 251 for i in range(size))
    client.publish("some/topic", payload)
    assert client.output(at_most=step) == publish("some/topic", payload, mid=1)


def test_packets_are_never_mixed(runtime: Native) -> None:
    client, where = connected(runtime), runtime.ffi.new("const uint8_t **")
    client.publish("t", b"payload")
    assert client.lib.sl_mqtt_output(client.mqtt, where) > 0
    client.lib.sl_mqtt_sent(client.mqtt, 2, 0)  # of the message
    client.subscribe("s")
    rest = client.output(at_most=1)
    assert publish("t", b"payload", mid=1)[2:] + b"\x82\x06\0\2\0\1s\1" == rest
    client.feed(puback(1))
    client.unsubscribe("s")
    client.lib.sl_mqtt_sent(client.mqtt, 1, 0)  # of the small packet
    client.publish("t", b"")
    assert client.output() == b"\x05\0\3\0\1s" + publish("t", b"", mid=4)
    client.publish("t", b"2")  # refused: one is on its way
    assert client.publish("t", b"2") == PENDING and client.output() == b""


def test_what_does_not_fit_the_queue_changes_nothing(runtime: Native) -> None:
    client = Client(runtime, client_id="c" * 40, capacity=30)
    assert client.connect() == NO_SPACE and client.output() == b""
    client = connected(runtime, capacity=24)
    assert client.subscribe("a" * 30) == NO_SPACE
    assert client.subscribe("a" * 15) == OK
    assert client.feed(publish("t", b"")) == PENDING
    assert client.acknowledge(client.events[-1].receipt) == NO_SPACE
    assert len(client.output()) == 22
    assert client.acknowledge(client.events[-1].receipt) == OK
    assert client.output() == puback(7)


# --- what comes in ---


@given(
    messages=st.lists(
        st.tuples(st.sampled_from(["a", "b/c"]), st.binary(max_size=400), st.integers(0, 1)), max_size=5
    ),
    cuts=st.lists(st.integers(0, 1500), max_size=20),
)
def test_messages_come_through_whatever_the_pieces(
    runtime: Native, messages: list[tuple[str, bytes, int]], cuts: list[int]
) -> None:
    client = connected(runtime)
    stream = b"".join(publish(topic, data, qos=qos) for topic, data, qos in messages)
    places = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    for begin, end in itertools.pairwise(places):
        assert client.feed(stream[begin:end]) == PENDING
    assert client.messages() == [(topic, data) for topic, data, _ in messages]
    for (_, _, qos), event in zip(messages, (e for e in client.events if e.last), strict=True):
        assert event.receipt == (qos and (1 << 16 | 7))


def test_every_answer_becomes_an_event(runtime: Native) -> None:
    client = Client(runtime)
    client.connect()
    assert client.feed(SESSION) == PENDING
    client.output()
    client.subscribe("a")
    client.unsubscribe("b")
    client.publish("t", b"")
    client.output()
    assert client.feed(b"\x90\x03\0\1\x01" + b"\xb0\x02\0\2" + puback(3)) == PENDING
    assert [event.kind for event in client.events] == [CONNECTED, SUBSCRIBED, UNSUBSCRIBED, DELIVERED]
    assert client.events[0].session_present
    client.subscribe("forbidden")
    client.output()
    client.feed(b"\x90\x03\0\4\x80")
    assert client.events[-1] == Event(kind=SUBSCRIBED, status=REFUSED_BY_BROKER)


@pytest.mark.parametrize("code", range(1, 6))
def test_a_refused_connection_says_why(runtime: Native, code: int) -> None:
    client = Client(runtime)
    client.connect()
    assert client.feed(bytes([0x20, 2, 0, code])) == REFUSED_BY_BROKER
    assert client.mqtt.refusal == code
    assert client.feed(CONNACK) == REFUSED_BY_BROKER and client.output() == b""
    assert client.connect() == OK and client.feed(CONNACK) == PENDING


T = "000174"  # topic "t"
BAD_PACKETS = [
    ("packet type 0", "0000", MALFORMED),
    ("packet type 15", "f000", MALFORMED),
    ("a packet that only clients send", "8206000100017401", MALFORMED),
    ("PUBREC, of QoS 2", "50020001", MALFORMED),
    ("reserved bits of PUBACK", "41020001", MALFORMED),
    ("reserved bits of PINGRESP", "d100", MALFORMED),
    ("PINGRESP with a body", "d00100", MALFORMED),
    ("PUBACK too short", "400100", MALFORMED),
    ("PUBACK too long", "4003000100", MALFORMED),
    ("SUBACK with two answers", "900400010101", MALFORMED),
    ("a length of five bytes", "30ffffffff01", MALFORMED),
    ("a length longer than it need be", "d08000", MALFORMED),
    ("QoS 2", "3405" + T + "0007", MALFORMED),
    ("QoS 3", "3605" + T + "0007", MALFORMED),
    ("a duplicate at QoS 0", "3803" + T, MALFORMED),
    ("an empty topic", "32050000000700", MALFORMED),
    ("a topic beyond the packet", "3004000374", MALFORMED),
    ("a packet id beyond the packet", "3204" + T + "00", MALFORMED),
    ("packet id 0", "3205" + T + "0000", MALFORMED),
    ("a wildcard in a topic", "300300012b", MALFORMED),
    ("a zero byte in a topic", "3003000100", MALFORMED),
    ("a topic that is no text", "30030001ff", MALFORMED),
    ("a second CONNACK", "20020000", OUT_OF_ORDER),
    ("PINGRESP without PINGREQ", "d000", OUT_OF_ORDER),
    ("PUBACK of nothing", "40020001", OUT_OF_ORDER),
    ("SUBACK of nothing", "9003000101", OUT_OF_ORDER),
    ("UNSUBACK of nothing", "b0020001", OUT_OF_ORDER),
]


@pytest.mark.parametrize(("name", "packet", "status"), BAD_PACKETS, ids=[case[0] for case in BAD_PACKETS])
@pytest.mark.parametrize("whole", [True, False])
def test_a_bad_packet_ends_the_connection_with_its_status(
    runtime: Native, name: str, packet: str, status: int, whole: bool
) -> None:
    client, data = connected(runtime), bytes.fromhex(packet)
    pieces = [data] if whole else [data[i : i + 1] for i in range(len(data))]
    assert [client.feed(piece) for piece in pieces][-1] == status
    assert client.events == []
    assert client.feed(publish("t", b"")) == status, "nothing more is taken on this connection"
    assert client.tick(0) == status and client.output() == b""
    assert client.subscribe("t") == LINK_LOST
    assert client.connect() == OK and client.feed(CONNACK) == PENDING


@pytest.mark.parametrize(
    ("connack", "status"),
    [
        ("20020200", MALFORMED),
        ("20020006", MALFORMED),
        ("20020105", MALFORMED),
        ("200100", MALFORMED),
        ("3000", OUT_OF_ORDER),
        ("d000", OUT_OF_ORDER),
    ],
)
def test_before_connack_nothing_else_is_due(runtime: Native, connack: str, status: int) -> None:
    client = Client(runtime)
    client.connect()
    assert client.feed(bytes.fromhex(connack)) == status


def test_duplicated_and_forged_answers_are_out_of_order(runtime: Native) -> None:
    for answer, other in [
        (puback(2), puback(1)),
        (b"\x90\x03\0\1\x01", b"\x90\x03\0\2\x01"),
        (PINGRESP, puback(9)),
    ]:
        for forged in (answer + answer, other):
            client = connected(runtime)
            client.subscribe("s")
            client.publish("t", b"")
            client.tick(6000)
            client.output()
            assert client.feed(forged) == OUT_OF_ORDER


def test_a_message_is_not_acknowledged_before_it_is_out(runtime: Native) -> None:
    client = connected(runtime)
    client.publish("t", b"payload")
    assert client.feed(puback(1)) == OUT_OF_ORDER


def test_too_large_a_topic_or_payload_is_left_out_and_does_not_come_again(runtime: Native) -> None:
    client = connected(runtime, max_payload=100)
    large, long_topic, good = (
        publish("t", bytes(101)),
        publish("x" * 192, b"1", mid=8),
        publish("t", bytes(100), mid=9),
    )
    for stream in (large + long_topic + good, *(bytes([byte]) for byte in large)):
        client.feed(stream)
    kinds = [(event.kind, event.status, event.topic) for event in client.events]
    assert kinds == [
        (REFUSED, TOO_LARGE, "t"),
        (REFUSED, TOO_LARGE, ""),
        (RECEIVED, OK, "t"),
        (REFUSED, TOO_LARGE, "t"),
    ]
    assert client.output() == puback(7) + puback(8) + puback(7)


def test_an_acknowledgement_that_does_not_fit_holds_up_what_comes(runtime: Native) -> None:
    client = connected(runtime, max_payload=0, capacity=16)
    stream = b"".join(publish("t", b"x", mid=i) for i in range(1, 7))
    assert client.feed(stream) == NO_SPACE
    assert client.output() == puback(1) + puback(2) + puback(3) + puback(4)
    assert client.feed(b"") == PENDING
    assert client.output() == puback(5)


def test_a_truncated_packet_is_forgotten_with_its_connection(runtime: Native) -> None:
    client = connected(runtime)
    client.feed(publish("t", b"0123456789")[:-4])
    assert [(e.offset, e.payload, e.last) for e in client.events] == [(0, b"012345", False)]
    client.lost()
    assert client.connect() == OK and client.feed(SESSION + publish("t", b"again")) == PENDING
    assert client.messages() == [("t", b"again")]


# --- sessions and time ---


def test_an_undelivered_message_is_sent_again_as_a_duplicate_on_the_next_connection(runtime: Native) -> None:
    client = connected(runtime)
    client.publish("t", b"report", retain=True)
    first = client.output()
    client.lost()
    assert client.output() == b"" and client.tick(10**6) == OK
    client.connect()
    client.output()
    client.feed(SESSION)
    again = client.output()
    assert again == bytes([first[0] | 8]) + first[1:]
    client.feed(puback(1))
    assert client.events[-1].kind == DELIVERED
    client.publish("t", b"next")
    assert client.output()[0] == 0x32


def test_a_message_that_never_went_out_is_no_duplicate_and_can_be_withdrawn(runtime: Native) -> None:
    client = Client(runtime)
    assert client.publish("t", b"old") == OK and client.publish("t", b"new") == PENDING
    assert client.lib.sl_mqtt_withdraw(client.mqtt) == OK
    assert client.publish("t", b"new") == OK
    client.connect()
    client.output()
    client.feed(CONNACK)
    assert client.output() == publish("t", b"new", mid=2)
    assert client.lib.sl_mqtt_withdraw(client.mqtt) == PENDING


def test_an_acknowledgement_belongs_to_its_connection(runtime: Native) -> None:
    client = connected(runtime)
    client.feed(publish("t", b""))
    receipt = client.events[-1].receipt
    client.lost()
    client.connect()
    client.output()
    client.feed(SESSION)
    assert client.acknowledge(receipt) == OK and client.output() == b""
    client.feed(publish("t", b"", flags=8))
    assert client.acknowledge(client.events[-1].receipt) == OK and client.output() == puback(7)


def test_a_silent_client_pings_and_a_silent_broker_is_given_up(runtime: Native) -> None:
    client = connected(runtime, keep_alive_s=10)
    assert client.tick(4999) == OK and client.output(4999) == b""
    assert client.tick(5000) == OK and client.output(5000) == b"\xc0\x00"
    assert client.feed(PINGRESP) == PENDING
    assert client.tick(9999) == OK and client.output(9999) == b""
    assert client.tick(10_000) == OK and client.output(10_000) == b"\xc0\x00"
    assert client.tick(19_999) == OK
    assert client.tick(20_000) == TIMEOUT
    assert client.feed(PINGRESP) == TIMEOUT


@pytest.mark.parametrize("what", ["connect", "subscribe", "unsubscribe", "publish"])
def test_each_answer_is_waited_for_as_long_as_keep_alive(runtime: Native, what: str) -> None:
    client = Client(runtime, keep_alive_s=10)
    start = 2**32 - 5000  # milliseconds wrap around
    client.connect(start)
    client.output(start)
    if what != "connect":
        client.feed(CONNACK)
        {
            "subscribe": lambda: client.subscribe("t", start),
            "unsubscribe": lambda: client.unsubscribe("t", start),
            "publish": lambda: client.publish("t", b""),
        }[what]()
        client.output(start)
    for late in (0, 5000, 9999):
        assert client.tick((start + late) % 2**32) == OK
        client.output((start + late) % 2**32)
        if what != "connect" and late == 5000:
            client.feed(PINGRESP)
    assert client.tick((start + 10_000) % 2**32) == TIMEOUT


def test_without_a_connection_only_a_message_waits(runtime: Native) -> None:
    client = Client(runtime)
    assert client.subscribe("t") == LINK_LOST and client.unsubscribe("t") == LINK_LOST
    assert client.feed(CONNACK) == LINK_LOST
    assert client.lib.sl_mqtt_disconnect(client.mqtt) == LINK_LOST
    assert client.publish("t", b"") == OK and client.output() == b""
    assert client.publish("", b"") == PENDING


@given(data=st.lists(st.binary(max_size=60), max_size=20))
def test_no_bytes_do_more_than_end_the_connection(runtime: Native, data: list[bytes]) -> None:
    client = connected(runtime)
    statuses = [client.feed(piece) for piece in data]
    assert set(statuses) <= {PENDING, MALFORMED, OUT_OF_ORDER}
    assert statuses == sorted(statuses, reverse=True), "a failure stays"


# --- with the real broker ---

pytestmark_network = [
    pytest.mark.network,
    pytest.mark.skipif(find_mosquitto() is None, reason="no mosquitto"),
]


class Live:
    """A client on a socket, closed after its test, read 512 bytes at a time; messages are acknowledged when `stores` says they are durable."""

    OPEN: ClassVar[list[socket.socket]] = []

    def __init__(self, client: Client, port: int, *, stores: bool = True) -> None:
        self.client, self.stores = client, stores
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.OPEN.append(self.socket)
        self.socket.settimeout(0.02)
        assert client.connect(self.now()) == OK

    def now(self) -> int:
        return int(time.monotonic() * 1000) % 2**32

    def step(self) -> None:
        self.socket.sendall(self.client.output(self.now()))
        try:
            data = self.socket.recv(512)
        except TimeoutError:
            data = b""
        before = len(self.client.events)
        assert self.client.feed(data) == PENDING
        for event in self.client.events[before:]:
            if self.stores and event.kind == RECEIVED and event.last:
                assert self.client.acknowledge(event.receipt) == OK
        assert self.client.tick(self.now()) == OK

    def until(self, condition) -> None:
        deadline = time.monotonic() + 20
        while not condition():
            assert time.monotonic() < deadline, self.client.events[-3:]
            self.step()

    def wait_for(self, kind: int) -> Event:
        self.until(lambda: any(event.kind == kind for event in self.client.events))
        return next(event for event in self.client.events if event.kind == kind)

    def ready(self) -> Event:
        return self.wait_for(CONNECTED)

    def send(self, topic: str, payload: bytes) -> None:
        self.client.events.clear()
        assert self.client.publish(topic, payload) == OK
        self.wait_for(DELIVERED)

    def drop(self) -> None:
        self.socket.close()
        self.client.lost()
        self.client.events.clear()


def start(runtime: Native, broker: Broker, client_id: str, **settings: object) -> Live:
    live = Live(Client(runtime, client_id=client_id, **settings), broker.port)
    live.ready()
    return live


@pytest.fixture(scope="module", params=["mosquitto", "embedded"])
def broker(request: pytest.FixtureRequest):
    with start_broker(request.param) as running:
        yield running


def reader(runtime: Native, broker: Broker, client_id: str, topic: str) -> Live:
    live = start(runtime, broker, client_id)
    live.client.subscribe(topic, live.now())
    live.wait_for(SUBSCRIBED)
    return live


class TestWithBroker:
    pytestmark = pytestmark_network

    @pytest.fixture(autouse=True)
    def sockets(self):
        yield
        while Live.OPEN:
            Live.OPEN.pop().close()

    def test_a_large_message_goes_through_small_buffers_both_ways(self, runtime: Native, broker: Broker):
        payload = bytes(i * 7 % 256 for i in range(300_000))
        one, two = (
            start(runtime, broker, "large-1"),
            reader(runtime, broker, "large-2", "large/topic"),
        )
        one.send("large/topic", payload)
        two.until(lambda: two.client.messages())
        assert two.client.messages() == [("large/topic", payload)]
        assert max(len(event.payload) for event in two.client.events) <= 512

    def test_the_will_of_a_lost_client_is_retained_and_a_goodbye_leaves_none(
        self, runtime: Native, broker: Broker
    ):
        for leaves in ("lost", "polite"):
            gone = start(runtime, broker, leaves, will=(f"will/{leaves}", b"offline"))
            if leaves == "polite":
                assert gone.client.lib.sl_mqtt_disconnect(gone.client.mqtt) == OK
                gone.socket.sendall(gone.client.output())
            gone.drop()
        watcher = reader(runtime, broker, "watcher", "will/+")
        watcher.until(lambda: watcher.client.messages())
        watcher.step()
        assert watcher.client.messages() == [("will/lost", b"offline")]
        assert all(event.retained for event in watcher.client.events if event.kind == RECEIVED)

    def test_what_was_not_acknowledged_comes_again_and_the_session_keeps_the_subscription(
        self, runtime: Native, broker: Broker
    ):
        live = reader(runtime, broker, "keeper", "kept/topic")
        live.stores = False
        sender = start(runtime, broker, "sender")
        sender.send("kept/topic", b"1")
        live.until(lambda: live.client.messages())
        live.drop()
        sender.send("kept/topic", b"2")
        again = Live(live.client, broker.port)
        assert again.ready().session_present
        again.until(lambda: len(again.client.messages()) == 2)
        assert again.client.messages() == [("kept/topic", b"1"), ("kept/topic", b"2")]
        again.step()
        again.drop()
        third = Live(again.client, broker.port)
        third.ready()
        third.step()
        assert third.client.messages() == []

    def test_a_restarted_broker_gets_the_report_that_it_did_not_acknowledge(self, runtime: Native, tmp_path):
        with start_broker("mosquitto", data_dir=tmp_path) as broker:
            port = broker.port
            live = reader(runtime, broker, "phoenix", "down/stream")
            live.client.publish("up/stream", b"report", retain=True)
            live.socket.sendall(live.client.output(live.now()))  # its answer is never read
        live.drop()
        with start_broker("mosquitto", port=port, data_dir=tmp_path) as broker:
            again = Live(live.client, port)
            assert again.ready().session_present
            again.wait_for(DELIVERED)
            other = reader(runtime, broker, "other", "up/stream")
            other.until(lambda: other.client.messages())
            assert other.client.messages() == [("up/stream", b"report")]
            other.send("down/stream", b"still subscribed")
            again.until(lambda: again.client.messages())
            assert again.client.messages() == [("down/stream", b"still subscribed")]

    def test_keep_alive_holds_an_idle_connection(self, runtime: Native, broker: Broker):
        live = start(runtime, broker, "idle", keep_alive_s=1)
        end = time.monotonic() + 3
        while time.monotonic() < end:  # mosquitto gives up after 1.5 s of silence
            live.step()
        live.send("idle/topic", b"")
