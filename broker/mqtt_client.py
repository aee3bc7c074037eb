"""paho as a protocol engine, without its thread and its reconnecting, and what its failures mean.

Speaks MQTT 5 or 3.1.1 with a persistent session and manual acknowledgement; broker/link.py runs its socket.
"""

from __future__ import annotations

import hashlib
import hmac
import socket
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

from sanderling.models.errors import UsageError

MQTT_5, MQTT_311 = MQTTProtocolVersion.MQTTv5, MQTTProtocolVersion.MQTTv311


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsFiles:
    """PEM files: the authority that signed the broker, and this client's own certificate and key, if any."""

    authority: Path
    certificate: Path | None = None
    key: Path | None = None

    def context(self) -> ssl.SSLContext:
        try:
            context = ssl.create_default_context(cafile=self.authority)
            if self.certificate is not None:
                context.load_cert_chain(self.certificate, self.key)
        except (OSError, ssl.SSLError) as error:
            raise UsageError(f"TLS files of {self.authority} cannot be used: {error}") from error
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        return context

    def check(self, certificate: bytes) -> None:
        """Nothing more than the context does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsPin:
    """One certificate that the broker must show, for a client that knows no authority and has no certificate yet."""

    certificate_sha256: bytes  # of its DER form

    def context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE  # the pin says more: see check
        return context

    def check(self, certificate: bytes) -> None:
        """Raises ssl.SSLCertVerificationError where the broker, whose DER certificate this is, is another one."""
        if not hmac.compare_digest(hashlib.sha256(certificate).digest(), self.certificate_sha256):
            error = ssl.SSLCertVerificationError(1, "not the certificate that was pinned")
            error.verify_message = "it is not the certificate that was pinned"
            raise error


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkSettings:
    """`will` (topic, payload) is published by the broker, retained, when the link is lost without a goodbye."""

    host: str  # or the path of a socket in the file system
    port: int
    client_id: str
    will: tuple[str, bytes] | None = None
    keepalive_s: int = 60
    session_expiry_s: int = 7 * 86_400
    tls: TlsFiles | TlsPin | None = None
    username: str | None = None
    password: str | None = None
    max_packet_bytes: int = 17 << 20
    max_queued_messages: int = 1000
    connect_timeout_s: float = 5.0
    backoff_min_s: float = 0.5
    backoff_max_s: float = 60.0


class Gate(Protocol):
    """A budget of bytes (edge_runtime/byte_budget.py is one). Sizes are of MQTT packets; it adds what lies below them."""

    def may_connect(self, queued_bytes: int) -> bool:
        """Whether a connection may be opened on which so many bytes are sent again; counts its opening."""

    def may_send(self, mqtt_bytes: int) -> bool:
        """Whether a message may be begun."""

    def prepare(self, mqtt_bytes: int) -> None:
        """So many bytes may cross next: on return their count is durable."""

    def use(self, mqtt_bytes: int) -> bool:
        """So many bytes crossed, either way; False when the link must close."""

    def open(self) -> bool:
        """Whether the link may stay."""


class MqttClient(mqtt.Client):
    """One protocol, configured from the settings; closes its sockets where paho would leave them open.

    `bytes_up` and `bytes_down` are of MQTT packets as they crossed, repetitions, acknowledgements and pings included.
    """

    def __init__(
        self,
        protocol: MQTTProtocolVersion,
        settings: LinkSettings,
        context: ssl.SSLContext | None,
        gate: Gate | None = None,
    ) -> None:
        super().__init__(
            CallbackAPIVersion.VERSION2,
            client_id=settings.client_id,
            clean_session=None if protocol is MQTT_5 else False,
            protocol=protocol,
            transport="unix" if settings.host.startswith("/") else "tcp",
            reconnect_on_failure=False,
            manual_ack=True,
        )
        self.connect_timeout = settings.connect_timeout_s
        self.bytes_up = self.bytes_down = 0
        self._gate = gate
        self._settings_tls = settings.tls
        self.username_pw_set(settings.username, settings.password)
        if context is not None:
            self.tls_set_context(context)
        if settings.will is not None:
            topic, payload = settings.will
            self.will_set(topic, payload, qos=1, retain=True)

    def open(self, settings: LinkSettings) -> None:
        """Connects the transport and sends CONNECT. Raises OSError, ValueError for a host that is no name."""
        if self.protocol is not MQTT_5:
            self.connect(settings.host, settings.port, settings.keepalive_s)
            return
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        properties.SessionExpiryInterval = settings.session_expiry_s
        properties.MaximumPacketSize = settings.max_packet_bytes
        self.connect(
            settings.host, settings.port, settings.keepalive_s, clean_start=False, properties=properties
        )

    def ask(self, topics: dict[str, int], known: set[str]) -> None:
        """Subscribes. On MQTT 5, topics had before bring what is retained only if the session is new."""
        if self.protocol is MQTT_5:
            self.subscribe(
                [
                    (topic, SubscribeOptions(qos=qos, retainHandling=1 if topic in known else 0))
                    for topic, qos in topics.items()
                ]
            )
        else:
            self.subscribe(list(topics.items()))
        known.update(topics)

    def abandon(self) -> None:
        """Closes the transport without a word."""
        if self.socket() is not None:
            self._loop_rc_handle(MQTTErrorCode.MQTT_ERR_CONN_LOST)

    def read(self) -> None:
        """What the socket has; what came at once is counted as one piece, since paho takes it in small ones."""
        before = self.bytes_down
        self.loop_read()
        if self._gate is not None and self.bytes_down > before:
            self._gate.use(self.bytes_down - before)

    def _sock_recv(self, bufsize: int) -> bytes:
        data: bytes = super()._sock_recv(bufsize)  # type: ignore[no-untyped-call, unused-ignore]
        self.bytes_down += len(data)
        return data

    def _sock_send(self, buf: bytes | bytearray) -> int:
        if self._gate is not None:
            self._gate.prepare(len(buf))
        sent: int = super()._sock_send(buf)  # type: ignore[no-untyped-call, unused-ignore]
        self.bytes_up += sent
        if self._gate is not None:
            self._gate.use(sent)
        return sent

    def _ssl_wrap_socket(self, tcp_sock: socket.socket) -> ssl.SSLSocket:
        assert self._ssl_context is not None
        wrapped = self._ssl_context.wrap_socket(
            tcp_sock, server_hostname=self.host, do_handshake_on_connect=False
        )
        try:
            wrapped.settimeout(self.connect_timeout)
            wrapped.do_handshake()
            if self._settings_tls is not None:
                self._settings_tls.check(wrapped.getpeercert(binary_form=True) or b"")
        except BaseException:
            wrapped.close()
            raise
        return wrapped


def explain(error: Exception, settings: LinkSettings) -> str:
    """What a failed attempt means and what to look at."""
    place = where(settings)
    match error:
        case ssl.SSLCertVerificationError():
            return f"the certificate of {place} does not verify: {error.verify_message}; check the CA file and the host name"
        case ssl.SSLError():
            return f"TLS with {place} failed: {error.reason or error}; is it a TLS port?"
        case socket.gaierror():
            return f"cannot resolve {settings.host!r}: {error.strerror}; check the name and DNS"
        case ConnectionRefusedError():
            return f"{place} refused the connection: is the broker running there?"
        case TimeoutError():
            return (
                f"no answer from {place} within {settings.connect_timeout_s:g} s: check address and firewall"
            )
        case ConnectionResetError() if settings.tls:
            return f"{place} hung up on TLS; is it a TLS port?"
        case _:
            return f"cannot reach {place}: {error}"


def where(settings: LinkSettings) -> str:
    return f"{settings.host}:{settings.port}"
