from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sanderling.edge_runtime.windows import Windowing, empty_stream, push
from sanderling.models.datasets.windows import cut, window_starts
from sanderling.models.errors import UsageError

SMALL = Windowing(length=4, step=2, channels=1, low=-10, high=10)


def samples(*values: float) -> np.ndarray:
    return np.array(values, np.float32)[:, None]


def rows(windows: np.ndarray) -> list[list[float]]:
    return windows[:, :, 0].tolist()


def test_windows_overlap_by_length_less_step():
    _, windows = push(SMALL, empty_stream(SMALL), samples(0, 1, 2, 3, 4, 5, 6))
    assert rows(windows) == [[0, 1, 2, 3], [2, 3, 4, 5]]


def test_a_window_is_given_once_its_last_sample_came():
    stream, windows = push(SMALL, empty_stream(SMALL), samples(0, 1, 2))
    assert windows.shape == (0, 4, 1)
    stream, windows = push(SMALL, stream, samples(3))
    assert rows(windows) == [[0, 1, 2, 3]]
    _, windows = push(SMALL, stream, samples(4, 5))
    assert rows(windows) == [[2, 3, 4, 5]]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 10.5, -11])
def test_no_window_spans_a_dropped_sample(bad):
    stream, windows = push(SMALL, empty_stream(SMALL), samples(0, 1, 2, bad, 4, 5, 6, 7, 8))
    assert rows(windows) == [[4, 5, 6, 7]]
    assert (stream.not_finite, stream.out_of_range) == ((0, 1) if np.isfinite(bad) else (1, 0))
    assert rows(push(SMALL, stream, samples(9))[1]) == [[6, 7, 8, 9]]


def test_faults_are_counted_once_each():
    stream, _ = push(SMALL, empty_stream(SMALL), samples(np.nan, np.nan, 99, 1))
    stream, _ = push(SMALL, stream, samples(-99))
    assert (stream.not_finite, stream.out_of_range) == (2, 2)
    assert stream.pending.size == 0


@given(
    length=st.integers(1, 12),
    step=st.integers(1, 12),
    parts=st.lists(st.integers(0, 30), max_size=8),
)
def test_however_it_arrives_a_stream_gives_the_windows_of_the_recording(length, step, parts):
    windowing = Windowing(length=length, step=min(step, length), channels=2)
    recording = np.arange(2 * sum(parts), dtype=np.float32).reshape(-1, 2)
    stream, got = empty_stream(windowing), []
    for part in np.split(recording, np.cumsum(parts)[:-1]) if parts else []:
        stream, windows = push(windowing, stream, part)
        got.append(windows)
        assert len(stream.pending) < length
    expected = cut(recording, window_starts(len(recording), window=length, step=windowing.step), length)
    assert np.array_equal(np.concatenate([np.empty((0, length, 2)), *got]), expected)


@pytest.mark.parametrize(("length", "step"), [(4, 5), (4, 0), (0, 0)])
def test_settings_that_skip_samples_are_refused(length, step):
    with pytest.raises(UsageError, match="1 <= step <= length"):
        Windowing(length=length, step=step, channels=1)


def test_samples_of_other_channels_are_refused():
    with pytest.raises(UsageError, match=r"expected \(n, 1\), came \(3, 2\)"):
        push(SMALL, empty_stream(SMALL), np.zeros((3, 2), np.float32))
