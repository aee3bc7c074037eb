"""Writes tests/vectors/training_*.json: golden bytes of random bits, training and compression, for Python and C.

`python -m tests.generate_training_vectors` writes, `--check` compares and fails where a byte differs.
Arrays are hexadecimal, little-endian; "blake2b" is BLAKE2b-256 over theta as little-endian int16.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from sanderling.models import compression, network_file
from sanderling.models.deep_tail import Tail, Trained, initial_tail_theta, make_tail, reconstruction
from sanderling.models.network import Network
from sanderling.models.random_bits import below, derive_key, permutation, random_words
from sanderling.models.tail import THETA_LIMIT, DenseHead
from sanderling.models.tail_training import tail_inputs, train_tail
from sanderling.models.training import (
    EXP_COARSE,
    EXP_FINE,
    LocalTraining,
    error_scale,
    exponent_scale,
    proximal_rate_q16,
    train_head,
)
from tests.models import deep_networks

FOLDER = Path(__file__).parent / "vectors"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare with the files instead of writing them")
    check = parser.parse_args().check
    stale = []
    for name, make in FILES.items():
        path, text = FOLDER / name, json.dumps(make(), indent=1) + "\n"
        if not check:
            FOLDER.mkdir(exist_ok=True)
            path.write_text(text)
        elif not path.exists() or path.read_text() != text:
            stale.append(name)
    if stale:
        print(f"differ from what the code gives: {', '.join(stale)}", file=sys.stderr)
    return 1 if stale else 0


def random_bits() -> dict[str, Any]:
    keys = [
        {"purpose": "mask", "parts": ["watch", 3], "key": derive_key("mask", "watch", 3)},
        {"purpose": "round", "parts": ["run", 7, 2, "pi-1"], "key": derive_key("round", "run", 7, 2, "pi-1")},
    ]
    key = derive_key("train", "vectors")
    words = [
        {"stream": stream, "words": random_words(key, 7, stream=stream).tolist()} for stream in (0, 1, 999)
    ]
    orders = [
        {"stream": stream, "count": count, "order": permutation(key, count, stream=stream).tolist()}
        for stream, count in ((0, 1), (0, 17), (5, 100))
    ]
    return {"derive_key": keys, "key": key, "random_words": words, "permutation": orders}


def heads() -> dict[str, Any]:
    cases = [
        head_case("batch 1", 64, 12, 100, LocalTraining(epochs=10, batch_size=1, learning_rate_q16=1311)),
        head_case("batch 16", 64, 12, 100, LocalTraining(epochs=143, batch_size=16, learning_rate_q16=6554)),
        head_case(
            "proximal term, batch not a divisor",
            36,
            7,
            50,
            LocalTraining(epochs=143, batch_size=8, learning_rate_q16=6554, proximal_mu_q16=6554),
        ),
        head_case(
            "saturation", 5, 3, 40, LocalTraining(epochs=25, batch_size=1, learning_rate_q16=1 << 22), 0.0005
        ),
    ]
    tables = {"exp_coarse": EXP_COARSE.tolist(), "exp_fine": EXP_FINE.tolist()}
    return {**tables, "cases": cases}


def head_case(
    name: str, features: int, classes: int, count: int, training: LocalTraining, weight_scale: float = 0.01
) -> dict[str, Any]:
    """A run of 1,000 steps or a few more, with theta after 1, 10, 100 and all epochs."""
    head = DenseHead(
        layer=0,
        features=features,
        classes=classes,
        input_scale=float(np.float32(0.05)),
        input_zero_point=-128 if features % 2 == 0 else 4,
        weight_scale=float(np.float32(weight_scale)),
        bias_input=20,
    )
    drawn, key = derive_key("vectors", name), derive_key("train", name)
    centres = integers(drawn, classes * features, -100, 100, stream=1).reshape(classes, features)
    labels = integers(drawn, count, 0, classes - 1, stream=2)
    noise = integers(drawn, count * features, -40, 40, stream=3).reshape(count, features)
    inputs = np.clip(centres[labels] + noise, -128, 127).astype(np.int8)
    theta = integers(drawn, head.dimension, -2000, 2000, stream=4).astype(np.int32)
    after = {}
    for epochs in sorted({e for e in (1, 10, 100) if e < training.epochs} | {training.epochs}):
        shorter = LocalTraining(
            epochs=epochs,
            batch_size=training.batch_size,
            learning_rate_q16=training.learning_rate_q16,
            proximal_mu_q16=training.proximal_mu_q16,
        )
        trained = train_head(head, theta, inputs, labels, shorter, key)
        after[str(epochs)] = blake2b(trained)
    return {
        "name": name,
        "features": features,
        "classes": classes,
        "input_zero_point": head.input_zero_point,
        "bias_input": head.bias_input,
        "input_scale": head.input_scale,
        "weight_scale": head.weight_scale,
        "epochs": training.epochs,
        "batch_size": training.batch_size,
        "learning_rate_q16": training.learning_rate_q16,
        "proximal_mu_q16": training.proximal_mu_q16,
        "exponent_scale": exponent_scale(head),
        "error_scale": error_scale(head, training),
        "proximal_rate_q16": proximal_rate_q16(training),
        "key": key,
        "steps": training.epochs * -(-count // training.batch_size),
        "inputs_int8": as_hex(inputs, "i1"),
        "labels": labels.tolist(),
        "theta_int16": as_hex(theta, "<i2"),
        "blake2b_after_epochs": after,
        "trained_int16": as_hex(trained, "<i2"),
    }


def tails() -> dict[str, Any]:
    """Runs of 1,000 steps on small networks, which come as files of network_file's form; some last batches are smaller."""
    return {
        "cases": [
            tail_case(
                "separable: two pointwise, depthwise in part, a bias",
                "separable",
                {1: [False, None], 2: [True, None], 3: [True, [0, 3, 7]], 4: [True, None]},
                19,
                LocalTraining(epochs=100, batch_size=2, learning_rate_q16=655, proximal_mu_q16=655),
            ),
            tail_case(
                "residual: two tensors enter",
                "residual",
                {2: [True, None], 3: [True, None]},
                12,
                LocalTraining(epochs=84, batch_size=1, learning_rate_q16=131),
            ),
            tail_case(
                "dense layers, cross-entropy",
                "multilayer",
                {0: [True, None], 1: [True, None]},
                29,
                LocalTraining(epochs=100, batch_size=3, learning_rate_q16=655),
            ),
            tail_case(
                "dense layers, mean squared error",
                "autoencoder",
                {0: [True, None], 1: [False, None], 2: [True, None]},
                20,
                LocalTraining(epochs=100, batch_size=2, learning_rate_q16=3277),
            ),
            tail_case(
                "rates that saturate",
                "multiplied",
                {0: [True, None]},
                10,
                LocalTraining(epochs=100, batch_size=1, learning_rate_q16=1 << 20),
            ),
        ]
    }


