"""Integer training of a dense head: the same bytes as plain integers, and the accuracy of fp32."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sanderling.models.arithmetic import multiply_by_quantized_multiplier
from sanderling.models.batched import train_heads
from sanderling.models.tail import THETA_LIMIT
from sanderling.models.training import (
    EXPONENTIALS,
    LocalTraining,
    error_scale,
    evaluate_head,
    exponent_scale,
    scale_error,
    softmax,
    train_head,
)
from tests.models.plain_head import PlainHead
from tests.models.tails import blobs, make_head

words32 = st.integers(0, 2**32 - 1)
keys = st.tuples(words32, words32)
seeds = words32
heads = st.builds(
    make_head,
    features=st.integers(1, 9),
    classes=st.integers(1, 5),
    input_scale=st.floats(1e-3, 2),
    zero_point=st.integers(-128, 127),
    weight_scale=st.floats(1e-4, 0.5),
)
trainings = st.builds(
    LocalTraining,
    epochs=st.integers(1, 3),
    batch_size=st.integers(1, 32),
    learning_rate_q16=st.integers(0, 1 << 20),
    proximal_mu_q16=st.sampled_from([0, 655, 65536]),
)


def examples(seed, head, count):
    rng = np.random.default_rng(seed)
    theta = rng.integers(-THETA_LIMIT, THETA_LIMIT + 1, head.dimension).astype(np.int32)
    features = rng.integers(-128, 128, (count, head.features)).astype(np.int8)
    return theta, features, rng.integers(0, head.classes, count)


# Bytes


@settings(deadline=None)
@given(heads, trainings, seeds, st.integers(0, 12), keys)
def test_training_equals_plain_integers(head, training, seed, count, key):
    theta, features, labels = examples(seed, head, count)
    plain = PlainHead(head, training).train(theta.tolist(), features.tolist(), labels.tolist(), key)
    assert train_head(head, theta, features, labels, training, key).tolist() == plain


@pytest.mark.parametrize("batch_size", [1, 3, 32])
def test_extremes_stay_within_32_bits_and_the_limits(batch_size):
    """PlainHead asserts the 32 bits; inputs of 255, weights of 127, errors that saturate."""
    head = make_head(40, 3, input_scale=0.05, zero_point=-128, weight_scale=0.0002)
    training = LocalTraining(epochs=2, batch_size=batch_size, learning_rate_q16=1 << 24)
    theta = np.full(head.dimension, THETA_LIMIT, dtype=np.int32)
    features, labels = np.full((33, 40), 127, np.int8), np.zeros(33, np.int64)
    trained = train_head(head, theta, features, labels, training, (1, 2))
    assert trained.tolist() == PlainHead(head, training).train(
        theta.tolist(), features.tolist(), labels.tolist(), (1, 2)
    )
    assert trained.min() == -THETA_LIMIT


@settings(deadline=None, max_examples=40)
@given(heads, trainings, st.lists(st.tuples(seeds, st.integers(0, 40), keys), min_size=1, max_size=6))
def test_clients_trained_together_get_the_bytes_they_get_alone(head, training, clients):
    drawn = [examples(seed, head, count) for seed, count, _ in clients]
    thetas, features, labels = zip(*drawn, strict=True)
    together = train_heads(head, np.array(thetas), features, labels, training, [key for *_, key in clients])
    for own, (theta, x, y), (*_, key) in zip(together, drawn, clients, strict=True):
        assert own.tolist() == train_head(head, theta, x, y, training, key).tolist()


def test_a_thousand_steps_together_and_alone_give_the_same_bytes():
    head = make_head()
    training = LocalTraining(epochs=40, batch_size=4, learning_rate_q16=3277, proximal_mu_q16=655)
    drawn = [examples(seed, head, count) for seed, count in enumerate((100, 97, 60, 3, 0))]
    thetas, features, labels = zip(*drawn, strict=True)
    together = train_heads(head, np.array(thetas), features, labels, training, [(i, 7) for i in range(5)])
    for i, (theta, x, y) in enumerate(drawn):
        assert together[i].tolist() == train_head(head, theta, x, y, training, (i, 7)).tolist()
    assert (together[4] == thetas[4]).all()


@given(heads, seeds, keys)
@settings(deadline=None, max_examples=30)
def test_order_of_summation_does_not_matter(head, seed, key):
    """Features in another order give the same weights in that order."""
    theta, features, labels = examples(seed, head, 10)
    training = LocalTraining(epochs=2, batch_size=4, learning_rate_q16=6554)
    order = np.random.default_rng(seed).permutation(head.features)
    moved = np.concatenate(
        [
            (np.arange(head.classes)[:, None] * head.features + order).reshape(-1),
            np.arange(head.classes * head.features, head.dimension),
        ]
    )
    trained = train_head(head, theta, features, labels, training, key)
    assert train_head(head, theta[moved], features[:, order], labels, training, key).tolist() == (
        trained[moved].tolist()
    )


# Parts


@given(
    st.lists(st.integers(-(2**30), 2**30 - 1), min_size=1, max_size=12),
    st.floats(1e-3, 2),
    st.floats(1e-4, 0.5),
)
def test_probabilities_are_close_to_the_real_ones(accumulators, input_scale, weight_scale):
    head = make_head(input_scale=input_scale, weight_scale=weight_scale)
    (probabilities,) = softmax(np.array([accumulators]), exponent_scale(head))
    logits = np.array(accumulators) * head.input_scale * head.weight_scale
    real = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    assert (probabilities >= 0).all()
    assert (probabilities <= 32768).all()
    # half a step of the exponent's table, of 1 / 256 nat, and the roundings of the tables
    assert np.abs(probabilities / 32768 - real).max() < 0.5 / 256 / 2 + 1e-4
    assert abs(int(probabilities.sum()) - 32768) <= len(accumulators)


def test_exponentials_are_close_to_the_real_ones():
    real = 65536 * np.exp(-np.arange(4096) / 256)
    assert np.abs(EXPONENTIALS - real).max() < 2.6  # of 65536


@given(st.integers(-32768, 32768), st.integers(0, 1 << 22), st.integers(1, 32))
def test_scaled_error_is_the_real_one_rounded_or_the_limit(error, rate, batch_size):
    head = make_head()
    training = LocalTraining(epochs=1, batch_size=batch_size, learning_rate_q16=rate)
    multiplier, shift, limit = error_scale(head, training)
    scaled = int(scale_error(np.array([error]), head, training)[0])
    assert scaled == np.clip(int(multiply_by_quantized_multiplier(error, multiplier, shift)), -limit, limit)
    real = error / 32768 * rate / 65536 / batch_size * 256 * head.input_scale / head.weight_scale * 4096
    if abs(real) < limit - 1 and shift < 15:
        assert abs(scaled - real) <= 1


def test_no_examples_change_nothing():
    theta, features, labels = examples(1, make_head(), 0)
    training = LocalTraining(epochs=3, batch_size=8, learning_rate_q16=6554)
    assert (train_head(make_head(), theta, features, labels, training, (1, 2)) == theta).all()


@pytest.mark.parametrize("batch_size", [0, 33])
def test_batch_size_out_of_range_is_refused(batch_size):
    theta, features, labels = examples(1, make_head(), 4)
    training = LocalTraining(epochs=1, batch_size=batch_size, learning_rate_q16=6554)
    with pytest.raises(ValueError, match=r"batch_size must be 1\.\.32"):
        train_head(make_head(), theta, features, labels, training, (1, 2))


def test_proximal_term_holds_theta_near_its_start():
    head = make_head()
    rng = np.random.default_rng(3)
    features, labels = blobs(rng, head, 100)
    theta = np.zeros(head.dimension, dtype=np.int32)
    changes = [
        np.abs(train_head(head, theta, features, labels, training, (1, 2)) - theta).sum()
        for training in (
            LocalTraining(epochs=5, batch_size=8, learning_rate_q16=6554, proximal_mu_q16=mu)
            for mu in (0, 65536, 5 * 65536)
        )
    ]
    assert changes[0] > 1.2 * changes[1] > 1.2 * 1.2 * changes[2] > 0


# Learning


def train_fp32(head, features, labels, training, key):
    """The same mini-batches and rate in float: (weights (K, F + 1)) on real inputs, bias last."""
    from sanderling.models.random_bits import permutation

    real = head.input_scale * (features.astype(np.float64) - head.input_zero_point)
    inputs = np.concatenate([real, np.full((len(real), 1), head.input_scale * head.bias_input)], axis=1)
    weights = np.zeros((head.classes, head.features + 1))
    for epoch in range(training.epochs):
        order = permutation(key, labels.size, stream=epoch)
        for first in range(0, labels.size, training.batch_size):
            batch = order[first : first + training.batch_size]
            logits = inputs[batch] @ weights.T
            probabilities = np.exp(logits - logits.max(axis=1, keepdims=True))
            probabilities /= probabilities.sum(axis=1, keepdims=True)
            probabilities[np.arange(len(batch)), labels[batch]] -= 1
            weights -= (
                training.learning_rate_q16 / 65536 / training.batch_size * probabilities.T @ inputs[batch]
            )
    return inputs, weights


@pytest.mark.parametrize("batch_size", [1, 16])
def test_integer_head_follows_an_fp32_head(batch_size):
    head = make_head(32, 6, input_scale=0.02, weight_scale=0.01)
    features, labels = blobs(np.random.default_rng(11), head, 600, spread=60.0)
    train, test = slice(0, 300), slice(300, 600)
    training = LocalTraining(epochs=8, batch_size=batch_size, learning_rate_q16=1311)
    theta = np.zeros(head.dimension, dtype=np.int32)
    trained = train_head(head, theta, features[train], labels[train], training, (3, 4))
    _, weights = train_fp32(head, features[train], labels[train], training, (3, 4))
    shadow = trained[: 32 * 6].reshape(6, 32) * (head.weight_scale / 256)
    correlation = np.corrcoef(shadow.reshape(-1), weights[:, :-1].reshape(-1))[0, 1]
    assert correlation > 0.995
    assert np.abs(shadow - weights[:, :-1]).max() < 3 * head.weight_scale
    real = head.input_scale * (features[test].astype(np.float64) - head.input_zero_point)
    logits = real @ weights[:, :-1].T + weights[:, -1] * head.input_scale * head.bias_input
    accuracy_fp32 = (logits.argmax(axis=1) == labels[test]).mean()
    evaluation = evaluate_head(head, trained, features[test], labels[test])
    assert accuracy_fp32 > 0.9
    assert abs(evaluation.correct / evaluation.count - accuracy_fp32) < 0.02
