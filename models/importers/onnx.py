"""ONNX with QuantizeLinear and DequantizeLinear pairs (QDQ) as a network, as onnxruntime's quantize_static writes it.

https://onnx.ai/onnx/operators. The pairs are taken as what they mean: the scale of a value. ONNX is NCHW, a network
NHWC: axes are followed through transposes, reshapes and flattens, and weights are put in our order, so that
no data moves. Graph inputs and outputs of three or four dimensions that convolutions or pools read become NHWC.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sanderling.models import arithmetic
from sanderling.models.errors import ModelFormatError
from sanderling.models.importers.graph import MAX_TENSORS, compact
from sanderling.models.importers.onnx_file import Array, File, Node, constant, read_file
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
Places = NDArray[np.int32]

TO_NHWC, TO_NCHW = (0, 2, 3, 1), (0, 3, 1, 2)
AXIS_IN_NHWC = (0, 3, 1, 2)  # of each axis of NCHW
SHAPE_KEEPING = (
    "QuantizeLinear",
    "DequantizeLinear",
    "Relu",
    "Clip",
    "Add",
    "Mul",
    "Tanh",
    "Sigmoid",
    "Identity",
)
CHANNELS_FIRST = ("Conv", "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool")


def from_onnx(data: bytes, name: str = "network") -> Network:
    """The network in an .onnx file's bytes.

    ModelFormatError, naming layer and operator, when malformed or not supported; external data is refused.
    MissingError without the extra `models`.
    """
    reader = _Reader(file=read_file(data))
    for input_name, (dtype, shape) in reader.file.inputs.items():
        reader.read_input(input_name, dtype, shape)
    for node in reader.file.nodes:
        reader.read(node)
    outputs = [reader.write_output(output) for output in reader.file.outputs]
    return compact(
        name=name, tensors=reader.tensors, layers=reader.layers, inputs=reader.inputs, outputs=outputs
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Value:
    """A value of the ONNX graph that one of our tensors holds, perhaps in another order.

    `places` has the value's ONNX shape and tells where in the flat tensor each element lies.
    """

    tensor: int
    places: Places
    dtype: str  # in ONNX: float32 between a DequantizeLinear and a QuantizeLinear
    factor: float = 1.0  # still to be multiplied by, before a softmax

    @property
    def shape(self) -> Shape:
        return self.places.shape


@dataclass(frozen=True, slots=True, kw_only=True)
class _Constant:
    """A quantised constant in ONNX's order: int8 or int32 values with scale and zero point, as int8's."""

    values: Array
    quantization: Quantization


@dataclass(slots=True, kw_only=True)
class _Reader:
    """The network so far, and what each name of the ONNX graph stands for."""

    file: File
    tensors: list[Tensor] = field(default_factory=list)
    layers: list[Layer] = field(default_factory=list)
    inputs: list[int] = field(default_factory=list)
    values: dict[str, _Value] = field(default_factory=dict)
    quantized: dict[str, _Constant] = field(default_factory=dict)
    absorbed: set[str] = field(default_factory=set)  # outputs of nodes that an earlier layer took over

    # Tensors, layers and values.

    def tensor(
        self,
        name: str,
        shape: Shape,
        quantization: Quantization | None,
        data: Any = None,
        dtype: DType = "int8",
    ) -> int:
        self.file.budget.spend(math.prod(shape))
        if len(self.tensors) >= MAX_TENSORS:
            raise ModelFormatError(f"more than {MAX_TENSORS} tensors are not supported")
        self.tensors.append(Tensor(name=name, shape=shape, dtype=dtype, quantization=quantization, data=data))
        return len(self.tensors) - 1

    def layer(
        self,
        node: Node,
        operator: Operator,
        inputs: Sequence[int],
        shape: Shape,
        quantization: Quantization | None,
        dtype: DType = "int8",
    ) -> int:
        """Appends a layer and returns the tensor it writes."""
        output = self.tensor(node.outputs[0], shape, quantization, dtype=dtype)
        self.layers.append(Layer(name=node.name, operator=operator, inputs=tuple(inputs), outputs=(output,)))
        return output

    def define(self, name: str, tensor: int, places: Places, dtype: str = "float32") -> None:
        self.values[name] = _Value(tensor=tensor, places=places, dtype=dtype)

    def value(self, node: Node, index: int = 0) -> _Value:
        """The value an input stands for."""
        name = node.input(index)
        if name not in self.values:
            kind = "a constant" if name in self.file.constants or name in self.quantized else "not known here"
            raise node.refuse(f"input {name!r} is {kind}; expected a quantised value")
        value = self.values[name]
        self.file.budget.spend(value.places.size + 1)
        return value

    def quantization(self, node: Node, tensor: int) -> Quantization:
        quantization = self.tensors[tensor].quantization
        if quantization is None:
            raise node.refuse("its input is not quantised")
        return quantization

    def constant(self, node: Node, index: int) -> Array | None:
        """A plain constant input, or None when it is left out."""
        name = node.input(index)
        if not name:
            return None
        if name not in self.file.constants:
            raise node.refuse(f"input {name!r} must be constant")
        return self.file.constants[name]

    def small_integers(self, node: Node, index: int) -> tuple[int, ...] | None:
        values = self.constant(node, index)
        if values is None:
            return None
        if values.size > 16 or values.dtype.kind != "i":
            raise node.refuse(f"input {node.input(index)!r} must be a few integers")
        return tuple(int(v) for v in values.reshape(-1))

    def shaped(self, node: Node, tensor: int, shape: Shape) -> int:
        """The tensor under another shape; a Reshape layer where it differs."""
        old = self.tensors[tensor]
        if old.shape == shape:
            return tensor
        return self.layer(node, Reshape(), [tensor], shape, old.quantization, old.dtype)

    def ordered(self, node: Node, value: _Value, order: Sequence[int]) -> int:
        """The tensor shaped as the value's axes in `order`; refused when its elements lie in another order."""
        places = value.places.transpose(order)
        if not _is_flat(places):
            raise node.refuse(f"shape {value.shape} in an order of elements that would need a transpose")
        return self.shaped(node, value.tensor, places.shape)

    def images(self, node: Node, value: _Value) -> int:
        """The tensor as NHWC images, from NCHW, or from NCW with H = 1."""
        if value.places.ndim == 3:
            value = replace(value, places=value.places[:, :, np.newaxis, :])
        if value.places.ndim != 4:
            raise node.refuse(f"input of shape {value.shape}; three or four dimensions are supported")
        return self.ordered(node, value, TO_NHWC)

    def define_images(self, node: Node, tensor: int, rank: int) -> None:
        """The node's output is NCHW (or NCW) of an NHWC tensor."""
        places = _flat(self.tensors[tensor].shape).transpose(TO_NCHW)
        self.define(self.result_name(node), tensor, places[:, :, 0, :] if rank == 3 else places)

    # Interface.

    def read_input(self, name: str, dtype: str, shape: Shape) -> None:
        places = _flat(shape)
        if len(shape) in (3, 4) and self.is_channels_first(name):
            wide = (shape[0], shape[1], 1, shape[2]) if len(shape) == 3 else shape
            nhwc = tuple(wide[axis] for axis in TO_NHWC)
            places = _flat(nhwc).transpose(TO_NCHW)
            places = places[:, :, 0, :] if len(shape) == 3 else places
            shape = nhwc
        tensor = self.tensor(name, shape, None, dtype=dtype)  # type: ignore[arg-type]
        self.inputs.append(tensor)
        self.define(name, tensor, places, dtype)

    def is_channels_first(self, name: str) -> bool:
        """Whether a convolution or pool reads the value before anything changes its shape."""
        waiting, seen = [name], set()
        while waiting:
            for node in self.file.consumers.get(waiting.pop(), []):
                if node.operator in CHANNELS_FIRST:
                    return True
                if node.operator in SHAPE_KEEPING and node.outputs[0] not in seen:
                    seen.add(node.outputs[0])
                    waiting.append(node.outputs[0])
        return False

    def write_output(self, name: str) -> int:
        """The tensor of a graph output: in ONNX's order, or NHWC, in the type that ONNX declares."""
        node = Node(operator="output", name=name, inputs=(name,), outputs=(name,), attributes={})
        value = self.value(node)
        if _is_flat(value.places) or value.places.ndim not in (3, 4):
            tensor = self.ordered(node, value, range(value.places.ndim))
        else:
            tensor = self.images(node, value)
        held = self.tensors[tensor]
        if value.dtype == "float32" and held.dtype != "float32":
            return self.layer(node, Dequantize(), [tensor], held.shape, None, "float32")
        if value.dtype == "uint8" and held.dtype == "int8":
            quantization = self.quantization(node, tensor)
            return self.layer(node, Quantize(), [tensor], held.shape, _moved(quantization, 128), "uint8")
        return tensor

    # Nodes.

    def read(self, node: Node) -> None:
        if node.outputs[0] in self.absorbed:
            return
        if node.operator in _FOLDED and all(name in self.file.constants for name in node.inputs):
            self.file.constants[node.outputs[0]] = _FOLDED[node.operator](self, node)
            return
        if node.operator not in _READERS:
            raise node.refuse("this operator is not supported")
        _READERS[node.operator](self, node)

    def result_name(self, node: Node) -> str:
        """The name under which the node's result goes on: that of the last node it took over, or its own."""
        name = node.outputs[0]
        while (follower := self.only_consumer(name)) is not None and follower.outputs[0] in self.absorbed:
            name = follower.outputs[0]
        return name

    def only_consumer(self, name: str) -> Node | None:
        consumers = self.file.consumers.get(name, [])
        return consumers[0] if len(consumers) == 1 and name not in self.file.outputs else None

    def absorb_activation(self, node: Node) -> Activation:
        """The activation of a Relu or Clip that alone reads the node's result, which the layer takes over."""
        follower = self.only_consumer(self.result_name(node))
        if follower is None or follower.operator not in ("Relu", "Clip"):
            return "none"
        activation = self.clamp(follower)
        self.absorbed.add(follower.outputs[0])
        return activation

    def clamp(self, node: Node) -> Literal["relu", "relu6"]:
        """Which activation a Relu or Clip node is."""
        if node.operator == "Relu":
            return "relu"
        low, high = self.real(node, 1, "min", -math.inf), self.real(node, 2, "max", math.inf)
        if low != 0 or not (high == 6 or high > 1e30):
            raise node.refuse(f"clips to {low}..{high}; 0..6 and 0 up are supported")
        return "relu6" if high == 6 else "relu"

    def real(self, node: Node, index: int, attribute: str, default: float) -> float:
        """A number given as a constant input, quantised or not, or in older operator sets as an attribute."""
        name = node.input(index)
        if name in self.quantized:
            held = self.quantized[name]
            first = int(held.values.reshape(-1)[0]) if held.values.size else 0
            return (first - held.quantization.zero_points[0]) * held.quantization.scales[0]
        values = self.constant(node, index)
        if values is None:
            return node.real(attribute, default)
        return float(values.reshape(-1)[0]) if values.size == 1 else math.nan

    def output_quantization(self, node: Node, default: Quantization | None = None) -> Quantization:
        """What the QuantizeLinear nodes that read the result give it."""
        readers = self.file.consumers.get(self.result_name(node), [])
        for reader in readers:
            if reader.operator == "QuantizeLinear":
                return self.scale_of(reader)[0]
        if default is None:
            raise node.refuse("its output is not quantised: no QuantizeLinear reads it")
        return default

    def scale_of(self, node: Node, default_type: str = "uint8") -> tuple[Quantization, str]:
        """(quantisation as int8, type) that a QuantizeLinear or DequantizeLinear node names."""
        scales, zeros = self.constant(node, 1), self.constant(node, 2)
        if scales is None or scales.dtype != np.float32 or not 1 <= scales.size <= 2**20 or scales.ndim > 1:
            raise node.refuse("its scale must be one float32, or one for each channel")
        if not np.isfinite(scales).all() or scales.min() <= 0:
            raise node.refuse("its scales must be positive and finite")
        dtype = default_type if zeros is None else str(zeros.dtype)
        if zeros is None:
            zeros = np.zeros(scales.size, np.int32)
        if dtype not in ("int8", "uint8", "int32") or zeros.size != scales.size:
            raise node.refuse(f"its zero point must be int8 or uint8, as many as scales, it is {dtype}")
        self.file.budget.spend(scales.size)
        quantization = Quantization(
            scales=tuple(float(s) for s in scales.reshape(-1)),
            zero_points=tuple(int(z) for z in zeros.reshape(-1)),
            axis=None if scales.size == 1 else node.integer("axis", 1),
        )
        return (_moved(quantization, -128), dtype) if dtype == "uint8" else (quantization, dtype)

    # Operands of layers with weights.

    def weights(self, node: Node, index: int) -> _Constant:
        """A constant int8 operand with zero point 0."""
        name = node.input(index)
        if name not in self.quantized or self.quantized[name].values.dtype != np.int8:
            raise node.refuse(f"weights {name!r} must be constant and quantised to 8 bits")
        held = self.quantized[name]
        if any(held.quantization.zero_points):
            raise node.refuse(f"weights {name!r} must be symmetric: zero point 0 (128 for uint8)")
        self.file.budget.spend(held.values.size)
        return held

    def weighted(self, node: Node, inputs: Sequence[int], operator: Operator, shape: Shape) -> int:
        """A layer of (input, weights, perhaps bias) whose output scale its QuantizeLinear names."""
        return self.layer(node, operator, inputs, shape, self.output_quantization(node))

    def add_constant(
        self, name: str, values: Array, quantization: Quantization | None, dtype: DType = "int8"
    ) -> int:
        values = np.ascontiguousarray(values)
        values.setflags(write=False)
        return self.tensor(name, values.shape, quantization, values, dtype)

    def bias(self, node: Node, name: str, source: int, weights: Quantization, channels: int) -> list[int]:
        """The bias in steps of s_in * s_w, as a tensor; nothing when there is none."""
        if not name:
            return []
        scales = self.quantization(node, source).scales[0] * np.array(weights.scales)
        if name in self.quantized:
            held = self.quantized[name]
            values, own = held.values.reshape(-1), np.array(held.quantization.scales)
            if any(held.quantization.zero_points):
                raise node.refuse(f"bias {name!r} must have zero point 0")
        elif name in self.file.constants:
            values, own = self.file.constants[name].reshape(-1), np.ones(1)
        else:
            raise node.refuse(f"bias {name!r} must be constant")
        if values.size != channels or any(size not in (1, channels) for size in (own.size, scales.size)):
            raise node.refuse(f"bias {name!r} has {values.size} values for {channels} channels")
        with np.errstate(all="ignore"):
            ratio = own / scales
            steps = np.rint(values * np.where(np.abs(ratio - 1) < 1e-5, 1.0, ratio))
        steps = np.clip(np.nan_to_num(steps), arithmetic.INT32_MIN, arithmetic.INT32_MAX)
        return [self.add_constant(name, steps.astype(np.int32), None, "int32")]


