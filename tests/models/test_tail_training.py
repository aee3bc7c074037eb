"""Integer training of deeper tails: the same bytes as plain integers, the gradients and accuracy of real numbers."""

import importlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sanderling.models.backward import clamps
from sanderling.models.deep_tail import (
    CrossEntropy,
    Trained,
    initial_tail_theta,
    last_layers,
    make_tail,
    reconstruction,
    weighted_layers,
)
from sanderling.models.random_bits import random_words
from sanderling.models.tail import dense_head
from sanderling.models.tail_moves import Batch, rounding_bits
from sanderling.models.tail_step import TailStep, targets_of
from sanderling.models.tail_training import evaluate_tail, tail_inputs, train_tail, train_tails
from sanderling.models.training import LocalTraining, evaluate_head, train_head
from tests import generate_training_vectors as generator
from tests.models import deep_networks
from tests.models.plain_tail import PlainTail

words32 = st.integers(0, 2**32 - 1)
keys = st.tuples(words32, words32)
VECTORS = json.loads((generator.FOLDER / "training_tail.json").read_text())
NETWORKS = {name: make() for name, make in deep_networks.ALL.items()}


@st.composite
def tails(draw):
    """A network and a tail of it: some layers whole, some in part, some biases, some left as they are."""
    name = draw(st.sampled_from(sorted(NETWORKS)))
    network = NETWORKS[name]
    plans = {}
    for index in weighted_layers(network)[:-1]:
        kind = draw(st.sampled_from(["whole", "some", "bias", "fixed"]))
        channels = network.tensors[network.layers[index].outputs[0]].shape[-1]
        some = tuple(sorted(draw(st.sets(st.integers(0, channels - 1), min_size=1))))
        if name in ("multilayer", "autoencoder") and kind == "some":
            kind = "whole"
        if kind != "fixed":
            plans[index] = Trained(weights=kind != "bias", channels=some if kind == "some" else None)
    return network, make_tail(network, plans, reconstruction(network) if name == "autoencoder" else None)


def examples(network, tail, seed, count):
    rng = np.random.default_rng(seed)
    moved = initial_tail_theta(network, tail) + rng.integers(-600, 601, tail.dimension)
    theta = np.clip(moved, -32512, 32512).astype(np.int32)
    x = rng.integers(-128, 128, (count, *network.tensors[0].shape[1:])).astype(np.int8)
    if isinstance(tail.loss, CrossEntropy):
        targets = rng.integers(0, tail.head.classes, count)
    else:
        targets = x.reshape(count, tail.head.classes)
    return theta, tail_inputs(network, tail, x), targets


# Bytes


@settings(deadline=None, max_examples=40)
@given(
    tails(),
    words32,
    st.integers(0, 5),
    st.integers(1, 5),
    st.sampled_from([0, 655, 6554, 65536, 1 << 24]),
    st.sampled_from([0, 65536]),
    keys,
    keys,
)
def test_training_equals_plain_integers(chosen, seed, count, batch_size, rate, mu, order_key, rounding_key):
    network, tail = chosen
    theta, inputs, targets = examples(network, tail, seed, count)
    training = LocalTraining(
        epochs=2, batch_size=batch_size, learning_rate_q16=rate, proximal_mu_q16=mu if rate < 1 << 20 else 0
    )
    trained = train_tail(network, tail, theta, inputs, targets, training, order_key, rounding_key)
    plain = PlainTail(network, tail, training)
    wanted = plain.train(theta.tolist(), inputs.tolist(), targets.tolist(), order_key, rounding_key)
    assert trained.tolist() == wanted


