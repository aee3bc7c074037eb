"""Tails of the zoo's architectures: each can be trained, together and alone to the same bytes."""

import numpy as np
import pytest

pytest.importorskip("torch")

from sanderling.models.deep_tail import (
    CrossEntropy,
    initial_tail_theta,
    last_layers,
    reconstruction,
    weighted_layers,
    with_tail_theta,
)
from sanderling.models.inference import run
from sanderling.models.tail_training import evaluate_tail, tail_inputs, tail_sums, train_tail, train_tails
from sanderling.models.training import LocalTraining
from sanderling.models.zoo.architectures import ARCHITECTURES
from sanderling.models.zoo.builder import random_network

KEYS = [(1, 2), (3, 4), (5, 6)]


@pytest.mark.slow
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_last_layers_train_together_and_alone_to_the_same_bytes(name):
    network, rng = random_network(name, 1), np.random.default_rng(2)
    loss = reconstruction(network) if ARCHITECTURES[name].objective == "reconstruction" else None
    count = min(3, len(weighted_layers(network)))
    tail = last_layers(network, count, min(1, len(weighted_layers(network)) - count), loss)
    theta = initial_tail_theta(network, tail)
    training = LocalTraining(epochs=2, batch_size=2, learning_rate_q16=1311)
    clients = []
    for examples in (5, 3, 4):
        x = rng.integers(-128, 128, (examples, *network.tensors[0].shape[1:])).astype(np.int8)
        labels = rng.integers(0, tail.head.classes, examples)
        targets = labels if isinstance(tail.loss, CrossEntropy) else x.reshape(examples, -1)
        clients.append((tail_inputs(network, tail, x), targets, x))
    together = train_tails(
        network,
        tail,
        np.tile(theta, (3, 1)),
        [inputs for inputs, _, _ in clients],
        [targets for _, targets, _ in clients],
        training,
        KEYS,
        KEYS[::-1],
    )
    for client, (inputs, targets, x) in enumerate(clients):
        alone = train_tail(network, tail, theta, inputs, targets, training, KEYS[client], KEYS[::-1][client])
        assert together[client].tolist() == alone.tolist()
        assert (alone != theta).any()
        # what was trained is what the network with it computes
        sums = tail_sums(network, tail, alone, inputs)
        (y,) = run(with_tail_theta(network, tail, alone), x)
        unclamped = (y > -128) & (y < 127)
        output = network.tensors[network.layers[tail.head.layer].outputs[0]].quantization
        real = sums * (tail.head.input_scale * tail.head.weight_scale)
        steps = real / output.scales[0] + output.zero_points[0]
        assert (np.abs(y.reshape(steps.shape) - steps)[unclamped.reshape(steps.shape)] <= 0.6).all()
        assert np.isfinite(evaluate_tail(network, tail, alone, inputs, targets).mean_loss)