def _flat(shape: Shape) -> Places:
    return np.arange(math.prod(shape), dtype=np.int32).reshape(shape)


def _is_flat(places: Places) -> bool:
    flat = places.reshape(-1)
    return bool(np.array_equal(flat, np.arange(flat.size, dtype=np.int32)))


def _moved(quantization: Quantization, by: int) -> Quantization:
    """The same real values with integers moved by `by`: between uint8 and int8."""
    return replace(quantization, zero_points=tuple(z + by for z in quantization.zero_points))


# Quantisation.


def _quantize_linear(reader: _Reader, node: Node) -> None:
    quantization, dtype = reader.scale_of(node)
    source, name = node.input(0), node.outputs[0]
    if source in reader.file.constants:
        reader.quantized[name] = _quantized_constant(node, reader.file.constants[source], quantization)
        return
    value = reader.value(node)
    if len(quantization.scales) > 1 or dtype == "int32":
        raise node.refuse("activations must be quantised to 8 bits with one scale")
    tensor = value.tensor
    if not _same(reader.tensors[tensor].quantization, quantization):
        tensor = reader.layer(node, Quantize(), [tensor], reader.tensors[tensor].shape, quantization)
    reader.define(name, tensor, value.places, dtype)


def _dequantize_linear(reader: _Reader, node: Node) -> None:
    source, name = node.input(0), node.outputs[0]
    if source in reader.quantized:
        quantization, _ = reader.scale_of(node)
        reader.quantized[name] = replace(reader.quantized[source], quantization=quantization)
        return
    if source in reader.file.constants:
        reader.quantized[name] = _dequantized_constant(reader, node, reader.file.constants[source])
        return
    value = reader.value(node)
    quantization, dtype = reader.scale_of(node, value.dtype)
    if len(quantization.scales) > 1 or dtype != value.dtype:
        raise node.refuse(f"{value.dtype} values with a zero point of {dtype} or many scales")
    reader.define(name, _interpreted(reader, node, value.tensor, quantization), value.places)


