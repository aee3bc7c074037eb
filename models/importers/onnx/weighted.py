"""Conv, Gemm and MatMul: layers whose constant weights are put in our order."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from sanderling.models.importers.onnx.file import Array, Node
from sanderling.models.importers.onnx.reader import Reader, Shape, flat
from sanderling.models.network import Conv2D, DepthwiseConv2D, FullyConnected, Operator, Quantization
from sanderling.models.windows import same_padding, window_output


def conv(reader: Reader, node: Node) -> None:
    value, held = reader.value(node), reader.weights(node, 1)
    rank = value.places.ndim
    source = reader.images(node, value)
    filters = held.values[:, :, np.newaxis, :] if rank == 3 and held.values.ndim == 3 else held.values
    if filters.ndim != 4 or held.quantization.axis not in (None, 0):
        raise node.refuse(f"filter of shape {held.values.shape}, scales along axis {held.quantization.axis}")
    channels, group = reader.tensors[source].shape[3], node.integer("group", 1)
    depthwise = group == channels and filters.shape[1] == 1 and channels > 1
    if group != 1 and not depthwise:
        raise node.refuse(f"group {group} of {channels} channels: grouped convolution is not supported")
    order = (1, 2, 3, 0) if depthwise else (0, 2, 3, 1)
    weights = filters.transpose(order)
    quantization = replace(held.quantization, axis=None)
    if len(quantization.scales) > 1:
        quantization = replace(quantization, axis=3 if depthwise else 0)
    window = (filters.shape[2], filters.shape[3])
    stride, padding, dilation = window_attributes(reader, node, source, window, rank)
    activation = reader.absorb_activation(node)
    operator: Operator
    if depthwise:
        operator = DepthwiseConv2D(
            stride=stride,
            padding=padding,
            dilation=dilation,
            multiplier=filters.shape[0] // channels,
            activation=activation,
        )
    else:
        operator = Conv2D(stride=stride, padding=padding, dilation=dilation, activation=activation)
    inputs = [source, reader.add_constant(node.input(1), weights, quantization)]
    inputs += reader.bias(node, node.input(2), source, quantization, filters.shape[0])
    shape = windowed(reader, node, source, window, (stride, padding, dilation), filters.shape[0])
    reader.define_images(node, reader.weighted(node, inputs, operator, shape), rank)


def window_attributes(
    reader: Reader, node: Node, source: int, window: tuple[int, int], rank: int
) -> tuple[tuple[int, int], tuple[int, int, int, int], tuple[int, int]]:
    """(stride, padding, dilation) of a convolution or pool, one-dimensional ones with H = 1."""
    line = rank == 3
    strides = node.integers("strides", (1,) * (rank - 2))
    dilations = node.integers("dilations", (1,) * (rank - 2))
    pads = node.integers("pads", (0,) * (2 * (rank - 2)))
    stride = (1, strides[0]) if line else (strides[0], strides[1])
    dilation = (1, dilations[0]) if line else (dilations[0], dilations[1])
    padding = (0, 0, pads[0], pads[1]) if line else (pads[0], pads[2], pads[1], pads[3])
    if min(*stride, *dilation, *window) < 1 or min(padding) < 0:
        raise node.refuse(f"window {window}, stride {stride}, dilation {dilation}, padding {padding}")
    automatic = node.text("auto_pad", "NOTSET")
    if automatic == "VALID":
        padding = (0, 0, 0, 0)
    elif automatic in ("SAME_UPPER", "SAME_LOWER"):
        _, height, width, _ = reader.tensors[source].shape
        rows = same_padding(height, window[0], stride[0], dilation[0])
        columns = same_padding(width, window[1], stride[1], dilation[1])
        step = 1 if automatic == "SAME_UPPER" else -1  # where the odd one goes
        padding = (*rows[::step], *columns[::step])  # type: ignore[assignment]
    elif automatic != "NOTSET":
        raise node.refuse(f"auto_pad {automatic!r} is not supported")
    return stride, padding, dilation


def windowed(
    reader: Reader,
    node: Node,
    source: int,
    window: tuple[int, int],
    geometry: tuple[tuple[int, int], tuple[int, int, int, int], tuple[int, int]],
    channels: int,
) -> Shape:
    batch, height, width, _ = reader.tensors[source].shape
    stride, (top, bottom, left, right), dilation = geometry
    rows = window_output(height, window[0], stride[0], top, bottom, dilation[0])
    columns = window_output(width, window[1], stride[1], left, right, dilation[1])
    if rows < 1 or columns < 1:
        raise node.refuse(f"a window of {window} does not fit an input of {height} x {width}")
    return (batch, rows, columns, channels)


def gemm(reader: Reader, node: Node) -> None:
    if node.integer("transA", 0) or node.real("alpha", 1.0) != 1 or node.real("beta", 1.0) != 1:
        raise node.refuse("transA, alpha and beta are not supported")
    held = reader.weights(node, 1)
    axis = held.quantization.axis
    if node.integer("transB", 0):
        matrix = held.values
    else:
        matrix, axis = held.values.T, None if axis is None else 1 - axis
    _dense(reader, node, matrix, replace(held.quantization, axis=axis), node.input(2))


def matmul(reader: Reader, node: Node) -> None:
    held = reader.weights(node, 1)
    axis = held.quantization.axis
    if axis is not None and held.values.ndim == 2:
        axis = 1 - axis % 2
    bias, follower = "", reader.only_consumer(node.outputs[0])
    if follower is not None and follower.operator == "Add":
        others = [name for name in follower.inputs if name != node.outputs[0]]
        if others and (others[0] in reader.quantized or others[0] in reader.file.constants):
            bias = others[0]
            reader.absorbed.add(follower.outputs[0])
    _dense(reader, node, held.values.T, replace(held.quantization, axis=axis), bias)


def _dense(reader: Reader, node: Node, matrix: Array, quantization: Quantization, bias: str) -> None:
    """Fully connected with `matrix` (O, I), its columns put in the order in which our tensor holds the input."""
    value = reader.value(node)
    if matrix.ndim != 2 or value.places.ndim < 2 or value.shape[-1] != matrix.shape[1]:
        raise node.refuse(f"an input of shape {value.shape} with weights of shape {matrix.shape}")
    units, width = matrix.shape
    if quantization.axis not in (None, 0):
        raise node.refuse("weights must be quantised per tensor or per output")
    rows = value.places.reshape(-1, width)
    order = rows[0]
    expected = np.arange(len(rows), dtype=np.int32)[:, np.newaxis] * width + order
    if not np.array_equal(np.sort(order), np.arange(width)) or not np.array_equal(rows, expected):
        raise node.refuse(f"input {value.shape} in an order of elements that would need a transpose")
    weights = np.empty_like(matrix)
    weights[:, order] = matrix
    source = value.tensor
    activation = reader.absorb_activation(node)
    inputs = [source, reader.add_constant(node.input(1), weights, quantization)]
    inputs += reader.bias(node, bias, source, quantization, units)
    shape = (*value.shape[:-1], units)
    output = reader.weighted(node, inputs, FullyConnected(activation=activation), shape)
    reader.define(reader.result_name(node), output, flat(shape))
