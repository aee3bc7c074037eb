"""The reference forward pass of an int8 network: the bytes every exact runtime has to give.

Equal to the TensorFlow Lite Micro interpreter; docs/arithmetic.md, "Inference operators", gives each
operator's arithmetic. Sums of products run in float BLAS, where integers are exact in any order below 2**24
(float32) or 2**53 (float64); each layer's bound follows from its weights and decides between them. Functions
of one or two int8 values are tables of all their values.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from sanderling.models import arithmetic
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

Array = NDArray[Any]
Int8Array = NDArray[np.int8]
Kernel = Callable[..., Array]  # activations (n, *shape) in, one activation (n, *shape) out

CHUNK_ELEMENTS = 2**16  # of the largest intermediate array: what stays in a cache

ALL_INT8 = np.arange(-128, 128)


def run(network: Network, inputs: Array | Sequence[Array]) -> list[Array]:
    """The outputs for n inputs at once.

    `inputs`: an array (n, ...) for the network's input, or one for each. The batch dimension of 1 in a
    declared shape is replaced by n; where it is not 1 it stays, after n. Outputs: an array (n, ...) for each.
    ValueError when an input's shape or type is not the declared one.
    """
    return _forward(network, inputs, network.layers, network.outputs)


def features(network: Network, inputs: Array | Sequence[Array], layer_index: int) -> Int8Array:
    """What enters layer `layer_index`, flattened: int8 (n, F). Nothing from that layer on is computed."""
    return activations(network, inputs, layer_index, network.layers[layer_index].inputs[:1])


def activations(
    network: Network, inputs: Array | Sequence[Array], layer_index: int, tensors: tuple[int, ...]
) -> Int8Array:
    """Several int8 tensors that are there before layer `layer_index`, each flattened, side by side: (n, elements)."""
    values = _forward(network, inputs, network.layers[:layer_index], tensors)
    return np.concatenate([v.reshape(len(v), math.prod(v.shape[1:])) for v in values], axis=1)


def _forward(
    network: Network, inputs: Array | Sequence[Array], layers: tuple[Layer, ...], wanted: tuple[int, ...]
) -> list[Array]:
    arrays = [inputs] if isinstance(inputs, np.ndarray) else list(inputs)
    if len(arrays) != len(network.inputs):
        raise ValueError(f"network {network.name!r} has {len(network.inputs)} inputs, got {len(arrays)}")
    given = [_as_declared(network.tensors[i], a) for i, a in zip(network.inputs, arrays, strict=True)]
    count = len(given[0])
    if any(len(values) != count for values in given):
        raise ValueError(f"inputs of different lengths: {[len(values) for values in given]}")
    prepared = _prepare(network)
    chunks = [
        _forward_chunk(network, prepared, [v[i : i + prepared.chunk] for v in given], layers, wanted)
        for i in range(0, max(count, 1), prepared.chunk)
    ]
    return [np.concatenate(parts) for parts in zip(*chunks, strict=True)]


def _forward_chunk(
    network: Network,
    prepared: _Prepared,
    inputs: list[Array],
    layers: tuple[Layer, ...],
    wanted: tuple[int, ...],
) -> list[Array]:
    values = dict(zip(network.inputs, inputs, strict=True))
    for i, (layer, kernel) in enumerate(zip(layers, prepared.kernels, strict=False)):
        activations = [values[t] for t in layer.inputs if t in values]
        values[layer.outputs[0]] = kernel(*activations)
        for tensor in layer.inputs:
            if prepared.last_use[tensor] == i and tensor not in wanted:
                values.pop(tensor, None)
    count = len(inputs[0])
    return [_without_unit_batch(network.tensors[t], _value(network, values, t, count)) for t in wanted]


def _value(network: Network, values: dict[int, Array], tensor: int, count: int) -> Array:
    constant = network.tensors[tensor].data
    return values[tensor] if constant is None else np.broadcast_to(constant, (count, *constant.shape))


def _as_declared(tensor: Tensor, array: Array) -> Array:
    """(n, ...) as (n, *declared shape)."""
    expected = tensor.shape[1:] if tensor.shape[:1] == (1,) else tensor.shape
    if array.dtype != np.dtype(tensor.dtype) or array.shape[1:] != expected or array.ndim < 1:
        raise ValueError(
            f"input {tensor.name!r}: expected {tensor.dtype} (n, {', '.join(map(str, expected))}), "
            f"got {array.dtype} {array.shape}"
        )
    return array.reshape(len(array), *tensor.shape)


def _without_unit_batch(tensor: Tensor, values: Array) -> Array:
    return values.reshape(len(values), *tensor.shape[1:]) if tensor.shape[:1] == (1,) else values


@dataclass(frozen=True, slots=True, kw_only=True)
class _Prepared:
    """A network made ready to run: a kernel for each layer, and the layer that last reads each tensor."""

    kernels: tuple[Kernel, ...]
    last_use: dict[int, int]
    chunk: int  # how many inputs go through at once


@functools.lru_cache(maxsize=16)
def _prepare(network: Network) -> _Prepared:
    largest = max((_working_set(network, layer) for layer in network.layers), default=1)
    return _Prepared(
        kernels=tuple(kernel_of(network, layer) for layer in network.layers),
        last_use={tensor: i for i, layer in enumerate(network.layers) for tensor in layer.inputs},
        chunk=max(1, CHUNK_ELEMENTS // largest),
    )


def _working_set(network: Network, layer: Layer) -> int:
    """Elements of the largest array that the layer makes for one input."""
    output = network.tensors[layer.outputs[0]].shape
    if isinstance(layer.operator, Conv2D):
        return math.prod(output[:3]) * math.prod(network.tensors[layer.inputs[1]].shape[1:])
    return max(math.prod(output), math.prod(network.tensors[layer.inputs[0]].shape))


def kernel_of(network: Network, layer: Layer) -> Kernel:
    """The layer as a function of its activations (n, *shape); constants are taken from the network."""
    inputs = [network.tensors[i] for i in layer.inputs]
    output = network.tensors[layer.outputs[0]]
    match layer.operator:
        case Conv2D() as operator:
            return _conv2d(operator, inputs, output)
        case DepthwiseConv2D() as operator:
            return _depthwise_conv2d(operator, inputs, output)
        case FullyConnected() as operator:
            return _fully_connected(operator, inputs, output)
        case Pool2D(kind="average") as operator:
            return _average_pool(operator, inputs[0], output)
        case Pool2D() as operator:
            return _max_pool(operator, output)
        case Mean() as operator:
            return _mean(operator, inputs[0], output)
        case Add() as operator:
            return _binary(inputs, _add_table(operator, inputs, output))
        case Mul() as operator:
            return _binary(inputs, _mul_table(operator, inputs, output))
        case Pad() as operator:
            amounts, zero_point = ((0, 0), *operator.amounts), _zero_point(output)
            return lambda x: np.pad(x, amounts, constant_values=zero_point)
        case Reshape():
            return lambda x: x.reshape(len(x), *output.shape)
        case Concatenate() as operator:
            return _concatenate(operator, inputs)
        case Elementwise() as operator:
            table = _elementwise_table(operator, inputs[0], output)
            return lambda x: table[x.view(np.uint8)]
        case Softmax() as operator:
            return _softmax(operator, inputs[0])
        case Quantize():
            return _quantize(inputs[0], output)
        case Dequantize():
            return _dequantize(inputs[0])


def _quantization(tensor: Tensor) -> Quantization:
    assert tensor.quantization is not None, "checked when the network was built"
    return tensor.quantization


def _scale(tensor: Tensor) -> float:
    return _quantization(tensor).scales[0]


def _zero_point(tensor: Tensor) -> int:
    return _quantization(tensor).zero_points[0]


# Sums of products: convolution, depthwise convolution, fully connected.


@dataclass(frozen=True, slots=True, kw_only=True)
class _Weighted:
    """What layers with weights share: weights (terms, channels) as floats, and the way back to int8."""

    weights: Array
    to_int8: Callable[[Array], Int8Array]  # of sums of raw products (..., channels)


def _weighted(
    inputs: list[Tensor], output: Tensor, activation: str, weights: NDArray[np.int8], reals: list[float]
) -> _Weighted:
    """`weights` (terms, channels); `reals` rescale accumulators to the output, one for each channel."""
    wide = weights.astype(np.int64)
    bias = _data(inputs[2]) if len(inputs) > 2 else np.zeros(weights.shape[1], np.int32)
    # sum (x - z) w = sum x w - z sum w, so that the sum is over raw int8 values
    folded = bias - _zero_point(inputs[0]) * wide.sum(axis=0)
    multipliers, shifts = arithmetic.quantize_multipliers(reals)
    low, high = arithmetic.activation_range(activation, _scale(output), _zero_point(output))
    rescale = (folded.astype(np.int32), multipliers, shifts, _zero_point(output), low, high)
    largest = 128 * int(np.abs(wide).sum(axis=0).max())
    if largest + int(np.abs(folded).max()) < 2**22 and shifts.max() <= 0 and shifts.min() >= -20:
        to_int8 = arithmetic.float_requantizer(*rescale)
    else:
        to_int8 = _requantizer(*rescale)
    return _Weighted(weights=weights.astype(exact_float(largest)), to_int8=to_int8)


def _requantizer(bias: NDArray[np.int32], *rescale: Any) -> Callable[[Array], Int8Array]:
    """For sums of any size: 32-bit accumulators that wrap around."""

    def to_int8(products: Array) -> Int8Array:
        return arithmetic.requantize(products.astype(np.int64).astype(np.int32) + bias, *rescale)

    return to_int8


def exact_float(bound: int) -> type[np.float32] | type[np.float64]:
    """The float type in which sums of integers are exact in any order while none exceeds `bound`."""
    assert bound < 2**53, f"sums up to {bound} are not exact in float64"
    return np.float32 if bound <= 2**24 else np.float64


def channel_scales(inputs: Sequence[Tensor], output: Tensor, channels: int) -> list[float]:
    """What rescales each channel's accumulators to the output: s_in * s_w / s_out, in double."""
    scales = _quantization(inputs[1]).scales
    per_channel = scales if len(scales) > 1 else scales * channels
    return [_scale(inputs[0]) * scale / _scale(output) for scale in per_channel]


