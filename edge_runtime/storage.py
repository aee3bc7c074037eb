"""What a device must not lose at any instant: networks and models by hash, and its one report, in a directory.

A file is 4 bytes "SDR1", BLAKE2b-128 of the rest, then the content; it is written beside its place, synced, renamed
over it, and the directory synced. A file that does not check is treated as absent, and counted. One process at a
time holds the directory, by a lock that goes with it however it ends.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections import Counter
from pathlib import Path
from types import TracebackType
from typing import Self

from sanderling.models.errors import UsageError

MAGIC = b"SDR1"
_CHECKSUM_BYTES = 16


class Storage:
    """Named byte strings in `directory`, which is made when it is not there. OSError when the disk fails."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.corrupt: Counter[str] = Counter()  # by name of the file
        directory.mkdir(parents=True, exist_ok=True)
        self._descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.close()
            raise UsageError(
                f"{directory} is in use by another agent; give each device a directory"
            ) from None
        for leftover in directory.glob("*.part"):
            leftover.unlink()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        os.close(self._descriptor)

    def read(self, name: str) -> bytes | None:
        """The content under `name`, None when it is absent or damaged."""
        try:
            raw = self._path(name).read_bytes()
        except FileNotFoundError:
            return None
        content = raw[len(MAGIC) + _CHECKSUM_BYTES :]
        if raw[: -len(content) or None] != MAGIC + _checksum(content):
            self.corrupt[name] += 1
            return None
        return content

    def write(self, name: str, content: bytes) -> None:
        """On return the content is on the disk; a crash before leaves what was there."""
        path = self._path(name)
        part = path.with_name(name + ".part")
        with part.open("wb") as file:
            file.write(MAGIC + _checksum(content) + content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
        os.fsync(self._descriptor)

    def delete(self, name: str) -> None:
        self._path(name).unlink(missing_ok=True)
        os.fsync(self._descriptor)

    def names(self, prefix: str = "") -> tuple[str, ...]:
        """What is there, the longest unwritten first."""
        found = [path for path in self._directory.iterdir() if path.name.startswith(prefix)]
        found.sort(key=lambda path: (path.stat().st_mtime_ns, path.name))
        return tuple(path.name for path in found)

    def keep_newest(self, prefix: str, count: int, *, besides: frozenset[str] = frozenset()) -> None:
        """Deletes the longest unwritten under `prefix` until `count` are left; those in `besides` stay."""
        old = [name for name in self.names(prefix) if name not in besides]
        kept = len(self.names(prefix)) - len(old)
        for name in old[: max(0, len(old) - max(0, count - kept))]:
            self.delete(name)

    def _path(self, name: str) -> Path:
        if not name or not name.replace("-", "").replace(".", "").isalnum() or name.startswith("."):
            raise ValueError(f"storage: expected a plain file name, came {name!r}")
        return self._directory / name


def _checksum(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=_CHECKSUM_BYTES).digest()
