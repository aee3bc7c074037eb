"""A network as the structs that the C kernels read: the one form behind generated firmware and the native backend.

What a struct's fields mean stands in the runtime's kernels.h; docs/arithmetic.md, "Inference operators", gives the
arithmetic. Everything that takes a division of real numbers is computed here, so that C has integers only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from sanderling.models import arithmetic, inference
from sanderling.models.arithmetic import quantize_multiplier
from sanderling.models.c_data import Function, Struct, Table, Value
from sanderling.models.cost import plan_arena, tensor_bytes
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
    Operator,
    Pad,
    Pool2D,
    Quantize,
    Reshape,
    Softmax,
    Tensor,
)

KERNELS_VERSION: Final = 1  # SL_KERNELS_VERSION in kernels.h
MAX_RANK: Final = 6  # SL_MAX_RANK
MAX_ARENA_BYTES: Final = 2**31 - 1  # offsets stay positive as int32


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a tensor lies in the arena."""

    tensor: int
    offset: int
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Lowered:
    """`network` is an sl_network; `first_node_of_layer[i]` counts the nodes of the layers before layer i."""

    network: Struct
    inputs: tuple[Place, ...]
    outputs: tuple[Place, ...]
    first_node_of_layer: tuple[int, ...]  # one more than there are layers
    places: tuple[Place | None, ...]  # of every tensor; None for constants
    arena_bytes: int


