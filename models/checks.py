"""What makes a tensor or a layer well formed: shapes, types and quantisation, so that inference cannot fail.

The rules are those of TensorFlow Lite Micro's Prepare functions, and the limits within which its arithmetic
is defined. Every refusal is a ModelFormatError that names the tensor or the layer and its operator.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import numpy as np

from sanderling.models.arithmetic import quantize_multiplier
from sanderling.models.errors import ModelFormatError
from sanderling.models.operators import (
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
    Operator,
    Pad,
    Pool2D,
    Quantization,
    Quantize,
    Reshape,
    Softmax,
    Tensor,
)
from sanderling.models.windows import window_output

Shape = tuple[int, ...]

MAX_RANK = 6
MAX_ELEMENTS = 2**28
MAX_SOFTMAX_CLASSES = 4096  # the sum of exponentials has 12 integer bits
# Outside this a requantised value is no longer decided by the arithmetic but by overflow.
MIN_ACTIVATION_SCALE, MAX_ACTIVATION_SCALE = 2.0**-26, 2.0**26
RANGES = {
    "int8": (-128, 127),
    "uint8": (0, 255),
    "int16": (-(2**15), 2**15 - 1),
    "int32": (-(2**31), 2**31 - 1),
}


def check_tensor(tensor: Tensor) -> None:
    """Refuses empty or huge shapes, quantisation that does not fit, and data of another shape or type."""

    def refuse(why: str) -> ModelFormatError:
        return ModelFormatError(f"tensor {tensor.name!r}: {why}")

    if tensor.dtype not in (*RANGES, "float32"):
        raise refuse(f"type {tensor.dtype!r} is not supported")
    if len(tensor.shape) > MAX_RANK or not all(1 <= size <= MAX_ELEMENTS for size in tensor.shape):
        raise refuse(f"shape {tensor.shape}: expected up to {MAX_RANK} dimensions of 1 or more")
    if math.prod(tensor.shape) > MAX_ELEMENTS:
        raise refuse(f"shape {tensor.shape} has more than {MAX_ELEMENTS} elements")
    if tensor.data is not None and (
        tensor.data.shape != tensor.shape or tensor.data.dtype != np.dtype(tensor.dtype)
    ):
        raise refuse(
            f"declared {tensor.dtype}{tensor.shape}, its data is {tensor.data.dtype}{tensor.data.shape}"
        )
    if tensor.quantization is not None:
        _check_quantization(tensor, tensor.quantization, refuse)


def check_layer(layer: Layer, tensors: tuple[Tensor, ...]) -> None:
    """Refuses inputs, outputs, shapes or scales that the layer's operator cannot take."""
    inputs = [tensors[i] for i in layer.inputs]
    outputs = [tensors[i] for i in layer.outputs]
    check = _Check(layer, inputs, outputs)
    low, high = _INPUT_COUNTS.get(type(layer.operator), (1, 1))
    check.that(low <= len(inputs) <= high, f"expected {low} to {high} inputs, got {len(inputs)}")
    check.that(len(outputs) == 1, f"expected one output, got {len(outputs)}")
    check.that(any(tensor.data is None for tensor in inputs), "one of the inputs must not be constant")
    _CHECKS[type(layer.operator)](check, layer.operator)


