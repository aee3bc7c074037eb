"""The serial gateway between a board's C link, over lines that lose bytes, and a real broker."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import tty
from contextlib import contextmanager
from pathlib import Path

import pytest

from sanderling.broker.link import TlsFiles
from sanderling.broker.mosquitto import find_mosquitto
from sanderling.broker.run import Broker, start_broker
from sanderling.cli import main
from sanderling.edge_runtime import gateway
from sanderling.edge_runtime.gateway import GatewaySettings
from sanderling.firmware_export import native
from sanderling.models.errors import MissingError, UsageError
from sanderling.models.native import Native, open_library
from tests.broker.fleet import TOPICS, Fleet, connected, received_until
from tests.firmware_export.mqtt_client import CONNECTED, DELIVERED, OK, PENDING, RECEIVED, Client
from tests.firmware_export.test_frame import CLOSED, OPENED, Line, Node

pytestmark = [
    pytest.mark.network,
    pytest.mark.skipif(find_mosquitto() is None, reason="no mosquitto"),
    pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler"),
]


@pytest.fixture(scope="module")
def runtime() -> Native:
    return open_library(native.library(), native.headers())


@pytest.fixture(scope="module")
def broker():
    with start_broker("mosquitto") as running:
        yield running


class Board:
    """A node's link and MQTT in C behind a line with noise; `read` and `write` are the line's own."""

    def __init__(self, runtime: Native, read, write, client_id: str, loss: float = 0.0) -> None:
        self._read, self._write = read, write
        self.link, self.mqtt = Node(runtime), Client(runtime, client_id=client_id)
        self._up, self._down = Line(1, drop=loss, flip=loss), Line(2, drop=loss, flip=loss)
        self.session = 0
        self.closed = 0

    def open(self) -> None:
        self.session += 1
        self.link.tick(time.monotonic())
        self.link.open(self.session)
        self.mqtt.lost()

    def step(self) -> None:
        self.link.tick(time.monotonic())
        now = round(time.monotonic() * 1000) % 2**32
        before = len(self.link.received[self.session])
        for kind in self.link.feed(self._down.carry(self._read())):
            if kind == OPENED:
                assert self.mqtt.connect(now) == OK
            self.closed += kind == CLOSED
        if news := self.link.received[self.session][before:]:
            seen = len(self.mqtt.events)
            assert self.mqtt.feed(news) == PENDING
            for event in self.mqtt.events[seen:]:
                if event.kind == RECEIVED and event.last:
                    self.mqtt.acknowledge(event.receipt)
        self._push_mqtt(now)
        self._write(self._up.carry(self.link.output()))

    def _push_mqtt(self, now: int) -> None:
        where, lib, ffi = self.link.ffi.new("const uint8_t **"), self.link.lib, self.link.ffi
        while size := lib.sl_mqtt_output(self.mqtt.mqtt, where):
            taken = self.link.write(bytes(ffi.buffer(where[0], size)))
            lib.sl_mqtt_sent(self.mqtt.mqtt, taken, now)
            if taken < size:
                return

    def until(self, condition, seconds: float = 20.0) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, (self.mqtt.events[-3:], self.link.closed)
            self.step()
            time.sleep(0.001)

    def saw(self, kind: int) -> bool:
        return any(event.kind == kind for event in self.mqtt.events)


class TcpPlug:
    """The board's end of a tcp:// line, as an emulator gives it: it listens."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.setblocking(False)
        self._connection: socket.socket | None = None
        self.line = f"tcp://127.0.0.1:{self._listener.getsockname()[1]}"

    def read(self) -> bytes:
        try:
            if self._connection is None:
                self._connection, _ = self._listener.accept()
                self._connection.setblocking(False)
            return self._connection.recv(65536)
        except BlockingIOError:
            return b""

    def write(self, data: bytes) -> None:
        if self._connection is not None:
            self._connection.setblocking(True)
            self._connection.sendall(data)
            self._connection.setblocking(False)

    def unplug(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection = None

    def close(self) -> None:
        self.unplug()
        self._listener.close()


@contextmanager
def tcp_plug():
    plug = TcpPlug()
    try:
        yield plug
    finally:
        plug.close()


@contextmanager
def serving(port: int, *lines: str, identities=()):
    """The gateway on a thread; yields its log, and figures once it has stopped."""
    stop, log, figures = threading.Event(), [], []
    settings = GatewaySettings(lines=lines, baud=115200, host="127.0.0.1", port=port, identities=identities)
    thread = threading.Thread(target=lambda: figures.extend(gateway.run(settings, stop, log.append)))
    thread.start()
    try:
        yield log, figures
    finally:
        stop.set()
        thread.join(10)
        assert not thread.is_alive()


def test_two_boards_talk_over_noisy_lines(runtime: Native, broker: Broker) -> None:
    payload = bytes(i * 13 % 256 for i in range(20_000))
    with tcp_plug() as one, tcp_plug() as two, serving(broker.port, one.line, two.line) as (log, figures):
        sender = Board(runtime, one.read, one.write, "sender", loss=0.001)
        receiver = Board(runtime, two.read, two.write, "receiver", loss=0.001)
        receiver.open()
        receiver.until(lambda: receiver.saw(CONNECTED))
        assert receiver.mqtt.subscribe("gateway/topic") == OK
        sender.open()
        sender.until(lambda: sender.saw(CONNECTED))
        assert sender.mqtt.publish("gateway/topic", payload, retain=True) == OK
        sender.until(lambda: sender.saw(DELIVERED))
        receiver.until(lambda: receiver.mqtt.messages())
        assert receiver.mqtt.messages() == [("gateway/topic", payload)]
    assert [line["sessions"] for line in figures] == [1, 1]
    assert figures[0]["bytes_up"] > len(payload) and figures[1]["bytes_down"] > len(payload)
    assert figures[0]["damaged"] > 0
    assert f"{one.line}: open" in log


def test_each_board_is_who_its_certificate_says_and_nobody_else(runtime: Native, tmp_path) -> None:
    fleet = Fleet(tmp_path)
    fleet.device("a"), fleet.device("b")
    payload = bytes(i * 13 % 256 for i in range(20_000))  # more than one record of TLS
    with start_broker("mosquitto", tls=fleet.listener()) as broker, tcp_plug() as one, tcp_plug() as two:
        identities = tuple(fleet.settings(name, broker.port).tls for name in ("a", "b"))
        with serving(broker.port, one.line, two.line, identities=identities):
            a = Board(
                runtime, one.read, one.write, "b", loss=0.001
            )  # what a board calls itself does not matter
            b = Board(runtime, two.read, two.write, "b", loss=0.001)
            with connected(fleet.link("coordinator", broker.port), TOPICS.all_updates) as coordinator:
                for board in (a, b):
                    board.open()
                    board.until(lambda board=board: board.saw(CONNECTED))
                b.mqtt.subscribe(TOPICS.plan)
                for topic, message in ((TOPICS.update("b"), b"forged"), (TOPICS.update("a"), payload)):
                    a.mqtt.publish(topic, message)
                    a.until(lambda: a.saw(DELIVERED))
                    a.mqtt.events.clear()
                assert received_until(coordinator, payload) == [payload]
                coordinator.publish(TOPICS.plan, payload)
                b.until(lambda: b.mqtt.messages())
                assert b.mqtt.messages() == [(TOPICS.plan, payload)]


def test_lines_and_identities_must_match() -> None:
    files = TlsFiles(authority=Path("ca.pem"))
    settings = GatewaySettings(lines=("tcp://h:1",), baud=1, host="h", port=1, identities=(files, files))
    with pytest.raises(UsageError, match="1 lines and 2 identities"):
        gateway.run(settings, threading.Event(), print)


def test_a_pseudo_terminal_is_a_line_too(runtime: Native, broker: Broker) -> None:
    pytest.importorskip("serial")
    master, slave = os.openpty()
    tty.setraw(slave)
    os.set_blocking(master, False)

    def read() -> bytes:
        try:
            return os.read(master, 4096)
        except BlockingIOError:
            return b""

    try:
        with serving(broker.port, os.ttyname(slave)) as (_, figures):
            board = Board(runtime, read, lambda data: os.write(master, data), "pty", loss=0.001)
            board.open()
            board.until(lambda: board.saw(CONNECTED))
            board.mqtt.publish("pty/topic", b"hello")
            board.until(lambda: board.saw(DELIVERED))
        assert figures[0]["sessions"] == 1
    finally:
        os.close(master)
        os.close(slave)


def test_a_board_that_boots_gets_a_new_connection(runtime: Native, broker: Broker) -> None:
    with tcp_plug() as plug, serving(broker.port, plug.line) as (_, figures):
        for boot in range(3):
            board = Board(runtime, plug.read, plug.write, "boots")
            board.session = boot * 10
            board.open()
            board.until(lambda board=board: board.saw(CONNECTED))
    assert figures[0]["sessions"] == 3


def test_a_broker_that_goes_and_comes_is_seen_by_the_board(runtime: Native) -> None:
    with tcp_plug() as plug, start_broker("mosquitto") as first, serving(first.port, plug.line) as (log, _):
        board = Board(runtime, plug.read, plug.write, "survivor")
        board.open()
        board.until(lambda: board.saw(CONNECTED))
        first.stop()
        board.until(lambda: board.closed == 1)
        board.open()
        board.until(lambda: board.closed == 2)
        assert any("no broker at" in line for line in log)
        board.mqtt.events.clear()
        with start_broker("mosquitto", port=first.port):
            board.open()
            board.until(lambda: board.saw(CONNECTED))


def test_an_unplugged_line_is_opened_again(runtime: Native, broker: Broker) -> None:
    with tcp_plug() as plug, serving(broker.port, plug.line) as (log, figures):
        board = Board(runtime, plug.read, plug.write, "unplugged")
        board.open()
        board.until(lambda: board.saw(CONNECTED))
        plug.unplug()
        board.mqtt.events.clear()
        board.mqtt.publish("unplugged/topic", b"x")  # the gateway that comes back knows no session
        board.until(lambda: board.closed == 1)
        board.open()
        board.until(lambda: board.saw(DELIVERED))
    assert any("closed it; trying again" in line for line in log)
    assert figures[0]["sessions"] == 2


def test_the_command_serves_until_sigterm_and_prints_figures(runtime: Native, broker: Broker) -> None:
    with tcp_plug() as plug:
        command = [sys.executable, "-m", "sanderling.cli", "gateway", "serial", "--json"]
        command += ["--port", plug.line, "--broker", f"127.0.0.1:{broker.port}", "--plain"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        board = Board(runtime, plug.read, plug.write, "command")
        board.open()
        board.until(lambda: board.saw(CONNECTED))
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=10)
    assert process.returncode == 0
    assert json.loads(out)["lines"][0]["sessions"] == 1
    assert "the board is connected to the broker" in err


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["--port", "tcp://nowhere", "--plain"], 2),
        (["--port", "tcp://h:99999999", "--plain"], 2),
        (["--port", "tcp://h:1", "--port", "tcp://h:1", "--plain"], 2),
        (["--port", "tcp://h:1"], 2),
        (["--port", "tcp://h:1", "--plain", "--identity", "folder"], 2),
        (["--port", "tcp://h:1", "--broker", "nowhere"], 2),
        (["--port", "tcp://h:1", "--baud", "0"], 2),
        ([], 2),
    ],
)
def test_bad_arguments_are_usage_errors(arguments: list[str], status: int, capsys) -> None:
    assert main(["gateway", "serial", *arguments]) == status
    assert "expected" in (err := capsys.readouterr().err) or "once" in err or "required" in err


def test_a_serial_device_without_pyserial_is_something_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "serial", None)
    settings = GatewaySettings(lines=("/dev/ttyACM0",), baud=9600, host="127.0.0.1", port=1)
    with pytest.raises(MissingError, match=r"sanderling\[firmware\]"):
        gateway.run(settings, threading.Event(), print)
    with pytest.raises(UsageError):
        gateway.run(
            GatewaySettings(lines=("tcp://x",), baud=9600, host="h", port=1), threading.Event(), print
        )
