"""Reading an ONNX file's parts with nothing trusted: attributes, constants, who reads what.

https://onnx.ai/onnx/repo-docs/IR.html. External data is refused: a model file must not name other files.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sanderling.models.errors import ModelFormatError
from sanderling.models.importers.graph import MAX_LAYERS, MAX_TENSORS, MAX_TOTAL_ELEMENTS
from sanderling.models.optional import require

Array = NDArray[Any]

# TensorProto.DataType, and the field that holds it where raw_data does not
DATA_TYPES = {
    1: ("float32", "float_data"),
    2: ("uint8", "int32_data"),
    3: ("int8", "int32_data"),
    6: ("int32", "int32_data"),
    7: ("int64", "int64_data"),
}
EXTERNAL = 1  # TensorProto.DataLocation
MAX_WORK = 2**28  # elements looked at while reading a file


@dataclass(slots=True, kw_only=True)
class Budget:
    """What reading may still cost, in elements."""

    left: int = MAX_WORK

    def spend(self, elements: int) -> None:
        self.left -= elements
        if self.left < 0:
            raise ModelFormatError(f"reading the file takes more than {MAX_WORK} steps")


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A node of the graph."""

    operator: str
    name: str
    inputs: tuple[str, ...]  # "" where an optional one is left out
    outputs: tuple[str, ...]
    attributes: dict[str, Any]  # AttributeProto by name

    def refuse(self, why: str) -> ModelFormatError:
        return ModelFormatError(f"layer {self.name!r} ({self.operator}): {why}")

    def input(self, index: int) -> str:
        """The name of an input; "" when left out."""
        return self.inputs[index] if index < len(self.inputs) else ""

    def integer(self, attribute: str, default: int) -> int:
        return int(self.attributes[attribute].i) if attribute in self.attributes else default

    def integers(self, attribute: str, default: tuple[int, ...]) -> tuple[int, ...]:
        """A short list of integers, as long as `default` unless that is empty."""
        if attribute not in self.attributes:
            return default
        values = tuple(int(i) for i in self.attributes[attribute].ints[:16])
        if default and len(values) != len(default):
            raise self.refuse(f"{attribute} = {list(values)}, expected {len(default)} numbers")
        return values

    def real(self, attribute: str, default: float) -> float:
        return float(self.attributes[attribute].f) if attribute in self.attributes else default

    def text(self, attribute: str, default: str) -> str:
        if attribute not in self.attributes:
            return default
        return bytes(self.attributes[attribute].s[:64]).decode(errors="replace")


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """An ONNX graph: nodes in order, constants, interface, and the nodes that read each value."""

    opset: int
    nodes: tuple[Node, ...]
    constants: dict[str, Array]
    inputs: dict[str, tuple[str, tuple[int, ...]]]  # name: (type, shape)
    outputs: tuple[str, ...]
    consumers: dict[str, list[Node]]
    budget: Budget = field(default_factory=Budget)


def read_file(data: bytes) -> File:
    """The parts of an ONNX file. ModelFormatError when it is none, or not one to trust."""
    graph, opset = _parse(data)
    nodes = _nodes(graph)
    if len(graph.initializer) > MAX_TENSORS or graph.sparse_initializer:
        raise ModelFormatError("too many constants, or sparse ones, which are not supported")
    constants: dict[str, Array] = {}
    total = 0
    for proto in graph.initializer:
        values = constant(proto)
        constants[_text(proto.name)] = values
        total += values.size
        if total > MAX_TOTAL_ELEMENTS:
            raise ModelFormatError(f"the constants have more than {MAX_TOTAL_ELEMENTS} elements")
    consumers: dict[str, list[Node]] = defaultdict(list)
    for node in nodes:
        for name in set(node.inputs) - {""}:
            consumers[name].append(node)
    return File(
        opset=opset,
        nodes=nodes,
        constants=constants,
        inputs={name: _declared(v) for v in graph.input[:64] if (name := _text(v.name)) not in constants},
        outputs=tuple(_text(v.name) for v in graph.output[:64]),
        consumers=dict(consumers),
    )


