"""Training of deeper tails in C: the reference's bytes on every operator, kind of layer and loss."""

import functools
import hashlib
import json
import math
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sanderling.broker import codec
from sanderling.broker.messages import UpdatePlan
from sanderling.edge_runtime import trainer
from sanderling.firmware_export.c_tree import Export
from sanderling.firmware_export.generate import generate
from sanderling.firmware_export.native import RUNTIME, WARNINGS
from sanderling.models import zoo
from sanderling.models.deep_tail import (
    BIAS,
    WHOLE,
    CrossEntropy,
    Trained,
    initial_tail_theta,
    last_layers,
    make_tail,
    reconstruction,
    weighted_layers,
)
from sanderling.models.native import Memory
from sanderling.models.network import Concatenate, Elementwise, Layer, Pad, Pool2D, Quantize
from sanderling.models.network_file import from_bytes
from sanderling.models.random_bits import derive_key
from sanderling.models.tail_choice import training_memory
from sanderling.models.tail_lowering import lower_tail
from sanderling.models.tail_training import evaluate_tail, tail_inputs, train_tail
from sanderling.models.training import LocalTraining
from tests.firmware_export.test_trainer import NativeTrainer, plan_of
from tests.models import deep_networks
from tests.models.tails import activation

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "training_tail.json").read_text())
KEYS = (0x12345678, 0x9ABCDEF0), (0x0F1E2D3C, 0x4B5A6978)


class NativeTail:
    """A tail on the C runtime, with memory of just the size it asks for."""

    def __init__(self, runtime, network, tail):
        self.ffi, self.lib, self.memory = runtime.ffi, runtime.lib, Memory(runtime)
        self.tail, self.lowered = tail, lower_tail(network, tail)
        self.table = self.memory.pointer(self.lowered.tail)

    def examples(self, inputs, targets):
        squared = not isinstance(self.tail.loss, CrossEntropy)
        rows = np.concatenate([inputs, targets], axis=1) if squared else inputs
        assert rows.shape[1] == self.lowered.row_bytes
        labels = np.zeros(len(inputs), np.uint16) if squared else targets.astype(np.uint16)
        self.kept = np.ascontiguousarray(rows, np.int8), labels
        fields = {
            "rows": self.ffi.from_buffer("int8_t[]", self.kept[0]),
            "labels": self.ffi.from_buffer("uint16_t[]", self.kept[1]),
            "count": len(inputs),
        }
        return self.ffi.new("sl_examples *", fields)

    def scratch(self, batch, count):
        """Noise, since nothing there may be taken for granted, and a guard behind it."""
        self.size = self.lib.sl_tail_scratch_bytes(self.table, batch, count)
        noise = np.random.default_rng(7).integers(0, 256, self.size + 64, dtype=np.uint8)
        noise[self.size :] = 0xA5
        self.block = self.ffi.new("uint8_t[]", noise.tobytes())
        return self.block

    def check_guard(self):
        assert bytes(self.ffi.buffer(self.block, self.size + 64))[self.size :] == b"\xa5" * 64

    def train(self, theta, inputs, targets, training, order_key, rounding_key):
        values = self.ffi.new("int16_t[]", theta.tolist())
        trained = self.ffi.new("int16_t[]", theta.size)
        rates = ("epochs", "batch_size", "learning_rate_q16", "proximal_mu_q16")
        plan = self.ffi.new("sl_training *", {name: getattr(training, name) for name in rates})
        keys = self.ffi.new("sl_training_keys *", {"order": order_key, "rounding": rounding_key})
        scratch = self.scratch(training.batch_size, len(inputs))
        examples = self.examples(inputs, targets)
        status = self.lib.sl_tail_train(self.table, plan, keys, examples, values, trained, scratch)
        assert status == 0
        self.check_guard()
        return np.array(list(trained), np.int32)

    def evaluate(self, theta, inputs, targets):
        found, values = self.ffi.new("sl_evaluation *"), self.ffi.new("int16_t[]", theta.tolist())
        examples = self.examples(inputs, targets)
        self.lib.sl_tail_evaluate(self.table, values, examples, self.scratch(1, 0), found)
        self.check_guard()
        return found


