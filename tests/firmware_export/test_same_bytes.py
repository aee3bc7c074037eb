"""C here, C on each emulated board, and NumPy: the same bytes of inference, of training, and of encoded updates."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from sanderling.broker.messages import ModelReference, RoundPlan, TrainingPlan, UpdatePlan
from sanderling.edge_runtime.trainer import Examples, LocalData, train
from sanderling.firmware_export import cmsis_nn, toolchain
from sanderling.firmware_export.flashed import flashed_files
from sanderling.firmware_export.targets import EMULATED, FOLDER, Target, target
from sanderling.models import inference, zoo
from sanderling.models.cost import cost
from sanderling.models.network import Network
from sanderling.models.package import ModelPackage
from sanderling.models.preprocessing import Preprocessing
from sanderling.models.random_bits import below, derive_key, random_words
from sanderling.models.tail import dense_head
from sanderling.models.training import LocalTraining, train_head
from tests.firmware_export.tools import need

pytestmark = [pytest.mark.qemu, pytest.mark.slow]

SELFTEST = FOLDER / "apps" / "selftest"
EXAMPLES, BATCH, RATE_Q16, MU_Q16 = 64, 16, 3277, 655  # as in its main.c
STEPS_AN_EPOCH = EXAMPLES // BATCH
MILLION = 1_000_000
INFERENCE_BUDGET, TRAINING_BUDGET = 100 * MILLION, 40 * MILLION  # multiply-accumulates in QEMU


@cache
def package(name: str) -> ModelPackage:
    """A shipped model, or an untrained one of the architecture."""
    if name in zoo.shipped():
        return zoo.package(name)
    pytest.importorskip("torch")
    network = zoo.random_network(name, seed=1)
    quantization = network.tensors[network.inputs[0]].quantization
    assert quantization is not None
    return ModelPackage(
        network=network, preprocessing=Preprocessing.of_input(quantization, 1), class_names=()
    )


def inputs_for(name: str, here: bool) -> int:
    """1,000 inputs; in QEMU as many as the budget allows, at least 3."""
    affordable = INFERENCE_BUDGET // cost(package(name).network).multiply_accumulates
    return 1000 if here else min(1000, max(3, affordable))


def epochs_for(name: str, here: bool) -> int:
    """1,000 steps; in QEMU as many as the budget allows, at least an epoch."""
    affordable = TRAINING_BUDGET // (2 * BATCH * dense_head(package(name).network).dimension)
    return (1000 if here else min(1000, max(STEPS_AN_EPOCH, affordable))) // STEPS_AN_EPOCH


@pytest.fixture(scope="session", params=[target("host"), *EMULATED], ids=lambda board: board.name)
def selftests(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple:
    """(target, programs by model) with the tables of every model."""
    board: Target = request.param
    need("cmake", "ninja", *([] if board.core is None else ["arm-none-eabi-gcc", "qemu-system-arm"]))
    folder = tmp_path_factory.mktemp(f"selftest-{board.name}")
    networks = [written(flashed_files(package(name)), folder / name) for name in zoo.NAMES]
    programs = toolchain.build(
        board,
        folder / "build",
        networks=networks,
        applications=[SELFTEST],
        settings={"SANDERLING_OPTIMIZE": "speed"},
    )
    return board, {name: programs[f"selftest-{name}"] for name in zoo.NAMES}


def written(texts: Mapping[str, str], folder: Path) -> Path:
    folder.mkdir()
    for file, text in texts.items():
        (folder / file).write_text(text)
    return folder


@pytest.mark.parametrize("name", zoo.NAMES)
def test_c_gives_the_bytes_of_the_reference(selftests: tuple, name: str) -> None:
    board, programs = selftests
    here = board.core is None
    inputs, epochs = inputs_for(name, here), epochs_for(name, here)
    ended = toolchain.run(programs[name], board, arguments=[f"inputs={inputs}", f"epochs={epochs}"])
    assert (ended.status, ended.errors) == (0, ""), ended.log
    assert ended.log.split("\n") == [
        f"inference {inputs} {inference_hash(name, inputs)}",
        f"training {epochs} {training_hash(name, epochs)}",
        f"update mask {update_hash(name, epochs, 'mask')}",
        f"update topk {update_hash(name, epochs, 'topk')}",
        "",
    ]


@pytest.fixture(
    scope="session", params=["cortex-m0plus", "cortex-m4f", "cortex-m55"], ids=lambda core: f"cmsis-nn-{core}"
)
def with_cmsis_nn(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple:
    """(target, programs by model) whose products and pools are CMSIS-NN's."""
    need("cmake", "ninja", "arm-none-eabi-gcc", "qemu-system-arm")
    core = request.param
    board = {
        "cortex-m0plus": replace(target("mps2-an385"), core=core),  # whose code a Cortex-M3 executes
        "cortex-m4f": target("mps2-an386"),
        "cortex-m55": target("mps3-an547"),
    }[core]
    folder = tmp_path_factory.mktemp(f"cmsis-{core}")
    networks = []
    for name in zoo.NAMES:
        lowered = cmsis_nn.lower(package(name).network, helium=core == "cortex-m55")
        texts = flashed_files(package(name), lowered=lowered, includes=cmsis_nn.INCLUDES)
        networks.append(written(texts, folder / name))
    settings = {"SANDERLING_OPTIMIZE": "speed", "SANDERLING_CMSIS_NN": str(cmsis_nn.folder())}
    programs = toolchain.build(
        board, folder / "build", networks=networks, applications=[SELFTEST], settings=settings
    )
    return board, {name: programs[f"selftest-{name}"] for name in zoo.NAMES}