class _Check:
    """The layer under check: small assertions that raise with its name and operator."""

    def __init__(self, layer: Layer, inputs: list[Tensor], outputs: list[Tensor]) -> None:
        self.layer, self.inputs, self.outputs = layer, inputs, outputs

    def that(self, holds: bool, why: str) -> None:
        if not holds:
            raise ModelFormatError(f"layer {self.layer.name!r} ({type(self.layer.operator).__name__}): {why}")

    @property
    def input(self) -> Tensor:
        return self.inputs[0]

    @property
    def output(self) -> Tensor:
        return self.outputs[0]

    def int8(self, *tensors: Tensor) -> None:
        """Each is int8 with one scale within the range that the arithmetic is defined for."""
        for tensor in tensors:
            self.quantized(tensor, ("int8",))

    def quantized(self, tensor: Tensor, dtypes: tuple[str, ...]) -> None:
        self.that(
            tensor.dtype in dtypes, f"{tensor.name!r} must be {' or '.join(dtypes)}, it is {tensor.dtype}"
        )
        quantization = tensor.quantization
        if quantization is None or len(quantization.scales) != 1:
            self.that(False, f"{tensor.name!r} must have one scale and zero point")
            return
        scale = quantization.scales[0]
        self.that(
            MIN_ACTIVATION_SCALE <= scale <= MAX_ACTIVATION_SCALE,
            f"{tensor.name!r} has scale {scale}, expected 2**-26 to 2**26",
        )

    def shape(self, tensor: Tensor, expected: Iterable[int]) -> None:
        expected = tuple(expected)
        self.that(tensor.shape == expected, f"{tensor.name!r} has shape {tensor.shape}, expected {expected}")

    def rank(self, tensor: Tensor, rank: int) -> None:
        self.that(
            len(tensor.shape) == rank,
            f"{tensor.name!r} must have {rank} dimensions, its shape is {tensor.shape}",
        )

    def same_quantization(self, tensors: Iterable[Tensor]) -> None:
        for tensor in tensors:
            self.that(
                tensor.quantization is not None
                and self.output.quantization is not None
                and abs(tensor.quantization.scales[0] - self.output.quantization.scales[0]) <= 1e-6
                and tensor.quantization.zero_points == self.output.quantization.zero_points,
                f"{tensor.name!r} and the output must have the same scale and zero point",
            )

    def scales(self) -> tuple[list[float], float]:
        """The scales of the inputs and that of the output, once checked by `int8`."""
        scales = [
            t.quantization.scales[0] for t in (*self.inputs, *self.outputs) if t.quantization is not None
        ]
        return scales[:-1], scales[-1]

    def multiplier(self, real: float, limit: int = 30) -> None:
        """The rescaling factor can be held as a fixed-point multiplier with a shift of at most `limit`."""
        self.that(
            real < 2.0**30 and quantize_multiplier(real)[1] <= limit,
            f"scales differ too much: rescaling by {real} needs a shift beyond {limit}",
        )

    def activation(self, activation: Activation) -> None:
        self.that(activation in ("none", "relu", "relu6"), f"activation {activation!r} is not supported")

    def positive(self, what: str, *values: int) -> None:
        self.that(all(1 <= value < 2**15 for value in values), f"{what} {values} must be positive")

    def windows(
        self,
        window: tuple[int, int],
        stride: tuple[int, int],
        padding: tuple[int, int, int, int],
        dilation: tuple[int, int],
        channels: int,
    ) -> None:
        """Input and output are NHWC and as many windows fit as the output has rows and columns."""
        self.rank(self.input, 4)
        self.positive("window, stride and dilation", *window, *stride, *dilation)
        self.that(
            all(0 <= amount < 2**15 for amount in padding),
            f"padding {padding} must be 0 or more on each side",
        )
        batch, height, width, _ = self.input.shape
        top, bottom, left, right = padding
        rows = window_output(height, window[0], stride[0], top, bottom, dilation[0])
        columns = window_output(width, window[1], stride[1], left, right, dilation[1])
        self.shape(self.output, (batch, rows, columns, channels))

    def weights(self, axis: int, channels: int) -> None:
        """Weights are a constant, symmetric int8, per tensor or per channel; the bias is a constant int32."""
        weights = self.inputs[1]
        self.that(weights.data is not None, f"weights {weights.name!r} must be constant")
        quantization = weights.quantization
        if weights.dtype != "int8" or quantization is None:
            self.that(False, f"weights {weights.name!r} must be quantised int8, they are {weights.dtype}")
            return
        self.that(not any(quantization.zero_points), f"weights {weights.name!r} must have zero point 0")
        self.that(
            len(quantization.scales) == 1 or quantization.axis == axis,
            f"weights {weights.name!r} must be quantised along axis {axis}, not {quantization.axis}",
        )
        input_scale, output_scale = _scale(self.input), _scale(self.output)
        self.multiplier(input_scale * max(quantization.scales) / output_scale)
        if len(self.inputs) > 2:
            bias = self.inputs[2]
            self.that(
                bias.data is not None and bias.dtype == "int32",
                f"bias {bias.name!r} must be a constant int32, it is {bias.dtype}",
            )
            self.shape(bias, (channels,))


