"""What the federation is held against, on the same int8 features: one head trained centrally, and fp32 FedAvg.

FedAvg is McMahan et al. 2017 as peers run it: every device sends its whole fp32 head every round, weighted by its
number of examples. Its learning rate is the best of a grid, chosen on what it is judged by, which favours it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sanderling.models.random_bits import derive_key, permutation
from sanderling.models.tail import DenseHead
from sanderling.models.training import LocalTraining, evaluate_head, train_head
from sanderling.models.updates import Int32Vector

FLOAT_LEARNING_RATES = (0.02, 0.05, 0.1, 0.2, 0.5)
FLOAT_ROUNDS = 100
CENTRAL_PASSES = 40

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """Some examples as the head sees them: features (n, F) int8, labels (n,)."""

    features: NDArray[np.int8]
    labels: NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """One device's examples."""

    device_id: str
    train: Slice
    validation: Slice
    test: Slice


@dataclass(frozen=True, slots=True, kw_only=True)
class FloatFedAvg:
    """fp32 FedAvg's pooled validation accuracy after each round, with the learning rate that served it best."""

    learning_rate: float
    accuracies: tuple[float, ...]

    def rounds_to(self, target: float) -> int | None:
        """Rounds until the accuracy is at least `target`, None where it never is."""
        return next((i for i, accuracy in enumerate(self.accuracies, start=1) if accuracy >= target), None)


def pooled(slices: Sequence[Slice]) -> Slice:
    """All examples together."""
    return Slice(
        features=np.concatenate([part.features for part in slices]),
        labels=np.concatenate([part.labels for part in slices]),
    )


def central_head(
    head: DenseHead, theta: Int32Vector, people: Sequence[Person], training: LocalTraining, seed: int
) -> Int32Vector:
    """The same head trained by the same integer arithmetic on everybody's examples in one place.

    The number of passes is the one that does best on the pooled validation slice.
    """
    train = pooled([person.train for person in people])
    validation = pooled([person.validation for person in people])
    best, best_correct = theta, -1
    for number in range(CENTRAL_PASSES):
        key = derive_key("central", seed, number)
        theta = train_head(head, theta, train.features, train.labels, training, key)
        correct = evaluate_head(head, theta, validation.features, validation.labels).correct
        if correct > best_correct:
            best, best_correct = theta, correct
    return best


def float_fedavg(
    head: DenseHead,
    theta: Int32Vector,
    people: Sequence[Person],
    training: LocalTraining,
    seed: int,
    target: float,
) -> FloatFedAvg:
    """Plain fp32 FedAvg with the same local epochs and batches, at the learning rate that reaches `target` first."""
    runs = [
        FloatFedAvg(
            learning_rate=rate, accuracies=_float_rounds(head, theta, people, training, seed, rate, target)
        )
        for rate in FLOAT_LEARNING_RATES
    ]
    return min(runs, key=lambda run: run.rounds_to(target) or FLOAT_ROUNDS + 1 - max(run.accuracies))


def _float_rounds(
    head: DenseHead,
    theta: Int32Vector,
    people: Sequence[Person],
    training: LocalTraining,
    seed: int,
    rate: float,
    target: float,
) -> tuple[float, ...]:
    weights = _float_weights(head, theta)
    validation = pooled([person.validation for person in people])
    total = sum(person.train.labels.size for person in people)
    accuracies: list[float] = []
    for number in range(FLOAT_ROUNDS):
        mean = np.zeros_like(weights)
        for person in people:
            key = derive_key("fp32", seed, number, person.device_id)
            trained = _float_train(head, weights, person.train, training, rate, key)
            mean += trained * (person.train.labels.size / total)
        weights = mean
        predictions = (_float_inputs(head, validation) @ weights.T).argmax(axis=1)
        accuracies.append(float((predictions == validation.labels).mean()))
        if accuracies[-1] >= target:
            break
    return tuple(accuracies)


def _float_train(
    head: DenseHead, weights: Floats, train: Slice, training: LocalTraining, rate: float, key: tuple[int, int]
) -> Floats:
    inputs, targets = _float_inputs(head, train), np.eye(head.classes)[train.labels]
    weights = weights.copy()
    for epoch in range(training.epochs):
        order = permutation(key, train.labels.size, stream=epoch)
        for first in range(0, order.size, training.batch_size):
            batch = order[first : first + training.batch_size]
            logits = inputs[batch] @ weights.T
            exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
            error = exponentials / exponentials.sum(axis=1, keepdims=True) - targets[batch]
            weights -= rate * error.T @ inputs[batch] / batch.size
    return weights


def _float_inputs(head: DenseHead, part: Slice) -> Floats:
    """Features in real units, with a one behind them for the bias; (n, F + 1)."""
    real = (part.features.astype(np.float64) - head.input_zero_point) * head.input_scale
    return np.hstack([real, np.ones((len(real), 1))])


def _float_weights(head: DenseHead, theta: Int32Vector) -> Floats:
    """theta as real weights (K, F + 1), the bias last."""
    split = head.classes * head.features
    weights = theta[:split].reshape(head.classes, head.features) * head.weight_scale / 256
    bias = theta[split:] * head.bias_input * head.weight_scale * head.input_scale / 256
    return np.hstack([weights, bias[:, None]])
