"""Add, Mul, Concat and Pad: what needs its operands in one order of axes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from sanderling.models import arithmetic
from sanderling.models.importers.onnx.file import Array, Node
from sanderling.models.importers.onnx.quantization import quantized_constant, same_scale
from sanderling.models.importers.onnx.reader import Reader, Shape, Value, flat, is_flat
from sanderling.models.network import (
    Activation,
    Concatenate,
    Operator,
    Pad,
    Quantization,
    Quantize,
)


def binary(make: Callable[[Activation], Operator]) -> Callable[[Reader, Node], None]:
    def read(reader: Reader, node: Node) -> None:
        if _is_softmax_factor(reader, node):
            return
        operands = [_operand(reader, node, index) for index in (0, 1)]
        shape = _broadcast(node, [operand.shape for operand in operands])
        order = _common_order(reader, node, operands, len(shape))
        tensors = [_in_order(reader, node, operand, len(shape), order) for operand in operands]
        activation = reader.absorb_activation(node)
        ours = _broadcast(node, [reader.tensors[tensor].shape for tensor in tensors])
        output = reader.layer(node, make(activation), tensors, ours, reader.output_quantization(node))
        reader.define(reader.result_name(node), output, flat(ours).transpose(np.argsort(order)))

    return read


def _is_softmax_factor(reader: Reader, node: Node) -> bool:
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


def _operand(reader: Reader, node: Node, index: int) -> Value | _Operand:
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
        held = quantized_constant(node, values, quantization)
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
    reader: Reader, node: Node, operands: Sequence[Value | _Operand], rank: int
) -> tuple[int, ...]:
    """The order of axes in which every operand that is no constant lies flat: channels last, or ONNX's own."""
    values = [operand for operand in operands if isinstance(operand, Value)]
    channels_last = (0, *range(2, rank), 1)
    for order in (channels_last, tuple(range(rank))) if rank in (3, 4) else (tuple(range(rank)),):
        reader.file.budget.spend(sum(value.places.size for value in values))
        if all(is_flat(_widened(value.places, rank).transpose(order)) for value in values):
            return order
    raise node.refuse("its inputs lie in orders of elements that would need a transpose")


def _in_order(reader: Reader, node: Node, operand: Value | _Operand, rank: int, order: Sequence[int]) -> int:
    """The operand as a tensor of `rank` axes in `order`."""
    if isinstance(operand, _Operand):
        reader.file.budget.spend(operand.values.size)
        values = _widened(operand.values, rank).transpose(order)
        return reader.add_constant(operand.name, values, operand.quantization)
    reader.quantization(node, operand.tensor)
    shape = _widened(operand.places, rank).transpose(order).shape
    return reader.shaped(node, operand.tensor, shape)


def concatenate(reader: Reader, node: Node) -> None:
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
    reader.define(node.outputs[0], output, flat(shape).transpose(np.argsort(order)))


def _rescaled(reader: Reader, node: Node, tensor: int, quantization: Quantization) -> int:
    """The tensor in another scale: a constant at once, anything else by a layer."""
    held = reader.tensors[tensor]
    if same_scale(held.quantization, quantization):
        return tensor
    if held.data is None or held.quantization is None:
        return reader.layer(node, Quantize(), [tensor], held.shape, quantization)
    reals = (held.data.astype(np.float64) - held.quantization.zero_points[0]) * held.quantization.scales[0]
    steps = np.rint(reals / quantization.scales[0]) + quantization.zero_points[0]
    return reader.add_constant(held.name, arithmetic.saturate(steps), quantization)


def pad(reader: Reader, node: Node) -> None:
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
    reader.define(node.outputs[0], output, flat(shape).transpose(np.argsort(order)))
