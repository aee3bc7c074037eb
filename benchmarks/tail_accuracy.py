"""Is integer training of the last layers as good as fp32, and what do other roundings lose? JSON, seeds with intervals.

Each task pre-trains a network in fp32, quantises it, and adapts it on examples it has not seen the like of:

    watch     watch-cnn of the zoo, pre-trained on three people, adapted to each of seven others (mean over them)
    digits    pre-trained on upright digits, adapted to digits rotated by 90 degrees
    fashion   pre-trained on five kinds of clothes, adapted to ten

Settings: a device alone on its 256 examples, in batches of 16 or one at a time, with the head for longer too; and a
federation, FedAvg over the seven people, or over eight devices that share those 256 examples out.

Methods train the same examples in the same order: the head, the deepest tail that takes at most 64 KB of SRAM with its
cached examples, and all layers; in integers, and in fp32 from the same int8 network; and the fp32 network itself in all
layers (full fine-tune).

Rows "int8 ..." hold every trained weight in int8 and round each step by another rule. Every method takes the learning rate
at which it does best on validation examples, over all seeds; "at_fp32_rate" is the same method at the rate that suits fp32,
as a rate carried over would do. Figures are of test examples.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any
from unittest import mock

import numpy as np
import torch
from float_tail import FloatTail
from intervals import half_width_95
from torch import nn

from sanderling.models import tail_moves
from sanderling.models.datasets import TEST, TRAIN, VALIDATION, Dataset, load
from sanderling.models.deep_tail import STEP, Tail, initial_tail_theta, last_layers, weighted_layers
from sanderling.models.network import Network
from sanderling.models.random_bits import derive_key, permutations
from sanderling.models.tail import THETA_LIMIT
from sanderling.models.tail_choice import TrainingMemory, training_memory
from sanderling.models.tail_training import evaluate_tail, tail_inputs, train_tails
from sanderling.models.training import LocalTraining, round_half_up
from sanderling.models.zoo import watch_cnn
from sanderling.models.zoo.quantize import fold, quantize
from sanderling.models.zoo.training import Schedule, Trained, real_inputs, train_on

SRAM_BYTES = 64 << 10
EXAMPLES, DEVICES = 256, 8
UNSCALED_RATES = (100.0, 1000.0, 10000.0, 30000.0)
ALL_LAYERS_RATES = (0.02, 0.05, 0.1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """How often and in what portions examples are gone through, and the rates that are tried."""

    rounds: int = 1
    epochs: int  # of a round
    batch_size: int
    rates: tuple[float, ...]

    def training(self, rate: float) -> LocalTraining:
        return LocalTraining(
            epochs=self.epochs, batch_size=self.batch_size, learning_rate_q16=round(rate * 65536)
        )


SETTINGS = {
    "batch 16": Setting(epochs=20, batch_size=16, rates=(0.02, 0.05, 0.1, 0.2, 0.5)),
    "batch 1": Setting(epochs=5, batch_size=1, rates=(0.005, 0.01, 0.02, 0.05)),
    "batch 1 for long": Setting(epochs=20, batch_size=1, rates=(0.005, 0.01, 0.02, 0.05)),
    "federated": Setting(rounds=20, epochs=3, batch_size=16, rates=(0.02, 0.05, 0.1, 0.2, 0.5)),
}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Part:
    """Examples as int8 network inputs, as what the fp32 network takes, and labels."""

    inputs: np.ndarray
    real: torch.Tensor
    labels: np.ndarray

    def every(self, step: int, first: int) -> Part:
        rows = slice(first, None, step)
        return Part(inputs=self.inputs[rows], real=self.real[rows], labels=self.labels[rows])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Client:
    train: Part
    validation: Part
    test: Part


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Task:
    """A network to adapt, and the clients whose data it is adapted to, each from the same start."""

    network: Network
    model: nn.Module  # the fp32 network, folded
    clients: list[Client]

    def devices(self) -> list[Part]:
        """What each device of the federation trains on: a client's examples, or the one client's shared out."""
        parts = [client.train for client in self.clients]
        return parts if len(parts) > 1 else [parts[0].every(DEVICES, first) for first in range(DEVICES)]


# Tasks


def watch(seed: int) -> Task:
    trained, data = watch_cnn.train(seed), load("watch")
    clients = []
    for name in data.client_names[len(watch_cnn.PEOPLE) :]:
        parts = [data.for_client(name).part(split) for split in (TRAIN, VALIDATION, TEST)]
        clients.append(_client(trained, parts))
    return _task("watch-cnn", trained, clients)


def digits(seed: int) -> Task:
    data = load("digits", partition="iid", clients=1, seed=seed)
    order = np.random.default_rng(seed).permutation(len(data))
    upright, rotated = _rows(data, order[:900]), np.rot90(data.examples, axes=(1, 2)).copy()
    parts = np.split(order[900:], [EXAMPLES, EXAMPLES + 200])
    return _images(
        seed, upright, replace(data, examples=rotated), parts, 60, (16, 1), (24, 2), (32, 2), (48, 1)
    )


def fashion(seed: int) -> Task:
    data = load("fashion_mnist", partition="iid", clients=1, seed=0)
    rng = np.random.default_rng(seed)
    ours, test = (rng.permutation(np.flatnonzero((data.split == TEST) == tested)) for tested in (False, True))
    before, after = np.split(ours, [12000, 12000 + EXAMPLES])[:2]
    five = _rows(data, before[data.labels[before] < 5])
    parts = [after, ours[-1000:], test[:4000]]
    return _images(seed, five, data, parts, 8, (16, 2), (24, 2), (32, 2), (48, 2))


TASKS: dict[str, Callable[[int], Task]] = {"watch": watch, "digits": digits, "fashion": fashion}


def _images(seed: int, before: Dataset, after: Dataset, parts: list, epochs: int, *blocks) -> Task:
    """Pre-trained on `before`; the one client's parts are rows of `after`."""
    schedule = Schedule(epochs=epochs, learning_rate=5e-3)
    trained = train_on(
        lambda: separable(*blocks, classes=10), before, "classes", schedule, seed, lambda _: None
    )
    return _task("separable", trained, [_client(trained, [_rows(after, rows) for rows in parts])])


