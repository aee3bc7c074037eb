"""An MQTT client that keeps trying, keeps order of what is acknowledged, and measures itself.

MQTT 5 where the broker has it, else 3.1.1; a persistent session either way. One thread owns the protocol
engine and its socket; the caller's side is a queue of events and methods that never block. QoS 1 messages are acknowledged only by `acknowledge`, so a crash before the caller stored one brings it again.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import random
import re
import selectors
import socket
import ssl
import struct
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import paho.mqtt.client as mqtt
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from sanderling.broker.errors import LinkError, QueueFullError
from sanderling.broker.link_measure import AcknowledgementMeter, LinkMeasure, segment_loss
from sanderling.broker.mqtt_client import (
    MQTT_5,
    MQTT_311,
    Gate,
    LinkSettings,
    MqttClient,
    TlsFiles,
    TlsPin,
    explain,
    where,
)
from sanderling.models.errors import UsageError

__all__ = [
    "Connected",
    "Delivered",
    "Disconnected",
    "Event",
    "Gate",
    "Incoming",
    "Link",
    "LinkMeasure",
    "LinkSettings",
    "Refused",
    "TlsFiles",
    "TlsPin",
    "backoff_s",
]

_log = logging.getLogger(__name__)

_PROTOCOL_NAMES = {MQTT_5: "MQTT 5", MQTT_311: "MQTT 3.1.1"}
_FRAMING_BYTES = 256  # topic, properties and headers of a PUBLISH, at most
_SPENT = "the byte budget is spent; silent until it is renewed"
_SPENT_S = 5.0  # between two looks at it
_STABLE_S = 10.0  # a connection that lasted this long was a good one
_GOODBYE_S = 1.0
_WINDOW = 20  # QoS 1 messages sent and not acknowledged, at most
_TOPIC = re.compile(r"[^+#\0]+")
_FILTER = re.compile(r"(\+|[^+#/\0]*)(/(\+|[^+#/\0]*))*(/#)?|#")


@dataclass(frozen=True, slots=True, kw_only=True)
class Connected:
    """Without `session_present` the broker knows nothing of before: what it retained or queued may be gone."""

    session_present: bool
    protocol: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Disconnected:
    """The connection was lost, or an attempt at it failed; the link keeps trying. `reason` says what to look at."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Incoming:
    """A message. At QoS 1 it comes again, after a reconnect, until it is acknowledged."""

    topic: str
    payload: bytes
    retain: bool
    mid: int
    qos: int
    connection: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivered:
    """The broker has taken over what publish() returned `mid` for (QoS 1)."""

    mid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """The broker will not take the message (MQTT 5 only: 3.1.1 has no way to say so)."""

    mid: int
    reason: str


Event = Connected | Disconnected | Incoming | Delivered | Refused


@dataclass(frozen=True, slots=True, kw_only=True)
class _Outgoing:
    topic: str
    payload: bytes
    qos: int
    retain: bool


def backoff_s(failures: int, minimum_s: float, maximum_s: float, rng: random.Random) -> float:
    """Half of an exponentially growing wait, and a random part of the other half."""
    whole = min(maximum_s, minimum_s * 2.0 ** min(failures, 30))
    return whole * (1 + rng.random()) / 2


