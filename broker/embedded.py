# mypy: disable-error-code="import-untyped,misc,no-any-return"
"""The broker for a machine without mosquitto: amqtt 0.12 (MQTT 3.1.1) on a thread of this process.

For a laptop, a demo, a small bench: one user, no access control, and nothing survives its stop. amqtt
0.12 loses messages in ways that break QoS 1; the overrides below mend them, each with what it mends (also in
docs/wire.md, "The embedded broker").
"""

from __future__ import annotations

import asyncio
import logging
import ssl
import threading
import warnings
from typing import TYPE_CHECKING, Any, ClassVar, Self
from weakref import WeakSet

from sanderling.broker.mosquitto import TlsListener, revoked_by
from sanderling.models.errors import MissingError, SanderlingError

if TYPE_CHECKING:
    from amqtt.session import Session

try:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        from amqtt.adapters import BufferReader
        from amqtt.broker import Broker as _AmqttBroker
        from amqtt.contexts import BrokerConfig, ListenerConfig
        from amqtt.errors import AMQTTError, MQTTError
        from amqtt.mqtt.protocol.broker_handler import BrokerProtocolHandler
        from amqtt.plugins.base import BaseAuthPlugin
        from amqtt.session import OUTGOING
except ImportError as _error:
    raise MissingError(
        "no broker: install mosquitto (`apt install mosquitto`) or the extra `coordinator`, which brings amqtt"
    ) from _error

_STOP_S = 10.0
_CONNECT_S = 10.0
_MAX_CONNECT_BYTES = 1 << 18
_MQTT_311 = b"\0\4MQTT\4"
_UNACCEPTABLE_PROTOCOL_VERSION = b"\x20\2\0\1"  # a CONNACK of 3.1.1


class AcceptAll(BaseAuthPlugin):
    """Lets everyone in, without amqtt's mark of anonymity, which would cost a client its persistent session."""

    async def authenticate(self, *, session: Session) -> bool:
        return True


class _Handler(BrokerProtocolHandler):
    """amqtt forgets a QoS 1 message when the connection ends, or after 5 s, before it was acknowledged.

    Here it stays in the session until the PUBACK, and is sent again at the next connection.
    """

    async def _handle_qos1_message_flow(self, app_message: Any) -> None:
        if app_message.direction != OUTGOING or self.session is None:
            return await super()._handle_qos1_message_flow(app_message)
        self.session.inflight_out[app_message.packet_id] = app_message
        packet = app_message.build_publish_packet(dup=app_message.publish_packet is not None)
        app_message.publish_packet = packet
        return await self._send_packet(packet)

    async def stop(self) -> None:
        """On Python 3.11 amqtt's reader can miss its cancellation, and be waited for without end: asyncio.wait_for
        drops it when a packet arrives at that instant."""
        if self.reader is not None:
            self.reader.feed_eof()
        await super().stop()

    async def handle_puback(self, puback: Any) -> None:
        if self.session is not None and puback.variable_header is not None:
            self.session.inflight_out.pop(puback.variable_header.packet_id, None)


class _Broker(_AmqttBroker):
    def __init__(
        self, config: BrokerConfig, loop: asyncio.AbstractEventLoop, context: ssl.SSLContext | None
    ) -> None:
        super().__init__(config, loop)
        self._context = context
        self._resuming: set[str | None] = set()
        self._transports: WeakSet[asyncio.WriteTransport] = WeakSet()

    async def stream_connected(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, listener_name: str
    ) -> None:
        """amqtt leaves a connection open when it was reset while being closed."""
        self._transports.add(writer.transport)
        try:
            await super().stream_connected(reader, writer, listener_name)
        finally:
            writer.close()

    def _create_ssl_context(self, listener: Any) -> ssl.SSLContext | None:
        """amqtt would take clients without a certificate, and knows no revocation."""
        return self._context

    async def shutdown(self) -> None:
        await super().shutdown()
        self.close_connections()
        await asyncio.sleep(0)

    def close_connections(self) -> None:
        for transport in self._transports:
            transport.abort()

    async def _initialize_client_session(
        self, reader: Any, writer: Any, *peer: Any
    ) -> tuple[BrokerProtocolHandler, Session]:
        """amqtt would read a CONNECT of MQTT 5 as one of 3.1.1 and wait for ever for its end."""
        try:
            head, body = await asyncio.wait_for(_read_packet(reader), _CONNECT_S)
            if not body.startswith(_MQTT_311):
                writer.write(_UNACCEPTABLE_PROTOCOL_VERSION)
                raise MQTTError("not a CONNECT of MQTT 3.1.1")
        except (OSError, EOFError, TimeoutError, MQTTError) as error:
            await writer.close()
            raise AMQTTError(str(error)) from error
        _, session = await super()._initialize_client_session(BufferReader(head + body), writer, *peer)
        return _Handler(self.plugins_manager, loop=self._loop), session

    async def _publish_session_retained_messages(self, session: Session) -> None:
        """What was queued for an absent client: amqtt would mark it all as retained."""
        self._resuming.add(session.client_id)
        handler = self._get_handler(session)
        while handler and not session.retained_messages.empty():
            queued = session.retained_messages.get_nowait()
            await handler.mqtt_publish(queued.topic, queued.data, queued.qos, retain=False)

    async def _publish_retained_messages_for_subscription(
        self, subscription: tuple[str, int], session: Session
    ) -> None:
        """amqtt would send a client, as it connects, what is retained on everybody's subscriptions."""
        if session.client_id not in self._resuming:
            await super()._publish_retained_messages_for_subscription(subscription, session)

    async def _client_message_loop(self, client_session: Session, handler: BrokerProtocolHandler) -> None:
        self._resuming.discard(client_session.client_id)
        if (
            not client_session.transitions.is_connected()
        ):  # the end of a connection taken over reached it late
            client_session.transitions.connect()
        await super()._client_message_loop(client_session, handler)
        # amqtt has acknowledged what still waits here, but would hand it on only if the client came back.
        while not client_session.delivered_message_queue.empty():
            waiting = self._loop.create_future()
            waiting.set_result(client_session.delivered_message_queue.get_nowait())
            await self._handle_message_delivery(client_session, handler, waiting)


