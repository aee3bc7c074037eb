"""Makes the zoo's files: trains, prunes, quantises, exports, measures, writes the card. Needs torch."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sanderling.models.cost import cost
from sanderling.models.datasets import TEST, Dataset, load
from sanderling.models.datasets.watch import CLIENTS
from sanderling.models.errors import UsageError
from sanderling.models.exporters.onnx import to_onnx
from sanderling.models.exporters.tflite import to_tflite
from sanderling.models.inference import dequantize, run
from sanderling.models.network import Network, parameter_count
from sanderling.models.package import ModelPackage
from sanderling.models.zoo import watch_cnn
from sanderling.models.zoo.architectures import Architecture, architecture
from sanderling.models.zoo.card import Card
from sanderling.models.zoo.prune import prune
from sanderling.models.zoo.quantize import Folded, calibrate, fold, quantize, to_network
from sanderling.models.zoo.training import Progress, Schedule, Trained, real_inputs, train, train_on

PRUNED = Schedule(epochs=10, learning_rate=1e-3)  # to recover what pruning took
AWARE = Schedule(epochs=3, learning_rate=1e-4)  # to get used to rounding


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How a model is made: seed, share of channels to prune, and whether training learns of the rounding."""

    seed: int = 1
    prune: float = 0.0
    quantization_aware: bool = False


def build(name: str, out: Path, data: Dataset | None, recipe: Recipe, progress: Progress) -> Card:
    """Writes NAME.sanderling, .tflite, .onnx and .json to `out`; the card is what .json holds."""
    design = architecture(name)
    pretrained = name == "watch-cnn" and data is None  # on three people who take no part in federations
    data = data or _own_data(name, design)
    progress(f"training {name} on {data.name}")
    if pretrained:
        trained, test = watch_cnn.train(recipe.seed), data.for_clients(CLIENTS[len(watch_cnn.PEOPLE) :])
    else:
        trained, test = _trained(name, design, data, recipe, progress), data
    folded = _folded(trained, design, recipe, progress)
    network = to_network(folded, name, tuple(trained.inputs.shape[1:]))
    class_names = data.class_names if design.objective == "classes" else ()
    package = ModelPackage(network=network, preprocessing=trained.preprocessing, class_names=class_names)
    files = {
        f"{name}.sanderling": package.to_bytes(),
        f"{name}.tflite": to_tflite(network),
        f"{name}.onnx": to_onnx(network),
    }
    progress("measuring on the test part")
    card: Card = {
        "name": name,
        "description": design.description,
        "data": data.name,
        "data_hash": data.content_hash.hex(),
        **({"people": list(CLIENTS[: len(watch_cnn.PEOPLE)])} if pretrained else {}),
        "input_shape": list(network.tensors[network.inputs[0]].shape),
        "class_names": list(class_names),
        **_measured(folded, trained, package, test.part(TEST)),
        "multiply_accumulates": cost(network).multiply_accumulates,
        "parameters": parameter_count(network),
        "files": {file: len(content) for file, content in files.items()},
        "network_hash": network.content_hash.hex(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "seed": recipe.seed,
        "pruned": recipe.prune,
        "quantization_aware": recipe.quantization_aware,
    }
    out.mkdir(parents=True, exist_ok=True)
    for file, content in files.items():
        (out / file).write_bytes(content)
    (out / f"{name}.json").write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
    return card


def random_network(name: str, seed: int) -> Network:
    """An int8 network of the architecture with the weights it starts with, ranges calibrated on noise.

    It has learned nothing: it serves the comparison of runtimes, and estimates of cost.
    """
    design = architecture(name)
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    module = design.make(design.input_shape, design.classes)
    *size, channels = design.input_shape
    noise = torch.randn(8, channels, *size) + torch.randn(8, channels, *[1] * len(size))
    for part in module.modules():
        if isinstance(part, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d):
            part.momentum = None  # takes the statistics of the noise as they are
    with torch.no_grad():
        module.train()(noise)
    return quantize(module, noise, name)


def _own_data(name: str, design: Architecture) -> Dataset:
    if design.data is None:
        raise UsageError(f"model {name!r}: no package brings its data; give your own, see docs/how-to")
    return load(design.data)


def _trained(name: str, design: Architecture, data: Dataset, recipe: Recipe, progress: Progress) -> Trained:
    shape = data.examples.shape[1:]
    shape = (1, *shape) if len(shape) == 2 else shape
    if len(shape) not in design.ranks:
        raise UsageError(
            f"model {name!r}: expected examples such as {design.input_shape}, data set {data.name!r} has {shape}"
        )
    classes = len(data.class_names)
    return train_on(
        lambda: design.make(shape, classes),
        data,
        design.objective,
        Schedule(epochs=design.epochs),
        recipe.seed,
        progress,
    )


def _folded(trained: Trained, design: Architecture, recipe: Recipe, progress: Progress) -> Folded:
    """The module calibrated, ready to become integers."""
    folded = fold(trained.model, trained.input_scale)

    def train_further(schedule: Schedule) -> None:
        train(folded, trained.inputs, trained.targets, design.objective, schedule, recipe.seed, progress)

    if recipe.prune:
        folded = prune(folded, recipe.prune, channels=trained.inputs.shape[1])
        train_further(PRUNED)
    calibrate(folded, trained.calibration)
    if recipe.quantization_aware:
        folded.fake = True
        train_further(AWARE)
        folded.fake = False
    return folded


def _measured(folded: Folded, trained: Trained, package: ModelPackage, test: Dataset) -> dict[str, Any]:
    """Accuracy on `test`, or an autoencoder's mean squared error, in float arithmetic and in integers."""
    inputs = real_inputs(trained.preprocessing, trained.input_scale, test.examples)
    with torch.no_grad():
        real = folded(inputs).numpy()
    network = package.network
    (integers,) = run(network, package.preprocessing.quantize_input(test.examples))
    output = network.tensors[network.outputs[0]].quantization
    assert output is not None
    outputs = {"fp32": real, "int8": dequantize(integers, output)}
    if package.class_names:
        measure = "accuracy"
        values = {kind: float((y.argmax(1) == test.labels).mean()) for kind, y in outputs.items()}
    else:
        measure = "error"
        expected = inputs.flatten(1).numpy()
        values = {kind: float(((y - expected) ** 2).mean()) for kind, y in outputs.items()}
    clients = [name for i, name in enumerate(test.client_names) if i in test.clients]
    whose = ", ".join(clients) if len(clients) < 8 else f"{len(clients)} clients"
    return {measure: {**values, "examples": len(test), "on": f"test part of {whose}"}}
