"""The gateway of boards without a network: serial lines on one side, one connection to the broker for each board's session.

What a board says is MQTT and passes through unread; broker/frame.py carries it over a line that loses bytes. One thread a line.
Towards the broker it is TLS with the certificate of that line's board, which this machine keeps for it.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass, field
from itertools import zip_longest
from typing import Any, Protocol
from urllib.parse import urlsplit

from sanderling.broker.frame import Data, GatewayEnd, Open
from sanderling.broker.mqtt_client import TlsFiles
from sanderling.models.errors import UsageError
from sanderling.models.optional import require

TCP = "tcp://"
IDLE_S = 0.25  # how long a request to stop may go unnoticed
BUSY_S = 0.02  # the same while something waits for an answer: the precision of its patience
RETRY_S = 1.0
CONNECT_S = 5.0
READ_BYTES = 4096
LINE_BYTES = 1024  # handed to the line ahead of time, so that acknowledgements do not queue behind a stream
BACKLOG_BYTES = 8192  # of one board's stream, either way, until its source has to wait

Log = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewaySettings:
    """`lines` are devices such as /dev/ttyACM0, or tcp://host:port of a terminal server or an emulator.

    `identities` are what each line's board shows the broker; none at all: plain text.
    """

    lines: tuple[str, ...]
    baud: int
    host: str  # the broker's
    port: int
    identities: tuple[TlsFiles, ...] = ()


@dataclass(slots=True, kw_only=True)
class LineFigures:
    """What went over one line. Damaged and repeated are frames."""

    line: str
    sessions: int = 0
    bytes_up: int = 0
    bytes_down: int = 0
    damaged: int = 0
    repeated: int = 0


class Line(Protocol):
    """A byte stream that never blocks. OSError when it is gone."""

    def fileno(self) -> int: ...
    def read(self) -> bytes: ...
    def write(self, data: bytes) -> int: ...
    def close(self) -> None: ...


def run(settings: GatewaySettings, stop: threading.Event, log: Log) -> list[dict[str, Any]]:
    """Serves all lines until `stop` is set; the figures of each.

    A line that is not there, or goes, is tried again. UsageError for a line that can be none, MissingError where
    pyserial is not installed.
    """
    _check(settings.lines)
    if settings.identities and len(settings.identities) != len(settings.lines):
        raise UsageError(
            f"{len(settings.lines)} lines and {len(settings.identities)} identities: expected one each"
        )
    contexts = [files.context() for files in settings.identities]
    lines = [
        _Gateway(line, settings, context, stop, log)
        for line, context in zip_longest(settings.lines, contexts)
    ]
    with ThreadPoolExecutor(max_workers=len(lines)) as pool:
        running = [pool.submit(line.serve) for line in lines]
        try:
            wait(running, return_when="FIRST_EXCEPTION")
        finally:
            stop.set()
    for done in running:
        done.result()
    return [asdict(line.figures) for line in lines]


def _check(lines: Sequence[str]) -> None:
    if len(set(lines)) != len(lines):
        raise UsageError(f"each line once, please: came {', '.join(lines)}")
    for line in lines:
        if line.startswith(TCP):
            _address(line)
        else:
            require("serial", "firmware")


def _address(line: str) -> tuple[str, int]:
    try:
        parts = urlsplit(line)
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if not host or not port:
        raise UsageError(f"expected a line such as tcp://127.0.0.1:4000, came {line!r:.80}")
    return host, port


# ---------------------------------------------------------------------------------------------- both sides


def open_line(line: str, baud: int) -> Line:
    """OSError where it cannot be opened."""
    if line.startswith(TCP):
        return _TcpLine(socket.create_connection(_address(line), CONNECT_S))
    serial = require("serial", "firmware")
    return _SerialLine(serial.Serial(line, baud, timeout=0, write_timeout=0, exclusive=True))


def connect_broker(settings: GatewaySettings, context: ssl.SSLContext | None) -> Broker:
    """A board's connection to the broker. The one place that knows how it is made."""
    connection = socket.create_connection((settings.host, settings.port), CONNECT_S)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if context is None:
        connection.setblocking(False)
        return connection
    with connection:  # closes it where the handshake fails; else wrap_socket has taken it over
        return _TlsConnection(context.wrap_socket(connection, server_hostname=settings.host))


class Broker(Protocol):
    """A board's connection to the broker; BlockingIOError where it is not ready."""

    def fileno(self) -> int: ...
    def recv(self, size: int, /) -> bytes: ...
    def send(self, data: bytearray, /) -> int: ...
    def close(self) -> None: ...


class _TlsConnection:
    """Without TLS's own ways of not being ready, and with nothing left inside that a selector would not see."""

    def __init__(self, connection: ssl.SSLSocket) -> None:
        connection.setblocking(False)
        self._connection = connection
        self.fileno, self.close = connection.fileno, connection.close

    def recv(self, size: int) -> bytes:
        try:
            data = self._connection.recv(size)
            while left := self._connection.pending():
                data += self._connection.recv(left)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError) as wait_:
            raise BlockingIOError from wait_
        return data

    def send(self, data: bytearray) -> int:
        try:
            return self._connection.send(data)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError) as wait_:
            raise BlockingIOError from wait_