def separable(*blocks: tuple[int, int], classes: int) -> nn.Sequential:
    """A 3x3 convolution, then a depthwise and a pointwise one a block of (channels, stride); the mean; a dense layer."""
    (channels, stride), *rest = blocks
    layers = _convolution(1, channels, stride, 1)
    for wider, stride in rest:
        layers += _convolution(channels, channels, stride, channels)
        layers += [nn.Conv2d(channels, wider, 1, bias=False), nn.BatchNorm2d(wider), nn.ReLU()]
        channels = wider
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))


def _convolution(inputs: int, outputs: int, stride: int, groups: int) -> list[nn.Module]:
    around = (1, 1, 1, 1) if stride == 1 else (0, 1, 0, 1)
    convolution = nn.Conv2d(inputs, outputs, 3, stride, groups=groups, bias=False)
    return [nn.ZeroPad2d(around), convolution, nn.BatchNorm2d(outputs), nn.ReLU()]


def _task(name: str, trained: Trained, clients: list[Client]) -> Task:
    network = quantize(trained.model, trained.calibration, name, trained.input_scale)
    return Task(network=network, model=fold(trained.model, trained.input_scale), clients=clients)


def _client(trained: Trained, parts: list[Dataset]) -> Client:
    """At most EXAMPLES to train on, evenly spread: a store that keeps some of the whole recording."""
    train, validation, test = parts
    kept = np.linspace(0, len(train) - 1, min(len(train), EXAMPLES)).round().astype(int)
    made = [_part(trained, part) for part in (_rows(train, kept), validation, test)]
    return Client(train=made[0], validation=made[1], test=made[2])


def _part(trained: Trained, data: Dataset) -> Part:
    return Part(
        inputs=trained.preprocessing.quantize_input(data.examples),
        real=real_inputs(trained.preprocessing, trained.input_scale, data.examples),
        labels=data.labels,
    )


def _rows(data: Dataset, rows: np.ndarray) -> Dataset:
    """Those rows, in that order, as examples to train on."""
    return replace(
        data,
        examples=data.examples[rows],
        labels=data.labels[rows],
        clients=data.clients[rows],
        split=np.full(len(rows), TRAIN, np.int8),
    )


# Methods: each gives accuracies on validation and test examples, means over the task's clients.

Method = Callable[[Task, Tail, Setting, float, int], tuple[float, float]]


def integer(task: Task, tail: Tail, setting: Setting, rate: float, seed: int) -> tuple[float, float]:
    """Each client alone."""
    theta = initial_tail_theta(task.network, tail)
    parts = [client.train for client in task.clients]
    thetas = _train_integer(task, tail, theta, parts, setting.training(rate), seed)
    return _mean(
        [_integer_accuracy(task, tail, trained, part) for part in (client.validation, client.test)]
        for client, trained in zip(task.clients, thetas, strict=True)
    )


