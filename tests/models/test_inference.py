"""Reference inference on numbers worked by hand, and the laws of its interface."""

import math
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from sanderling.models.edges import int8_edges
from sanderling.models.inference import dequantize, exact_float, features, quantize_floats, run
from sanderling.models.network import (
    Add,
    Conv2D,
    Dequantize,
    FullyConnected,
    Layer,
    Mean,
    Network,
    Operator,
    Pool2D,
    Quantization,
    Quantize,
    Reshape,
    Softmax,
    Tensor,
)
from sanderling.models.specimens import random_network

ONE = Quantization(scales=(1.0,), zero_points=(0,))


def tensor(*shape: int, quantization: Quantization = ONE, data: np.ndarray | None = None) -> Tensor:
    return Tensor(name="t", shape=shape, dtype="int8", quantization=quantization, data=data)


def network(operator: Operator, *tensors: Tensor) -> Network:
    last = len(tensors) - 1
    layer = Layer(name="l", operator=operator, inputs=tuple(range(last)), outputs=(last,))
    return Network(name="n", tensors=tensors, layers=(layer,), inputs=(0,), outputs=(last,))


def test_fully_connected_by_hand():
    # x = 0.5 * (q - 10) = [1, -2]; w = [[3, 4], [-1, 2]]; b = [2, 0] steps of 0.5: [1, 0]
    # y = [3 - 8 + 1, -1 - 4] = [-4, -5]; in steps of 2 from -100: -2 and -2.5 -> -3
    weights = tensor(2, 2, data=np.array([[3, 4], [-1, 2]], np.int8))
    bias = Tensor(name="b", shape=(2,), dtype="int32", data=np.array([2, 0], np.int32))
    half, two = (
        Quantization(scales=(0.5,), zero_points=(10,)),
        Quantization(scales=(2.0,), zero_points=(-100,)),
    )
    net = network(
        FullyConnected(), tensor(1, 2, quantization=half), weights, bias, tensor(1, 2, quantization=two)
    )
    (outputs,) = run(net, np.array([[12, 6]], np.int8))
    assert outputs.tolist() == [[-102, -103]]


def test_padding_is_the_zero_point():
    # a 1 x 3 filter of ones over [q - 5] = [1, 2, 3] with one zero on each side
    q5 = Quantization(scales=(1.0,), zero_points=(5,))
    filters = tensor(1, 1, 3, 1, data=np.ones((1, 1, 3, 1), np.int8))
    conv = Conv2D(stride=(1, 1), padding=(0, 0, 1, 1))
    net = network(conv, tensor(1, 1, 3, 1, quantization=q5), filters, tensor(1, 1, 3, 1))
    (outputs,) = run(net, np.array([6, 7, 8], np.int8).reshape(1, 1, 3, 1))
    assert outputs.reshape(-1).tolist() == [3, 6, 5]


def test_an_average_divides_by_what_lies_inside_and_rounds_halves_away_from_zero():
    pool = Pool2D(kind="average", window=(1, 2), stride=(1, 1), padding=(0, 0, 1, 0))
    (outputs,) = run(
        network(pool, tensor(1, 1, 3, 1), tensor(1, 1, 3, 1)),
        np.array([-5, 4, 5], np.int8).reshape(1, 1, 3, 1),
    )
    assert outputs.reshape(-1).tolist() == [-5, -1, 5]  # -5, -0.5, 4.5


def test_mean_by_hand():
    net = network(Mean(axes=(1, 2), keep_dims=False), tensor(1, 2, 2, 1), tensor(1, 1))
    assert run(net, np.array([1, 2, 3, 5], np.int8).reshape(1, 2, 2, 1))[0].tolist() == [[3]]  # 2.75


def test_add_broadcasts_a_constant():
    constant = tensor(3, data=np.array([1, -1, 100], np.int8))
    outputs = run(
        network(Add(), tensor(1, 2, 3), constant, tensor(1, 2, 3)), np.full((1, 2, 3), 50, np.int8)
    )[0]
    assert outputs.tolist() == [[[51, 49, 127], [51, 49, 127]]]


def test_softmax_by_hand():
    probability = Quantization(scales=(1 / 256,), zero_points=(-128,))
    log2 = Quantization(scales=(float(np.float32(math.log(2))),), zero_points=(0,))
    net = network(Softmax(), tensor(1, 3, quantization=log2), tensor(1, 3, quantization=probability))
    # weights 4 : 2 : 2
    assert run(net, np.array([[7, 6, 6]], np.int8))[0].tolist() == [[0, -64, -64]]


def test_quantising_floats_rounds_halves_away_and_saturates():
    half = Quantization(scales=(0.5,), zero_points=(-1,))
    x = np.array([0.25, -0.25, 0.2, 1e30, -1e30, np.inf, np.nan], np.float32)
    assert quantize_floats(x, half).tolist() == [0, -2, -1, 127, -128, 127, -128]
    assert dequantize(np.array([0, -2], np.int8), half).tolist() == [0.5, -0.5]


def test_sums_beyond_float32_run_in_float64_and_stay_exact():
    width = 3000  # 128 * 127 * 3000 > 2**24
    weights = tensor(1, width, data=np.full((1, width), 127, np.int8))
    out = Quantization(scales=(2.0**19,), zero_points=(0,))
    net = network(FullyConnected(), tensor(1, width), weights, tensor(1, 1, quantization=out))
    x = np.full((2, width), -128, np.int8)
    x[1, 0] = -127
    # -128 * 127 * 3000 = -48,768,000 = -93.02 * 2**19
    assert run(net, x)[0].tolist() == [[-93], [-93]]
    assert exact_float(2**24) is np.float32
    assert exact_float(2**24 + 1) is np.float64