def _conv2d(operator: Conv2D, inputs: list[Tensor], output: Tensor) -> Kernel:
    filters = _data(inputs[1])
    channels, height, width, _ = filters.shape
    reals = channel_scales(inputs, output, channels)
    matrix = filters.reshape(channels, -1).T
    layer = _weighted(inputs, output, operator.activation, matrix, reals)
    pad = _padder(operator.padding, _zero_point(inputs[0]))
    pointwise = (height, width, *operator.stride) == (1, 1, 1, 1) and not any(operator.padding)

    def kernel(x: Int8Array) -> Int8Array:
        if pointwise:
            rows = x.reshape(-1, x.shape[-1]).astype(layer.weights.dtype)
        else:
            windows = _windows(pad(_images(x)), (height, width), operator.stride, operator.dilation)
            rows = windows.astype(layer.weights.dtype).reshape(-1, len(matrix))
        return layer.to_int8(rows @ layer.weights).reshape(len(x), *output.shape)

    return kernel


def _depthwise_conv2d(operator: DepthwiseConv2D, inputs: list[Tensor], output: Tensor) -> Kernel:
    filters = _data(inputs[1])[0]
    height, width, channels = filters.shape
    reals = channel_scales(inputs, output, channels)
    layer = _weighted(inputs, output, operator.activation, filters.reshape(-1, channels), reals)
    pad = _padder(operator.padding, _zero_point(inputs[0]))

    def kernel(x: Int8Array) -> Int8Array:
        images = pad(_images(x)).astype(layer.weights.dtype)
        if operator.multiplier > 1:
            images = np.repeat(images, operator.multiplier, axis=-1)
        taps = _taps(images, (height, width), operator.stride, operator.dilation, output.shape[1:3])
        total = np.zeros((len(images), *output.shape[1:]), layer.weights.dtype)
        for tap, weights in zip(taps, layer.weights, strict=True):
            total += tap * weights
        return layer.to_int8(total).reshape(len(x), *output.shape)

    return kernel


