"""A board in memory, whose power can be cut after any number of changes to its storage."""

from __future__ import annotations

from typing import Any

from sanderling.models.native import Native

AREAS, AREA_BYTES = 4, 1024
OK, STORAGE_FAILED = 0, -12
_KEPT: list[Any] = []  # C keeps pointers to these for as long as it likes


class MemoryPort:
    """`port` is the C struct. After `changes_left` more erasures and writes everything fails; a write may tear."""

    def __init__(
        self, runtime: Native, contents: list[bytearray] | None = None, changes_left: int = 1 << 30
    ) -> None:
        self.contents = contents or [bytearray(b"\xff" * AREA_BYTES) for _ in range(AREAS)]
        self.changes, self._left, self._ffi = 0, changes_left, runtime.ffi
        self.port = runtime.ffi.new("sl_port *")
        self.port.area_bytes = AREA_BYTES
        for name in ("storage_read", "storage_write", "storage_erase"):
            kind = runtime.ffi.typeof(getattr(self.port, name))
            callback = runtime.ffi.callback(kind, getattr(self, f"_{name}"))
            setattr(self.port, name, callback)
            _KEPT.append((self.port, callback))

    def _storage_read(self, _context: Any, area: int, offset: int, target: Any, size: int) -> int:
        self._ffi.buffer(target, size)[:] = bytes(self.contents[area][offset : offset + size])
        return OK

    def _storage_write(self, _context: Any, area: int, offset: int, data: Any, size: int) -> int:
        assert offset % 8 == size % 8 == 0, "writes are in multiples of 8 bytes"
        where, new = slice(offset, offset + size), bytes(self._ffi.buffer(data, size))
        assert self.contents[area][where] == b"\xff" * size, "a byte is written once between two erasures"
        if self._cut():
            self.contents[area][offset : offset + size // 2] = new[: size // 2]
            return STORAGE_FAILED
        self.contents[area][where] = new
        return OK

    def _storage_erase(self, _context: Any, area: int) -> int:
        if self._cut():
            self.contents[area][: AREA_BYTES // 2] = b"\xff" * (AREA_BYTES // 2)
            return STORAGE_FAILED
        self.contents[area][:] = b"\xff" * AREA_BYTES
        return OK

    def _cut(self) -> bool:
        self.changes += 1
        self._left -= 1
        return self._left < 0
