"""The coordinator's shell at a real broker: what is retained there for devices that fetch models in chunks."""

import contextlib
import threading
import time
from pathlib import Path

import pytest

from sanderling.broker.chunks import retained
from sanderling.broker.link import Incoming, Link, LinkSettings
from sanderling.broker.messages import RoundPlan
from sanderling.broker.run import start_broker
from sanderling.broker.topics import Topics
from sanderling.coordinator.ledger import Ledger
from sanderling.coordinator.rounds import DeviceStatus, new_state
from sanderling.coordinator.service import Coordinator, ServiceSettings, Start
from sanderling.coordinator.tracking import NoTracker
from tests.coordinator.conftest import INITIAL, Lab, make_settings, status

TOPICS = Topics("lab")


class Broker:
    """What is retained, as somebody sees who subscribes to everything."""

    def __init__(self, port: int) -> None:
        self.retained: dict[str, bytes] = {}
        self.link = Link(LinkSettings(host="127.0.0.1", port=port, client_id="mcu"))
        self.link.subscribe("sanderling/1/lab/#")
        self.link.start()

    def until(self, condition) -> None:
        deadline = time.monotonic() + 20
        while not condition():
            assert time.monotonic() < deadline, sorted(self.retained)
            event = self.link.next_event(0.1)
            if isinstance(event, Incoming):
                self.link.acknowledge(event)
                self.retained[event.topic] = event.payload
                if not event.payload:
                    del self.retained[event.topic]

    @property
    def models(self) -> dict[str, bytes]:
        return {topic: data for topic, data in self.retained.items() if "/model/" in topic}

    @property
    def plan(self) -> RoundPlan | None:
        data = self.retained.get(TOPICS.plan)
        return None if data is None else RoundPlan.decode(data)


@contextlib.contextmanager
def coordinating(directory: Path, port: int, devices: tuple[str, ...] = ("mcu",)):
    service = ServiceSettings(
        directory=directory,
        host="127.0.0.1",
        port=port,
        keepalive_s=10,
        max_packet_bytes=1 << 20,
        connect_timeout_s=10,
    )
    stop = threading.Event()
    settings = make_settings(mode="lockstep", devices=devices, count=2)

    def run() -> None:
        start = Start(config="", network=b"package", model=INITIAL)
        Coordinator(settings, service, start, NoTracker(), lambda _line: None, stop).run()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield settings
    finally:
        stop.set()
        thread.join()


@pytest.mark.network
def test_chunks_stand_beside_the_body_and_are_cleared_with_it(tmp_path: Path) -> None:
    with start_broker() as running, coordinating(tmp_path, running.port) as settings:
        broker = Broker(running.port)
        with contextlib.closing(broker.link):
            body, chunks = (retained(TOPICS, INITIAL, size) for size in (None, 256))
            hello = status(receive_buffer_bytes=300)
            broker.link.publish(TOPICS.status("mcu"), hello.encode(), qos=1, retain=True)
            broker.until(lambda: broker.plan is not None and broker.plan.phase == "round")
            broker.until(lambda: broker.models == body | chunks)
            assert len(chunks) == 1 and next(iter(chunks)).endswith("/chunk/256/0")

            run = broker.plan.run
            twin = Lab(settings, new_state(run, INITIAL, len(b"package")), [])
            twin.take(DeviceStatus(device_id="mcu", status=hello))
            report = twin.update(run=run)
            twin.deliver("mcu", report)
            broker.link.publish(TOPICS.update("mcu"), report, qos=1)
            broker.until(lambda: broker.plan.round == 2)
            body, chunks = (retained(TOPICS, twin.state.model, size) for size in (None, 256))
            broker.until(lambda: broker.models == body | chunks)


@pytest.mark.network
def test_a_burst_of_reports_is_in_the_ledger_before_any_is_acknowledged(tmp_path: Path, monkeypatch) -> None:
    devices = tuple(f"d{number:02}" for number in range(40))
    stored_when_acknowledged, bursts, acknowledge = [], [], Link.acknowledge

    def looked_at(link: Link, *incoming: Incoming) -> None:
        updates = {TOPICS.device_of(one.topic) for one in incoming if one.topic.endswith("/update")}
        if updates and threading.current_thread() is not threading.main_thread():  # the coordinator's own
            with contextlib.closing(Ledger(tmp_path)) as ledger:  # as who comes after a kill reads it
                stored_when_acknowledged.append(updates <= ledger.reports(1).keys())
            bursts.append(len(updates))
        acknowledge(link, *incoming)

    monkeypatch.setattr(Link, "acknowledge", looked_at)
    with start_broker() as running, coordinating(tmp_path, running.port, devices) as settings:
        broker = Broker(running.port)
        with contextlib.closing(broker.link):
            for device in devices:
                broker.link.publish(TOPICS.status(device), status().encode(), qos=1, retain=True)
            broker.until(lambda: broker.plan is not None and broker.plan.round == 1)
            run = broker.plan.run
            twin = Lab(settings, new_state(run, INITIAL, len(b"package")), [])
            twin.announce(*devices)
            for device in devices:
                broker.link.publish(TOPICS.update(device), twin.update(run=run), qos=1)
            broker.until(lambda: broker.plan.round == 2)
    assert sum(bursts) == len(devices) and all(stored_when_acknowledged)
    with contextlib.closing(Ledger(tmp_path)) as ledger:
        assert tuple(ledger.reports(1)) == devices
