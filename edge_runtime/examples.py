"""A bounded, class-balanced store of examples, each held as the frozen backbone's int8 features and a label.

Class-balancing reservoir sampling (Chrysakis and Moens, "Online continual learning from imbalanced data", ICML
2020), with a counter-based draw so that C and Python keep the same examples. Windows are offered in order of time,
t = 0, 1, ...; n_c counts those offered of class c, m_c those held. For a window of class c:

1. While fewer than `capacity` are held, it takes the next slot: up to the capacity, order is the order of offering.
2. Otherwise let w0, w1 be the two words of the Threefry block with counter (t, 0), and `below` as in
   models/random_bits. A class is *full* from the first time a slot was needed while it was one of the largest.
   At each offer, before 3 and 4, every class whose m_c equals the largest is marked full.
3. If c is not full, the window replaces one of the largest class (the lowest such class on a tie).
4. If c is full, it replaces one of its own class if below(w0, n_c) < m_c (n_c with this window), else it is not kept.
5. The one replaced is number below(w1, m) of the m examples of that class, counted in order of slots.

The decision needs the label alone, so the backbone runs once a window, and only for a window that is kept.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sanderling.models.errors import UsageError
from sanderling.models.random_bits import Key, UInt32Vector, below, threefry2x32

NOT_KEPT = -1


class ExampleStore:
    """Slots for `capacity` examples of `features` int8 values each, labels 0..classes-1."""

    def __init__(self, *, capacity: int, features: int, classes: int, key: Key) -> None:
        if capacity < 1 or features < 1 or not 1 <= classes <= 1 << 15:
            raise UsageError(
                f"example store: expected a capacity, features and classes of at least 1, "
                f"came {capacity}, {features}, {classes}"
            )
        self._features = np.zeros((capacity, features), np.int8)
        self._labels = np.full(capacity, -1, np.int16)
        self._held = np.zeros(classes, np.int64)  # m_c
        self._offered = np.zeros(classes, np.int64)  # n_c
        self._full = np.zeros(classes, np.bool_)
        self._key = key

    def __len__(self) -> int:
        return int(self._held.sum())

    @property
    def capacity(self) -> int:
        return len(self._labels)

    @property
    def features(self) -> NDArray[np.int8]:
        """(n, F) in order of slots; a view, valid until the next write."""
        return self._features[: len(self)]

    @property
    def labels(self) -> NDArray[np.int64]:
        """(n,)."""
        return self._labels[: len(self)].astype(np.int64)

    @property
    def class_counts(self) -> tuple[int, ...]:
        return tuple(self._held.tolist())

    def offer(self, labels: NDArray[np.int64]) -> NDArray[np.int64]:
        """The slot (n,) of each of n windows, NOT_KEPT for one that is not kept or gave way to a later one of the n.

        The features of those that have a slot are then to be written, by `write`.
        """
        if labels.size and not (labels.min() >= 0 and labels.max() < self._held.size):
            raise UsageError(
                f"example store: expected labels 0..{self._held.size - 1}, came {labels.min()}..{labels.max()}"
            )
        first = int(self._offered.sum())
        words = self._words(first, labels.size)
        owner: dict[int, int] = {}
        for index, label in enumerate(labels.tolist()):
            slot = self._admit(label, words[0][index : index + 1], words[1][index : index + 1])
            if slot != NOT_KEPT:
                owner[slot] = index
        slots = np.full(labels.size, NOT_KEPT, np.int64)
        slots[list(owner.values())] = list(owner)
        return slots

    def write(self, slots: NDArray[np.int64], features: NDArray[np.int8]) -> None:
        """Puts features (m, F) into slots (m,) that `offer` gave out."""
        self._features[slots] = features

    def _words(self, first: int, count: int) -> tuple[UInt32Vector, UInt32Vector]:
        """w0 (n,) and w1 (n,) of the windows first, first + 1, ..."""
        counter = np.arange(first, first + count, dtype=np.uint32)
        with np.errstate(over="ignore"):
            return threefry2x32(self._key, (counter, np.zeros(count, np.uint32)))

    def _admit(self, label: int, w0: UInt32Vector, w1: UInt32Vector) -> int:
        self._offered[label] += 1
        held = len(self)
        if held < self.capacity:
            return self._place(held, label)
        self._full |= self._held == self._held.max()
        if not self._full[label]:
            return self._place(self._pick(int(self._held.argmax()), w1), label)
        if below(w0, int(self._offered[label]))[0] < self._held[label]:
            return self._pick(label, w1)
        return NOT_KEPT

    def _place(self, slot: int, label: int) -> int:
        if (replaced := int(self._labels[slot])) >= 0:
            self._held[replaced] -= 1
        self._labels[slot] = label
        self._held[label] += 1
        return slot

    def _pick(self, label: int, w1: UInt32Vector) -> int:
        """The slot of one of the class's examples."""
        members = np.flatnonzero(self._labels == label)
        return int(members[below(w1, members.size)[0]])
