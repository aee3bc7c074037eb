"""What a network costs on a device: multiply-accumulates, bytes of weights, and the arena of its activations.

The arena is planned greedily by size: from the largest tensor to the smallest, each at the lowest offset where it
meets none that is alive at the same time (Pisarchyk and Lee 2020, arXiv 2001.03288; TensorFlow Lite Micro's
GreedyMemoryPlanner, whose order of equal sizes and alignment are kept, so that its plans and ours agree).
A tensor is alive from the layer that writes it to the last that reads it; an input of the network from the first
layer on, since the caller fills it, and an output to the last, since the caller reads it.

In place: a layer that works element by element may write over an input that nothing reads later, when both take the
same bytes (Reshape, Elementwise, Add, Mul, Quantize). It has to read an element before it writes it, and no other.
Inputs of the network are overwritten like any other tensor: they are to be filled before every inference.
"""

from __future__ import annotations

import math
from bisect import insort
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from sanderling.models.errors import ModelFormatError
from sanderling.models.network import (
    Add,
    Elementwise,
    Mul,
    Network,
    Quantize,
    Reshape,
    Tensor,
    multiply_accumulates,
)

ALIGNMENT_BYTES = 16  # of each buffer, TFLM's
IN_PLACE = (Reshape, Elementwise, Add, Mul, Quantize)


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerCost:
    """One layer, for one input."""

    name: str
    operator: str
    multiply_accumulates: int
    weight_bytes: int  # constants that no earlier layer reads
    activation_bytes: int  # alive while it runs: what it reads, what it writes, what others wait for


@dataclass(frozen=True, slots=True, kw_only=True)
class Arena:
    """Where each activation lies: offsets in bytes by index into Network.tensors."""

    size_bytes: int
    offsets: Mapping[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkCost:
    """The whole network, for one input."""

    layers: tuple[LayerCost, ...]
    arena: Arena

    @property
    def multiply_accumulates(self) -> int:
        return sum(layer.multiply_accumulates for layer in self.layers)

    @property
    def weight_bytes(self) -> int:
        return sum(layer.weight_bytes for layer in self.layers)

    @property
    def peak(self) -> LayerCost:
        """The layer with the most activations alive: the one that decides the arena."""
        return max(self.layers, key=lambda layer: layer.activation_bytes)

    @property
    def heaviest(self) -> LayerCost:
        """The layer with the most weights."""
        return max(self.layers, key=lambda layer: layer.weight_bytes)


def cost(network: Network) -> NetworkCost:
    """Layer by layer, with the arena of `plan_arena`. ModelFormatError for a network without layers."""
    if not network.layers:
        raise ModelFormatError(
            f"network {network.name!r} has no layers, so that it costs nothing and computes nothing"
        )
    buffers = _best_plan(network)
    seen: set[int] = set()
    layers = []
    for index, layer in enumerate(network.layers):
        fresh = {i for i in layer.inputs if network.tensors[i].data is not None} - seen
        seen |= fresh
        layers.append(
            LayerCost(
                name=layer.name,
                operator=type(layer.operator).__name__,
                multiply_accumulates=multiply_accumulates(network, layer),
                weight_bytes=sum(tensor_bytes(network.tensors[i]) for i in fresh),
                activation_bytes=sum(b.size_bytes for b in buffers if b.first <= index <= b.last),
            )
        )
    return NetworkCost(layers=tuple(layers), arena=_arena(buffers))


def plan_arena(network: Network, *, in_place: bool = True) -> Arena:
    """Where activations lie. In-place layers are left out when that is smaller: greedy plans are not monotone.

    Without `in_place` it is the plan of TFLM's interpreter, less the scratch buffers of its kernels.
    """
    return _arena(_best_plan(network) if in_place else _plan(_buffers(network, in_place=False)))


def tensor_bytes(tensor: Tensor) -> int:
    """Bytes of the tensor's elements, unaligned."""
    return math.prod(tensor.shape) * np.dtype(tensor.dtype).itemsize


@dataclass(slots=True, kw_only=True)
class _Buffer:
    """Tensors that share one place, one after the other; alive during layers first to last."""

    tensors: list[int]
    size_bytes: int
    first: int
    last: int
    offset: int = 0

    def meets(self, other: _Buffer) -> bool:
        return self.first <= other.last and other.first <= self.last


def _buffers(network: Network, *, in_place: bool) -> list[_Buffer]:
    """In the order of their first tensors."""
    last = {tensor: i for i, layer in enumerate(network.layers) for tensor in (*layer.outputs, *layer.inputs)}
    last |= dict.fromkeys(network.outputs, len(network.layers) - 1)
    by_tensor = {tensor: _buffer(network, tensor, 0, last.get(tensor, 0)) for tensor in network.inputs}
    for index, layer in enumerate(network.layers):
        for output in layer.outputs:
            free = [t for t in layer.inputs if in_place and t in by_tensor and last[t] == index]
            over = _overwritable(network, index, free, output)
            if over is None:
                by_tensor[output] = _buffer(network, output, index, last[output])
            else:
                by_tensor[output] = by_tensor[over]
                by_tensor[over].tensors.append(output)
                by_tensor[over].last = last[output]
    return list({id(buffer): buffer for _, buffer in sorted(by_tensor.items())}.values())


def _buffer(network: Network, tensor: int, first: int, last: int) -> _Buffer:
    size = -(-tensor_bytes(network.tensors[tensor]) // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
    return _Buffer(tensors=[tensor], size_bytes=size, first=first, last=last)


def _overwritable(network: Network, index: int, free: list[int], output: int) -> int | None:
    """The input of layer `index` that its output may take the place of; `free` are those nothing reads later."""
    if not isinstance(network.layers[index].operator, IN_PLACE):
        return None
    needed = tensor_bytes(network.tensors[output])
    return next(
        (t for t in free if t not in network.outputs and tensor_bytes(network.tensors[t]) == needed), None
    )


def _best_plan(network: Network) -> list[_Buffer]:
    return min((_plan(_buffers(network, in_place=choice)) for choice in (True, False)), key=_size)


def _plan(buffers: list[_Buffer]) -> list[_Buffer]:
    """The buffers with their offsets, in the order of offsets."""
    placed: list[_Buffer] = []
    for buffer in sorted(buffers, key=lambda b: b.size_bytes)[::-1]:
        for other in filter(buffer.meets, placed):
            if other.offset - buffer.offset >= buffer.size_bytes:
                break
            buffer.offset = max(buffer.offset, other.offset + other.size_bytes)
        insort(placed, buffer, key=lambda b: b.offset)
    return placed


def _size(placed: list[_Buffer]) -> int:
    return max((b.offset + b.size_bytes for b in placed), default=0)


def _arena(placed: list[_Buffer]) -> Arena:
    return Arena(size_bytes=_size(placed), offsets={tensor: b.offset for b in placed for tensor in b.tensors})
