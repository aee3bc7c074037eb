"""Layers with weights as products of columns and weights, and the transposes that the backward pass needs.

`columns` is what a convolution sees of its input under each window (im2col), or the input of a dense layer itself.
Weights are (clients, K, J): K output channels of J terms. Everything here is linear, in integers held in float64.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from sanderling.models.block_float import Array, Float64Array
from sanderling.models.network import Conv2D, DepthwiseConv2D, Layer, Network, Pool2D, Tensor

Chosen = slice | list[int]  # channels


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
                windows=windows_of((height, width), operator, operator.dilation, output),
            )
        case DepthwiseConv2D() as operator:
            _, height, width, channels = weights.shape
            return DepthwiseProduct(
                channels=channels,
                multiplier=operator.multiplier,
                positions=math.prod(output.shape[:3]),
                input_shape=inputs.shape,
                windows=windows_of((height, width), operator, operator.dilation, output),
            )
    channels, terms = weights.shape
    positions = math.prod(inputs.shape) // terms
    return MatrixProduct(
        terms=terms, channels=channels, positions=positions, input_shape=inputs.shape, windows=None
    )


def windows_of(
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