def data_for(network, tail, count, seed=0):
    rng = np.random.default_rng(seed)
    shape = network.tensors[network.inputs[0]].shape[1:]
    x = rng.integers(-128, 128, (count, *shape)).astype(np.int8)
    squared = not isinstance(tail.loss, CrossEntropy)
    targets = x.reshape(count, math.prod(shape)) if squared else rng.integers(0, tail.head.classes, count)
    return tail_inputs(network, tail, x), targets


def compare(runtime, network, tail, training, *, count=23, seed=0, noise=40):
    inputs, targets = data_for(network, tail, count, seed)
    theta = initial_tail_theta(network, tail)
    # A coordinator's theta has fractions of an int8 step.
    theta = np.clip(
        theta + np.random.default_rng(seed).integers(-noise, noise + 1, theta.size), -32512, 32512
    )
    theta = theta.astype(np.int32)
    expected = train_tail(network, tail, theta, inputs, targets, training, *KEYS)
    native = NativeTail(runtime, network, tail)
    found = native.train(theta, inputs, targets, training, *KEYS)
    assert found.tolist() == expected.tolist()
    evaluated, reference = (
        native.evaluate(found, inputs, targets),
        evaluate_tail(network, tail, found, inputs, targets),
    )
    assert (evaluated.correct, evaluated.count) == (reference.correct, reference.count)
    assert evaluated.loss_milli == pytest.approx(1000 * reference.mean_loss, abs=2, rel=1e-4)
    return (found - theta).astype(bool).mean()


@functools.cache
def network_of(name):
    return deep_networks.ALL[name]()


def rate(value):
    return round(value * 65536)


def tails_of(name):
    """Every depth of a network, and tails with biases and some channels."""
    network = network_of(name)
    layers, loss = weighted_layers(network), reconstruction(network) if name == "autoencoder" else None
    for count in range(1, len(layers) + 1):
        yield f"last {count}", network, last_layers(network, count, loss=loss)
    if len(layers) > 2:
        yield "a bias further down", network, last_layers(network, len(layers) - 2, 1, loss)
    yield "biases", network, make_tail(network, dict.fromkeys(layers[:-1], BIAS), loss)
    convolutions = [i for i in layers if len(network.tensors[network.layers[i].inputs[1]].shape) == 4]
    if convolutions:
        yield (
            "odd channels",
            network,
            make_tail(network, dict.fromkeys(convolutions, Trained(channels=(1, 3)))),
        )
        yield "the first alone", network, make_tail(network, {convolutions[0]: WHOLE})


CASES = [(name, *case) for name in deep_networks.ALL for case in tails_of(name)]


@pytest.mark.parametrize(("name", "what", "network", "tail"), CASES, ids=[f"{c[0]}, {c[1]}" for c in CASES])
def test_tails_are_the_references(runtime, name, what, network, tail):
    training = LocalTraining(epochs=2, batch_size=4, learning_rate_q16=rate(0.05), proximal_mu_q16=rate(0.1))
    assert compare(runtime, network, tail, training) > 0.01


@settings(max_examples=40, deadline=None)
@given(
    name=st.sampled_from(sorted(deep_networks.ALL)),
    depth=st.integers(1, 3),
    batch=st.integers(1, 32),
    learning_rate=st.sampled_from([0, 1, 655, 6554, 65536, 1 << 22]),
    mu=st.sampled_from([0, 655, 65536]),
    count=st.integers(0, 20),
    seed=st.integers(0, 1 << 20),
)
def test_any_rates_are_the_references(runtime, name, depth, batch, learning_rate, mu, count, seed):
    network = network_of(name)
    depth = min(depth, len(weighted_layers(network)))
    tail = last_layers(network, depth, loss=reconstruction(network) if name == "autoencoder" else None)
    training = LocalTraining(epochs=1, batch_size=batch, learning_rate_q16=learning_rate, proximal_mu_q16=mu)
    compare(runtime, network, tail, training, count=count, seed=seed, noise=200)


