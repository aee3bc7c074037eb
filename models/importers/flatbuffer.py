"""A FlatBuffers reader that trusts nothing: every offset and length is checked before it is followed.

https://flatbuffers.dev/internals: a table starts with the distance back to its vtable, which tells where each
field lies; vectors start with their length; offsets count from where they are stored.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sanderling.models.errors import ModelFormatError

MAX_STRING_BYTES = 4096


class Table:
    """A table at `position` in `data`. Fields go by number; a missing one gives its default, or nothing."""

    def __init__(self, data: bytes, position: int) -> None:
        self.data, self.position = data, position
        vtable = position - _read(data, position, "<i")
        size = _read(data, vtable, "<H")
        self.fields = _numbers(data, vtable + 4, max(0, (size - 4) // 2), "<u2")

    def scalar(self, field: int, format_: str, default: Any) -> Any:
        """A number in struct's notation, little-endian."""
        place = self._place(field)
        return default if place is None else _read(self.data, place, "<" + format_)

    def vector(self, field: int, dtype: str) -> NDArray[Any]:
        """A vector of numbers, a read-only view; empty when missing."""
        start, length = self._vector(field)
        return _numbers(self.data, start, length, dtype)

    def table(self, field: int) -> Table | None:
        place = self._place(field)
        return None if place is None else Table(self.data, _follow(self.data, place))

    def tables(self, field: int, at_most: int) -> list[Table]:
        """A vector of tables; refused when longer than `at_most`."""
        start, length = self._vector(field)
        if length > at_most:
            raise ModelFormatError(f"a list of {length} entries; more than {at_most} are not supported")
        return [Table(self.data, _follow(self.data, start + 4 * i)) for i in range(length)]

    def string(self, field: int) -> str:
        characters = self.vector(field, "<u1")
        if len(characters) > MAX_STRING_BYTES:
            raise ModelFormatError(f"a name of {len(characters)} bytes; {MAX_STRING_BYTES} are the most")
        return characters.tobytes().decode(errors="replace")

    def has(self, field: int) -> bool:
        return self._place(field) is not None

    def _place(self, field: int) -> int | None:
        offset = int(self.fields[field]) if field < len(self.fields) else 0
        return self.position + offset if offset else None

    def _vector(self, field: int) -> tuple[int, int]:
        """Where a vector's elements start and how many there are."""
        place = self._place(field)
        if place is None:
            return 0, 0
        start = _follow(self.data, place)
        return start + 4, _read(self.data, start, "<I")


def root(data: bytes, identifier: bytes) -> Table:
    """The root table of a file that carries `identifier`."""
    if data[4:8] != identifier:
        raise ModelFormatError(f"expected the file identifier {identifier!r}, got {data[4:8]!r}")
    return Table(data, _follow(data, 0))


def _follow(data: bytes, place: int) -> int:
    return place + int(_read(data, place, "<I"))


def _read(data: bytes, place: int, format_: str) -> Any:
    if not 0 <= place <= len(data) - struct.calcsize(format_):
        raise ModelFormatError(f"the file ends before byte {place}, where it points to")
    return struct.unpack_from(format_, data, place)[0]


def _numbers(data: bytes, start: int, length: int, dtype: str) -> NDArray[Any]:
    if length and not 0 <= start <= len(data) - length * np.dtype(dtype).itemsize:
        raise ModelFormatError(f"the file ends before the {length} numbers at byte {start}")
    return np.frombuffer(data, dtype, length, start) if length else np.empty(0, dtype)
