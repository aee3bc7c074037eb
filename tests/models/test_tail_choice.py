"""What to train under a memory budget."""

from dataclasses import replace

import numpy as np
import pytest

from sanderling.models.deep_tail import BIAS, WHOLE, Trained, last_layers, make_tail, reconstruction
from sanderling.models.errors import ModelFormatError
from sanderling.models.tail_choice import Data, rank_tails, training_memory
from sanderling.models.training import LocalTraining
from tests.models import deep_networks
from tests.models.test_tail_training import separable_task

TRAINING = LocalTraining(epochs=6, batch_size=8, learning_rate_q16=6554)
KEYS = ((1, 2), (3, 4))


def memory(network, tail, batch_size=8, cache_examples=10):
    return training_memory(network, tail, batch_size=batch_size, cache_examples=cache_examples)


def test_memory_of_a_head_by_hand():
    """10 features, 4 classes."""
    network = deep_networks.separable()
    taken = memory(network, last_layers(network, 1))
    assert taken.parameters == 2 * (2 * 40 + 2 * 4)  # int16, and as many of the round's start
    assert taken.gradients == 4 * 4 * 8 + 4 * 10  # errors of 8 examples; the gradient of one class
    assert (taken.activations, taken.errors) == (2 * 10, 0)
    assert taken.cache == 10 * (10 + 4)
    assert taken.total == 176 + 168 + 20 + 140


def test_memory_of_a_pointwise_layer_by_hand():
    """8 channels in, 10 out, on 4x3 pixels; then a pool to one pixel, 4 classes."""
    network = deep_networks.separable()
    taken = memory(network, make_tail(network, {4: WHOLE}))
    assert taken.parameters == 176 + 4 * (80 + 10)
    # int32 of weights and biases, factors of both and the head's, errors and inputs of the head over the batch
    assert taken.gradients == 4 * (80 + 10) + 4 * (10 + 10 + 1) + 8 * (4 * 4 + 10 + 2)
    # what enters, its output and the pool's of one example; a window of the head's inputs, sums of one channel
    assert taken.activations == 96 + 120 + 10 + 2 + 2 * 10 + 4 * 8
    # the head's; of the pool; of its input, whose windows do not overlap, so that nothing is added up; exponents
    assert taken.errors == 16 + 2 * 10 + 2 * 120 + 4 * 5
    assert taken.cache == 10 * (4 * 3 * 8 + 4)


def test_part_of_the_channels_and_the_bias_alone_take_less():
    network = deep_networks.separable()
    whole, half, bias = (
        memory(network, make_tail(network, {4: option}))
        for option in (WHOLE, Trained(channels=(0, 1, 2, 3, 4)), BIAS)
    )
    assert whole.total > half.total > bias.total
    of_the_head = 4 + 8 * 28
    assert half.gradients - of_the_head == (whole.gradients - of_the_head) // 2


def test_ranked_tails_fit_and_are_in_order():
    network = deep_networks.separable()
    train, validation = (Data(**_task(seed, 96)) for seed in (1, 2))
    budget = 12_000
    lines = []
    choices = rank_tails(
        network, train, validation, replace(TRAINING, epochs=20, learning_rate_q16=65536),
        sram_bytes=budget, cache_examples=64, keys=KEYS, progress=lines.append,
    )  # fmt: skip
    assert len(lines) == len(choices) > 3
    assert all(choice.memory.total <= budget for choice in choices)
    assert [choice.score for choice in choices] == sorted((choice.score for choice in choices), reverse=True)
    head = next(choice for choice in choices if len(choice.tail.layers) == 1)
    assert head.gain == 0
    assert all(choice.gain == choice.score - head.score for choice in choices)
    assert choices[0].gain > 0.3
    assert len(choices[0].tail.layers) > 2  # put together from what helps alone
    assert choices[0].describe(network).startswith("l7, ")
    # a tail that begins at the first layer caches the images, 96 bytes each
    assert max(choice.memory.cache for choice in choices) <= 64 * 100


def _task(seed, count):
    inputs, targets = separable_task(seed, count)
    return {"inputs": inputs, "targets": targets}


def test_a_larger_budget_finds_as_good_a_tail_or_a_better_one():
    network = deep_networks.multilayer()
    rng = np.random.default_rng(3)
    centres = rng.integers(-90, 90, (5, 12))
    labels = rng.integers(0, 5, 200)
    x = np.clip(centres[labels] + rng.normal(0, 50, (200, 12)), -128, 127).astype(np.int8)
    train, validation = Data(inputs=x[:100], targets=labels[:100]), Data(inputs=x[100:], targets=labels[100:])
    scores = [
        rank_tails(network, train, validation, TRAINING, sram_bytes=budget, cache_examples=100, keys=KEYS)[
            0
        ].score
        for budget in (2000, 20000)
    ]
    assert scores[1] >= scores[0]


def test_autoencoders_are_ranked_by_loss():
    network = deep_networks.autoencoder()
    rng = np.random.default_rng(4)
    x = np.clip(np.rint(rng.normal(size=(120, 3)) @ rng.normal(size=(3, 12)) * 30), -128, 127).astype(np.int8)
    data = [Data(inputs=part, targets=part) for part in (x[:80], x[80:])]
    choices = rank_tails(
        network,
        *data,
        TRAINING,
        sram_bytes=1 << 16,
        cache_examples=80,
        keys=KEYS,
        loss=reconstruction(network),
    )
    assert choices[0].score > choices[-1].score
    assert all(choice.score < 0 for choice in choices)


def test_a_budget_below_the_head_is_refused_with_what_it_takes():
    network = deep_networks.separable()
    data = Data(**_task(1, 20))
    with pytest.raises(ModelFormatError, match=r"head takes 504 bytes with 10 examples, there are 300"):
        rank_tails(network, data, data, TRAINING, sram_bytes=300, cache_examples=10, keys=KEYS)
