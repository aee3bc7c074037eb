from dataclasses import replace

import numpy as np
import pytest

from sanderling.models.datasets import TEST, Dataset, load
from sanderling.models.errors import DatasetError, UsageError


@pytest.fixture
def small():
    return Dataset(
        name="small",
        examples=np.arange(12, dtype=np.float32).reshape(4, 3, 1),
        labels=np.array([0, 1, 1, 0]),
        clients=np.array([0, 0, 1, 1], np.int32),
        client_names=("a", "b"),
        split=np.array([0, 2, 0, 2], np.int8),
        class_names=("no", "yes"),
    )


def test_for_client_keeps_the_order(small):
    own = small.for_client("b")
    assert own.examples[:, 0, 0].tolist() == [6, 9]
    assert own.labels.tolist() == [1, 0]
    assert own.part(TEST).labels.tolist() == [0]


def test_unknown_client_is_named(small):
    with pytest.raises(DatasetError, match="'c'; it has a, b"):
        small.for_client("c")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"labels": np.array([0, 1, 2, 0])}, "label of example 2 is 2, expected 0 to 1"),
        ({"labels": np.array([0, 1, -1, 0])}, "label of example 2 is -1"),
        ({"labels": np.array([0, 1])}, "4 examples but 2 labels"),
        ({"split": np.array([0, 3, 0, 0], np.int8)}, "split of example 1 is 3"),
        ({"clients": np.array([0, 0, 0, 9], np.int32)}, "client of example 3 is 9"),
    ],
)
def test_parts_that_disagree_are_refused(small, change, words):
    with pytest.raises(DatasetError, match=words):
        replace(small, **change)


def test_empty_is_refused(small):
    with pytest.raises(DatasetError, match="at least one example"):
        small.where(np.zeros(4, bool))


@pytest.mark.parametrize(
    "change",
    [
        {"examples": np.arange(12, dtype=np.float32).reshape(4, 1, 3)},
        {"labels": np.array([0, 1, 1, 1])},
        {"clients": np.array([0, 1, 1, 1], np.int32)},
        {"split": np.array([0, 2, 1, 2], np.int8)},
        {"client_names": ("a", "c")},
        {"class_names": ("yes", "no")},
    ],
)
def test_content_hash_covers(small, change):
    assert replace(small, **change).content_hash != small.content_hash
    assert replace(small, name="other").content_hash == small.content_hash


def test_unknown_name_and_option_are_refused():
    with pytest.raises(
        UsageError, match="one of watch, digits, mnist5k, fashion_mnist, folder, came 'watsch'"
    ):
        load("watsch")
    with pytest.raises(UsageError, match="no option 'windw'"):
        load("folder", path="x.csv", windw=3)
    with pytest.raises(UsageError, match="`path` is missing"):
        load("folder")
