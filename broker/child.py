"""A child process that does not outlive the process that started it, however that one ends."""

from __future__ import annotations

import ctypes
import os
import signal

_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True)  # loaded before a fork: nothing may be imported after one


def end_with_parent() -> None:
    """For subprocess's `preexec_fn`: SIGTERM when the parent is gone, killed outright or not (Linux, prctl(2))."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() == 1:  # it was gone before we asked
        os._exit(1)
