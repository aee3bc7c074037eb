"""A trainable head or a deeper tail as the structs that the C runtime reads, and where its memory lies.

docs/arithmetic.md, "Training a dense head" and "Training a deeper tail"; the runtime's head.h and tail.h say what the
fields mean. What does not depend on a round's rates is computed here. Errors of the backward pass are placed first-fit, in
the order in which they arise, each for as long as it is needed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from sanderling.models.backward import clamps
from sanderling.models.block_float import FACTOR_BITS, Factor, as_factor
from sanderling.models.c_data import Function, Struct, Table, Value
from sanderling.models.deep_tail import MeanSquaredError, Tail, TrainedLayer
from sanderling.models.errors import ModelFormatError
from sanderling.models.lowering import Place, lower_layer, paired_words
from sanderling.models.network import (
    Concatenate,
    Layer,
    Mean,
    Network,
    Pad,
    Pool2D,
    Reshape,
    Tensor,
)
from sanderling.models.products import DepthwiseProduct, windows_of
from sanderling.models.tail import DenseHead
from sanderling.models.tail_layers import Plain, Weighted, nodes_of
from sanderling.models.training import exponent_scale

MAX_HEAD_SIZE: Final = 1 << 15  # features, classes: differences of accumulators stay within 32 bits
MAX_EXPONENT_SHIFT: Final = 23
KINDS: Final = {"bias": 1, "int8": 2, "shadow": 3}  # sl_tail_kind

Node = Plain | Weighted


def head_struct(head: DenseHead) -> Struct:
    """An `sl_head`. ModelFormatError where the C runtime cannot hold it."""
    multiplier, shift, reach = exponent_scale(head)
    if max(head.features, head.classes) > MAX_HEAD_SIZE or shift > MAX_EXPONENT_SHIFT:
        raise ModelFormatError(
            f"a head of {head.features} features, {head.classes} classes, scales {head.input_scale} and "
            f"{head.weight_scale} is beyond the C runtime: at most {MAX_HEAD_SIZE} of each"
        )
    return Struct(
        ctype="sl_head",
        fields={
            "features": head.features,
            "classes": head.classes,
            "input_zero_point": head.input_zero_point,
            "bias_input": head.bias_input,
            "exp_scale": _scale(multiplier, shift),
            "reach": min(reach, (1 << 31) - 1),
            "input_scale": head.input_scale,
            "weight_scale": head.weight_scale,
        },
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class TailMemory:
    """Bytes of RAM in a round of training. `example` is for each example of a batch, all else once."""

    activations: int  # int8, of one example; what enters the tail first
    scratch: int  # of kernels, a window
    errors: int  # int16 mantissas, the int32 sums they are normalised from, exponents
    gradients: int  # int32, and the factors that rates make
    example: int  # of dense layers: errors, inputs

    @property
    def ram(self) -> int:
        return self.activations + self.scratch + self.errors + self.gradients


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LoweredTail:
    """`tail` is an sl_tail; a cached row has `row_bytes`."""

    tail: Struct
    row_bytes: int
    memory: TailMemory


def lower_tail(network: Network, tail: Tail, *, targets_are_inputs: bool = False) -> LoweredTail:
    """ModelFormatError, naming the layer, for what the C runtime does not train.

    With mean squared error a cached row ends in its int8 targets, unless they are what enters.
    """
    return _Lowering(network, tail).lowered(targets_are_inputs)


def tail_memory(network: Network, tail: Tail) -> TailMemory:
    return _Lowering(network, tail).memory()


# Where errors lie.


@dataclass(frozen=True, slots=True, kw_only=True)
class _Taken:
    offset: int
    size: int


@dataclass(slots=True, kw_only=True)
class _Pool:
    """Memory that is taken and given back: each at the lowest offset that is free."""

    taken: dict[str, _Taken] = field(default_factory=dict)
    size: int = 0

    def take(self, name: str, size: int) -> int:
        offset = 0
        for other in sorted(self.taken.values(), key=lambda other: other.offset):
            if other.offset - offset >= size:
                break
            offset = max(offset, _aligned(other.offset + other.size))
        self.taken[name] = _Taken(offset=offset, size=size)
        self.size = max(self.size, _aligned(offset + size))
        return offset

    def shrink(self, name: str, size: int) -> None:
        self.taken[name] = _Taken(offset=self.taken[name].offset, size=size)

    def give_back(self, name: str) -> None:
        del self.taken[name]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Arrival:
    """An error on its way to a tensor: where it is written, and whether it is added to one that is there."""

    tensor: int
    offset: int
    is_added: bool


class _Lowering:
    """Places first, structs then. Offsets of errors and gradients count from the beginning of their part."""

    def __init__(self, network: Network, tail: Tail) -> None:
        self.network, self.tail = network, tail
        self.nodes = nodes_of(network, tail)
        self.layers = network.layers[tail.first : tail.head.layer + 1]
        self._place_activations()
        self._place_errors()
        self._place_gradients()
        self._lower_kernels()

    def _elements(self, tensor: int) -> int:
        return math.prod(self.network.tensors[tensor].shape)

    # Activations: what enters side by side, as a cached row has it; then every tensor in its own place.

    def _place_activations(self) -> None:
        self.offsets: dict[int, int] = {}
        end = 0
        for tensor in self.tail.entering:
            self.offsets[tensor] = end
            end += self._elements(tensor)
        self.entering_bytes = end
        for node, layer in zip(self.nodes[:-1], self.layers, strict=False):
            if isinstance(layer.operator, Reshape):
                self.offsets[node.output] = self.offsets[node.inputs[0]]
            else:
                self.offsets[node.output] = end = _aligned(end)
                end += self._elements(node.output)
        self.activation_bytes = _aligned(end)

    # Errors.

    def _place_errors(self) -> None:
        pool, head = _Pool(), self.nodes[-1].output
        self.errors: dict[int, int] = {head: pool.take("head", 4 * self.tail.head.classes)}
        names = {head: "head"}
        self.arrivals: dict[int, list[_Arrival]] = {}  # by the node's output
        for node, layer in zip(reversed(self.nodes), reversed(self.layers), strict=True):
            if node.output not in self.errors:
                if isinstance(node, Weighted) and node.trained is not None:
                    raise ModelFormatError(
                        f"layer {layer.name!r}: no error comes back to it, it cannot be trained"
                    )
                continue
            name = names[node.output]
            wanted = [tensor for tensor in node.inputs if tensor not in self.tail.entering]
            if isinstance(layer.operator, Reshape) and self._moves_in_place(node):
                self.errors[wanted[0]], names[wanted[0]] = self.errors[node.output], name
                continue
            self.arrivals[node.output] = arrivals = []
            for tensor in wanted:
                is_added, size = tensor in self.errors, self._elements(tensor)
                own = f"{tensor} again" if is_added else str(tensor)
                offset = pool.take(own, size * (4 if _adds_up(node, layer) else 2))
                arrivals.append(_Arrival(tensor=tensor, offset=offset, is_added=is_added))
                if is_added:
                    pool.give_back(own)
                else:
                    self.errors[tensor], names[tensor] = offset, own
                    pool.shrink(own, 2 * size)
            pool.give_back(name)
        slots = {name: i for i, name in enumerate(dict.fromkeys(names.values()))}
        self.exponents = {tensor: slots[name] for tensor, name in names.items()}
        features = max(node.product.terms for node in self._trained() if _trained(node).kind == "shadow")
        self.error_bytes = max(pool.size, 4 * features)  # a shadow layer's gradient lies there too, later

    def _moves_in_place(self, node: Node) -> bool:
        """Whether a reshape's input is its alone, so that both have one error."""
        readers = sum(other.inputs.count(node.inputs[0]) for other in self.nodes)
        return readers == 1 and node.inputs[0] not in self.tail.entering

    # Gradients, rates, and what a batch keeps.

    def _place_gradients(self) -> None:
        self.gradients: dict[int, int] = {}
        self.rates: dict[int, int] = {}
        self.examples: dict[int, int] = {}
        self.gradient_bytes = self.rate_bytes = self.example_bytes = 0
        for node in self._trained():
            layer = _trained(node)
            if layer.kind == "shadow":
                self.examples[node.output] = self.example_bytes
                kept = 0 if node.inputs[0] in self.tail.entering else layer.terms
                self.example_bytes += _aligned(4 * node.product.channels + kept)
            else:
                self.gradients[node.output] = self.gradient_bytes
                self.gradient_bytes += 4 * (layer.stop - layer.start)
            self.rates[node.output] = self.rate_bytes
            self.rate_bytes += (
                4 * {"shadow": 1, "bias": len(layer.channels), "int8": 2 * len(layer.channels)}[layer.kind]
            )

    def _trained(self) -> list[Weighted]:
        return [node for node in self.nodes if isinstance(node, Weighted) and node.trained is not None]

    def _lower_kernels(self) -> None:
        """Layers that are not trained run on the kernels."""
        places = [
            Place(tensor=i, offset=self.offsets[i], shape=tensor.shape, dtype=tensor.dtype)
            if i in self.offsets
            else None
            for i, tensor in enumerate(self.network.tensors)
        ]
        self.kernels: dict[int, Struct | None] = {}
        self.window_bytes = self.scratch_bytes = 0
        for node, layer in zip(self.nodes, self.layers, strict=True):
            if isinstance(node, Weighted):
                self.window_bytes = max(self.window_bytes, _aligned(2 * _window_size(node)))
            if isinstance(node, Plain) or node.trained is None:
                kernel, needed = lower_layer(self.network, layer, places, self.activation_bytes)
                self.kernels[node.output] = kernel
                self.scratch_bytes = max(self.scratch_bytes, _aligned(needed))
        sums = [4 * node.product.terms for node in self._trained() if _trained(node).kind == "int8"]
        self.scratch_bytes = max(self.scratch_bytes, self.window_bytes + max(sums, default=0))

    def memory(self) -> TailMemory:
        return TailMemory(
            activations=self.activation_bytes,
            scratch=self.scratch_bytes,
            errors=self.error_bytes + 4 * (len(self.exponents) + 1),
            gradients=self.gradient_bytes + self.rate_bytes,
            example=self.example_bytes,
        )

    # Structs.

    def lowered(self, targets_are_inputs: bool) -> LoweredTail:
        memory, loss = self.memory(), self.tail.loss
        behind = isinstance(loss, MeanSquaredError) and not targets_are_inputs
        row_bytes = self.entering_bytes + (self.tail.head.classes if behind else 0)
        squared = None
        if isinstance(loss, MeanSquaredError):
            struct = _squared_error(self.tail, loss, self.entering_bytes if behind else 0)
            squared = Table(ctype="sl_squared_error", values=(struct,), name="squared_error")
        nodes = tuple(self._node(node, layer) for node, layer in zip(self.nodes, self.layers, strict=True))
        fields: dict[str, Value] = {
            "head": Table(ctype="sl_head", values=(head_struct(self.tail.head),), name="head"),
            "nodes": Table(ctype="sl_tail_node", values=nodes, name="tail_nodes"),
            "node_count": len(nodes),
            "dimension": self.tail.dimension,
            "row_bytes": row_bytes,
            "entering_bytes": self.entering_bytes,
            "sums": self._errors_begin + self.errors[self.nodes[-1].output],
            "gradients": self._gradients_begin,
            "gradient_bytes": self.gradient_bytes,
            "ram_bytes": memory.ram,
            "example_bytes": memory.example,
            "squared_error": squared,
        }
        return LoweredTail(tail=Struct(ctype="sl_tail", fields=fields), row_bytes=row_bytes, memory=memory)

    @property
    def _errors_begin(self) -> int:
        return self.activation_bytes + self.scratch_bytes

    @property
    def _gradients_begin(self) -> int:
        return self._errors_begin + self.error_bytes + 4 * (len(self.exponents) + 1)

    def _error(self, tensor: int, offset: int | None = None) -> Struct:
        where = self.errors.get(tensor, 0) if offset is None else offset
        exponent = self.exponents.get(tensor, len(self.exponents))  # the last one is nobody's
        fields: dict[str, Value] = {
            "mantissas": self._errors_begin + where,
            "exponent": self._errors_begin + self.error_bytes + 4 * exponent,
        }
        return Struct(ctype="sl_error", fields=fields)

    def _node(self, node: Node, layer: Layer) -> Struct:
        kernel, weighted = self.kernels.get(node.output), isinstance(node, Weighted)
        low, high = (-129, 128) if node is self.nodes[-1] else self._bounds(node, layer)
        inputs = tuple(self._input(node, layer, arrival) for arrival in self.arrivals.get(node.output, ()))
        trained = isinstance(node, Weighted) and node.trained is not None
        backward = (
            Function(name=_backward(node, layer))
            if node.output in self.arrivals and (inputs or trained)
            else None
        )
        fields: dict[str, Value] = {
            "node": None if kernel is None else Table(ctype="sl_node", values=(kernel,), name="node"),
            "weighted": Table(ctype="sl_weighted", values=(self._weighted(node),), name="weighted")
            if isinstance(node, Weighted)
            else None,
            "backward": backward,
            "output": self.offsets.get(node.output, 0),
            "size": self._elements(node.output),
            "low": low,
            "high": high,
            "error": self._error(node.output),
            "factors": _factors(self._shares(layer)) if not weighted else _no_factors(),
            "inputs": Table(ctype="sl_tail_input", values=inputs, name="tail_inputs") if inputs else None,
            "input_count": len(inputs),
        }
        return Struct(ctype="sl_tail_node", fields=fields)

    def _bounds(self, node: Node, layer: Layer) -> tuple[int, int]:
        if isinstance(node, Weighted):
            assert node.rescale is not None, "only the head has none"
            return int(node.rescale[-2]), int(node.rescale[-1])
        return clamps(self.network, layer)

    def _input(self, node: Node, layer: Layer, arrival: _Arrival) -> Struct:
        size = self._elements(arrival.tensor)
        first, run = (
            self._part(node, layer, arrival) if isinstance(layer.operator, Concatenate) else (0, size)
        )
        own = self._error(-1, arrival.offset) if arrival.is_added else self._error(arrival.tensor)
        fields: dict[str, Value] = {
            "error": own,
            "sum": self._error(arrival.tensor),
            "is_added": arrival.is_added,
            "activation": self.offsets[arrival.tensor],
            "size": size,
            "first": first,
            "run": run,
        }
        return Struct(ctype="sl_tail_input", fields=fields)

    def _part(self, node: Node, layer: Layer, arrival: _Arrival) -> tuple[int, int]:
        """Where an input of a concatenation begins in a run, and its elements there."""
        assert isinstance(layer.operator, Concatenate)
        position = [a is arrival for a in self.arrivals[node.output]].index(True)
        wanted = [
            i
            for i, tensor in enumerate(layer.inputs)
            if self.network.tensors[tensor].data is None and tensor not in self.tail.entering
        ]
        runs = [math.prod(self.network.tensors[t].shape[layer.operator.axis :]) for t in layer.inputs]
        at = wanted[position]
        return sum(runs[:at]), runs[at]

    def _shares(self, layer: Layer) -> Factor | None:
        """The factors of a mean, one, or of an average pool, by the number of elements under its window."""
        match layer.operator:
            case Mean(axes=axes):
                shape = self.network.tensors[layer.inputs[0]].shape
                return as_factor([1 / math.prod(shape[axis] for axis in axes)])
            case Pool2D(kind="average") as operator:
                counts = _window_counts(
                    operator, self.network.tensors[layer.inputs[0]], self.network.tensors[layer.outputs[0]]
                )
                shares = np.zeros(counts[-1] + 1)
                shares[counts] = 1 / np.array(counts)
                exponent = math.frexp(1 / counts[0])[1]
                return Factor(
                    mantissas=np.floor(shares * 2.0 ** (FACTOR_BITS - exponent) + 0.5), exponent=exponent
                )
        return None

    def _weighted(self, node: Weighted) -> Struct:
        layer = self.network.layers[self.tail.first + self.nodes.index(node)]
        inputs, filters = (self.network.tensors[i] for i in layer.inputs[:2])
        assert inputs.quantization is not None and filters.data is not None
        product, trained = node.product, node.trained
        depthwise = isinstance(product, DepthwiseProduct)
        fields: dict[str, Value] = {
            "kind": 0 if trained is None else KINDS[trained.kind],
            "is_depthwise": depthwise,
            "is_head": node is self.nodes[-1],
            "channels": product.channels,
            "terms": product.terms,
            "multiplier": product.multiplier if isinstance(product, DepthwiseProduct) else 1,
            "windows": _windows(node),
            "paired": None
            if depthwise or _is_whole(node)
            else Table(
                ctype="uint32_t",
                values=paired_words(filters.data.reshape(product.channels, -1)),
                name="weights",
            ),
            "weights": Table(ctype="int8_t", values=filters.data.reshape(-1), name="weights")
            if depthwise and not _is_whole(node)
            else None,
            "output": _output(node),
            "input": self.offsets[node.inputs[0]],
            "input_zero_point": node.zero_point,
            "bias_input": 0 if trained is None else trained.bias_input,
            "factors": _factors(node.scales),
            "window": self.activation_bytes,
            "sums": self.activation_bytes + self.window_bytes,
        }
        if trained is not None:
            fields |= self._of_training(node, trained, inputs.quantization.scales[0])
        return Struct(ctype="sl_weighted", fields=fields)

    def _of_training(self, node: Weighted, trained: TrainedLayer, input_scale: float) -> Mapping[str, Value]:
        channels, shadow = trained.channels, trained.kind == "shadow"
        scales = [trained.weight_scales[channel] for channel in channels[: 1 if shadow else None]]
        is_all = len(channels) == node.product.channels
        cached = node.inputs[0] in self.tail.entering
        gradient = self._errors_begin if shadow else self._gradients_begin + self.gradients[node.output]
        return {
            "scales": _scales(node),
            "bias_base": Table(ctype="int32_t", values=node.fixed[1][0].astype(np.int32), name="biases"),
            "theta": trained.start,
            "biases": trained.bias_start,
            "trained": len(channels),
            "chosen": None
            if is_all
            else Table(ctype="uint16_t", values=np.array(channels, np.uint16), name="channels"),
            "input_scale": input_scale,
            "weight_scales": Table(ctype="float", values=np.array(scales, np.float32), name="scales"),
            "gradient": gradient,
            "rates": self._gradients_begin + self.gradient_bytes + self.rates[node.output],
            "example": self.examples.get(node.output, 0),
            "is_cached": cached,
            "cached": self.offsets[node.inputs[0]] if cached else 0,
        }


