"""Whether a network fits a board before anything is flashed: flash, SRAM, multiply-accumulates, and the layer at fault.

Weights and arena follow from the network. What the runtime takes is an estimate, the ceiling that its design sets
(each item says so); memory is that of a head trained on cached features, with the coordinates of a round's shared mask.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Collection
from dataclasses import dataclass
from functools import partial
from typing import Literal, get_args

from sanderling.firmware_export.boards import Board
from sanderling.models.cost import LayerCost, NetworkCost, cost
from sanderling.models.errors import ModelFormatError, UsageError
from sanderling.models.lowering import Lowered, lower
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
from sanderling.models.training import MAX_BATCH_SIZE

RUNTIME_OPERATORS: frozenset[type] = frozenset(get_args(Operator))  # those with a kernel in the C runtime

# Measured: code of the Cortex-M4 at -Os (innermost loops at -O2), from the map of the node's program (a test holds them to it).
KERNEL_BYTES: dict[type, int] = {
    Conv2D: 1450,
    FullyConnected: 1450,
    DepthwiseConv2D: 1500,
}  # of an operator, once; products share theirs
OTHER_KERNEL_BYTES = 400
INFERENCE_CODE_BYTES = 500  # what all networks take
CMSIS_NN_CODE_BYTES = 9000
TRAINING_CODE_BYTES = 6600
LINK_CODE_BYTES = 17500
LIBRARY_BYTES = 8500
CHUNK_BYTES, QUEUE_BYTES = 512, 512  # as in targets/apps/node/main.c
NODE_BYTES = 5000
STACK_BYTES = 3072  # the node's watermark is 1.7 KB with messages in plain text (start, self-test, training)

CHANNEL_BYTES = 12  # of an output channel: bias, multiplier, shift
LAYER_BYTES = 120  # of a layer: its node and its parameters
PAYLOAD_OVERHEAD_BYTES = 192  # of an update's message over a byte a parameter
CLASS_COUNT_BYTES = 12
HELD_BACK_SHARE = 4  # one in so many as the cache holds is validated on, and as many are tested on
TIGHT = 0.1  # free share of the memory below which an estimate's error may decide

EXACT = "exact"
MEASURED = "measured on a Cortex-M4 at -Os"


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
    cmsis_nn: Lowered | None = None,
) -> FitReport:
    """The network on the board; `training` None is inference alone. ModelFormatError when no head can be trained.

    `cmsis_nn` is the network lowered to the kernels of CMSIS-NN, where it is to run with those.
    """
    head = None if training is None else dense_head(network)
    spent = cost(network)
    flash = Memory(
        kind="flash",
        items=_flash(network, spent, head, cmsis_nn is not None),
        available_bytes=board.flash_bytes,
    )
    sram = Memory(
        kind="SRAM", items=_sram(network, spent, head, training, cmsis_nn), available_bytes=board.sram_bytes
    )
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


def node_definitions(head: DenseHead, training: HeadTraining) -> list[str]:
    """What the node's program (targets/apps/node) is compiled with, so that it takes the memory that is planned."""
    return [
        f"SANDERLING_CACHE={training.cache_examples}",
        f"SANDERLING_HELD_BACK={held_back_examples(training.cache_examples)}",
        f"SANDERLING_SCRATCH={scratch_bytes(head, training)}",
    ]


