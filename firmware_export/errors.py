"""Why firmware is not made.

UnsoundError
`- FitError    a network does not fit a board; exit status 3
"""

from __future__ import annotations

from collections.abc import Sequence

from sanderling.models.errors import UnsoundError


class FitError(UnsoundError):
    """The network does not fit the board. Each of `faults` names a layer or a memory, and what to change."""

    def __init__(self, network: str, board: str, faults: Sequence[str]) -> None:
        super().__init__("\n".join([f"network {network!r} does not fit {board}:", *faults]))
        self.network = network
        self.board = board
        self.faults = tuple(faults)
