"""Tails deeper than the head: their parameters in theta and back, and what is refused."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sanderling.models import inference
from sanderling.models.deep_tail import (
    BIAS,
    WHOLE,
    MeanSquaredError,
    Trained,
    initial_tail_theta,
    last_layers,
    layer_weights,
    make_tail,
    reconstruction,
    theta_scales,
    weighted_layers,
    with_tail_theta,
)
from sanderling.models.errors import ModelFormatError
from sanderling.models.tail import dense_head, initial_theta, with_theta
from sanderling.models.tail_step import TailStep
from sanderling.models.tail_training import tail_inputs, tail_sums
from sanderling.models.training import LocalTraining
from tests.models import deep_networks

ALL_TAILS = [
    (name, count, biases)
    for name, layers in (("separable", 6), ("residual", 5), ("multilayer", 3), ("multiplied", 2))
    for count in range(1, layers + 1)
    for biases in range(layers - count + 1)
]


def test_theta_holds_each_layer_in_order_of_execution():
    network = deep_networks.separable()
    # layers: 0 conv, 1 depthwise (9 taps, 6 channels), 2 conv 6 -> 8, ..., 7 head 10 -> 4
    tail = make_tail(network, {1: Trained(channels=(1, 4)), 2: BIAS, 4: WHOLE})
    spans = [(layer.layer, layer.kind, layer.start, layer.bias_start, layer.stop) for layer in tail.layers]
    assert spans == [
        (1, "int8", 0, 18, 20),
        (2, "bias", 20, 20, 28),
        (4, "int8", 28, 108, 118),
        (7, "shadow", 118, 158, 162),
    ]
    assert (tail.first, tail.dimension) == (1, 162)
    theta = initial_tail_theta(network, tail)
    depthwise = network.tensors[network.layers[1].inputs[1]].data
    assert (theta[:18] // 256).tolist() == depthwise[..., [1, 4]].reshape(-1).tolist()
    assert theta[18:28].tolist() == [0] * 10
    assert theta[118:].tolist() == initial_theta(network, dense_head(network)).tolist()


def test_tail_of_the_head_alone_is_the_dense_head():
    network = deep_networks.multilayer()
    tail, head = last_layers(network, 1), dense_head(network)
    theta = initial_tail_theta(network, tail)
    assert tail.head == head
    assert theta.tolist() == initial_theta(network, head).tolist()
    assert with_tail_theta(network, tail, theta).content_hash == with_theta(network, head, theta).content_hash


@pytest.mark.parametrize(("name", "count", "biases"), ALL_TAILS)
def test_tail_computes_what_the_network_with_its_theta_does(name, count, biases):
    rng = np.random.default_rng(count)
    network = deep_networks.ALL[name]()
    tail = last_layers(network, count, biases)
    theta = initial_tail_theta(network, tail)
    moved = np.clip(theta + rng.integers(-2000, 2000, theta.size), -32512, 32512).astype(np.int32)
    x = rng.integers(-128, 128, (5, *network.tensors[0].shape[1:])).astype(np.int8)
    step = TailStep(network, tail, LocalTraining(epochs=0, batch_size=1, learning_rate_q16=0))
    done = step.forward(step.parameters(moved[None]), tail_inputs(network, tail, x)[None])
    changed = with_tail_theta(network, tail, moved)
    for tensor, values in done.values.items():
        if tensor == step.head.output:
            head = changed.layers[tail.head.layer]
            real = tail.head.input_scale * tail.head.weight_scale * values[0]
            output = changed.tensors[head.outputs[0]].quantization
            (y,) = inference.run(changed, x)
            unclamped = (y > -128) & (y < 127)
            steps = real / output.scales[0] + output.zero_points[0]
            assert (np.abs(y - steps)[unclamped] <= 0.6).all()  # rounded twice
        else:
            wanted = inference.activations(changed, x, tail.head.layer, (tensor,))
            assert (values[0].reshape(5, -1) == wanted).all()


@given(st.integers(0, 2**32 - 1))
def test_weights_follow_theta_in_the_trained_channels_only(seed):
    rng = np.random.default_rng(seed)
    network = deep_networks.separable()
    tail = make_tail(network, {3: Trained(channels=(0, 5)), 4: Trained(channels=(2,), weights=False)})
    theta = rng.integers(-32512, 32513, tail.dimension).astype(np.int32)
    depthwise, pointwise, _ = tail.layers
    weights, biases = layer_weights(network, depthwise, theta)
    old = network.tensors[network.layers[3].inputs[1]].data
    assert (weights[..., [1, 2, 3, 4, 6, 7]] == old[..., [1, 2, 3, 4, 6, 7]]).all()
    assert (weights[0][..., [0, 5]].reshape(-1) == ((theta[:18] + 128) >> 8)).all()
    base = network.tensors[network.layers[3].inputs[2]].data
    assert biases[0] == base[0] + ((int(theta[18]) * depthwise.bias_input + 128) >> 8)
    weights, _ = layer_weights(network, pointwise, theta)
    assert (weights == network.tensors[network.layers[4].inputs[1]].data).all()


def test_scales_give_the_real_value_of_theta():
    network = deep_networks.separable()
    tail = last_layers(network, 3)
    theta, scales = initial_tail_theta(network, tail), theta_scales(network, tail)
    depthwise, pointwise, _ = tail.layers
    for layer, shape in ((depthwise, (1, 1, 1, -1)), (pointwise, (-1, 1, 1, 1))):
        tensor = network.tensors[network.layers[layer.layer].inputs[1]]
        real = tensor.data * np.array(tensor.quantization.scales).reshape(shape)
        assert np.allclose((theta * scales)[layer.start : layer.bias_start], real.reshape(-1))
    assert scales.shape == theta.shape


def test_several_tensors_may_enter():
    network = deep_networks.residual()
    tail = last_layers(network, 2)  # the shortcut, and the sum's other side is an activation from before
    assert len(tail.entering) == 2
    x = np.ones((2, 8, 8, 2), np.int8)
    assert tail_inputs(network, tail, x).shape == (2, 8 * 8 * 4 + 4 * 4 * 6)
    assert tail_sums(
        network, tail, initial_tail_theta(network, tail), tail_inputs(network, tail, x)
    ).shape == (2, 3)


def test_targets_of_an_autoencoder_are_its_inputs():
    network = deep_networks.autoencoder()
    quantization = network.tensors[0].quantization
    wanted = MeanSquaredError(scale=quantization.scales[0], zero_point=quantization.zero_points[0])
    assert reconstruction(network) == wanted


# What is refused


@pytest.mark.parametrize(
    ("plans", "why"),
    [
        ({5: WHOLE}, r"'l5' \(Pool2D\) has no weights to train"),
        ({7: BIAS}, "the head is always trained whole"),
        ({8: WHOLE}, "layers 0 to 7"),
        ({4: Trained(channels=(3, 1))}, "must ascend"),
        ({4: Trained(channels=())}, "must ascend"),
        ({4: Trained(channels=(0, 10))}, r"within 0\.\.9"),
    ],
)
def test_what_cannot_be_trained_is_refused(plans, why):
    with pytest.raises(ModelFormatError, match=why):
        make_tail(deep_networks.separable(), plans)


@pytest.mark.parametrize(("count", "biases"), [(0, 0), (7, 0), (3, 4), (1, -1)])
def test_more_layers_than_there_are_are_refused(count, biases):
    with pytest.raises(ModelFormatError, match="6 layers with weights"):
        last_layers(deep_networks.separable(), count, biases)


def test_channels_of_a_dense_layer_are_refused():
    with pytest.raises(ModelFormatError, match="all its channels"):
        make_tail(deep_networks.multilayer(), {1: Trained(channels=(0,))})


def test_shared_weights_are_refused():
    network = deep_networks.separable()
    first, second = network.layers[1], network.layers[3]
    shared = replace(second, inputs=(second.inputs[0], first.inputs[1], second.inputs[2]))
    broken = object.__new__(type(network))
    for name in ("name", "tensors", "inputs", "outputs"):
        object.__setattr__(broken, name, getattr(network, name))
    object.__setattr__(broken, "layers", (*network.layers[:3], shared, *network.layers[4:]))
    with pytest.raises(ModelFormatError, match="share their weights"):
        last_layers(broken, 3)


def test_sums_beyond_32_bits_are_refused():
    b = deep_networks.Builder(1, (1, 46, 46, 1))
    b.conv(2)
    b.mean()
    b.dense(2)
    with pytest.raises(ModelFormatError, match="a weight gradient could leave 32 bits"):
        last_layers(b.network(), 2)


def test_every_layer_of_the_networks_has_a_tail():
    for make in deep_networks.ALL.values():
        network = make()
        tail = last_layers(network, len(weighted_layers(network)))
        assert [layer.layer for layer in tail.layers] == weighted_layers(network)
