"""The demo's processes: started, watched, and always stopped, whatever happens."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from sanderling.broker.child import end_with_parent
from sanderling.models.errors import SanderlingError

STOP_TIMEOUT_S = 5.0


class Processes:
    """Sanderling commands as child processes, their output in files under `directory`; a context manager."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        directory.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> Processes:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self, name: str, arguments: Sequence[str]) -> subprocess.Popen[bytes]:
        """Runs `sanderling ARGUMENTS`; its standard error goes to NAME.log, its standard output to NAME.out."""
        with self.log(name).open("ab") as log, (self._directory / f"{name}.out").open("wb") as out:
            process = subprocess.Popen(
                [sys.executable, "-m", "sanderling.cli", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=log,
                preexec_fn=end_with_parent,
            )
        self._running[name] = process
        return process

    def running(self, name: str) -> subprocess.Popen[bytes]:
        """The process last started under that name."""
        return self._running[name]

    def log(self, name: str) -> Path:
        """Where a process's progress is."""
        return self._directory / f"{name}.log"

    def output(self, name: str) -> str:
        """What a process printed as its result."""
        return (self._directory / f"{name}.out").read_text(encoding="utf-8")

    def check(self) -> None:
        """SanderlingError when one of them ended with an error."""
        for name, process in self._running.items():
            if process.poll() not in (None, 0):
                raise SanderlingError(
                    f"the {name} process ended with status {process.returncode}:\n{self._tail(name)}"
                )

    def stop(self) -> None:
        """Ends them all, the last started first; kills who does not listen."""
        for process in reversed(self._running.values()):
            if process.poll() is None:
                process.terminate()
        give_up = time.monotonic() + STOP_TIMEOUT_S
        for process in reversed(self._running.values()):
            try:
                process.wait(max(0.0, give_up - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _tail(self, name: str) -> str:
        text = self.log(name).read_text(encoding="utf-8", errors="replace") + self.output(name)
        return "\n".join(text.splitlines()[-10:])


def wait_for_port(host: str, port: int, processes: Processes, timeout_s: float = 30.0) -> None:
    """Until somebody listens there. SanderlingError when nobody does in time, or a process ended."""
    give_up = time.monotonic() + timeout_s
    while time.monotonic() < give_up:
        processes.check()
        try:
            socket.create_connection((host, port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.05)
    raise SanderlingError(f"nothing listens on {host}:{port} after {timeout_s:g} s")
