"""The way from a node to its federation, hop by hop: which one fails first, and its fix.

`walk` is the list of checks; `Visit` makes them, on a connection of its own. Until `session` nothing of the node is touched: a
CONNECT of a protocol version that there is not (MQTT 3.1.1, 3.1.2.2) is answered without a session. From there on mosquitto
knows the visitor by the node's certificate, as it would the node: so a node that runs is left alone, what is queued for it is
not acknowledged, and where it had no session none is left behind.
"""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal, Self

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from sanderling.broker import announcements, pki
from sanderling.broker.announcements import Kind
from sanderling.broker.link import Connected, Delivered, Disconnected, Event, Incoming, Link, Refused
from sanderling.broker.messages import ModelBody, RoundPlan
from sanderling.broker.mqtt_client import LinkSettings, TlsFiles
from sanderling.broker.topics import Topics
from sanderling.models.errors import MissingError, ProtocolError, SanderlingError

_CONNECT_OF_NO_VERSION = b"\x10\x0d\0\4MQTT\x7f\2\0\x0a\0\1x"
_CONNACK = b"\x20"
_ALERT_S = 0.5
_SIGNED_BELOW = 0x80  # the first byte of a signed announcement; a plain plan is a CBOR map
_DATE_CODES = (9, 10)  # X509_V_ERR_CERT_NOT_YET_VALID, X509_V_ERR_CERT_HAS_EXPIRED
_NAME_CODES = (62, 64)  # X509_V_ERR_HOSTNAME_MISMATCH, X509_V_ERR_IP_ADDRESS_MISMATCH

Check = Callable[[], str]


class HopError(MissingError):
    """A hop that fails: what was found, and what to do."""

    def __init__(self, detail: str, fix: str) -> None:
        super().__init__(f"{detail}; {fix}")
        self.detail, self.fix = detail, fix


class NotTriedError(SanderlingError):
    """A hop that cannot be tried without harm; nothing failed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hop:
    """`exit_status` is the command line's, of a hop that failed."""

    name: str
    state: Literal["ok", "failed", "not tried"]
    detail: str = ""
    fix: str = ""
    exit_status: int = 0


def walk(way: Iterable[tuple[str, Check]]) -> tuple[Hop, ...]:
    """Makes the checks in order, none after the first that fails or cannot be tried."""
    hops: list[Hop] = []
    for name, check in way:
        if hops and hops[-1].state != "ok":
            hops.append(Hop(name=name, state="not tried"))
            continue
        try:
            hops.append(Hop(name=name, state="ok", detail=check()))
        except NotTriedError as reason:
            hops.append(Hop(name=name, state="not tried", detail=str(reason)))
        except HopError as fault:
            hops.append(_failed(name, fault, fault.detail, fault.fix))
        except SanderlingError as error:  # it says what to do itself
            hops.append(_failed(name, error, str(error), ""))
    return tuple(hops)


def _failed(name: str, error: SanderlingError, detail: str, fix: str) -> Hop:
    return Hop(name=name, state="failed", detail=detail, fix=fix, exit_status=error.exit_status)


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """What a node proves itself with, and whose announcements it believes."""

    tls: TlsFiles
    signer: Callable[[], Ed25519PublicKey]


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """Whose way it is. The functions raise errors of ours; `credentials` gives None for plain text."""

    federation: str
    name: str  # of a device, or coordinator
    host: str
    port: int
    own_topic: str  # it may write there, and nobody listens
    credentials: Callable[[], Credentials | None]
    running: Callable[[], bool]


