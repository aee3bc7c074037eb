"""The C node on this machine: its memory made in Python, its line a socket to a real broker, its storage in memory."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from sanderling.models.native import Native
from tests.firmware_export.flashed import Flashed
from tests.firmware_export.memory_port import AREAS, MemoryPort

WAIT_S = 30.0
OK, PENDING = 0, 1


class HostNode:
    """Polled by the test. `contents` is the storage of a node that ran before.

    `keys` are the pair key of its seals and the key that plans are signed with; without them it speaks in plain text.
    With `noise` its line is a serial one: framed, to a gateway that connects to `line`, and it loses and flips bytes.
    """

    def __init__(
        self,
        runtime: Native,
        flashed: Flashed,
        port: int,
        examples: tuple[np.ndarray, np.ndarray],
        *,
        contents: list[bytearray] | None = None,
        changes_left: int = 1 << 30,
        device: str = "dev-1",
        top_k: bool = False,
        noise: random.Random | None = None,
        keys: tuple[bytes, bytes] | None = None,
    ) -> None:
        self.runtime, self.log, self._port = runtime, list[str](), port
        self._noise = noise
        self._socket: socket.socket | None = None
        self._listener = socket.create_server(("127.0.0.1", 0)) if noise else None
        self._kept: list[Any] = []
        area = bytearray(b"\xff" * 2048)
        self.board = MemoryPort(runtime, contents or [bytearray(area) for _ in range(AREAS)], changes_left)
        self.board.port.area_bytes = len(area)
        self._give("read", self._read)
        self._give("write", self._write)
        self._give("now_ms", lambda _context: int(time.monotonic() * 1000) & 0xFFFFFFFF)
        self._give("random", self._random)
        self._give("log", lambda _context, line: self.log.append(runtime.ffi.string(line).decode()))
        intake = flashed.intake("bench", device, capacity=64, held_back=32)
        self.config = self._config(flashed, intake, device, top_k)
        if keys is not None:
            self.config.guard = self._guard(*keys)
        self.agent = runtime.ffi.new("sl_agent *")
        self.status = runtime.lib.sl_agent_start(self.agent, self.config)
        for number, (window, label) in enumerate(zip(*examples, strict=True)):
            assert intake.add(window, int(label), (0, 0, 1, 0, 0, 2, 0, 1, 0, 2)[number % 10]) == 0

    def poll_until(self, done: Callable[[], bool], wait_s: float = WAIT_S) -> None:
        give_up = time.monotonic() + wait_s
        while not done():
            assert time.monotonic() < give_up, f"the node does not get there: {self.log}"
            self.runtime.lib.sl_agent_poll(self.agent)

    @property
    def answered(self) -> int:
        """The round whose report was delivered, else 0."""
        return self.agent.answered.round if self.agent.delivered and self.agent.report_size else 0

    @property
    def line(self) -> str:
        assert self._listener is not None
        return f"tcp://127.0.0.1:{self._listener.getsockname()[1]}"

    def close(self) -> None:
        """Takes the power away."""
        self._hang_up()
        if self._listener is not None:
            self._listener.close()

    def _hang_up(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    # The board.

    def _give(self, name: str, function: Callable[..., Any]) -> None:
        kind = self.runtime.ffi.typeof(getattr(self.board.port, name))
        self._kept.append(self.runtime.ffi.callback(kind, function))
        setattr(self.board.port, name, self._kept[-1])

    def _random(self, _context: Any, target: Any, size: int) -> int:
        self.runtime.ffi.buffer(target, size)[:] = os.urandom(size)
        return OK

    def _connection(self) -> socket.socket | None:
        if self._socket is None:
            with contextlib.suppress(OSError):
                if self._listener is None:
                    self._socket = socket.create_connection(("127.0.0.1", self._port), 1.0)
                else:
                    self._listener.settimeout(0.05)
                    self._socket = self._listener.accept()[0]
                self._socket.setblocking(False)
        return self._socket

    def _line_noise(self, data: bytes) -> bytes:
        """What a bad line makes of it: of a thousand bytes two are lost, two have a bit flipped."""
        if self._noise is None:
            return data
        kept = [byte for byte in data if self._noise.random() > 0.002]
        return bytes(b ^ (1 << self._noise.randrange(8)) if self._noise.random() < 0.002 else b for b in kept)

    def _read(self, _context: Any, target: Any, size: int) -> int:
        if (connection := self._connection()) is None:
            return 0
        try:
            data = connection.recv(size)
        except BlockingIOError:
            time.sleep(0.0005)  # nothing to do: another process has the processor
            return 0
        except OSError:
            data = b""
        if not data:
            self._hang_up()
            return 0 if self._listener else -13
        data = self._line_noise(data)
        self.runtime.ffi.buffer(target, len(data))[:] = data
        return len(data)

    def _write(self, _context: Any, data: Any, size: int) -> int:
        if (connection := self._connection()) is None:
            return 0
        try:
            connection.sendall(self._line_noise(bytes(self.runtime.ffi.buffer(data, size))))
        except BlockingIOError:
            return 0
        except OSError:
            self._hang_up()
            return 0 if self._listener else -13
        return size

    def _new(self, kind: str, initial: Any) -> Any:
        self._kept.append(self.runtime.ffi.new(kind, initial))
        return self._kept[-1]

    def _config(self, flashed: Flashed, intake: Any, device: str, top_k: bool) -> Any:
        self._kept.append((flashed, intake))
        dimension = flashed.head.dimension
        config = self._new("sl_agent_config *", {})
        config.federation, config.device = self._new("char[]", b"bench"), self._new("char[]", device.encode())
        config.software = self._new("char[]", b"test")
        config.keep_alive_s = 30
        config.framed = self._noise is not None
        config.port, config.model, config.intake = self.board.port, flashed.model, intake.struct
        config.start = flashed.start
        config.scratch, config.scratch_bytes = flashed.scratch, flashed.scratch_bytes
        for name, size in (("message", 1024), ("chunk", 256), ("queue", 640)):
            setattr(config, name, self._new("uint8_t[]", size))
            setattr(config, f"{name}_bytes", size)
        if top_k:
            for name in ("residual", "left_over"):
                vector = self._new("int32_t[]", dimension)
                setattr(config, name, self._new("sl_residual *", {"vector": vector}))
        return config

    def _guard(self, pair_key: bytes, coordinator: bytes) -> Any:
        """Seals with a counter from 0; what is to be kept durably is kept as long as this object."""
        keep = self.runtime.ffi.callback("sl_status(void *, uint64_t, uint64_t)", lambda *_: OK)
        self._kept.append(keep)
        sealing = self._new("sl_sealing *", {"keep": keep, "pair_key": list(pair_key)})
        sealing.coordinator = list(coordinator)
        sealing.federation, sealing.device = self.config.federation, self.config.device
        guard = self._new("sl_guard *", {})
        self.runtime.lib.sl_sealing_guard(sealing, guard)
        return guard
