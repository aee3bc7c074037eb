"""One step of SGD on a network's tail, in integers: forward, loss, backward, and the move of every parameter.

docs/arithmetic.md, "Training a deeper tail". Arrays are (clients, examples, *shape); integers are held in float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sanderling.models.block_float import (
    Array,
    Error,
    Float64Array,
    Int8Array,
    Int64Array,
    as_factor,
    normalized,
    plus,
    shortened,
    times,
)
from sanderling.models.deep_tail import STEP, CrossEntropy, MeanSquaredError, Tail
from sanderling.models.network import Network
from sanderling.models.tail import THETA_LIMIT
from sanderling.models.tail_layers import (
    Int32Matrix,
    Parameters,
    Plain,
    Weighted,
    nodes_of,
    parameters_of,
    trained_layer,
)
from sanderling.models.tail_moves import Batch, mover
from sanderling.models.training import (
    PROBABILITY_BITS,
    LocalTraining,
    exponent_scale,
    one_hot,
    round_half_up,
    softmax,
)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Trace:
    """What the forward pass leaves: values by tensor, the head's in accumulators; columns by tensor."""

    values: dict[int, Array]
    columns: dict[int, Float64Array]


class TailStep:
    """The tail of a network made ready to be trained, or only to be run."""

    def __init__(self, network: Network, tail: Tail, training: LocalTraining) -> None:
        self.tail = tail
        self.entering = {tensor: network.tensors[tensor].shape for tensor in tail.entering}
        self.nodes = nodes_of(network, tail)
        self.weighted = [node for node in self.nodes if isinstance(node, Weighted)]
        self.head = self.weighted[-1]
        self.trained = [node for node in self.weighted if node.trained is not None]
        self.movers = [mover(network, tail, node, training) for node in self.trained]
        self.loss = _loss(tail)

    def forward(self, parameters: Sequence[Parameters], inputs: Int8Array) -> Trace:
        """Runs the tail on inputs (clients, b, elements)."""
        ends = np.cumsum([math.prod(shape) for shape in self.entering.values()])
        parts = np.split(inputs, ends[:-1], axis=2)
        values: dict[int, Array] = {
            tensor: part.reshape(*inputs.shape[:2], *shape)
            for part, (tensor, shape) in zip(parts, self.entering.items(), strict=True)
        }
        columns: dict[int, Float64Array] = {}
        for node in self.nodes:
            given = [values[tensor] for tensor in node.inputs]
            if isinstance(node, Plain):
                values[node.output] = node.forward(given)
            else:
                columns[node.output] = node.columns(given[0])
                values[node.output] = node.forward(columns[node.output], parameters)
        return Trace(values=values, columns=columns)

    def backward(self, parameters: Sequence[Parameters], done: Trace, error: Error) -> dict[int, Error]:
        """From the error of the head's accumulators to that of every trained layer's, by output tensor."""
        arrived = {self.head.output: error}
        found: dict[int, Error] = {}
        for node in reversed(self.nodes):
            if node.output not in arrived:
                continue
            error, y = arrived.pop(node.output), done.values[node.output]
            if isinstance(node, Plain):
                back = node.back(error, [done.values[tensor] for tensor in node.inputs], y)
            else:
                found[node.output] = live = node.live(error, y)
                back = [] if node.inputs[0] in self.entering else [node.backward(live, parameters)]
            for tensor, arriving in zip(node.inputs, back, strict=False):
                if tensor not in self.entering:
                    arrived[tensor] = plus(arrived[tensor], arriving) if tensor in arrived else arriving
        return found

    def __call__(self, parameters: Sequence[Parameters], start: Sequence[Parameters], batch: Batch) -> None:
        """Moves `parameters` by one batch; `start` is what the round began with."""
        done = self.forward(parameters, batch.inputs)
        error = self.loss(done.values[self.head.output], batch.targets, batch.counted)
        errors = self.backward(parameters, done, error)
        for node, move, own, origin in zip(self.trained, self.movers, parameters, start, strict=True):
            if node.output in errors:
                move(own, origin, errors[node.output], done.columns[node.output], batch)

    # Theta.

    def parameters(self, thetas: Int32Matrix) -> list[Parameters]:
        """Those of thetas (clients, d), for each trained layer."""
        return [parameters_of(node, thetas) for node in self.trained]

    def thetas(
        self, thetas: Int32Matrix, start: Sequence[Parameters], end: Sequence[Parameters]
    ) -> Int32Matrix:
        """thetas (clients, d) moved by end - start: what int8 weights rounded away at the start stays as it is."""
        moved = thetas.copy()
        for node, before, after in zip(self.trained, start, end, strict=True):
            layer, unit = trained_layer(node), STEP if trained_layer(node).kind == "int8" else 1
            if layer.kind != "bias":
                change = node.product.to_theta((after.weights - before.weights)[:, node.chosen])
                moved[:, layer.start : layer.bias_start] += unit * change.astype(np.int32)
            change = (after.biases - before.biases)[:, node.chosen]
            moved[:, layer.bias_start : layer.stop] += change.astype(np.int32)
        return np.clip(moved, -THETA_LIMIT, THETA_LIMIT, out=moved)


# Losses: from accumulators and targets (clients, b, K) to the error of the head's real outputs.

LossError = Callable[[Int64Array, Int64Array, NDArray[np.bool_]], Error]


def _loss(tail: Tail) -> LossError:
    head = tail.head
    match tail.loss:
        case CrossEntropy():
            scale = exponent_scale(head)

            def cross_entropy(sums: Int64Array, targets: Int64Array, counted: NDArray[np.bool_]) -> Error:
                error = (softmax(sums, scale) - targets) * counted[..., None]
                exponents = np.full(counted.shape, PROBABILITY_BITS)
                return Error(mantissas=error.astype(np.float64), exponents=exponents)

            return cross_entropy
        case MeanSquaredError() as loss:
            step = head.input_scale * head.weight_scale
            rate, derivative = shortened(loss.scale / step), as_factor([2 * step / head.classes])

            def mean_squared_error(
                sums: Int64Array, targets: Int64Array, counted: NDArray[np.bool_]
            ) -> Error:
                difference = (sums - round_half_up(targets * rate)) * counted[..., None]
                return times(normalized(difference, np.zeros(counted.shape, np.int64)), derivative)

            return mean_squared_error


def targets_of(tail: Tail, targets: Array) -> Int64Array:
    """Labels (n,) as one-hot in 2**-15, or int8 targets (n, ...) centred: what a batch has, (n, K)."""
    if isinstance(tail.loss, MeanSquaredError):
        return targets.reshape(len(targets), tail.head.classes).astype(np.int64) - tail.loss.zero_point
    return one_hot(targets, tail.head.classes)
