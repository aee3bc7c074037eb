"""A network as ONNX with QuantizeLinear and DequantizeLinear around each operator (QDQ), for ONNX Runtime.

https://onnx.ai/onnx/operators, opset 17. Inputs and outputs are those of the network, int8 and NHWC; inside, four
dimensions are NCHW, with a Transpose where they enter and leave. The batch dimension is free unless a tensor of
the network fixes it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sanderling.models import arithmetic
from sanderling.models.network import (
    Activation,
    Add,
    Concatenate,
    Conv2D,
    DepthwiseConv2D,
    Dequantize,
    Elementwise,
    FullyConnected,
    Layer,
    Mean,
    Mul,
    Network,
    Pad,
    Pool2D,
    Quantization,
    Quantize,
    Reshape,
    Softmax,
    Tensor,
)
from sanderling.models.optional import require

OPSET, IR_VERSION = 17, 8
TO_NCHW, TO_NHWC = (0, 3, 1, 2), (0, 2, 3, 1)
AXIS_IN_NCHW = (0, 2, 3, 1)  # of each axis of NHWC
FUNCTIONS = {"relu": "Relu", "tanh": "Tanh", "logistic": "Sigmoid"}


def to_onnx(network: Network) -> bytes:
    """The file's bytes. MissingError without the extra `models`."""
    onnx = require("onnx", "models")
    writer = _Writer(network=network, helper=onnx.helper, free_batch=_batch_is_free(network))
    for index in network.inputs:
        writer.read_input(index)
    for layer in network.layers:
        writer.layer = layer
        _write(writer, layer)
    outputs = [writer.write_output(index) for index in network.outputs]
    inputs = [writer.declaration(writer.interface_name(i), i) for i in network.inputs]
    graph = onnx.helper.make_graph(
        writer.nodes, network.name, inputs, outputs, initializer=writer.initializers
    )
    model = onnx.helper.make_model(
        graph,
        opset_imports=[onnx.helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="sanderling",
    )
    return bytes(model.SerializeToString())


def _batch_is_free(network: Network) -> bool:
    """Every activation has batch 1, and no constant is joined to one along another axis."""
    for layer in network.layers:
        joins = isinstance(layer.operator, Concatenate)
        if joins and any(network.tensors[index].data is not None for index in layer.inputs):
            return False
    written = {index for layer in network.layers for index in layer.outputs} | set(network.inputs)
    return all(network.tensors[index].shape[:1] == (1,) for index in written)


@dataclass(slots=True, kw_only=True)
class _Writer:
    """Nodes and constants so far. `values` names the integer value of each tensor, NCHW where it has four axes."""

    network: Network
    helper: Any
    free_batch: bool
    nodes: list[Any] = field(default_factory=list)
    initializers: list[Any] = field(default_factory=list)
    values: dict[int, str] = field(default_factory=dict)
    layer: Layer | None = None

    def tensor(self, index: int) -> Tensor:
        return self.network.tensors[index]

    def node(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """Adds a node with one output and returns that output's name."""
        name = f"v{len(self.nodes)}"
        label = "" if self.layer is None else self.layer.name
        self.nodes.append(
            self.helper.make_node(operator, inputs, [name], name=f"{label}/{operator}/{name}", **attributes)
        )
        return name

    def constant(self, array: NDArray[Any]) -> str:
        name = f"c{len(self.initializers)}"
        kind = self.helper.np_dtype_to_tensor_dtype(array.dtype)
        little_endian = array.astype(array.dtype.newbyteorder("<"))
        self.initializers.append(
            self.helper.make_tensor(name, kind, array.shape, little_endian.tobytes(), raw=True)
        )
        return name

    def transposed(self, value: str, rank: int, order: tuple[int, ...]) -> str:
        return self.node("Transpose", value, perm=order) if rank == 4 else value

    def read_input(self, index: int) -> None:
        tensor = self.tensor(index)
        self.values[index] = self.transposed(self.interface_name(index), len(tensor.shape), TO_NCHW)

    def write_output(self, index: int) -> Any:
        name = f"output_{self.network.outputs.index(index)}"
        value = self.channels_last(index)
        self.nodes.append(self.helper.make_node("Identity", [value], [name]))
        return self.declaration(name, index)

    def interface_name(self, index: int) -> str:
        return f"input_{self.network.inputs.index(index)}"

    def declaration(self, name: str, index: int) -> Any:
        tensor = self.tensor(index)
        kind = self.helper.np_dtype_to_tensor_dtype(np.dtype(tensor.dtype))
        shape = ["N", *tensor.shape[1:]] if self.free_batch else list(tensor.shape)
        return self.helper.make_tensor_value_info(name, kind, shape)

    def integers(self, index: int) -> str:
        """The tensor's integers, four axes as NCHW."""
        data = self.tensor(index).data
        if index not in self.values:
            assert data is not None, "a network's layers are in order of execution"
            self.values[index] = self.constant(data.transpose(TO_NCHW) if data.ndim == 4 else data)
        return self.values[index]

    def channels_last(self, index: int) -> str:
        return self.transposed(self.integers(index), len(self.tensor(index).shape), TO_NHWC)

    def dequantize(self, integers: str, quantization: Quantization | None, dtype: str, axis: int = 0) -> str:
        """DequantizeLinear, per channel along `axis` where there are more scales than one."""
        assert quantization is not None
        return self.node("DequantizeLinear", integers, *self.scale(quantization, dtype), axis=axis)

    def reals(self, index: int) -> str:
        tensor = self.tensor(index)
        return self.dequantize(self.integers(index), tensor.quantization, tensor.dtype)

    def quantize(self, reals: str, index: int, activation: Activation = "none") -> str:
        """QuantizeLinear to the tensor's scale; saturation does what it can of the activation."""
        tensor = self.tensor(index)
        assert tensor.quantization is not None
        scale, zero_point = tensor.quantization.scales[0], tensor.quantization.zero_points[0]
        low, high = arithmetic.activation_range(activation, scale, zero_point)
        if (low, high) != (-128, 127):
            reals = self.clamp(reals, activation)
        return self.node("QuantizeLinear", reals, *self.scale(tensor.quantization, tensor.dtype))

    def clamp(self, reals: str, activation: str) -> str:
        if activation == "relu":
            return self.node("Relu", reals)
        bounds = (self.constant(np.array(bound, dtype=np.float32)) for bound in (0, 6))
        return self.node("Clip", reals, *bounds)

    def scale(self, quantization: Quantization, dtype: str) -> tuple[str, str]:
        one = len(quantization.scales) == 1
        scales, zero_points = quantization.scales, quantization.zero_points
        return (
            self.constant(np.array(scales[0] if one else scales, dtype=np.float32)),
            self.constant(np.array(zero_points[0] if one else zero_points, dtype=dtype)),
        )

    def reshape(self, value: str, shape: tuple[int, ...]) -> str:
        """To `shape`, whose first dimension is left open where the batch is free."""
        target = (-1, *shape[1:]) if self.free_batch else shape
        return self.node("Reshape", value, self.constant(np.array(target, dtype=np.int64)))


def _write(writer: _Writer, layer: Layer) -> None:
    """Adds the layer's nodes and names its output."""
    source, target = layer.inputs[0], layer.outputs[0]
    match layer.operator:
        case Conv2D() | DepthwiseConv2D() as operator:
            value = _convolution(writer, layer, operator)
        case FullyConnected() as operator:
            value = _fully_connected(writer, layer, operator)
        case Pool2D() as operator:
            value = writer.quantize(_pool(writer, source, operator), target, operator.activation)
        case Mean() as operator:
            value = writer.quantize(_mean(writer, source, operator), target)
        case Add() as operator:
            value = writer.quantize(_binary(writer, "Add", layer), target, operator.activation)
        case Mul() as operator:
            value = writer.quantize(_binary(writer, "Mul", layer), target, operator.activation)
        case Pad() as operator:
            value = writer.quantize(_pad(writer, source, operator), target)
        case Reshape():
            value = _as_tensor(
                writer, writer.reshape(writer.channels_last(source), _shape(writer, target)), target
            )
        case Concatenate() as operator:
            axis = AXIS_IN_NCHW[operator.axis] if len(_shape(writer, target)) == 4 else operator.axis
            parts = (writer.reals(index) for index in layer.inputs)
            value = writer.quantize(writer.node("Concat", *parts, axis=axis), target)
        case Elementwise(function="relu6"):
            value = writer.quantize(writer.reals(source), target, "relu6")
        case Elementwise() as operator:
            value = writer.quantize(writer.node(FUNCTIONS[operator.function], writer.reals(source)), target)
        case Softmax() as operator:
            value = writer.quantize(_softmax(writer, source, operator), target)
        case Quantize():
            floats = writer.tensor(source).dtype == "float32"
            value = writer.quantize(writer.integers(source) if floats else writer.reals(source), target)
        case Dequantize():
            value = writer.reals(source)
    writer.values[target] = value


def _shape(writer: _Writer, index: int) -> tuple[int, ...]:
    return writer.tensor(index).shape


def _as_tensor(writer: _Writer, value: str, index: int) -> str:
    """A value in the tensor's own axes as `values` holds it."""
    return writer.transposed(value, len(_shape(writer, index)), TO_NCHW)


def _convolution(writer: _Writer, layer: Layer, operator: Conv2D | DepthwiseConv2D) -> str:
    filters = writer.tensor(layer.inputs[1])
    assert filters.data is not None
    depthwise = isinstance(operator, DepthwiseConv2D)
    order = (3, 0, 1, 2) if depthwise else (0, 3, 1, 2)  # 1HWC or OHWI to OIHW
    weights = writer.dequantize(writer.constant(filters.data.transpose(order)), filters.quantization, "int8")
    top, bottom, left, right = operator.padding
    result = writer.node(
        "Conv",
        writer.reals(layer.inputs[0]),
        weights,
        *_bias(writer, layer),
        group=_shape(writer, layer.inputs[0])[3] if depthwise else 1,
        kernel_shape=filters.shape[1:3],
        strides=operator.stride,
        dilations=operator.dilation,
        pads=(top, left, bottom, right),
    )
    return writer.quantize(result, layer.outputs[0], operator.activation)


def _fully_connected(writer: _Writer, layer: Layer, operator: FullyConnected) -> str:
    weights = writer.tensor(layer.inputs[1])
    assert weights.data is not None
    units, width = weights.shape
    source, target = layer.inputs[0], layer.outputs[0]
    rows = writer.channels_last(source)
    if len(_shape(writer, source)) != 2 or _shape(writer, source)[1] != width:
        rows = writer.node("Reshape", rows, writer.constant(np.array((-1, width), dtype=np.int64)))
    reals = writer.dequantize(rows, writer.tensor(source).quantization, "int8")
    matrix = writer.dequantize(writer.constant(weights.data), weights.quantization, "int8")
    result = writer.node("Gemm", reals, matrix, *_bias(writer, layer), transB=1)
    integers = writer.quantize(result, target, operator.activation)
    shape = _shape(writer, target)
    if shape != (math.prod(shape) // units, units) or (writer.free_batch and shape[0] != 1):
        integers = writer.reshape(integers, shape)
    return _as_tensor(writer, integers, target)


def _bias(writer: _Writer, layer: Layer) -> tuple[str, ...]:
    """The bias, as int32 steps of s_in * s_w, if there is one."""
    if len(layer.inputs) < 3:
        return ()
    x, weights, bias = (writer.tensor(index) for index in layer.inputs)
    assert x.quantization is not None and weights.quantization is not None and bias.data is not None
    input_scale = np.float32(x.quantization.scales[0])
    scales = tuple(float(input_scale * np.float32(scale)) for scale in weights.quantization.scales)
    quantization = Quantization(scales=scales, zero_points=(0,) * len(scales))
    return (writer.dequantize(writer.constant(bias.data), quantization, "int32"),)


def _pool(writer: _Writer, source: int, operator: Pool2D) -> str:
    top, bottom, left, right = operator.padding
    return writer.node(
        "AveragePool" if operator.kind == "average" else "MaxPool",
        writer.reals(source),
        kernel_shape=operator.window,
        strides=operator.stride,
        pads=(top, left, bottom, right),
    )


def _mean(writer: _Writer, source: int, operator: Mean) -> str:
    rank = len(_shape(writer, source))
    axes = operator.axes
    if rank != 4:
        return writer.node("ReduceMean", writer.reals(source), axes=axes, keepdims=int(operator.keep_dims))
    if operator.keep_dims or 3 in axes or {1, 2} <= set(axes):  # the axes that stay are in the same order
        mapped = sorted(AXIS_IN_NCHW[axis] for axis in axes)
        return writer.node("ReduceMean", writer.reals(source), axes=mapped, keepdims=int(operator.keep_dims))
    tensor = writer.tensor(source)
    reals = writer.dequantize(writer.channels_last(source), tensor.quantization, tensor.dtype)
    return writer.node("ReduceMean", reals, axes=axes, keepdims=0)


def _binary(writer: _Writer, operator: str, layer: Layer) -> str:
    rank = len(_shape(writer, layer.outputs[0]))
    return writer.node(operator, *(_of_rank(writer, index, rank) for index in layer.inputs))


def _of_rank(writer: _Writer, index: int, rank: int) -> str:
    """The tensor's reals, broadcast from fewer axes than the other operand's: ones go in front, then NCHW."""
    tensor = writer.tensor(index)
    if len(tensor.shape) == rank:
        return writer.reals(index)
    wide = writer.node(
        "Reshape",
        writer.integers(index),
        writer.constant(np.array((*(1,) * (rank - len(tensor.shape)), *tensor.shape), dtype=np.int64)),
    )
    return writer.dequantize(writer.transposed(wide, rank, TO_NCHW), tensor.quantization, tensor.dtype)


def _pad(writer: _Writer, source: int, operator: Pad) -> str:
    amounts = operator.amounts
    if len(amounts) == 4:
        amounts = tuple(amounts[axis] for axis in TO_NCHW)
    pads = [before for before, _ in amounts] + [after for _, after in amounts]
    return writer.node("Pad", writer.reals(source), writer.constant(np.array(pads, dtype=np.int64)))


def _softmax(writer: _Writer, source: int, operator: Softmax) -> str:
    reals = writer.reals(source)
    if operator.beta != 1.0:
        reals = writer.node("Mul", reals, writer.constant(np.array(operator.beta, dtype=np.float32)))
    axis = 1 if len(_shape(writer, source)) == 4 else -1
    return writer.node("Softmax", reals, axis=axis)
