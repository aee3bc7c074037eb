"""How a stream of samples becomes overlapping windows, as models/datasets/windows.py cuts a recording.

A window never spans a gap: a sample that is dropped (not finite, or out of the sensor's range) ends the run it
would have belonged to, and the next window begins with the next good sample.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from sanderling.models.datasets.windows import cut, window_starts
from sanderling.models.errors import UsageError

Samples = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Windowing:
    """`length` samples a window, a new one every `step`; what lies outside `low`..`high` is no reading."""

    length: int
    step: int
    channels: int
    low: float = -np.inf
    high: float = np.inf

    def __post_init__(self) -> None:
        if self.length < 1 or self.channels < 1 or not 1 <= self.step <= self.length:
            raise UsageError(
                f"windows: expected 1 <= step <= length and at least one channel, came step {self.step}, "
                f"length {self.length}, channels {self.channels}"
            )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Stream:
    """What one stream has left over: samples (m, channels) that a next window begins with, and its faults."""

    pending: Samples
    not_finite: int = 0  # samples dropped
    out_of_range: int = 0


def empty_stream(windowing: Windowing) -> Stream:
    return Stream(pending=np.empty((0, windowing.channels), np.float32))


def push(windowing: Windowing, stream: Stream, samples: Samples) -> tuple[Stream, Samples]:
    """The stream after `samples` (n, channels) in order of time, and the windows (m, length, channels) they complete."""
    if samples.ndim != 2 or samples.shape[1] != windowing.channels:
        raise UsageError(f"samples: expected (n, {windowing.channels}), came {samples.shape}")
    finite = np.isfinite(samples).all(axis=1)
    good = finite & ((samples >= windowing.low) & (samples <= windowing.high)).all(axis=1)
    pending, windows = stream.pending, []
    for index, run in enumerate(np.split(samples, np.flatnonzero(~good))):
        # After the first, each part begins with the bad sample it was split at.
        pending = run[1:] if index else np.concatenate([pending, run])
        starts = window_starts(len(pending), window=windowing.length, step=windowing.step)
        windows.append(cut(pending, starts, windowing.length))
        pending = pending[len(starts) * windowing.step :]
    after = replace(
        stream,
        pending=pending.copy(),
        not_finite=stream.not_finite + int((~finite).sum()),
        out_of_range=stream.out_of_range + int((finite & ~good).sum()),
    )
    return after, np.concatenate(windows).astype(np.float32, copy=False)