@pytest.mark.parametrize("case", VECTORS["cases"], ids=lambda case: case["name"])
def test_a_thousand_steps_of_the_vectors(runtime, case):
    network = from_bytes(bytes.fromhex(case["network"]))
    plans = {
        int(index): Trained(weights=weights, channels=None if channels is None else tuple(channels))
        for index, (weights, channels) in case["trained"].items()
    }
    loss = CrossEntropy() if case["loss"] == "cross-entropy" else reconstruction(network)
    native = NativeTail(runtime, network, make_tail(network, plans, loss))
    inputs = np.frombuffer(bytes.fromhex(case["inputs_int8"]), "i1").reshape(case["examples"], -1)
    targets = np.array(case["targets"], np.int8 if case["loss"] != "cross-entropy" else np.int64)
    theta = np.frombuffer(bytes.fromhex(case["theta_int16"]), "<i2").astype(np.int32)
    rates = {name: case[name] for name in ("batch_size", "learning_rate_q16", "proximal_mu_q16")}
    for epochs, expected in case["blake2b_after_epochs"].items():
        training = LocalTraining(epochs=int(epochs), **rates)
        found = native.train(
            theta, inputs, targets, training, tuple(case["order_key"]), tuple(case["rounding_key"])
        )
        assert hashlib.blake2b(found.astype("<i2").tobytes(), digest_size=32).hexdigest() == expected
    assert found.astype("<i2").tobytes().hex() == case["trained_int16"]


def put(builder, operator, shape, inputs, scale, zero_point):
    """A layer whose output's scale is given, not fitted."""
    index = len(builder.layers)
    tensor = builder.add(activation(f"t{index}", shape, scale, zero_point))
    layer = Layer(name=f"l{index}", operator=operator, inputs=tuple(inputs), outputs=(tensor,))
    builder.layers.append(layer)
    builder.current = tensor
    return tensor


@pytest.mark.parametrize(("batch", "count"), [(1, 6), (8, 40), (32, 33)])
def test_memory_is_what_is_said_when_a_tail_is_chosen(runtime, batch, count):
    for name in deep_networks.ALL:
        for what, network, tail in tails_of(name):
            native = NativeTail(runtime, network, tail)
            scratch = runtime.lib.sl_tail_scratch_bytes(native.table, batch, count)
            said = training_memory(network, tail, batch_size=batch, cache_examples=count)
            apart_from_examples = said.total - said.cache - said.parameters
            if len(tail.layers) > 1:
                assert scratch == apart_from_examples + 2 * (count + count % 2), (name, what)


def mixed_network():
    """The operators that the small networks lack: padding, concatenation, two ReLUs, requantisation, a fused pool."""
    b = deep_networks.Builder(3, (1, 7, 6, 3))
    trunk = b.conv(4, (3, 3), (1, 1), (1, 1, 1, 1), relu=False)
    own = b.tensors[trunk].quantization.scales[0], b.tensors[trunk].quantization.zero_points[0]
    shape = b.shape
    low = put(b, Elementwise(function="relu6"), shape, [trunk], *own)
    high = put(b, Elementwise(function="relu"), shape, [trunk], *own)
    coarse = put(b, Quantize(), shape, [trunk], own[0] * 1.3, -9)
    pooling = Pool2D(kind="average", window=(2, 3), stride=(1, 1), padding=(1, 0, 1, 1), activation="relu")
    pooled = put(b, pooling, shape, [coarse], own[0] * 1.3, -9)
    fine = put(b, Quantize(), shape, [pooled], *own)
    joined = put(b, Concatenate(axis=3), (1, 7, 6, 12), [low, fine, high], *own)
    put(b, Pad(amounts=((0, 0), (1, 0), (0, 2), (0, 0))), (1, 8, 8, 12), [joined], *own)
    b.depthwise((2, 2), (2, 1), (0, 1, 0, 0))
    b.pool("max", (2, 2), (1, 1))
    b.mean()
    b.dense(3)
    return b.network()


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_other_operators_are_the_references(runtime, depth):
    network = mixed_network()
    training = LocalTraining(epochs=2, batch_size=3, learning_rate_q16=rate(0.05))
    assert compare(runtime, network, last_layers(network, depth), training) > 0.01


