"""Pools, means, softmax and functions of one value."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from sanderling.models.importers.onnx.file import Node
from sanderling.models.importers.onnx.quantization import same_scale
from sanderling.models.importers.onnx.reader import TO_NCHW, TO_NHWC, Reader, flat, is_flat
from sanderling.models.importers.onnx.weighted import window_attributes, windowed
from sanderling.models.network import Elementwise, Mean, Pool2D, Quantization, Quantize, Softmax

AXIS_IN_NHWC = (0, 3, 1, 2)  # of each axis of NCHW


def pool(kind: Literal["average", "max"]) -> Callable[[Reader, Node], None]:
    def read(reader: Reader, node: Node) -> None:
        value = reader.value(node)
        rank, source = value.places.ndim, reader.images(node, value)
        shape = node.integers("kernel_shape", ())
        if len(shape) != rank - 2:
            raise node.refuse(f"kernel_shape {shape} for an input of shape {value.shape}")
        window = (1, shape[0]) if rank == 3 else (shape[0], shape[1])
        stride, padding, dilation = window_attributes(reader, node, source, window, rank)
        if dilation != (1, 1):
            raise node.refuse("dilation is not supported")
        if node.integer("ceil_mode", 0):
            padding = _ceil_padding(reader, source, window, stride, padding)
        if kind == "average" and node.integer("count_include_pad", 0) and any(padding):
            raise node.refuse("count_include_pad is not supported with padding")
        _add_pool(
            reader, node, source, Pool2D(kind=kind, window=window, stride=stride, padding=padding), rank
        )

    return read


def _ceil_padding(
    reader: Reader,
    source: int,
    window: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int, int, int],
) -> tuple[int, int, int, int]:
    """ceil_mode as padding after: one more window where it starts inside the image or the padding before it."""
    ends = []
    for axis in (0, 1):
        size = reader.tensors[source].shape[1 + axis]
        before, after = padding[2 * axis], padding[2 * axis + 1]
        room = size + before + after - window[axis]
        rest = room % stride[axis]
        starts_inside = (room // stride[axis] + 1) * stride[axis] < size + before
        ends.append(after + stride[axis] - rest if rest and starts_inside else after)
    return (padding[0], ends[0], padding[2], ends[1])


def global_pool(kind: Literal["average", "max"]) -> Callable[[Reader, Node], None]:
    def read(reader: Reader, node: Node) -> None:
        value = reader.value(node)
        rank, source = value.places.ndim, reader.images(node, value)
        batch, height, width, channels = reader.tensors[source].shape
        if kind == "max":
            window = (height, width)
            _add_pool(
                reader,
                node,
                source,
                Pool2D(kind=kind, window=window, stride=(1, 1), padding=(0, 0, 0, 0)),
                rank,
            )
            return
        quantization = reader.output_quantization(node, reader.quantization(node, source))
        operator = Mean(axes=(1, 2), keep_dims=True)
        output = reader.layer(node, operator, [source], (batch, 1, 1, channels), quantization)
        reader.define_images(node, output, rank)

    return read


def _add_pool(reader: Reader, node: Node, source: int, pool: Pool2D, rank: int) -> None:
    """Pools keep the scale; a QuantizeLinear of another one adds its own layer."""
    channels = reader.tensors[source].shape[3]
    shape = windowed(reader, node, source, pool.window, (pool.stride, pool.padding, (1, 1)), channels)
    output = reader.layer(node, pool, [source], shape, reader.quantization(node, source))
    reader.define_images(node, output, rank)


def reduce_mean(reader: Reader, node: Node) -> None:
    value = reader.value(node)
    rank = value.places.ndim
    given = reader.small_integers(node, 1) if len(node.inputs) > 1 else node.integers("axes", ())
    axes = {axis % rank if -rank <= axis < rank else rank for axis in given or range(rank)}
    if rank == 0 or max(axes) >= rank:
        raise node.refuse(f"axes {given} of an input of shape {value.shape}")
    channels_first = rank == 4 and not is_flat(value.places)
    order: Sequence[int] = TO_NHWC if channels_first else range(rank)
    source = reader.ordered(node, value, order)
    ours = tuple(sorted(AXIS_IN_NHWC[axis] for axis in axes)) if channels_first else tuple(sorted(axes))
    kept = tuple(1 if axis in ours else size for axis, size in enumerate(reader.tensors[source].shape))
    keep_dims = bool(node.integer("keepdims", 1))
    shape = kept if keep_dims else tuple(size for axis, size in enumerate(kept) if axis not in ours)
    quantization = reader.output_quantization(node, reader.quantization(node, source))
    output = reader.layer(node, Mean(axes=ours, keep_dims=keep_dims), [source], shape, quantization)
    places = flat(kept).transpose(TO_NCHW) if channels_first else flat(kept)
    reader.define(node.outputs[0], output, places if keep_dims else places.squeeze(tuple(axes)))


def clamp(reader: Reader, node: Node) -> None:
    """A Relu or Clip of its own. One to 0..6 works in its output's scale."""
    value, function = reader.value(node), reader.clamp(node)
    shape = reader.tensors[value.tensor].shape
    quantization = reader.output_quantization(node, reader.quantization(node, value.tensor))
    source = value.tensor
    if function == "relu6" and not same_scale(reader.tensors[source].quantization, quantization):
        source = reader.layer(node, Quantize(), [source], shape, quantization)
    output = reader.layer(node, Elementwise(function=function), [source], shape, quantization)
    reader.define(node.outputs[0], output, value.places)


def sigmoidal(
    function: Literal["tanh", "logistic"], scale: float, zero: int
) -> Callable[[Reader, Node], None]:
    """Functions whose output has a scale of its own; a QuantizeLinear of another one adds a layer."""

    def read(reader: Reader, node: Node) -> None:
        value = reader.value(node)
        reader.quantization(node, value.tensor)
        shape = reader.tensors[value.tensor].shape
        quantization = Quantization(scales=(scale,), zero_points=(zero,))
        output = reader.layer(node, Elementwise(function=function), [value.tensor], shape, quantization)
        reader.define(node.outputs[0], output, value.places)

    return read


def softmax(reader: Reader, node: Node) -> None:
    value = reader.value(node)
    rank, axis = value.places.ndim, node.integer("axis", -1 if reader.file.opset >= 13 else 1)
    if rank == 0 or not -rank <= axis < rank or (reader.file.opset < 13 and axis % rank != rank - 1):
        raise node.refuse(f"axis {axis} of an input of shape {value.shape}")
    order = [i for i in range(rank) if i != axis % rank] + [axis % rank]
    source = reader.ordered(node, value, order)
    quantization = Quantization(scales=(1 / 256,), zero_points=(-128,))
    shape = reader.tensors[source].shape
    reader.quantization(node, source)
    output = reader.layer(node, Softmax(beta=value.factor), [source], shape, quantization)
    reader.define(node.outputs[0], output, value.places)