def _fully_connected(operator: FullyConnected, inputs: list[Tensor], output: Tensor) -> Kernel:
    matrix = _data(inputs[1]).T
    reals = channel_scales(inputs, output, matrix.shape[1])
    layer = _weighted(inputs, output, operator.activation, matrix, reals)

    def kernel(x: Int8Array) -> Int8Array:
        rows = x.reshape(-1, len(matrix)).astype(layer.weights.dtype)
        return layer.to_int8(rows @ layer.weights).reshape(len(x), *output.shape)

    return kernel


def _data(tensor: Tensor) -> Array:
    assert tensor.data is not None, "checked when the network was built"
    return tensor.data


def _images(x: Array) -> Array:
    """(n, batch, H, W, C) as (n * batch, H, W, C)."""
    return x.reshape(-1, *x.shape[2:])


def _padder(padding: tuple[int, int, int, int], value: int) -> Callable[[Array], Array]:
    top, bottom, left, right = padding
    amounts = ((0, 0), (top, bottom), (left, right), (0, 0))
    return lambda x: np.pad(x, amounts, constant_values=value) if any(padding) else x


def _windows(x: Array, window: tuple[int, int], stride: tuple[int, int], dilation: tuple[int, int]) -> Array:
    """A view (n, rows, columns, height, width, C) of every window of x (n, H, W, C)."""
    extent = ((window[0] - 1) * dilation[0] + 1, (window[1] - 1) * dilation[1] + 1)
    views: Array = sliding_window_view(x, extent, axis=(1, 2))
    views = views[:, :: stride[0], :: stride[1], :, :: dilation[0], :: dilation[1]]
    return np.moveaxis(views, 3, -1)