def _dequantized_constant(reader: _Reader, node: Node, values: Array) -> _Constant:
    quantization, dtype = reader.scale_of(node, str(values.dtype))
    axis, rank = quantization.axis, values.ndim
    if str(values.dtype) != dtype or (axis is not None and not -rank <= axis < rank):
        raise node.refuse(f"{values.dtype} values of {rank} axes; zero point of {dtype}, scales along {axis}")
    if axis is not None:
        quantization = replace(quantization, axis=axis % rank)
    moved = (values.astype(np.int16) - 128).astype(np.int8) if dtype == "uint8" else values
    return _Constant(values=moved, quantization=quantization)


def _interpreted(reader: _Reader, node: Node, tensor: int, quantization: Quantization) -> int:
    """The int8 tensor whose integers mean `quantization`: the same one, unless it has another meaning already."""
    held = reader.tensors[tensor]
    if held.dtype == "uint8":  # a graph input
        reader.tensors[tensor] = replace(held, quantization=_moved(quantization, 128))
        return reader.layer(node, Quantize(), [tensor], held.shape, quantization)
    if held.quantization is None:
        reader.tensors[tensor] = replace(held, quantization=quantization)
        return tensor
    if _same(held.quantization, quantization):
        return tensor
    return reader.layer(node, Reshape(), [tensor], held.shape, quantization)


