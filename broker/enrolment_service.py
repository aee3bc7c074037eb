"""Enrolment over the network: a broker of its own for those who have no certificate, one who answers, and one who asks.

The listener lives only while somebody is to be enrolled, in a mosquitto apart from the fleet's: strangers share nothing with it.
"""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sanderling.broker import acl, enrolment
from sanderling.broker.desk import Desk
from sanderling.broker.enrolment import EnrolmentError, Token
from sanderling.broker.identity import CERTIFICATE, KEY, Identity, require
from sanderling.broker.link import Connected, Disconnected, Incoming, Link, LinkSettings, TlsPin
from sanderling.broker.mosquitto import Bounds, Mosquitto, SocketListener, TlsListener
from sanderling.broker.pki import ENROLMENT
from sanderling.broker.topics import Topics
from sanderling.models.errors import MissingError, ProtocolError

Log = Callable[[str], None]

MAX_CONNECTIONS = 64
_MAX_PACKET_BYTES = enrolment.MAX_MESSAGE_BYTES + 512
# Strangers can make sessions without end: they are given this much and no more.
BOUNDS = Bounds(
    max_queued_messages=1000,
    max_packet_bytes=_MAX_PACKET_BYTES,
    memory_bytes=64 << 20,
    retained=False,
    session_expiry="1h",
)
_POLL_S = 0.2
_ASK_AGAIN_S = 5.0
_REFUSALS_TOLD = 3  # of each kind; the others are only counted


@dataclass(slots=True)
class RateLimit:
    """A bucket of `burst` for each name, refilled at `per_s`. Names are those of tokens that were given: they are few."""

    burst: float
    per_s: float
    _buckets: dict[str, tuple[float, float]]

    def __init__(self, burst: float, per_s: float) -> None:
        self.burst, self.per_s, self._buckets = burst, per_s, {}

    def admits(self, name: str, now: float) -> bool:
        left, since = self._buckets.get(name, (self.burst, now))
        left = min(self.burst, left + (now - since) * self.per_s)
        self._buckets[name] = (left - 1 if left >= 1 else left, now)
        return left >= 1


class EnrolmentService:
    """Answers requests on `host` and `port` until told to stop. MissingError without mosquitto: devices enrol by files then."""

    def __init__(self, desk: Desk, directory: Path, federation: str, host: str, port: int, log: Log) -> None:
        self._desk, self._federation, self._log = desk, federation, log
        self._topics = Topics(federation)
        folder = directory / ENROLMENT
        self._listener = TlsListener(
            host=host,
            port=port,
            certificate=require(folder / CERTIFICATE).resolve(),
            key=require(folder / KEY).resolve(),
            rules=acl.enrolment(federation),
            max_connections=MAX_CONNECTIONS,
        )
        self._limit = RateLimit(burst=5, per_s=0.2)
        self.refused: Counter[str] = Counter()
        self.ready = threading.Event()
        self.port = port

    def run(self, stop: threading.Event, *, until: Callable[[], bool] = lambda: False) -> None:
        """Serves until `stop` is set or `until` says so."""
        with tempfile.TemporaryDirectory(prefix="enrol-") as inside:
            socket = SocketListener(
                path=Path(inside) / "socket", rules=acl.enrolment_service(self._federation)
            )
            with Mosquitto(self._listener, socket, bounds=BOUNDS) as broker:
                self.port = broker.port
                with Link(self._settings(socket.path)) as link:
                    link.subscribe(self._topics.all_enrolment_requests)
                    while not stop.is_set() and not until():
                        self._take(link, link.next_event(_POLL_S))
                    link.close(flush_s=1.0)

    def _settings(self, path: Path) -> LinkSettings:
        name = f"enrolment-{os.urandom(8).hex()}"  # nobody can guess it and take its place
        return LinkSettings(
            host=str(path), port=1, client_id=name, username=ENROLMENT, max_packet_bytes=_MAX_PACKET_BYTES
        )

    def _take(self, link: Link, event: object) -> None:
        match event:
            case Connected():
                self._log(f"enrolment listener on {self._listener.host}:{self.port}")
                self.ready.set()
            case Disconnected(reason=reason):
                self._log(f"enrolment: {reason}; trying again")
            case Incoming():
                self._answer(link, event)
                link.acknowledge(event)
            case _:
                pass

    def _answer(self, link: Link, incoming: Incoming) -> None:
        token_id = self._topics.token_of(incoming.topic)
        try:
            if token_id is None:
                raise EnrolmentError("malformed", f"not a request: {incoming.topic!r:.200}")
            known = self._desk.registry.token(token_id) is not None
            if known and not self._limit.admits(token_id, time.monotonic()):
                raise EnrolmentError("rate_limited", f"token {token_id}: asked too often")
            reply = self._desk.answer(token_id, incoming.payload)
        except ProtocolError as error:
            self.refused[error.reason] += 1
            if self.refused[error.reason] <= _REFUSALS_TOLD:
                self._log(f"refused ({error.reason}): {error}")
            return
        link.publish(self._topics.enrolment_reply(token_id), reply)
        self._log(f"answered the request of {self._desk.registry.device_of(token_id)}")


def enrol(
    token: Token, folder: Path, *, timeout_s: float, log: Log, stop: threading.Event | None = None
) -> Identity:
    """Asks with the token until there is an answer; the identity is in `folder` then.

    MissingError when none came in time. A device that is stopped in between asks the same again.
    """
    message = enrolment.begin(folder, token, os.urandom)
    topics, give_up = Topics(token.federation), time.monotonic() + timeout_s
    asked, reason = float("-inf"), ""
    settings = LinkSettings(
        host=token.host,
        port=token.port,
        client_id=token.id,
        session_expiry_s=600,
        tls=TlsPin(certificate_sha256=token.server_sha256),
        max_packet_bytes=_MAX_PACKET_BYTES,
    )
    link = Link(settings)
    link.subscribe(topics.enrolment_reply(token.id))
    with link:
        while (now := time.monotonic()) < give_up and not (stop is not None and stop.is_set()):
            if link.measure().connected and now - asked > _ASK_AGAIN_S:
                link.publish(topics.enrolment_request(token.id), message)
                asked = now
            match link.next_event(_POLL_S):
                case Disconnected(reason=reason):
                    log(f"enrolment: {reason}; trying again")
                    asked = float("-inf")
                case Incoming() as incoming:
                    link.acknowledge(incoming)
                    try:
                        return enrolment.accept(folder, incoming.payload)
                    except EnrolmentError as error:
                        log(f"refused a reply ({error.reason}): {error}")
                case _:
                    pass
    raise MissingError(
        f"no answer from {token.host}:{token.port} within {timeout_s:g} s ({reason or 'connected, but nobody answered'}); is "
        "`sanderling device serve` running, and the token neither expired nor used from another folder?"
    )
