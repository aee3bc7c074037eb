from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sanderling.edge_runtime.examples import NOT_KEPT, ExampleStore
from sanderling.models.errors import UsageError
from sanderling.models.random_bits import threefry2x32

KEY = (1, 2)


def store(capacity: int, classes: int = 3) -> ExampleStore:
    return ExampleStore(capacity=capacity, features=2, classes=classes, key=KEY)


def fill(target: ExampleStore, labels: list[int], first: int = 0) -> np.ndarray:
    """Offers labels, each example's features being its number in the stream."""
    slots = target.offer(np.array(labels, np.int64))
    numbers = np.arange(first, first + len(labels))
    features = np.stack([numbers % 100, numbers // 100], axis=1).astype(np.int8)
    target.write(slots[slots != NOT_KEPT], features[slots != NOT_KEPT])
    return slots


def numbers(target: ExampleStore) -> list[int]:
    return (target.features[:, 0] + 100 * target.features[:, 1].astype(int)).tolist()


def by_hand(labels: list[int], capacity: int, classes: int) -> tuple[list[int], list[int]]:
    """The module's specification, word by word: the numbers held, and their labels, in order of slots."""
    held: list[int] = []
    kept: list[int] = []
    offered, full = [0] * classes, [False] * classes
    for t, c in enumerate(labels):
        offered[c] += 1
        if len(held) < capacity:
            held.append(t)
            kept.append(c)
            continue
        with np.errstate(over="ignore"):
            blocks = threefry2x32(KEY, (np.array([t], np.uint32), np.zeros(1, np.uint32)))
        w0, w1 = (int(block[0]) for block in blocks)
        counts = [kept.count(each) for each in range(classes)]
        for each in range(classes):
            full[each] |= counts[each] == max(counts)
        if full[c] and (w0 * offered[c]) >> 32 >= counts[c]:
            continue
        victim = c if full[c] else counts.index(max(counts))
        members = [slot for slot, label in enumerate(kept) if label == victim]
        slot = members[(w1 * len(members)) >> 32]
        held[slot], kept[slot] = t, c
    return held, kept


def test_up_to_the_capacity_order_is_the_order_of_offering():
    target = store(5)
    fill(target, [2, 0, 0, 1, 2])
    assert numbers(target) == [0, 1, 2, 3, 4]
    assert target.labels.tolist() == [2, 0, 0, 1, 2]


def test_a_rare_class_takes_the_place_of_the_largest():
    target = store(4)
    fill(target, [0, 0, 0, 0])
    fill(target, [1, 2], first=4)
    assert target.class_counts == (2, 1, 1)


def test_a_full_class_keeps_a_uniform_sample_of_itself():
    """Each tenth of 200 windows of one class is as likely as any other to be among the 20 kept, 400 times over."""
    tenths = np.zeros(10, int)
    for seed in range(400):
        target = ExampleStore(capacity=20, features=2, classes=1, key=(seed, 7))
        fill(target, [0] * 200)
        tenths += np.bincount(np.array(numbers(target)) // 20, minlength=10)
    assert tenths.sum() == 8000
    assert np.abs(tenths - 800).max() < 4.5 * np.sqrt(800 * 0.9)


@given(
    labels=st.lists(st.integers(0, 3), max_size=80),
    capacity=st.integers(1, 12),
    cuts=st.lists(st.integers(0, 80), max_size=4),
)
def test_equals_its_specification_however_it_is_offered(labels, capacity, cuts):
    target = store(capacity, classes=4)
    for first, last in zip([0, *sorted(cuts)], [*sorted(cuts), len(labels)], strict=True):
        fill(target, labels[first:last], first=first)
    held, kept = by_hand(labels, capacity, classes=4)
    assert numbers(target) == held
    assert target.labels.tolist() == kept
    assert target.class_counts == tuple(kept.count(c) for c in range(4))


@given(labels=st.lists(st.integers(0, 3), min_size=1, max_size=200), capacity=st.integers(1, 16))
def test_never_more_than_the_capacity_and_no_class_loses_to_a_larger_one(labels, capacity):
    target = store(capacity, classes=4)
    fill(target, labels)
    assert len(target) == min(capacity, len(labels))
    if len(labels) >= capacity:
        # Below an equal share, a class holds all that was ever offered of it, or the share of a tie.
        for c in range(4):
            assert target.class_counts[c] >= min(labels.count(c), capacity // 4)


def test_only_windows_that_stay_get_a_slot():
    slots = store(3).offer(np.array([0] * 50, np.int64))
    kept = slots[slots != NOT_KEPT]
    assert sorted(kept.tolist()) == [0, 1, 2]


def test_a_label_without_a_class_is_refused():
    with pytest.raises(UsageError, match=r"labels 0\.\.2, came 0\.\.3"):
        store(3).offer(np.array([0, 3]))
    with pytest.raises(UsageError, match=r"came -1\.\.0"):
        store(3).offer(np.array([0, -1]))


def test_a_store_for_nothing_is_refused():
    with pytest.raises(UsageError, match="at least 1, came 0"):
        store(0)