def _parse(data: bytes) -> tuple[Any, int]:
    onnx = require("onnx", "models")
    decode_error = require("google.protobuf.message", "models").DecodeError
    try:
        model = onnx.ModelProto.FromString(data)
    except (decode_error, RuntimeError, ValueError) as error:
        raise ModelFormatError(f"neither a TFLite nor an ONNX file: {error}") from error
    opsets = [o.version for o in model.opset_import if o.domain in ("", "ai.onnx")]
    if not model.graph.node or len(opsets) != 1:
        raise ModelFormatError(
            "neither a TFLite nor an ONNX file: it has no graph, or no single version of the ONNX operators"
        )
    if not 10 <= opsets[0] <= 30:
        raise ModelFormatError(f"ONNX operator set {opsets[0]}; 10 to 30 are supported")
    return model.graph, opsets[0]


def _nodes(graph: Any) -> tuple[Node, ...]:
    if len(graph.node) > MAX_LAYERS:
        raise ModelFormatError(f"{len(graph.node)} nodes; more than {MAX_LAYERS} are not supported")
    nodes = []
    for proto in graph.node:
        domain, operator = _text(proto.domain), _text(proto.op_type)
        standard = domain in ("", "ai.onnx") or operator in ("QuantizeLinear", "DequantizeLinear")
        outputs = tuple(_text(name) for name in proto.output[:64])
        node = Node(
            operator=operator if standard else f"{domain}::{operator}",
            name=(_text(proto.name) or "".join(outputs[:1]))[:256],
            inputs=tuple(_text(name) for name in proto.input[:64]),
            outputs=outputs,
            attributes={_text(attribute.name): attribute for attribute in proto.attribute[:64]},
        )
        if not node.outputs or len(proto.input) > 64:
            raise node.refuse("no output, or more than 64 inputs")
        nodes.append(node)
    return tuple(nodes)


def constant(proto: Any) -> Array:
    """A TensorProto's values, read-only."""
    name = _text(proto.name)[:256]
    if proto.data_location == EXTERNAL or proto.external_data:
        raise ModelFormatError(f"constant {name!r}: external data is refused; save the model as one file")
    if proto.data_type not in DATA_TYPES:
        raise ModelFormatError(f"constant {name!r}: data type {proto.data_type} is not supported")
    dtype, typed_field = DATA_TYPES[proto.data_type]
    shape = tuple(int(size) for size in proto.dims[:16])
    if not all(0 <= size <= MAX_TOTAL_ELEMENTS for size in shape) or math.prod(shape) > MAX_TOTAL_ELEMENTS:
        raise ModelFormatError(f"constant {name!r}: shape {shape} is not supported")
    stored = np.dtype(dtype).newbyteorder("<")
    typed = getattr(proto, typed_field)
    held = len(proto.raw_data) / stored.itemsize if proto.HasField("raw_data") else len(typed)
    if held != math.prod(shape):
        raise ModelFormatError(f"constant {name!r}: {held} values for shape {shape}")
    if proto.HasField("raw_data"):
        values = np.frombuffer(proto.raw_data, stored).astype(dtype)
    else:
        with np.errstate(invalid="ignore"):  # of signalling NaNs
            values = np.array(typed, dtype=np.float64 if dtype == "float32" else np.int64).astype(dtype)
    values = values.reshape(shape)
    values.setflags(write=False)
    return values


def _text(value: str | bytes) -> str:
    """A string field; protobuf gives bytes where a file's string is not UTF-8."""
    return value if isinstance(value, str) else value.decode(errors="replace")


def _declared(value: Any) -> tuple[str, tuple[int, ...]]:
    """(type, shape) of a graph input; a free first dimension is a batch of 1."""
    kind = value.type.tensor_type
    dtype = DATA_TYPES.get(kind.elem_type, (f"data type {kind.elem_type}", ""))[0]
    sizes = [int(d.dim_value) if d.HasField("dim_value") else 0 for d in kind.shape.dim[:16]]
    if sizes and sizes[0] <= 0:
        sizes[0] = 1
    if dtype not in ("float32", "int8", "uint8") or not all(size > 0 for size in sizes):
        raise ModelFormatError(
            f"input {_text(value.name)[:256]!r} is {dtype} of shape {sizes}: expected float32, int8 or uint8, "
            "with no free dimension but the first"
        )
    if math.prod(sizes) > MAX_TOTAL_ELEMENTS:
        raise ModelFormatError(f"input {_text(value.name)[:256]!r}: shape {sizes} is too large")
    return dtype, tuple(sizes)