class _TcpLine:
    def __init__(self, connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setblocking(False)
        self._connection = connection
        self.fileno, self.close = connection.fileno, connection.close

    def read(self) -> bytes:
        data = self._connection.recv(READ_BYTES)
        if not data:
            raise OSError("the other end closed it")
        return data

    def write(self, data: bytes) -> int:
        return self._connection.send(data)


class _SerialLine:
    def __init__(self, port: Any) -> None:
        self._port = port
        self.fileno, self.close = port.fileno, port.close

    def read(self) -> bytes:
        data: bytes = self._port.read(READ_BYTES)  # SerialException, an OSError, where the device is gone
        return data

    def write(self, data: bytes) -> int:
        return int(self._port.write(data) or 0)


# ---------------------------------------------------------------------------------------------- one line


@dataclass(eq=False)
class _Gateway:
    line: str
    settings: GatewaySettings
    context: ssl.SSLContext | None
    stop: threading.Event
    log: Log
    figures: LineFigures = field(init=False)
    _told: str = ""

    def __post_init__(self) -> None:
        self.figures = LineFigures(line=self.line)

    def serve(self) -> None:
        while not self.stop.is_set():
            try:
                with contextlib.closing(open_line(self.line, self.settings.baud)) as line:
                    self._tell("open")
                    _Connection(self, line).serve()
            except OSError as problem:
                self._tell(f"{problem}; trying again")
                self.stop.wait(RETRY_S)

    def _tell(self, what: str) -> None:
        """Once, until something else is to be told."""
        if what != self._told:
            self._told = what
            self.log(f"{self.line}: {what}")


class _Connection:
    """One line while it is open, and its board's connection."""

    def __init__(self, gateway: _Gateway, line: Line) -> None:
        self._gateway, self._line = gateway, line
        self._end = GatewayEnd()
        self._broker: Broker | None = None
        self._to_line, self._to_broker = bytearray(), bytearray()

    def serve(self) -> None:
        """Until the gateway stops; OSError when the line is gone."""
        try:
            while not self._gateway.stop.is_set():
                self._step()
        finally:
            self._hang_up()
            self._gateway.figures.damaged += self._end.damaged
            self._gateway.figures.repeated += self._end.repeated

    def _step(self) -> None:
        ready = self._select()
        now = time.monotonic()
        if ready.get("line", 0) & selectors.EVENT_READ:
            for event in self._end.feed(self._line.read(), now):
                self._take(event, now)
        if ready.get("broker", 0) & selectors.EVENT_READ:
            self._read_broker(now)
        self._write_broker(now)
        self._end.accepting = len(self._to_broker) < BACKLOG_BYTES
        self._end.tick(now)
        if len(self._to_line) < LINE_BYTES:
            self._to_line += self._end.output(now)
        if self._to_line:
            with contextlib.suppress(BlockingIOError):
                del self._to_line[: self._line.write(bytes(self._to_line))]

    def _select(self) -> dict[str, int]:
        with selectors.DefaultSelector() as selector:
            write = selectors.EVENT_WRITE if self._to_line else 0
            selector.register(self._line, selectors.EVENT_READ | write, "line")
            if self._broker is not None:
                events = selectors.EVENT_WRITE if self._to_broker else 0
                events |= selectors.EVENT_READ if self._end.backlog < BACKLOG_BYTES else 0
                if events:
                    selector.register(self._broker, events, "broker")
            patience_s = BUSY_S if self._end.backlog else IDLE_S
            return {key.data: events for key, events in selector.select(patience_s)}

    def _take(self, event: Open | Data, now: float) -> None:
        match event:
            case Open():
                self._dial(now)
            case Data(data=data) if self._broker is not None:
                self._to_broker += data
                self._gateway.figures.bytes_up += len(data)

    def _dial(self, now: float) -> None:
        self._hang_up()
        settings = self._gateway.settings
        try:
            self._broker = connect_broker(settings, self._gateway.context)
        except OSError as problem:
            self._gateway.log(
                f"{self._gateway.line}: no broker at {settings.host}:{settings.port}: {problem}"
            )
            self._end.close(now)
        else:
            self._gateway.figures.sessions += 1
            self._gateway.log(f"{self._gateway.line}: the board is connected to the broker")
            self._end.opened()

    def _read_broker(self, now: float) -> None:
        assert self._broker is not None
        try:
            data = self._broker.recv(READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            self._end.write(data)
            self._gateway.figures.bytes_down += len(data)
        else:
            self._lost(now)

    def _write_broker(self, now: float) -> None:
        if self._broker is not None and self._to_broker:
            try:
                del self._to_broker[: self._broker.send(self._to_broker)]
            except BlockingIOError:
                pass
            except OSError:
                self._lost(now)

    def _lost(self, now: float) -> None:
        self._gateway.log(f"{self._gateway.line}: the broker ended the connection")
        self._hang_up()
        self._end.close(now)

    def _hang_up(self) -> None:
        if self._broker is not None:
            self._broker.close()
        self._broker = None
        self._to_broker.clear()
