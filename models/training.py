"""Training of a dense head on cached int8 features, in integers only: the reference every other runtime equals.

Mini-batch SGD on softmax cross-entropy, with FedProx's proximal term (Li et al. 2020, arXiv 1812.06127).
docs/arithmetic.md, "Training a dense head", specifies each step. Arrays may have a leading axis of clients.
Integers are held in float64 wherever BLAS or a ufunc is quicker on it: below 2**53 they are exact in any order.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sanderling.models.arithmetic import multiply_by_quantized_multiplier, quantize_multiplier
from sanderling.models.random_bits import Key, permutations
from sanderling.models.tail import FRACTION_BITS, THETA_LIMIT, DenseHead, rounded_weights
from sanderling.models.updates import Int32Vector

Float64Array = NDArray[np.float64]
Int64Array = NDArray[np.int64]

PROBABILITY_BITS = 15  # probabilities and errors are in 2**-15
ONE = 1 << PROBABILITY_BITS
ERROR_FRACTION_BITS = 12  # of the scaled error, below theta's unit
MAX_ERROR_SHIFT = 15  # of an error of up to 2**15: beyond, 32 bits would overflow
EXP_STEPS = 256  # table entries a nat
EXP_LIMIT = 16 * EXP_STEPS  # e**-16 is nothing in 16 bits
MAX_BATCH_SIZE = 32

# exp(-t / 256) in 2**-16 = EXP_COARSE[t >> 8] * EXP_FINE[t & 255] / 65536: two tables that fit a microcontroller
EXP_COARSE = np.rint(65535 * np.exp(-np.arange(16.0))).astype(np.int64)
EXP_FINE = np.rint(65535 * np.exp(-np.arange(EXP_STEPS) / EXP_STEPS)).astype(np.int64)
EXPONENTIALS = ((np.outer(EXP_COARSE, EXP_FINE) + 32768) >> 16).reshape(-1).astype(np.float64)


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalTraining:
    """How a device trains in a round. Rates are in 2**-16."""

    epochs: int
    batch_size: int  # 1..MAX_BATCH_SIZE
    learning_rate_q16: int
    proximal_mu_q16: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """How a head did on some examples. The loss is for reports, not part of any byte-exact result."""

    correct: int
    count: int
    mean_loss: float


def train_head(
    head: DenseHead,
    theta: Int32Vector,
    features: NDArray[np.int8],
    labels: NDArray[np.int64],
    training: LocalTraining,
    key: Key,
) -> Int32Vector:
    """theta (d,) after `training` on features (n, F) and labels (n,); `key` decides the order of the examples."""
    step = head_step(head, training)
    inputs, targets = head_inputs(head, features), one_hot(labels, head.classes)
    start = shadow = as_matrix(head, theta)
    for order in permutations(key, labels.size, training.epochs):
        epoch_inputs, epoch_targets = inputs[order], targets[order]
        for first in range(0, labels.size, training.batch_size):
            batch = slice(first, first + training.batch_size)
            shadow = step(shadow, start, epoch_inputs[batch], epoch_targets[batch])
    return as_vector(head, shadow)


def evaluate_head(
    head: DenseHead, theta: Int32Vector, features: NDArray[np.int8], labels: NDArray[np.int64]
) -> Evaluation:
    """Accuracy and mean cross-entropy of theta on features (n, F) and labels (n,); the lower class wins a tie."""
    weights, biases = rounded_weights(head, theta)
    centred = features.astype(np.float64) - head.input_zero_point
    accumulators = (centred @ weights.T.astype(np.float64)).astype(np.int64) + biases
    return evaluate_accumulators(accumulators, head, labels)


def evaluate_accumulators(accumulators: Int64Array, head: DenseHead, labels: NDArray[np.int64]) -> Evaluation:
    """The same from the head's accumulators (n, K)."""
    if labels.size == 0:
        return Evaluation(correct=0, count=0, mean_loss=0.0)
    logits = accumulators * (head.input_scale * head.weight_scale)
    logits -= logits.max(axis=1, keepdims=True)
    losses = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(labels.size), labels]
    correct = int((accumulators.argmax(axis=1) == labels).sum())
    return Evaluation(correct=correct, count=int(labels.size), mean_loss=float(losses.mean()))


# The step. Shadows are (..., K, F + 1), each class's bias behind its weights; inputs (..., b, F + 1) end in a 1.

ExponentScale = tuple[int, int, int]
Step = Callable[[Float64Array, Float64Array, Float64Array, Int64Array], Float64Array]


def head_step(head: DenseHead, training: LocalTraining) -> Step:
    """`step(shadow, start, inputs, targets) -> shadow`: one of mini-batch SGD, on a batch for each leading index."""
    if not 1 <= training.batch_size <= MAX_BATCH_SIZE:
        raise ValueError(f"batch_size must be 1..{MAX_BATCH_SIZE}, got {training.batch_size}")
    scale, changes = exponent_scale(head), changes_by_error(head, training)
    pull = proximal_rate_q16(training)

    def step(
        shadow: Float64Array, start: Float64Array, inputs: Float64Array, targets: Int64Array
    ) -> Float64Array:
        error = softmax(forward(head, shadow, inputs), scale) - targets
        gradient = changes.take(error + ONE).swapaxes(-1, -2) @ inputs
        gradient[..., -1] *= head.bias_input
        moved = shadow - round_half_up(gradient)
        if pull:
            moved -= round_half_up((moved - start) * (pull / 65536))
        np.maximum(moved, -THETA_LIMIT, out=moved)
        return np.minimum(moved, THETA_LIMIT, out=moved)

    return step


