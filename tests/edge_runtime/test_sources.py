from __future__ import annotations

import numpy as np
import pytest

from sanderling.edge_runtime.sources import SourceSettings, client_source, read_source
from sanderling.models.datasets import Dataset
from sanderling.models.errors import DatasetError, UsageError


def dataset(**changes: float) -> Dataset:
    """Six windows of client a, one of b; `changes` puts values into windows of a."""
    examples = np.arange(7, dtype=np.float32).reshape(7, 1, 1) + np.zeros((1, 4, 2), np.float32)
    for index, value in changes.items():
        examples[int(index.removeprefix("w")), 2, 1] = value
    return Dataset(
        name="tiny",
        examples=examples,
        labels=np.array([0, 1, 0, 1, 0, 1, 0]),
        clients=np.array([0, 0, 0, 0, 0, 0, 1], np.int32),
        client_names=("a", "b"),
        split=np.array([0, 2, 0, 1, 2, 0, 0], np.int8),
        class_names=("no", "yes"),
    )


def test_a_client_s_windows_in_their_order_and_parts():
    source = client_source(dataset(), SourceSettings(name="tiny", client="a"))
    assert source.train.examples[:, 0, 0].tolist() == [0, 2, 5]
    assert source.train.labels.tolist() == [0, 0, 1]
    assert source.validation.examples[:, 0, 0].tolist() == [3]
    assert source.test.examples[:, 0, 0].tolist() == [1, 4]
    assert source.class_names == ("no", "yes")


def test_windows_that_hold_no_reading_are_dropped_and_counted():
    bad = dataset(w0=np.nan, w1=np.inf, w2=50, w3=-50, w4=49)
    source = client_source(bad, SourceSettings(name="tiny", client="a", low=-49.5, high=49.5))
    assert (source.not_finite, source.out_of_range) == (2, 2)
    assert source.train.examples[:, 0, 0].tolist() == [5]
    assert source.validation.labels.size == 0
    assert source.test.examples[:, 0, 0].tolist() == [4]


def test_a_client_without_training_windows_has_none():
    source = client_source(dataset(w6=np.nan), SourceSettings(name="tiny", client="b"))
    assert source.train.examples.shape == (0, 4, 2)
    assert source.not_finite == 1


def test_an_unknown_client_is_named():
    with pytest.raises(DatasetError, match="no client 'c'"):
        client_source(dataset(), SourceSettings(name="tiny", client="c"))


def test_a_range_that_is_none_is_refused():
    with pytest.raises(UsageError, match="low < high"):
        SourceSettings(name="tiny", client="a", low=1, high=1)


def test_a_user_s_own_file_is_a_source(tmp_path, make):
    path = make.write_data(tmp_path / "own.npz")
    source = read_source(SourceSettings(name="folder", client="dev-2", options={"path": path}))
    assert source.train.examples.shape == (36, 20, 3)
    assert (source.validation.labels.size, source.test.labels.size) == (12, 12)
