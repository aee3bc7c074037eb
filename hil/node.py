"""A microcontroller's node on the bench: its firmware built, booted in QEMU, fed with a device's windows, joined through a gateway.

What runs is the firmware that `sanderling export firmware` writes; only the board is emulated. Samples travel over the
board's second serial line (hil/samples.py), the link over its first, framed, to a gateway on this side.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sanderling.broker.child import new_lines, relay
from sanderling.broker.mqtt_client import TlsFiles
from sanderling.edge_runtime import gateway
from sanderling.edge_runtime.sources import Source
from sanderling.firmware_export import toolchain
from sanderling.firmware_export.flashed import flashed_files
from sanderling.firmware_export.targets import Target
from sanderling.firmware_export.toolchain import Emulator, Program
from sanderling.hil import samples
from sanderling.models.errors import SanderlingError
from sanderling.models.package import ModelPackage

POLL_S = 0.05
SAMPLES_TIMEOUT_S = 300.0

Log = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSettings:
    """Which device of which federation the board is, where its broker is, and where it keeps what outlives a restart."""

    federation: str
    device_id: str
    directory: Path
    host: str
    port: int
    exit_when_finished: bool = False
    keepalive_s: int = 120
    tls: TlsFiles | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How the node ended: its exit status, or None where it was stopped; its log; what went over its line."""

    status: int | None
    log: tuple[str, ...]
    line: dict[str, Any]


def build(package: ModelPackage, target: Target, directory: Path, source: Source, capacity: int) -> Program:
    """The node's firmware in `directory`, with room for this device's examples, at most `capacity` to train on."""
    network = directory / "network"
    network.mkdir(parents=True, exist_ok=True)
    for name, text in flashed_files(package).items():
        path = network / name
        if not path.exists() or path.read_text() != text:  # what did not change is not built again
            path.write_text(text)
    held_back = max(1, len(source.validation.labels), len(source.test.labels))
    definitions = {
        "SANDERLING_CACHE": max(1, min(capacity, len(source.train.labels))),
        "SANDERLING_HELD_BACK": held_back,
    }
    settings = {"SANDERLING_DEFINITIONS": ";".join(f"{name}={value}" for name, value in definitions.items())}
    folder = directory / f"build-{target.name}"
    built = toolchain.build(target, folder, networks=[network], applications=["node"], settings=settings)
    return built["node-network"]


def run(
    program: Program, target: Target, settings: NodeSettings, source: Source, stop: threading.Event, log: Log
) -> Outcome:
    """Until the node ends or `stop` is set. SanderlingError when the board stops while it is fed."""
    settings.directory.mkdir(parents=True, exist_ok=True)
    with toolchain.emulate(program.elf, target, arguments=_options(settings, source)) as emulator:
        emulator.log_file.touch()  # QEMU may not have made it yet
        lines = new_lines(emulator.log_file)
        log(f"{target.name} runs {program.elf.name}; {samples.count(source)} windows go to it")
        with _gateway(emulator, settings, log) as figures:
            _feed(emulator, source, stop)
            while emulator.process.poll() is None and not stop.is_set():
                relay(lines, log)
                stop.wait(POLL_S)
            relay(lines, log)
        status = emulator.process.poll()
        return Outcome(
            status=status, log=tuple(emulator.log.splitlines()), line=figures[0] if figures else {}
        )


@contextmanager
def _gateway(emulator: Emulator, settings: NodeSettings, log: Log) -> Iterator[list[dict[str, Any]]]:
    """Connects the board's link to the broker; the list holds the line's figures at the end."""
    line = f"tcp://127.0.0.1:{emulator.link_port}"
    gateway_settings = gateway.GatewaySettings(
        lines=(line,),
        baud=115200,
        host=settings.host,
        port=settings.port,
        identities=() if settings.tls is None else (settings.tls,),
    )
    stop, figures = threading.Event(), list[dict[str, Any]]()
    thread = threading.Thread(
        target=lambda: figures.extend(gateway.run(gateway_settings, stop, log)), name="gateway", daemon=True
    )
    thread.start()
    try:
        yield figures
    finally:
        stop.set()
        thread.join()


def _options(settings: NodeSettings, source: Source) -> list[str]:
    """What the application reads from its command line; on a board it is compiled in."""
    return [
        f"federation={settings.federation}",
        f"device={settings.device_id}",
        f"samples={samples.count(source)}",
        f"storage={settings.directory / 'storage.bin'}",
        f"keepalive={settings.keepalive_s}",
        f"exit={int(settings.exit_when_finished)}",
    ]


def _feed(emulator: Emulator, source: Source, stop: threading.Event) -> None:
    """All windows, as fast as the board takes them."""
    give_up = time.monotonic() + SAMPLES_TIMEOUT_S
    with closing(socket.create_connection(("127.0.0.1", emulator.log_port), timeout=1.0)) as line:
        for sample in samples.samples(source):
            rest = memoryview(sample)
            while rest and not stop.is_set():
                if emulator.process.poll() is not None:
                    raise SanderlingError(f"the board stopped while it was fed: {emulator.log[-500:]}")
                if time.monotonic() > give_up:
                    raise SanderlingError(f"the board takes no samples: {emulator.log[-500:]}")
                try:
                    rest = rest[line.send(rest) :]
                except TimeoutError:
                    continue