def forward(head: DenseHead, shadow: Float64Array, inputs: Float64Array) -> Int64Array:
    """Accumulators (..., b, K) of the int8 weights and int32 biases that the shadow rounds to."""
    weights = round_half_up(shadow * 2.0**-FRACTION_BITS)
    weights[..., -1] = round_half_up(shadow[..., -1] * (head.bias_input * 2.0**-FRACTION_BITS))
    return (inputs @ weights.swapaxes(-1, -2)).astype(np.int64)


def softmax(accumulators: Int64Array, scale: ExponentScale) -> Int64Array:
    """Class probabilities (..., K) in 2**-15 from accumulators (..., K), by look-up tables."""
    multiplier, shift, reach = scale
    below_largest = accumulators.max(axis=-1, keepdims=True) - accumulators
    steps = (np.minimum(below_largest, reach) << max(shift, 0)) * multiplier + (1 << 30) >> 31
    steps = (steps + (1 << max(-shift, 0) >> 1)) >> max(-shift, 0)
    exponentials = EXPONENTIALS.take(steps, mode="clip")
    total = exponentials.sum(axis=-1, keepdims=True)
    # A quotient of integers below 2**32, itself at most 2**15, is never rounded up to the next integer.
    quotients: Float64Array = (exponentials * float(ONE) + np.floor(total * 0.5)) / total
    return quotients.astype(np.int64)


def exponent_scale(head: DenseHead) -> ExponentScale:
    """(multiplier, shift) from accumulators to steps of the exponential's table, and the accumulators that reach
    its end."""
    steps = head.input_scale * head.weight_scale * EXP_STEPS
    return *quantize_multiplier(steps), math.ceil(EXP_LIMIT / steps)


def scale_error(error: Int64Array, head: DenseHead, training: LocalTraining) -> Int64Array:
    """The error in 2**-12 of theta's unit a unit of input: learning rate, scales and the batch's mean folded in."""
    multiplier, shift, limit = error_scale(head, training)
    return np.clip(multiply_by_quantized_multiplier(error, multiplier, shift).astype(np.int64), -limit, limit)


def error_scale(head: DenseHead, training: LocalTraining) -> tuple[int, int, int]:
    """(multiplier, shift) of `scale_error`, and the limit within which a batch's gradient stays in 32 bits."""
    rate = training.learning_rate_q16 / 65536.0
    real = rate * 256.0 * head.input_scale / head.weight_scale / training.batch_size
    multiplier, shift = quantize_multiplier(real * 2.0 ** (ERROR_FRACTION_BITS - PROBABILITY_BITS))
    return multiplier, min(shift, MAX_ERROR_SHIFT), error_limit(training.batch_size)


def error_limit(batch_size: int) -> int:
    """The limit of a scaled error: the gradient of a batch, of inputs up to 255, stays within 32 bits."""
    return ((1 << 31) - 1 - (1 << ERROR_FRACTION_BITS)) // (255 * batch_size)


def proximal_rate_q16(training: LocalTraining) -> int:
    """Learning rate times mu, in 2**-16, rounded to nearest."""
    return (training.learning_rate_q16 * training.proximal_mu_q16 + 32768) >> 16


@functools.lru_cache(maxsize=8)
def changes_by_error(head: DenseHead, training: LocalTraining) -> Float64Array:
    """Every scaled error, in theta's unit, from error -ONE to ONE."""
    scaled = scale_error(np.arange(-ONE, ONE + 1), head, training)
    return scaled.astype(np.float64) * 2.0**-ERROR_FRACTION_BITS


def round_half_up(x: Float64Array) -> Float64Array:
    """The nearest integer, halves up: what (x + half) >> bits gives in integers."""
    rounded: Float64Array = x + 0.5
    return np.floor(rounded, out=rounded)


# Forms.


def head_inputs(head: DenseHead, features: NDArray[np.int8]) -> Float64Array:
    """Centred features (..., F) with the constant behind them, (..., F + 1)."""
    inputs = np.ones((*features.shape[:-1], head.features + 1))
    np.subtract(features, head.input_zero_point, out=inputs[..., :-1], dtype=np.float64)
    return inputs


def one_hot(labels: NDArray[np.int64], classes: int) -> Int64Array:
    """Targets (n, K) in 2**-15."""
    targets = np.zeros((labels.size, classes), dtype=np.int64)
    targets[np.arange(labels.size), labels] = ONE
    return targets


def as_matrix(head: DenseHead, theta: Int32Vector) -> Float64Array:
    """theta (..., d) as a shadow (..., K, F + 1)."""
    split = head.classes * head.features
    weights = theta[..., :split].reshape(*theta.shape[:-1], head.classes, head.features)
    matrix: Float64Array = np.concatenate([weights, theta[..., split:, None]], axis=-1, dtype=np.float64)
    return matrix


def as_vector(head: DenseHead, shadow: Float64Array) -> Int32Vector:
    """A shadow (..., K, F + 1) as theta (..., d)."""
    weights = shadow[..., :-1].reshape(*shadow.shape[:-2], head.classes * head.features)
    theta: Int32Vector = np.concatenate([weights, shadow[..., -1]], axis=-1).astype(np.int32)
    return theta
