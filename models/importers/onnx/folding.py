"""Arithmetic on constants, which exporters use to compute shapes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from sanderling.models.importers.onnx.file import Array, Node, constant
from sanderling.models.importers.onnx.reader import Reader
from sanderling.models.importers.onnx.shapes import changed


def fold_constant(reader: Reader, node: Node) -> Array:
    if "value" not in node.attributes:
        raise node.refuse("a constant that is no tensor is not supported")
    return constant(node.attributes["value"].t)


def shape_of(reader: Reader, node: Node) -> None:
    reader.file.constants[node.outputs[0]] = np.array(reader.value(node).shape, dtype=np.int64)


def fold(change: Callable[[Reader, Node, Array], Array]) -> Callable[[Reader, Node], Array]:
    def fold(reader: Reader, node: Node) -> Array:
        array = _given(reader, node, 0)
        reader.file.budget.spend(array.size + 1)
        return changed(change, reader, node, array)

    return fold


def _given(reader: Reader, node: Node, index: int) -> Array:
    values = reader.constant(node, index)
    if values is None:
        raise node.refuse(f"input {index} is missing")
    return values


def gather(reader: Reader, node: Node, array: Array) -> Array:
    indices = _given(reader, node, 1)
    if indices.size > 16:
        raise node.refuse("more than 16 indices are not supported")
    return np.asarray(array.take(indices, axis=node.integer("axis", 0)))


def concatenate_constants(reader: Reader, node: Node, array: Array) -> Array:
    parts = [reader.file.constants[name] for name in node.inputs]
    reader.file.budget.spend(sum(part.size for part in parts))
    return np.concatenate(parts, axis=node.integer("axis", 0))


def cast(reader: Reader, node: Node, array: Array) -> Array:
    if node.integer("to", 7) not in (6, 7) or array.dtype.kind != "i":
        raise node.refuse("casts are supported between integers")
    return array
