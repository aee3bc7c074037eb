"""Makes the zoo's files: trains, quantises, exports, measures, writes the card. Needs torch."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from sanderling.models.cost import cost
from sanderling.models.datasets import TEST, load
from sanderling.models.datasets.watch import CLIENTS
from sanderling.models.exporters.onnx import to_onnx
from sanderling.models.exporters.tflite import to_tflite
from sanderling.models.inference import run
from sanderling.models.zoo import watch_cnn
from sanderling.models.zoo.card import Card


def build_watch_cnn(out: Path, seed: int, progress: Callable[[str], None]) -> Card:
    """Writes watch-cnn.sanderling, .tflite, .onnx and .json to `out`; the card is what .json holds."""
    progress(f"training watch-cnn on people {watch_cnn.PEOPLE}, {watch_cnn.STEPS} steps")
    package, model = watch_cnn.build(seed)
    network = package.network
    files = {
        "watch-cnn.sanderling": package.to_bytes(),
        "watch-cnn.tflite": to_tflite(network),
        "watch-cnn.onnx": to_onnx(network),
    }
    progress("measuring on the seven other people")
    data = load("watch")
    test = data.for_clients(CLIENTS[len(watch_cnn.PEOPLE) :]).part(TEST)
    with torch.no_grad():
        real = model(watch_cnn.normalised(test.examples, package.preprocessing)).numpy()
    (integers,) = run(network, package.preprocessing.quantize_input(test.examples))
    card: Card = {
        "name": network.name,
        "description": "separable convolutions over 2 s of a wrist's motion, seven shoulder exercises",
        "data": data.name,
        "data_hash": data.content_hash.hex(),
        "people": [CLIENTS[person - 1] for person in watch_cnn.PEOPLE],
        "input_shape": list(network.tensors[network.inputs[0]].shape),
        "class_names": list(package.class_names),
        "features": watch_cnn.FEATURES,
        "accuracy": {
            "fp32": float((real.argmax(1) == test.labels).mean()),
            "int8": float((integers.argmax(1) == test.labels).mean()),
            "on": "on the last 20 % of the recordings of people who took no part in training",
        },
        "multiply_accumulates": cost(network).multiply_accumulates,
        "parameters": int(sum(tensor.data.size for tensor in network.tensors if tensor.data is not None)),
        "files": {name: len(data) for name, data in files.items()},
        "network_hash": network.content_hash.hex(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "seed": seed,
    }
    out.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (out / name).write_bytes(content)
    (out / "watch-cnn.json").write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
    return card