@settings(deadline=None, max_examples=40)
@given(
    tails(),
    st.lists(st.tuples(words32, st.integers(0, 9), keys, keys), min_size=1, max_size=5),
    st.integers(1, 6),
    st.sampled_from([0, 6554]),
)
def test_clients_trained_together_get_the_bytes_they_get_alone(chosen, clients, batch_size, mu):
    network, tail = chosen
    training = LocalTraining(epochs=2, batch_size=batch_size, learning_rate_q16=3277, proximal_mu_q16=mu)
    drawn = [examples(network, tail, seed, count) for seed, count, *_ in clients]
    thetas, inputs, targets = zip(*drawn, strict=True)
    order_keys, rounding_keys = [c[2] for c in clients], [c[3] for c in clients]
    together = train_tails(
        network, tail, np.array(thetas), inputs, targets, training, order_keys, rounding_keys
    )
    for client, (theta, x, y) in enumerate(drawn):
        alone = train_tail(network, tail, theta, x, y, training, order_keys[client], rounding_keys[client])
        assert together[client].tolist() == alone.tolist()


def test_a_thousand_steps_together_and_alone_give_the_same_bytes():
    network = NETWORKS["separable"]
    tail = last_layers(network, 3, 1)
    training = LocalTraining(epochs=100, batch_size=3, learning_rate_q16=1311, proximal_mu_q16=655)
    drawn = [examples(network, tail, seed, count) for seed, count in enumerate((30, 28, 5, 0))]
    thetas, inputs, targets = zip(*drawn, strict=True)
    orders, roundings = [(i, 1) for i in range(4)], [(i, 2) for i in range(4)]
    together = train_tails(network, tail, np.array(thetas), inputs, targets, training, orders, roundings)
    for i, (theta, x, y) in enumerate(drawn):
        alone = train_tail(network, tail, theta, x, y, training, orders[i], roundings[i])
        assert together[i].tolist() == alone.tolist()
    assert (together[3] == thetas[3]).all()


@settings(deadline=None)
@given(words32, st.integers(0, 12), st.integers(1, 32), st.sampled_from([0, 6554]), keys)
def test_a_tail_of_the_head_alone_gets_the_bytes_of_the_head(seed, count, batch_size, mu, key):
    network = NETWORKS["multilayer"]
    tail, head = last_layers(network, 1), dense_head(network)
    theta, inputs, labels = examples(network, tail, seed, count)
    training = LocalTraining(epochs=2, batch_size=batch_size, learning_rate_q16=6554, proximal_mu_q16=mu)
    trained = train_tail(network, tail, theta, inputs, labels, training, key, (0, 0))
    assert trained.tolist() == train_head(head, theta, inputs, labels, training, key).tolist()
    assert evaluate_tail(network, tail, trained, inputs, labels) == evaluate_head(
        head, trained, inputs, labels
    )


@pytest.mark.slow
@pytest.mark.parametrize("case", VECTORS["cases"], ids=lambda case: case["name"])
def test_a_thousand_steps_of_plain_integers_give_the_vectors(case):
    network, tail, training = generator.tail_of(case)
    theta = np.frombuffer(bytes.fromhex(case["theta_int16"]), "<i2").tolist()
    inputs = np.frombuffer(bytes.fromhex(case["inputs_int8"]), "i1").reshape(case["examples"], -1).tolist()
    keys = tuple(case["order_key"]), tuple(case["rounding_key"])
    for epochs, wanted in ((1, "first_epoch_int16"), (case["epochs"], "trained_int16")):
        plain = PlainTail(network, tail, replace(training, epochs=epochs))
        trained = plain.train(theta, inputs, case["targets"], *keys)
        assert np.array(trained, "<i2").tobytes().hex() == case[wanted]


# Random bits


