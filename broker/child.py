"""Child processes: one that does not outlive who started it, however that one ends; and what one writes, as it writes it."""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True)  # loaded before a fork: nothing may be imported after one


def end_with_parent() -> None:
    """For subprocess's `preexec_fn`: SIGTERM when the parent is gone, killed outright or not (Linux, prctl(2))."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() == 1:  # it was gone before we asked
        os._exit(1)


def new_lines(*files: Path) -> Iterator[str | None]:
    """New whole lines of files that are being written; None when there is none just now."""
    handles = [file.open(encoding="utf-8", errors="replace") for file in files]
    pending = [""] * len(handles)
    try:
        while True:
            for index, handle in enumerate(handles):
                *whole, pending[index] = (pending[index] + handle.read()).split("\n")
                yield from whole
            yield None
    finally:
        for handle in handles:
            handle.close()


def relay(lines: Iterator[str | None], tell: Callable[[str], None]) -> None:
    """Tells every line that is there now."""
    while (line := next(lines)) is not None:
        tell(line)
