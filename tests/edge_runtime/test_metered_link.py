"""A link under a byte account on a real broker: what it counts is what crossed, and it falls silent in time."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from sanderling.broker.link import Connected, Delivered, Disconnected, Incoming, Link, LinkSettings
from sanderling.broker.run import start_broker
from sanderling.edge_runtime.byte_budget import DAY_S, ByteAccount, ByteBudget
from sanderling.edge_runtime.storage import Storage

pytestmark = pytest.mark.network
WAIT_S = 20.0


class CountingRelay:
    """A TCP relay that counts what crosses, both ways."""

    def __init__(self, target_port: int) -> None:
        self.crossed = 0
        self._target_port = target_port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._ends: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        for end in (self._listener, *self._ends):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(("127.0.0.1", self._target_port))
                self._ends += [near, far]
                for ends in ((near, far), (far, near)):
                    threading.Thread(target=self._relay, args=ends, daemon=True).start()

    def _relay(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                self.crossed += len(data)
                sink.sendall(data)
            sink.shutdown(socket.SHUT_RDWR)


@pytest.fixture(params=["mosquitto", "embedded"])
def broker(request):
    with start_broker(request.param) as started:
        yield started


@pytest.fixture
def relay(broker) -> Iterator[CountingRelay]:
    one = CountingRelay(broker.port)
    yield one
    one.close()


def wait(link: Link, kind: type, which=lambda event: True):
    give_up = time.monotonic() + WAIT_S
    while time.monotonic() < give_up:
        event = link.next_event(0.1)
        if isinstance(event, Incoming):
            link.acknowledge(event)
        if isinstance(event, kind) and which(event):
            return event
    raise AssertionError(f"no {kind.__name__} within {WAIT_S} s")


def test_every_byte_that_crosses_is_counted(relay, tmp_path):
    with Storage(tmp_path) as storage:
        account = ByteAccount(ByteBudget(per_day=1_000_000), storage, time.time)
        settings = LinkSettings(host="127.0.0.1", port=relay.port, client_id="metered", keepalive_s=1)
        with Link(settings, gate=account) as link:
            link.subscribe("a/b")
            wait(link, Connected)
            link.publish("a/b", bytes(3_000))
            wait(link, Incoming)
            time.sleep(1.5)  # a ping
            measure = link.measure()
            assert measure.mqtt_bytes_up + measure.mqtt_bytes_down == relay.crossed
            assert relay.crossed > 6_000
        used = account.used().day_bytes
    assert relay.crossed + 104 * 5 < used < 2 * relay.crossed


def test_a_spent_budget_closes_the_link_before_it_is_exceeded_and_a_new_day_opens_it(broker, relay, tmp_path):
    now = [10.0 * DAY_S]
    with (
        Storage(tmp_path) as storage,
        Link(LinkSettings(host="127.0.0.1", port=broker.port, client_id="watcher")) as watcher,
    ):
        watcher.subscribe("metered/status")
        account = ByteAccount(ByteBudget(per_day=12_000), storage, lambda: now[0])
        settings = LinkSettings(
            host="127.0.0.1", port=relay.port, client_id="metered", will=("metered/status", b"gone")
        )
        with Link(settings, gate=account) as link:
            wait(link, Connected)
            for _ in range(20):
                link.publish("a/b", bytes(1_000))
            wait(link, Delivered)
            # What does not fit is not begun: the link stays for what may come, until only the reserve is left.
            time.sleep(1.0)
            assert link.measure().queued_messages > 0
            spent = account.used().day_bytes
            assert relay.crossed < spent <= 12_000
            account.count(max(0, 12_000 - 2_048 - spent))  # as if a plan had come
            reason = wait(link, Disconnected).reason
            assert reason == "the byte budget is spent; silent until it is renewed"
            assert wait(watcher, Incoming).payload == b"gone"
            before = relay.crossed
            time.sleep(1.0)
            assert relay.crossed == before
            now[0] += DAY_S
            wait(link, Connected)
            assert account.used().day == 11
