"""An int8 TensorFlow Lite file as a network. Needs NumPy alone.

Schema: tensorflow/compiler/mlir/lite/schema/schema.fbs. Nothing in a file is trusted: what is malformed or
not supported is a ModelFormatError that names layer and operator, and work and memory are bounded.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from sanderling.models.errors import ModelFormatError
from sanderling.models.importers import tflite_schema as schema
from sanderling.models.importers.flatbuffer import Table, root
from sanderling.models.importers.graph import MAX_LAYERS, MAX_TENSORS, MAX_TOTAL_ELEMENTS, compact
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
    Operator,
    Pad,
    Pool2D,
    Quantization,
    Quantize,
    Reshape,
    Softmax,
    Tensor,
)
from sanderling.models.windows import same_padding

# Converters compute a reshape's target with these; the shape itself stands in the file.
SHAPE_ARITHMETIC = ("SHAPE", "STRIDED_SLICE", "PACK")


def from_tflite(data: bytes, name: str = "network") -> Network:
    """The network in a .tflite file's bytes. ModelFormatError when malformed or not supported."""
    model = root(data, schema.FILE_IDENTIFIER)
    if (version := model.scalar(schema.Model.VERSION, "I", 0)) != schema.VERSION:
        raise ModelFormatError(f"TFLite schema version {version}; version {schema.VERSION} is supported")
    subgraphs = model.tables(schema.Model.SUBGRAPHS, at_most=1000)
    if len(subgraphs) != 1:
        raise ModelFormatError(f"the file has {len(subgraphs)} subgraphs; one is supported")
    reader = _Reader(
        tensors=_tensors(model, subgraphs[0]),
        codes=[_operator_name(t) for t in model.tables(schema.Model.OPERATOR_CODES, at_most=1000)],
    )
    operators = subgraphs[0].tables(schema.SubGraph.OPERATORS, MAX_LAYERS)
    return compact(
        name=name,
        tensors=reader.tensors,
        layers=[layer for operator in operators if (layer := reader.layer(operator)) is not None],
        inputs=_indices(subgraphs[0].vector(schema.SubGraph.INPUTS, "<i4")),
        outputs=_indices(subgraphs[0].vector(schema.SubGraph.OUTPUTS, "<i4")),
    )


def _operator_name(code: Table) -> str:
    builtin = max(
        code.scalar(schema.OperatorCode.DEPRECATED_BUILTIN_CODE, "b", 0),
        code.scalar(schema.OperatorCode.BUILTIN_CODE, "i", 0),
    )
    name = (
        schema.OPERATORS[builtin] if 0 <= builtin < len(schema.OPERATORS) else f"builtin operator {builtin}"
    )
    return f"CUSTOM {code.string(schema.OperatorCode.CUSTOM_CODE)!r}" if name == "CUSTOM" else name


def _tensors(model: Table, subgraph: Table) -> list[Tensor]:
    buffers = model.tables(schema.Model.BUFFERS, MAX_TENSORS)
    tensors, total = [], 0
    for table in subgraph.tables(schema.SubGraph.TENSORS, MAX_TENSORS):
        tensor = _tensor(table, buffers)
        total += math.prod(tensor.shape)
        if total > MAX_TOTAL_ELEMENTS:
            raise ModelFormatError(f"the tensors have more than {MAX_TOTAL_ELEMENTS} elements")
        tensors.append(tensor)
    return tensors


def _tensor(table: Table, buffers: list[Table]) -> Tensor:
    name = table.string(schema.TensorField.NAME)
    shape = _indices(table.vector(schema.TensorField.SHAPE, "<i4")[:16])
    if not all(0 <= size <= MAX_TOTAL_ELEMENTS for size in shape):
        raise ModelFormatError(f"tensor {name!r}: shape {shape} is not supported")
    if table.scalar(schema.TensorField.IS_VARIABLE, "B", 0) or table.has(schema.TensorField.SPARSITY):
        raise ModelFormatError(f"tensor {name!r}: variables and sparse tensors are not supported")
    kind = table.scalar(schema.TensorField.TYPE, "b", 0)
    dtype = schema.TENSOR_TYPES[kind] if 0 <= kind < len(schema.TENSOR_TYPES) else f"type {kind}"
    return Tensor(
        name=name,
        shape=shape,
        dtype=dtype,  # type: ignore[arg-type] # one that is no DType is refused if a layer uses it
        quantization=_quantization(table, name, shape),
        data=_data(table, buffers, name, shape, dtype),
    )