def _same(one: Quantization | None, other: Quantization) -> bool:
    return one is not None and one.scales == other.scales and one.zero_points == other.zero_points


def _quantized_constant(node: Node, values: Array, quantization: Quantization) -> _Constant:
    if values.dtype != np.float32:
        raise node.refuse(f"a constant of type {values.dtype} cannot be quantised")
    axis = quantization.axis
    if axis is not None and not (
        -values.ndim <= axis < values.ndim and values.shape[axis] == len(quantization.scales)
    ):
        raise node.refuse(f"{len(quantization.scales)} scales along axis {axis} of {values.shape}")
    shape = [1] * values.ndim
    if axis is not None:
        shape[axis] = -1
    scales = np.array(quantization.scales, np.float32).reshape(shape if values.ndim else ())
    zeros = np.array(quantization.zero_points).reshape(scales.shape)
    with np.errstate(all="ignore"):
        steps = np.nan_to_num(np.rint(values / scales)).astype(np.float64) + zeros
    return _Constant(values=np.clip(steps, -128, 127).astype(np.int8), quantization=quantization)


# Layers with weights.


def _conv(reader: _Reader, node: Node) -> None:
    value, held = reader.value(node), reader.weights(node, 1)
    rank = value.places.ndim
    source = reader.images(node, value)
    filters = held.values[:, :, np.newaxis, :] if rank == 3 and held.values.ndim == 3 else held.values
    if filters.ndim != 4 or held.quantization.axis not in (None, 0):
        raise node.refuse(f"filter of shape {held.values.shape}, scales along axis {held.quantization.axis}")
    channels, group = reader.tensors[source].shape[3], node.integer("group", 1)
    depthwise = group == channels and filters.shape[1] == 1 and channels > 1
    if group != 1 and not depthwise:
        raise node.refuse(f"group {group} of {channels} channels: grouped convolution is not supported")
    order = (1, 2, 3, 0) if depthwise else (0, 2, 3, 1)
    weights = filters.transpose(order)
    quantization = replace(held.quantization, axis=None)
    if len(quantization.scales) > 1:
        quantization = replace(quantization, axis=3 if depthwise else 0)
    window = (filters.shape[2], filters.shape[3])
    stride, padding, dilation = _window_attributes(reader, node, source, window, rank)
    activation = reader.absorb_activation(node)
    operator: Operator
    if depthwise:
        operator = DepthwiseConv2D(
            stride=stride,
            padding=padding,
            dilation=dilation,
            multiplier=filters.shape[0] // channels,
            activation=activation,
        )
    else:
        operator = Conv2D(stride=stride, padding=padding, dilation=dilation, activation=activation)
    inputs = [source, reader.add_constant(node.input(1), weights, quantization)]
    inputs += reader.bias(node, node.input(2), source, quantization, filters.shape[0])
    shape = _windowed(reader, node, source, window, (stride, padding, dilation), filters.shape[0])
    reader.define_images(node, reader.weighted(node, inputs, operator, shape), rank)