def _check_quantization(
    tensor: Tensor, quantization: Quantization, refuse: Callable[[str], ModelFormatError]
) -> None:
    scales, zero_points, axis = quantization.scales, quantization.zero_points, quantization.axis
    if tensor.dtype == "float32":
        raise refuse("a float32 tensor has no quantisation")
    if not scales or len(scales) != len(zero_points):
        raise refuse(f"{len(scales)} scales and {len(zero_points)} zero points: expected as many of both")
    if not all(math.isfinite(s) and s > 0 and float(np.float32(s)) == s for s in scales):
        raise refuse("each scale must be positive, finite and exactly a float32")
    low, high = RANGES[tensor.dtype]
    if not all(low <= zero_point <= high for zero_point in zero_points):
        raise refuse(f"each zero point must lie in {low}..{high}")
    if axis is None and len(scales) > 1:
        raise refuse(f"{len(scales)} scales need an axis")
    if axis is not None and not (0 <= axis < len(tensor.shape) and len(scales) == tensor.shape[axis]):
        raise refuse(f"{len(scales)} scales along axis {axis} do not fit shape {tensor.shape}")


def _scale(tensor: Tensor) -> float:
    assert tensor.quantization is not None
    return tensor.quantization.scales[0]


def _conv2d(check: _Check, operator: Conv2D) -> None:
    check.int8(check.input, check.output)
    check.activation(operator.activation)
    check.rank(check.inputs[1], 4)
    channels, height, width, depth = check.inputs[1].shape
    check.windows((height, width), operator.stride, operator.padding, operator.dilation, channels)
    check.that(
        check.input.shape[3] == depth,
        f"input {check.input.shape}, filter of {depth} channels: grouped convolution is not supported",
    )
    check.weights(0, channels)


def _depthwise_conv2d(check: _Check, operator: DepthwiseConv2D) -> None:
    check.int8(check.input, check.output)
    check.activation(operator.activation)
    check.rank(check.inputs[1], 4)
    one, height, width, channels = check.inputs[1].shape
    check.windows((height, width), operator.stride, operator.padding, operator.dilation, channels)
    check.that(
        one == 1 and check.input.shape[3] * operator.multiplier == channels,
        f"filter {check.inputs[1].shape} does not fit input {check.input.shape} times {operator.multiplier}",
    )
    check.weights(3, channels)


def _fully_connected(check: _Check, operator: FullyConnected) -> None:
    check.int8(check.input, check.output)
    check.activation(operator.activation)
    check.rank(check.inputs[1], 2)
    units, width = check.inputs[1].shape
    rows, rest = divmod(math.prod(check.input.shape), width)
    check.that(rest == 0, f"input {check.input.shape} is not made of rows of {width}")
    check.that(
        check.output.shape[-1:] == (units,) and math.prod(check.output.shape) == rows * units,
        f"output {check.output.shape} must be {rows} rows of {units}",
    )
    check.weights(0, units)


def _pool2d(check: _Check, operator: Pool2D) -> None:
    check.int8(check.input, check.output)
    check.activation(operator.activation)
    check.that(operator.kind in ("average", "max"), f"pooling {operator.kind!r} is not supported")
    check.rank(check.input, 4)
    check.windows(operator.window, operator.stride, operator.padding, (1, 1), check.input.shape[3])
    top, bottom, left, right = operator.padding
    check.that(
        max(top, bottom) < operator.window[0] and max(left, right) < operator.window[1],
        f"padding {operator.padding} must be smaller than the window {operator.window}",
    )
    check.same_quantization(check.inputs)


def _mean(check: _Check, operator: Mean) -> None:
    check.int8(check.input, check.output)
    rank, axes = len(check.input.shape), operator.axes
    check.that(
        bool(axes) and list(axes) == sorted(set(axes)) and min(axes) >= 0 and max(axes) < rank,
        f"axes {axes} must be ascending and below {rank}",
    )
    sizes = enumerate(check.input.shape)
    kept = [1 if axis in axes else size for axis, size in sizes if operator.keep_dims or axis not in axes]
    check.shape(check.output, kept)
    inputs, output = check.scales()
    check.multiplier(inputs[0] / output)


def _binary(check: _Check) -> None:
    check.int8(*check.inputs, check.output)
    try:
        expected = np.broadcast_shapes(*(t.shape for t in check.inputs))
    except ValueError:
        check.that(False, f"shapes {[t.shape for t in check.inputs]} do not broadcast")
        return
    check.shape(check.output, expected)


def _add(check: _Check, operator: Add) -> None:
    _binary(check)
    check.activation(operator.activation)
    inputs, output = check.scales()
    check.multiplier(2 * max(inputs) / (2**20 * output), limit=0)