def test_accumulators_wrap_at_32_bits():
    bias = Tensor(name="b", shape=(1,), dtype="int32", data=np.array([2**31 - 1], np.int32))
    weights = tensor(1, 1, data=np.ones((1, 1), np.int8))
    wide = Quantization(scales=(2.0**25,), zero_points=(0,))
    net = network(FullyConnected(), tensor(1, 1), weights, bias, tensor(1, 1, quantization=wide))
    assert run(net, np.array([[0], [1]], np.int8))[0].tolist() == [[64], [-64]]


@pytest.mark.parametrize("seed", range(10))
def test_a_batch_gives_the_bytes_of_single_inputs(seed):
    net = random_network(np.random.default_rng(seed), layers=8)
    shape = net.tensors[net.inputs[0]].shape[1:]
    inputs = np.random.default_rng(seed).integers(-128, 128, (7, *shape)).astype(np.int8)
    (batched,) = run(net, inputs)
    singles = np.concatenate([run(net, inputs[i : i + 1])[0] for i in range(7)])
    np.testing.assert_array_equal(batched, singles)


def test_more_inputs_than_fit_a_chunk_come_out_in_order():
    net = network(Reshape(), tensor(1, 4, 4096), tensor(1, 16384))
    inputs = np.random.default_rng(0).integers(-128, 128, (50, 4, 4096)).astype(np.int8)
    np.testing.assert_array_equal(run(net, inputs)[0], inputs.reshape(50, -1))


def test_no_inputs_give_no_outputs():
    net = network(Reshape(), tensor(1, 4), tensor(1, 2, 2))
    assert run(net, np.empty((0, 4), np.int8))[0].shape == (0, 2, 2)


def test_a_batch_dimension_other_than_one_stays():
    net = network(Reshape(), tensor(2, 4), tensor(4, 2))
    assert run(net, np.zeros((3, 2, 4), np.int8))[0].shape == (3, 4, 2)


@pytest.mark.parametrize("seed", range(6))
def test_features_are_what_enters_a_layer(seed):
    net = random_network(np.random.default_rng(seed), layers=6)
    index = len(net.layers) // 2
    entering = net.layers[index].inputs[0]
    cut = replace(net, layers=net.layers[:index], outputs=(entering,))
    inputs = np.random.default_rng(1).integers(-128, 128, (5, *net.tensors[0].shape[1:])).astype(np.int8)
    np.testing.assert_array_equal(features(net, inputs, index), run(cut, inputs)[0].reshape(5, -1))


@pytest.mark.parametrize(
    "inputs",
    [
        np.zeros((1, 5), np.int8),
        np.zeros((1, 4), np.uint8),
        np.zeros(4, np.int8),
        [np.zeros((1, 4), np.int8)] * 2,
    ],
)
def test_inputs_that_are_not_the_declared_ones_are_refused(inputs):
    net = network(Reshape(), tensor(1, 4), tensor(1, 2, 2))
    with pytest.raises(ValueError, match=r"expected|inputs"):
        run(net, inputs)


def test_int8_edges_drop_conversions_of_the_interface():
    floats = (
        Tensor(name="x", shape=(1, 4), dtype="float32"),
        tensor(1, 4),
        tensor(1, 2, 2),
        Tensor(name="y", shape=(1, 2, 2), dtype="float32"),
    )
    layers = (
        Layer(name="q", operator=Quantize(), inputs=(0,), outputs=(1,)),
        Layer(name="r", operator=Reshape(), inputs=(1,), outputs=(2,)),
        Layer(name="d", operator=Dequantize(), inputs=(2,), outputs=(3,)),
    )
    net = Network(name="n", tensors=floats, layers=layers, inputs=(0,), outputs=(3,))
    x = np.array([[1.2, -3.0, 0.5, 9.0]], np.float32)
    assert run(net, x)[0].tolist() == [[[1.0, -3.0], [1.0, 9.0]]]
    inner = int8_edges(net)
    assert [layer.name for layer in inner.layers] == ["r"]
    assert run(inner, quantize_floats(x, ONE))[0].tolist() == [[[1, -3], [1, 9]]]
    assert int8_edges(inner).content_hash == inner.content_hash


def test_inference_and_tflite_import_need_numpy_alone():
    program = """
import sys
for name in ("onnx", "tflite", "flatbuffers", "google.protobuf", "torch"):
    sys.modules[name] = None
from sanderling.models import arithmetic, inference, network
from sanderling.models.importers import from_bytes
from sanderling.models.importers.tflite import from_tflite
from sanderling.models.exporters.tflite import to_tflite
from sanderling.models.exporters.onnx import to_onnx
from sanderling.models.errors import MissingError
from sanderling.models.specimens import random_network
import numpy as np
net = random_network(np.random.default_rng(0))
inference.run(net, np.zeros((1, *net.tensors[0].shape[1:]), np.int8))
for use in (lambda: to_tflite(net), lambda: to_onnx(net), lambda: from_bytes(b"no model")):
    try:
        use()
    except MissingError as error:
        assert "pip install 'sanderling[models]'" in str(error), error
    else:
        raise AssertionError("a missing library went unnoticed")
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
