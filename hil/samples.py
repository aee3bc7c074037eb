"""A device's windows on their way to a board: what the bench's ports read from their second serial line.

A sample, little-endian: 'S', 'L', split (1 byte: 0 train, 1 validation, 2 test), label (2), number of values (2), the
values as float32, CRC-32 of all that (4).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from sanderling.edge_runtime.sources import Source

MAX_VALUES = (1 << 16) - 1


def sample(split: int, label: int, window: NDArray[np.float32]) -> bytes:
    """One window (...), its values in their own order."""
    values = np.ascontiguousarray(window, "<f4")
    body = struct.pack("<2sBHH", b"SL", split, label, values.size) + values.tobytes()
    return body + struct.pack("<I", zlib.crc32(body))


def samples(source: Source) -> Iterator[bytes]:
    """All that a device has: what it trains on, in order of time, then what it reports on."""
    for split, windows in enumerate((source.train, source.validation, source.test)):
        for window, label in zip(windows.examples, windows.labels, strict=True):
            yield sample(split, int(label), window)


def count(source: Source) -> int:
    return sum(len(windows.labels) for windows in (source.train, source.validation, source.test))
