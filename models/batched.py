"""Many clients trained at once: one array operation for all of them, and for each the bytes it gets alone.

A client with fewer examples than the others stops earlier: clients are sorted so that those still training come
first. An incomplete batch is filled up with examples that are zero everywhere, constant input included, which
therefore change nothing. Groups of clients are small enough that a step's arrays stay in the cache.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sanderling.models.random_bits import Key, below, words_of_streams
from sanderling.models.tail import DenseHead
from sanderling.models.training import LocalTraining, as_matrix, as_vector, head_inputs, head_step, one_hot

GROUP_ELEMENTS = 1 << 16  # of the shadows of the clients that are stepped together

Int32Matrix = NDArray[np.int32]


def train_heads(
    head: DenseHead,
    thetas: Int32Matrix,
    features: Sequence[NDArray[np.int8]],
    labels: Sequence[NDArray[np.int64]],
    training: LocalTraining,
    keys: Sequence[Key],
) -> Int32Matrix:
    """Row c is `train_head(head, thetas[c], features[c], labels[c], training, keys[c])`; thetas (clients, d)."""
    trained = np.empty_like(thetas)
    by_size = sorted(range(len(keys)), key=lambda client: -labels[client].size)
    size = max(1, GROUP_ELEMENTS // head.dimension)
    for first in range(0, len(by_size), size):
        group = by_size[first : first + size]
        trained[group] = _train_group(
            head,
            thetas[group],
            [features[client] for client in group],
            [labels[client] for client in group],
            training,
            [keys[client] for client in group],
        )
    return trained


def permutations_of(keys: Sequence[Key], counts: Sequence[int], streams: int) -> NDArray[np.int64]:
    """(clients, streams, largest count): each client's `permutations`, then -1; counts must not ascend."""
    longest, shape = counts[0], (len(keys), streams, counts[0])
    key_words = np.array(keys, dtype=np.uint32).reshape(-1, 2, 1, 1)
    words = words_of_streams((key_words[:, 0], key_words[:, 1]), longest, np.arange(streams, dtype=np.uint32))
    partners = below(words, np.arange(1, longest + 1))
    orders = np.broadcast_to(np.arange(longest), shape).copy()
    sizes = np.asarray(counts)
    for i in range(longest - 1, 0, -1):
        longer = int((sizes > i).sum())
        swapped = partners[:longer, :, i, None]
        held = np.take_along_axis(orders[:longer], swapped, axis=2)
        np.put_along_axis(orders[:longer], swapped, orders[:longer, :, i, None], axis=2)
        orders[:longer, :, i] = held[..., 0]
    for own, count in zip(orders, counts, strict=True):
        own[:, count:] = -1
    return orders


def _train_group(
    head: DenseHead,
    thetas: Int32Matrix,
    features: list[NDArray[np.int8]],
    labels: list[NDArray[np.int64]],
    training: LocalTraining,
    keys: list[Key],
) -> Int32Matrix:
    """Clients in descending order of their number of examples."""
    counts = [own.size for own in labels]
    longest, clients = counts[0], np.arange(len(keys))[:, None]
    # One more row than the longest: what an order of -1 picks, an example of zeros.
    inputs = np.zeros((len(keys), longest + 1, head.features + 1))
    targets = np.zeros((len(keys), longest + 1, head.classes), dtype=np.int64)
    for client, count in enumerate(counts):
        inputs[client, :count] = head_inputs(head, features[client])
        targets[client, :count] = one_hot(labels[client], head.classes)
    step = head_step(head, training)
    start = as_matrix(head, thetas)
    shadow = start.copy()
    orders = permutations_of(keys, counts, training.epochs)
    for epoch in range(training.epochs):
        for first in range(0, longest, training.batch_size):
            active = sum(count > first for count in counts)
            batch = orders[:active, epoch, first : first + training.batch_size]
            rows = clients[:active]
            shadow[:active] = step(shadow[:active], start[:active], inputs[rows, batch], targets[rows, batch])
    return as_vector(head, shadow)
