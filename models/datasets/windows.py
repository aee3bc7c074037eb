"""How a recording is cut into windows, and how time divides them into train, validation and test."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sanderling.models.datasets.dataset import TEST, TRAIN, VALIDATION

TRAIN_SHARE = 0.8  # of a recording, the first part; and within it, of what is trained on


def window_starts(length: int, *, window: int, step: int) -> NDArray[np.int64]:
    """The first sample of each whole window in a recording of `length` samples."""
    return np.arange(0, length - window + 1, step, dtype=np.int64)


def split_by_time(length: int, *, window: int, step: int) -> tuple[NDArray[np.int64], NDArray[np.int8]]:
    """Starts (n,) and parts (n,) of a recording's windows.

    The last 20 % of the samples are the test part; of what comes before, again the last 20 % are the
    validation part. Windows across one of the two cuts belong to no part and are dropped, so that no
    sample serves two parts.
    """
    starts = window_starts(length, window=window, step=step)
    test_cut = int(length * TRAIN_SHARE)
    validation_cut = int(test_cut * TRAIN_SHARE)
    ends = starts + window
    split = np.full(len(starts), -1, np.int8)
    split[ends <= validation_cut] = TRAIN
    split[(starts >= validation_cut) & (ends <= test_cut)] = VALIDATION
    split[starts >= test_cut] = TEST
    return starts[split >= 0], split[split >= 0]


def cut(recording: NDArray[np.float32], starts: NDArray[np.int64], window: int) -> NDArray[np.float32]:
    """Windows (n, window, channels) of a recording (length, channels)."""
    windows: NDArray[np.float32] = recording[starts[:, None] + np.arange(window)]
    return windows
