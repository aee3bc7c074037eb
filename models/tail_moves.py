"""What a step of SGD does to the parameters of a layer: to the nearest shadow, or to an int8 weight at random.

Quantisation-aware scaling (Lin et al. 2022, arXiv 2206.15472) lies in the rates: every parameter moves as it would in
real numbers. docs/arithmetic.md, "Training a deeper tail", "Moves".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sanderling.models.block_float import Error, Float64Array, Int8Array, Int64Array, shortened
from sanderling.models.deep_tail import STEP, CrossEntropy, Tail, TrainedLayer
from sanderling.models.network import Network
from sanderling.models.random_bits import threefry2x32
from sanderling.models.tail import THETA_LIMIT
from sanderling.models.tail_layers import Parameters, Weighted, trained_layer
from sanderling.models.training import (
    ERROR_FRACTION_BITS,
    ONE,
    LocalTraining,
    changes_by_error,
    error_limit,
    proximal_rate_q16,
    round_half_up,
)

WEIGHT_LIMIT = 127
STEP_FRACTION_BITS = 16  # of an int8 weight's gradient, below a step of the weight
CONTRIBUTION_LIMIT = 1 << 25  # of one example to a gradient: a batch of them stays within 32 bits

UInt32Array = NDArray[np.uint32]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Batch:
    """What one step works on, for each client."""

    inputs: Int8Array  # (clients, b, elements): the tensors that enter the tail, each flattened, side by side
    targets: Int64Array  # (clients, b, K): one-hot in 2**-15, or centred int8 targets
    counted: NDArray[np.bool_]  # (clients, b): false for what only fills up the batch
    keys: UInt32Array  # (clients, 2), of the rounding
    numbers: UInt32Array  # (clients,), of the step in the round


Move = Callable[[Parameters, Parameters, Error, Float64Array, Batch], None]


def mover(network: Network, tail: Tail, node: Weighted, training: LocalTraining) -> Move:
    layer, pull = trained_layer(node), proximal_rate_q16(training)
    quantization = network.tensors[node.inputs[0]].quantization
    assert quantization is not None
    # The change of a real weight for an error and an input of 1, and that in theta's unit for an input's step.
    rate = training.learning_rate_q16 / 65536 / training.batch_size
    rates = rate * quantization.scales[0] * STEP / np.array(layer.weight_scales)[node.chosen]
    if layer.kind == "shadow":
        if layer.layer == tail.head.layer and isinstance(tail.loss, CrossEntropy):
            table = changes_by_error(tail.head, training)
            return _move_shadow(layer, pull, lambda error: table.take(error.mantissas.astype(np.int64) + ONE))
        return _move_shadow(layer, pull, _scaled_errors(float(rates[0]), training.batch_size))
    move_biases = _move_biases(node, pull, rates * layer.bias_input)
    if layer.kind == "bias":
        return move_biases
    return _move_int8(node, pull, rates / STEP, move_biases)


def _scaled_errors(rate: float, batch_size: int) -> Callable[[Error], Float64Array]:
    """Errors (clients, b, 1, K) in theta's unit a step of the input, with 12 fraction bits."""
    rate, limit = shortened(rate * 2.0**ERROR_FRACTION_BITS), error_limit(batch_size)

    def scaled(error: Error) -> Float64Array:
        values = round_half_up(error.mantissas * rate * _power(error))
        clipped: Float64Array = np.clip(values, -limit, limit) * 2.0**-ERROR_FRACTION_BITS
        return clipped

    return scaled


def _move_shadow(layer: TrainedLayer, pull: int, scaled: Callable[[Error], Float64Array]) -> Move:
    """Dense layers: the nearest int16 shadow."""

    def move(own: Parameters, start: Parameters, error: Error, columns: Float64Array, batch: Batch) -> None:
        changes = scaled(error)[:, :, 0]
        _nudge(own.weights, start.weights, changes.swapaxes(-1, -2) @ columns[:, :, 0], pull)
        _nudge(own.biases, start.biases, changes.sum(axis=1) * layer.bias_input, pull)

    return move