@pytest.mark.slow
@pytest.mark.parametrize("name", deep_networks.ALL)
def test_a_thousand_steps_are_the_references(runtime, name):
    network = network_of(name)
    loss = reconstruction(network) if name == "autoencoder" else None
    tail = last_layers(network, len(weighted_layers(network)), loss=loss)
    training = LocalTraining(
        epochs=84, batch_size=2, learning_rate_q16=rate(0.02), proximal_mu_q16=rate(0.01)
    )
    assert compare(runtime, network, tail, training, count=24) > 0.1


@pytest.mark.slow
@pytest.mark.parametrize("name", zoo.NAMES)
def test_tails_of_the_zoo_are_the_references(runtime, name):
    pytest.importorskip("torch")
    from sanderling.models.zoo.architectures import ARCHITECTURES

    network = zoo.random_network(name, 1)
    weighted = len(weighted_layers(network))
    count = min(3, weighted)
    loss = reconstruction(network) if ARCHITECTURES[name].objective == "reconstruction" else None
    tail = last_layers(network, count, min(1, weighted - count), loss)
    training = LocalTraining(epochs=2, batch_size=2, learning_rate_q16=rate(0.02))
    compare(runtime, network, tail, training, count=5)


@pytest.mark.parametrize("name", ["separable", "autoencoder"])
def test_a_round_of_a_tail_sends_what_the_reference_would(runtime, name):
    network = network_of(name)
    tail = last_layers(network, 3, loss=reconstruction(network) if name == "autoencoder" else None)
    update = UpdatePlan(mode="mask", coordinates=40, mask_epoch=2, clipping_norm=4000, scale_shift=4)
    plan, device = plan_of(update), "mcu-01"
    inputs, targets = data_for(network, tail, 14)
    theta = initial_tail_theta(network, tail)
    identity = plan.federation, plan.training.seed, plan.round, device
    keys = [derive_key(purpose, *identity) for purpose in ("train", "round")]
    trained = train_tail(network, tail, theta, inputs, targets, trainer.local_training(plan), *keys)
    expected = codec.encode(trainer.compress(plan, device, trained - theta), shared_coordinates=True)

    native = NativeTail(runtime, network, tail)
    round_ = NativeTrainer(runtime, tail.head, plan, device)
    round_.learner = runtime.ffi.new("sl_learner *", runtime.lib.sl_tail_learner(native.table))
    round_.examples = lambda part: native.examples(*part)
    status, payload, report, _ = round_.train(theta, _Parts((inputs, targets)), None)
    assert (status, payload) == (0, expected)
    assert report.num_examples == 14


class _Parts:
    """The same examples to train on and to validate with."""

    def __init__(self, examples):
        self.train = self.validation = _Examples(examples)


class _Examples(tuple):
    @property
    def labels(self):
        return self[0][:, 0]


@pytest.mark.parametrize("name", sorted(deep_networks.ALL))
def test_tables_are_c_that_compiles(name, tmp_path):
    """Generated tables under the runtime's own warnings."""
    if shutil.which("cc") is None:
        pytest.skip("no C compiler")
    network = network_of(name)
    tail = last_layers(network, 2, loss=reconstruction(network) if name == "autoencoder" else None)
    exports = [Export(name="sl_model_tail", value=lower_tail(network, tail).tail, comment="The tail.")]
    for file, text in generate(network, exports=exports, includes=["sanderling/tail.h"]).items():
        (tmp_path / file).write_text(text)
    command = ["cc", *WARNINGS, "-I", RUNTIME / "include", "-c", "sanderling_model.c", "-o", "model.o"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