def _window_attributes(
    reader: _Reader, node: Node, source: int, window: tuple[int, int], rank: int
) -> tuple[tuple[int, int], tuple[int, int, int, int], tuple[int, int]]:
    """(stride, padding, dilation) of a convolution or pool, one-dimensional ones with H = 1."""
    line = rank == 3
    strides = node.integers("strides", (1,) * (rank - 2))
    dilations = node.integers("dilations", (1,) * (rank - 2))
    pads = node.integers("pads", (0,) * (2 * (rank - 2)))
    stride = (1, strides[0]) if line else (strides[0], strides[1])
    dilation = (1, dilations[0]) if line else (dilations[0], dilations[1])
    padding = (0, 0, pads[0], pads[1]) if line else (pads[0], pads[2], pads[1], pads[3])
    if min(*stride, *dilation, *window) < 1 or min(padding) < 0:
        raise node.refuse(f"window {window}, stride {stride}, dilation {dilation}, padding {padding}")
    automatic = node.text("auto_pad", "NOTSET")
    if automatic == "VALID":
        padding = (0, 0, 0, 0)
    elif automatic in ("SAME_UPPER", "SAME_LOWER"):
        _, height, width, _ = reader.tensors[source].shape
        rows = same_padding(height, window[0], stride[0], dilation[0])
        columns = same_padding(width, window[1], stride[1], dilation[1])
        step = 1 if automatic == "SAME_UPPER" else -1  # where the odd one goes
        padding = (*rows[::step], *columns[::step])  # type: ignore[assignment]
    elif automatic != "NOTSET":
        raise node.refuse(f"auto_pad {automatic!r} is not supported")
    return stride, padding, dilation


def _windowed(
    reader: _Reader,
    node: Node,
    source: int,
    window: tuple[int, int],
    geometry: tuple[tuple[int, int], tuple[int, int, int, int], tuple[int, int]],
    channels: int,
) -> Shape:
    batch, height, width, _ = reader.tensors[source].shape
    stride, (top, bottom, left, right), dilation = geometry
    rows = window_output(height, window[0], stride[0], top, bottom, dilation[0])
    columns = window_output(width, window[1], stride[1], left, right, dilation[1])
    if rows < 1 or columns < 1:
        raise node.refuse(f"a window of {window} does not fit an input of {height} x {width}")
    return (batch, rows, columns, channels)


def _gemm(reader: _Reader, node: Node) -> None:
    if node.integer("transA", 0) or node.real("alpha", 1.0) != 1 or node.real("beta", 1.0) != 1:
        raise node.refuse("transA, alpha and beta are not supported")
    held = reader.weights(node, 1)
    axis = held.quantization.axis
    if node.integer("transB", 0):
        matrix = held.values
    else:
        matrix, axis = held.values.T, None if axis is None else 1 - axis
    _dense(reader, node, matrix, replace(held.quantization, axis=axis), node.input(2))


def _matmul(reader: _Reader, node: Node) -> None:
    held = reader.weights(node, 1)
    axis = held.quantization.axis
    if axis is not None and held.values.ndim == 2:
        axis = 1 - axis % 2
    bias, follower = "", reader.only_consumer(node.outputs[0])
    if follower is not None and follower.operator == "Add":
        others = [name for name in follower.inputs if name != node.outputs[0]]
        if others and (others[0] in reader.quantized or others[0] in reader.file.constants):
            bias = others[0]
            reader.absorbed.add(follower.outputs[0])
    _dense(reader, node, held.values.T, replace(held.quantization, axis=axis), bias)


def _dense(reader: _Reader, node: Node, matrix: Array, quantization: Quantization, bias: str) -> None:
    """Fully connected with `matrix` (O, I), its columns put in the order in which our tensor holds the input."""
    value = reader.value(node)
    if matrix.ndim != 2 or value.places.ndim < 2 or value.shape[-1] != matrix.shape[1]:
        raise node.refuse(f"an input of shape {value.shape} with weights of shape {matrix.shape}")
    units, width = matrix.shape
    if quantization.axis not in (None, 0):
        raise node.refuse("weights must be quantised per tensor or per output")
    rows = value.places.reshape(-1, width)
    order = rows[0]
    expected = np.arange(len(rows), dtype=np.int32)[:, np.newaxis] * width + order
    if not np.array_equal(np.sort(order), np.arange(width)) or not np.array_equal(rows, expected):
        raise node.refuse(f"input {value.shape} in an order of elements that would need a transpose")
    weights = np.empty_like(matrix)
    weights[:, order] = matrix
    source = value.tensor
    activation = reader.absorb_activation(node)
    inputs = [source, reader.add_constant(node.input(1), weights, quantization)]
    inputs += reader.bias(node, bias, source, quantization, units)
    shape = (*value.shape[:-1], units)
    output = reader.weighted(node, inputs, FullyConnected(activation=activation), shape)
    reader.define(reader.result_name(node), output, _flat(shape))


# Pools, means and functions of one value.


def _pool(kind: Literal["average", "max"]) -> Callable[[_Reader, Node], None]:
    def read(reader: _Reader, node: Node) -> None:
        value = reader.value(node)
        rank, source = value.places.ndim, reader.images(node, value)
        shape = node.integers("kernel_shape", ())
        if len(shape) != rank - 2:
            raise node.refuse(f"kernel_shape {shape} for an input of shape {value.shape}")
        window = (1, shape[0]) if rank == 3 else (shape[0], shape[1])
        stride, padding, dilation = _window_attributes(reader, node, source, window, rank)
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
    reader: _Reader,
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


def _global_pool(kind: Literal["average", "max"]) -> Callable[[_Reader, Node], None]:
    def read(reader: _Reader, node: Node) -> None:
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


