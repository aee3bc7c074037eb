"""What to train under a memory budget: the SRAM of training a tail, and tails ranked by measured contribution.

Contribution analysis as in MCUNetV3 (Lin et al. 2022, arXiv 2206.15472): each layer's weights, a share of their
channels, or its bias alone are trained together with the head, on the user's data in integers; what helps most for its
bytes is put together. The memory is what the C runtime takes, by the plan in models/tail_lowering.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sanderling.models.block_float import Array, Int8Array
from sanderling.models.deep_tail import (
    BIAS,
    WHOLE,
    CrossEntropy,
    Loss,
    Tail,
    Trained,
    initial_tail_theta,
    make_tail,
    weighted_layers,
)
from sanderling.models.errors import ModelFormatError
from sanderling.models.network import (
    FullyConnected,
    Network,
)
from sanderling.models.random_bits import Key
from sanderling.models.tail_lowering import tail_memory
from sanderling.models.tail_step import TailStep, targets_of
from sanderling.models.tail_training import evaluate_tail, tail_inputs, train_tail
from sanderling.models.training import LocalTraining

THETA_BYTES = 2
EXAMPLE_OVERHEAD_BYTES = 4  # a label and a place in the order of an epoch
SHARES = (1.0, 0.5, 0.25)  # of a convolution's channels that are tried
SAMPLE_EXAMPLES = 128  # whose gradients choose the channels

Plan = dict[int, Trained]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingMemory:
    """Bytes of SRAM that a round of training takes on the device."""

    parameters: int  # theta, int16, and the one that the round starts with
    gradients: int  # int32: of weights and biases, or of a dense layer's errors over a batch, with its inputs
    activations: int  # of one example, int8, and a kernel's scratch memory
    errors: int  # int16 mantissas, and the int32 sums they are normalised from
    cache: int  # int8, of the stored examples

    @property
    def total(self) -> int:
        return self.parameters + self.gradients + self.activations + self.errors + self.cache


@dataclass(frozen=True, slots=True, kw_only=True)
class Data:
    """int8 network inputs (n, ...) and labels (n,), or int8 targets (n, K) for mean squared error."""

    inputs: Int8Array
    targets: Array


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """A tail, what it takes, and how it did on the validation data after training."""

    tail: Tail
    memory: TrainingMemory
    score: float  # accuracy; with mean squared error, the negative loss
    gain: float  # over the head alone

    def describe(self, network: Network) -> str:
        """The layers in words: `conv 6 (16 of 64 channels), conv 4 (bias), head`."""
        parts = []
        for layer in self.tail.layers:
            name, channels = network.layers[layer.layer].name, len(layer.weight_scales)
            some = "" if len(layer.channels) == channels else f"{len(layer.channels)} of {channels} channels"
            notes = [note for note in (some, "bias" if layer.kind == "bias" else "") if note]
            parts.append(f"{name} ({', '.join(notes)})" if notes else name)
        return ", ".join(reversed(parts))


# Memory


def training_memory(network: Network, tail: Tail, *, batch_size: int, cache_examples: int) -> TrainingMemory:
    """What the C runtime takes; ModelFormatError for a tail that it does not train."""
    entering = sum(math.prod(network.tensors[tensor].shape) for tensor in tail.entering)
    parameters = 2 * THETA_BYTES * tail.dimension
    cache = cache_examples * (entering + EXAMPLE_OVERHEAD_BYTES)
    if len(tail.layers) == 1 and isinstance(tail.loss, CrossEntropy):
        head = tail.head  # errors of a batch, the gradient of one class; features less their zero point
        return TrainingMemory(
            parameters=parameters,
            gradients=4 * (batch_size * head.classes + head.features),
            activations=2 * head.features,
            errors=0,
            cache=cache,
        )
    memory = tail_memory(network, tail)
    return TrainingMemory(
        parameters=parameters,
        gradients=memory.gradients + batch_size * memory.example,
        activations=memory.activations + memory.scratch,
        errors=memory.errors,
        cache=cache,
    )


# Choice


def rank_tails(
    network: Network,
    train: Data,
    validation: Data,
    training: LocalTraining,
    *,
    sram_bytes: int,
    cache_examples: int,
    keys: tuple[Key, Key],
    loss: Loss | None = None,
    layers: int = 8,
    progress: Callable[[str], None] = lambda line: None,
) -> list[Choice]:
    """Tails that fit `sram_bytes`, the best on the validation data first; of equals the smaller one.

    `cache_examples` of the training data are taken, the first. Layers with weights are tried, from the last back, up
    to `layers` of them. ModelFormatError when not even the head fits.
    """
    trial = _Trial(
        network=network,
        train=Data(inputs=train.inputs[:cache_examples], targets=train.targets[:cache_examples]),
        validation=validation,
        training=training,
        sram_bytes=sram_bytes,
        cache_examples=cache_examples,
        keys=keys,
        loss=loss or CrossEntropy(),
        progress=progress,
        found={},
    )
    head = trial.measure({})
    if head is None:
        needed = trial.memory(make_tail(network, {}, loss)).total
        raise ModelFormatError(
            f"network {network.name!r}: training its head takes {needed:,} bytes with {cache_examples} examples, "
            f"there are {sram_bytes:,}; cache fewer"
        )
    options = [
        (layer, option)
        for layer in reversed(weighted_layers(network)[:-1][-layers:])
        for option in trial.options(layer)
    ]
    single = {(layer, option): trial.measure({layer: option}) for layer, option in options}
    helpful = [
        (choice.gain, choice.memory.total - head.memory.total, layer, option)
        for (layer, option), choice in single.items()
        if choice is not None and choice.gain > 0
    ]
    by_gain = sorted(helpful, key=lambda entry: -entry[0])
    by_gain_a_byte = sorted(helpful, key=lambda entry: -entry[0] / max(1, entry[1]))
    for ordered in (by_gain, by_gain_a_byte):
        trial.compose([(layer, option) for _, _, layer, option in ordered])
    return sorted(trial.found.values(), key=lambda choice: (-choice.score, choice.memory.total))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Trial:
    """Tails tried so far, by their plan."""

    network: Network
    train: Data
    validation: Data
    training: LocalTraining
    sram_bytes: int
    cache_examples: int
    keys: tuple[Key, Key]
    loss: Loss
    progress: Callable[[str], None]
    found: dict[tuple[tuple[int, Trained], ...], Choice]

    def memory(self, tail: Tail) -> TrainingMemory:
        return training_memory(
            self.network, tail, batch_size=self.training.batch_size, cache_examples=self.cache_examples
        )

    def options(self, layer: int) -> list[Trained]:
        """How a layer may be trained: whole, the channels whose gradients are largest, the bias."""
        if isinstance(self.network.layers[layer].operator, FullyConnected):
            return [WHOLE, BIAS]
        try:
            order = self._channels_by_gradient(layer)
        except ModelFormatError:  # no tail can begin there
            return []
        counts = [max(1, round(share * len(order))) for share in SHARES]
        shares = [None if count == len(order) else tuple(sorted(order[:count])) for count in counts]
        return [*(Trained(channels=channels) for channels in shares), BIAS]

    def measure(self, plan: Plan) -> Choice | None:
        """Trains and validates, once; None where the plan does not fit."""
        key = tuple(sorted(plan.items()))
        if key in self.found:
            return self.found[key]
        try:
            tail = make_tail(self.network, plan, self.loss)
            memory = self.memory(tail)
        except ModelFormatError:
            return None
        if memory.total > self.sram_bytes:
            return None
        inputs = tail_inputs(self.network, tail, self.train.inputs)
        start = initial_tail_theta(self.network, tail)
        theta = train_tail(self.network, tail, start, inputs, self.train.targets, self.training, *self.keys)
        held_out = tail_inputs(self.network, tail, self.validation.inputs)
        done = evaluate_tail(self.network, tail, theta, held_out, self.validation.targets)
        score = done.correct / done.count if isinstance(self.loss, CrossEntropy) else -done.mean_loss
        head = self.found.get(())
        choice = Choice(tail=tail, memory=memory, score=score, gain=score - (head.score if head else score))
        self.found[key] = choice
        self.progress(f"{score:.4f}  {memory.total:>9,} bytes  {choice.describe(self.network)}")
        return choice

    def compose(self, options: Sequence[tuple[int, Trained]]) -> None:
        """Adds one option after the other, one a layer, as long as they fit and do not make it worse."""
        plan: Plan = {}
        best = self.found[()].score
        for layer, option in options:
            if layer in plan:
                continue
            choice = self.measure({**plan, layer: option})
            if choice is not None and choice.score >= best:
                plan, best = {**plan, layer: option}, choice.score

    def _channels_by_gradient(self, layer: int) -> list[int]:
        """Channels of a convolution, those whose weights' first gradient is largest in real numbers first."""
        tail = make_tail(self.network, {layer: WHOLE}, self.loss)
        step = TailStep(self.network, tail, self.training)
        inputs = tail_inputs(self.network, tail, self.train.inputs[:SAMPLE_EXAMPLES])[None]
        parameters = step.parameters(initial_tail_theta(self.network, tail)[None])
        done = step.forward(parameters, inputs)
        targets = targets_of(tail, self.train.targets[:SAMPLE_EXAMPLES])[None]
        error = step.loss(done.values[step.head.output], targets, np.ones(targets.shape[:2], np.bool_))
        node = step.trained[0]
        errors = step.backward(parameters, done, error)
        if node.output not in errors:
            return list(range(node.product.channels))
        live = errors[node.output]
        gradient = node.product.gradient(live.mantissas, done.columns[node.output], slice(None))
        real = (gradient * np.ldexp(1.0, -live.exponents)[..., None, None]).sum(axis=(0, 1))
        norms: NDArray[np.float64] = (real**2).sum(axis=1)
        order: list[int] = np.argsort(-norms, kind="stable").tolist()
        return order
