"""Training of a deeper tail on what enters it, cached as int8: whole rounds, of one client or of many at once.

models/tail_step.py is one step. A client alone is a batch of one client: the same code, and the same bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from sanderling.models import inference
from sanderling.models.batched import permutations_of
from sanderling.models.block_float import Array, Int8Array, Int64Array
from sanderling.models.deep_tail import CrossEntropy, Tail
from sanderling.models.network import Network
from sanderling.models.random_bits import Key
from sanderling.models.tail_layers import Int32Matrix
from sanderling.models.tail_moves import Batch
from sanderling.models.tail_step import TailStep, targets_of
from sanderling.models.training import (
    MAX_BATCH_SIZE,
    Evaluation,
    LocalTraining,
    evaluate_accumulators,
)
from sanderling.models.updates import Int32Vector

GROUP_ELEMENTS = 1 << 21  # of the largest array, over the clients that are stepped together
CHUNK_EXAMPLES = 64  # that are evaluated at once


def tail_inputs(network: Network, tail: Tail, examples: Array) -> Int8Array:
    """What enters the tail for network inputs (n, ...), to be cached: int8 (n, elements)."""
    return inference.activations(network, examples, tail.first, tail.entering)


def train_tail(
    network: Network,
    tail: Tail,
    theta: Int32Vector,
    inputs: Int8Array,
    targets: Array,
    training: LocalTraining,
    order_key: Key,
    rounding_key: Key,
) -> Int32Vector:
    """theta (d,) after `training` on what enters the tail (n, elements) and labels (n,), or int8 targets (n, K).

    `inputs` are the `tail_inputs` of the examples. `order_key` decides the order of the examples,
    `rounding_key` how int8 weights are rounded.
    """
    keys = [order_key], [rounding_key]
    row: Int32Vector = train_tails(network, tail, theta[None], [inputs], [targets], training, *keys)[0]
    return row


def train_tails(
    network: Network,
    tail: Tail,
    thetas: Int32Matrix,
    inputs: Sequence[Int8Array],
    targets: Sequence[Array],
    training: LocalTraining,
    order_keys: Sequence[Key],
    rounding_keys: Sequence[Key],
) -> Int32Matrix:
    """Row c of thetas (clients, d) gets the bytes that `train_tail` gives it alone."""
    if not 1 <= training.batch_size <= MAX_BATCH_SIZE:
        raise ValueError(f"batch_size must be 1..{MAX_BATCH_SIZE}, got {training.batch_size}")
    step, trained = TailStep(network, tail, training), np.empty_like(thetas)
    largest = max(
        node.product.terms * max(node.product.positions, node.product.channels) for node in step.weighted
    )
    size = max(1, GROUP_ELEMENTS // (largest * training.batch_size))
    by_size = sorted(range(len(thetas)), key=lambda client: -len(inputs[client]))
    for first in range(0, len(by_size), size):
        group = by_size[first : first + size]
        clients: list[list[Any]] = [
            [given[i] for i in group] for given in (inputs, targets, order_keys, rounding_keys)
        ]
        trained[group] = _train_group(step, thetas[group], training, *clients)
    return trained


def _train_group(
    step: TailStep,
    thetas: Int32Matrix,
    training: LocalTraining,
    inputs: list[Int8Array],
    targets: list[Array],
    order_keys: list[Key],
    rounding_keys: list[Key],
) -> Int32Matrix:
    """Clients in descending order of their number of examples: those still training come first."""
    size, counts, rows = training.batch_size, [len(own) for own in inputs], np.arange(len(inputs))[:, None]
    # One more example than the longest client has: what an order of -1 picks, and is not counted.
    examples = np.zeros((len(counts), counts[0] + 1, inputs[0].shape[1]), np.int8)
    wanted = np.zeros((len(counts), counts[0] + 1, step.tail.head.classes), np.int64)
    for client, count in enumerate(counts):
        examples[client, :count] = inputs[client]
        wanted[client, :count] = targets_of(step.tail, targets[client])
    keys = np.array(rounding_keys, dtype=np.uint32)
    steps = np.array([-(-count // size) for count in counts], dtype=np.uint32)  # an epoch
    orders = permutations_of(order_keys, counts, training.epochs)
    start = step.parameters(thetas)
    parameters = [layer.copy() for layer in start]
    for epoch in range(training.epochs):
        for first in range(0, counts[0], size):
            active = sum(count > first for count in counts)
            chosen = orders[:active, epoch, first : first + size]
            batch = Batch(
                inputs=examples[rows[:active], chosen],
                targets=wanted[rows[:active], chosen],
                counted=chosen >= 0,
                keys=keys[:active],
                numbers=steps[:active] * np.uint32(epoch) + np.uint32(first // size),
            )
            step([own.first(active) for own in parameters], [own.first(active) for own in start], batch)
    return step.thetas(thetas, start, parameters)


def evaluate_tail(
    network: Network, tail: Tail, theta: Int32Vector, inputs: Int8Array, targets: Array
) -> Evaluation:
    """Accuracy and mean loss of theta (d,); with mean squared error nothing is correct. The loss is for reports."""
    sums = tail_sums(network, tail, theta, inputs)
    if isinstance(tail.loss, CrossEntropy):
        return evaluate_accumulators(sums, tail.head, targets)
    step = tail.head.input_scale * tail.head.weight_scale
    difference = sums * step - targets_of(tail, targets) * tail.loss.scale
    loss = float((difference**2).mean()) if len(inputs) else 0.0
    return Evaluation(correct=0, count=len(inputs), mean_loss=loss)


def tail_sums(network: Network, tail: Tail, theta: Int32Vector, inputs: Int8Array) -> Int64Array:
    """The head's accumulators (n, K), in steps of its input scale times its weight scale."""
    step = TailStep(network, tail, LocalTraining(epochs=0, batch_size=1, learning_rate_q16=0))
    parameters = step.parameters(theta[None])
    sums = [np.empty((0, tail.head.classes), np.int64)]
    for first in range(0, len(inputs), CHUNK_EXAMPLES):
        done = step.forward(parameters, inputs[None, first : first + CHUNK_EXAMPLES])
        sums.append(done.values[step.head.output][0])
    return np.concatenate(sums)