def _add_pool(reader: _Reader, node: Node, source: int, pool: Pool2D, rank: int) -> None:
    """Pools keep the scale; a QuantizeLinear of another one adds its own layer."""
    channels = reader.tensors[source].shape[3]
    shape = _windowed(reader, node, source, pool.window, (pool.stride, pool.padding, (1, 1)), channels)
    output = reader.layer(node, pool, [source], shape, reader.quantization(node, source))
    reader.define_images(node, output, rank)


def _reduce_mean(reader: _Reader, node: Node) -> None:
    value = reader.value(node)
    rank = value.places.ndim
    given = reader.small_integers(node, 1) if len(node.inputs) > 1 else node.integers("axes", ())
    axes = {axis % rank if -rank <= axis < rank else rank for axis in given or range(rank)}
    if rank == 0 or max(axes) >= rank:
        raise node.refuse(f"axes {given} of an input of shape {value.shape}")
    channels_first = rank == 4 and not _is_flat(value.places)
    order: Sequence[int] = TO_NHWC if channels_first else range(rank)
    source = reader.ordered(node, value, order)
    ours = tuple(sorted(AXIS_IN_NHWC[axis] for axis in axes)) if channels_first else tuple(sorted(axes))
    kept = tuple(1 if axis in ours else size for axis, size in enumerate(reader.tensors[source].shape))
    keep_dims = bool(node.integer("keepdims", 1))
    shape = kept if keep_dims else tuple(size for axis, size in enumerate(kept) if axis not in ours)
    quantization = reader.output_quantization(node, reader.quantization(node, source))
    output = reader.layer(node, Mean(axes=ours, keep_dims=keep_dims), [source], shape, quantization)
    places = _flat(kept).transpose(TO_NCHW) if channels_first else _flat(kept)
    reader.define(node.outputs[0], output, places if keep_dims else places.squeeze(tuple(axes)))


def _clamp(reader: _Reader, node: Node) -> None:
    """A Relu or Clip of its own. One to 0..6 works in its output's scale."""
    value, function = reader.value(node), reader.clamp(node)
    shape = reader.tensors[value.tensor].shape
    quantization = reader.output_quantization(node, reader.quantization(node, value.tensor))
    source = value.tensor
    if function == "relu6" and not _same(reader.tensors[source].quantization, quantization):
        source = reader.layer(node, Quantize(), [source], shape, quantization)
    output = reader.layer(node, Elementwise(function=function), [source], shape, quantization)
    reader.define(node.outputs[0], output, value.places)


def _sigmoidal(
    function: Literal["tanh", "logistic"], scale: float, zero: int
) -> Callable[[_Reader, Node], None]:
    """Functions whose output has a scale of its own; a QuantizeLinear of another one adds a layer."""

    def read(reader: _Reader, node: Node) -> None:
        value = reader.value(node)
        reader.quantization(node, value.tensor)
        shape = reader.tensors[value.tensor].shape
        quantization = Quantization(scales=(scale,), zero_points=(zero,))
        output = reader.layer(node, Elementwise(function=function), [value.tensor], shape, quantization)
        reader.define(node.outputs[0], output, value.places)

    return read


def _softmax(reader: _Reader, node: Node) -> None:
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


# Functions of several values.


def _binary(make: Callable[[Activation], Operator]) -> Callable[[_Reader, Node], None]:
    def read(reader: _Reader, node: Node) -> None:
        if _is_softmax_factor(reader, node):
            return
        operands = [_operand(reader, node, index) for index in (0, 1)]
        shape = _broadcast(node, [operand.shape for operand in operands])
        order = _common_order(reader, node, operands, len(shape))
        tensors = [_in_order(reader, node, operand, len(shape), order) for operand in operands]
        activation = reader.absorb_activation(node)
        ours = _broadcast(node, [reader.tensors[tensor].shape for tensor in tensors])
        output = reader.layer(node, make(activation), tensors, ours, reader.output_quantization(node))
        reader.define(reader.result_name(node), output, _flat(ours).transpose(np.argsort(order)))

    return read


def _is_softmax_factor(reader: _Reader, node: Node) -> bool:
    """Whether the node multiplies by one number what only a Softmax reads: its beta. Then it is noted."""
    follower = reader.only_consumer(node.outputs[0])
    factor = reader.file.constants.get(node.input(1))
    if node.operator != "Mul" or follower is None or follower.operator != "Softmax":
        return False
    if factor is None or factor.size != 1 or factor.dtype != np.float32:
        return False
    reader.values[node.outputs[0]] = replace(reader.value(node), factor=float(factor.reshape(-1)[0]))
    return True


def _broadcast(node: Node, shapes: Sequence[Shape]) -> Shape:
    try:
        return np.broadcast_shapes(*shapes)
    except ValueError as error:
        raise node.refuse(f"shapes {list(shapes)} do not broadcast") from error


