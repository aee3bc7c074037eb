"""A small network, its package, data that it can learn, and plans about it."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from sanderling.broker.messages import ModelBody, ModelReference, RoundPlan, TrainingPlan, UpdatePlan
from sanderling.models.network import (
    Conv2D,
    FullyConnected,
    Layer,
    Mean,
    Network,
    Quantization,
    Tensor,
)
from sanderling.models.package import ModelPackage
from sanderling.models.preprocessing import Preprocessing
from sanderling.models.tail import dense_head, initial_theta
from sanderling.models.updates import GlobalModel

TIME, CHANNELS, FEATURES, CLASSES = 20, 3, 16, 4


def per_tensor(scale: float, zero_point: int = 0) -> Quantization:
    return Quantization(scales=(float(np.float32(scale)),), zero_points=(zero_point,))


def small_network(seed: int = 1, classes: int = CLASSES) -> Network:
    """100 x 3 windows, one convolution, mean over time, a dense head."""
    rng = np.random.default_rng(seed)
    filters = rng.integers(-127, 128, (FEATURES, 1, 5, CHANNELS)).astype(np.int8)
    weights = rng.integers(-20, 21, (classes, FEATURES)).astype(np.int8)
    steps = TIME // 2 - 2
    tensors = (
        Tensor(name="window", shape=(1, 1, TIME, CHANNELS), dtype="int8", quantization=per_tensor(0.03, 2)),
        Tensor(
            name="filters", shape=filters.shape, dtype="int8", quantization=per_tensor(0.004), data=filters
        ),
        Tensor(
            name="filters/bias",
            shape=(FEATURES,),
            dtype="int32",
            quantization=per_tensor(0.03 * 0.004),
            data=rng.integers(-900, 900, FEATURES).astype(np.int32),
        ),
        Tensor(
            name="signal", shape=(1, 1, steps, FEATURES), dtype="int8", quantization=per_tensor(0.02, -128)
        ),
        Tensor(name="features", shape=(1, FEATURES), dtype="int8", quantization=per_tensor(0.012, -128)),
        Tensor(name="head", shape=weights.shape, dtype="int8", quantization=per_tensor(0.02), data=weights),
        Tensor(name="logits", shape=(1, classes), dtype="int8", quantization=per_tensor(0.1)),
    )
    conv = Conv2D(stride=(1, 2), padding=(0, 0, 0, 0), activation="relu")
    return Network(
        name="small",
        tensors=tensors,
        layers=(
            Layer(name="conv", operator=conv, inputs=(0, 1, 2), outputs=(3,)),
            Layer(name="mean", operator=Mean(axes=(1, 2), keep_dims=False), inputs=(3,), outputs=(4,)),
            Layer(name="head", operator=FullyConnected(), inputs=(4, 5), outputs=(6,)),
        ),
        inputs=(0,),
        outputs=(6,),
    )


def package_of(network: Network) -> ModelPackage:
    classes = dense_head(network).classes
    return ModelPackage(
        network=network,
        preprocessing=Preprocessing.of_input(per_tensor(0.03, 2), CHANNELS),
        class_names=tuple(f"class {number}" for number in range(classes)),
    )


def first_model(network: Network, version: int = 0) -> GlobalModel:
    theta = initial_theta(network, dense_head(network))
    return GlobalModel(version=version, backbone_hash=network.content_hash, theta=theta)


def next_model(model: GlobalModel) -> GlobalModel:
    """Another model, one version on."""
    return replace(model, version=model.version + 1, theta=np.clip(model.theta + 256, -32512, 32512))


def reference_to(model: GlobalModel, package_bytes: int = 0) -> ModelReference:
    return ModelReference(
        version=model.version,
        model_hash=model.model_hash,
        body_bytes=len(ModelBody.of(model).encode()),
        network_hash=model.backbone_hash,
        network_bytes=package_bytes,
    )


def plan_for(model: GlobalModel, **changes: object) -> RoundPlan:
    """Round 1 of run `run-a` of federation `bench`, for device `dev-1`."""
    plan = RoundPlan(
        federation="bench",
        run="run-a",
        round=1,
        phase="round",
        cohort=("dev-1",),
        deadline_unix_s=None,
        arithmetic="exact",
        model=reference_to(model),
        training=TrainingPlan(epochs=3, batch_size=8, learning_rate_q16=6554, proximal_mu_q16=0, seed=7),
        update=UpdatePlan(mode="mask", coordinates=30, mask_epoch=0, clipping_norm=0, scale_shift=5),
        evaluate=(),
    )
    return replace(plan, **changes)  # type: ignore[arg-type]


def windows(count: int, seed: int, classes: int = CLASSES) -> tuple[np.ndarray, np.ndarray]:
    """Windows whose class is the frequency they swing at."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, count)
    phase = rng.uniform(0, 6.28, (count, 1, 1)) + np.arange(CHANNELS) * 2.1
    swing = np.sin(np.arange(TIME)[None, :, None] * (0.3 + 0.5 * labels[:, None, None]) + phase)
    return (swing + 0.2 * rng.standard_normal(swing.shape)).astype(np.float32), labels


def write_data(path: Path, clients: tuple[str, ...] = ("dev-1", "dev-2"), each: int = 60) -> Path:
    """An NPZ file with as many windows for each client: of ten, six to train, two to validate, two to test."""
    parts = [windows(each, seed) for seed in range(len(clients))]
    np.savez(
        path,
        examples=np.concatenate([examples for examples, _ in parts]),
        label=np.concatenate([labels for _, labels in parts]),
        client=np.repeat(clients, each),
        split=np.resize([0, 0, 1, 0, 0, 2, 0, 1, 0, 2], each * len(clients)),
    )
    return path


@pytest.fixture(autouse=True)
def no_native_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests do not depend on what is built on the machine; those of the native backend name their library."""
    monkeypatch.setenv("SANDERLING_NATIVE", "")


@pytest.fixture(scope="session")
def network() -> Network:
    return small_network()


@pytest.fixture(scope="session")
def package(network: Network) -> ModelPackage:
    return package_of(network)


@pytest.fixture(scope="session")
def model(network: Network) -> GlobalModel:
    return first_model(network)


@pytest.fixture(scope="session")
def plan(model: GlobalModel) -> RoundPlan:
    return plan_for(model)


@pytest.fixture(scope="session")
def make() -> ModuleType:
    """This module's functions, for tests that need another one of something."""
    return sys.modules[__name__]