def _quantization(tensor: Table, name: str, shape: tuple[int, ...]) -> Quantization | None:
    table = tensor.table(schema.TensorField.QUANTIZATION)
    if table is None:
        return None
    scales = table.vector(schema.QuantizationParameters.SCALE, "<f4")
    zero_points = table.vector(schema.QuantizationParameters.ZERO_POINT, "<i8")
    if not len(scales):
        return None
    if len(scales) > max(1, math.prod(shape)) or len(zero_points) not in (0, len(scales)):
        raise ModelFormatError(
            f"tensor {name!r}: {len(scales)} scales, {len(zero_points)} zero points, shape {shape}"
        )
    axis = table.scalar(schema.QuantizationParameters.QUANTIZED_DIMENSION, "i", 0)
    return Quantization(
        scales=tuple(scales.tolist()),
        zero_points=tuple(zero_points.tolist()) or (0,) * len(scales),
        axis=axis if len(scales) > 1 else None,
    )


def _data(tensor: Table, buffers: list[Table], name: str, shape: tuple[int, ...], dtype: str) -> Any:
    index = tensor.scalar(schema.TensorField.BUFFER, "I", 0)
    if index >= len(buffers):
        raise ModelFormatError(f"tensor {name!r}: buffer {index} of {len(buffers)} does not exist")
    if buffers[index].scalar(schema.Buffer.OFFSET, "Q", 0) > 1:
        raise ModelFormatError(f"tensor {name!r}: data outside of the FlatBuffer is not supported")
    content = buffers[index].vector(schema.Buffer.DATA, "<u1")
    if not len(content) or dtype not in ("int8", "uint8", "int16", "int32", "int64", "float32"):
        return None
    stored = np.dtype(dtype).newbyteorder("<")
    if len(content) != math.prod(shape) * stored.itemsize:
        raise ModelFormatError(f"tensor {name!r}: {len(content)} bytes of data for {dtype}{shape}")
    values = content.view(stored).reshape(shape).astype(dtype, copy=False)
    values.setflags(write=False)
    return values


def _indices(vector: Any) -> tuple[int, ...]:
    return tuple(vector.tolist())


