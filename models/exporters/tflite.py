"""A network as a TensorFlow Lite file that LiteRT, tflite-runtime 2.14 and TensorFlow Lite Micro load.

Schema: tensorflow/compiler/mlir/lite/schema/schema.fbs, version 3. Operators get the lowest version that
takes int8, since a runtime refuses versions it does not know.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sanderling.models.errors import ModelFormatError
from sanderling.models.network import (
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
from sanderling.models.windows import same_padding, window_output

ACTIVATIONS = {"none": "NONE", "relu": "RELU", "relu6": "RELU6"}
ELEMENTWISE = {"relu": "RELU", "relu6": "RELU6", "tanh": "TANH", "logistic": "LOGISTIC"}


def to_tflite(network: Network) -> bytes:
    """The file. Inputs and outputs keep their types.

    Convolutions whose padding is neither SAME nor VALID get a PAD operator before them. ModelFormatError for
    pools with such padding, which TFLite cannot express. MissingError without the extra `models`.
    """
    graph = _Graph(tensors=list(network.tensors))
    for layer in network.layers:
        _lower(graph, layer)
    return _Writer(network, graph).file()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Operation:
    """A TFLite operator: code and version, options table and its fields, tensors."""

    code: str
    version: int
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: str = ""
    fields: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True, kw_only=True)
class _Graph:
    tensors: list[Tensor]
    operations: list[_Operation] = field(default_factory=list)

    def add_tensor(self, tensor: Tensor) -> int:
        self.tensors.append(tensor)
        return len(self.tensors) - 1

    def add_constant(self, name: str, values: Any) -> int:
        data = np.array(values, dtype=np.int32)
        return self.add_tensor(Tensor(name=name, shape=data.shape, dtype="int32", data=data))


def _lower(graph: _Graph, layer: Layer) -> None:
    """Appends the layer's operations."""

    def emit(code: str, version: int, options: str = "", extra: tuple[int, ...] = (), **fields: Any) -> None:
        inputs = (*layer.inputs, *extra)
        graph.operations.append(
            _Operation(
                code=code,
                version=version,
                inputs=inputs,
                outputs=layer.outputs,
                options=options,
                fields=fields,
            )
        )

    output = graph.tensors[layer.outputs[0]]
    match layer.operator:
        case Conv2D() | DepthwiseConv2D() as operator:
            _lower_convolution(graph, layer, operator)
        case FullyConnected() as operator:
            _lower_fully_connected(graph, layer, operator)
        case Pool2D() as operator:
            code = "AVERAGE_POOL_2D" if operator.kind == "average" else "MAX_POOL_2D"
            emit(code, 2, "Pool2DOptions", **_pool_fields(graph, layer, operator))
        case Mean() as operator:
            axes = graph.add_constant(f"{layer.name}/axes", operator.axes)
            emit("MEAN", 2, "ReducerOptions", extra=(axes,), KeepDims=operator.keep_dims)
        case Add() as operator:
            emit("ADD", 2, "AddOptions", FusedActivationFunction=ACTIVATIONS[operator.activation])
        case Mul() as operator:
            version = 3 if _mul_grows(graph, layer) else 2
            emit("MUL", version, "MulOptions", FusedActivationFunction=ACTIVATIONS[operator.activation])
        case Pad() as operator:
            amounts = graph.add_constant(f"{layer.name}/amounts", operator.amounts)
            emit("PAD", 2, "PadOptions", extra=(amounts,))
        case Reshape():
            shape = graph.add_constant(f"{layer.name}/shape", output.shape)
            emit("RESHAPE", 1, "ReshapeOptions", extra=(shape,), NewShape=output.shape)
        case Concatenate() as operator:
            emit("CONCATENATION", 2, "ConcatenationOptions", Axis=operator.axis)
        case Elementwise() as operator:
            emit(ELEMENTWISE[operator.function], 2)
        case Softmax() as operator:
            emit("SOFTMAX", 2, "SoftmaxOptions", Beta=operator.beta)
        case Quantize():
            version = 1 if graph.tensors[layer.inputs[0]].dtype == "float32" else 2
            emit("QUANTIZE", version, "QuantizeOptions")
        case Dequantize():
            emit("DEQUANTIZE", 2, "DequantizeOptions")


