"""mosquitto: its configuration as a value, and a child process that is ready when it is said to be.

https://mosquitto.org/man/mosquitto-conf-5.html; tried with 2.0.11.
"""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self

from sanderling.broker.child import end_with_parent
from sanderling.broker.messages import MAX_NETWORK_BYTES
from sanderling.models.errors import MissingError, SanderlingError

_READY_S = 10.0
_STOP_S = 10.0
_PORT_ATTEMPTS = 5
_RUNNING = " running\n"  # the end of the line mosquitto logs once it listens


@dataclass(frozen=True, slots=True, kw_only=True)
class MosquittoConfig:
    """One listener without TLS. Identities and ACL come with their own settings and will replace `anonymous`."""

    host: str
    port: int
    data_dir: Path
    anonymous: bool = True
    max_queued_messages: int = 10_000  # a session; beyond it mosquitto drops without a word
    max_inflight_messages: int = 100
    max_packet_bytes: int = MAX_NETWORK_BYTES + 4096
    autosave_s: int = 30  # what a kill of the broker may lose; a stop loses nothing

    def text(self) -> str:
        """The configuration file."""
        return "\n".join(
            [
                f"listener {self.port} {self.host}",
                f"allow_anonymous {str(self.anonymous).lower()}",
                f"max_queued_messages {self.max_queued_messages}",
                f"max_inflight_messages {self.max_inflight_messages}",
                f"max_packet_size {self.max_packet_bytes}",
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


def find_mosquitto() -> str | None:
    """The path of the mosquitto executable, which Debian keeps out of a user's PATH."""
    return shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


class Mosquitto:
    """A running mosquitto; stop() or leave the context to end it.

    Raises MissingError when it is not installed, SanderlingError with its log when it does not come up. With
    `data_dir` None its state lives in a temporary folder that goes with it. Port 0 takes a free one.
    """

    kind: ClassVar[str] = "mosquitto"

    def __init__(self, *, host: str = "127.0.0.1", port: int = 0, data_dir: Path | None = None) -> None:
        executable = find_mosquitto()
        if executable is None:
            raise MissingError(
                "mosquitto is not installed: `apt install mosquitto`, or use the embedded broker"
            )
        self.host = host
        self._temporary = tempfile.TemporaryDirectory(prefix="mosquitto-") if data_dir is None else None
        self._folder = Path(self._temporary.name if self._temporary else data_dir or "").resolve()
        self._folder.mkdir(parents=True, exist_ok=True)
        try:
            self._start(executable, port)
        except BaseException:
            self._clean_up()
            raise

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

    def _start(self, executable: str, port: int) -> None:
        # Another program may take a port between our finding it free and mosquitto's binding it.
        for _ in range(1 if port else _PORT_ATTEMPTS):
            self.port = port or free_port(self.host)
            if self._came_up(executable):
                return
        raise SanderlingError(
            f"mosquitto did not come up on {self.host}:{self.port}: {' | '.join(self._log().splitlines()[-3:])}"
        )

    def _came_up(self, executable: str) -> bool:
        config = MosquittoConfig(host=self.host, port=self.port, data_dir=self._folder)
        path = self._folder / "mosquitto.conf"
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
        if self._temporary is not None:
            self._temporary.cleanup()


def free_port(host: str) -> int:
    """A TCP port nobody listens on now."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])
