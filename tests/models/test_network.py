"""What a network accepts, what its hash covers, how it prints."""

from dataclasses import replace

import numpy as np
import pytest

from sanderling.models.errors import ModelFormatError
from sanderling.models.network import (
    Add,
    Concatenate,
    Conv2D,
    Dequantize,
    Elementwise,
    FullyConnected,
    Layer,
    Mean,
    Network,
    Operator,
    Pad,
    Pool2D,
    Quantization,
    Quantize,
    Reshape,
    Softmax,
    Tensor,
    describe,
    multiply_accumulates,
)

Q = Quantization(scales=(0.5,), zero_points=(0,))
PROBABILITY = Quantization(scales=(1 / 256,), zero_points=(-128,))


def int8(
    name: str, *shape: int, quantization: Quantization | None = Q, data: np.ndarray | None = None
) -> Tensor:
    return Tensor(name=name, shape=shape, dtype="int8", quantization=quantization, data=data)


def network(operator: Operator, *tensors: Tensor, inputs: tuple[int, ...] = (0,)) -> Network:
    """One layer from all tensors but the last to the last."""
    last = len(tensors) - 1
    layer = Layer(name="layer", operator=operator, inputs=tuple(range(last)), outputs=(last,))
    return Network(name="n", tensors=tensors, layers=(layer,), inputs=inputs, outputs=(last,))


def dense(scale: float = 0.25) -> Network:
    weights = int8(
        "w",
        3,
        4,
        quantization=Quantization(scales=(scale,), zero_points=(0,)),
        data=np.arange(12, dtype=np.int8).reshape(3, 4),
    )
    return network(FullyConnected(activation="relu"), int8("x", 1, 4), weights, int8("y", 1, 3))


CONV = Conv2D(stride=(1, 1), padding=(0, 0, 0, 0))
FILTER = int8("w", 2, 3, 3, 5, data=np.zeros((2, 3, 3, 5), np.int8))


@pytest.mark.parametrize(
    ("why", "operator", "tensors"),
    [
        ("shape", CONV, (int8("x", 1, 8, 8, 5), FILTER, int8("y", 1, 8, 8, 2))),
        ("grouped", CONV, (int8("x", 1, 8, 8, 10), FILTER, int8("y", 1, 6, 6, 2))),
        ("constant", CONV, (int8("x", 1, 8, 8, 5), replace(FILTER, data=None), int8("y", 1, 6, 6, 2))),
        ("4 dimensions", CONV, (int8("x", 8, 8, 5), FILTER, int8("y", 1, 6, 6, 2))),
        ("one scale", Elementwise(function="relu"), (int8("x", 4, quantization=None), int8("y", 4))),
        ("scale 0.0078125", Elementwise(function="tanh"), (int8("x", 4), int8("y", 4))),
        ("scale 0.00390625", Softmax(), (int8("x", 4), int8("y", 4))),
        ("beta", Softmax(beta=0.0), (int8("x", 4), int8("y", 4, quantization=PROBABILITY))),
        ("cannot become", Reshape(), (int8("x", 4), int8("y", 5))),
        ("broadcast", Add(), (int8("x", 1, 4), int8("z", 1, 3), int8("y", 1, 4))),
        ("ascending", Mean(axes=(2, 1), keep_dims=True), (int8("x", 1, 2, 2, 3), int8("y", 1, 1, 1, 3))),
        (
            "smaller than the window",
            Pool2D(kind="max", window=(2, 2), stride=(2, 2), padding=(2, 2, 2, 2)),
            (int8("x", 1, 2, 2, 3), int8("y", 1, 3, 3, 3)),
        ),
        ("pair", Pad(amounts=((0, 0),)), (int8("x", 1, 4), int8("y", 1, 4))),
        ("same scale", Concatenate(axis=1), (int8("x", 1, 4), int8("y", 1, 4, quantization=PROBABILITY))),
        ("float32", Dequantize(), (int8("x", 1, 4), int8("y", 1, 4))),
        ("inputs", Elementwise(function="relu"), (int8("x", 4), int8("z", 4), int8("y", 4))),
    ],
)
def test_a_malformed_layer_is_refused_with_its_name_and_operator(why, operator, tensors):
    inputs = tuple(i for i, tensor in enumerate(tensors[:-1]) if tensor.data is None)
    with pytest.raises(ModelFormatError, match=rf"layer 'layer' \({type(operator).__name__}\).*{why}"):
        network(operator, *tensors, inputs=inputs)


