"""Reference inference equals the TensorFlow Lite Micro interpreter, byte for byte."""

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sanderling.models.exporters.tflite import to_tflite
from sanderling.models.importers import load
from sanderling.models.inference import run
from sanderling.models.network import (
    DType,
    Elementwise,
    Layer,
    Network,
    Operator,
    Quantization,
    Quantize,
    Tensor,
)
from sanderling.models.specimens import operator_kinds, random_network

runtime = pytest.importorskip("tflite_micro.python.tflite_micro.runtime", reason="x86-64 only")

SPECIMENS_A_KIND = 12
MLPERF_TINY = os.environ.get("SANDERLING_MLPERF_TINY")


def tflm(model: bytes, inputs: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """TFLM's output for each input. Its arena reuses the input's memory: it is set before every invoke."""
    interpreter = runtime.Interpreter.from_bytes(model, arena_size=2_000_000)
    outputs = []
    for values in inputs:
        interpreter.set_input(values.reshape(shape), 0)
        interpreter.invoke()
        outputs.append(interpreter.get_output(0).copy())
    return np.stack(outputs)


def assert_equal_to_tflm(network: Network, rng: np.random.Generator, count: int) -> None:
    tensor = network.tensors[network.inputs[0]]
    inputs = rng.integers(-128, 128, (count, *tensor.shape[1:])).astype(np.int8)
    (ours,) = run(network, inputs)
    theirs = tflm(to_tflite(network), inputs, tensor.shape)
    np.testing.assert_array_equal(ours, theirs.reshape(ours.shape), err_msg=str(network))


@pytest.mark.parametrize("kind", operator_kinds())
def test_each_operator_equals_tflm(kind):
    for seed in range(SPECIMENS_A_KIND):
        rng = np.random.default_rng(seed)
        assert_equal_to_tflm(random_network(rng, operator=kind), rng, count=4)


@pytest.mark.parametrize("seed", range(12))
def test_chains_of_operators_equal_tflm(seed):
    rng = np.random.default_rng(1000 + seed)
    assert_equal_to_tflm(random_network(rng, layers=10), rng, count=4)


def one_layer(
    operator: Operator, source: Quantization, target: Quantization, dtype: DType = "int8"
) -> Network:
    """All 256 values of a byte through one operator."""
    return Network(
        name="table",
        tensors=(
            Tensor(name="x", shape=(1, 256), dtype=dtype, quantization=source),
            Tensor(name="y", shape=(1, 256), dtype="int8", quantization=target),
        ),
        layers=(Layer(name="l", operator=operator, inputs=(0,), outputs=(1,)),),
        inputs=(0,),
        outputs=(1,),
    )


def scale() -> st.SearchStrategy[float]:
    return st.floats(2.0**-14, 2.0**14, width=32)


@settings(max_examples=40, deadline=None)
@given(scale=scale(), zero_point=st.integers(-128, 127), function=st.sampled_from(["tanh", "logistic"]))
def test_tanh_and_logistic_of_every_byte_equal_tflm(scale, zero_point, function):
    fixed = ((1 / 128,), (0,)) if function == "tanh" else ((1 / 256,), (-128,))
    network = one_layer(
        Elementwise(function=function),
        Quantization(scales=(scale,), zero_points=(zero_point,)),
        Quantization(scales=fixed[0], zero_points=fixed[1]),
    )
    every_byte = np.arange(-128, 128, dtype=np.int8)[np.newaxis]
    np.testing.assert_array_equal(
        run(network, every_byte)[0], tflm(to_tflite(network), every_byte, (1, 256))[0]
    )


@settings(max_examples=40, deadline=None)
@given(
    scales=st.tuples(scale(), scale()),
    zero_points=st.tuples(st.integers(-128, 127), st.integers(-128, 127)),
    unsigned=st.booleans(),
)
def test_requantising_every_byte_equals_tflm(scales, zero_points, unsigned):
    network = one_layer(
        Quantize(),
        Quantization(scales=scales[:1], zero_points=(zero_points[0] + 128 * unsigned,)),
        Quantization(scales=scales[1:], zero_points=zero_points[1:]),
        "uint8" if unsigned else "int8",
    )
    first = 0 if unsigned else -128
    every_byte = np.arange(first, first + 256).astype("uint8" if unsigned else "int8")[np.newaxis]
    np.testing.assert_array_equal(
        run(network, every_byte)[0], tflm(to_tflite(network), every_byte, (1, 256))[0]
    )


@pytest.mark.slow
@pytest.mark.skipif(
    MLPERF_TINY is None, reason="SANDERLING_MLPERF_TINY names no folder of MLPerf Tiny's int8 files"
)
@pytest.mark.parametrize("name", ["ad01_int8.tflite", "kws_ref_model.tflite"])
def test_mlperf_tiny_files_equal_tflm_unedited(name):
    path = Path(str(MLPERF_TINY)) / name
    network = load(path)
    tensor = network.tensors[network.inputs[0]]
    inputs = np.random.default_rng(0).integers(-128, 128, (1000, *tensor.shape[1:])).astype(np.int8)
    (ours,) = run(network, inputs)
    np.testing.assert_array_equal(ours, tflm(path.read_bytes(), inputs, tensor.shape).reshape(ours.shape))
