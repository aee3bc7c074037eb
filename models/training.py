"""Training of a dense head on cached int8 features, in integers only: the reference every other runtime equals.

Mini-batch SGD on softmax cross-entropy, with FedProx's proximal term (Li et al. 2020, arXiv 1812.06127).
docs/arithmetic.md, "Training a dense head", specifies each step. Large products run in float64 BLAS, where sums of
integers below 2**53 are exact whatever their order; nothing is rounded there.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sanderling.models.arithmetic import multiply_by_quantized_multiplier, quantize_multiplier
from sanderling.models.random_bits import Key, permutation
from sanderling.models.tail import THETA_LIMIT, DenseHead, rounded_weights
from sanderling.models.updates import Int32Vector

PROBABILITY_BITS = 15  # probabilities and errors are in 2**-15
ERROR_FRACTION_BITS = 12  # of the scaled error, below theta's unit
EXP_STEPS = 256  # table entries a nat
EXP_LIMIT = 16 * EXP_STEPS  # e**-16 is nothing in 16 bits
MAX_BATCH_SIZE = 32

# exp(-t / 256) = EXP_COARSE[t >> 8] * EXP_FINE[t & 255] / 65536
EXP_COARSE = np.rint(65535 * np.exp(-np.arange(16.0))).astype(np.int64)
EXP_FINE = np.rint(65535 * np.exp(-np.arange(EXP_STEPS) / EXP_STEPS)).astype(np.int64)


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


def softmax(accumulators: NDArray[np.int64], head: DenseHead) -> NDArray[np.int64]:
    """Class probabilities (n, K) in 2**-15 from accumulators (n, K), by look-up tables."""
    exponentials = _exponentials(accumulators, head)
    total = exponentials.sum(axis=-1, keepdims=True)
    return ((exponentials << PROBABILITY_BITS) + (total >> 1)) // total


def train_head(
    head: DenseHead,
    theta: Int32Vector,
    features: NDArray[np.int8],
    labels: NDArray[np.int64],
    training: LocalTraining,
    key: Key,
) -> Int32Vector:
    """theta (d,) after `training` on features (n, F) and labels (n,); `key` decides the order of the examples."""
    if not 1 <= training.batch_size <= MAX_BATCH_SIZE:
        raise ValueError(f"batch_size must be 1..{MAX_BATCH_SIZE}, got {training.batch_size}")
    inputs = _with_bias_input(head, features)
    targets = np.zeros((labels.size, head.classes), dtype=np.int64)
    targets[np.arange(labels.size), labels] = 1 << PROBABILITY_BITS
    start = _as_matrix(head, theta)
    shadow = start.copy()
    for epoch in range(training.epochs):
        order = permutation(key, labels.size, stream=epoch)
        for first in range(0, labels.size, training.batch_size):
            batch = order[first : first + training.batch_size]
            shadow = _step(head, shadow, start, inputs[batch], targets[batch], training)
    return _as_vector(head, shadow)


def evaluate_head(
    head: DenseHead, theta: Int32Vector, features: NDArray[np.int8], labels: NDArray[np.int64]
) -> Evaluation:
    """Accuracy and mean cross-entropy of theta on features (n, F) and labels (n,); the lower class wins a tie."""
    if labels.size == 0:
        return Evaluation(correct=0, count=0, mean_loss=0.0)
    weights, biases = rounded_weights(head, theta)
    centred = features.astype(np.float64) - head.input_zero_point
    accumulators = (centred @ weights.T.astype(np.float64)).astype(np.int64) + biases
    logits = accumulators * (head.input_scale * head.weight_scale)
    logits -= logits.max(axis=1, keepdims=True)
    losses = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(labels.size), labels]
    correct = int((accumulators.argmax(axis=1) == labels).sum())
    return Evaluation(correct=correct, count=int(labels.size), mean_loss=float(losses.mean()))


def _step(
    head: DenseHead,
    shadow: NDArray[np.float64],
    start: NDArray[np.float64],
    inputs: NDArray[np.float64],
    targets: NDArray[np.int64],
    training: LocalTraining,
) -> NDArray[np.float64]:
    """One SGD step on a batch: shadow and start (K, F + 1), inputs (b, F + 1), targets (b, K)."""
    weights = np.floor((shadow + 128.0) * (1 / 256))
    accumulators = inputs[:, :-1] @ weights[:, :-1].T
    accumulators += np.floor((shadow[:, -1] * head.bias_input + 128.0) * (1 / 256))
    error = softmax(accumulators.astype(np.int64), head) - targets
    scaled = scale_error(error, head, training)
    gradient = scaled.T.astype(np.float64) @ inputs
    shadow = shadow - np.floor((gradient + (1 << (ERROR_FRACTION_BITS - 1))) * (1 / (1 << ERROR_FRACTION_BITS)))
    if training.proximal_mu_q16:
        pull = proximal_rate_q16(training)
        shadow -= np.floor(((shadow - start) * pull + 32768.0) * (1 / 65536))
    return np.clip(shadow, -THETA_LIMIT, THETA_LIMIT, out=shadow)


def scale_error(error: NDArray[np.int64], head: DenseHead, training: LocalTraining) -> NDArray[np.int64]:
    """The error in 2**-12 of theta's unit a unit of input: learning rate, scales and the batch's mean folded in."""
    rate = training.learning_rate_q16 / 65536.0
    real = rate * 256.0 * head.input_scale / head.weight_scale / training.batch_size
    multiplier, shift = quantize_multiplier(real * 2.0 ** (ERROR_FRACTION_BITS - PROBABILITY_BITS))
    limit = ((1 << 31) - 1 - (1 << ERROR_FRACTION_BITS)) // (255 * training.batch_size)
    return np.clip(multiply_by_quantized_multiplier(error, multiplier, shift), -limit, limit)


def proximal_rate_q16(training: LocalTraining) -> int:
    """Learning rate times mu, in 2**-16, rounded to nearest."""
    return (training.learning_rate_q16 * training.proximal_mu_q16 + 32768) >> 16


def _exponentials(accumulators: NDArray[np.int64], head: DenseHead) -> NDArray[np.int64]:
    """exp(logit - largest logit) in 2**-16, (n, K)."""
    below_largest = accumulators.max(axis=-1, keepdims=True) - accumulators
    multiplier, shift = quantize_multiplier(head.input_scale * head.weight_scale * EXP_STEPS)
    steps = np.minimum(multiply_by_quantized_multiplier(below_largest, multiplier, shift), EXP_LIMIT - 1)
    return (EXP_COARSE[steps >> 8] * EXP_FINE[steps & (EXP_STEPS - 1)] + 32768) >> 16


def _with_bias_input(head: DenseHead, features: NDArray[np.int8]) -> NDArray[np.float64]:
    """Centred features with the bias's constant input behind them, (n, F + 1)."""
    inputs = np.empty((features.shape[0], head.features + 1))
    inputs[:, :-1] = features
    inputs[:, :-1] -= head.input_zero_point
    inputs[:, -1] = head.bias_input
    return inputs


def _as_matrix(head: DenseHead, theta: Int32Vector) -> NDArray[np.float64]:
    """theta (d,) as (K, F + 1), each class's bias behind its weights."""
    split = head.classes * head.features
    weights = theta[:split].reshape(head.classes, head.features)
    return np.concatenate([weights, theta[split:, None]], axis=1).astype(np.float64)


def _as_vector(head: DenseHead, matrix: NDArray[np.float64]) -> Int32Vector:
    return np.concatenate([matrix[:, :-1].reshape(-1), matrix[:, -1]]).astype(np.int32)
