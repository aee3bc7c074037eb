"""QuantizeLinear and DequantizeLinear: taken as what they mean, the scale of a value or of a constant."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from sanderling.models.importers.onnx.file import Array, Node
from sanderling.models.importers.onnx.reader import QuantizedConstant, Reader, moved_by
from sanderling.models.network import Quantization, Quantize, Reshape


def quantize_linear(reader: Reader, node: Node) -> None:
    quantization, dtype = reader.scale_of(node)
    source, name = node.input(0), node.outputs[0]
    if source in reader.file.constants:
        reader.quantized[name] = quantized_constant(node, reader.file.constants[source], quantization)
        return
    value = reader.value(node)
    if len(quantization.scales) > 1 or dtype == "int32":
        raise node.refuse("activations must be quantised to 8 bits with one scale")
    tensor = value.tensor
    if not same_scale(reader.tensors[tensor].quantization, quantization):
        tensor = reader.layer(node, Quantize(), [tensor], reader.tensors[tensor].shape, quantization)
    reader.define(name, tensor, value.places, dtype)


def dequantize_linear(reader: Reader, node: Node) -> None:
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


def _dequantized_constant(reader: Reader, node: Node, values: Array) -> QuantizedConstant:
    quantization, dtype = reader.scale_of(node, str(values.dtype))
    axis, rank = quantization.axis, values.ndim
    if str(values.dtype) != dtype or (axis is not None and not -rank <= axis < rank):
        raise node.refuse(f"{values.dtype} values of {rank} axes; zero point of {dtype}, scales along {axis}")
    if axis is not None:
        quantization = replace(quantization, axis=axis % rank)
    moved = (values.astype(np.int16) - 128).astype(np.int8) if dtype == "uint8" else values
    return QuantizedConstant(values=moved, quantization=quantization)


def _interpreted(reader: Reader, node: Node, tensor: int, quantization: Quantization) -> int:
    """The int8 tensor whose integers mean `quantization`: the same one, unless it has another meaning already."""
    held = reader.tensors[tensor]
    if held.dtype == "uint8":  # a graph input
        reader.tensors[tensor] = replace(held, quantization=moved_by(quantization, 128))
        return reader.layer(node, Quantize(), [tensor], held.shape, quantization)
    if held.quantization is None:
        reader.tensors[tensor] = replace(held, quantization=quantization)
        return tensor
    if same_scale(held.quantization, quantization):
        return tensor
    return reader.layer(node, Reshape(), [tensor], held.shape, quantization)


def same_scale(one: Quantization | None, other: Quantization) -> bool:
    return one is not None and one.scales == other.scales and one.zero_points == other.zero_points


def quantized_constant(node: Node, values: Array, quantization: Quantization) -> QuantizedConstant:
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
    return QuantizedConstant(values=np.clip(steps, -128, 127).astype(np.int8), quantization=quantization)
