"""mosquitto: its configuration as a value, and a child process that is ready when it is said to be.

https://mosquitto.org/man/mosquitto-conf-5.html; tried with 2.0.11.
"""

from __future__ import annotations

import getpass
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Self

from sanderling.broker import pki
from sanderling.broker.child import end_with_parent
from sanderling.broker.messages import MAX_NETWORK_BYTES
from sanderling.models.errors import MissingError, SanderlingError

_READY_S = 10.0
_STOP_S = 10.0
_PORT_ATTEMPTS = 5
_RUNNING = " running\n"  # the end of the line mosquitto logs once it listens
_RELOADING = ": Reloading config.\n"
_NOT_LOADED = ": Error"
_CONNECT, _CONNACK, _CLEAN_SESSION, _USER_NAME = 0x10, b"\x20", 0x02, 0x80


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsListener:
    """A listener that shows `certificate` and speaks TLS 1.2 or newer.

    With `authority` clients must have a certificate of it that `revoked` does not list; its CN becomes their user name
    and their client id, so that nobody takes over the session of somebody else.
    """

    host: str
    port: int
    certificate: Path
    key: Path
    rules: str  # broker/acl.py
    authority: Path | None = None
    revoked: Path | None = None
    max_connections: int = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class PlainListener:
    """A listener without TLS, for anybody who can reach it."""

    host: str
    port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SocketListener:
    """A listener in the file system, for whom its folder lets in; a client has the user name that it claims."""

    path: Path
    rules: str


Listener = TlsListener | PlainListener | SocketListener


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What clients may ask of the broker."""

    max_queued_messages: int = 10_000  # a session; beyond it mosquitto drops without a word
    max_inflight_messages: int = 100
    max_packet_bytes: int = MAX_NETWORK_BYTES + 4096
    memory_bytes: int = 0  # of the whole broker; 0 is no limit
    retained: bool = True
    session_expiry: str = "14d"  # of a client that does not come back


@dataclass(frozen=True, slots=True, kw_only=True)
class MosquittoConfig:
    """Listeners and bounds. Rules are in files beside the configuration, at `rules_path`."""

    listeners: Sequence[Listener]
    data_dir: Path
    bounds: Bounds = Bounds()
    autosave_s: int = 30  # what a kill of the broker may lose; a stop loses nothing

    def text(self) -> str:
        """The configuration file."""
        bounds = self.bounds
        return "\n".join(
            [
                "per_listener_settings true",
                *(line for number, one in enumerate(self.listeners) for line in self._listener(number, one)),
                f"max_queued_messages {bounds.max_queued_messages}",
                f"max_inflight_messages {bounds.max_inflight_messages}",
                f"max_packet_size {bounds.max_packet_bytes}",
                f"memory_limit {bounds.memory_bytes}",
                f"retain_available {str(bounds.retained).lower()}",
                f"persistent_client_expiration {bounds.session_expiry}",
                "persistence true",
                f"persistence_location {self.data_dir}/",
                f"autosave_interval {self.autosave_s}",
                "set_tcp_nodelay true",
                "connection_messages false",
                "log_dest stderr",
                *(f"log_type {kind}" for kind in ("error", "warning", "notice", "information")),
                f"user {getpass.getuser()}",  # root would become `mosquitto`, who cannot write here
                "",
            ]
        )

    def rules(self) -> dict[Path, str]:
        """The access rules of each listener that has some."""
        return {
            self.rules_path(number): one.rules
            for number, one in enumerate(self.listeners)
            if not isinstance(one, PlainListener)
        }

    def rules_path(self, number: int) -> Path:
        return self.data_dir / f"listener-{number}.acl"

    def _listener(self, number: int, listener: Listener) -> list[str]:
        rules = f"acl_file {self.rules_path(number)}"
        if isinstance(listener, SocketListener):
            return [f"listener 0 {listener.path}", "allow_anonymous true", rules]
        if isinstance(listener, PlainListener):
            return [f"listener {listener.port} {listener.host}", "allow_anonymous true"]
        lines = [
            f"listener {listener.port} {listener.host}",
            f"certfile {listener.certificate}",
            f"keyfile {listener.key}",
            "tls_version tlsv1.2",  # at least
            rules,
            f"max_connections {listener.max_connections}",
        ]
        if listener.authority is None:
            return [*lines, "allow_anonymous true"]
        lines += [
            "allow_anonymous false",
            f"cafile {listener.authority}",
            "require_certificate true",
            "use_identity_as_username true",
            "use_username_as_clientid true",
        ]
        return lines if listener.revoked is None else [*lines, f"crlfile {listener.revoked}"]


def find_mosquitto() -> str | None:
    """The path of the mosquitto executable, which Debian keeps out of a user's PATH."""
    return shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


