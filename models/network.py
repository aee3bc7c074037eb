"""An int8 network as frozen data: the one intermediate form between files, arithmetic and firmware.

A network is a list of tensors and a list of layers that read and write them, in execution order: the
shape of TensorFlow Lite's graph, since its int8 specification is the arithmetic we follow
(https://ai.google.dev/edge/litert/models/quantization_spec). Activations are NHWC, a 1-D signal has H = 1.
Real value = scale * (integer - zero_point). Weights are symmetric (zero point 0), per tensor or per channel.
models/operators.py defines tensors and operators; their names are here too.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass

import numpy as np

from sanderling.models.checks import check_layer, check_tensor
from sanderling.models.errors import ModelFormatError
from sanderling.models.operators import (
    Activation,
    Add,
    Concatenate,
    Conv2D,
    DepthwiseConv2D,
    Dequantize,
    DType,
    Elementwise,
    FullyConnected,
    Layer,
    Mean,
    Mul,
    Operator,
    Pad,
    Pool2D,
    Quantization,
    Quantize,
    Reshape,
    Softmax,
    Tensor,
)

__all__ = [
    "Activation",
    "Add",
    "Concatenate",
    "Conv2D",
    "DType",
    "DepthwiseConv2D",
    "Dequantize",
    "Elementwise",
    "FullyConnected",
    "Layer",
    "Mean",
    "Mul",
    "Network",
    "Operator",
    "Pad",
    "Pool2D",
    "Quantization",
    "Quantize",
    "Reshape",
    "Softmax",
    "Tensor",
    "describe",
    "multiply_accumulates",
    "validate",
]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Network:
    """The whole graph. Raises ModelFormatError on construction when it does not hold together.

    Networks compare by identity; `content_hash` tells whether two compute the same.
    """

    name: str
    tensors: tuple[Tensor, ...]
    layers: tuple[Layer, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]

    def __post_init__(self) -> None:
        validate(self)

    def __str__(self) -> str:
        return describe(self)

    @property
    def content_hash(self) -> bytes:
        """BLAKE2b-256 over everything that decides an output byte; names are left out. 32 bytes."""
        digest = hashlib.blake2b(b"sanderling network 1", digest_size=32)
        for tensor in self.tensors:
            quantization = None if tensor.quantization is None else asdict(tensor.quantization)
            digest.update(_canonical([tensor.shape, tensor.dtype, quantization]))
            if tensor.data is not None:
                little_endian = tensor.data.dtype.newbyteorder("<")
                digest.update(np.ascontiguousarray(tensor.data, dtype=little_endian).tobytes())
        for layer in self.layers:
            kind = type(layer.operator).__name__
            digest.update(_canonical([kind, asdict(layer.operator), layer.inputs, layer.outputs]))
        digest.update(_canonical([self.inputs, self.outputs]))
        return digest.digest()


def _canonical(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode() + b"\n"


def validate(network: Network) -> None:
    """Refuses indices out of range, reads before writes, second writes, and malformed tensors and layers."""
    count = len(network.tensors)
    for tensor in network.tensors:
        check_tensor(tensor)
    for index in (*network.inputs, *network.outputs):
        if not 0 <= index < count:
            raise ModelFormatError(f"network {network.name!r}: tensor {index} of {count} does not exist")
    if not network.inputs or not network.outputs or len(set(network.inputs)) < len(network.inputs):
        raise ModelFormatError(f"network {network.name!r} needs distinct inputs, and outputs")
    if constant := [i for i in network.inputs if network.tensors[i].data is not None]:
        raise ModelFormatError(
            f"input {network.tensors[constant[0]].name!r} has data: a constant is no input"
        )
    known = {i for i, tensor in enumerate(network.tensors) if tensor.data is not None} | set(network.inputs)
    for layer in network.layers:
        for index in (*layer.inputs, *layer.outputs):
            if not 0 <= index < count:
                raise ModelFormatError(f"layer {layer.name!r}: tensor {index} of {count} does not exist")
        if missing := [i for i in layer.inputs if i not in known]:
            raise ModelFormatError(
                f"layer {layer.name!r} reads {network.tensors[missing[0]].name!r} before any layer wrote it"
            )
        if twice := [i for i in layer.outputs if i in known]:
            raise ModelFormatError(
                f"layer {layer.name!r} writes {network.tensors[twice[0]].name!r}, which has its value already"
            )
        check_layer(layer, network.tensors)
        known |= set(layer.outputs)
    if missing := [i for i in network.outputs if i not in known]:
        raise ModelFormatError(f"output {network.tensors[missing[0]].name!r} is written by no layer")


def multiply_accumulates(network: Network, layer: Layer) -> int:
    """How many multiply-accumulates the layer takes for one input; 0 for layers without weights."""
    output = math.prod(network.tensors[layer.outputs[0]].shape)
    match layer.operator:
        case Conv2D() | FullyConnected():
            return output * math.prod(network.tensors[layer.inputs[1]].shape[1:])
        case DepthwiseConv2D():
            return output * math.prod(network.tensors[layer.inputs[1]].shape[1:3])
    return 0


def parameter_count(network: Network) -> int:
    """Weights and biases, and whatever else is constant."""
    return sum(tensor.data.size for tensor in network.tensors if tensor.data is not None)


def describe(network: Network) -> str:
    """The network as text: a line a layer, with output, scale, bytes of constants, multiply-accumulates."""
    rows = [("layer", "operator", "output", "scale", "zero", "bytes", "MACs")]
    rows += [("", "input", *_tensor_columns(network.tensors[i]), "", "") for i in network.inputs]
    for layer in network.layers:
        constants = [data for i in layer.inputs if (data := network.tensors[i].data) is not None]
        rows.append(
            (
                _shortened(layer.name, 40),
                _operator_text(layer.operator),
                *_tensor_columns(network.tensors[layer.outputs[0]]),
                str(sum(data.nbytes for data in constants)),
                str(multiply_accumulates(network, layer)),
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    total = sum(multiply_accumulates(network, layer) for layer in network.layers)
    title = f"{network.name}: {len(network.layers)} layers, {total} MACs, {network.content_hash.hex()}"
    return "\n".join([title, *(line.rstrip() for line in lines)])


def _tensor_columns(tensor: Tensor) -> tuple[str, str, str]:
    shape = f"{tensor.dtype}[{', '.join(map(str, tensor.shape))}]"
    if tensor.quantization is None:
        return shape, "", ""
    return shape, f"{tensor.quantization.scales[0]:.6g}", str(tensor.quantization.zero_points[0])


def _operator_text(operator: Operator) -> str:
    fields = ", ".join(f"{name}={value}" for name, value in asdict(operator).items() if value != "none")
    return f"{type(operator).__name__}({fields})".replace(" ", "").replace(",", ", ")


def _shortened(text: str, length: int) -> str:
    return text if len(text) <= length else "…" + text[-length + 1 :]
