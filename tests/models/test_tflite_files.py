"""TFLite files: written ones load in other runtimes and come back the same, unsupported ones are named."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sanderling.models.errors import ModelFormatError, UsageError
from sanderling.models.exporters import tflite as exporter
from sanderling.models.exporters.tflite import to_tflite
from sanderling.models.importers import from_bytes, load
from sanderling.models.inference import run
from sanderling.models.network import (
    Conv2D,
    DepthwiseConv2D,
    Elementwise,
    FullyConnected,
    Layer,
    Network,
    Operator,
    Pool2D,
    Quantization,
    Tensor,
)
from sanderling.models.specimens import operator_kinds, random_network
from sanderling.models.windows import same_padding, window_output

Q = Quantization(scales=(0.5,), zero_points=(3,))


def random_inputs(network: Network, count: int = 5) -> np.ndarray:
    shape = network.tensors[network.inputs[0]].shape[1:]
    return np.random.default_rng(0).integers(-128, 128, (count, *shape)).astype(np.int8)


def windowed(operator: Operator, height: int, rows: int, window: int = 3) -> Network:
    """An image of `height` x 1 through a window of `window` x 1."""
    tensors = [
        Tensor(name="x", shape=(1, height, 1, 1), dtype="int8", quantization=Q),
        Tensor(name="y", shape=(1, rows, 1, 1), dtype="int8", quantization=Q),
    ]
    inputs = [0]
    if not isinstance(operator, Pool2D):
        shape = (1, window, 1, 1)
        weights = np.arange(1, window + 1, dtype=np.int8).reshape(shape)
        scale = Quantization(scales=(0.125,), zero_points=(0,))
        tensors.append(Tensor(name="w", shape=shape, dtype="int8", quantization=scale, data=weights))
        inputs.append(2)
    layer = Layer(name="y", operator=operator, inputs=tuple(inputs), outputs=(1,))
    return Network(name="n", tensors=tuple(tensors), layers=(layer,), inputs=(0,), outputs=(1,))


@pytest.mark.parametrize("kind", operator_kinds())
def test_a_network_comes_back_with_the_same_bytes_of_output(kind):
    for seed in range(8):
        network = random_network(np.random.default_rng(seed), operator=kind)
        again = from_bytes(to_tflite(network))
        inputs = random_inputs(network)
        np.testing.assert_array_equal(run(again, inputs)[0], run(network, inputs)[0])


def test_reading_and_writing_settle_after_one_round():
    network = from_bytes(to_tflite(random_network(np.random.default_rng(3), layers=10)))
    assert from_bytes(to_tflite(network)).content_hash == network.content_hash


@pytest.mark.parametrize(
    ("padding", "stride", "height", "names"),
    [
        ((0, 0), 1, 6, ["Conv2D"]),  # VALID
        ((1, 1), 1, 6, ["Conv2D"]),  # SAME
        ((0, 1), 2, 6, ["Conv2D"]),  # SAME: the odd one after
        ((1, 0), 1, 6, ["Pad", "Conv2D"]),
        ((2, 2), 1, 6, ["Pad", "Conv2D"]),
    ],
)
def test_padding_that_has_no_name_becomes_a_layer(padding, stride, height, names):
    rows = window_output(height, 3, stride, *padding)
    operator = Conv2D(stride=(stride, 1), padding=(*padding, 0, 0))
    again = from_bytes(to_tflite(windowed(operator, height, rows)))
    assert [type(layer.operator).__name__ for layer in again.layers] == names


def test_pools_cannot_have_padding_without_a_name():
    pool = Pool2D(kind="max", window=(3, 1), stride=(1, 1), padding=(2, 0, 0, 0))
    with pytest.raises(ModelFormatError, match=r"layer 'y' \(Pool2D\): padding"):
        to_tflite(windowed(pool, 6, 6))


def test_same_padding_puts_the_odd_one_after():
    assert same_padding(6, 3, 1) == (1, 1)
    assert same_padding(6, 3, 2) == (0, 1)
    assert same_padding(5, 3, 1, dilation=2) == (2, 2)
    assert same_padding(4, 1, 2) == (0, 0)


def test_a_missing_bias_becomes_zeros():
    conv = DepthwiseConv2D(stride=(1, 1), padding=(0, 0, 0, 0))
    again = from_bytes(to_tflite(windowed(conv, 6, 4)))
    bias = again.tensors[again.layers[0].inputs[2]].data
    assert bias is not None and bias.tolist() == [0]


@pytest.mark.parametrize("seed", range(6))
def test_litert_loads_what_we_write_and_nearly_agrees(seed):
    litert = pytest.importorskip("ai_edge_litert.interpreter")
    network = random_network(np.random.default_rng(seed), layers=5)
    interpreter = litert.Interpreter(
        model_content=to_tflite(network),
        experimental_op_resolver_type=litert.OpResolverType.BUILTIN_REF,
        num_threads=1,
    )
    interpreter.allocate_tensors()
    source, target = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    inputs = random_inputs(network)
    for values, expected in zip(inputs, run(network, inputs)[0], strict=True):
        interpreter.set_tensor(source["index"], values[np.newaxis])
        interpreter.invoke()
        given = interpreter.get_tensor(target["index"])
        assert given.dtype == np.int8
        assert given.size == expected.size


def with_opcode(data: bytes, old: int, new: int) -> bytes:
    """The file with one builtin operator's code replaced by another's."""
    from sanderling.models.importers.flatbuffer import root
    from sanderling.models.importers.tflite_schema import Model, OperatorCode

    damaged = bytearray(data)
    for code in root(data, b"TFL3").tables(Model.OPERATOR_CODES, 10):
        if code.scalar(OperatorCode.BUILTIN_CODE, "i", 0) == old:
            damaged[code.position + int(code.fields[OperatorCode.BUILTIN_CODE])] = new
            damaged[code.position + int(code.fields[OperatorCode.DEPRECATED_BUILTIN_CODE])] = new
    return bytes(damaged)


def test_an_unsupported_operator_is_named_with_its_layer():
    tensors = tuple(Tensor(name=name, shape=(1, 4), dtype="int8", quantization=Q) for name in ("x", "act"))
    layer = Layer(name="act", operator=Elementwise(function="relu"), inputs=(0,), outputs=(1,))
    network = Network(name="n", tensors=tensors, layers=(layer,), inputs=(0,), outputs=(1,))
    hard_swish = 117
    with pytest.raises(ModelFormatError, match=r"layer 'act' \(HARD_SWISH\): this operator is not supported"):
        from_bytes(with_opcode(to_tflite(network), 19, hard_swish))


def test_float_models_are_refused_with_the_tensor_named():
    network = random_network(np.random.default_rng(0), operator="float_round_trip")
    floats = with_opcode(to_tflite(network), 114, 19)  # QUANTIZE becomes RELU on floats
    with pytest.raises(ModelFormatError, match=r"\(Elementwise\): 't1' must be int8, it is float32"):
        from_bytes(floats)


def test_load_names_the_network_after_the_file(tmp_path: Path):
    network = random_network(np.random.default_rng(0))
    (tmp_path / "wake.tflite").write_bytes(to_tflite(network))
    assert load(tmp_path / "wake.tflite").name == "wake"
    with pytest.raises(UsageError, match="cannot read the model"):
        load(tmp_path / "missing.tflite")


def test_weights_are_read_only():
    network = from_bytes(to_tflite(random_network(np.random.default_rng(0), operator="fully_connected")))
    weights = network.tensors[network.layers[0].inputs[1]].data
    assert weights is not None
    with pytest.raises(ValueError, match="read-only"):
        weights[0] = 1


def test_fully_connected_output_of_another_rank_is_reshaped():
    weights = Tensor(
        name="w",
        shape=(2, 8),
        dtype="int8",
        quantization=Quantization(scales=(0.25,), zero_points=(0,)),
        data=np.arange(16, dtype=np.int8).reshape(2, 8),
    )
    tensors = (
        Tensor(name="x", shape=(1, 2, 2, 2), dtype="int8", quantization=Q),
        weights,
        Tensor(name="y", shape=(1, 1, 2), dtype="int8", quantization=replace(Q, scales=(8.0,))),
    )
    layer = Layer(name="y", operator=FullyConnected(), inputs=(0, 1), outputs=(2,))
    network = Network(name="n", tensors=tensors, layers=(layer,), inputs=(0,), outputs=(2,))
    again = from_bytes(to_tflite(network))
    assert [type(layer.operator).__name__ for layer in again.layers] == ["FullyConnected", "Reshape"]
    inputs = random_inputs(network)
    np.testing.assert_array_equal(run(again, inputs)[0], run(network, inputs)[0])


def file_of(
    tensors: list[Tensor], operations: list[tuple], inputs: tuple[int, ...], outputs: tuple[int, ...]
) -> bytes:
    """A file of operators as converters write them: (code, version, inputs, outputs, options, fields) each."""
    names = ("code", "version", "inputs", "outputs", "options", "fields")
    graph = exporter._Graph(
        tensors=tensors,
        operations=[exporter._Operation(**dict(zip(names, each, strict=False))) for each in operations],
    )
    ends = Network(name="n", tensors=tuple(tensors), layers=(), inputs=inputs, outputs=inputs)
    object.__setattr__(ends, "outputs", outputs)
    return exporter._Writer(ends, graph).file()


def integers(name: str, *values: int) -> Tensor:
    data = np.array(values, np.int32)
    return Tensor(name=name, shape=data.shape, dtype="int32", data=data)


def activation(name: str, *shape: int) -> Tensor:
    return Tensor(name=name, shape=shape, dtype="int8", quantization=Q)


def assert_equal_to_tflm(data: bytes) -> Network:
    runtime = pytest.importorskip("tflite_micro.python.tflite_micro.runtime")
    network = from_bytes(data)
    inputs = random_inputs(network, 3)
    interpreter = runtime.Interpreter.from_bytes(data, arena_size=100_000)
    for values, expected in zip(inputs, run(network, inputs)[0], strict=True):
        interpreter.set_input(values[np.newaxis], 0)
        interpreter.invoke()
        np.testing.assert_array_equal(interpreter.get_output(0).reshape(-1), expected.reshape(-1))
    return network


def test_a_flatten_whose_target_is_computed_is_a_reshape():
    """Keras flattens a free batch by SHAPE, STRIDED_SLICE and PACK."""
    scalar = Tensor(name="batch", shape=(), dtype="int32")
    tensors = [
        activation("x", 1, 2, 3),
        Tensor(name="shape", shape=(3,), dtype="int32"),
        *(integers(name, value) for name, value in (("begin", 0), ("end", 1), ("stride", 1))),
        scalar,
        Tensor(name="minus one", shape=(), dtype="int32", data=np.array(-1, np.int32)),
        Tensor(name="target", shape=(2,), dtype="int32"),
        activation("y", 1, 6),
    ]
    operations = [
        ("SHAPE", 1, (0,), (1,), "ShapeOptions", {"OutType": 2}),
        ("STRIDED_SLICE", 1, (1, 2, 3, 4), (5,), "StridedSliceOptions", {"ShrinkAxisMask": 1}),
        ("PACK", 1, (5, 6), (7,), "PackOptions", {"ValuesCount": 2}),
        ("RESHAPE", 1, (0, 7), (8,)),
    ]
    network = assert_equal_to_tflm(file_of(tensors, operations, (0,), (8,)))
    assert [type(layer.operator).__name__ for layer in network.layers] == ["Reshape"]


def test_a_one_dimensional_signal_is_an_image_of_one_row():
    """Keras writes Conv1D as EXPAND_DIMS, CONV_2D, SQUEEZE."""
    scale = Quantization(scales=(0.125,), zero_points=(0,))
    weights = np.arange(-9, 9, dtype=np.int8).reshape(3, 1, 3, 2)
    tensors = [
        activation("x", 1, 8, 2),
        integers("axis", 1),
        activation("wide", 1, 1, 8, 2),
        Tensor(name="w", shape=(3, 1, 3, 2), dtype="int8", quantization=scale, data=weights),
        integers("bias", 5, -6, 7),
        activation("conv", 1, 1, 8, 3),
        activation("y", 1, 8, 3),
    ]
    fields = {"Padding": "SAME", "StrideH": 1, "StrideW": 1, "DilationHFactor": 1, "DilationWFactor": 1}
    operations = [
        ("EXPAND_DIMS", 1, (0, 1), (2,)),
        ("CONV_2D", 3, (2, 3, 4), (5,), "Conv2DOptions", fields),
        ("SQUEEZE", 1, (5,), (6,), "SqueezeOptions", {"SqueezeDims": (1,)}),
    ]
    network = assert_equal_to_tflm(file_of(tensors, operations, (0,), (6,)))
    assert [type(layer.operator).__name__ for layer in network.layers] == ["Reshape", "Conv2D", "Reshape"]


@pytest.mark.parametrize("value", [3, 4])
def test_padding_with_another_value_than_zero_is_refused(value):
    filler = Tensor(name="v", shape=(1,), dtype="int8", quantization=Q, data=np.array([value], np.int8))
    amounts = np.array([[0, 0], [1, 2]], np.int32)
    tensors = [
        activation("x", 1, 4),
        Tensor(name="amounts", shape=(2, 2), dtype="int32", data=amounts),
        filler,
        activation("y", 1, 7),
    ]
    data = file_of(tensors, [("PADV2", 1, (0, 1, 2), (3,))], (0,), (3,))
    if value == Q.zero_points[0]:
        assert_equal_to_tflm(data)
    else:
        with pytest.raises(
            ModelFormatError, match=r"layer 'y' \(PADV2\): padding with a value other than zero"
        ):
            from_bytes(data)
