"""From federation.toml to what the coordinator takes: its settings, and the model a run begins with."""

from __future__ import annotations

from dataclasses import dataclass

from sanderling.broker.messages import TrainingPlan
from sanderling.config import FederationConfig
from sanderling.coordinator import server_optimizers
from sanderling.coordinator.settings import (
    CoordinatorSettings,
    RoundSettings,
    SelectionSettings,
    UpdateSettings,
)
from sanderling.models import zoo
from sanderling.models.package import ModelPackage
from sanderling.models.tail import dense_head, initial_theta
from sanderling.models.training import LocalTraining
from sanderling.models.updates import GlobalModel


@dataclass(frozen=True, slots=True, kw_only=True)
class StartingPoint:
    """What a run begins with: the package that devices load, and version 0 of the model in it."""

    package: ModelPackage
    package_bytes: bytes
    model: GlobalModel


def coordinator_settings(config: FederationConfig) -> CoordinatorSettings:
    """What the coordinator is told to do."""
    aggregation, local = config.aggregation, local_training(config)
    optimizer = (
        server_optimizers.fedavgm(aggregation.learning_rate, aggregation.momentum)
        if aggregation.optimizer == "fedavgm"
        else server_optimizers.fedavg(aggregation.learning_rate)
    )
    return CoordinatorSettings(
        federation=config.federation.name,
        devices=tuple(sorted(config.federation.devices)),
        arithmetic=config.training.arithmetic,
        rounds=RoundSettings(
            mode=config.round.mode,
            count=config.round.count,
            deadline_s=config.round.deadline_s,
            quorum=config.round.quorum,
            patience=config.round.patience,
        ),
        selection=SelectionSettings(
            cohort=config.selection.cohort,
            expected_dropout=config.selection.expected_dropout,
            minimum=config.selection.minimum,
        ),
        training=TrainingPlan(
            epochs=local.epochs,
            batch_size=local.batch_size,
            learning_rate_q16=local.learning_rate_q16,
            proximal_mu_q16=local.proximal_mu_q16,
            seed=config.federation.seed,
        ),
        update=UpdateSettings(
            mode=config.update.mode,
            density=config.update.density,
            mask_rounds=config.update.mask_rounds,
            scale_shift=config.update.scale_shift,
            clipping_norm=config.update.clipping_norm,
        ),
        optimizer=optimizer,
        max_examples=aggregation.max_examples,
        adaptive=config.publish.adaptive,
    )


def local_training(config: FederationConfig) -> LocalTraining:
    """What a device is asked to train in a round."""
    training = config.training
    return LocalTraining(
        epochs=training.epochs,
        batch_size=training.batch_size,
        learning_rate_q16=round(training.learning_rate * 65536),
        proximal_mu_q16=round(training.proximal_mu * 65536),
    )


def starting_point(config: FederationConfig) -> StartingPoint:
    """The model of `config.model`, as devices will load it. UsageError when it is none that can learn."""
    package = zoo.package(config.model.source)
    head = dense_head(package.network)
    model = GlobalModel(
        version=0, backbone_hash=package.network.content_hash, theta=initial_theta(package.network, head)
    )
    return StartingPoint(package=package, package_bytes=package.to_bytes(), model=model)