def _operand(reader: _Reader, node: Node, index: int) -> _Value | _Operand:
    """An input that may be a constant, quantised already or here."""
    name = node.input(index)
    if name in reader.quantized:
        held = reader.quantized[name]
        if held.values.dtype != np.int8 or len(held.quantization.scales) != 1:
            raise node.refuse(f"constant {name!r} must be 8 bits with one scale")
        return _Operand(values=held.values, quantization=held.quantization, name=name)
    if name in reader.file.constants:
        values = reader.file.constants[name]
        if values.dtype != np.float32 or not np.isfinite(values).all():
            raise node.refuse(f"constant {name!r} of type {values.dtype} cannot be quantised")
        scale = float(np.float32(max(float(np.abs(values).max(initial=0)), 1e-6) / 127))
        quantization = Quantization(scales=(scale,), zero_points=(0,))
        held = _quantized_constant(node, values, quantization)
        return _Operand(values=held.values, quantization=quantization, name=name)
    return reader.value(node, index)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Operand:
    """A constant operand, in ONNX's order."""

    values: Array
    quantization: Quantization
    name: str

    @property
    def shape(self) -> Shape:
        return self.values.shape


def _widened(array: Array, rank: int) -> Array:
    return array.reshape((1,) * (rank - array.ndim) + array.shape)


def _common_order(
    reader: _Reader, node: Node, operands: Sequence[_Value | _Operand], rank: int
) -> tuple[int, ...]:
    """The order of axes in which every operand that is no constant lies flat: channels last, or ONNX's own."""
    values = [operand for operand in operands if isinstance(operand, _Value)]
    channels_last = (0, *range(2, rank), 1)
    for order in (channels_last, tuple(range(rank))) if rank in (3, 4) else (tuple(range(rank)),):
        reader.file.budget.spend(sum(value.places.size for value in values))
        if all(_is_flat(_widened(value.places, rank).transpose(order)) for value in values):
            return order
    raise node.refuse("its inputs lie in orders of elements that would need a transpose")


def _in_order(
    reader: _Reader, node: Node, operand: _Value | _Operand, rank: int, order: Sequence[int]
) -> int:
    """The operand as a tensor of `rank` axes in `order`."""
    if isinstance(operand, _Operand):
        reader.file.budget.spend(operand.values.size)
        values = _widened(operand.values, rank).transpose(order)
        return reader.add_constant(operand.name, values, operand.quantization)
    reader.quantization(node, operand.tensor)
    shape = _widened(operand.places, rank).transpose(order).shape
    return reader.shaped(node, operand.tensor, shape)


def _concat(reader: _Reader, node: Node) -> None:
    operands = [_operand(reader, node, index) for index in range(len(node.inputs))]
    rank, axis = len(operands[0].shape), node.integer("axis", 0)
    if any(len(operand.shape) != rank for operand in operands) or not -rank <= axis < rank:
        raise node.refuse(f"shapes {[operand.shape for operand in operands]} along axis {axis}")
    order = _common_order(reader, node, operands, rank)
    ours = list(order).index(axis % rank)
    tensors = [_in_order(reader, node, operand, rank, order) for operand in operands]
    quantization = reader.output_quantization(node, reader.quantization(node, tensors[0]))
    tensors = [_rescaled(reader, node, tensor, quantization) for tensor in tensors]
    shapes = [reader.tensors[tensor].shape for tensor in tensors]
    total = sum(shape[ours] for shape in shapes)
    shape = (*shapes[0][:ours], total, *shapes[0][ours + 1 :])
    output = reader.layer(node, Concatenate(axis=ours), tensors, shape, quantization)
    reader.define(node.outputs[0], output, _flat(shape).transpose(np.argsort(order)))


def _rescaled(reader: _Reader, node: Node, tensor: int, quantization: Quantization) -> int:
    """The tensor in another scale: a constant at once, anything else by a layer."""
    held = reader.tensors[tensor]
    if _same(held.quantization, quantization):
        return tensor
    if held.data is None or held.quantization is None:
        return reader.layer(node, Quantize(), [tensor], held.shape, quantization)
    reals = (held.data.astype(np.float64) - held.quantization.zero_points[0]) * held.quantization.scales[0]
    steps = np.rint(reals / quantization.scales[0]) + quantization.zero_points[0]
    return reader.add_constant(held.name, arithmetic.saturate(steps), quantization)


def _pad(reader: _Reader, node: Node) -> None:
    value = reader.value(node)
    rank = value.places.ndim
    pads = reader.small_integers(node, 1) if len(node.inputs) > 1 else node.integers("pads", ())
    filler = reader.real(node, 2, "value", 0.0)
    if node.text("mode", "constant") != "constant" or filler != 0 or node.input(3):
        raise node.refuse("padding is supported with zeros, on all axes")
    if pads is None or len(pads) != 2 * rank or min(pads, default=0) < 0:
        raise node.refuse(f"pads {pads} for an input of shape {value.shape}")
    order = _common_order(reader, node, [value], rank)
    source = reader.ordered(node, value, order)
    amounts = tuple((pads[axis], pads[axis + rank]) for axis in order)
    sizes = zip(reader.tensors[source].shape, amounts, strict=True)
    shape = tuple(size + before + after for size, (before, after) in sizes)
    output = reader.layer(node, Pad(amounts=amounts), [source], shape, reader.quantization(node, source))
    reader.define(node.outputs[0], output, _flat(shape).transpose(np.argsort(order)))


# Changes of shape: nothing moves, only `places` does.


def _same_value(reader: _Reader, node: Node) -> None:
    name = node.input(0)
    if name in reader.quantized:
        reader.quantized[node.outputs[0]] = reader.quantized[name]
    else:
        reader.values[node.outputs[0]] = reader.value(node)


