"""A device's windows become the examples that the Linux agent would train on."""

import numpy as np
import pytest

from sanderling.edge_runtime.examples import NOT_KEPT, ExampleStore
from sanderling.models import inference, zoo
from sanderling.models.datasets import load
from sanderling.models.native import Native
from sanderling.models.random_bits import derive_key
from tests.firmware_export.flashed import Flashed

TRAIN, VALIDATION, TEST = 0, 1, 2


@pytest.fixture(scope="module")
def flashed(runtime: Native) -> Flashed:
    return Flashed(runtime, zoo.package("watch-cnn"))


@pytest.fixture(scope="module")
def windows() -> tuple[np.ndarray, np.ndarray]:
    own = load("watch").for_client("watch-05")
    return own.examples[:120], own.labels[:120]


def features(flashed: Flashed, examples: np.ndarray) -> np.ndarray:
    inputs = flashed.package.preprocessing.quantize_input(examples)
    return inference.features(flashed.package.network, inputs, flashed.head.layer)


@pytest.mark.parametrize("capacity", [40, 200])
def test_the_store_keeps_what_the_reference_keeps(flashed: Flashed, windows, capacity: int) -> None:
    examples, labels = windows
    intake = flashed.intake("watch", "watch-05", capacity, 10)
    for window, label in zip(examples, labels, strict=True):
        assert intake.add(window, label, TRAIN) == 0
    head = flashed.head
    store = ExampleStore(
        capacity=capacity,
        features=head.features,
        classes=head.classes,
        key=derive_key("examples", "watch", "watch-05"),
    )
    slots = store.offer(labels)
    kept = slots != NOT_KEPT
    store.write(slots[kept], features(flashed, examples[kept]))
    rows, found = intake.examples(TRAIN)
    np.testing.assert_array_equal(rows, store.features)
    np.testing.assert_array_equal(found, store.labels)


def test_the_first_held_back_windows_are_kept(flashed: Flashed, windows) -> None:
    examples, labels = windows
    intake = flashed.intake("watch", "watch-05", 10, 5)
    for window, label in zip(examples[:8], labels[:8], strict=True):
        assert intake.add(window, label, VALIDATION) == 0
        assert intake.add(window, label, TEST) == 0
    for split in (VALIDATION, TEST):
        rows, found = intake.examples(split)
        np.testing.assert_array_equal(rows, features(flashed, examples[:5]))
        np.testing.assert_array_equal(found, labels[:5])
    assert len(intake.examples(TRAIN)[0]) == 0


@pytest.mark.parametrize(
    ("value", "label", "split"), [(np.nan, 0, TRAIN), (np.inf, 0, TEST), (0.0, 7, TRAIN), (0.0, 0, 3)]
)
def test_what_is_no_sample_is_refused_and_nothing_changes(
    flashed: Flashed, windows, value: float, label: int, split: int
) -> None:
    intake = flashed.intake("watch", "watch-05", 10, 5)
    window = windows[0][0].copy()
    window[3, 2] = value
    assert intake.add(window, label, split) == -11
    assert [len(intake.examples(part)[0]) for part in (TRAIN, VALIDATION, TEST)] == [0, 0, 0]
