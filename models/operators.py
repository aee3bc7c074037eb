"""The operators a network is made of, and the tensors they read and write, as frozen data.

Semantics follow TensorFlow Lite's int8 specification (https://ai.google.dev/edge/litert/models/quantization_spec);
docs/arithmetic.md, "Inference operators", gives the arithmetic of each, models/inference.py computes it.
Activations are NHWC, a 1-D signal has H = 1. Shapes include the batch dimension, 1 as a rule.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from numpy.typing import NDArray

DType = Literal["int8", "uint8", "int16", "int32", "float32"]
Activation = Literal["none", "relu", "relu6"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantization:
    """Affine quantisation; one scale per channel along `axis`, or a single one with `axis` None."""

    scales: tuple[float, ...]  # each exactly a float32
    zero_points: tuple[int, ...]
    axis: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Tensor:
    """A named tensor; `data` is a read-only array for constants and None for activations.

    Tensors compare by identity.
    """

    name: str
    shape: tuple[int, ...]
    dtype: DType
    quantization: Quantization | None = None
    data: NDArray[Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Conv2D:
    """Filter OHWI, bias int32 (O) or absent. `padding` is (top, bottom, left, right), already resolved."""

    stride: tuple[int, int]
    padding: tuple[int, int, int, int]
    dilation: tuple[int, int] = (1, 1)
    activation: Activation = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class DepthwiseConv2D:
    """Filter 1HWC with C = input channels * multiplier, bias int32 (C) or absent."""

    stride: tuple[int, int]
    padding: tuple[int, int, int, int]
    dilation: tuple[int, int] = (1, 1)
    multiplier: int = 1
    activation: Activation = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class FullyConnected:
    """Weights (O, I), bias int32 (O) or absent. The input is read as rows of I, whatever its shape."""

    activation: Activation = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool2D:
    """Padding is left out: out of the maximum, and out of the count that an average divides by."""

    kind: Literal["average", "max"]
    window: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int, int, int]
    activation: Activation = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Mean:
    """The mean over `axes`, not negative, ascending."""

    axes: tuple[int, ...]
    keep_dims: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Add:
    """Two tensors whose shapes broadcast; one may be a constant."""

    activation: Activation = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Mul:
    """Two tensors whose shapes broadcast; one may be a constant."""

    activation: Activation = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pad:
    """`amounts` is (before, after) for each axis; filled with the zero point."""

    amounts: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reshape:
    """To the output tensor's shape."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Concatenate:
    """Along `axis`, not negative; inputs and output share one quantisation."""

    axis: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Elementwise:
    """A table or clamp applied to each element."""

    function: Literal["relu", "relu6", "tanh", "logistic"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Softmax:
    """Over the last axis, of beta (a float32) times the input."""

    beta: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantize:
    """float32 to int8, or int8 to int8 of another scale (requantise); either side may be uint8."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dequantize:
    """int8 or uint8 to float32."""


Operator = (
    Conv2D
    | DepthwiseConv2D
    | FullyConnected
    | Pool2D
    | Mean
    | Add
    | Mul
    | Pad
    | Reshape
    | Concatenate
    | Elementwise
    | Softmax
    | Quantize
    | Dequantize
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One operator; `inputs` and `outputs` are indices into Network.tensors, weights and bias included."""

    name: str
    operator: Operator
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
