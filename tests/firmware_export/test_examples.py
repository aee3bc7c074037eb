"""The example store in C keeps the windows that the Python store keeps, in the same slots."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from sanderling.edge_runtime.examples import ExampleStore

words = st.integers(0, 2**32 - 1)


class NativeStore:
    def __init__(self, runtime, capacity, features, classes, key):
        ffi, self.lib = runtime.ffi, runtime.lib
        self.rows, self.labels = ffi.new("int8_t[]", capacity * features), ffi.new("uint16_t[]", capacity)
        self.counts, self.store = ffi.new("sl_class_count[]", classes), ffi.new("sl_example_store *")
        sizes = capacity, features, classes
        self.lib.sl_store_begin(self.store, self.rows, self.labels, self.counts, *sizes, key)
        self.slot = ffi.new("int32_t *")

    def offer(self, label):
        status = self.lib.sl_store_offer(self.store, label, self.slot)
        return self.slot[0] if status == 0 else status


@given(
    capacity=st.integers(1, 12),
    labels=st.lists(st.integers(0, 4) | st.just(0), max_size=120),
    key=st.tuples(words, words),
)
def test_slots_are_the_references(runtime, capacity, labels, key):
    reference = ExampleStore(capacity=capacity, features=2, classes=5, key=key)
    store = NativeStore(runtime, capacity, 2, 5, key)
    for label in labels:
        assert store.offer(label) == reference.offer(np.array([label]))[0]
    examples = runtime.lib.sl_store_examples(store.store)
    assert examples.count == len(reference)
    assert list(store.labels)[: examples.count] == reference.labels.tolist()
    assert [store.counts[c].held for c in range(5)] == list(reference.class_counts)


def test_features_lie_in_the_order_of_slots(runtime):
    store = NativeStore(runtime, 3, 2, 4, (1, 2))
    for label in (3, 1, 0):
        row = runtime.lib.sl_store_row(store.store, store.offer(label))
        row[0] = row[1] = label
    examples = runtime.lib.sl_store_examples(store.store)
    assert [examples.rows[2 * i] for i in range(3)] == [examples.labels[i] for i in range(3)] == [3, 1, 0]


def test_a_label_that_is_no_class_is_refused_and_leaves_no_trace(runtime):
    key, bad_sample = (7, 9), -11
    store, reference = (
        NativeStore(runtime, 1, 1, 2, key),
        ExampleStore(capacity=1, features=1, classes=2, key=key),
    )
    for label in (0, 1, 1, 0, 1):
        assert store.offer(2) == bad_sample
        assert store.offer(label) == reference.offer(np.array([label]))[0]