def integer_federated(
    task: Task, tail: Tail, setting: Setting, rate: float, seed: int
) -> tuple[float, float]:
    """FedAvg as docs/arithmetic.md has it, "At the coordinator", of changes that are not compressed."""
    parts = task.devices()
    weights = np.array([len(part.labels) for part in parts])
    theta_q16 = initial_tail_theta(task.network, tail).astype(np.int64) << 16
    for number in range(setting.rounds):
        theta = _published(theta_q16)
        trained = _train_integer(task, tail, theta, parts, setting.training(rate), seed, number)
        sums = weights @ (trained - theta).astype(np.int64)
        theta_q16 += ((sums << 16) + (weights.sum() >> 1)) // weights.sum()
        np.clip(theta_q16, -THETA_LIMIT << 16, THETA_LIMIT << 16, out=theta_q16)
    theta = _published(theta_q16)
    return _mean(
        [_integer_accuracy(task, tail, theta, part) for part in (client.validation, client.test)]
        for client in task.clients
    )


def _train_integer(
    task: Task, tail: Tail, theta: np.ndarray, parts: list[Part], training: LocalTraining, *keys: int
) -> np.ndarray:
    return train_tails(
        task.network,
        tail,
        np.tile(theta, (len(parts), 1)),
        [tail_inputs(task.network, tail, part.inputs) for part in parts],
        [part.labels for part in parts],
        training,
        [derive_key("train", *keys, number) for number in range(len(parts))],
        [derive_key("round", *keys, number) for number in range(len(parts))],
    )


def _published(theta_q16: np.ndarray) -> np.ndarray:
    return ((theta_q16 + 32768) >> 16).astype(np.int32)


def fp32(task: Task, tail: Tail, setting: Setting, rate: float, seed: int) -> tuple[float, float]:
    """Each client alone."""
    theta, figures = initial_tail_theta(task.network, tail), []
    for number, client in enumerate(task.clients):
        twin = FloatTail(task.network, tail, theta)
        inputs = tail_inputs(task.network, tail, client.train.inputs)
        twin.train(inputs, client.train.labels, setting.training(rate), derive_key("train", seed, number))
        figures.append(_fp32_accuracies(task, twin, client))
    return _mean(figures)


def fp32_federated(task: Task, tail: Tail, setting: Setting, rate: float, seed: int) -> tuple[float, float]:
    parts = task.devices()
    inputs = [tail_inputs(task.network, tail, part.inputs) for part in parts]
    shares = np.array([len(part.labels) for part in parts]) / sum(len(part.labels) for part in parts)
    twin = FloatTail(task.network, tail, initial_tail_theta(task.network, tail))
    values = twin.values()
    for round_number in range(setting.rounds):
        trained = []
        for number, part in enumerate(parts):
            twin.assign(values)
            key = derive_key("train", seed, round_number, number)
            twin.train(inputs[number], part.labels, setting.training(rate), key)
            trained.append(twin.values())
        values = [
            sum(float(share) * own for share, own in zip(shares, several, strict=True))
            for several in zip(*trained, strict=True)
        ]
    twin.assign(values)
    return _mean(_fp32_accuracies(task, twin, client) for client in task.clients)


def _fp32_accuracies(task: Task, twin: FloatTail, client: Client) -> list[float]:
    return [
        twin.accuracy(tail_inputs(task.network, twin.tail, part.inputs), part.labels)
        for part in (client.validation, client.test)
    ]


def full_fine_tune(task: Task, tail: Tail, setting: Setting, rate: float, seed: int) -> tuple[float, float]:
    """All layers of the fp32 network, nothing of it ever quantised."""
    begin = {name: value.clone() for name, value in task.model.state_dict().items()}
    figures, training = [], setting.training(rate)
    size = training.batch_size
    for key, client in enumerate(task.clients):
        task.model.load_state_dict(begin)
        optimizer = torch.optim.SGD(task.model.parameters(), training.learning_rate_q16 / 65536)
        for order in permutations(derive_key("train", seed, key), len(client.train.labels), training.epochs):
            for first in range(0, len(order), size):
                batch = order[first : first + size]
                optimizer.zero_grad()
                outputs = task.model(client.train.real[batch])
                labels = torch.as_tensor(client.train.labels[batch])
                loss = nn.functional.cross_entropy(outputs, labels, reduction="sum") / size
                loss.backward()
                optimizer.step()
        with torch.no_grad():
            predicted = [task.model(part.real).argmax(1).numpy() for part in (client.validation, client.test)]
        parts = zip(predicted, (client.validation, client.test), strict=True)
        figures.append([float((found == part.labels).mean()) for found, part in parts])
    task.model.load_state_dict(begin)
    return _mean(figures)