def scratch_bytes(head: DenseHead, training: HeadTraining) -> int:
    """What sl_train takes on a full cache, or the self-test where that is more; a multiple of 8."""
    theta = 2 * _even(head.dimension)
    features = 2 * _even(head.features)

    def of_training(batch_size: int, count: int) -> int:
        words = batch_size * head.classes + head.features
        return 4 * words + 2 * _even(count) + features

    of_round = theta + max(of_training(training.batch_size, training.cache_examples), 4 * head.dimension)
    of_self_test = theta + max(of_training(4, 6), 4 * min(head.dimension, 32))
    return -(-max(of_round, of_self_test) // 8) * 8


def _even(count: int) -> int:
    return count + (count & 1)


def _flash(network: Network, spent: NetworkCost, head: DenseHead | None, cmsis_nn: bool) -> tuple[Item, ...]:
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
    used = {type(layer.operator) for layer in network.layers}
    if Conv2D in used:
        used.discard(FullyConnected)  # one file of kernels
    items = [
        Item(name="weights", size_bytes=spent.weight_bytes, basis=EXACT),
        Item(
            name="tables",
            size_bytes=CHANNEL_BYTES * channels + LAYER_BYTES * len(network.layers) + tables,
            basis="rescaling, nodes, activations",
        ),
        Item(
            name="inference code",
            size_bytes=INFERENCE_CODE_BYTES
            + sum(KERNEL_BYTES.get(operator, OTHER_KERNEL_BYTES) for operator in used),
            basis=MEASURED,
        ),
        Item(
            name="link code", size_bytes=LINK_CODE_BYTES, basis=f"{MEASURED}: node, MQTT, messages, storage"
        ),
        Item(name="library", size_bytes=LIBRARY_BYTES, basis=f"{MEASURED}: C library, BLAKE2b, start, port"),
    ]
    if cmsis_nn:
        items.append(Item(name="CMSIS-NN", size_bytes=CMSIS_NN_CODE_BYTES, basis=f"{MEASURED}, but -O2"))
    if head is not None:
        items += [
            Item(name="training code", size_bytes=TRAINING_CODE_BYTES, basis=MEASURED),
            Item(
                name="stored head",
                size_bytes=2 * 2 * head.dimension,
                basis="two copies, so that one outlives a power loss",
            ),
        ]
    return tuple(items)


def _arena_bytes(network: Network, spent: NetworkCost, cmsis_nn: Lowered | None) -> int:
    """With what kernels need beside activations; without that where a layer has no kernel, which is a fault of its own."""
    try:
        return (cmsis_nn or lower(network)).arena_bytes
    except ModelFormatError:
        return spent.arena.size_bytes


def _sram(
    network: Network,
    spent: NetworkCost,
    head: DenseHead | None,
    training: HeadTraining | None,
    cmsis_nn: Lowered | None,
) -> tuple[Item, ...]:
    arena, window = _arena_bytes(network, spent, cmsis_nn), _window_end(network, cmsis_nn)
    items = [
        Item(name="arena", size_bytes=arena, basis=EXACT),
        Item(
            name="window",
            size_bytes=max(0, window - arena),
            basis="float32, as the sensor gives it: beyond the arena, whose memory it shares",
        ),
    ]
    if head is not None and training is not None:
        d, n = head.dimension, training.cache_examples
        items += [
            Item(
                name="training",
                size_bytes=max(0, scratch_bytes(head, training) - max(arena, window)),
                basis="the head in training, errors, update: beyond the arena, whose memory they share",
            ),
            Item(name="round's head", size_bytes=2 * d, basis="int16, what the change is against"),
            Item(
                name="example cache",
                size_bytes=n * _example_bytes(head) + CLASS_COUNT_BYTES * head.classes,
                basis=f"{n} x {head.features} int8 features, and the label",
            ),
            Item(
                name="held back",
                size_bytes=2 * held_back_examples(n) * _example_bytes(head),
                basis=f"{held_back_examples(n)} examples to validate on, as many to test on",
            ),
            Item(name="update", size_bytes=d + PAYLOAD_OVERHEAD_BYTES, basis="a message with 8-bit values"),
        ]
    items += [
        Item(name="link buffers", size_bytes=CHUNK_BYTES + QUEUE_BYTES, basis="a message in, packets out"),
        Item(
            name="node",
            size_bytes=NODE_BYTES,
            basis=f"{MEASURED}: the state of the node, its link and its port",
        ),
        Item(
            name="stack",
            size_bytes=STACK_BYTES,
            basis="kept by the linker; 1.7 KB of it were used",
        ),
    ]
    return tuple(items)


def _window_end(network: Network, cmsis_nn: Lowered | None) -> int:
    """Where a window of float32 ends that does not touch the input, as targets/apps/node/main.c lays it."""
    size = math.prod(network.tensors[network.inputs[0]].shape)
    try:
        at = (cmsis_nn or lower(network)).inputs[0].offset
    except ModelFormatError:
        at = 0
    return 4 * size + (0 if at >= 4 * size else -(-(at + size) // 8) * 8)


def _by_cache(head: DenseHead, batch_size: int, shared: int, examples: int) -> int:
    """What depends on how many examples are held; `shared` bytes of the arena serve training."""
    training = HeadTraining(cache_examples=examples, batch_size=batch_size)
    rows = examples + 2 * held_back_examples(examples)
    return max(0, scratch_bytes(head, training) - shared) + rows * _example_bytes(head)


def held_back_examples(cache_examples: int) -> int:
    """How many are held back to validate on, and as many again to test on."""
    return max(1, cache_examples // HELD_BACK_SHARE)


def _example_bytes(head: DenseHead) -> int:
    """Features and a 16-bit label."""
    return head.features + 2


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
    taken = partial(_by_cache, head, training.batch_size, sram.size("arena") + sram.size("window"))
    room = sram.free_bytes + taken(training.cache_examples)
    affordable = bisect_right(range(1, training.cache_examples), room, key=taken)
    if affordable >= head.classes:  # fewer than one a class are of no use
        return over + f"the example cache of layer {name}: --cache {affordable} fits"
    in_training = scratch_bytes(head, training) + sram.size("round's head") + sram.size("update")
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