@pytest.mark.parametrize(
    ("why", "tensor"),
    [
        ("1 or more", int8("x", 1, 0)),
        ("elements", int8("x", 2**20, 2**20)),
        ("data is", int8("x", 3, data=np.zeros(4, np.int8))),
        ("exactly a float32", int8("x", 1, 4, quantization=Quantization(scales=(0.1,), zero_points=(0,)))),
        ("positive", int8("x", 1, 4, quantization=Quantization(scales=(0.0,), zero_points=(0,)))),
        ("-128..127", int8("x", 1, 4, quantization=Quantization(scales=(1.0,), zero_points=(128,)))),
        ("axis", int8("x", 1, 4, quantization=Quantization(scales=(1.0, 1.0), zero_points=(0, 0), axis=0))),
        ("not supported", replace(int8("x", 1, 4), dtype="float64")),
    ],
)
def test_a_malformed_tensor_is_refused_by_name(why, tensor):
    with pytest.raises(ModelFormatError, match=f"tensor 'x'.*{why}"):
        network(Reshape(), tensor, int8("y", 1, 4))


def test_reads_before_writes_are_refused():
    layers = (
        Layer(name="first", operator=Reshape(), inputs=(1,), outputs=(2,)),
        Layer(name="second", operator=Reshape(), inputs=(0,), outputs=(1,)),
    )
    tensors = (int8("x", 4), int8("y", 4), int8("z", 4))
    with pytest.raises(ModelFormatError, match="'first' reads 'y' before any layer wrote it"):
        Network(name="n", tensors=tensors, layers=layers, inputs=(0,), outputs=(2,))


def test_a_layer_of_constants_alone_is_refused():
    tensors = (int8("x", 4), int8("c", 4, data=np.zeros(4, np.int8)), int8("y", 4))
    layer = Layer(name="l", operator=Reshape(), inputs=(1,), outputs=(2,))
    with pytest.raises(ModelFormatError, match="one of the inputs must not be constant"):
        Network(name="n", tensors=tensors, layers=(layer,), inputs=(0,), outputs=(2,))


def test_a_second_write_is_refused():
    layer = Layer(name="l", operator=Reshape(), inputs=(0,), outputs=(1,))
    with pytest.raises(ModelFormatError, match="which has its value already"):
        Network(
            name="n", tensors=(int8("x", 4), int8("y", 4)), layers=(layer, layer), inputs=(0,), outputs=(1,)
        )


@pytest.mark.parametrize("outputs", [(7,), (-1,), ()])
def test_outputs_must_exist(outputs):
    with pytest.raises(ModelFormatError):
        Network(name="n", tensors=(int8("x", 4),), layers=(), inputs=(0,), outputs=outputs)


def test_quantize_takes_floats_or_one_unsigned_side():
    floats = Tensor(name="f", shape=(4,), dtype="float32")
    unsigned = Tensor(name="u", shape=(4,), dtype="uint8", quantization=Q)
    network(Quantize(), floats, int8("y", 4))
    network(Quantize(), unsigned, int8("y", 4))
    with pytest.raises(ModelFormatError, match="uint8 to uint8"):
        network(Quantize(), unsigned, replace(unsigned, name="y"))


def test_the_content_hash_covers_what_decides_an_output_and_no_names():
    base = dense()
    named = replace(base, name="other", tensors=tuple(replace(tensor, name="t") for tensor in base.tensors))
    assert named.content_hash == base.content_hash
    assert len(base.content_hash) == 32
    assert dense(scale=0.5).content_hash != base.content_hash
    activation = replace(base.layers[0], operator=FullyConnected())
    assert replace(base, layers=(activation,)).content_hash != base.content_hash


def test_the_content_hash_is_this():
    # Pinned: devices and ledgers hold such hashes.
    assert dense().content_hash.hex() == "693d8d6300e1bfa555364f1ae09243932dd0994c7a6f8c09d13f70ca1676e3f3"


def test_multiply_accumulates_count_products():
    assert multiply_accumulates(dense(), dense().layers[0]) == 12
    conv = network(CONV, int8("x", 1, 8, 8, 5), FILTER, int8("y", 1, 6, 6, 2))
    assert multiply_accumulates(conv, conv.layers[0]) == 6 * 6 * 2 * 3 * 3 * 5


def test_a_network_prints_a_line_a_layer():
    lines = str(dense()).splitlines()
    assert lines[0] == f"n: 1 layers, 12 MACs, {dense().content_hash.hex()}"
    assert lines[1].split() == ["layer", "operator", "output", "scale", "zero", "bytes", "MACs"]
    assert "FullyConnected(activation=relu)" in lines[3] and "int8[1, 3]" in lines[3]
    assert str(dense()) == describe(dense())