@dataclass(frozen=True, slots=True, kw_only=True)
class _Reader:
    """Turns operators into layers, given the file's tensors and the names of its operator codes."""

    tensors: list[Tensor]
    codes: list[str]

    def layer(self, table: Table) -> Layer | None:
        """None for arithmetic on shapes."""
        index = table.scalar(schema.OperatorField.OPCODE_INDEX, "I", 0)
        if index >= len(self.codes):
            raise ModelFormatError(f"operator code {index} of {len(self.codes)} does not exist")
        inputs = _indices(table.vector(schema.OperatorField.INPUTS, "<i4")[:64])
        outputs = _indices(table.vector(schema.OperatorField.OUTPUTS, "<i4")[:64])
        while inputs and inputs[-1] == -1:  # an optional input left out
            inputs = inputs[:-1]
        if bad := [i for i in (*inputs, *outputs) if not 0 <= i < len(self.tensors)]:
            raise ModelFormatError(f"a {self.codes[index]} refers to tensor {bad[0]} of {len(self.tensors)}")
        if not outputs or (not inputs and self.codes[index] not in SHAPE_ARITHMETIC):
            raise ModelFormatError(f"a {self.codes[index]} without inputs or outputs")
        source = _Source(
            code=self.codes[index],
            name=self.tensors[outputs[0]].name,
            options=table.table(schema.OperatorField.BUILTIN_OPTIONS),
            inputs=[self.tensors[i] for i in inputs],
            output=self.tensors[outputs[0]],
        )
        if source.code in SHAPE_ARITHMETIC and source.output.dtype == "int32":
            return None
        if source.code not in _READERS:
            raise source.refuse("this operator is not supported")
        read, taken = _READERS[source.code]
        operator = read(source)
        return Layer(name=source.name, operator=operator, inputs=inputs[:taken], outputs=outputs)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Source:
    """An operator of the file: its name, its options, its tensors."""

    code: str
    name: str
    options: Table | None
    inputs: list[Tensor]
    output: Tensor

    def refuse(self, why: str) -> ModelFormatError:
        return ModelFormatError(f"layer {self.name!r} ({self.code}): {why}")

    def option(self, field: int, format_: str, default: Any) -> Any:
        return default if self.options is None else self.options.scalar(field, format_, default)

    def integers(self, index: int) -> list[int]:
        """The values of a small constant input."""
        data = self.inputs[index].data if index < len(self.inputs) else None
        if data is None or data.dtype not in (np.int32, np.int64) or data.size > 16:
            raise self.refuse(f"input {index} must be a small integer constant")
        return [int(value) for value in data.reshape(-1)]

    def activation(self, field: int) -> Activation:
        number = self.option(field, "b", 0)
        name = schema.ACTIVATIONS[number] if 0 <= number < len(schema.ACTIVATIONS) else str(number)
        match name:
            case "NONE":
                return "none"
            case "RELU":
                return "relu"
            case "RELU6":
                return "relu6"
        raise self.refuse(f"fused activation {name} is not supported")

    def padding(
        self, field: int, window: tuple[int, int], stride: tuple[int, int], dilation: tuple[int, int] = (1, 1)
    ) -> tuple[int, int, int, int]:
        """Named padding resolved for the input's size."""
        number = self.option(field, "b", 0)
        shape = self.inputs[0].shape
        if len(shape) != 4 or min(*window, *stride, *dilation) < 1 or number not in (0, 1):
            raise self.refuse(f"input {shape}, window {window}, stride {stride}, padding {number}")
        if schema.PADDINGS[number] == "VALID":
            return (0, 0, 0, 0)
        rows = same_padding(shape[1], window[0], stride[0], dilation[0])
        return (*rows, *same_padding(shape[2], window[1], stride[1], dilation[1]))

    def axis(self, value: int) -> int:
        """An axis of the input or output counted from the front."""
        return value + len(self.output.shape) if value < 0 else value


def _conv2d(source: _Source) -> Operator:
    fields = schema.ConvolutionOptions
    stride = (source.option(fields.STRIDE_H, "i", 0), source.option(fields.STRIDE_W, "i", 0))
    dilation = (source.option(fields.DILATION_H, "i", 1), source.option(fields.DILATION_W, "i", 1))
    return Conv2D(
        stride=stride,
        padding=source.padding(fields.PADDING, _window(source), stride, dilation),
        dilation=dilation,
        activation=source.activation(fields.FUSED_ACTIVATION),
    )


def _depthwise_conv2d(source: _Source) -> Operator:
    fields = schema.DepthwiseOptions
    stride = (source.option(fields.STRIDE_H, "i", 0), source.option(fields.STRIDE_W, "i", 0))
    dilation = (source.option(fields.DILATION_H, "i", 1), source.option(fields.DILATION_W, "i", 1))
    padding = source.padding(fields.PADDING, _window(source), stride, dilation)
    multiplier, rest = divmod(source.inputs[1].shape[3], max(1, source.inputs[0].shape[3]))
    if rest:
        raise source.refuse(f"filter {source.inputs[1].shape} does not fit input {source.inputs[0].shape}")
    return DepthwiseConv2D(
        stride=stride,
        padding=padding,
        dilation=dilation,
        multiplier=multiplier,  # of the shapes, as in the runtimes; the option may be 0
        activation=source.activation(fields.FUSED_ACTIVATION),
    )


def _window(source: _Source) -> tuple[int, int]:
    if len(source.inputs) < 2 or len(source.inputs[1].shape) != 4:
        raise source.refuse("the filter must have four dimensions")
    return (source.inputs[1].shape[1], source.inputs[1].shape[2])


def _fully_connected(source: _Source) -> Operator:
    if source.option(schema.FullyConnectedOptions.WEIGHTS_FORMAT, "b", 0):
        raise source.refuse("shuffled weights are not supported")
    return FullyConnected(activation=source.activation(schema.FullyConnectedOptions.FUSED_ACTIVATION))


