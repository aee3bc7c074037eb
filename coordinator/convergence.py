"""How a federation is doing, and whether to stop: figures of each round and early stopping on validation accuracy."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, replace

from sanderling.coordinator.reports import Report
from sanderling.models.updates import GlobalModel, Int64Vector


@dataclass(frozen=True, slots=True, kw_only=True)
class Validation:
    """The devices' pooled figures on their validation slices; `loss` is a mean over examples, in nats."""

    correct: int
    count: int
    loss: float

    @property
    def accuracy(self) -> float:
        """Share of validation windows classified correctly, 0 without any."""
        return self.correct / self.count if self.count else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Convergence:
    """The best validated model so far, and for how many rounds none was better."""

    best: GlobalModel
    best_correct: int = -1
    best_count: int = 1
    rounds_without_better: int = 0


def pooled_validation(reports: Collection[Report]) -> Validation:
    """The figures of the model that the reports started from."""
    count = sum(report.validation_count for report in reports)
    loss = sum(report.validation_loss * report.validation_count for report in reports)
    correct = sum(report.validation_correct for report in reports)
    return Validation(correct=correct, count=count, loss=loss / count if count else 0.0)


def observe(convergence: Convergence, model: GlobalModel, validation: Validation) -> Convergence:
    """Takes note of how `model` did. Accuracies are compared as fractions, exactly."""
    if validation.count == 0:
        return convergence
    if validation.correct * convergence.best_count > convergence.best_correct * validation.count:
        return Convergence(best=model, best_correct=validation.correct, best_count=validation.count)
    return replace(convergence, rounds_without_better=convergence.rounds_without_better + 1)


def norm(change_q16: Int64Vector) -> float:
    """L2 norm of a change in theta units."""
    return math.sqrt(float((change_q16.astype(float) ** 2).sum())) / 65536


def cosine(a: Int64Vector, b: Int64Vector) -> float:
    """Cosine between two changes: near 1 while rounds agree, near 0 once they only add noise."""
    scale = norm(a) * norm(b) * 65536.0**2
    return float(a.astype(float) @ b.astype(float)) / scale if scale else 0.0