async def _read_packet(reader: Any) -> tuple[bytes, bytes]:
    """The fixed header and the rest of one packet."""
    head = await reader.read(2)
    while head[-1] >= 0x80 and len(head) < 5:
        head += await reader.read(1)
    size = sum((byte & 0x7F) << 7 * place for place, byte in enumerate(head[1:]))
    if size > _MAX_CONNECT_BYTES:
        raise MQTTError(f"a first packet of {size} bytes")
    return head, await reader.read(size)


def _server_context(tls: TlsListener) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.num_tickets = 0  # a session is never resumed: each connection shows its certificate
    context.options |= ssl.OP_NO_TICKET
    context.load_cert_chain(tls.certificate, tls.key)
    if tls.authority is not None:
        context.load_verify_locations(tls.authority)
        context.verify_mode = ssl.CERT_REQUIRED
    if tls.revoked is not None:
        context.load_verify_locations(tls.revoked)
        context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
    return context


class Embedded:
    """A running amqtt; stop() or leave the context to end it. Port 0 takes a free one.

    With `tls` its clients need a certificate, but what one may read and write is not limited: `rules` is not applied,
    nor the name in the certificate. Raises SanderlingError when it cannot listen there.
    """

    kind: ClassVar[str] = "embedded"

    def __init__(self, *, host: str = "127.0.0.1", port: int = 0, tls: TlsListener | None = None) -> None:
        logging.getLogger("amqtt").setLevel(logging.CRITICAL)
        logging.getLogger("transitions").setLevel(logging.CRITICAL)
        self.host, self.port = (host, port) if tls is None else (tls.host, tls.port)
        self._tls = tls
        self._context = None if tls is None else _server_context(tls)
        self._revoked = revoked_by([] if tls is None else [tls])
        self._broker: _Broker | None = None
        self._ready = threading.Event()
        self._failure: BaseException | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping: asyncio.Event | None = None
        self._thread = threading.Thread(target=self._run, name="embedded broker", daemon=True)
        self._thread.start()
        self._ready.wait()
        if self._failure is not None:
            self._thread.join()
            raise SanderlingError(
                f"the embedded broker did not come up on {host}:{port}: {self._failure}"
            ) from self._failure

    def refresh(self) -> tuple[str, ...]:
        """Reads certificate, key and revocations again; the names of whom something was revoked since. Everybody's
        connection is closed then, and those who still may come back."""
        if self._tls is None or self._context is None or self._loop is None or self._broker is None:
            return ()
        self._context.load_cert_chain(self._tls.certificate, self._tls.key)
        if self._tls.revoked is not None:
            self._context.load_verify_locations(self._tls.revoked)
        known, self._revoked = self._revoked, revoked_by([self._tls])
        names = {name for serial, (name, _) in self._revoked.items() if serial not in known}
        if names:
            self._loop.call_soon_threadsafe(self._broker.close_connections)
        return tuple(sorted(names))

    def stop(self) -> None:
        if self._loop is not None and self._stopping is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join(_STOP_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except Exception as error:
            if self._ready.is_set():
                raise
            self._failure = error
        finally:
            self._ready.set()

    async def _serve(self) -> None:
        self._loop, self._stopping = asyncio.get_running_loop(), asyncio.Event()
        self._loop.set_exception_handler(lambda loop, context: None)  # a client's reset is no news
        address = f"[{self.host}]" if ":" in self.host else self.host
        secured = self._context is not None
        broker = self._broker = _Broker(
            BrokerConfig(
                listeners={"default": ListenerConfig(bind=f"{address}:{self.port}", ssl=secured)},
                plugins={f"{__name__}.{AcceptAll.__name__}": {}},
            ),
            self._loop,
            self._context,
        )
        await broker.start()
        self.port = broker._servers["default"].instance.sockets[0].getsockname()[1]
        self._ready.set()
        await self._stopping.wait()
        await broker.shutdown()
