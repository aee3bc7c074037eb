"""How long is a training step of a 64x12 head on cached features, against torch, and a whole local round? JSON.

All in one process, on one thread, taken in turns; the least of the repetitions counts, since all else is other work of
the machine. torch does forward, cross-entropy, backward and SGD, as a module with an optimiser and as bare functions;
ONNX Runtime does the head's forward pass alone. The round is watch-cnn's: 256 windows through the frozen layers, 10
epochs of training on their features, the evaluation, and the update.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper

from sanderling.models import inference, zoo
from sanderling.models.batched import train_heads
from sanderling.models.compression import clip, quantize, shared_mask
from sanderling.models.random_bits import permutations
from sanderling.models.tail import DenseHead, dense_head, initial_theta
from sanderling.models.training import (
    LocalTraining,
    as_matrix,
    as_vector,
    evaluate_head,
    head_inputs,
    head_step,
    one_hot,
    train_head,
)

FEATURES, CLASSES, EXAMPLES, EPOCHS, CLIENTS = 64, 12, 256, 10, 64
HEAD = DenseHead(
    layer=0,
    features=FEATURES,
    classes=CLASSES,
    input_scale=float(np.float32(0.05)),
    input_zero_point=-128,
    weight_scale=float(np.float32(0.01)),
    bias_input=20,
)
KEY = (1, 2)
Work = Callable[[], Any]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repetitions", type=int, default=15)
    repetitions = parser.parse_args().repetitions
    torch.set_num_threads(1)
    rng = np.random.default_rng(1)
    features = rng.integers(-128, 128, (EXAMPLES, FEATURES)).astype(np.int8)
    labels = rng.integers(0, CLASSES, EXAMPLES)
    steps = [step_times(features, labels, size, repetitions) for size in (1, 16)]
    print(
        json.dumps(
            {
                "unit": "microseconds a step, the least of the repetitions",
                "threads": 1,
                "head": f"{FEATURES}x{CLASSES}",
                "steps": steps,
                "round": round_times(rng, repetitions),
                "versions": {
                    "python": platform.python_version(),
                    "numpy": np.__version__,
                    "torch": torch.__version__,
                    "onnxruntime": onnxruntime.__version__,
                },
            },
            indent=1,
        )
    )


def least(works: dict[str, Work], repetitions: int) -> dict[str, float]:
    """Seconds of each, taken in turns."""
    times = {name: float("inf") for name in works}
    for _ in range(repetitions):
        for name, work in works.items():
            started = time.perf_counter()
            work()
            times[name] = min(times[name], time.perf_counter() - started)
    return times


# A step


def step_times(features: np.ndarray, labels: np.ndarray, size: int, repetitions: int) -> dict[str, Any]:
    training = LocalTraining(epochs=1, batch_size=size, learning_rate_q16=3277)
    count = EXAMPLES // size
    clients = np.zeros((CLIENTS, HEAD.dimension), np.int32)
    works = {
        "sanderling": lambda: train_head(HEAD, clients[0], features, labels, training, KEY),
        "torch module": torch_module(features, labels, size),
        "torch functions": torch_functions(features, labels, size),
        "onnxruntime forward alone": onnx_forward(features, size),
        "sanderling, 64 clients at once": lambda: train_heads(
            HEAD, clients, [features] * CLIENTS, [labels] * CLIENTS, training, [KEY] * CLIENTS
        ),
    }
    times = {name: 1e6 * seconds / count for name, seconds in least(works, repetitions).items()}
    times["sanderling, 64 clients at once"] /= CLIENTS
    fastest = min(times["torch module"], times["torch functions"])
    return {
        "batch_size": size,
        "us": {name: round(value, 2) for name, value in times.items()},
        "torch / sanderling": round(fastest / times["sanderling"], 2),
    }


def torch_module(features: np.ndarray, labels: np.ndarray, size: int) -> Work:
    x, y = torch.tensor(features, dtype=torch.float32) * 0.05, torch.tensor(labels)
    head = torch.nn.Linear(FEATURES, CLASSES)
    optimizer, loss = torch.optim.SGD(head.parameters(), 0.05), torch.nn.CrossEntropyLoss()

    def work() -> None:
        order = torch.randperm(EXAMPLES)
        epoch_x, epoch_y = x[order], y[order]
        for first in range(0, EXAMPLES, size):
            optimizer.zero_grad()
            loss(head(epoch_x[first : first + size]), epoch_y[first : first + size]).backward()
            optimizer.step()

    return work


def torch_functions(features: np.ndarray, labels: np.ndarray, size: int) -> Work:
    x, y = torch.tensor(features, dtype=torch.float32) * 0.05, torch.tensor(labels)
    weights = torch.zeros(CLASSES, FEATURES, requires_grad=True)
    biases = torch.zeros(CLASSES, requires_grad=True)

    def work() -> None:
        order = torch.randperm(EXAMPLES)
        epoch_x, epoch_y = x[order], y[order]
        for first in range(0, EXAMPLES, size):
            logits = torch.nn.functional.linear(epoch_x[first : first + size], weights, biases)
            loss = torch.nn.functional.cross_entropy(logits, epoch_y[first : first + size])
            gradients = torch.autograd.grad(loss, (weights, biases))
            with torch.no_grad():
                weights.sub_(gradients[0], alpha=0.05)
                biases.sub_(gradients[1], alpha=0.05)

    return work


def onnx_forward(features: np.ndarray, size: int) -> Work:
    weights = onnx.numpy_helper.from_array(np.zeros((CLASSES, FEATURES), np.float32), "w")
    biases = onnx.numpy_helper.from_array(np.zeros(CLASSES, np.float32), "b")
    graph = helper.make_graph(
        [helper.make_node("Gemm", ["x", "w", "b"], ["y"], transB=1)],
        "head",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (size, FEATURES))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (size, CLASSES))],
        [weights, biases],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    x = features.astype(np.float32) * 0.05

    def work() -> None:
        for first in range(0, EXAMPLES, size):
            session.run(None, {"x": x[first : first + size]})

    return work


# A round


def round_times(rng: np.random.Generator, repetitions: int) -> dict[str, Any]:
    """Seconds of each part of a device's round on watch-cnn, and their shares."""
    network = zoo.load("watch-cnn").network
    head = dense_head(network)
    windows = rng.integers(-128, 128, (EXAMPLES, *network.tensors[0].shape[1:])).astype(np.int8)
    labels = rng.integers(0, head.classes, EXAMPLES)
    theta = initial_theta(network, head)
    features = inference.features(network, windows, head.layer)
    training = LocalTraining(epochs=EPOCHS, batch_size=16, learning_rate_q16=3277)
    trained = train_head(head, theta, features, labels, training, KEY)
    mask = shared_mask("benchmark", 0, head.dimension, head.dimension // 10)
    parts = least(
        {
            "frozen layers, once": lambda: inference.features(network, windows, head.layer),
            "order of the examples": lambda: permutations(KEY, EXAMPLES, EPOCHS),
            "forms": lambda: forms(head, theta, features, labels, training),
            "steps": lambda: steps_alone(head, theta, features, labels, training),
            "evaluation": lambda: evaluate_head(head, trained, features, labels),
            "mask, clip, quantise": lambda: update(head, trained - theta, mask),
        },
        max(3, repetitions // 3),
    )
    whole = least({"whole": lambda: train_head(head, theta, features, labels, training, KEY)}, repetitions)[
        "whole"
    ]
    total = sum(parts.values())
    return {
        "windows": EXAMPLES,
        "epochs": EPOCHS,
        "batch_size": 16,
        "seconds": round(total, 5),
        "training_alone_s": round(whole, 5),
        "parts_s": {name: round(value, 6) for name, value in parts.items()},
        "shares": {name: round(value / total, 3) for name, value in parts.items()},
    }


def forms(head, theta, features, labels, training) -> None:
    head_step(head, training)
    head_inputs(head, features)
    one_hot(labels, head.classes)
    as_vector(head, as_matrix(head, theta))


def steps_alone(head, theta, features, labels, training) -> None:
    step = head_step(head, training)
    inputs, targets = head_inputs(head, features), one_hot(labels, head.classes)
    start = shadow = as_matrix(head, theta)
    for _ in range(training.epochs):
        for first in range(0, EXAMPLES, training.batch_size):
            batch = slice(first, first + training.batch_size)
            shadow = step(shadow, start, inputs[batch], targets[batch])


def update(head, change, mask) -> None:
    shared_mask("benchmark", 0, head.dimension, mask.size)
    quantize(clip(change, 4000), mask, 6, KEY)


if __name__ == "__main__":
    main()