@given(st.lists(keys, min_size=1, max_size=3), words32, st.integers(0, 40), st.integers(0, 40))
def test_rounding_bits_are_halves_of_the_steps_words(several, number, start, count):
    halves = rounding_bits(
        np.array(several, dtype=np.uint32),
        np.full(len(several), number, dtype=np.uint32),
        start,
        start + count,
    )
    for key, own in zip(several, halves, strict=True):
        words = random_words(key, (start + count) // 2 + 1, stream=number).tolist()
        wanted = [
            words[i // 2] >> 16 if i % 2 else words[i // 2] & 0xFFFF for i in range(start, start + count)
        ]
        assert own.tolist() == wanted


# Real numbers


@pytest.fixture
def float_tail(monkeypatch):
    """The twin in torch, which is of the benchmarks and not shipped."""
    pytest.importorskip("torch")
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    return importlib.import_module("float_tail").FloatTail


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_gradients_are_the_straight_through_ones(name, float_tail):
    """Against torch: real activations replaced by the int8 ones, errors stopped where those were clamped."""
    torch = pytest.importorskip("torch")
    network = NETWORKS[name]
    loss = reconstruction(network) if name == "autoencoder" else None
    tail = last_layers(network, len(weighted_layers(network)), loss=loss)
    theta, inputs, targets = examples(network, tail, 5, 6)
    theta = initial_tail_theta(network, tail)
    step = TailStep(network, tail, LocalTraining(epochs=0, batch_size=1, learning_rate_q16=0))
    parameters = step.parameters(theta[None])
    done = step.forward(parameters, inputs[None])
    counted = np.ones((1, 6), bool)
    unscaled = step.loss(done.values[step.head.output], targets_of(tail, targets)[None], counted)
    errors = step.backward(parameters, done, unscaled)
    twin = float_tail(network, tail, theta)
    low_high = {layer.outputs[0]: clamps(network, layer) for layer in network.layers}

    def int8_values(tensor, values):
        if tensor == step.head.output:
            real = done.values[tensor][0] * (tail.head.input_scale * tail.head.weight_scale)
            return values + (torch.tensor(real).float().reshape(values.shape) - values).detach()
        quantization, y = network.tensors[tensor].quantization, done.values[tensor][0]
        real = torch.tensor((y.astype(float) - quantization.zero_points[0]) * quantization.scales[0]).float()
        low, high = low_high[tensor]
        passing = torch.where(torch.tensor((y > low) & (y < high)), values, values.detach())
        return passing + (real - passing).detach()

    outputs = twin(inputs, int8_values)
    ours = (unscaled.mantissas * np.ldexp(1.0, -unscaled.exponents)[..., None])[0]
    (theirs,) = torch.autograd.grad(twin.losses(outputs, targets).sum(), outputs, retain_graph=True)
    assert np.abs(ours - theirs.numpy()).max() < 0.002 * max(1, np.abs(theirs.numpy()).max())
    outputs.backward(torch.tensor(ours).float())
    for node, (weights, biases) in zip(step.trained, twin.parameters, strict=True):
        power = np.ldexp(1.0, -errors[node.output].exponents)[..., None, None]
        mantissas = errors[node.output].mantissas
        gradient = node.product.gradient(mantissas, done.columns[node.output], slice(None))
        scale = network.tensors[node.inputs[0]].quantization.scales[0]
        ours = (gradient * power).sum(axis=(0, 1)) * scale
        theirs = node.product.weights(weights.grad.numpy())
        assert np.abs(ours - theirs).max() < 0.004 * np.abs(theirs).max()
        ours, theirs = (mantissas * power).sum(axis=(0, 1, 2)), biases.grad.numpy()
        assert np.abs(ours - theirs).max() < 0.004 * np.abs(theirs).max()


def test_int8_weights_move_by_the_exact_change_on_the_average():
    """Over many keys the mean of theta approaches the change before rounding."""
    network = NETWORKS["separable"]
    tail = last_layers(network, 2)
    theta, inputs, labels = examples(network, tail, 7, 8)
    theta = initial_tail_theta(network, tail)
    training = LocalTraining(epochs=1, batch_size=8, learning_rate_q16=655)
    count = 600
    moved = train_tails(
        network, tail, np.tile(theta, (count, 1)), [inputs] * count, [labels] * count, training,
        [(1, 1)] * count, [(i, 3) for i in range(count)],
    )  # fmt: skip
    pointwise = tail.layers[0]
    changes = (moved - theta)[:, pointwise.start : pointwise.bias_start] / 256
    step = TailStep(network, tail, training)
    parameters = step.parameters(theta[None])
    done = step.forward(parameters, inputs[None])
    batch = Batch(
        inputs=inputs[None],
        targets=targets_of(tail, labels)[None],
        counted=np.ones((1, 8), bool),
        keys=np.zeros((1, 2), np.uint32),
        numbers=np.zeros(1, np.uint32),
    )
    unscaled = step.loss(done.values[step.head.output], batch.targets, batch.counted)
    error = step.backward(parameters, done, unscaled)[step.trained[0].output]
    node = step.trained[0]
    gradient = node.product.gradient(error.mantissas, done.columns[node.output], slice(None))
    power = np.ldexp(1.0, -error.exponents)[..., None, None]
    scales = np.array(pointwise.weight_scales)[:, None]
    input_scale = network.tensors[node.inputs[0]].quantization.scales[0]
    exact = -(gradient * power).sum(axis=(0, 1)) * 655 / 65536 / 8 * input_scale / scales
    deviation = np.sqrt(0.25 / count)
    assert np.abs(exact).max() > 0.05
    assert set(np.unique(changes - np.floor(exact.reshape(-1)))) <= {0.0, 1.0}
    assert np.abs(changes.mean(axis=0) - exact.reshape(-1)).max() < 4.5 * deviation


def separable_task(seed, count):
    """Images of four patterns under noise, which the random convolutions of `separable` do not tell apart well."""
    rng = np.random.default_rng(seed)
    patterns = np.random.default_rng(99).integers(-70, 70, (4, 8, 6, 2))
    labels = rng.integers(0, 4, count)
    x = patterns[labels] + rng.normal(0, 30, (count, 8, 6, 2))
    return np.clip(np.rint(x), -128, 127).astype(np.int8), labels


@pytest.mark.slow
def test_a_deeper_tail_learns_as_in_real_numbers_and_more_than_the_head(float_tail):
    network = NETWORKS["separable"]
    (x, y), (test_x, test_y) = separable_task(1, 256), separable_task(2, 512)
    training = LocalTraining(epochs=40, batch_size=8, learning_rate_q16=6554)
    accuracies = []
    for count in (1, 6):
        tail = last_layers(network, count)
        theta, inputs = initial_tail_theta(network, tail), tail_inputs(network, tail, x)
        test = tail_inputs(network, tail, test_x)
        trained = train_tail(network, tail, theta, inputs, y, training, (1, 2), (3, 4))
        twin = float_tail(network, tail, theta)
        twin.train(inputs, y, training, (1, 2))
        integer = evaluate_tail(network, tail, trained, test, test_y)
        accuracies.append((integer.correct / integer.count, twin.accuracy(test, test_y)))
    (head, fp32_head), (deeper, fp32_deeper) = accuracies
    assert deeper > 0.95 > 0.5 > head
    assert abs(head - fp32_head) < 0.03
    assert abs(deeper - fp32_deeper) < 0.03


def test_an_autoencoder_learns_to_reconstruct():
    network = NETWORKS["autoencoder"]
    tail = last_layers(network, 4, loss=reconstruction(network))
    rng = np.random.default_rng(4)
    hidden, mixing = rng.normal(size=(300, 3)), rng.normal(size=(3, 12)) * 30
    x = np.clip(np.rint(hidden @ mixing), -128, 127).astype(np.int8)
    theta = initial_tail_theta(network, tail)
    training = LocalTraining(epochs=20, batch_size=4, learning_rate_q16=6554)
    inputs = tail_inputs(network, tail, x)
    trained = train_tail(network, tail, theta, inputs[:200], x[:200], training, (1, 2), (3, 4))
    before = evaluate_tail(network, tail, theta, inputs[200:], x[200:])
    after = evaluate_tail(network, tail, trained, inputs[200:], x[200:])
    assert after.mean_loss < 0.5 * before.mean_loss
    assert (after.correct, after.count) == (0, 100)


# Bad input


@pytest.mark.parametrize("batch_size", [0, 33])
def test_batch_size_out_of_range_is_refused(batch_size):
    network = NETWORKS["multilayer"]
    tail = last_layers(network, 2)
    theta, inputs, labels = examples(network, tail, 1, 4)
    training = LocalTraining(epochs=1, batch_size=batch_size, learning_rate_q16=655)
    with pytest.raises(ValueError, match=r"batch_size must be 1\.\.32"):
        train_tail(network, tail, theta, inputs, labels, training, (1, 2), (3, 4))
