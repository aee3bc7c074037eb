"""Whether a network fits a board before anything is flashed: flash, SRAM, multiply-accumulates, and the layer at fault.

Weights and arena follow from the network. What the runtime takes is an estimate, the ceiling that its design sets
(each item says so); memory is that of a head trained on cached features, with the coordinates of a round's shared mask.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal, get_args

from sanderling.firmware_export.boards import Board
from sanderling.models.cost import LayerCost, NetworkCost, cost
from sanderling.models.errors import UsageError
from sanderling.models.network import (
    Conv2D,
    DepthwiseConv2D,
    Elementwise,
    FullyConnected,
    Layer,
    Network,
    Operator,
)
from sanderling.models.tail import DenseHead, dense_head
from sanderling.models.training import EXP_COARSE, EXP_FINE, MAX_BATCH_SIZE

RUNTIME_OPERATORS: frozenset[type] = frozenset(get_args(Operator))  # those with a kernel in the C runtime

INFERENCE_CODE_BYTES = 20 * 1024
TRAINING_CODE_BYTES = 8 * 1024
LINK_CODE_BYTES = 8 * 1024
LIBRARY_BYTES = 9 * 1024
LINK_BUFFER_BYTES = 2 * 1024
STACK_BYTES = 2 * 1024

RESCALING_BYTES = 5  # of an output channel: 32-bit multiplier and 8-bit shift
PAYLOAD_OVERHEAD_BYTES = 64  # of an encoded update over a byte a parameter
TIGHT = 0.1  # free share of the memory below which an estimate's error may decide

EXACT = "exact"
CEILING = "estimate: the runtime's ceiling"


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadTraining:
    """How the device trains: `cache_examples` held as features of the head's input, batches of `batch_size`."""

    cache_examples: int = 64
    batch_size: int = 16

    def __post_init__(self) -> None:
        if self.cache_examples < 1 or not 1 <= self.batch_size <= MAX_BATCH_SIZE:
            raise UsageError(
                f"expected at least 1 example in the cache and batches of 1 to {MAX_BATCH_SIZE}, "
                f"came {self.cache_examples} and {self.batch_size}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """Something that takes memory, and where its figure comes from."""

    name: str
    size_bytes: int
    basis: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """One of the board's memories and what is in it."""

    kind: Literal["flash", "SRAM"]
    items: tuple[Item, ...]
    available_bytes: int

    @property
    def used_bytes(self) -> int:
        return sum(item.size_bytes for item in self.items)

    @property
    def free_bytes(self) -> int:
        """The margin; negative when it does not fit."""
        return self.available_bytes - self.used_bytes

    def size(self, name: str) -> int:
        """Bytes of the item of that name, 0 when there is none."""
        return sum(item.size_bytes for item in self.items if item.name == name)


@dataclass(frozen=True, slots=True, kw_only=True)
class FitReport:
    """`faults` is empty when it fits; each names a layer and what to change."""

    network: str
    board: Board
    flash: Memory
    sram: Memory
    cost: NetworkCost
    faults: tuple[str, ...]

    @property
    def fits(self) -> bool:
        return not self.faults


def fit(
    network: Network,
    board: Board,
    *,
    training: HeadTraining | None,
    operators: Collection[type] = RUNTIME_OPERATORS,
) -> FitReport:
    """The network on the board; `training` None is inference alone. ModelFormatError when no head can be trained."""
    head = None if training is None else dense_head(network)
    spent = cost(network)
    flash = Memory(kind="flash", items=_flash(network, spent, head), available_bytes=board.flash_bytes)
    sram = Memory(kind="SRAM", items=_sram(spent, head, training), available_bytes=board.sram_bytes)
    faults = [
        f"layer {_layer(layer)}: the firmware runtime has no kernel for this operator; "
        "replace it in the model, or run the model on a Linux board"
        for layer in network.layers
        if type(layer.operator) not in operators
    ]
    if flash.free_bytes < 0:
        faults.append(_flash_fault(flash, spent, head))
    if sram.free_bytes < 0:
        faults.append(_sram_fault(sram, spent, network, head, training))
    return FitReport(
        network=network.name, board=board, flash=flash, sram=sram, cost=spent, faults=tuple(faults)
    )


def render(report: FitReport) -> str:
    """The report as text."""
    board = report.board
    lines = [
        f"{report.network} on {board.name}: {board.microcontroller}, {board.core}"
        f"{f', {board.clock_hz // 10**6} MHz' if board.clock_hz else ''} ({board.source}{'; ' + board.note if board.note else ''})"
    ]
    for memory in (report.flash, report.sram):
        lines += ["", memory.kind]
        lines += [f"  {item.name:<18}{item.size_bytes:>10,}  {item.basis}" for item in memory.items]
        lines.append(
            f"  {'total':<18}{memory.used_bytes:>10,}  of {memory.available_bytes:,}: {_margin(memory)}"
        )
    peak = report.cost.peak
    lines += [
        "",
        f"{report.cost.multiply_accumulates:,} multiply-accumulates an inference",
        f"the arena's peak is layer {_layer(peak)}",
    ]
    return "\n".join(lines)


def _flash(network: Network, spent: NetworkCost, head: DenseHead | None) -> tuple[Item, ...]:
    channels = sum(
        network.tensors[layer.outputs[0]].shape[-1]
        for layer in network.layers
        if isinstance(layer.operator, Conv2D | DepthwiseConv2D | FullyConnected)
    )
    tables = sum(
        256
        for layer in network.layers
        if isinstance(layer.operator, Elementwise) and layer.operator.function in ("tanh", "logistic")
    )
    items = [
        Item(name="weights", size_bytes=spent.weight_bytes, basis=EXACT),
        Item(name="tables", size_bytes=RESCALING_BYTES * channels + tables, basis="rescaling, activations"),
        Item(name="inference code", size_bytes=INFERENCE_CODE_BYTES, basis=CEILING),
        Item(
            name="link code", size_bytes=LINK_CODE_BYTES, basis="estimate: zcbor 5.6 KB, MQTT client 2.3 KB"
        ),
        Item(name="C library", size_bytes=LIBRARY_BYTES, basis="estimate: picolibc, 8.6 KB"),
    ]
    if head is not None:
        exponentials = 2 * (EXP_COARSE.size + EXP_FINE.size)
        items += [
            Item(name="training code", size_bytes=TRAINING_CODE_BYTES + exponentials, basis=CEILING),
            Item(
                name="stored head",
                size_bytes=2 * 2 * head.dimension,
                basis="two copies, so that one outlives a power loss",
            ),
        ]
    return tuple(items)


def _sram(spent: NetworkCost, head: DenseHead | None, training: HeadTraining | None) -> tuple[Item, ...]:
    items = [Item(name="arena", size_bytes=spent.arena.size_bytes, basis=EXACT)]
    if head is not None and training is not None:
        d, n = head.dimension, training.cache_examples
        items += [
            Item(name="head in training", size_bytes=2 * d, basis="int16 shadow"),
            Item(name="round's head", size_bytes=2 * d, basis="int16, what the change is against"),
            Item(
                name="gradients",
                size_bytes=4 * head.classes * (training.batch_size + 1),
                basis="int32 errors of a batch; a weight's gradient is summed in a register",
            ),
            Item(
                name="example cache",
                size_bytes=n * _example_bytes(head) + 7 * head.classes,
                basis=f"{n} x {head.features} int8 features, label, order",
            ),
            Item(
                name="update",
                size_bytes=2 * d + PAYLOAD_OVERHEAD_BYTES,
                basis="8-bit values, encoded payload",
            ),
        ]
    items += [
        Item(name="link buffers", size_bytes=LINK_BUFFER_BYTES, basis="estimate: 1 KB each way"),
        Item(name="stack", size_bytes=STACK_BYTES, basis="estimate: until the watermark is measured"),
    ]
    return tuple(items)


def _example_bytes(head: DenseHead) -> int:
    """Features, a 16-bit label, a 16-bit place in the order of an epoch."""
    return head.features + 4


def _flash_fault(flash: Memory, spent: NetworkCost, head: DenseHead | None) -> str:
    over = f"flash: {-flash.free_bytes:,} bytes too many; "
    stored = flash.size("stored head")
    if flash.used_bytes - spent.weight_bytes - stored > flash.available_bytes:
        return over + "the runtime alone does not fit: take a board with more flash"
    sizes = [layer.weight_bytes for layer in spent.layers]
    if head is not None:
        sizes[head.layer] += stored
    largest = max(sizes)
    return over + (
        f"layer {_layer(spent.layers[sizes.index(largest)])} takes {largest:,} of {sum(sizes):,} bytes of "
        "weights: prune its channels or the features that enter it"
    )


def _sram_fault(
    sram: Memory,
    spent: NetworkCost,
    network: Network,
    head: DenseHead | None,
    training: HeadTraining | None,
) -> str:
    over = f"SRAM: {-sram.free_bytes:,} bytes too many; "
    peak = spent.peak
    arena = (
        f"layer {_layer(peak)} keeps {peak.activation_bytes:,} bytes of activations alive, "
        "the arena's peak: give it fewer channels, a larger stride or a smaller input"
    )
    if head is None or training is None:
        return over + arena
    name = _layer(network.layers[head.layer])
    affordable = training.cache_examples + sram.free_bytes // _example_bytes(head)
    if affordable >= head.classes:  # fewer than one a class are of no use
        return over + f"the example cache of layer {name}: --cache {affordable} fits"
    in_training = sum(sram.size(item) for item in ("head in training", "round's head", "gradients", "update"))
    if in_training > sram.size("arena"):
        return over + (
            f"layer {name} has {head.dimension:,} parameters, which take {in_training:,} bytes to train: "
            "fewer features before it (a pool, a narrower layer), or inference alone with --tail none"
        )
    return over + arena


def _layer(layer: LayerCost | Layer) -> str:
    """Converters write names of hundreds of characters: their end tells the layer."""
    name = layer.name if len(layer.name) <= 60 else "…" + layer.name[-59:]
    operator = layer.operator if isinstance(layer, LayerCost) else type(layer.operator).__name__
    return f"{name!r} ({operator})"


def _margin(memory: Memory) -> str:
    if memory.free_bytes < 0:
        return f"{-memory.free_bytes:,} too many"
    share = memory.free_bytes / memory.available_bytes
    return f"{memory.free_bytes:,} free ({share:.0%}){', tight' if share < TIGHT else ''}"