def _mul(check: _Check, operator: Mul) -> None:
    _binary(check)
    check.activation(operator.activation)
    inputs, output = check.scales()
    check.multiplier(inputs[0] * inputs[1] / output)


def _pad(check: _Check, operator: Pad) -> None:
    check.int8(check.input, check.output)
    check.that(
        len(operator.amounts) == len(check.input.shape)
        and all(0 <= amount < 2**15 for pair in operator.amounts for amount in pair),
        f"amounts {operator.amounts} must be a pair of 0 or more for each of {check.input.shape}",
    )
    padded = zip(check.input.shape, operator.amounts, strict=True)
    check.shape(check.output, (size + before + after for size, (before, after) in padded))
    check.same_quantization(check.inputs)


def _reshape(check: _Check, _: Reshape) -> None:
    check.that(check.input.dtype == check.output.dtype, "input and output must have the same type")
    check.that(
        math.prod(check.input.shape) == math.prod(check.output.shape),
        f"{check.input.shape} cannot become {check.output.shape}",
    )


def _concatenate(check: _Check, operator: Concatenate) -> None:
    check.int8(*check.inputs, check.output)
    rank, axis = len(check.output.shape), operator.axis
    check.that(0 <= axis < rank, f"axis {axis} must lie in 0..{rank - 1}")
    for tensor in check.inputs:
        check.rank(tensor, rank)
        check.shape(tensor, (*check.output.shape[:axis], tensor.shape[axis], *check.output.shape[axis + 1 :]))
    check.that(
        sum(tensor.shape[axis] for tensor in check.inputs) == check.output.shape[axis],
        f"the inputs do not add up to {check.output.shape} along axis {axis}",
    )
    check.same_quantization(check.inputs)


def _elementwise(check: _Check, operator: Elementwise) -> None:
    check.int8(check.input, check.output)
    check.shape(check.output, check.input.shape)
    match operator.function:
        case "relu":
            inputs, output = check.scales()
            check.multiplier(inputs[0] / output)
        case "relu6":
            check.same_quantization(check.inputs)
        case "tanh":
            _fixed_output(check, 1 / 128, 0)
        case "logistic":
            _fixed_output(check, 1 / 256, -128)
        case _:
            check.that(False, f"function {operator.function!r} is not supported")


def _fixed_output(check: _Check, scale: float, zero_point: int) -> None:
    check.that(
        check.output.quantization == Quantization(scales=(scale,), zero_points=(zero_point,)),
        f"the output must have scale {scale} and zero point {zero_point}",
    )


def _softmax(check: _Check, operator: Softmax) -> None:
    check.int8(check.input, check.output)
    check.shape(check.output, check.input.shape)
    check.that(len(check.input.shape) >= 1, "a scalar has no softmax")
    check.that(
        check.input.shape[-1] <= MAX_SOFTMAX_CLASSES,
        f"more than {MAX_SOFTMAX_CLASSES} classes are not supported",
    )
    _fixed_output(check, 1 / 256, -128)
    check.that(
        math.isfinite(operator.beta) and operator.beta * _scale(check.input) * 2**26 > 1,
        f"beta {operator.beta} times the input's scale must be more than 2**-26",
    )


def _quantize(check: _Check, _: Quantize) -> None:
    check.shape(check.output, check.input.shape)
    check.quantized(check.output, ("int8", "uint8"))
    if check.input.dtype == "float32":
        return
    check.quantized(check.input, ("int8", "uint8"))
    check.that("int8" in (check.input.dtype, check.output.dtype), "uint8 to uint8 is not supported")
    inputs, output = check.scales()
    check.multiplier(inputs[0] / output)


def _dequantize(check: _Check, _: Dequantize) -> None:
    check.quantized(check.input, ("int8", "uint8"))
    check.that(check.output.dtype == "float32", f"the output must be float32, it is {check.output.dtype}")
    check.shape(check.output, check.input.shape)


_INPUT_COUNTS: dict[type[Operator], tuple[int, int]] = {
    Conv2D: (2, 3),
    DepthwiseConv2D: (2, 3),
    FullyConnected: (2, 3),
    Add: (2, 2),
    Mul: (2, 2),
    Concatenate: (1, 10),
}

_CHECKS: dict[type[Operator], Callable[..., None]] = {
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
    Elementwise: _elementwise,
    Softmax: _softmax,
    Quantize: _quantize,
    Dequantize: _dequantize,
}