def _move_biases(node: Weighted, pull: int, rates: Float64Array) -> Move:
    """The biases of any layer: the nearest int16 shadow."""
    chosen, short = node.chosen, shortened(rates * 2.0**ERROR_FRACTION_BITS)

    def move(own: Parameters, start: Parameters, error: Error, columns: Float64Array, batch: Batch) -> None:
        gradient = error.mantissas.sum(axis=2, keepdims=True)[..., chosen]
        change = np.zeros_like(own.biases)
        change[:, chosen] = (
            _contributions(gradient, short, error).sum(axis=(1, 2)) * 2.0**-ERROR_FRACTION_BITS
        )
        _nudge(own.biases, start.biases, change, pull)

    return move


def _move_int8(node: Weighted, pull: int, rates: Float64Array, move_biases: Move) -> Move:
    """Convolutions: int8 weights, rounded up or down at random, so that no change is lost on the average."""
    layer, product, chosen = trained_layer(node), node.product, node.chosen
    short = shortened(rates * 2.0**STEP_FRACTION_BITS)[:, None]

    def move(own: Parameters, start: Parameters, error: Error, columns: Float64Array, batch: Batch) -> None:
        weights = own.weights[:, chosen]
        gradient = product.gradient(error.mantissas, columns, chosen)
        change = _contributions(gradient, short, error).sum(axis=1)
        change += (weights - start.weights[:, chosen]) * pull
        bits = rounding_bits(batch.keys, batch.numbers, layer.start, layer.bias_start)
        change += product.from_theta(bits, len(layer.channels))
        moved = weights - np.floor(change * 2.0**-STEP_FRACTION_BITS)
        own.weights[:, chosen] = np.clip(moved, -WEIGHT_LIMIT, WEIGHT_LIMIT)
        move_biases(own, start, error, columns, batch)

    return move


def _contributions(gradient: Float64Array, rates: Float64Array, error: Error) -> Float64Array:
    """Each example's gradient (clients, b, ...) times the rates, rounded half up, within the limit."""
    scaled = round_half_up(gradient * rates * _power(error))
    return np.clip(scaled, -CONTRIBUTION_LIMIT, CONTRIBUTION_LIMIT, out=scaled)


def _power(error: Error) -> Float64Array:
    """2**-exponents, to be multiplied with (clients, b, ., .)."""
    powers: Float64Array = np.ldexp(1.0, -error.exponents)
    return powers[..., None, None]


def _nudge(shadow: Float64Array, start: Float64Array, change: Float64Array, pull: int) -> None:
    """Moves a shadow by a change with 12 fraction bits, and toward its start."""
    shadow -= round_half_up(change)
    if pull:
        shadow -= round_half_up((shadow - start) * (pull / 65536))
    np.clip(shadow, -THETA_LIMIT, THETA_LIMIT, out=shadow)


def rounding_bits(keys: UInt32Array, numbers: UInt32Array, start: int, stop: int) -> Int64Array:
    """16 bits for each coordinate start..stop-1 of theta, (clients, stop - start), in steps `numbers` (clients,).

    Coordinate i has half i % 2, the low one first, of word i // 2 of the stream that the step numbers.
    """
    blocks = np.arange(start >> 2, (stop + 3) >> 2, dtype=np.uint32)
    lanes = threefry2x32((keys[:, :1], keys[:, 1:]), (blocks, numbers[:, None]))
    words = np.stack(np.broadcast_arrays(*lanes), axis=-1)
    halves = np.stack([words & 0xFFFF, words >> 16], axis=-1).reshape(len(keys), 4 * blocks.size)
    skipped = start & 3
    bits: Int64Array = halves[:, skipped : skipped + stop - start].astype(np.int64)
    return bits
