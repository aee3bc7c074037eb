"""The dense head of a network: its parameters in theta and back."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sanderling.models import inference
from sanderling.models.errors import ModelFormatError
from sanderling.models.network import Elementwise, FullyConnected, Layer, Network
from sanderling.models.tail import THETA_LIMIT, dense_head, initial_theta, rounded_weights, with_theta
from sanderling.models.training import evaluate_head
from tests.models.tails import activation, blobs, dense_network


def random_network(seed, features=6, classes=4, **options):
    rng = np.random.default_rng(seed)
    weights = rng.integers(-127, 128, (classes, features))
    return dense_network(weights, rng.integers(-3000, 3000, classes), **options)


def test_head_is_found_before_a_softmax():
    head = dense_head(random_network(1, softmax=True, input_scale=0.05, input_zero_point=-3, scales=0.01))
    assert (head.layer, head.features, head.classes, head.dimension) == (0, 6, 4, 28)
    assert (head.input_zero_point, head.bias_input) == (-3, 20)


def test_theta_is_weights_row_by_row_then_biases():
    network = dense_network(np.array([[1, 2, 3], [4, 5, 6]]), [40, -60], input_scale=0.05)
    theta = initial_theta(network, dense_head(network))
    # a bias of 40 steps is the weight 2 of the constant input 20
    assert (theta / 256).tolist() == [1, 2, 3, 4, 5, 6, 2, -3]


def test_weights_move_to_the_largest_scale_of_their_layer():
    network = dense_network(np.array([[100, 1], [100, 1]]), [20, 20], scales=(0.01, 0.005))
    head = dense_head(network)
    theta = initial_theta(network, head)
    assert head.weight_scale == pytest.approx(0.01)
    assert theta.tolist() == [25600, 256, 12800, 128, 256, 128]
    weights, biases = rounded_weights(head, theta)
    assert weights.tolist() == [[100, 1], [50, 1]]  # a half goes up
    assert biases.tolist() == [20, 10]


def test_a_large_bias_takes_a_larger_constant_input():
    network = dense_network(np.array([[1, 1]]), [127 * 21], input_scale=0.05)
    head = dense_head(network)
    assert head.bias_input == 21
    assert initial_theta(network, head)[-1] == THETA_LIMIT


@given(st.integers(0, 2**32 - 1), st.booleans())
def test_network_with_theta_computes_what_theta_says(seed, with_bias):
    rng = np.random.default_rng(seed)
    bias = rng.integers(-3000, 3000, 4) if with_bias else None
    network = dense_network(rng.integers(-127, 128, (4, 6)), bias, scales=rng.uniform(0.001, 0.02, 4))
    head = dense_head(network)
    theta = rng.integers(-THETA_LIMIT, THETA_LIMIT + 1, head.dimension).astype(np.int32)
    changed = with_theta(network, head, theta)
    weights, biases = rounded_weights(head, theta)
    assert changed.tensors[1].data.tolist() == weights.tolist()
    assert changed.tensors[changed.layers[0].inputs[2]].data.tolist() == biases.tolist()
    assert dense_head(changed).weight_scale == head.weight_scale
    assert network.tensors[1].data is not changed.tensors[1].data


@given(st.integers(0, 2**32 - 1))
def test_network_with_its_own_theta_predicts_the_same(seed):
    """With one scale for the layer the weights stay as they are, a bias moves to steps of its constant input."""
    network = random_network(seed)
    head = dense_head(network)
    again = with_theta(network, head, initial_theta(network, head))
    assert (again.tensors[1].data == network.tensors[1].data).all()
    assert np.abs(again.tensors[3].data - network.tensors[3].data).max() <= head.bias_input / 512 + 0.5


def test_evaluation_agrees_with_inference():
    rng = np.random.default_rng(5)
    network = random_network(5, features=8, classes=3)
    head = dense_head(network)
    features, labels = blobs(rng, head, 200)
    theta = initial_theta(network, head)
    (logits,) = inference.run(with_theta(network, head, theta), features)
    evaluation = evaluate_head(head, theta, features, labels)
    assert evaluation.count == 200
    # int8 logits tie where accumulators do not, so predictions may differ a little
    assert abs(evaluation.correct - int((logits.argmax(axis=1) == labels).sum())) <= 4


def test_evaluation_of_nothing_is_empty():
    network = random_network(1)
    head = dense_head(network)
    empty = evaluate_head(
        head, initial_theta(network, head), np.zeros((0, 6), np.int8), np.zeros(0, np.int64)
    )
    assert (empty.correct, empty.count, empty.mean_loss) == (0, 0, 0.0)


def test_loss_of_a_head_of_zeros_is_that_of_a_guess():
    head = dense_head(random_network(1))
    zeros = np.zeros(head.dimension, dtype=np.int32)
    evaluation = evaluate_head(head, zeros, np.ones((8, 6), np.int8), np.arange(8) % 4)
    assert evaluation.mean_loss == pytest.approx(np.log(4))
    assert evaluation.correct == 2  # the lowest class wins a tie


# What has no head to train


def test_network_that_ends_otherwise_is_refused():
    tensors = (activation("x", (1, 3), 0.1, 0), activation("y", (1, 3), 0.1, 0))
    relu = Layer(name="relu", operator=Elementwise(function="relu"), inputs=(0,), outputs=(1,))
    network = Network(name="n", tensors=tensors, layers=(relu,), inputs=(0,), outputs=(1,))
    with pytest.raises(ModelFormatError, match="no dense head to train"):
        dense_head(network)


def test_head_with_an_activation_is_refused():
    network = dense_network(np.ones((2, 3)), operator=FullyConnected(activation="relu"))
    with pytest.raises(ModelFormatError, match="has no activation"):
        dense_head(network)


def test_bias_beyond_what_the_scale_can_train_is_refused():
    network = dense_network(np.ones((1, 2)), [127 * 255 + 1])
    with pytest.raises(ModelFormatError, match=r"32386\.0 steps is beyond"):
        dense_head(network)