def tail_case(
    name: str, network_name: str, trained: dict[int, list[Any]], count: int, training: LocalTraining
) -> dict[str, Any]:
    """`trained` is, by layer, whether its weights are trained and which channels, None for all."""
    network = deep_networks.ALL[network_name]()
    case = {
        "name": name,
        "network": network_file.to_bytes(network).hex(),
        "trained": {str(index): plan for index, plan in trained.items()},
        "loss": "mean squared error of the inputs" if network_name == "autoencoder" else "cross-entropy",
        "examples": count,
        "epochs": training.epochs,
        "batch_size": training.batch_size,
        "learning_rate_q16": training.learning_rate_q16,
        "proximal_mu_q16": training.proximal_mu_q16,
    }
    network, tail, training = tail_of(case)
    drawn = derive_key("vectors", name)
    shape = (count, *network.tensors[network.inputs[0]].shape[1:])
    x = integers(drawn, int(np.prod(shape)), -128, 127, stream=1).reshape(shape).astype(np.int8)
    labels = integers(drawn, count, 0, tail.head.classes - 1, stream=2)
    targets = labels if case["loss"] == "cross-entropy" else x.reshape(count, -1)
    theta = initial_tail_theta(network, tail)
    theta += integers(drawn, tail.dimension, -100, 100, stream=3).astype(np.int32)
    theta = np.clip(theta, -THETA_LIMIT, THETA_LIMIT)
    inputs = tail_inputs(network, tail, x)
    order_key, rounding_key = derive_key("train", name), derive_key("round", name)
    after = {}
    for epochs in (1, 10, training.epochs):
        moved = train_tail(
            network, tail, theta, inputs, targets, replace(training, epochs=epochs), order_key, rounding_key
        )
        after[str(epochs)] = moved
    return case | {
        "layers": [
            {"layer": layer.layer, "kind": layer.kind, "start": layer.start, "bias_start": layer.bias_start,
             "bias_input": layer.bias_input, "bias_base": layer.bias_base}
            for layer in tail.layers
        ],
        "steps": training.epochs * -(-count // training.batch_size),
        "entering": tail.entering,
        "inputs_int8": as_hex(inputs, "i1"),
        "targets": targets.tolist(),
        "order_key": order_key,
        "rounding_key": rounding_key,
        "theta_int16": as_hex(theta, "<i2"),
        "first_epoch_int16": as_hex(after["1"], "<i2"),
        "blake2b_after_epochs": {epochs: blake2b(moved) for epochs, moved in after.items()},
        "trained_int16": as_hex(moved, "<i2"),
    }  # fmt: skip


def tail_of(case: dict[str, Any]) -> tuple[Network, Tail, LocalTraining]:
    """What a case of training_tail.json trains, and how."""
    network = network_file.from_bytes(bytes.fromhex(case["network"]))
    plans = {
        int(index): Trained(weights=weights, channels=None if channels is None else tuple(channels))
        for index, (weights, channels) in case["trained"].items()
    }
    loss = None if case["loss"] == "cross-entropy" else reconstruction(network)
    training = LocalTraining(
        epochs=case["epochs"],
        batch_size=case["batch_size"],
        learning_rate_q16=case["learning_rate_q16"],
        proximal_mu_q16=case["proximal_mu_q16"],
    )
    return network, make_tail(network, plans, loss), training


def compressions() -> dict[str, Any]:
    cases = []
    for name, dimension, count, norm, shift in (
        ("mask, clipped", 40, 10, 3000, 7),
        ("whole, clipped hard", 40, 40, 500, 2),
        ("no bound", 25, 12, 0, 5),
        ("saturated", 12, 12, 0, 0),
    ):
        drawn, key = derive_key("vectors", name), derive_key("quantize", name)
        change = integers(drawn, dimension, -3000, 3000).astype(np.int32)
        mask = compression.shared_mask("vectors", 5, dimension, count)
        clipped = compression.clip(change, norm)
        sent = compression.quantize(clipped, mask, shift, key)
        cases.append(
            {
                "name": name,
                "change": change.tolist(),
                "coordinates": mask.tolist(),
                "clipping_norm": norm,
                "scale_shift": shift,
                "key": key,
                "clipped": clipped.tolist(),
                "values": sent.values.tolist(),
                "left_over_1000": compression.feed_back_error(change, sent, 1000).tolist(),
                "top_5": compression.top_k(change, 5).tolist(),
            }
        )
    return {"mask": {"federation": "vectors", "mask_epoch": 5}, "cases": cases}


def integers(key: tuple[int, int], count: int, low: int, high: int, stream: int = 0) -> np.ndarray:
    """Uniform in low..high."""
    return low + below(random_words(key, count, stream=stream), high - low + 1)


def as_hex(array: np.ndarray, dtype: str) -> str:
    return array.astype(dtype).tobytes().hex()


def blake2b(theta: np.ndarray) -> str:
    return hashlib.blake2b(theta.astype("<i2").tobytes(), digest_size=32).hexdigest()


FILES: dict[str, Callable[[], dict[str, Any]]] = {
    "training_random_bits.json": random_bits,
    "training_head.json": heads,
    "training_compression.json": compressions,
    "training_tail.json": tails,
}

if __name__ == "__main__":
    sys.exit(main())