class Mosquitto:
    """A running mosquitto; stop() or leave the context to end it.

    Raises MissingError when it is not installed, SanderlingError with its log when it does not come up. With
    `data_dir` None its state lives in a temporary folder that goes with it. Port 0 takes a free one.
    `host` and `port` are those of the `first` listener.
    """

    kind: ClassVar[str] = "mosquitto"

    def __init__(
        self,
        first: TlsListener | PlainListener,
        *others: Listener,
        data_dir: Path | None = None,
        bounds: Bounds = Bounds(),
    ) -> None:
        executable = find_mosquitto()
        if executable is None:
            raise MissingError(
                "mosquitto is not installed: `apt install mosquitto`, or use the embedded broker"
            )
        self._first, self._others = first, others
        self.host = first.host
        self._bounds = bounds
        self._temporary = tempfile.TemporaryDirectory(prefix="mosquitto-")  # mode 0700, a short path
        self._folder = Path(self._temporary.name if data_dir is None else data_dir).resolve()
        self._folder.mkdir(parents=True, exist_ok=True)
        self._revoked = revoked_by([first, *others])
        try:
            self._start(executable, first)
        except BaseException:
            self._clean_up()
            raise

    def refresh(self) -> tuple[str, ...]:
        """Reads certificates, keys and revocations again; the names whose connections it closed, because one of their
        certificates was revoked since. SanderlingError, after that, where mosquitto could not take one of the files.

        mosquitto 2.0.11 takes a new revocation list on SIGHUP, if it is newer by whole seconds, and applies it to new
        connections only.
        """
        known, self._revoked = self._revoked, revoked_by([self._first, *self._others])
        new = {serial: notice for serial, notice in self._revoked.items() if serial not in known}
        before = len(self._log())
        self._process.send_signal(signal.SIGHUP)
        _wait_until(lambda: _RELOADING in self._log()[before:], "mosquitto to read its configuration")
        for name, superseded in new.values():
            self.close_connection(name, forget=not superseded)
        if isinstance(self._first, TlsListener):
            self.close_connection(pki.BROKER, forget=True)  # nobody's; answered once the reading is over
        if problems := [line for line in self._log()[before:].splitlines() if _NOT_LOADED in line]:
            raise SanderlingError(f"mosquitto keeps what it had: {problems[-1].partition(': ')[2]}")
        return tuple(sorted({name for name, _ in new.values()}))

    def close_connection(self, name: str, *, forget: bool) -> None:
        """Ends a client's connection by taking over its session, on a socket that only this user can reach; `forget` drops
        the session as well. MQTT 3.1.1, 3.1.4: the server disconnects whoever had the client id."""
        flags = _USER_NAME | (_CLEAN_SESSION if forget else 0)
        text = len(name).to_bytes(2, "big") + name.encode()
        body = b"\0\4MQTT\4" + bytes([flags]) + b"\0\x0a" + text + text  # as client id and as user name
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(_READY_S)
            client.connect(str(self._closing_socket))
            client.sendall(bytes([_CONNECT, len(body) & 0x7F | 0x80, len(body) >> 7]) + body)
            answer = client.recv(4)
        if answer[:1] != _CONNACK or answer[3:] != b"\0":
            raise SanderlingError(f"mosquitto did not close the connection of {name}: it answered {answer!r}")

    def stop(self) -> None:
        """Ends it in order: it saves its state first."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._clean_up()

    def kill(self) -> None:
        """Ends it as a power cut would."""
        self._process.kill()
        self._process.wait()
        self._clean_up()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def _closing_socket(self) -> Path:
        return Path(self._temporary.name) / "closing.sock"

    def _closing_listener(self) -> list[SocketListener]:
        """With the rules of the first listener: what is queued for the client goes on to be."""
        if isinstance(self._first, PlainListener):
            return []
        return [SocketListener(path=self._closing_socket, rules=self._first.rules)]

    def _start(self, executable: str, first: TlsListener | PlainListener) -> None:
        # Another program may take a port between our finding it free and mosquitto's binding it.
        for _ in range(1 if first.port else _PORT_ATTEMPTS):
            self.port = first.port or free_port(self.host)
            self._first = replace(first, port=self.port)
            if self._came_up(executable):
                return
        raise SanderlingError(
            f"mosquitto did not come up on {self.host}:{self.port}: {' | '.join(self._log().splitlines()[-3:])}"
        )

    def _came_up(self, executable: str) -> bool:
        config = MosquittoConfig(
            listeners=[self._first, *self._others, *self._closing_listener()],
            data_dir=self._folder,
            bounds=self._bounds,
        )
        path = self._folder / "mosquitto.conf"
        for rules, text in config.rules().items():
            rules.write_text(text)
        path.write_text(config.text())
        with (self._folder / "mosquitto.log").open("wb") as log:
            self._process = subprocess.Popen(
                [executable, "-c", str(path)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=end_with_parent,
            )
        deadline = time.monotonic() + _READY_S
        while self._process.poll() is None and time.monotonic() < deadline:
            if _RUNNING in self._log():  # a connection would not do: another program may have the port
                return True
            time.sleep(0.005)
        self._process.kill()
        self._process.wait()
        return False

    def _log(self) -> str:
        return (self._folder / "mosquitto.log").read_text(errors="replace")

    def _clean_up(self) -> None:
        self._temporary.cleanup()


def free_port(host: str) -> int:
    """A TCP port nobody listens on now."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def revoked_by(listeners: Iterable[Listener]) -> dict[int, tuple[str, bool]]:
    """Who is not let in any more, by serial number: see pki.notices."""
    found: dict[int, tuple[str, bool]] = {}
    for listener in listeners:
        if isinstance(listener, TlsListener) and listener.revoked is not None:
            found |= pki.notices(listener.revoked.read_bytes())
    return found


def _wait_until(done: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + _READY_S
    while not done():
        if time.monotonic() > deadline:
            raise SanderlingError(f"waited {_READY_S:g} s for {what}")
        time.sleep(0.005)