def _lower_convolution(graph: _Graph, layer: Layer, operator: Conv2D | DepthwiseConv2D) -> None:
    x, filters = graph.tensors[layer.inputs[0]], graph.tensors[layer.inputs[1]]
    padding = _named_padding(
        x.shape, filters.shape[1:3], operator.stride, operator.padding, operator.dilation
    )
    source = layer.inputs[0]
    if padding is None:
        source, padding = _lower_explicit_padding(graph, layer, operator), "VALID"
    fields: dict[str, Any] = {
        "Padding": padding,
        "StrideH": operator.stride[0],
        "StrideW": operator.stride[1],
        "DilationHFactor": operator.dilation[0],
        "DilationWFactor": operator.dilation[1],
        "FusedActivationFunction": ACTIVATIONS[operator.activation],
    }
    code, options = "CONV_2D", "Conv2DOptions"
    if isinstance(operator, DepthwiseConv2D):
        code, options = "DEPTHWISE_CONV_2D", "DepthwiseConv2DOptions"
        fields["DepthMultiplier"] = operator.multiplier
    graph.operations.append(
        _Operation(
            code=code,
            version=3,
            inputs=(source, *_with_bias(graph, layer)),
            outputs=layer.outputs,
            options=options,
            fields=fields,
        )
    )


def _lower_explicit_padding(graph: _Graph, layer: Layer, operator: Conv2D | DepthwiseConv2D) -> int:
    """A PAD in front of the layer, filled with the zero point; returns the padded tensor."""
    x = graph.tensors[layer.inputs[0]]
    top, bottom, left, right = operator.padding
    batch, height, width, channels = x.shape
    shape = (batch, height + top + bottom, width + left + right, channels)
    padded = graph.add_tensor(replace(x, name=f"{layer.name}/padded", shape=shape))
    amounts = graph.add_constant(f"{layer.name}/amounts", ((0, 0), (top, bottom), (left, right), (0, 0)))
    graph.operations.append(
        _Operation(
            code="PAD", version=2, inputs=(layer.inputs[0], amounts), outputs=(padded,), options="PadOptions"
        )
    )
    return padded


