"""The state of reading an ONNX graph: the network so far, and what each name of the graph stands for.

ONNX is NCHW, a network NHWC. Nothing is moved: a value's `places` tell where its elements lie in our tensor.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sanderling.models import arithmetic
from sanderling.models.errors import ModelFormatError
from sanderling.models.importers.graph import MAX_TENSORS
from sanderling.models.importers.onnx.file import Array, File, Node
from sanderling.models.network import (
    Activation,
    Dequantize,
    DType,
    Layer,
    Operator,
    Quantization,
    Quantize,
    Reshape,
    Tensor,
)

Shape = tuple[int, ...]
Places = NDArray[np.int32]

TO_NHWC, TO_NCHW = (0, 2, 3, 1), (0, 3, 1, 2)
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Value:
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
class QuantizedConstant:
    """A quantised constant in ONNX's order: int8 or int32 values with scale and zero point, as int8's."""

    values: Array
    quantization: Quantization


@dataclass(slots=True, kw_only=True)
class Reader:
    """The network so far, and what each name of the ONNX graph stands for."""

    file: File
    tensors: list[Tensor] = field(default_factory=list)
    layers: list[Layer] = field(default_factory=list)
    inputs: list[int] = field(default_factory=list)
    values: dict[str, Value] = field(default_factory=dict)
    quantized: dict[str, QuantizedConstant] = field(default_factory=dict)
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
        self.values[name] = Value(tensor=tensor, places=places, dtype=dtype)

    def value(self, node: Node, index: int = 0) -> Value:
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

    def ordered(self, node: Node, value: Value, order: Sequence[int]) -> int:
        """The tensor shaped as the value's axes in `order`; refused when its elements lie in another order."""
        places = value.places.transpose(order)
        if not is_flat(places):
            raise node.refuse(f"shape {value.shape} in an order of elements that would need a transpose")
        return self.shaped(node, value.tensor, places.shape)

    def images(self, node: Node, value: Value) -> int:
        """The tensor as NHWC images, from NCHW, or from NCW with H = 1."""
        if value.places.ndim == 3:
            value = replace(value, places=value.places[:, :, np.newaxis, :])
        if value.places.ndim != 4:
            raise node.refuse(f"input of shape {value.shape}; three or four dimensions are supported")
        return self.ordered(node, value, TO_NHWC)

    def define_images(self, node: Node, tensor: int, rank: int) -> None:
        """The node's output is NCHW (or NCW) of an NHWC tensor."""
        places = flat(self.tensors[tensor].shape).transpose(TO_NCHW)
        self.define(self.result_name(node), tensor, places[:, :, 0, :] if rank == 3 else places)

    # Interface.

    def read_input(self, name: str, dtype: str, shape: Shape) -> None:
        places = flat(shape)
        if len(shape) in (3, 4) and self.is_channels_first(name):
            wide = (shape[0], shape[1], 1, shape[2]) if len(shape) == 3 else shape
            nhwc = tuple(wide[axis] for axis in TO_NHWC)
            places = flat(nhwc).transpose(TO_NCHW)
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
        if is_flat(value.places) or value.places.ndim not in (3, 4):
            tensor = self.ordered(node, value, range(value.places.ndim))
        else:
            tensor = self.images(node, value)
        held = self.tensors[tensor]
        if value.dtype == "float32" and held.dtype != "float32":
            return self.layer(node, Dequantize(), [tensor], held.shape, None, "float32")
        if value.dtype == "uint8" and held.dtype == "int8":
            quantization = self.quantization(node, tensor)
            return self.layer(node, Quantize(), [tensor], held.shape, moved_by(quantization, 128), "uint8")
        return tensor

    # Nodes.

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
        return (moved_by(quantization, -128), dtype) if dtype == "uint8" else (quantization, dtype)

    # Operands of layers with weights.

    def weights(self, node: Node, index: int) -> QuantizedConstant:
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


def flat(shape: Shape) -> Places:
    return np.arange(math.prod(shape), dtype=np.int32).reshape(shape)


def is_flat(places: Places) -> bool:
    flat = places.reshape(-1)
    return bool(np.array_equal(flat, np.arange(flat.size, dtype=np.int32)))


def moved_by(quantization: Quantization, by: int) -> Quantization:
    """The same real values with integers moved by `by`: between uint8 and int8."""
    return replace(quantization, zero_points=tuple(z + by for z in quantization.zero_points))