def lower(network: Network) -> Lowered:
    """ModelFormatError, naming layer and operator, for what no kernel computes."""
    plan = plan_arena(network)
    places = tuple(
        Place(tensor=i, offset=plan.offsets[i], shape=tensor.shape, dtype=tensor.dtype)
        if i in plan.offsets
        else None
        for i, tensor in enumerate(network.tensors)
    )
    lowering = _Lowering(network=network, places=places, scratch=-(-plan.size_bytes // 4) * 4)
    nodes = [_node(lowering, layer) for layer in network.layers]
    arena_bytes = lowering.scratch + max((needed for _, needed in nodes), default=0)
    if arena_bytes > MAX_ARENA_BYTES:
        raise ModelFormatError(f"network {network.name!r} needs an arena of {arena_bytes} bytes")
    inputs, outputs = (
        _edge(network, places, tensors, which)
        for tensors, which in ((network.inputs, "input"), (network.outputs, "output"))
    )
    kept = tuple(node for node, _ in nodes if node is not None)
    table = Struct(
        ctype="sl_network",
        fields={
            "nodes": Table(ctype="sl_node", values=kept, name="nodes") if kept else None,
            "node_count": len(kept),
            "arena_bytes": arena_bytes,
            "input": inputs[0].offset,
            "input_size": math.prod(inputs[0].shape),
            "output": outputs[0].offset,
            "output_size": math.prod(outputs[0].shape),
        },
    )
    return Lowered(
        network=table,
        inputs=inputs,
        outputs=outputs,
        first_node_of_layer=tuple(accumulate((node is not None for node, _ in nodes), initial=0)),
        places=places,
        arena_bytes=arena_bytes,
    )


def lower_layer(
    network: Network, layer: Layer, places: Sequence[Place | None], scratch: int
) -> tuple[Struct | None, int]:
    """The layer's sl_node between tensors that lie at `places`, None where it is nothing to do, and the bytes it needs
    at the offset `scratch`. ModelFormatError as `lower`."""
    return _node(_Lowering(network=network, places=tuple(places), scratch=scratch), layer)


def _edge(
    network: Network, places: Sequence[Place | None], tensors: tuple[int, ...], which: str
) -> tuple[Place, ...]:
    found = tuple(place for place in (places[i] for i in tensors) if place is not None)
    if len(found) < len(tensors):
        raise ModelFormatError(f"network {network.name!r}: an {which} that is a constant has no kernel")
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class _Lowering:
    """What layers share: where tensors lie, and where the scratch memory of a kernel begins."""

    network: Network
    places: tuple[Place | None, ...]
    scratch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layer:
    """A layer with its tensors at hand."""

    operator: Any
    inputs: list[Tensor]
    output: Tensor
    scratch: int


# A kernel's name with its parameters, and the bytes of scratch memory that it needs.
_Kernel = tuple[str, Struct, int]


def _node(lowering: _Lowering, layer: Layer) -> tuple[Struct | None, int]:
    """The layer's node, None where it is nothing to do, and the bytes of scratch memory."""
    tensors = lowering.network.tensors
    offsets = [0 if (place := lowering.places[i]) is None else place.offset for i in layer.inputs]
    output = lowering.places[layer.outputs[0]]
    assert output is not None, "a layer writes no constant"
    if isinstance(layer.operator, Reshape) and offsets[0] == output.offset:
        return None, 0
    try:
        make = _KERNELS[type(layer.operator)]
        kernel, parameters, scratch = make(
            _Layer(
                operator=layer.operator,
                inputs=[tensors[i] for i in layer.inputs],
                output=tensors[layer.outputs[0]],
                scratch=lowering.scratch,
            )
        )
    except (KeyError, _NoKernelError) as error:
        why = str(error) if isinstance(error, _NoKernelError) else "there is none for this operator"
        raise ModelFormatError(
            f"layer {layer.name!r} ({type(layer.operator).__name__}) has no C kernel: {why}"
        ) from None
    fields: dict[str, Value] = {
        "run": Function(name=kernel),
        "parameters": Table(ctype=parameters.ctype, values=(parameters,), name="parameters"),
        "inputs": Table(ctype="uint32_t", values=np.array(offsets, np.uint32), name="inputs"),
        "output": output.offset,
    }
    return Struct(ctype="sl_node", fields=fields), scratch


class _NoKernelError(Exception):
    """Why a layer cannot be lowered."""


def _scale(tensor: Tensor) -> float:
    assert tensor.quantization is not None, "checked when the network was built"
    return tensor.quantization.scales[0]


def _zero_point(tensor: Tensor) -> int:
    assert tensor.quantization is not None, "checked when the network was built"
    return tensor.quantization.zero_points[0]


def _size(tensor: Tensor) -> int:
    return math.prod(tensor.shape)


def _fixed(multiplier: int, shift: int) -> Struct:
    return Struct(ctype="sl_scale", fields={"multiplier": multiplier, "shift": shift})


def _range(layer: _Layer) -> tuple[int, int]:
    scale, zero_point = _scale(layer.output), _zero_point(layer.output)
    return arithmetic.activation_range(layer.operator.activation, scale, zero_point)


def _output(tensor: Tensor, low: int = -128, high: int = 127) -> Struct:
    fields: dict[str, Value] = {"zero_point": _zero_point(tensor), "low": low, "high": high}
    return Struct(ctype="sl_output", fields=fields)


# Sums of products.


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sums:
    """What convolutions, depthwise ones and dense layers share, channel by channel."""

    scales: tuple[Struct, ...]
    biases: NDArray[np.int32]
    folded: NDArray[np.int32]  # with the input's zero point in it
    quick: bool


def _sums(layer: _Layer, weights: NDArray[np.int8]) -> _Sums:
    """`weights` (terms, channels)."""
    wide = weights.astype(np.int64)
    count = weights.shape[1]
    biases = layer.inputs[2].data if len(layer.inputs) > 2 else None
    biases = np.zeros(count, np.int32) if biases is None else biases
    folded = biases - _zero_point(layer.inputs[0]) * wide.sum(axis=0)
    multipliers, shifts = arithmetic.quantize_multipliers(
        inference.channel_scales(layer.inputs, layer.output, count)
    )
    shifts = np.where(multipliers == 0, -1, shifts)  # 0 by any shift; this one keeps the quick way open
    # Products are of x, or at an edge of x - z: 255 bounds both.
    largest = 255 * int(np.abs(wide).sum(axis=0).max()) + int(np.abs(np.append(folded, biases)).max())
    whole = _range(layer) == (-128, 127)
    return _Sums(
        scales=tuple(_fixed(int(m), int(s)) for m, s in zip(multipliers, shifts, strict=True)),
        biases=biases,
        folded=folded.astype(np.int32),  # wraps around as accumulators do
        quick=largest < 2**30 and int(shifts.max()) < 0 and whole,
    )


def _data(tensor: Tensor) -> NDArray[Any]:
    assert tensor.data is not None, "checked when the network was built"
    return tensor.data


def _product(layer: _Layer, matrix: NDArray[np.int8]) -> Struct:
    """An sl_product of the weights (channels, terms)."""
    outputs, terms = matrix.shape
    sums = _sums(layer, matrix.T)
    channels = tuple(
        Struct(ctype="sl_channel", fields={"bias": int(bias), "scale": scale})
        for bias, scale in zip(sums.folded, sums.scales, strict=True)
    )
    fields: dict[str, Value] = {
        "weights": Table(ctype="uint32_t", values=paired_words(matrix), name="weights"),
        "channels": Table(ctype="sl_channel", values=channels, name="channels"),
        "terms": terms,
        "outputs": outputs,
        "output": _output(layer.output, *_range(layer)),
        "quick": sums.quick,
    }
    return Struct(ctype="sl_product", fields=fields)


def paired_words(matrix: NDArray[np.int8]) -> NDArray[np.uint32]:
    """Weights (channels, terms) in the order that sl_product reads: for each pair of channels a word of either in turn."""
    outputs, terms = matrix.shape
    padded = np.zeros((_rounded_up(outputs, 2), _rounded_up(terms, 4)), np.int8)
    padded[:outputs, :terms] = matrix
    pairs = padded.reshape(-1, 2, padded.shape[1] // 4, 4).swapaxes(1, 2)
    return np.ascontiguousarray(pairs).reshape(-1).view("<u4").astype(np.uint32)


def _rounded_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


def _dense(layer: _Layer, matrix: NDArray[np.int8]) -> _Kernel:
    terms = matrix.shape[1]
    fields: dict[str, Value] = {
        "product": _product(layer, matrix),
        "rows": _size(layer.inputs[0]) // terms,
        "scratch": layer.scratch,
    }
    scratch = 2 * _rounded_up(terms, 4) if terms % 4 else 0
    return "sl_dense", Struct(ctype="sl_dense_parameters", fields=fields), scratch


def _fully_connected(layer: _Layer) -> _Kernel:
    return _dense(layer, _data(layer.inputs[1]))


def _conv2d(layer: _Layer) -> _Kernel:
    operator: Conv2D = layer.operator
    filters = _data(layer.inputs[1])
    matrix = filters.reshape(len(filters), -1)
    window = (filters.shape[1], filters.shape[2])
    if (*window, *operator.stride) == (1, 1, 1, 1) and not any(operator.padding):
        return _dense(layer, matrix)
    fields: dict[str, Value] = {
        "product": _product(layer, matrix),
        "windows": _windows(layer, window, operator.stride, operator.padding, operator.dilation),
        "fill": _zero_point(layer.inputs[0]),
        "scratch": layer.scratch,
    }
    scratch = 2 * _rounded_up(matrix.shape[1], 4)
    return "sl_conv2d", Struct(ctype="sl_conv2d_parameters", fields=fields), scratch


def _depthwise_conv2d(layer: _Layer) -> _Kernel:
    operator: DepthwiseConv2D = layer.operator
    filters = _data(layer.inputs[1])[0]
    sums = _sums(layer, filters.reshape(-1, filters.shape[2]))
    padded = any(operator.padding)
    fields: dict[str, Value] = {
        "windows": _windows(layer, filters.shape[:2], operator.stride, operator.padding, operator.dilation),
        "multiplier": operator.multiplier,
        "weights": Table(ctype="int8_t", values=filters.reshape(-1), name="weights"),
        "scales": Table(ctype="sl_scale", values=sums.scales, name="scales"),
        "biases": Table(ctype="int32_t", values=sums.folded, name="biases"),
        "edge_biases": Table(ctype="int32_t", values=sums.biases, name="biases") if padded else None,
        "input_zero_point": _zero_point(layer.inputs[0]),
        "output": _output(layer.output, *_range(layer)),
        "quick": sums.quick,
    }
    return "sl_depthwise_conv2d", Struct(ctype="sl_depthwise_conv2d_parameters", fields=fields), 0


def _windows(
    layer: _Layer,
    window: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int, int, int],
    dilation: tuple[int, int] = (1, 1),
) -> Struct:
    images, height, width, channels = layer.inputs[0].shape
    fields: dict[str, Value] = {
        "images": images,
        "height": height,
        "width": width,
        "channels": channels,
        "rows": layer.output.shape[1],
        "columns": layer.output.shape[2],
        "window_height": window[0],
        "window_width": window[1],
        "stride_y": stride[0],
        "stride_x": stride[1],
        "dilation_y": dilation[0],
        "dilation_x": dilation[1],
        "top": padding[0],
        "left": padding[2],
    }
    return Struct(ctype="sl_windows", fields=fields)


# Pools and means.


def _pool2d(layer: _Layer) -> _Kernel:
    operator: Pool2D = layer.operator
    low, high = _range(layer)
    fields: dict[str, Value] = {
        "windows": _windows(layer, operator.window, operator.stride, operator.padding),
        "low": low,
        "high": high,
    }
    return f"sl_{operator.kind}_pool", Struct(ctype="sl_pool_parameters", fields=fields), 0


def _mean(layer: _Layer) -> _Kernel:
    operator: Mean = layer.operator
    shape = layer.inputs[0].shape
    strides = _strides(shape)
    kept, kept_strides = _axes(shape, strides, [i for i in range(len(shape)) if i not in operator.axes])
    reduced, reduced_strides = _axes(shape, strides, list(operator.axes))
    count = math.prod(shape[axis] for axis in operator.axes)
    fields: dict[str, Value] = {
        "kept": kept,
        "kept_strides": kept_strides,
        "reduced": reduced,
        "reduced_strides": reduced_strides,
        "offset": _zero_point(layer.inputs[0]) * count,
        "scale": _fixed(*inference.mean_multiplier(operator, layer.inputs[0], layer.output)),
        "output": _output(layer.output),
    }
    return "sl_mean", Struct(ctype="sl_mean_parameters", fields=fields), 0


# Loops over axes.


def _strides(shape: Sequence[int]) -> list[int]:
    """In elements, row-major."""
    return [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]


def _axes(
    shape: Sequence[int], strides: Sequence[int], chosen: Sequence[int]
) -> tuple[Struct, tuple[Value, ...]]:
    """Loops over the chosen axes, at least one, and their strides; neighbours that lie together become one."""
    merged = _merged([shape[i] for i in chosen], [[strides[i]] for i in chosen])
    return _loops([size for size, _ in merged]), tuple(stride for _, (stride,) in merged)


def _loops(sizes: Sequence[int]) -> Struct:
    if len(sizes) > MAX_RANK:
        raise _NoKernelError(f"{len(sizes)} nested loops, at most {MAX_RANK}")
    return Struct(ctype="sl_loops", fields={"rank": len(sizes), "sizes": tuple(sizes)})


def _merged(sizes: Sequence[int], strides: Sequence[Sequence[int]]) -> list[tuple[int, Sequence[int]]]:
    """Axes (size, strides of each array) with as few of them as walk the same elements in the same order."""
    merged: list[tuple[int, Sequence[int]]] = []
    for size, steps in zip(sizes, strides, strict=True):
        if size == 1:
            continue
        if merged and all(outer == size * inner for outer, inner in zip(merged[-1][1], steps, strict=True)):
            merged[-1] = (merged[-1][0] * size, steps)
        else:
            merged.append((size, steps))
    return merged or [(1, [0] * (len(strides[0]) if strides else 1))]


# Functions of two values.


def _binary(layer: _Layer, name: str, scales: Sequence[float], out: float) -> _Kernel:
    """`scales` are what rescales the inputs, for Add; `out` the result."""
    shape = layer.output.shape
    rank = len(shape)
    shapes = [(1,) * (rank - len(t.shape)) + t.shape for t in layer.inputs]
    steps = [
        [0 if size == 1 else stride for size, stride in zip(s, _strides(s), strict=True)] for s in shapes
    ]
    merged = _merged(shape, list(zip(*steps, strict=True)))
    operands = tuple(
        Struct(
            ctype="sl_operand",
            fields={
                "constant": None
                if tensor.data is None
                else Table(ctype="int8_t", values=tensor.data.reshape(-1), name="constant"),
                "zero_point": _zero_point(tensor),
                "scale": _fixed(*quantize_multiplier(scale)),
                "strides": tuple(strides[i] for _, strides in merged),
            },
        )
        for i, (tensor, scale) in enumerate(zip(layer.inputs, scales, strict=True))
    )
    fields: dict[str, Value] = {
        "loops": _loops([size for size, _ in merged]),
        "operands": operands,
        "scale": _fixed(*quantize_multiplier(out)),
        "output": _output(layer.output, *_range(layer)),
    }
    return name, Struct(ctype="sl_binary_parameters", fields=fields), 0


def _add(layer: _Layer) -> _Kernel:
    scales = [_scale(tensor) for tensor in layer.inputs]
    twice = 2 * max(scales)
    return _binary(layer, "sl_add", [s / twice for s in scales], twice / (2**20 * _scale(layer.output)))


def _mul(layer: _Layer) -> _Kernel:
    left, right = (_scale(tensor) for tensor in layer.inputs)
    return _binary(layer, "sl_multiply", [0.0, 0.0], left * right / _scale(layer.output))


# Functions of one value.


def _byte_function(layer: _Layer) -> _Kernel:
    """The reference's table, or a clamp where it is one."""
    every = np.arange(256, dtype=np.uint8)
    unsigned = layer.inputs[0].dtype == "uint8"
    kernel = inference.kernel_of(*_alone(layer))
    table = kernel(every[np.newaxis] if unsigned else every.view(np.int8)[np.newaxis])[0]
    size = _size(layer.output)
    if table.dtype == np.int8 and not unsigned:
        low, high = int(table.min()), int(table.max())
        if np.array_equal(table, np.clip(every.view(np.int8), low, high)):
            fields: dict[str, Value] = {"size": size, "low": low, "high": high}
            return "sl_clamp_bytes", Struct(ctype="sl_clamp_parameters", fields=fields), 0
    bytes_ = Table(ctype="uint8_t", values=table.view(np.uint8), name="table")
    return "sl_table", Struct(ctype="sl_table_parameters", fields={"table": bytes_, "size": size}), 0


def _alone(layer: _Layer) -> tuple[Network, Layer]:
    """The layer as a network of its own, over all 256 values."""
    tensors = tuple(replace(tensor, shape=(256,)) for tensor in (layer.inputs[0], layer.output))
    alone = Layer(name="table", operator=layer.operator, inputs=(0,), outputs=(1,))
    return Network(name="table", tensors=tensors, layers=(alone,), inputs=(0,), outputs=(1,)), alone


def _quantize(layer: _Layer) -> _Kernel:
    if layer.inputs[0].dtype == "float32":
        return _floats(layer, "sl_quantize_floats", layer.output)
    return _byte_function(layer)


def _dequantize(layer: _Layer) -> _Kernel:
    return _floats(layer, "sl_dequantize", layer.inputs[0])


def _floats(layer: _Layer, name: str, quantized: Tensor) -> _Kernel:
    unsigned = quantized.dtype == "uint8"
    fields: dict[str, Value] = {
        "size": _size(layer.output),
        "scale": _scale(quantized),
        "zero_point": _zero_point(quantized) - (128 if unsigned else 0),
        "is_uint8": unsigned,
    }
    return name, Struct(ctype="sl_float_parameters", fields=fields), 0


def _softmax(layer: _Layer) -> _Kernel:
    operator: Softmax = layer.operator
    classes = layer.output.shape[-1]
    real = min(float(np.float32(operator.beta)) * _scale(layer.inputs[0]) * 2**26, 2.0**31 - 1)
    multiplier, shift = quantize_multiplier(real)
    fields: dict[str, Value] = {
        "rows": _size(layer.output) // classes,
        "classes": classes,
        "scale": _fixed(multiplier, shift),
        "reach": min(255, math.floor(31 * 2.0 ** (26 - shift))),
    }
    return "sl_softmax", Struct(ctype="sl_softmax_parameters", fields=fields), 0


# Moving.


def _pad(layer: _Layer) -> _Kernel:
    operator: Pad = layer.operator
    shape, strides = layer.inputs[0].shape, _strides(layer.output.shape)
    axes = [i for i, amounts in enumerate(operator.amounts) if any(amounts)] or [0]
    last = axes[-1]  # from here on rows stay together
    merged = _merged(shape[:last], [[stride] for stride in strides[:last]])
    before = [amounts[0] for amounts in operator.amounts]
    fields: dict[str, Value] = {
        "loops": _loops([size for size, _ in merged]),
        "strides": tuple(stride for _, (stride,) in merged),
        "first": sum(amount * stride for amount, stride in zip(before, strides, strict=True)),
        "run": math.prod(shape[last:]),
        "size": _size(layer.output),
        "fill": _zero_point(layer.output),
    }
    return "sl_pad", Struct(ctype="sl_pad_parameters", fields=fields), 0


def _concatenate(layer: _Layer) -> _Kernel:
    operator: Concatenate = layer.operator
    parts = tuple(
        Struct(
            ctype="sl_part",
            fields={
                "constant": None
                if tensor.data is None
                else Table(ctype="int8_t", values=tensor.data.reshape(-1), name="constant"),
                "run": math.prod(tensor.shape[operator.axis :]),
            },
        )
        for tensor in layer.inputs
    )
    fields: dict[str, Value] = {
        "parts": Table(ctype="sl_part", values=parts, name="parts"),
        "part_count": len(parts),
        "outer": math.prod(layer.output.shape[: operator.axis]),
    }
    return "sl_concatenate", Struct(ctype="sl_concatenate_parameters", fields=fields), 0


def _reshape(layer: _Layer) -> _Kernel:
    size = tensor_bytes(layer.output)
    return "sl_copy", Struct(ctype="sl_copy_parameters", fields={"bytes": size}), 0


_KERNELS: dict[type[Operator], Callable[[_Layer], _Kernel]] = {
    Conv2D: _conv2d,
    DepthwiseConv2D: _depthwise_conv2d,
    FullyConnected: _fully_connected,
    Pool2D: _pool2d,
    Mean: _mean,
    Add: _add,
    Mul: _mul,
    Pad: _pad,
    Reshape: _reshape,
    Concatenate: _concatenate,
    Elementwise: _byte_function,
    Softmax: _softmax,
    Quantize: _quantize,
    Dequantize: _dequantize,
}
