"""Whole federations in processes of their own: real commands, a real broker, real data, on loopback."""

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sanderling import config_file
from sanderling.broker.mosquitto import free_port
from sanderling.demo.federation import enrol
from sanderling.demo.processes import Processes, wait_for_port

DEVICES = ("watch-04", "watch-05", "watch-06", "watch-07")


class Bench:
    """A federation of `sanderling` processes under one directory."""

    def __init__(self, directory: Path, overrides: list[str]) -> None:
        self.directory = directory
        self.port = free_port("127.0.0.1")
        config = config_file.load(
            None,
            [
                f"federation.devices={list(DEVICES)}",
                "tracking.mlflow=false",
                f"security.directory='{directory / 'pki'}'",
                f"link.port={self.port}",
                f"broker.port={self.port}",
                *overrides,
            ],
        )
        self.devices = config.federation.devices
        self.config = directory / "federation.toml"
        self.config.write_text(config_file.render(config))
        if config.security.mode == "tls":
            enrol(config, directory)
        self.processes = Processes(directory / "logs")

    def start_broker(self) -> None:
        self.processes.start(
            "broker", ["broker", "run", "--config", str(self.config), "--dir", str(self.directory / "broker")]
        )
        wait_for_port("127.0.0.1", self.port, self.processes)

    def start_coordinator(self, *options: str) -> None:
        run = str(self.directory / "run")
        self.processes.start(
            "coordinator",
            ["coordinator", "run", "--config", str(self.config), "--dir", run, "--json", *options],
        )

    def start_device(self, device: str) -> None:
        state = str(self.directory / "devices" / device)
        self.processes.start(
            device,
            [
                "edge",
                "run",
                "--device",
                device,
                "--config",
                str(self.config),
                "--dir",
                state,
                "--exit-when-finished",
            ],
        )

    def start_node(self, device: str, target: str) -> None:
        """A board in QEMU."""
        state = str(self.directory / "devices" / device)
        options = ["--target", target, "--device", device, "--config", str(self.config), "--dir", state]
        self.processes.start(device, ["hil", "node", *options, "--exit-when-finished", "--json"])

    def start(self) -> None:
        self.start_broker()
        self.start_coordinator()
        for device in self.devices:
            self.start_device(device)

    def kill(self, name: str) -> None:
        """kill -9."""
        process = self.processes.running(name)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()

    def wait_for(self, name: str, words: str, timeout_s: float = 60.0) -> None:
        """Until `words` stand in the log of process `name`."""
        give_up = time.monotonic() + timeout_s
        while words not in self.log(name):
            assert time.monotonic() < give_up, (
                f"{words!r} not in the log of {name}:\n{self.log(name)[-3000:]}"
            )
            time.sleep(0.02)

    def log(self, name: str) -> str:
        return self.processes.log(name).read_text(errors="replace")

    def result(self, timeout_s: float = 120.0) -> dict:
        """What the coordinator printed when it was done."""
        process = self.processes.running("coordinator")
        status = process.wait(timeout_s)
        assert status == 0, self.log("coordinator")[-3000:]
        return json.loads(self.processes.output("coordinator"))


@pytest.fixture
def bench(tmp_path: Path) -> Iterator:
    """Makes a Bench with overrides of settings; everything it started is stopped at the end."""
    made: list[Bench] = []

    def make(*overrides: str) -> Bench:
        directory = tmp_path / f"bench-{len(made)}"
        directory.mkdir()
        made.append(Bench(directory, list(overrides)))
        return made[-1]

    yield make
    for one in made:
        one.processes.stop()
