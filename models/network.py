"""An int8 network as frozen data: the one intermediate form between files, arithmetic and firmware.

A network is a list of tensors and a list of layers that read and write them, in execution order: the
shape of TensorFlow Lite's graph, since its int8 specification is the arithmetic we follow
(https://ai.google.dev/edge/litert/models/quantization_spec). Activations are NHWC, a 1-D signal has H = 1.
Real value = scale * (integer - zero_point). Weights are symmetric (zero point 0), per tensor or per channel.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sanderling.models.errors import ModelFormatError

DType = Literal["int8", "int16", "int32", "float32"]
Activation = Literal["none", "relu", "relu6"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantization:
    """Affine quantisation; one scale per channel along `axis`, or a single one with `axis` None."""

    scales: tuple[float, ...]  # each exactly a float32
    zero_points: tuple[int, ...]
    axis: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """A named tensor; `data` is a read-only array for constants and None for activations."""

    name: str
    shape: tuple[int, ...]
    dtype: DType
    quantization: Quantization | None = None
    data: NDArray[Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Conv2D:
    """Filter OHWI, bias int32 (O). `padding` is (top, bottom, left, right), already resolved."""

    stride: tuple[int, int]
    padding: tuple[int, int, int, int]
    dilation: tuple[int, int] = (1, 1)
    activation: Activation = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class DepthwiseConv2D:
    """Filter 1HWC with C = input channels * multiplier, bias int32 (C)."""

    stride: tuple[int, int]
    padding: tuple[int, int, int, int]
    dilation: tuple[int, int] = (1, 1)
    multiplier: int = 1
    activation: Activation = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class FullyConnected:
    """Weights (O, I), bias int32 (O) or absent."""

    activation: Activation = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool2D:
    kind: Literal["average", "max"]
    window: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int, int, int]
    activation: Activation = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Mean:
    axes: tuple[int, ...]
    keep_dims: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Add:
    activation: Activation = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Mul:
    activation: Activation = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pad:
    """`amounts` is (before, after) for each axis; filled with the zero point."""

    amounts: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reshape:
    pass


@dataclass(frozen=True, slots=True, kw_only=True)
class Concatenate:
    axis: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Elementwise:
    """A table or clamp applied to each element."""

    function: Literal["relu", "relu6", "tanh", "logistic"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Softmax:
    beta: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantize:
    """float32 to int8, or int8 to int8 of another scale (requantise)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dequantize:
    pass


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """The whole graph. Raises ModelFormatError on construction when it does not hold together."""

    name: str
    tensors: tuple[Tensor, ...]
    layers: tuple[Layer, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]

    def __post_init__(self) -> None:
        validate(self)

    @property
    def content_hash(self) -> bytes:
        """BLAKE2b-256 over everything that decides an output byte; names are left out. 32 bytes."""
        digest = hashlib.blake2b(b"sanderling network 1", digest_size=32)
        for tensor in self.tensors:
            quantization = None if tensor.quantization is None else asdict(tensor.quantization)
            digest.update(_canonical([tensor.shape, tensor.dtype, quantization]))
            if tensor.data is not None:
                digest.update(np.ascontiguousarray(tensor.data).tobytes())
        for layer in self.layers:
            kind = type(layer.operator).__name__
            digest.update(_canonical([kind, asdict(layer.operator), layer.inputs, layer.outputs]))
        digest.update(_canonical([self.inputs, self.outputs]))
        return digest.digest()


def _canonical(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode() + b"\n"


def validate(network: Network) -> None:
    """Refuses indices out of range, reads before writes, and constants whose shape or type is not declared."""
    count = len(network.tensors)
    for tensor in network.tensors:
        if tensor.data is not None and (
            tensor.data.shape != tensor.shape or tensor.data.dtype != np.dtype(tensor.dtype)
        ):
            raise ModelFormatError(
                f"tensor {tensor.name!r}: declared {tensor.dtype}{tensor.shape}, "
                f"its data is {tensor.data.dtype}{tensor.data.shape}"
            )
    known = {i for i, tensor in enumerate(network.tensors) if tensor.data is not None} | set(network.inputs)
    for layer in network.layers:
        for index in (*layer.inputs, *layer.outputs):
            if not 0 <= index < count:
                raise ModelFormatError(f"layer {layer.name!r}: tensor {index} of {count} does not exist")
        if missing := [i for i in layer.inputs if i not in known]:
            raise ModelFormatError(
                f"layer {layer.name!r} reads {network.tensors[missing[0]].name!r} before any layer wrote it"
            )
        known |= set(layer.outputs)
    if missing := [i for i in network.outputs if i not in known]:
        raise ModelFormatError(f"output {network.tensors[missing[0]].name!r} is written by no layer")
