"""A coordinator that a test plays: it publishes what the test says and keeps what devices of the federation `bench` send."""

from __future__ import annotations

import time
from collections.abc import Callable

from sanderling.broker.link import Incoming, Link, LinkSettings
from sanderling.broker.messages import ModelBody, RoundPlan, StatusMessage, UpdateMessage
from sanderling.broker.topics import Topics

TOPICS = Topics("bench")
WAIT_S = 30.0


class Coordinator:
    """Publishes what a test says and keeps what devices send."""

    def __init__(self, port: int) -> None:
        self._link = Link(LinkSettings(host="127.0.0.1", port=port, client_id="bench-coordinator"))
        for topic in (TOPICS.all_updates, TOPICS.all_statuses, TOPICS.all_evaluations):
            self._link.subscribe(topic)
        self._link.start()
        self.received: list[tuple[str, bytes]] = []

    def publish(self, topic: str, payload: bytes) -> None:
        self._link.publish(topic, payload, qos=1, retain=True)

    def announce(self, package, plan: RoundPlan, *models) -> None:
        """The network, the bodies, then the plan that names them."""
        self.publish(TOPICS.network(package.network.content_hash), package.to_bytes())
        for model in models:
            self.publish(TOPICS.model(model.model_hash), ModelBody.of(model).encode())
        self.publish(TOPICS.plan, plan.encode())

    def wait(self, topic: str, which: Callable[[bytes], bool] = bool) -> bytes:
        """The first message on `topic` that was not waited for yet and that `which` holds of."""
        give_up = time.monotonic() + WAIT_S
        while True:
            for index, (came_on, payload) in enumerate(self.received):
                if came_on == topic and which(payload):
                    del self.received[index]
                    return payload
            assert time.monotonic() < give_up, f"nothing on {topic}; came: {self.received}"
            event = self._link.next_event(0.1)
            if isinstance(event, Incoming):
                self._link.acknowledge(event)
                self.received.append((event.topic, event.payload))

    def either(self, number: int, device: str = "dev-1") -> str:
        """The topic that the device answers on: its update of the round `number`, or a status that it is offline."""
        status, update = TOPICS.status(device), TOPICS.update(device)
        give_up = time.monotonic() + WAIT_S
        while time.monotonic() < give_up:
            for topic, payload in self.received:
                if topic == update and UpdateMessage.decode(payload).round == number:
                    return update
                if topic == status and StatusMessage.decode(payload).state == "offline":
                    return status
            event = self._link.next_event(0.1)
            if isinstance(event, Incoming):
                self._link.acknowledge(event)
                self.received.append((event.topic, event.payload))
        raise AssertionError(f"no answer to round {number}; came: {self.received}")

    def update(self, device: str = "dev-1") -> bytes:
        return self.wait(TOPICS.update(device))

    def status(self, which: Callable[[StatusMessage], bool], device: str = "dev-1") -> StatusMessage:
        payload = self.wait(TOPICS.status(device), lambda p: which(StatusMessage.decode(p)))
        return StatusMessage.decode(payload)

    def close(self) -> None:
        self._link.close()