def _reshaped(change: Callable[[_Reader, Node, Array], Array]) -> Callable[[_Reader, Node], None]:
    """A reader of an operator that changes an array's shape as `change` does."""

    def read(reader: _Reader, node: Node) -> None:
        name = node.input(0)
        if name in reader.quantized and len(reader.quantized[name].quantization.scales) == 1:
            held = reader.quantized[name]
            reader.file.budget.spend(held.values.size)
            reader.quantized[node.outputs[0]] = replace(
                held, values=_changed(change, reader, node, held.values)
            )
            return
        value = reader.value(node)
        places = _changed(change, reader, node, value.places)
        reader.values[node.outputs[0]] = replace(value, places=places)

    return read


def _changed(
    change: Callable[[_Reader, Node, Array], Array], reader: _Reader, node: Node, array: Array
) -> Array:
    try:
        changed = change(reader, node, array)
    except (ValueError, IndexError, TypeError, OverflowError) as error:
        raise node.refuse(f"shape {array.shape} cannot be changed so: {error}") from error
    if changed.ndim > 8:
        raise node.refuse("more than 8 dimensions are not supported")
    return changed


def _reshape(reader: _Reader, node: Node, array: Array) -> Array:
    target = list(reader.small_integers(node, 1) or ())
    if not node.integer("allowzero", 0):
        target = [array.shape[i] if size == 0 else size for i, size in enumerate(target)]
    return array.reshape(target)


def _flatten(reader: _Reader, node: Node, array: Array) -> Array:
    axis = node.integer("axis", 1)
    axis = axis + array.ndim if axis < 0 else axis
    return array.reshape(math.prod(array.shape[:axis]), -1)


def _transpose(reader: _Reader, node: Node, array: Array) -> Array:
    return array.transpose(node.integers("perm", tuple(reversed(range(array.ndim)))))


def _axes(reader: _Reader, node: Node) -> tuple[int, ...] | None:
    if len(node.inputs) > 1:
        return reader.small_integers(node, 1)
    return node.integers("axes", ()) or None


def _squeeze(reader: _Reader, node: Node, array: Array) -> Array:
    return array.squeeze(_axes(reader, node))


def _unsqueeze(reader: _Reader, node: Node, array: Array) -> Array:
    return np.expand_dims(array, _axes(reader, node) or ())


# Arithmetic on constants, which exporters use to compute shapes.


def _fold_constant(reader: _Reader, node: Node) -> Array:
    if "value" not in node.attributes:
        raise node.refuse("a constant that is no tensor is not supported")
    return constant(node.attributes["value"].t)


def _shape_of(reader: _Reader, node: Node) -> None:
    reader.file.constants[node.outputs[0]] = np.array(reader.value(node).shape, dtype=np.int64)


def _fold(change: Callable[[_Reader, Node, Array], Array]) -> Callable[[_Reader, Node], Array]:
    def fold(reader: _Reader, node: Node) -> Array:
        array = _given(reader, node, 0)
        reader.file.budget.spend(array.size + 1)
        return _changed(change, reader, node, array)

    return fold


def _given(reader: _Reader, node: Node, index: int) -> Array:
    values = reader.constant(node, index)
    if values is None:
        raise node.refuse(f"input {index} is missing")
    return values


def _gather(reader: _Reader, node: Node, array: Array) -> Array:
    indices = _given(reader, node, 1)
    if indices.size > 16:
        raise node.refuse("more than 16 indices are not supported")
    return np.asarray(array.take(indices, axis=node.integer("axis", 0)))


def _concat_constants(reader: _Reader, node: Node, array: Array) -> Array:
    parts = [reader.file.constants[name] for name in node.inputs]
    reader.file.budget.spend(sum(part.size for part in parts))
    return np.concatenate(parts, axis=node.integer("axis", 0))


def _cast(reader: _Reader, node: Node, array: Array) -> Array:
    if node.integer("to", 7) not in (6, 7) or array.dtype.kind != "i":
        raise node.refuse("casts are supported between integers")
    return array


_FOLDED: dict[str, Callable[[_Reader, Node], Array]] = {
    "Constant": _fold_constant,
    "Identity": _fold(lambda reader, node, array: array),
    "Gather": _fold(_gather),
    "Concat": _fold(_concat_constants),
    "Cast": _fold(_cast),
    "Reshape": _fold(_reshape),
    "Squeeze": _fold(_squeeze),
    "Unsqueeze": _fold(_unsqueeze),
    "Transpose": _fold(_transpose),
}

_READERS: dict[str, Callable[[_Reader, Node], None]] = {
    "QuantizeLinear": _quantize_linear,
    "DequantizeLinear": _dequantize_linear,
    "Conv": _conv,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "AveragePool": _pool("average"),
    "MaxPool": _pool("max"),
    "GlobalAveragePool": _global_pool("average"),
    "GlobalMaxPool": _global_pool("max"),
    "ReduceMean": _reduce_mean,
    "Relu": _clamp,
    "Clip": _clamp,
    "Tanh": _sigmoidal("tanh", 1 / 128, 0),
    "Sigmoid": _sigmoidal("logistic", 1 / 256, -128),
    "Softmax": _softmax,
    "Add": _binary(lambda activation: Add(activation=activation)),
    "Mul": _binary(lambda activation: Mul(activation=activation)),
    "Pad": _pad,
    "Concat": _concat,
    "Reshape": _reshaped(_reshape),
    "Flatten": _reshaped(_flatten),
    "Transpose": _reshaped(_transpose),
    "Squeeze": _reshaped(_squeeze),
    "Unsqueeze": _reshaped(_unsqueeze),
    "Identity": _same_value,
    "Dropout": _same_value,
    "Shape": _shape_of,
}