# Parts.


def _aligned(size: int) -> int:
    return -(-size // 4) * 4


def _adds_up(node: Node, layer: Layer) -> bool:
    """Whether errors are summed in int32 on their way back."""
    if isinstance(layer.operator, Pool2D):
        (height, width), (down, right) = layer.operator.window, layer.operator.stride
        return height > down or width > right
    return isinstance(node, Weighted)


def _is_whole(node: Weighted) -> bool:
    """Whether all weights are in theta."""
    trained = node.trained
    return trained is not None and trained.kind != "bias" and len(trained.channels) == node.product.channels


def _window_size(node: Weighted) -> int:
    """Elements that lie under a window."""
    if isinstance(node.product, DepthwiseProduct):
        return node.product.terms * node.product.input_shape[-1]
    return node.product.terms


def _trained(node: Weighted) -> TrainedLayer:
    assert node.trained is not None
    return node.trained


def _backward(node: Node, layer: Layer) -> str:
    if isinstance(node, Weighted):
        return "sl_pass_weighted"
    match layer.operator:
        case Mean():
            return "sl_pass_mean"
        case Pool2D(kind=kind):
            return f"sl_pass_{kind}_pool"
        case Pad():
            return "sl_pass_pad"
        case Concatenate():
            return "sl_pass_concatenate"
    return "sl_pass_on"


def _scale(multiplier: int, shift: int) -> Struct:
    return Struct(ctype="sl_scale", fields={"multiplier": multiplier, "shift": shift})


def _scales(node: Weighted) -> Table | None:
    if node.rescale is None:
        return None
    multipliers, shifts = node.rescale[:2]
    pairs = zip(multipliers.tolist(), shifts.tolist(), strict=True)
    return Table(ctype="sl_scale", values=tuple(_scale(*pair) for pair in pairs), name="scales")


def _output(node: Weighted) -> Struct:
    zero_point, low, high = (0, 0, 0) if node.rescale is None else (int(value) for value in node.rescale[2:])
    return Struct(ctype="sl_output", fields={"zero_point": zero_point, "low": low, "high": high})


def _factors(factor: Factor | None) -> Struct:
    if factor is None:
        return _no_factors()
    mantissas = Table(ctype="uint16_t", values=factor.mantissas.astype(np.uint16), name="factors")
    return Struct(ctype="sl_factors", fields={"mantissas": mantissas, "exponent": factor.exponent})


def _no_factors() -> Struct:
    return Struct(ctype="sl_factors", fields={"mantissas": None, "exponent": 0})


def _windows(node: Weighted) -> Struct:
    """An sl_windows; of a dense layer one pixel on an image of one."""
    windows, shape = node.product.windows, node.product.input_shape
    values: Sequence[int] = (1, 1, 1, node.product.terms, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0)
    if windows is not None:
        places = (windows.rows, windows.columns, *windows.window, *windows.stride, *windows.dilation)
        values = (*shape, *places, windows.padding[0], windows.padding[2])
    names = (
        *("images", "height", "width", "channels", "rows", "columns", "window_height", "window_width"),
        *("stride_y", "stride_x", "dilation_y", "dilation_x", "top", "left"),
    )
    return Struct(ctype="sl_windows", fields=dict(zip(names, values, strict=True)))


def _window_counts(operator: Pool2D, inputs: Tensor, output: Tensor) -> list[int]:
    """How many elements lie under a pool's windows: each number once, ascending."""
    windows = windows_of(operator.window, operator, (1, 1), output)
    counts: list[int] = np.unique(windows.unfold(np.ones((*inputs.shape[1:3], 1), int)).sum(axis=-2)).tolist()
    return counts


def _squared_error(tail: Tail, loss: MeanSquaredError, row: int) -> Struct:
    step = tail.head.input_scale * tail.head.weight_scale
    fraction, exponent = math.frexp(loss.scale / step)
    target: dict[str, Value] = {
        "mantissa": math.floor(fraction * 2**FACTOR_BITS + 0.5),
        "exponent": exponent,
    }
    fields: dict[str, Value] = {
        "zero_point": loss.zero_point,
        "target": Struct(ctype="sl_short", fields=target),
        "derivative": _factors(as_factor([2 * step / tail.head.classes])),
        "sum_scale": step,
        "target_scale": loss.scale,
        "row": row,
    }
    return Struct(ctype="sl_squared_error", fields=fields)
