"""The C client of MQTT in Python's hands: its events as values, its output as bytes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from sanderling.models.native import Native

NOTHING, CONNECTED, RECEIVED, REFUSED, DELIVERED, SUBSCRIBED, UNSUBSCRIBED = range(7)
OK, PENDING, MALFORMED, TOO_LARGE, LINK_LOST, REFUSED_BY_BROKER, TIMEOUT, NO_SPACE, OUT_OF_ORDER = (
    0,
    1,
    -1,
    -2,
    -13,
    -14,
    -15,
    -17,
    -20,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    kind: int
    status: int = 0
    topic: str = ""
    payload: bytes = b""
    offset: int = 0
    total: int = 0
    last: bool = False
    retained: bool = False
    session_present: bool = False
    receipt: int = 0


@dataclass
class Client:
    """`feed` returns the status at which it stopped, `events` grows."""

    runtime: Native
    client_id: str = "n"
    will: tuple[str, bytes] | None = None
    keep_alive_s: int = 10
    max_payload: int = 1 << 20
    capacity: int = 512
    user: tuple[str, bytes] | None = None
    events: list[Event] = field(default_factory=list)
    _kept: list[Any] = field(default_factory=list)

    def __post_init__(self) -> None:
        ffi = self.runtime.ffi
        settings = ffi.new("sl_mqtt_settings *")
        settings.client_id = self._text(self.client_id)
        settings.keep_alive_s, settings.max_payload_bytes = self.keep_alive_s, self.max_payload
        if self.will is not None:
            settings.will_topic, settings.will = self._text(self.will[0]), self._bytes(self.will[1])
            settings.will_size = len(self.will[1])
        if self.user is not None:
            settings.user_name, settings.password = self._text(self.user[0]), self._bytes(self.user[1])
            settings.password_size = len(self.user[1])
        self.mqtt = ffi.new("sl_mqtt *")
        queue = ffi.new("uint8_t[]", self.capacity)
        self._kept += [settings, queue]
        self.lib.sl_mqtt_begin(self.mqtt, settings, queue, self.capacity)

    @property
    def lib(self) -> Any:
        return self.runtime.lib

    def connect(self, now: int = 0) -> int:
        return int(self.lib.sl_mqtt_connect(self.mqtt, now))

    def lost(self) -> None:
        self.lib.sl_mqtt_lost(self.mqtt)

    def tick(self, now: int) -> int:
        return int(self.lib.sl_mqtt_tick(self.mqtt, now))

    def feed(self, data: bytes) -> int:
        """Feeds all, or up to the refusal."""
        ffi, event, used = self.runtime.ffi, self.runtime.ffi.new("sl_mqtt_event *"), [0]
        count = ffi.new("uint32_t *")
        buffer = ffi.from_buffer(data)
        while True:
            status = self.lib.sl_mqtt_feed(self.mqtt, buffer + used[0], len(data) - used[0], count, event)
            used[0] += count[0]
            assert used[0] <= len(data)
            if status != OK:
                assert status != PENDING or used[0] == len(data)
                return int(status)
            self.events.append(
                Event(
                    kind=event.kind,
                    status=event.status,
                    topic=ffi.string(event.topic).decode() if event.topic else "",
                    payload=bytes(ffi.buffer(event.bytes, event.size)) if event.size else b"",
                    offset=event.offset,
                    total=event.total,
                    last=event.last,
                    retained=event.retained,
                    session_present=event.session_present,
                    receipt=event.receipt,
                )
            )

    def output(self, now: int = 0, at_most: int = 1 << 30) -> bytes:
        """All that is to be sent, in steps of at most so many bytes."""
        where, sent = self.runtime.ffi.new("const uint8_t **"), b""
        while size := self.lib.sl_mqtt_output(self.mqtt, where):
            size = min(size, at_most)
            sent += bytes(self.runtime.ffi.buffer(where[0], size))
            self.lib.sl_mqtt_sent(self.mqtt, size, now)
        return sent

    def subscribe(self, topic: str, now: int = 0) -> int:
        return int(self.lib.sl_mqtt_subscribe(self.mqtt, topic.encode(), now))

    def unsubscribe(self, topic: str, now: int = 0) -> int:
        return int(self.lib.sl_mqtt_unsubscribe(self.mqtt, topic.encode(), now))

    def publish(self, topic: str, payload: bytes, retain: bool = False) -> int:
        return int(
            self.lib.sl_mqtt_publish(self.mqtt, self._text(topic), self._bytes(payload), len(payload), retain)
        )

    def acknowledge(self, receipt: int) -> int:
        return int(self.lib.sl_mqtt_acknowledge(self.mqtt, receipt))

    def messages(self) -> list[tuple[str, bytes]]:
        """The whole messages among the events, put together again."""
        whole, parts = [], b""
        for event in self.events:
            if event.kind == RECEIVED:
                parts = event.payload if event.offset == 0 else parts + event.payload
                assert event.offset + len(event.payload) == len(parts)
                if event.last:
                    assert len(parts) == event.total
                    whole.append((event.topic, parts))
        return whole

    def _text(self, text: str) -> Any:
        self._kept.append(self.runtime.ffi.new("char[]", text.encode()))
        return self._kept[-1]

    def _bytes(self, data: bytes) -> Any:
        self._kept.append(self.runtime.ffi.new("uint8_t[]", data or b"\0"))
        return self._kept[-1]
