"""Random networks over every supported operator, for differential tests between runtimes.

They are not models of anything: weights, scales and shapes are drawn so that outputs use the int8 range and
rounding, saturation, padding and broadcasting all occur.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import numpy as np

from sanderling.models.network import (
    Activation,
    Add,
    Concatenate,
    Conv2D,
    DepthwiseConv2D,
    Dequantize,
    DType,
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
from sanderling.models.windows import same_padding, window_output

Shape = tuple[int, ...]


def random_network(rng: np.random.Generator, layers: int = 6, operator: str | None = None) -> Network:
    """A chain of about `layers` layers with side branches; or one layer of the kind named, as "conv2d"."""
    sketch = _Sketch(rng)
    if operator is not None:
        _DRAWN[operator](sketch)
        return sketch.network(f"{operator} specimen")
    names = list(_DRAWN)
    for _ in range(layers):
        _DRAWN[names[rng.integers(len(names))]](sketch)
    return sketch.network("random specimen")


def operator_kinds() -> tuple[str, ...]:
    """The names that `random_network` takes as `operator`."""
    return tuple(_DRAWN)


class _Sketch:
    """A network in the making; `current` is the tensor that the next layer reads."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.tensors: list[Tensor] = []
        self.layers: list[Layer] = []
        rank = int(rng.choice([2, 4, 4, 4]))
        shape = (1, *self.sizes(1, 10, rank - 2), self.size(1, 8))
        self.current = self.tensor(shape, self.quantization())

    def network(self, name: str) -> Network:
        if not self.layers:
            _reshape(self)
        return Network(
            name=name,
            tensors=tuple(self.tensors),
            layers=tuple(self.layers),
            inputs=(0,),
            outputs=(self.current,),
        )

    @property
    def shape(self) -> Shape:
        return self.tensors[self.current].shape

    @property
    def scale(self) -> float:
        quantization = self.tensors[self.current].quantization
        assert quantization is not None
        return quantization.scales[0]

    def size(self, low: int, high: int) -> int:
        return int(self.rng.integers(low, high + 1))

    def sizes(self, low: int, high: int, count: int) -> tuple[int, ...]:
        return tuple(self.size(low, high) for _ in range(count))

    def chance(self, probability: float) -> bool:
        return bool(self.rng.random() < probability)

    def activation(self) -> Activation:
        choices: tuple[Activation, ...] = ("none", "none", "relu", "relu6")
        return choices[self.size(0, 3)]

    def quantization(self, scale: float | None = None) -> Quantization:
        """Around `scale`, or of any usual size; zero points often at an end of the range."""
        drawn = scale * 2 ** self.rng.uniform(-1, 1.5) if scale else 10 ** self.rng.uniform(-3, 0)
        drawn = min(max(drawn, 2.0**-20), 2.0**20)
        zero_point = int(self.rng.choice([-128, 0, 127, self.size(-128, 127), self.size(-128, 127)]))
        return Quantization(scales=(float(np.float32(drawn)),), zero_points=(zero_point,))

    def tensor(
        self, shape: Shape, quantization: Quantization | None, data: Any = None, dtype: DType = "int8"
    ) -> int:
        name = f"t{len(self.tensors)}"
        self.tensors.append(Tensor(name=name, shape=shape, dtype=dtype, quantization=quantization, data=data))
        return len(self.tensors) - 1

    def constant(self, shape: Shape, quantization: Quantization) -> int:
        return self.tensor(shape, quantization, self.rng.integers(-128, 128, shape).astype(np.int8))

    def layer(self, operator: Operator, inputs: tuple[int, ...], output: int) -> None:
        name = f"l{len(self.layers)}"
        self.layers.append(Layer(name=name, operator=operator, inputs=inputs, outputs=(output,)))
        self.current = output

    def unary(self, operator: Operator, shape: Shape, quantization: Quantization | None = None) -> None:
        """A layer from the current tensor, by default without change of scale."""
        kept = self.tensors[self.current].quantization if quantization is None else quantization
        self.layer(operator, (self.current,), self.tensor(shape, kept))

    def as_image(self) -> None:
        """Reshapes the current tensor to four dimensions where it has fewer."""
        if len(self.shape) == 4:
            return
        count = math.prod(self.shape)
        divisors = [d for d in range(1, count + 1) if count % d == 0]
        channels = int(self.rng.choice(divisors))
        width = int(self.rng.choice([d for d in divisors if (count // channels) % d == 0]))
        self.unary(Reshape(), (1, count // channels // width, width, channels))

    def weights(self, shape: Shape, axis: int, terms: int) -> tuple[tuple[int, ...], Quantization]:
        """(weights, bias or nothing) and the output's quantisation for sums of `terms` products."""
        channels = shape[axis]
        per_channel = channels > 1 and self.chance(0.7)
        drawn = 10 ** self.rng.uniform(-3, -1, channels if per_channel else 1)
        scales = tuple(float(s) for s in drawn.astype(np.float32))
        quantization = Quantization(
            scales=scales, zero_points=(0,) * len(scales), axis=axis if per_channel else None
        )
        tensors = [self.constant(shape, quantization)]
        if self.chance(0.8):
            bias = self.rng.integers(-5000, 5000, channels).astype(np.int32)
            tensors.append(self.tensor((channels,), None, bias, "int32"))
        return tuple(tensors), self.quantization(self.scale * max(scales) * 75 * math.sqrt(terms))

    def windows(self, dilate: bool) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]]:
        """(window, stride, dilation) that fit the current image."""
        height, width = self.shape[1:3]
        window = (self.size(1, min(4, height)), self.size(1, min(4, width)))
        dilation = self.sizes(1, 2, 2) if dilate else (1, 1)
        pair = tuple(
            d if (k - 1) * d < n else 1 for d, k, n in zip(dilation, window, (height, width), strict=True)
        )
        return window, (self.size(1, 3), self.size(1, 3)), (pair[0], pair[1])

    def padding(
        self, window: tuple[int, int], stride: tuple[int, int], dilation: tuple[int, int], explicit: bool
    ) -> tuple[int, int, int, int]:
        """SAME, VALID, or where `explicit` any amounts below the window."""
        height, width = self.shape[1:3]
        kind = self.rng.choice(["same", "valid", "explicit"] if explicit else ["same", "valid"])
        if kind == "valid":
            return (0, 0, 0, 0)
        if kind == "explicit":
            rows, columns = self.sizes(0, window[0] - 1, 2), self.sizes(0, window[1] - 1, 2)
        else:
            rows = same_padding(height, window[0], stride[0], dilation[0])
            columns = same_padding(width, window[1], stride[1], dilation[1])
        return (rows[0], rows[1], columns[0], columns[1])

    def windowed_shape(
        self,
        window: tuple[int, int],
        stride: tuple[int, int],
        padding: tuple[int, int, int, int],
        dilation: tuple[int, int],
        channels: int,
    ) -> Shape:
        batch, height, width, _ = self.shape
        rows = window_output(height, window[0], stride[0], padding[0], padding[1], dilation[0])
        columns = window_output(width, window[1], stride[1], padding[2], padding[3], dilation[1])
        return (batch, rows, columns, channels)


def _conv2d(sketch: _Sketch) -> None:
    sketch.as_image()
    window, stride, dilation = sketch.windows(dilate=True)
    padding = sketch.padding(window, stride, dilation, explicit=True)
    filters = (sketch.size(1, 8), *window, sketch.shape[3])
    shape = sketch.windowed_shape(window, stride, padding, dilation, filters[0])
    constants, quantization = sketch.weights(filters, 0, math.prod(filters[1:]))
    operator = Conv2D(stride=stride, padding=padding, dilation=dilation, activation=sketch.activation())
    sketch.layer(operator, (sketch.current, *constants), sketch.tensor(shape, quantization))


def _depthwise_conv2d(sketch: _Sketch) -> None:
    sketch.as_image()
    window, stride, dilation = sketch.windows(dilate=True)
    padding = sketch.padding(window, stride, dilation, explicit=True)
    multiplier = int(sketch.rng.choice([1, 1, 1, 2, 3]))
    filters = (1, *window, sketch.shape[3] * multiplier)
    shape = sketch.windowed_shape(window, stride, padding, dilation, filters[3])
    constants, quantization = sketch.weights(filters, 3, math.prod(window))
    operator = DepthwiseConv2D(
        stride=stride,
        padding=padding,
        dilation=dilation,
        multiplier=multiplier,
        activation=sketch.activation(),
    )
    sketch.layer(operator, (sketch.current, *constants), sketch.tensor(shape, quantization))


def _fully_connected(sketch: _Sketch) -> None:
    count = math.prod(sketch.shape)
    width = sketch.shape[-1] if sketch.chance(0.5) else count
    units = sketch.size(1, 10)
    whole = (*sketch.shape[:-1], units) if width == sketch.shape[-1] else (1, units)
    shape = whole if sketch.chance(0.5) else (count // width, units)
    constants, quantization = sketch.weights((units, width), 0, width)
    operator = FullyConnected(activation=sketch.activation())
    sketch.layer(operator, (sketch.current, *constants), sketch.tensor(shape, quantization))


def _pool2d(kind: Literal["average", "max"]) -> Callable[[_Sketch], None]:
    def draw(sketch: _Sketch) -> None:
        sketch.as_image()
        window, stride, dilation = sketch.windows(dilate=False)
        padding = sketch.padding(window, stride, dilation, explicit=False)
        shape = sketch.windowed_shape(window, stride, padding, dilation, sketch.shape[3])
        activation = sketch.activation()
        pool = Pool2D(kind=kind, window=window, stride=stride, padding=padding, activation=activation)
        sketch.unary(pool, shape)

    return draw


def _mean(sketch: _Sketch) -> None:
    sketch.as_image()
    axes = (1, 2) if sketch.chance(0.6) else tuple(sorted({sketch.size(1, 3), sketch.size(1, 3)}))
    keep_dims = sketch.chance(0.5)
    sizes = enumerate(sketch.shape)
    shape = tuple(1 if axis in axes else size for axis, size in sizes if keep_dims or axis not in axes)
    quantization = None if sketch.chance(0.4) else sketch.quantization(sketch.scale)
    sketch.unary(Mean(axes=axes, keep_dims=keep_dims), shape, quantization)


def _binary(sketch: _Sketch, operator: Operator, output_scale: Callable[[float, float], float]) -> None:
    """Of the current tensor with an earlier one of its shape, itself, or a constant that broadcasts."""
    same = [i for i, tensor in enumerate(sketch.tensors) if _alike(tensor, sketch.shape)]
    if sketch.chance(0.5):
        broadcast = (
            sketch.shape if sketch.chance(0.4) else (*(1,) * (len(sketch.shape) - 1), sketch.shape[-1])
        )
        other = sketch.constant(broadcast, sketch.quantization())
    else:
        other = same[sketch.size(0, len(same) - 1)]
    quantization = sketch.tensors[other].quantization
    assert quantization is not None
    scale = output_scale(sketch.scale, quantization.scales[0])
    inputs = (sketch.current, other) if sketch.chance(0.5) else (other, sketch.current)
    sketch.layer(operator, inputs, sketch.tensor(sketch.shape, sketch.quantization(scale)))


def _alike(tensor: Tensor, shape: Shape) -> bool:
    return tensor.shape == shape and tensor.dtype == "int8" and tensor.data is None


def _add(sketch: _Sketch) -> None:
    _binary(sketch, Add(activation=sketch.activation()), lambda a, b: max(a, b))


def _mul(sketch: _Sketch) -> None:
    _binary(sketch, Mul(activation=sketch.activation()), lambda a, b: a * b * 75)


def _pad(sketch: _Sketch) -> None:
    sketch.as_image()
    amounts = ((0, 0), *((sketch.size(0, 2), sketch.size(0, 2)) for _ in sketch.shape[1:]))
    padded = zip(sketch.shape, amounts, strict=True)
    sketch.unary(Pad(amounts=amounts), tuple(size + before + after for size, (before, after) in padded))


def _reshape(sketch: _Sketch) -> None:
    sketch.unary(Reshape(), (1, math.prod(sketch.shape)))


def _concatenate(sketch: _Sketch) -> None:
    axis = sketch.size(1, len(sketch.shape) - 1)
    quantization = sketch.tensors[sketch.current].quantization
    assert quantization is not None
    others = []
    for _ in range(sketch.size(1, 3)):
        shape = (*sketch.shape[:axis], sketch.size(1, 4), *sketch.shape[axis + 1 :])
        others.append(sketch.current if sketch.chance(0.3) else sketch.constant(shape, quantization))
    inputs = (*others, sketch.current)
    total = sum(sketch.tensors[i].shape[axis] for i in inputs)
    shape = (*sketch.shape[:axis], total, *sketch.shape[axis + 1 :])
    sketch.layer(Concatenate(axis=axis), inputs, sketch.tensor(shape, quantization))


def _elementwise(function: Literal["relu", "relu6", "tanh", "logistic"]) -> Callable[[_Sketch], None]:
    outputs = {
        "relu6": None,
        "tanh": Quantization(scales=(1 / 128,), zero_points=(0,)),
        "logistic": Quantization(scales=(1 / 256,), zero_points=(-128,)),
    }

    def draw(sketch: _Sketch) -> None:
        quantization = outputs[function] if function in outputs else sketch.quantization(sketch.scale)
        sketch.unary(Elementwise(function=function), sketch.shape, quantization)

    return draw


def _softmax(sketch: _Sketch) -> None:
    if sketch.shape[-1] >= 512:  # TFLM aborts when so many classes are nearly equal
        _requantize(sketch)
        return
    beta = float(np.float32(sketch.rng.choice([1.0, 1.0, 0.5, 1.7])))
    sketch.unary(Softmax(beta=beta), sketch.shape, Quantization(scales=(1 / 256,), zero_points=(-128,)))


def _requantize(sketch: _Sketch) -> None:
    sketch.unary(Quantize(), sketch.shape, sketch.quantization(sketch.scale))


def _float_round_trip(sketch: _Sketch) -> None:
    scale = sketch.scale
    floats = sketch.tensor(sketch.shape, None, dtype="float32")
    sketch.layer(Dequantize(), (sketch.current,), floats)
    sketch.layer(Quantize(), (floats,), sketch.tensor(sketch.shape, sketch.quantization(scale)))


_DRAWN: dict[str, Callable[[_Sketch], None]] = {
    "conv2d": _conv2d,
    "depthwise_conv2d": _depthwise_conv2d,
    "fully_connected": _fully_connected,
    "average_pool": _pool2d("average"),
    "max_pool": _pool2d("max"),
    "mean": _mean,
    "add": _add,
    "mul": _mul,
    "pad": _pad,
    "reshape": _reshape,
    "concatenate": _concatenate,
    "relu": _elementwise("relu"),
    "relu6": _elementwise("relu6"),
    "tanh": _elementwise("tanh"),
    "logistic": _elementwise("logistic"),
    "softmax": _softmax,
    "requantize": _requantize,
    "float_round_trip": _float_round_trip,
}
