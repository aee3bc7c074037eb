"""Reshape, Transpose and their like: nothing moves, only `places` does."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from sanderling.models.importers.onnx.file import Array, Node
from sanderling.models.importers.onnx.reader import Reader


def same_value(reader: Reader, node: Node) -> None:
    name = node.input(0)
    if name in reader.quantized:
        reader.quantized[node.outputs[0]] = reader.quantized[name]
    else:
        reader.values[node.outputs[0]] = reader.value(node)


def reshaped(change: Callable[[Reader, Node, Array], Array]) -> Callable[[Reader, Node], None]:
    """A reader of an operator that changes an array's shape as `change` does."""

    def read(reader: Reader, node: Node) -> None:
        name = node.input(0)
        if name in reader.quantized and len(reader.quantized[name].quantization.scales) == 1:
            held = reader.quantized[name]
            reader.file.budget.spend(held.values.size)
            reader.quantized[node.outputs[0]] = replace(
                held, values=changed(change, reader, node, held.values)
            )
            return
        value = reader.value(node)
        places = changed(change, reader, node, value.places)
        reader.values[node.outputs[0]] = replace(value, places=places)

    return read


def changed(
    change: Callable[[Reader, Node, Array], Array], reader: Reader, node: Node, array: Array
) -> Array:
    try:
        changed = change(reader, node, array)
    except (ValueError, IndexError, TypeError, OverflowError) as error:
        raise node.refuse(f"shape {array.shape} cannot be changed so: {error}") from error
    if changed.ndim > 8:
        raise node.refuse("more than 8 dimensions are not supported")
    return changed


def reshape(reader: Reader, node: Node, array: Array) -> Array:
    target = list(reader.small_integers(node, 1) or ())
    if not node.integer("allowzero", 0):
        target = [array.shape[i] if size == 0 else size for i, size in enumerate(target)]
    return array.reshape(target)


def flatten(reader: Reader, node: Node, array: Array) -> Array:
    axis = node.integer("axis", 1)
    axis = axis + array.ndim if axis < 0 else axis
    return array.reshape(math.prod(array.shape[:axis]), -1)


def transpose(reader: Reader, node: Node, array: Array) -> Array:
    return array.transpose(node.integers("perm", tuple(reversed(range(array.ndim)))))


def _axes(reader: Reader, node: Node) -> tuple[int, ...] | None:
    if len(node.inputs) > 1:
        return reader.small_integers(node, 1)
    return node.integers("axes", ()) or None


def squeeze(reader: Reader, node: Node, array: Array) -> Array:
    return array.squeeze(_axes(reader, node))


def unsqueeze(reader: Reader, node: Node, array: Array) -> Array:
    return np.expand_dims(array, _axes(reader, node) or ())