class Visit:
    """The checks, each standing on those before it; a context manager that leaves nothing behind."""

    def __init__(self, load: Callable[[], Node], *, now: datetime, timeout_s: float) -> None:
        self._load, self._now, self._timeout_s = load, now, timeout_s
        self._credentials: Credentials | None = None
        self._socket: socket.socket | None = None
        self._link: Link | None = None
        self._created = False
        self._asked: list[str] = []

    def way(self) -> Sequence[tuple[str, Check]]:
        return [
            (check.__name__, check)
            for check in (
                self.configuration,
                self.identity,
                self.dns,
                self.port,
                self.tls,
                self.admission,
                self.session,
                self.access,
                self.plan,
                self.federation,
                self.model,
            )
        ]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._hang_up()
        if self._link is None:
            return
        for topic in self._asked:
            self._link.unsubscribe(topic)
        connected = self._link.measure().connected
        if connected:  # sent after the UNSUBSCRIBE, so that the close waits for both
            self._link.publish(self._node.own_topic, b"")
        self._link.close(flush_s=self._timeout_s if connected else 0.0)
        if self._created:  # a node that finds a session believes that the broker forgot nothing
            with Link(replace(self._settings, session_expiry_s=0)) as link:
                _await(link, lambda event: isinstance(event, Connected), self._timeout_s)

    # --- the hops ---

    def configuration(self) -> str:
        self._node = self._load()
        self._topics = Topics(self._node.federation)
        self._place = f"{self._node.host}:{self._node.port}"
        return f"{self._node.name} of {self._node.federation}, at {self._place}"

    def identity(self) -> str:
        self._credentials = self._node.credentials()
        if self._credentials is None:
            return "none is asked for: security.mode = plain"
        tls = self._credentials.tls
        assert tls.certificate is not None
        certificate = pki.read_certificate(tls.certificate)
        tls.context()  # the key fits the certificate
        if self._now < certificate.not_valid_before_utc:
            raise HopError(f"the certificate is {self._dates(certificate)}", "set the clock of this machine")
        if self._now > certificate.not_valid_after_utc:
            raise HopError(
                f"the certificate is {self._dates(certificate)}",
                f"is the clock right? then {self._renewal()}",
            )
        name = pki.common_name(certificate)
        if name != self._node.name:
            raise HopError(f"{tls.certificate} is of {name}, not of {self._node.name}", self._renewal())
        return f"certificate of {name} until {certificate.not_valid_after_utc:%Y-%m-%d}"

    def dns(self) -> str:
        try:
            found = socket.getaddrinfo(self._node.host, self._node.port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise HopError(
                f"{self._node.host!r} has no address: {getattr(error, 'strerror', error)}",
                "check link.host and this machine's DNS",
            ) from None
        return ", ".join(dict.fromkeys(str(address[0]) for *_, address in found))

    def port(self) -> str:
        try:
            self._socket = self._open()
        except ConnectionRefusedError:
            raise HopError(
                f"nothing listens at {self._place}",
                "start `sanderling broker run` there, with broker.host an address that is reached from here; check link.port",
            ) from None
        except OSError as error:
            raise HopError(
                f"no connection to {self._place}: {error}", "check the address, the route and firewalls"
            ) from None
        return f"{self._place} takes connections"

    def tls(self) -> str:
        if self._credentials is None:
            return "none: security.mode = plain"
        try:
            wrapped = self._wrap(self._credentials.tls.context())
        except ssl.SSLCertVerificationError as error:
            raise self._unverified(error) from None
        except OSError as error:  # ssl.SSLError is one
            raise HopError(
                f"{self._place} does not speak TLS: {error}",
                "link.port must be the port where the broker speaks TLS, 8883 unless broker.port says otherwise",
            ) from None
        shown = x509.load_der_x509_certificate(wrapped.getpeercert(binary_form=True) or b"")
        return f"{wrapped.version()}, the broker's certificate until {shown.not_valid_after_utc:%Y-%m-%d}"

    def admission(self) -> str:
        assert self._socket is not None
        answer, problem = b"", "it closed the connection without an answer"
        try:
            if self._credentials is not None:
                self._hear_alert(self._socket)
            self._socket.sendall(_CONNECT_OF_NO_VERSION)
            answer = self._socket.recv(4)
        except TimeoutError:
            problem = "it does not answer"
        except ssl.SSLError as error:
            problem = (error.reason or problem).replace("_", " ").lower()
        except OSError as error:
            problem = str(error)
        self._hang_up()
        if answer[:1] == _CONNACK:
            return "an MQTT broker that lets us in"
        if self._credentials is None:
            raise HopError(
                f"{self._place} is no MQTT broker in plain text: {problem}",
                'check link.port; a broker that speaks TLS needs security.mode = "tls"',
            )
        raise HopError(
            f"{self._place} does not take the certificate of {self._node.name}: {problem}",
            f"is it of this broker's authority, and not revoked? if it is not, {self._renewal()}",
        )

    def session(self) -> str:
        if self._credentials is not None and self._node.running():
            raise NotTriedError(
                f"{self._node.name} is running and has the one connection of its identity; stop it to try the rest"
            )
        self._settings = self._link_settings()
        self._link = Link(self._settings)
        self._link.start()
        connected = self._next(lambda event: isinstance(event, Connected))
        if not isinstance(connected, Connected):
            raise HopError(f"{self._place} does not answer CONNECT", "look into the broker's log")
        known = connected.session_present
        self._created = not known and self._credentials is not None
        return f"{connected.protocol}, {'a' if known else 'no'} session from before"

    def access(self) -> str:
        assert self._link is not None
        topic = self._node.own_topic
        mid = self._link.publish(topic, b"")
        answer = self._next(lambda event: isinstance(event, Delivered | Refused) and event.mid == mid)
        if isinstance(answer, Delivered):
            return f"may write {topic}"
        reason = answer.reason if isinstance(answer, Refused) else "no answer"
        raise HopError(
            f"the broker does not let {self._node.name} write {topic}: {reason}",
            f"is federation.name = {self._node.federation} the broker's too? its access rules are made from that",
        )

    def plan(self) -> str:
        payload = self._retained(self._topics.plan)
        if payload is None:
            raise HopError(
                f"no plan on {self._topics.plan}",
                "start `sanderling coordinator run`; if it runs, is its federation.name this one?",
            )
        self._announced = payload
        return f"{len(payload)} bytes on {self._topics.plan}"

    def federation(self) -> str:
        try:
            self._plan = RoundPlan.decode(self._unsigned(self._announced))
        except ProtocolError as error:
            raise HopError(
                f"the plan cannot be believed: {error}",
                "run the same release on both sides, and enrol again if the coordinator's keys are new",
            ) from None
        if self._plan.federation != self._node.federation:
            raise HopError(
                f"the plan is of {self._plan.federation}, not of {self._node.federation}",
                "give one broker to each federation, and each federation.toml its own federation.name",
            )
        return f"run {self._plan.run}, round {self._plan.round}, {self._plan.phase}"

    def model(self) -> str:
        wanted = self._plan.model
        payload = self._retained(self._topics.model(wanted.model_hash))
        if payload is None:
            problem = "is not on the broker"
        else:
            try:
                fits = ModelBody.decode(payload).to_model().model_hash == wanted.model_hash
                problem = "" if fits else "has another hash than the plan says"
            except ProtocolError as error:
                problem = f"cannot be read: {error}"
        if problem:
            raise HopError(
                f"model version {wanted.version} {problem}",
                "start the coordinator again: it announces its model anew",
            )
        return f"version {wanted.version}, {wanted.body_bytes} bytes"

    # --- what they are made of ---

    def _open(self) -> socket.socket:
        return socket.create_connection((self._node.host, self._node.port), timeout=self._timeout_s)

    def _wrap(self, context: ssl.SSLContext) -> ssl.SSLSocket:
        assert self._socket is not None
        wrapped = context.wrap_socket(self._socket, server_hostname=self._node.host)
        self._socket = wrapped
        return wrapped

    def _hear_alert(self, opened: socket.socket) -> None:
        """TLS 1.3 refuses a client's certificate after the handshake; raises that as ssl.SSLError, before a word of ours loses it."""
        select.select([opened], [], [], _ALERT_S)
        opened.setblocking(False)
        with contextlib.suppress(ssl.SSLWantReadError):  # session tickets: it is content
            opened.recv(1)
        opened.settimeout(self._timeout_s)

    def _hang_up(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _unverified(self, error: ssl.SSLCertVerificationError) -> HopError:
        """Why the broker's certificate will not do, with what is in it."""
        shown = self._shown_certificate()
        if error.verify_code in _DATE_CODES:
            dates = self._dates(shown) if shown else error.verify_message
            return HopError(
                f"the broker's certificate is {dates}",
                "is the clock of this machine right? then `sanderling pki rotate broker`",
            )
        if error.verify_code in _NAME_CODES:
            names = f"; it is for {', '.join(pki.hosts_of(shown))}" if shown else ""
            return HopError(
                f"the broker's certificate is not for {self._node.host}{names}",
                f"use one of its names as link.host, or `sanderling pki rotate broker --host {self._node.host}`",
            )
        return HopError(
            f"the broker's certificate is of another authority than ours: {error.verify_message}",
            f"is {self._place} the broker of {self._node.federation}? if it is, {self._renewal()}",
        )

    def _shown_certificate(self) -> x509.Certificate | None:
        """The broker's certificate, whatever it is: on a connection that carries nothing."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        with (
            contextlib.suppress(OSError, ValueError),
            self._open() as raw,
            context.wrap_socket(raw) as opened,
        ):
            return x509.load_der_x509_certificate(opened.getpeercert(binary_form=True) or b"")
        return None

    def _dates(self, certificate: x509.Certificate) -> str:
        begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        return f"good from {begins:%Y-%m-%d %H:%M} to {ends:%Y-%m-%d %H:%M}, and this clock says {self._now:%Y-%m-%d %H:%M} (UTC)"

    def _renewal(self) -> str:
        if self._node.name == pki.COORDINATOR:
            return "make it a new one: `sanderling pki rotate coordinator`"
        return f"enrol it again: `sanderling device rotate {self._node.name}`, or `device enroll` once it was revoked"

    def _link_settings(self) -> LinkSettings:
        """Under the node's name mosquitto resumes the node's session, which must not be shortened; a plain one is ours alone."""
        settings = LinkSettings(
            host=self._node.host,
            port=self._node.port,
            client_id=f"{self._node.federation}-doctor-{self._node.name}",
            connect_timeout_s=self._timeout_s,
        )
        if self._credentials is None:
            return replace(settings, session_expiry_s=0)
        return replace(settings, tls=self._credentials.tls)

    def _retained(self, topic: str) -> bytes | None:
        """At QoS 0, so that what is queued for the node does not hold it up; the node asks for QoS 1 when it connects."""
        assert self._link is not None
        self._link.subscribe(topic, qos=0)
        if topic != self._topics.plan:
            self._asked.append(topic)
        came = self._next(
            lambda event: isinstance(event, Incoming) and event.topic == topic and event.qos == 0
        )
        return came.payload if isinstance(came, Incoming) else None

    def _unsigned(self, payload: bytes) -> bytes:
        if self._credentials is None or payload[:1] >= bytes((_SIGNED_BELOW,)):
            return payload
        signer, federation = self._credentials.signer(), self._node.federation
        return announcements.verify(payload, signer, federation=federation, kind=Kind.PLAN).payload

    def _next(self, fits: Callable[[Event], bool]) -> Event | None:
        """The next event that fits, None when none came in time. HopError when the connection is lost meanwhile."""
        assert self._link is not None
        event = _await(self._link, lambda one: fits(one) or isinstance(one, Disconnected), self._timeout_s)
        if isinstance(event, Disconnected):
            raise HopError(event.reason, "does another client use this identity? look into the broker's log")
        return event


def _await(link: Link, fits: Callable[[Event], bool], timeout_s: float) -> Event | None:
    deadline = time.monotonic() + timeout_s
    while (remaining_s := deadline - time.monotonic()) > 0:
        event = link.next_event(remaining_s)
        if event is not None and fits(event):
            return event
    return None