def rounded(rule: Callable[..., Any], scaled: bool = True, method: Method = integer) -> Method:
    """Int8 weights everywhere in the tail, rounded by `rule` instead."""

    def train(task: Task, tail: Tail, setting: Setting, rate: float, seed: int) -> tuple[float, float]:
        with other_rounding(rule, scaled):
            return method(task, tail, setting, rate, seed)

    return train


def truncated(change, rng):
    return np.trunc(change)


def nearest(change, rng):
    return round_half_up(change)


def stochastic(change, rng):
    return np.floor(change + rng.random(change.shape))


@contextlib.contextmanager
def other_rounding(rule: Callable[..., Any], scaled: bool = True) -> Iterator[None]:
    """Dense and convolutional weights as int8, each step's change (in steps of the weight) rounded by `rule`.

    Without `scaled` a weight moves by its gradient in its own int8 unit: quantisation-aware scaling left out. Biases,
    whose unit is far smaller still, then do not move at all.
    """
    rng = np.random.default_rng(0)

    def gain(layer):
        return 1.0 if scaled else np.array(layer.weight_scales)[:, None] ** 2

    def shadow(layer, pull, errors):
        def move(own, start, error, columns, batch):
            changes = errors(error)[:, :, 0]
            gradient = changes.swapaxes(-1, -2) @ columns[:, :, 0] / STEP
            change = STEP * rule(gradient * gain(layer), rng)
            limit = THETA_LIMIT
            np.clip(own.weights - change, -limit, limit, out=own.weights)
            if scaled:
                biases = own.biases - round_half_up(changes.sum(axis=1) * layer.bias_input)
                np.clip(biases, -limit, limit, out=own.biases)

        return move

    def int8(node, pull, rates, move_biases):
        def move(own, start, error, columns, batch):
            gradient = node.product.gradient(error.mantissas, columns, slice(None))
            power = np.ldexp(1.0, -error.exponents)[..., None, None]
            change = (gradient * power * rates[:, None]).sum(axis=1)
            np.clip(own.weights - rule(change * gain(node.trained), rng), -127, 127, out=own.weights)
            if scaled:
                move_biases(own, start, error, columns, batch)

        return move

    with mock.patch.multiple(tail_moves, _move_shadow=shadow, _move_int8=int8):
        yield


def _integer_accuracy(task: Task, tail: Tail, theta: np.ndarray, part: Part) -> float:
    done = evaluate_tail(task.network, tail, theta, tail_inputs(task.network, tail, part.inputs), part.labels)
    return done.correct / done.count


def _mean(figures) -> tuple[float, float]:
    validation, test = np.mean(list(figures), axis=0)
    return float(validation), float(test)


def _of_setting(setting: str, ours: Method, real: Method) -> dict[str, tuple[str, Method, str]]:
    arithmetics = {
        "fp32": real,
        "integer": ours,
        "int8 rounded to nearest": rounded(nearest, method=ours),
        "int8 truncated": rounded(truncated, method=ours),
    }
    return {
        f"{which}, {name}, {setting}": (which, method, setting)
        for which in (("head",) if setting == "batch 1 for long" else ("head", "tail"))
        for name, method in arithmetics.items()
    }


UNSCALED = rounded(
    stochastic, scaled=False
)  # gradients in the weights' own unit: its rates are of other magnitudes

# (which layers, method, setting)
METHODS: dict[str, tuple[str, Method, str]] = {
    **_of_setting("batch 16", integer, fp32),
    "tail, int8 without scaling, batch 16": ("tail", UNSCALED, "batch 16"),
    "all layers, fp32, batch 16": ("all layers", fp32, "batch 16"),
    "all layers, integer, batch 16": ("all layers", integer, "batch 16"),
    "full fine-tune, fp32, batch 16": ("all layers", full_fine_tune, "batch 16"),
    **_of_setting("federated", integer_federated, fp32_federated),
    **_of_setting("batch 1", integer, fp32),
    **_of_setting("batch 1 for long", integer, fp32),
}