def _lower_fully_connected(graph: _Graph, layer: Layer, operator: FullyConnected) -> None:
    x, output = graph.tensors[layer.inputs[0]], graph.tensors[layer.outputs[0]]
    units = output.shape[-1]
    rows = (math.prod(output.shape) // units, units)
    keep = output.shape == (*x.shape[:-1], units) and len(output.shape) != 2
    flat = keep or output.shape == rows
    target = (
        layer.outputs[0] if flat else graph.add_tensor(replace(output, name=f"{layer.name}/rows", shape=rows))
    )
    graph.operations.append(
        _Operation(
            code="FULLY_CONNECTED",
            version=4 if not keep else 5,
            inputs=(layer.inputs[0], *_with_bias(graph, layer)),
            outputs=(target,),
            options="FullyConnectedOptions",
            fields={"FusedActivationFunction": ACTIVATIONS[operator.activation], "KeepNumDims": keep},
        )
    )
    if not flat:
        reshape = Layer(name=layer.name, operator=Reshape(), inputs=(target,), outputs=layer.outputs)
        _lower(graph, reshape)


def _with_bias(graph: _Graph, layer: Layer) -> tuple[int, int]:
    """Weights and bias; the bias gets the scales that runtimes check it for, s_in * s_w.

    A layer without one gets zeros: TFLM's depthwise kernel crashes when it is left out.
    """
    x, weights = (graph.tensors[i] for i in layer.inputs[:2])
    assert x.quantization is not None and weights.quantization is not None
    if len(layer.inputs) > 2:
        bias = graph.tensors[layer.inputs[2]]
    else:
        zeros = np.zeros(graph.tensors[layer.outputs[0]].shape[-1], np.int32)
        bias = Tensor(name=f"{layer.name}/bias", shape=zeros.shape, dtype="int32", data=zeros)
    input_scale = np.float32(x.quantization.scales[0])
    scales = tuple(float(input_scale * np.float32(scale)) for scale in weights.quantization.scales)
    quantization = Quantization(
        scales=scales, zero_points=(0,) * len(scales), axis=None if len(scales) == 1 else 0
    )
    return layer.inputs[1], graph.add_tensor(replace(bias, quantization=quantization))


def _pool_fields(graph: _Graph, layer: Layer, operator: Pool2D) -> dict[str, Any]:
    x = graph.tensors[layer.inputs[0]]
    padding = _named_padding(x.shape, operator.window, operator.stride, operator.padding, (1, 1))
    if padding is None:
        raise ModelFormatError(
            f"layer {layer.name!r} (Pool2D): padding {operator.padding} is neither SAME nor VALID, "
            "which is all that a TFLite pool can have"
        )
    return {
        "Padding": padding,
        "StrideH": operator.stride[0],
        "StrideW": operator.stride[1],
        "FilterHeight": operator.window[0],
        "FilterWidth": operator.window[1],
        "FusedActivationFunction": ACTIVATIONS[operator.activation],
    }


def _named_padding(
    shape: tuple[int, ...],
    window: tuple[int, ...],
    stride: tuple[int, int],
    padding: tuple[int, int, int, int],
    dilation: tuple[int, int],
) -> str | None:
    """SAME or VALID when either leads to the same windows as `padding`."""
    height, width = shape[1:3]
    rows = _same_as(height, window[0], stride[0], padding[:2], dilation[0])
    columns = _same_as(width, window[1], stride[1], padding[2:], dilation[1])
    both = rows & columns
    return "VALID" if "VALID" in both else "SAME" if both else None


def _same_as(size: int, window: int, stride: int, padding: tuple[int, ...], dilation: int) -> set[str]:
    before, after = padding
    count = window_output(size, window, stride, before, after, dilation)
    names = set()
    if before == 0 and count == window_output(size, window, stride, 0, 0, dilation):
        names.add("VALID")
    same = same_padding(size, window, stride, dilation)
    if before == same[0] and count == -(-size // stride):
        names.add("SAME")
    return names


def _mul_grows(graph: _Graph, layer: Layer) -> bool:
    scales = [q.scales[0] for i in (*layer.inputs, *layer.outputs) if (q := graph.tensors[i].quantization)]
    return scales[0] * scales[1] / scales[2] >= 1


class _Writer:
    """Writes one graph as a FlatBuffer."""

    def __init__(self, network: Network, graph: _Graph) -> None:
        flatbuffers = require("flatbuffers", "models")
        self.schema = require("tflite", "models")
        self.builder = flatbuffers.Builder(1 << 16)
        self.network, self.graph = network, graph
        self.buffers = [self.table("Buffer")]  # the first is empty by convention

    def file(self) -> bytes:
        graph = self.graph
        ends = (*self.network.inputs, *self.network.outputs)
        read = {i for operation in graph.operations for i in (*operation.inputs, *operation.outputs)}
        used = sorted(read | set(ends))
        position = {old: new for new, old in enumerate(used)}
        codes = sorted({(operation.code, operation.version) for operation in graph.operations})
        tensors = [self.tensor(graph.tensors[i]) for i in used]
        operations = [self.operation(operation, position, codes) for operation in graph.operations]
        subgraph = self.table(
            "SubGraph",
            Tensors=self.offsets(tensors),
            Inputs=self.numbers([position[i] for i in self.network.inputs]),
            Outputs=self.numbers([position[i] for i in self.network.outputs]),
            Operators=self.offsets(operations),
            Name=self.builder.CreateString(self.network.name),
        )
        model = self.table(
            "Model",
            Version=3,
            OperatorCodes=self.offsets([self.operator_code(code, version) for code, version in codes]),
            Subgraphs=self.offsets([subgraph]),
            Description=self.builder.CreateString("sanderling"),
            Buffers=self.offsets(self.buffers),
        )
        self.builder.Finish(model, b"TFL3")
        return bytes(self.builder.Output())

    def tensor(self, tensor: Tensor) -> int:
        buffer = 0
        if tensor.data is not None:
            buffer = len(self.buffers)
            self.buffers.append(self.table("Buffer", Data=self.buffer_data(tensor.data)))
        fields: dict[str, Any] = {
            "Shape": self.numbers(tensor.shape),
            "Type": getattr(self.schema.TensorType, tensor.dtype.upper()),
            "Buffer": buffer,
            "Name": self.builder.CreateString(tensor.name),
        }
        if tensor.quantization is not None:
            fields["Quantization"] = self.quantization(tensor.quantization)
        return self.table("Tensor", **fields)

    def quantization(self, quantization: Quantization) -> int:
        return self.table(
            "QuantizationParameters",
            Scale=self.builder.CreateNumpyVector(np.array(quantization.scales, dtype=np.float32)),
            ZeroPoint=self.builder.CreateNumpyVector(np.array(quantization.zero_points, dtype=np.int64)),
            QuantizedDimension=quantization.axis or 0,
        )

    def operator_code(self, code: str, version: int) -> int:
        number = getattr(self.schema.BuiltinOperator, code)
        return self.table("OperatorCode", DeprecatedBuiltinCode=number, Version=version, BuiltinCode=number)

    def operation(self, operation: _Operation, position: dict[int, int], codes: list[tuple[str, int]]) -> int:
        fields: dict[str, Any] = {
            "OpcodeIndex": codes.index((operation.code, operation.version)),
            "Inputs": self.numbers([position[i] for i in operation.inputs]),
            "Outputs": self.numbers([position[i] for i in operation.outputs]),
        }
        if operation.options:
            values = {name: self.option(name, value) for name, value in operation.fields.items()}
            fields["BuiltinOptionsType"] = getattr(self.schema.BuiltinOptions, operation.options)
            fields["BuiltinOptions"] = self.table(operation.options, **values)
        return self.table("Operator", **fields)

    def option(self, name: str, value: Any) -> Any:
        match name:
            case "FusedActivationFunction":
                return getattr(self.schema.ActivationFunctionType, value)
            case "Padding":
                return getattr(self.schema.Padding, value)
        return self.numbers(value) if isinstance(value, tuple) else value

    def table(self, kind: str, **fields: Any) -> int:
        """A table of the schema; nested values are written already."""
        getattr(self.schema, f"{kind}Start")(self.builder)
        for name, value in fields.items():
            getattr(self.schema, f"{kind}Add{name}")(self.builder, value)
        return int(getattr(self.schema, f"{kind}End")(self.builder))

    def numbers(self, values: Any) -> int:
        return int(self.builder.CreateNumpyVector(np.array(values, dtype=np.int32)))

    def offsets(self, offsets: list[int]) -> int:
        self.builder.StartVector(4, len(offsets), 4)
        for offset in reversed(offsets):
            self.builder.PrependUOffsetTRelative(offset)
        return int(self.builder.EndVector())

    def buffer_data(self, data: NDArray[Any]) -> int:
        """The bytes of a constant, little-endian and aligned to 16 bytes as runtimes read them in place."""
        payload = data.astype(data.dtype.newbyteorder("<")).tobytes()
        self.builder.StartVector(1, len(payload), 16)
        self.builder.head -= len(payload)
        self.builder.Bytes[self.builder.head : self.builder.head + len(payload)] = payload
        return int(self.builder.EndVector())