def _taps(
    x: Array,
    window: tuple[int, int],
    stride: tuple[int, int],
    dilation: tuple[int, int],
    rows_columns: Sequence[int],
) -> list[Array]:
    """For each position in the window, row by row, a view (n, rows, columns, C) of what lies under it."""
    rows, columns = rows_columns
    views = []
    for i in range(window[0]):
        for j in range(window[1]):
            top, left = i * dilation[0], j * dilation[1]
            bottom, right = top + (rows - 1) * stride[0] + 1, left + (columns - 1) * stride[1] + 1
            views.append(x[:, top : bottom : stride[0], left : right : stride[1]])
    return views


# Pools and means.


def _average_pool(operator: Pool2D, input_: Tensor, output: Tensor) -> Kernel:
    low, high = arithmetic.activation_range(operator.activation, _scale(output), _zero_point(output))
    pad = _padder(operator.padding, 0)
    inside = pad(np.ones((1, *input_.shape[1:3], 1), np.int32))
    counts = sum(_taps(inside, operator.window, operator.stride, (1, 1), output.shape[1:3]))

    def kernel(x: Int8Array) -> Int8Array:
        images = pad(_images(x)).astype(np.int32)
        total = sum(_taps(images, operator.window, operator.stride, (1, 1), output.shape[1:3]))
        rounded = np.sign(total) * ((np.abs(total) + counts // 2) // counts)
        return arithmetic.saturate(rounded, low, high).reshape(len(x), *output.shape)

    return kernel


def _max_pool(operator: Pool2D, output: Tensor) -> Kernel:
    low, high = arithmetic.activation_range(operator.activation, _scale(output), _zero_point(output))
    pad = _padder(operator.padding, -128)

    def kernel(x: Int8Array) -> Int8Array:
        taps = _taps(pad(_images(x)), operator.window, operator.stride, (1, 1), output.shape[1:3])
        largest = functools.reduce(np.maximum, taps)
        return arithmetic.saturate(largest, low, high).reshape(len(x), *output.shape)

    return kernel


def _mean(operator: Mean, input_: Tensor, output: Tensor) -> Kernel:
    multiplier, shift = mean_multiplier(operator, input_, output)
    axes = tuple(axis + 1 for axis in operator.axes)
    offset = _zero_point(input_) * math.prod(input_.shape[axis] for axis in operator.axes)

    def kernel(x: Int8Array) -> Int8Array:
        total = x.sum(axis=axes, dtype=np.int32) - np.int32(offset)
        return arithmetic.requantize(total, multiplier, shift, _zero_point(output)).reshape(
            len(x), *output.shape
        )

    return kernel


def mean_multiplier(operator: Mean, input_: Tensor, output: Tensor) -> tuple[int, int]:
    """(multiplier, shift) from a sum to its mean in the output's scale, 1 / count folded in."""
    count = math.prod(input_.shape[axis] for axis in operator.axes)
    multiplier, shift = arithmetic.quantize_multiplier(_scale(input_) / _scale(output))
    extra = min(count.bit_length() - 1, 32, 31 + shift)
    return (multiplier << extra) // count, shift - extra


# Functions of one or two int8 values, as tables indexed by their bytes read as unsigned.


def _by_byte(values: Array) -> Array:
    """A table over -128..127 put in the order of the bytes read as unsigned; over the first axis."""
    return np.roll(values, 128, axis=0)


def _binary(inputs: list[Tensor], table: Int8Array) -> Kernel:
    rank = max(len(tensor.shape) for tensor in inputs)
    constants = [None if tensor.data is None else tensor.data[np.newaxis] for tensor in inputs]

    def kernel(*activations: Int8Array) -> Int8Array:
        remaining = iter(activations)
        x, y = (next(remaining) if constant is None else constant for constant in constants)
        left, right = (a.reshape(len(a), *(1,) * (rank + 1 - a.ndim), *a.shape[1:]) for a in (x, y))
        pairs = left.view(np.uint8).astype(np.uint16) << 8 | right.view(np.uint8)
        return np.take(table, pairs)

    return kernel


def _pair_table(values: Int8Array) -> Int8Array:
    """values[x + 128, y + 128] as a table indexed by the two bytes, x high."""
    return np.roll(values, (128, 128), axis=(0, 1)).reshape(-1)


def _add_table(operator: Add, inputs: list[Tensor], output: Tensor) -> Int8Array:
    twice = 2 * max(_scale(tensor) for tensor in inputs)
    left, right = (
        arithmetic.multiply_by_quantized_multiplier(
            (ALL_INT8 - _zero_point(tensor)) << 20, *arithmetic.quantize_multiplier(_scale(tensor) / twice)
        )
        for tensor in inputs
    )
    rescale = arithmetic.quantize_multiplier(twice / (2**20 * _scale(output)))
    low, high = arithmetic.activation_range(operator.activation, _scale(output), _zero_point(output))
    total = left[:, np.newaxis] + right
    return _pair_table(arithmetic.requantize(total, *rescale, _zero_point(output), low, high))


def _mul_table(operator: Mul, inputs: list[Tensor], output: Tensor) -> Int8Array:
    left, right = (ALL_INT8 - _zero_point(tensor) for tensor in inputs)
    rescale = arithmetic.quantize_multiplier(_scale(inputs[0]) * _scale(inputs[1]) / _scale(output))
    low, high = arithmetic.activation_range(operator.activation, _scale(output), _zero_point(output))
    products = np.multiply.outer(left, right).astype(np.int32)
    return _pair_table(arithmetic.requantize(products, *rescale, _zero_point(output), low, high))


def _elementwise_table(operator: Elementwise, input_: Tensor, output: Tensor) -> Int8Array:
    match operator.function:
        case "relu":
            values = _requantized(input_, output, low=max(-128, _zero_point(output)))
        case "relu6":
            low, high = arithmetic.activation_range("relu6", _scale(input_), _zero_point(input_))
            values = arithmetic.saturate(ALL_INT8, low, high)
        case "tanh":
            values = _sigmoidal(input_, arithmetic.tanh, fraction_bits=7, zero_point=0)
        case "logistic":
            values = _sigmoidal(input_, arithmetic.logistic, fraction_bits=8, zero_point=-128)
    return _by_byte(values)


def _requantized(input_: Tensor, output: Tensor, low: int = -128, high: int = 127) -> Array:
    """Every value of the input, in order, in the output's scale."""
    values = np.arange(256) if input_.dtype == "uint8" else ALL_INT8
    rescale = arithmetic.quantize_multiplier(_scale(input_) / _scale(output))
    scaled = arithmetic.multiply_by_quantized_multiplier(values - _zero_point(input_), *rescale)
    clamped: Array = np.clip(scaled + np.int32(_zero_point(output)), low, high).astype(output.dtype)
    return clamped


def _sigmoidal(
    input_: Tensor, function: Callable[[Array], Array], fraction_bits: int, zero_point: int
) -> Int8Array:
    """tanh or logistic of every int8, in order: -128 or 127 where the input lies outside of Q4."""
    centred = ALL_INT8 - _zero_point(input_)
    multiplier, shift = arithmetic.quantize_multiplier(min(_scale(input_) * 2**27, 2**31 - 1))
    radius = math.floor(15 * 2.0 ** (27 - shift))
    inside = np.abs(centred) < radius
    scaled = arithmetic.multiply_by_quantized_multiplier(np.where(inside, centred, 0), multiplier, shift)
    rounded = arithmetic.rounding_divide_by_pot(function(scaled), 31 - fraction_bits) + zero_point
    return arithmetic.saturate(np.where(inside, rounded, np.where(centred <= -radius, -128, 127)))


def _quantize(input_: Tensor, output: Tensor) -> Kernel:
    low, high = (0, 255) if output.dtype == "uint8" else (-128, 127)
    if input_.dtype == "float32":
        return functools.partial(quantize_floats, quantization=_quantization(output), low=low, high=high)
    table = _requantized(input_, output, low, high)
    if input_.dtype == "int8":
        table = _by_byte(table)
    return lambda x: table[x.view(np.uint8)]


def quantize_floats(x: Array, quantization: Quantization, low: int = -128, high: int = 127) -> Array:
    """float32 (...) to int8, or to uint8 with low 0: x / scale in float32, rounded half away from zero.

    What lies beyond the range saturates; NaN becomes `low`.
    """
    steps = x.astype(np.float32) / np.float32(quantization.scales[0])
    whole = arithmetic.round_half_away(
        np.nan_to_num(steps, nan=-(2.0**24), posinf=2.0**24, neginf=-(2.0**24))
    )
    return np.clip(whole + quantization.zero_points[0], low, high).astype(np.uint8 if low == 0 else np.int8)


def _dequantize(input_: Tensor) -> Kernel:
    return functools.partial(dequantize, quantization=_quantization(input_))


def dequantize(x: Array, quantization: Quantization) -> NDArray[np.float32]:
    """int8 or uint8 (...) to float32: scale * (x - zero_point) in double, rounded once."""
    centred = x.astype(np.int32) - quantization.zero_points[0]
    return (centred * quantization.scales[0]).astype(np.float32)


# Softmax and concatenation.


def _softmax(operator: Softmax, input_: Tensor) -> Kernel:
    exponentials = _exponentials(operator, input_)

    def kernel(x: Int8Array) -> Int8Array:
        below_largest = x.max(axis=-1, keepdims=True).astype(np.int32) - x
        exponential = exponentials[below_largest]  # Q0
        total = arithmetic.rounding_divide_by_pot(exponential, 12).sum(axis=-1, keepdims=True)  # Q12
        headroom = 32 - np.frexp(total.astype(np.float64))[1].astype(np.int64)  # leading zeros of 32 bits
        scale = arithmetic.reciprocal_of_one_plus((total << headroom) - 2**31)
        quotient = arithmetic.doubling_high_mul(scale, exponential)
        return arithmetic.saturate(arithmetic.rounding_divide_by_pot(quotient, 35 - headroom) - 128)

    return kernel


def _exponentials(operator: Softmax, input_: Tensor) -> NDArray[np.int64]:
    """exp(-beta * scale * d) in Q0 for d = 0..255: 0 where the exponent lies outside of Q5."""
    real = min(float(np.float32(operator.beta)) * _scale(input_) * 2**26, 2.0**31 - 1)
    multiplier, shift = arithmetic.quantize_multiplier(real)
    distances = np.arange(256)
    inside = distances <= math.floor(31 * 2.0 ** (26 - shift))
    shifted = np.where(inside, -distances, 0) << shift
    scaled = arithmetic.doubling_high_mul(shifted, multiplier)
    return np.where(inside, arithmetic.exp_on_negative_values(scaled, 5), 0)


def _concatenate(operator: Concatenate, inputs: list[Tensor]) -> Kernel:
    constants = [tensor.data for tensor in inputs]

    def kernel(*activations: Int8Array) -> Int8Array:
        remaining, count = iter(activations), len(activations[0])
        parts = [next(remaining) if c is None else np.broadcast_to(c, (count, *c.shape)) for c in constants]
        return np.concatenate(parts, axis=operator.axis + 1)

    return kernel