def differences(rows: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Of accuracies, in points, seed by seed."""
    pairs = [
        (f"{one}, {setting}", f"{other}, {setting}")
        for setting in SETTINGS
        for one, other in (
            ("head, integer", "head, fp32"),
            ("head, integer", "head, int8 rounded to nearest"),
            ("head, integer", "head, int8 truncated"),
            ("tail, integer", "tail, fp32"),
            ("tail, integer", "head, integer"),
            ("tail, integer", "tail, int8 rounded to nearest"),
            ("tail, integer", "tail, int8 truncated"),
            ("tail, integer", "tail, int8 without scaling"),
            ("all layers, integer", "all layers, fp32"),
            ("all layers, integer", "head, integer"),
            ("tail, integer", "full fine-tune, fp32"),
            ("all layers, integer", "full fine-tune, fp32"),
        )
    ]
    return {
        f"{one} - {other}": interval(
            [a - b for a, b in zip(rows[one]["values"], rows[other]["values"], strict=True)]
        )
        for one, other in pairs
        if one in rows and other in rows
    }


def deepest_tail(network: Network) -> int:
    """How many of the last layers fit SRAM_BYTES, their cached examples included."""
    counts = range(1, len(weighted_layers(network)) + 1)
    return max(count for count in counts if _memory(network, count).total <= SRAM_BYTES)


def _memory(network: Network, count: int) -> TrainingMemory:
    tail = last_layers(network, count)
    return training_memory(network, tail, batch_size=16, cache_examples=EXAMPLES)


def run(name: str, seeds: list[int], methods: list[str]) -> dict[str, Any]:
    tasks = [TASKS[name](seed) for seed in seeds]
    print(f"{name}: pre-trained", file=sys.stderr, flush=True)
    network = tasks[0].network
    depth = deepest_tail(network)
    counts = {"head": 1, "tail": depth, "all layers": len(weighted_layers(network))}
    rows: dict[str, dict[str, Any]] = {}
    for label in methods:
        which, method, setting = METHODS[label]
        same = label.replace("all layers", "tail")
        if depth == counts["all layers"] and same != label and same in rows:
            rows[label] = rows[same]
            continue
        rates = ALL_LAYERS_RATES if which == "all layers" else SETTINGS[setting].rates
        rates = UNSCALED_RATES if method is UNSCALED else rates
        figures = {
            rate: [
                method(task, last_layers(task.network, counts[which]), SETTINGS[setting], rate, seed)
                for task, seed in zip(tasks, seeds, strict=True)
            ]
            for rate in rates
        }
        tests = {rate: [100 * test for _, test in figures[rate]] for rate in rates}
        best = max(rates, key=lambda rate: statistics.mean(validation for validation, _ in figures[rate]))
        means = {str(rate): round(statistics.mean(tests[rate]), 2) for rate in rates}
        rows[label] = {"rate": best, "by_rate": means, **interval(tests[best])}
        real = rows.get(f"{which}, fp32, {setting}")
        if real is not None and real["rate"] in rates:
            rows[label]["at_fp32_rate"] = interval(tests[real["rate"]])
        print(f"{name}: {label}: {rows[label]['mean']} at {best}", file=sys.stderr, flush=True)
    before = [_before(task) for task in tasks]
    return {
        "clients": len(tasks[0].clients),
        "examples": [len(client.train.labels) for client in tasks[0].clients],
        "test_examples": [len(client.test.labels) for client in tasks[0].clients],
        "network": {"layers": counts["all layers"], "hash": network.content_hash.hex()},
        "trained": {
            which: {
                "layers": [network.layers[layer.layer].name for layer in last_layers(network, count).layers],
                "sram_bytes": asdict(_memory(network, count)) | {"total": _memory(network, count).total},
            }
            for which, count in counts.items()
        },
        "accuracy_before": interval(before),
        "accuracy": rows,
        "differences": differences(rows),
    }


def _before(task: Task) -> float:
    tail = last_layers(task.network, 1)
    theta = initial_tail_theta(task.network, tail)
    return 100 * float(
        np.mean([_integer_accuracy(task, tail, theta, client.test) for client in task.clients])
    )


def interval(values: list[float]) -> dict[str, Any]:
    """Mean and the half width of its 95 % interval (Student's t)."""
    half = half_width_95(values)
    return {
        "mean": round(statistics.mean(values), 2),
        "half_width_95": None if half is None else round(half, 2),
        "values": [round(value, 2) for value in values],
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    settings = {
        "unit": "accuracy in %",
        "seeds": arguments.seeds,
        "settings": {name: asdict(setting) for name, setting in SETTINGS.items()},
        "torch": torch.__version__,
        "numpy": np.__version__,
    }
    tasks = {name: run(name, arguments.seeds, arguments.methods) for name in arguments.tasks}
    print(json.dumps({**settings, "tasks": tasks}, indent=1))


if __name__ == "__main__":
    main()
