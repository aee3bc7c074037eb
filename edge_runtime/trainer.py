"""One round of local training: from cached features and a plan to the update message, a pure function of both.

The order is that of docs/arithmetic.md, "From training to update": change, restriction to the round's coordinates,
clipping, stochastic quantisation, shrinking. Error feedback (Stich et al. 2018, arXiv 1809.07599) in top-k mode only.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sanderling.broker import codec
from sanderling.broker.messages import RoundPlan, UpdateMessage, UpdatePlan
from sanderling.models import compression
from sanderling.models.compression import feed_back_error, shared_mask, squared_norm, top_k
from sanderling.models.random_bits import Key, derive_key
from sanderling.models.tail import DenseHead
from sanderling.models.training import LocalTraining, evaluate_head, train_head
from sanderling.models.updates import Int32Vector, QuantizedUpdate

HeadTraining = Callable[
    [DenseHead, Int32Vector, NDArray[np.int8], NDArray[np.int64], LocalTraining, Key], Int32Vector
]

RESIDUAL_NORMS = 4  # the residual's norm is capped at this many clipping norms


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Examples:
    """What the head learns from: int8 features (n, F) and labels (n,)."""

    features: NDArray[np.int8]
    labels: NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LocalData:
    """A device's own examples; the test part serves the final evaluation only."""

    train: Examples
    validation: Examples
    test: Examples


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Residual:
    """What updates have left unsent, under a mask only those that never left: `vector` (d,) in theta units. It does not outlive its mask epoch."""

    mask_epoch: int
    vector: Int32Vector


def train(
    plan: RoundPlan,
    device_id: str,
    head: DenseHead,
    theta: Int32Vector,
    data: LocalData,
    residual: Residual | None,
    clock: Callable[[], float],
    local: LocalTraining | None = None,
    learn: HeadTraining = train_head,
) -> tuple[UpdateMessage, Residual | None]:
    """The device's answer to a round on the model theta (d,), and the residual once that answer is delivered.

    `clock` gives seconds and decides `duration_ms` alone. Validation figures are of theta before training. `local` is
    how this device trains where its budget does not allow what the plan asks, `learn` by which code.
    """
    started = clock()
    validation = evaluate_head(head, theta, data.validation.features, data.validation.labels)
    trained = learn(
        head,
        theta,
        data.train.features,
        data.train.labels,
        local or local_training(plan),
        _key("train", plan, device_id),
    )
    training = evaluate_head(head, trained, data.train.features, data.train.labels)
    delta = trained - theta
    wanted = _with_residual(delta, plan.update, residual)
    sent = compress(plan, device_id, wanted)
    message = UpdateMessage(
        run=plan.run,
        round=plan.round,
        model_hash_prefix=plan.model.model_hash[:8],
        num_examples=data.train.labels.size,
        training_loss_milli=milli(training.mean_loss),
        validation_correct=validation.correct,
        validation_count=validation.count,
        validation_loss_milli=milli(validation.mean_loss),
        duration_ms=max(0, round(1000 * (clock() - started))),
        payload=codec.encode(sent, shared_coordinates=plan.update.mode == "mask"),
    )
    return message, _left_over(plan.update, delta, wanted, sent)


def compress(plan: RoundPlan, device_id: str, wanted: Int32Vector) -> QuantizedUpdate:
    """What of the change `wanted` (d,) travels under the plan; its dequantised norm is at most the clipping norm."""
    update = plan.update
    if update.mode == "mask":
        coordinates = shared_mask(plan.federation, update.mask_epoch, wanted.size, update.coordinates)
    else:
        coordinates = top_k(wanted, update.coordinates)
    key = _key("quantize", plan, device_id)
    return compression.compress(wanted, coordinates, update.clipping_norm, update.scale_shift, key)


def milli(value: float) -> int:
    """Thousandths, for a message."""
    return min(round(1000 * value), (1 << 32) - 1)


def _with_residual(delta: Int32Vector, update: UpdatePlan, residual: Residual | None) -> Int32Vector:
    if residual is None or residual.mask_epoch != update.mask_epoch:
        return delta
    return delta + residual.vector if residual.vector.size == delta.size else delta


def _left_over(
    update: UpdatePlan, delta: Int32Vector, wanted: Int32Vector, sent: QuantizedUpdate
) -> Residual | None:
    """Capped at RESIDUAL_NORMS clipping norms, or where the plan has none, at as many norms of this round's change."""
    if update.mode != "topk":
        return None
    bound = RESIDUAL_NORMS * (update.clipping_norm or math.isqrt(squared_norm(delta)) + 1)
    return Residual(mask_epoch=update.mask_epoch, vector=feed_back_error(wanted, sent, bound))


def local_training(plan: RoundPlan) -> LocalTraining:
    """What the plan asks of a device."""
    training = plan.training
    return LocalTraining(
        epochs=training.epochs,
        batch_size=training.batch_size,
        learning_rate_q16=training.learning_rate_q16,
        proximal_mu_q16=training.proximal_mu_q16,
    )


def _key(purpose: str, plan: RoundPlan, device_id: str) -> Key:
    """Without the run's id, which is random: the same seed must give the same model hash."""
    return derive_key(purpose, plan.federation, plan.training.seed, plan.round, device_id)
