"""What an operator without weights does to an error on the way back.

Rounding is straight through: an error passes where the forward pass did not clamp.
docs/arithmetic.md, "Training a deeper tail", "Backward".
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from sanderling.models import arithmetic
from sanderling.models.block_float import Error, Int8Array, as_factor, normalized, passed, times
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
from sanderling.models.products import windows_of

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
    windows = windows_of(operator.window, operator, (1, 1), output)
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
    windows = windows_of(operator.window, operator, (1, 1), output)
    height, width = input_.shape[1:3]

    def back(error: Error, xs: Sequence[Int8Array], y: Int8Array) -> Sequence[Error]:
        first = windows.unfold(xs[0].astype(np.int16), fill=-129).argmax(axis=-2)
        chosen = np.arange(windows.taps)[:, None] == first[..., None, :]
        parts = chosen * passed(error, y, low, high).mantissas[..., None, :]
        return [normalized(windows.fold(parts, height, width), error.exponents)]

    return back
