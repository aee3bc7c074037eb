"""The backward pass of int8 layers, in integers: what each operator does to an error.

An error is the derivative of the loss by the real value of an activation: mantissas of 12 bits and a sign, and one
exponent for each example and tensor, error = mantissa * 2**-exponent (block floating point, as in NITI, Wang et
al. 2020, arXiv 2009.13108). Rounding is straight through: an error passes where the forward pass did not clamp.
docs/arithmetic.md, "Training a deeper tail". Arrays are (clients, examples, *shape); integers are held in float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sanderling.models import arithmetic
from sanderling.models.errors import ModelFormatError
from sanderling.models.network import (
    Add,
    Concatenate,
    Conv2D,
    DepthwiseConv2D,
    Elementwise,
    FullyConnected,
    Layer,
    Mean,
    Network,
    Pad,
    Pool2D,
    Quantize,
    Reshape,
    Tensor,
)
from sanderling.models.training import round_half_up

Float64Array = NDArray[np.float64]
Int64Array = NDArray[np.int64]
Int8Array = NDArray[np.int8]
Array = NDArray[Any]
Chosen = slice | list[int]  # channels

MANTISSA_BITS = 12
FACTOR_BITS = 15
ALIGNMENT_BITS = 16  # kept below the larger of two errors that are added
NOTHING = 1 << 10  # exponent of an error that is zero everywhere


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Error:
    """mantissas * 2**-exponents: (clients, examples, *shape) and (clients, examples)."""

    mantissas: Float64Array
    exponents: Int64Array

    def with_mantissas(self, mantissas: Float64Array) -> Error:
        return Error(mantissas=mantissas, exponents=self.exponents)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Factor:
    """A real factor, one for each channel as a rule: mantissas * 2**(exponent - 15), the largest of full width."""

    mantissas: Float64Array
    exponent: int


def normalized(sums: Float64Array, exponents: Int64Array) -> Error:
    """sums * 2**-exponents with the mantissas shifted, and rounded half up, to use their 12 bits."""
    largest = np.abs(sums).max(axis=tuple(range(2, sums.ndim)))
    shifts = np.frexp(largest)[1] - MANTISSA_BITS
    mantissas = round_half_up(np.ldexp(sums, -_spread(shifts, sums)))
    return Error(mantissas=mantissas, exponents=np.where(largest > 0, exponents - shifts, NOTHING))


def as_factor(reals: Sequence[float] | Float64Array) -> Factor:
    """Positive reals as a Factor."""
    values = np.asarray(reals, dtype=np.float64)
    exponent = math.frexp(values.max())[1]
    return Factor(mantissas=round_half_up(values * 2.0 ** (FACTOR_BITS - exponent)), exponent=exponent)


def shortened(reals: Any) -> Any:
    """Reals, or an array of them, each rounded half up to the 15 bits that a factor has."""
    mantissas, exponents = np.frexp(reals)
    return np.ldexp(np.floor(np.ldexp(mantissas, FACTOR_BITS) + 0.5), exponents - FACTOR_BITS)


def times(error: Error, factor: Factor) -> Error:
    """The product, each mantissa rounded half up."""
    mantissas = round_half_up(error.mantissas * factor.mantissas * 2.0**-FACTOR_BITS)
    return Error(mantissas=mantissas, exponents=error.exponents - factor.exponent)


def plus(a: Error, b: Error) -> Error:
    """The sum, aligned to 16 bits below the larger."""
    exponents = np.minimum(a.exponents, b.exponents) + ALIGNMENT_BITS
    aligned = [
        round_half_up(np.ldexp(e.mantissas, _spread(exponents - e.exponents, e.mantissas))) for e in (a, b)
    ]
    return normalized(aligned[0] + aligned[1], exponents)


def passed(error: Error, y: Int8Array, low: int, high: int) -> Error:
    """The error where y was not clamped to low or high."""
    return error.with_mantissas(error.mantissas * ((y > low) & (y < high)))


def _spread(values: Int64Array, like: Array) -> Int64Array:
    return values.reshape(*values.shape, *(1,) * (like.ndim - values.ndim))


# Windows: what convolutions and pools see of an image, and the way back.


@dataclass(frozen=True, slots=True, kw_only=True)
class Windows:
    """Where windows lie on images (..., H, W, C)."""

    window: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int, int, int]
    dilation: tuple[int, int]
    rows: int
    columns: int

    @property
    def taps(self) -> int:
        return self.window[0] * self.window[1]

    def unfold(self, images: Array, fill: int = 0) -> Array:
        """(..., rows, columns, taps, C): under each window, what lies there; `fill` in the padding."""
        top, bottom, left, right = self.padding
        amounts = [(0, 0)] * (images.ndim - 3) + [(top, bottom), (left, right), (0, 0)]
        return np.stack(list(self._views(np.pad(images, amounts, constant_values=fill))), axis=-2)

    def fold(self, parts: Array, height: int, width: int) -> Array:
        """The transpose of `unfold`: (..., rows, columns, taps, C) added up where they came from."""
        top, bottom, left, right = self.padding
        padded = np.zeros(
            (*parts.shape[:-4], height + top + bottom, width + left + right, parts.shape[-1]), parts.dtype
        )
        for view, part in zip(self._views(padded), np.moveaxis(parts, -2, 0), strict=True):
            view += part
        return padded[..., top : top + height, left : left + width, :]

    def _views(self, padded: Array) -> Iterator[Array]:
        for i in range(self.window[0]):
            for j in range(self.window[1]):
                top, left = i * self.dilation[0], j * self.dilation[1]
                bottom = top + (self.rows - 1) * self.stride[0] + 1
                right = left + (self.columns - 1) * self.stride[1] + 1
                yield padded[..., top : bottom : self.stride[0], left : right : self.stride[1], :]


# Layers with weights, as products: of columns that the input unfolds to, and weights (clients, ...).


@dataclass(frozen=True, slots=True, kw_only=True)
class MatrixProduct:
    """Dense layers, and convolutions by their windows: columns (c, b, positions, J), weights (c, K, J)."""

    terms: int  # J
    channels: int  # K
    positions: int
    input_shape: tuple[int, ...]
    windows: Windows | None  # None: the input itself is the one column

    def columns(self, centred: Float64Array) -> Float64Array:
        if self.windows is not None:
            centred = self.windows.unfold(centred)
        return centred.reshape(*centred.shape[:2], self.positions, self.terms)

    def weights(self, data: Array) -> Float64Array:
        """The tensor's data as weights (K, J)."""
        return data.reshape(self.channels, self.terms).astype(np.float64)

    def from_theta(self, values: Array, channels: int) -> Array:
        """theta's (c, channels * J) as (c, channels, J)."""
        return values.reshape(len(values), channels, self.terms)

    def to_theta(self, weights: Array) -> Array:
        """The reverse."""
        return weights.reshape(len(weights), -1)

    def sums(self, columns: Float64Array, weights: Float64Array) -> Float64Array:
        """Accumulators (c, b, positions, K)."""
        rows = columns.reshape(len(columns), -1, self.terms) @ weights.swapaxes(-1, -2)
        return rows.reshape(*columns.shape[:3], self.channels)

    def gradient(self, errors: Float64Array, columns: Float64Array, chosen: Chosen) -> Float64Array:
        """(c, b, chosen channels, J) for each example, from errors (c, b, positions, K)."""
        return errors[..., chosen].swapaxes(-1, -2) @ columns

    def input_sums(self, errors: Float64Array, weights: Float64Array) -> Float64Array:
        """(c, b, *input shape) from errors (c, b, positions, K)."""
        parts = errors.reshape(len(errors), -1, self.channels) @ weights
        if self.windows is None:
            return parts.reshape(*errors.shape[:2], *self.input_shape)
        height, width, depth = self.input_shape[-3:]
        shape = (*errors.shape[:2], self.windows.rows, self.windows.columns, self.windows.taps, depth)
        return self.windows.fold(parts.reshape(shape), height, width).reshape(
            *errors.shape[:2], *self.input_shape
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class DepthwiseProduct:
    """Depthwise convolutions: columns (c, b, positions, taps, K), weights (c, K, taps), channels first as above."""

    channels: int  # K
    multiplier: int
    positions: int
    input_shape: tuple[int, ...]
    windows: Windows

    @property
    def terms(self) -> int:
        return self.windows.taps

    def columns(self, centred: Float64Array) -> Float64Array:
        unfolded = self.windows.unfold(np.repeat(centred, self.multiplier, axis=-1))
        return unfolded.reshape(*centred.shape[:2], self.positions, self.terms, self.channels)

    def weights(self, data: Array) -> Float64Array:
        return data.reshape(self.terms, self.channels).T.astype(np.float64)

    def from_theta(self, values: Array, channels: int) -> Array:
        return values.reshape(len(values), self.terms, channels).swapaxes(1, 2)

    def to_theta(self, weights: Array) -> Array:
        return weights.swapaxes(1, 2).reshape(len(weights), -1)

    def sums(self, columns: Float64Array, weights: Float64Array) -> Float64Array:
        summed: Float64Array = np.einsum("cbptk,ckt->cbpk", columns, weights)
        return summed

    def gradient(self, errors: Float64Array, columns: Float64Array, chosen: Chosen) -> Float64Array:
        summed: Float64Array = np.einsum("cbpk,cbptk->cbkt", errors[..., chosen], columns[..., chosen])
        return summed

    def input_sums(self, errors: Float64Array, weights: Float64Array) -> Float64Array:
        height, width, depth = self.input_shape[-3:]
        shape = (*errors.shape[:2], self.windows.rows, self.windows.columns, 1, self.channels)
        taps = np.swapaxes(weights, -1, -2)[:, None, None, None]
        images = self.windows.fold(errors.reshape(shape) * taps, height, width)
        grouped: Float64Array = images.reshape(*images.shape[:-1], depth, self.multiplier).sum(axis=-1)
        return grouped.reshape(*errors.shape[:2], *self.input_shape)


Product = MatrixProduct | DepthwiseProduct


def product_of(network: Network, layer: Layer) -> Product:
    """The product of a convolution, depthwise convolution or fully connected layer."""
    inputs, weights, output = (network.tensors[i] for i in (*layer.inputs[:2], layer.outputs[0]))
    match layer.operator:
        case Conv2D() as operator:
            channels, height, width, depth = weights.shape
            return MatrixProduct(
                terms=height * width * depth,
                channels=channels,
                positions=math.prod(output.shape[:3]),
                input_shape=inputs.shape,
                windows=_windows((height, width), operator, operator.dilation, output),
            )
        case DepthwiseConv2D() as operator:
            _, height, width, channels = weights.shape
            return DepthwiseProduct(
                channels=channels,
                multiplier=operator.multiplier,
                positions=math.prod(output.shape[:3]),
                input_shape=inputs.shape,
                windows=_windows((height, width), operator, operator.dilation, output),
            )
    channels, terms = weights.shape
    positions = math.prod(inputs.shape) // terms
    return MatrixProduct(
        terms=terms, channels=channels, positions=positions, input_shape=inputs.shape, windows=None
    )


def _windows(
    window: tuple[int, int],
    operator: Conv2D | DepthwiseConv2D | Pool2D,
    dilation: tuple[int, int],
    output: Tensor,
) -> Windows:
    return Windows(
        window=window,
        stride=operator.stride,
        padding=operator.padding,
        dilation=dilation,
        rows=output.shape[1],
        columns=output.shape[2],
    )


# Layers without weights.

Back = Callable[[Error, Sequence[Int8Array], Int8Array], Sequence[Error]]


def backward_of(network: Network, layer: Layer) -> Back:
    """`back(error of the output, activations in, activation out)`: the errors of the inputs that are activations.

    ModelFormatError, naming layer and operator, where no error can be passed back.
    """
    inputs, output = [network.tensors[i] for i in layer.inputs], network.tensors[layer.outputs[0]]
    low, high = clamps(network, layer)
    match layer.operator:
        case Reshape():
            return lambda error, xs, y: [error.with_mantissas(error.mantissas.reshape(xs[0].shape))]
        case Quantize() if inputs[0].dtype == output.dtype == "int8":
            return lambda error, xs, y: [passed(error, y, low, high)]
        case Elementwise(function="relu" | "relu6"):
            return lambda error, xs, y: [passed(error, y, low, high)]
        case Pad() as operator:
            sizes = zip(inputs[0].shape, operator.amounts, strict=True)
            inside: Any = (..., *(slice(before, before + size) for size, (before, _) in sizes))
            return lambda error, xs, y: [error.with_mantissas(error.mantissas[inside])]
        case Concatenate() as operator:
            return _concatenate(inputs, operator.axis)
        case Add() if all(tensor.shape == output.shape for tensor in inputs):
            activations = sum(tensor.data is None for tensor in inputs)
            return lambda error, xs, y: [passed(error, y, low, high)] * activations
        case Mean() as operator:
            return _mean(operator, inputs[0], low, high)
        case Pool2D(kind="average") as operator:
            return _average_pool(operator, inputs[0], output, low, high)
        case Pool2D() as operator:
            return _max_pool(operator, inputs[0], output, low, high)
    raise ModelFormatError(
        f"layer {layer.name!r} ({type(layer.operator).__name__}): no error can be passed back through it; "
        "choose a tail that begins after it"
    )


def clamps(network: Network, layer: Layer) -> tuple[int, int]:
    """The (low, high) that the layer's output was clamped to; beyond int8 where the layer does not rescale."""
    output = network.tensors[layer.outputs[0]]
    if output.quantization is None:
        return -129, 128
    scale, zero_point = output.quantization.scales[0], output.quantization.zero_points[0]
    match layer.operator:
        case Elementwise(function="relu"):
            return max(-128, zero_point), 127
        case Elementwise(function="relu6"):
            return arithmetic.activation_range("relu6", scale, zero_point)
        case Mean() | Quantize():
            return -128, 127
        case Pool2D(activation="none"):
            return -129, 128
        case Conv2D() | DepthwiseConv2D() | FullyConnected() | Pool2D() | Add():
            return arithmetic.activation_range(layer.operator.activation, scale, zero_point)
    return -129, 128


def _concatenate(inputs: Sequence[Tensor], axis: int) -> Back:
    ends = np.cumsum([tensor.shape[axis] for tensor in inputs]).tolist()
    spans = [
        slice(end - tensor.shape[axis], end)
        for tensor, end in zip(inputs, ends, strict=True)
        if tensor.data is None
    ]
    before = (slice(None),) * (axis + 2)
    return lambda error, xs, y: [error.with_mantissas(error.mantissas[(*before, span)]) for span in spans]


def _mean(operator: Mean, input_: Tensor, low: int, high: int) -> Back:
    kept = tuple(1 if axis in operator.axes else size for axis, size in enumerate(input_.shape))
    share = as_factor([1 / math.prod(input_.shape[axis] for axis in operator.axes)])

    def back(error: Error, xs: Sequence[Int8Array], y: Int8Array) -> Sequence[Error]:
        one = times(passed(error, y, low, high), share)
        spread = np.broadcast_to(one.mantissas.reshape(*xs[0].shape[:2], *kept), xs[0].shape)
        return [one.with_mantissas(spread)]

    return back


def _average_pool(operator: Pool2D, input_: Tensor, output: Tensor, low: int, high: int) -> Back:
    windows = _windows(operator.window, operator, (1, 1), output)
    height, width = input_.shape[1:3]
    counts = windows.unfold(np.ones((height, width, 1))).sum(axis=-2)
    share = as_factor(1 / counts)

    def back(error: Error, xs: Sequence[Int8Array], y: Int8Array) -> Sequence[Error]:
        one = times(passed(error, y, low, high), share)
        taps = np.broadcast_to(
            one.mantissas[..., None, :], (*one.mantissas.shape[:-1], windows.taps, y.shape[-1])
        )
        return [normalized(windows.fold(taps, height, width), one.exponents)]

    return back


def _max_pool(operator: Pool2D, input_: Tensor, output: Tensor, low: int, high: int) -> Back:
    """To the first of the largest under each window, row by row."""
    windows = _windows(operator.window, operator, (1, 1), output)
    height, width = input_.shape[1:3]

    def back(error: Error, xs: Sequence[Int8Array], y: Int8Array) -> Sequence[Error]:
        first = windows.unfold(xs[0].astype(np.int16), fill=-129).argmax(axis=-2)
        chosen = np.arange(windows.taps)[:, None] == first[..., None, :]
        parts = chosen * passed(error, y, low, high).mantissas[..., None, :]
        return [normalized(windows.fold(parts, height, width), error.exponents)]

    return back