@pytest.mark.parametrize("name", zoo.NAMES)
def test_cmsis_nn_gives_the_bytes_of_the_reference(with_cmsis_nn: tuple, name: str) -> None:
    board, programs = with_cmsis_nn
    inputs = inputs_for(name, here=False)
    ended = toolchain.run(programs[name], board, arguments=[f"inputs={inputs}", "epochs=0"])
    assert (ended.status, ended.errors) == (0, ""), ended.log
    assert ended.log == f"inference {inputs} {inference_hash(name, inputs)}\n"


def drawn(purpose: str, stream: int, count: int) -> np.ndarray:
    words = random_words(derive_key(purpose), -(-count // 4), stream=stream)
    return words.astype("<u4").view(np.int8)[:count]


@cache
def inference_hash(name: str, inputs: int) -> str:
    network: Network = package(name).network
    shape = network.tensors[network.inputs[0]].shape
    size = int(np.prod(shape))
    x = np.stack([drawn("self-test inputs", i, size) for i in range(inputs)]).reshape(inputs, *shape[1:])
    return hashlib.blake2b(inference.run(network, x)[0].tobytes(), digest_size=32).hexdigest()


@cache
def trained(name: str, epochs: int) -> tuple:
    """(head, theta after training, examples)."""
    network = package(name).network
    head = dense_head(network)
    rows = drawn("self-test rows", 0, EXAMPLES * head.features).reshape(EXAMPLES, -1)
    labels = below(random_words(derive_key("self-test labels"), EXAMPLES), head.classes)
    training = LocalTraining(
        epochs=epochs, batch_size=BATCH, learning_rate_q16=RATE_Q16, proximal_mu_q16=MU_Q16
    )
    words = random_words(derive_key("self-test start"), head.dimension)
    start = 64 * words.astype(np.uint8).astype(np.int8).astype(np.int32)
    theta = train_head(head, start, rows, labels, training, derive_key("self-test order"))
    assert not np.array_equal(theta, start)
    return head, theta, Examples(features=rows, labels=labels)


def training_hash(name: str, epochs: int) -> str:
    _, theta, _ = trained(name, epochs)
    return hashlib.blake2b(theta.astype("<i2").tobytes(), digest_size=32).hexdigest()


def update_hash(name: str, epochs: int, mode: str) -> str:
    head, theta, examples = trained(name, epochs)
    quarter = Examples(features=examples.features[: EXAMPLES // 4], labels=examples.labels[: EXAMPLES // 4])
    plan = plan_of(head.dimension, mode)
    data = LocalData(train=examples, validation=quarter, test=quarter)
    message, _ = train(plan, "board", head, theta, data, None, lambda: 0.0)
    return hashlib.blake2b(message.payload, digest_size=32).hexdigest()


def plan_of(dimension: int, mode: str) -> RoundPlan:
    """The round of the application's update(). Only what decides a byte matters."""
    return RoundPlan(
        federation="self-test",
        run="run",
        round=3,
        phase="round",
        cohort=("board",),
        deadline_unix_s=None,
        arithmetic="exact",
        model=ModelReference(
            version=1, model_hash=bytes(32), body_bytes=0, network_hash=bytes(32), network_bytes=0
        ),
        training=TrainingPlan(
            epochs=1, batch_size=BATCH, learning_rate_q16=RATE_Q16, proximal_mu_q16=0, seed=7
        ),
        update=UpdatePlan(
            mode=mode,
            coordinates=(dimension + 3) // 4,
            mask_epoch=2,
            clipping_norm=4000,
            scale_shift=3,
        ),
        evaluate=(),
    )