def _average_pool(source: _Source) -> Operator:
    return _pool(source, Pool2D(kind="average", window=(1, 1), stride=(1, 1), padding=(0, 0, 0, 0)))


def _max_pool(source: _Source) -> Operator:
    return _pool(source, Pool2D(kind="max", window=(1, 1), stride=(1, 1), padding=(0, 0, 0, 0)))


def _pool(source: _Source, pool: Pool2D) -> Operator:
    fields = schema.PoolOptions
    window = (source.option(fields.FILTER_HEIGHT, "i", 0), source.option(fields.FILTER_WIDTH, "i", 0))
    stride = (source.option(fields.STRIDE_H, "i", 0), source.option(fields.STRIDE_W, "i", 0))
    return Pool2D(
        kind=pool.kind,
        window=window,
        stride=stride,
        padding=source.padding(fields.PADDING, window, stride),
        activation=source.activation(fields.FUSED_ACTIVATION),
    )


def _mean(source: _Source) -> Operator:
    rank = len(source.inputs[0].shape)
    axes = {axis + rank if axis < 0 else axis for axis in source.integers(1)}
    keep_dims = bool(source.option(schema.ReducerOptions.KEEP_DIMS, "B", 0))
    return Mean(axes=tuple(sorted(axes)), keep_dims=keep_dims)


def _add(source: _Source) -> Operator:
    return Add(activation=source.activation(schema.ArithmeticOptions.FUSED_ACTIVATION))


def _mul(source: _Source) -> Operator:
    return Mul(activation=source.activation(schema.ArithmeticOptions.FUSED_ACTIVATION))


def _pad(source: _Source) -> Operator:
    if len(source.inputs) > 2:
        _check_pad_value(source, source.inputs[2])
    amounts = source.integers(1)
    if len(amounts) != 2 * len(source.inputs[0].shape):
        raise source.refuse(f"{len(amounts)} amounts for input {source.inputs[0].shape}")
    return Pad(amounts=tuple(zip(amounts[::2], amounts[1::2], strict=True)))


def _check_pad_value(source: _Source, value: Tensor) -> None:
    zero_points = None if source.output.quantization is None else source.output.quantization.zero_points
    if value.data is None or zero_points is None or tuple(value.data.reshape(-1).tolist()) != zero_points:
        raise source.refuse("padding with a value other than zero is not supported")


def _concatenate(source: _Source) -> Operator:
    if source.activation(schema.ConcatenationOptions.FUSED_ACTIVATION) != "none":
        raise source.refuse("a fused activation is not supported")
    return Concatenate(axis=source.axis(source.option(schema.ConcatenationOptions.AXIS, "i", 0)))


def _softmax(source: _Source) -> Operator:
    return Softmax(beta=source.option(schema.SoftmaxOptions.BETA, "f", 0.0))


# The operator's reader, and how many of its inputs the layer takes.
_READERS: dict[str, tuple[Callable[[_Source], Operator], int]] = {
    "CONV_2D": (_conv2d, 3),
    "DEPTHWISE_CONV_2D": (_depthwise_conv2d, 3),
    "FULLY_CONNECTED": (_fully_connected, 3),
    "AVERAGE_POOL_2D": (_average_pool, 1),
    "MAX_POOL_2D": (_max_pool, 1),
    "MEAN": (_mean, 1),
    "ADD": (_add, 2),
    "MUL": (_mul, 2),
    "PAD": (_pad, 1),
    "PADV2": (_pad, 1),
    "RESHAPE": (lambda _: Reshape(), 1),
    "SQUEEZE": (lambda _: Reshape(), 1),
    "EXPAND_DIMS": (lambda _: Reshape(), 1),
    "CONCATENATION": (_concatenate, 64),
    "RELU": (lambda _: Elementwise(function="relu"), 1),
    "RELU6": (lambda _: Elementwise(function="relu6"), 1),
    "TANH": (lambda _: Elementwise(function="tanh"), 1),
    "LOGISTIC": (lambda _: Elementwise(function="logistic"), 1),
    "SOFTMAX": (_softmax, 1),
    "QUANTIZE": (lambda _: Quantize(), 1),
    "DEQUANTIZE": (lambda _: Dequantize(), 1),
}