class Link:
    """See the module. start(), then next_event() until close(); also a context manager.

    Subscribe before start(): a persistent session may deliver as soon as it is resumed.
    """

    def __init__(
        self,
        settings: LinkSettings,
        *,
        clock: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
        gate: Gate | None = None,
    ) -> None:
        self._settings = settings
        self._gate = gate
        self._clock = clock
        self._rng = rng or random.Random()
        self._events: queue.Queue[Event] = queue.Queue()
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

        self._lock = threading.Lock()  # guards all below, up to the blank line
        self._drained = threading.Condition(self._lock)
        self._outbox: dict[int, _Outgoing] = {}
        self._unsent: deque[int] = deque()
        self._acknowledgements: deque[Incoming] = deque()
        self._wanted: dict[str, int] = {}
        self._unwanted: set[str] = set()
        self._meter = AcknowledgementMeter()
        self._last_mid = 0
        self._bytes_up = self._bytes_down = self._repeated = self._dropped = 0
        self._mqtt_bytes = (0, 0)  # up and down, of clients before this one
        self._connections = 0
        self._connected = False
        self._protocol = MQTT_5
        self._wake_r, self._wake_w = socket.socketpair()
        self._wake_r.setblocking(False)
        self._wake_w.setblocking(False)

        # Of the thread alone.
        self._context: ssl.SSLContext | None = None
        self._client: MqttClient | None = None
        self._mids: dict[int, int] = {}  # the client's to ours, of what is not acknowledged
        self._window = _WINDOW
        self._asked: set[str] = set()  # subscribed on this connection
        self._known: set[str] = set()  # subscribed before by this link
        self._leaving: dict[int, list[str]] = {}
        self._reason: str | None = None
        self._turned_away = 0  # times in a row that CONNECT was not answered, or the protocol not spoken

    # --- the caller's side ---

    def start(self) -> None:
        """Begins to connect, in the background. Raises UsageError for TLS files that cannot be read."""
        self._context = self._settings.tls.context() if self._settings.tls else None
        self._thread = threading.Thread(
            target=self._run, name=f"link {self._settings.client_id}", daemon=True
        )
        self._thread.start()

    def close(self, *, flush_s: float = 0.0) -> None:
        """Says goodbye, so that the will is not published, and ends the thread. May be called more than once.

        Waits up to `flush_s` for what is queued; an attempt to connect may hold it up by the connect timeout.
        """
        if self._thread is not None and flush_s > 0:
            with self._drained:
                self._drained.wait_for(lambda: not self._outbox and not self._acknowledgements, flush_s)
        self._closing.set()
        self._wake()
        if self._thread is not None:
            self._thread.join()
        self._wake_r.close()
        self._wake_w.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def subscribe(self, topic: str, qos: int = 1) -> None:
        """Asks for a topic filter now if connected, and at every later connection. `qos` is 0 or 1."""
        if not topic or not _FILTER.fullmatch(topic) or qos not in (0, 1):
            raise UsageError(
                f"cannot subscribe to {topic!r} at QoS {qos}: expected a topic filter and QoS 0 or 1"
            )
        with self._lock:
            self._wanted[topic] = qos
            self._unwanted.discard(topic)
        self._wake()

    def unsubscribe(self, topic: str) -> None:
        with self._lock:
            if self._wanted.pop(topic, None) is not None:
                self._unwanted.add(topic)
        self._wake()

    def publish(self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False) -> int:
        """Queues a message and returns the `mid` that Delivered or Refused will carry (QoS 1 only).

        Raises QueueFullError, LinkError for a payload over the packet limit, UsageError for a topic that is
        none: nothing is queued then.
        """
        if not _TOPIC.fullmatch(topic) or qos not in (0, 1):
            raise UsageError(f"cannot publish to {topic!r} at QoS {qos}: expected a topic and QoS 0 or 1")
        if len(payload) + _FRAMING_BYTES > self._settings.max_packet_bytes:
            raise LinkError(
                f"{topic}: {len(payload)} bytes, a packet holds {self._settings.max_packet_bytes}"
            )
        with self._lock:
            if len(self._outbox) >= self._settings.max_queued_messages:
                raise QueueFullError(self._settings.max_queued_messages)
            self._last_mid += 1
            mid = self._last_mid
            self._outbox[mid] = _Outgoing(topic=topic, payload=payload, qos=qos, retain=retain)
            self._unsent.append(mid)
        self._wake()
        return mid

    def next_event(self, timeout_s: float | None = None) -> Event | None:
        """The next event; None when none came within `timeout_s`."""
        try:
            return self._events.get(timeout=timeout_s) if timeout_s != 0 else self._events.get_nowait()
        except queue.Empty:
            return None

    def acknowledge(self, *incoming: Incoming) -> None:
        """Tells the broker that the messages are safe here, in the order given.

        Does nothing at QoS 0, or when the connection one came on is gone: then it comes again.
        """
        with self._lock:
            self._acknowledgements.extend(one for one in incoming if one.qos > 0)
        self._wake()

    def measure(self) -> LinkMeasure:
        with self._lock:
            return LinkMeasure(
                connected=self._connected,
                protocol=_PROTOCOL_NAMES[self._protocol] if self._connected else None,
                goodput_bytes_s=self._meter.goodput_bytes_s,
                round_trip_s=self._meter.round_trip_s,
                queued_messages=len(self._outbox),
                queued_bytes=sum(len(message.payload) for message in self._outbox.values()),
                payload_bytes_up=self._bytes_up,
                payload_bytes_down=self._bytes_down,
                connections=self._connections,
                repeated_messages=self._repeated,
                dropped_messages=self._dropped,
                mqtt_bytes_up=self._mqtt_bytes[0] + (self._client.bytes_up if self._client else 0),
                mqtt_bytes_down=self._mqtt_bytes[1] + (self._client.bytes_down if self._client else 0),
                segment_loss=segment_loss(self._client.socket() if self._client else None),
            )

    def _wake(self) -> None:
        with contextlib.suppress(OSError):  # full: the thread is about to wake; closed: there is no thread
            self._wake_w.send(b"\0")

    # --- the thread's side ---

    def _run(self) -> None:
        try:
            self._keep_connected()
        except BaseException as error:
            self._events.put(Disconnected(reason=f"the link itself failed and is closed: {error!r}"))
            raise

    def _keep_connected(self) -> None:
        failures = 0
        while not self._closing.is_set():
            began = self._clock()
            if not self._may_connect():
                break
            reason = self._connect() or self._serve()
            if self._closing.is_set():
                break
            lasted_s = self._clock() - began
            was_connected, self._connected = self._connected, False
            if self._fall_back():
                continue
            self._events.put(Disconnected(reason=reason))
            failures = 0 if was_connected and lasted_s > _STABLE_S else failures + 1
            least_s, most_s = self._settings.backoff_min_s, self._settings.backoff_max_s
            self._closing.wait(backoff_s(max(failures - 1, 0), least_s, most_s, self._rng))
        self._say_goodbye()

    def _may_connect(self) -> bool:
        """Waits until the gate lets a connection through; False when the link closes meanwhile."""
        told = False
        while self._gate is not None and not self._closing.is_set():
            with self._lock:
                queued = [self._outbox[mid] for mid in self._mids.values() if mid in self._outbox]
            if self._gate.may_connect(sum(_FRAMING_BYTES + len(message.payload) for message in queued)):
                break
            if not told:
                self._events.put(Disconnected(reason=_SPENT))
            told = True
            self._closing.wait(_SPENT_S)
        return not self._closing.is_set()

    def _fall_back(self) -> bool:
        """Changes to the other protocol after CONNECT was turned away; whether to try it at once.

        Also when this one has worked before, since another broker may have taken the place of the first.
        """
        if not self._turned_away:
            return False
        self._protocol = MQTT_311 if self._protocol is MQTT_5 else MQTT_5
        if self._client is not None:
            up, down = self._mqtt_bytes
            self._mqtt_bytes = (up + self._client.bytes_up, down + self._client.bytes_down)
        self._client = None
        return self._turned_away == 1

    def _connect(self) -> str | None:
        """Opens the transport and sends CONNECT; the reason if that fails."""
        self._reason = None
        try:
            if self._client is None:
                self._client = self._make_client()
                self._mids.clear()
                with self._lock:
                    self._unsent = deque(self._outbox)
                self._client.open(self._settings)
            else:
                self._client.reconnect()
        except (OSError, ValueError) as error:
            self._turned_away = 0
            return explain(error, self._settings)
        return None

    def _make_client(self) -> MqttClient:
        settings = self._settings
        client = MqttClient(self._protocol, settings, self._context, self._gate)
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_message = self._on_message
        client.on_publish = self._on_publish
        client.on_subscribe = self._on_subscribe
        client.on_unsubscribe = self._on_unsubscribe
        return client

    def _serve(self) -> str:
        """Runs one connection until it is lost or the link closes; the reason."""
        client = self._client
        assert client is not None
        transport = client.socket()
        deadline = self._clock() + self._settings.connect_timeout_s
        with selectors.DefaultSelector() as selector:
            selector.register(self._wake_r, selectors.EVENT_READ)
            if transport is not None:
                selector.register(transport, selectors.EVENT_READ)
            while transport is not None and client.socket() is transport and not self._closing.is_set():
                if self._gate is not None and not self._gate.open():
                    client.abandon()  # without a goodbye, which would cost: the will tells the others
                    return _SPENT
                if self._connected:
                    self._hand_over(client)
                elif self._clock() > deadline:
                    client.abandon()
                    self._turned_away += 1
                    return f"{where(self._settings)} sent no CONNACK: is it an MQTT broker?"
                if client.socket() is transport:
                    self._step(client, transport, selector)
        if self._reason is None:
            self._reason = f"{where(self._settings)} closed the connection"
            if not self._connected:
                self._turned_away += 1
                self._reason += " instead of answering CONNECT"
                if self._settings.tls is not None:
                    self._reason += "; is our certificate one of its authority, not expired and not revoked?"
        return self._reason

    def _step(self, client: MqttClient, transport: Any, selector: selectors.BaseSelector) -> None:
        write = selectors.EVENT_WRITE if client.want_write() else 0
        selector.modify(transport, selectors.EVENT_READ | write)
        pending = isinstance(transport, ssl.SSLSocket) and transport.pending() > 0
        patience_s = min(max(self._settings.keepalive_s / 8, 0.1), 5.0) if self._connected else 0.2
        ready = {key.fileobj: mask for key, mask in selector.select(0 if pending else patience_s)}
        if self._wake_r in ready:
            self._wake_r.recv(4096)
        mask = ready.get(transport, 0)
        try:
            if mask & selectors.EVENT_READ or pending:
                client.read()
            if mask & selectors.EVENT_WRITE:
                client.loop_write()
            client.loop_misc()
        except (ValueError, LookupError, struct.error) as error:  # paho reads packets as they come
            self._reason = f"{where(self._settings)} sent what is no MQTT packet: {error!r:.80}"
            client.abandon()

    def _hand_over(self, client: MqttClient) -> None:
        """Gives the protocol engine what the caller asked for since the last time."""
        with self._lock:
            outgoing = [(mid, self._outbox[mid]) for mid in self._affordable()]
            acknowledgements, self._acknowledgements = self._acknowledgements, deque()
            new = {topic: qos for topic, qos in self._wanted.items() if topic not in self._asked}
            unwanted, self._unwanted = self._unwanted, set()
            if acknowledgements and not self._outbox:
                self._drained.notify_all()
        if unwanted:
            _, client_mid = client.unsubscribe(sorted(unwanted))
            self._leaving[client_mid or 0] = list(unwanted)
            self._asked -= unwanted
            self._known -= unwanted
        if new:
            client.ask(new, self._known)
            self._asked.update(new)
        for incoming in acknowledgements:
            if incoming.connection == self._connections:
                client.ack(incoming.mid, incoming.qos)
        for mid, message in outgoing:
            self._send(client, mid, message)

    def _affordable(self) -> list[int]:
        """The next to send: as many as the window has room for, one at a time where a gate counts."""
        room = min(self._window - len(self._mids), len(self._unsent))
        if self._gate is not None and room > 0:
            payload = self._outbox[self._unsent[0]].payload
            room = int(self._gate.may_send(_FRAMING_BYTES + len(payload)))
        return [self._unsent.popleft() for _ in range(room)]

    def _send(self, client: MqttClient, mid: int, message: _Outgoing) -> None:
        with self._lock:
            self._bytes_up += len(message.payload)
            if message.qos:
                self._meter.sent(mid, len(message.payload), self._clock())
            else:
                del self._outbox[mid]
        info = client.publish(message.topic, message.payload, message.qos, message.retain)
        if message.qos:
            self._mids[info.mid] = mid

    def _say_goodbye(self) -> None:
        self._connected = False
        client = self._client
        if client is None or (transport := client.socket()) is None:
            return
        client.disconnect()  # written and closed at once, unless the socket is full
        deadline = self._clock() + _GOODBYE_S
        while client.socket() is transport and self._clock() < deadline:
            with selectors.DefaultSelector() as selector:
                selector.register(transport, selectors.EVENT_WRITE)
                selector.select(_GOODBYE_S)
            client.loop_write()
        client.abandon()

    # --- callbacks of paho, on the thread ---

    def _on_connect(
        self,
        client: Any,
        userdata: Any,
        flags: mqtt.ConnectFlags,
        code: ReasonCode,
        properties: Properties | None,
    ) -> None:
        if code.is_failure:
            self._reason = f"{where(self._settings)} refused the connection: {code}"
            self._turned_away += code == "Unsupported protocol version"
            return
        self._turned_away = 0
        self._asked.clear()
        self._window = min(_WINDOW, getattr(properties, "ReceiveMaximum", _WINDOW))
        with self._lock:
            self._connected = True
            self._connections += 1
            repeated, repeated_bytes = self._meter.repeated(self._clock())
            self._repeated += repeated
            self._bytes_up += repeated_bytes
        session_present = bool(flags.session_present)
        self._events.put(Connected(session_present=session_present, protocol=_PROTOCOL_NAMES[self._protocol]))

    def _on_disconnect(
        self, client: Any, userdata: Any, flags: mqtt.DisconnectFlags, code: ReasonCode, properties: Any
    ) -> None:
        if self._reason is None and (flags.is_disconnect_packet_from_server or code == "Keep alive timeout"):
            self._reason = f"the connection to {where(self._settings)} ended: {code}"

    def _on_message(self, client: Any, userdata: Any, message: mqtt.MQTTMessage) -> None:
        try:
            topic = message.topic
        except UnicodeDecodeError:
            topic = ""
        with self._lock:
            self._bytes_down += len(message.payload)
            if message.qos == 0 and self._events.qsize() > self._settings.max_queued_messages:
                self._dropped += 1
                return
        self._events.put(
            Incoming(
                topic=topic,
                payload=bytes(message.payload),
                retain=message.retain,
                mid=message.mid,
                qos=message.qos,
                connection=self._connections,
            )
        )

    def _on_publish(
        self, client: Any, userdata: Any, client_mid: int, code: ReasonCode, properties: Any
    ) -> None:
        if (mid := self._mids.pop(client_mid, None)) is None:
            return
        with self._drained:
            self._outbox.pop(mid, None)
            self._meter.acknowledged(mid, self._clock())
            if not self._outbox:
                self._drained.notify_all()
        self._events.put(Refused(mid=mid, reason=str(code)) if code.is_failure else Delivered(mid=mid))

    def _on_subscribe(
        self, client: Any, userdata: Any, client_mid: int, codes: list[ReasonCode], properties: Any
    ) -> None:
        for code in codes:
            if code.is_failure:
                _log.warning("%s refused a subscription: %s", where(self._settings), code)

    def _on_unsubscribe(
        self, client: Any, userdata: Any, client_mid: int, codes: Any, properties: Any
    ) -> None:
        self._leaving.pop(client_mid, None)
