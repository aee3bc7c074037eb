"""One step of SGD on a network's tail, in integers: forward, loss, backward, update.

models/backward.py passes errors back through operators; here are the layers with weights that change, the losses,
and what a step does to a parameter. Quantisation-aware scaling (Lin et al. 2022, arXiv 2206.15472) lies in the rates:
every parameter moves as it would in real numbers. docs/arithmetic.md, "Training a deeper tail".
Arrays are (clients, examples, *shape); integers are held in float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sanderling.models import arithmetic, inference
from sanderling.models.backward import (
    Array,
    Back,
    Chosen,
    Error,
    Factor,
    Float64Array,
    Int8Array,
    Int64Array,
    Product,
    as_factor,
    backward_of,
    clamps,
    normalized,
    passed,
    plus,
    product_of,
    shortened,
    times,
)
from sanderling.models.deep_tail import (
    STEP,
    CrossEntropy,
    MeanSquaredError,
    Tail,
    TrainedLayer,
    weighted_layers,
    with_tail_theta,
)
from sanderling.models.network import Network
from sanderling.models.random_bits import threefry2x32
from sanderling.models.tail import THETA_LIMIT
from sanderling.models.training import (
    ERROR_FRACTION_BITS,
    ONE,
    PROBABILITY_BITS,
    LocalTraining,
    changes_by_error,
    error_limit,
    exponent_scale,
    one_hot,
    proximal_rate_q16,
    round_half_up,
    softmax,
)

WEIGHT_LIMIT = 127
STEP_FRACTION_BITS = 16  # of an int8 weight's gradient, below a step of the weight
CONTRIBUTION_LIMIT = 1 << 25  # of one example to a gradient: a batch of them stays within 32 bits
HALF = STEP // 2

Int32Matrix = NDArray[np.int32]
UInt32Array = NDArray[np.uint32]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Parameters:
    """A layer's weights (clients, K, J), int8 or shadow, and its biases' shadow (clients, K); changed in place."""

    weights: Float64Array
    biases: Float64Array

    def first(self, clients: int) -> Parameters:
        """A view of the first clients' parameters."""
        return Parameters(weights=self.weights[:clients], biases=self.biases[:clients])

    def copy(self) -> Parameters:
        return Parameters(weights=self.weights.copy(), biases=self.biases.copy())


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Batch:
    """What one step works on, for each client."""

    inputs: Int8Array  # (clients, b, elements): the tensors that enter the tail, each flattened, side by side
    targets: Int64Array  # (clients, b, K): one-hot in 2**-15, or centred int8 targets
    counted: NDArray[np.bool_]  # (clients, b): false for what only fills up the batch
    keys: UInt32Array  # (clients, 2), of the rounding
    numbers: UInt32Array  # (clients,), of the step in the round


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Passed:
    """What the forward pass leaves: values by tensor, the head's in accumulators; columns by tensor."""

    values: dict[int, Array]
    columns: dict[int, Float64Array]


class TailStep:
    """The tail of a network made ready to be trained, or only to be run."""

    def __init__(self, network: Network, tail: Tail, training: LocalTraining) -> None:
        self.tail = tail
        self.entering = {tensor: network.tensors[tensor].shape for tensor in tail.entering}
        self.nodes = _nodes(network, tail)
        self.weighted = [node for node in self.nodes if isinstance(node, Weighted)]
        self.head = self.weighted[-1]
        self.trained = [node for node in self.weighted if node.trained is not None]
        self.movers = [_mover(network, tail, node, training) for node in self.trained]
        self.loss = _loss(tail)

    def forward(self, parameters: Sequence[Parameters], inputs: Int8Array) -> Passed:
        """Runs the tail on inputs (clients, b, elements)."""
        ends = np.cumsum([math.prod(shape) for shape in self.entering.values()])
        parts = np.split(inputs, ends[:-1], axis=2)
        values: dict[int, Array] = {
            tensor: part.reshape(*inputs.shape[:2], *shape)
            for part, (tensor, shape) in zip(parts, self.entering.items(), strict=True)
        }
        columns: dict[int, Float64Array] = {}
        for node in self.nodes:
            given = [values[tensor] for tensor in node.inputs]
            if isinstance(node, Plain):
                values[node.output] = node.forward(given)
            else:
                columns[node.output] = node.columns(given[0])
                values[node.output] = node.forward(columns[node.output], parameters)
        return Passed(values=values, columns=columns)

    def backward(self, parameters: Sequence[Parameters], done: Passed, error: Error) -> dict[int, Error]:
        """From the error of the head's accumulators to that of every trained layer's, by output tensor."""
        arrived = {self.head.output: error}
        found: dict[int, Error] = {}
        for node in reversed(self.nodes):
            if node.output not in arrived:
                continue
            error, y = arrived.pop(node.output), done.values[node.output]
            if isinstance(node, Plain):
                back = node.back(error, [done.values[tensor] for tensor in node.inputs], y)
            else:
                found[node.output] = live = node.live(error, y)
                back = [] if node.inputs[0] in self.entering else [node.backward(live, parameters)]
            for tensor, arriving in zip(node.inputs, back, strict=False):
                if tensor not in self.entering:
                    arrived[tensor] = plus(arrived[tensor], arriving) if tensor in arrived else arriving
        return found

    def __call__(self, parameters: Sequence[Parameters], start: Sequence[Parameters], batch: Batch) -> None:
        """Moves `parameters` by one batch; `start` is what the round began with."""
        done = self.forward(parameters, batch.inputs)
        error = self.loss(done.values[self.head.output], batch.targets, batch.counted)
        errors = self.backward(parameters, done, error)
        for node, move, own, origin in zip(self.trained, self.movers, parameters, start, strict=True):
            if node.output in errors:
                move(own, origin, errors[node.output], done.columns[node.output], batch)

    # Theta.

    def parameters(self, thetas: Int32Matrix) -> list[Parameters]:
        """Those of thetas (clients, d), for each trained layer."""
        return [_parameters(node, thetas) for node in self.trained]

    def thetas(
        self, thetas: Int32Matrix, start: Sequence[Parameters], end: Sequence[Parameters]
    ) -> Int32Matrix:
        """thetas (clients, d) moved by end - start: what int8 weights rounded away at the start stays as it is."""
        moved = thetas.copy()
        for node, before, after in zip(self.trained, start, end, strict=True):
            layer, unit = _layer(node), STEP if _layer(node).kind == "int8" else 1
            if layer.kind != "bias":
                change = node.product.to_theta((after.weights - before.weights)[:, node.chosen])
                moved[:, layer.start : layer.bias_start] += unit * change.astype(np.int32)
            change = (after.biases - before.biases)[:, node.chosen]
            moved[:, layer.bias_start : layer.stop] += change.astype(np.int32)
        return np.clip(moved, -THETA_LIMIT, THETA_LIMIT, out=moved)


# Layers.


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Plain:
    """A layer without weights."""

    inputs: tuple[int, ...]  # activations
    output: int
    kernel: Callable[..., Array]
    back: Back

    def forward(self, given: Sequence[Array]) -> Array:
        leading = given[0].shape[:2]
        y = self.kernel(*(values.reshape(-1, *values.shape[2:]) for values in given))
        return y.reshape(*leading, *y.shape[1:])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Weighted:
    """A layer with weights; `rescale` is None for the head, whose accumulators are wanted."""

    inputs: tuple[int]
    output: int
    output_shape: tuple[int, ...]
    product: Product
    zero_point: int  # of the input
    scales: Factor  # s_w of each channel
    rescale: tuple[Any, ...] | None  # multipliers, shifts, zero point, low, high
    fixed: tuple[Float64Array, Float64Array]  # weights (1, K, J) and biases (1, K) while theta is zero
    trained: TrainedLayer | None
    position: int  # among the trained layers

    @property
    def chosen(self) -> Chosen:
        """The trained channels."""
        channels = () if self.trained is None else self.trained.channels
        return slice(None) if len(channels) == self.product.channels else list(channels)

    def weights(self, parameters: Sequence[Parameters]) -> tuple[Float64Array, Float64Array]:
        """The int8 weights (clients, K, J) and int32 biases (clients, K) of the forward pass."""
        weights, biases = self.fixed
        if self.trained is None:
            return weights, biases
        own = parameters[self.position]
        if self.trained.kind != "bias":
            weights = own.weights if self.trained.kind == "int8" else round_half_up(own.weights / STEP)
        return weights, biases + round_half_up(own.biases * (self.trained.bias_input / STEP))

    def columns(self, x: Int8Array) -> Float64Array:
        return self.product.columns(x.astype(np.float64) - self.zero_point)

    def forward(self, columns: Float64Array, parameters: Sequence[Parameters]) -> Array:
        weights, biases = self.weights(parameters)
        sums = self.product.sums(columns, weights) + biases[:, None, None]
        if self.rescale is None:
            return sums.astype(np.int64)[:, :, 0]
        y = arithmetic.requantize(sums.astype(np.int32), *self.rescale)
        return y.reshape(*columns.shape[:2], *self.output_shape)

    def live(self, error: Error, y: Array) -> Error:
        """The output's error as that of accumulators (clients, b, positions, K)."""
        if self.rescale is not None:
            error = passed(error, y, *self.rescale[-2:])
        shape = (*error.exponents.shape, self.product.positions, self.product.channels)
        return error.with_mantissas(error.mantissas.reshape(shape))

    def backward(self, live: Error, parameters: Sequence[Parameters]) -> Error:
        """The input's error: through the weights, whose scales differ by channel."""
        scaled = times(normalized(live.mantissas, live.exponents), self.scales)
        sums = self.product.input_sums(scaled.mantissas, self.weights(parameters)[0])
        return normalized(sums, scaled.exponents)


Node = Plain | Weighted


def _nodes(network: Network, tail: Tail) -> list[Node]:
    positions = {layer.layer: position for position, layer in enumerate(tail.layers)}
    # What does not depend on theta: scales, biases while theta's are zero, weights that are not trained.
    plain = with_tail_theta(network, tail, np.zeros(tail.dimension, np.int32))
    weighted = weighted_layers(network)
    nodes: list[Node] = []
    for index in range(tail.first, tail.head.layer + 1):
        if index in weighted:
            nodes.append(_weighted(network, plain, tail, index, positions.get(index)))
        else:
            nodes.append(_plain(network, index))
    return nodes


def _plain(network: Network, index: int) -> Plain:
    layer = network.layers[index]
    return Plain(
        inputs=tuple(i for i in layer.inputs if network.tensors[i].data is None),
        output=layer.outputs[0],
        kernel=inference.kernel_of(network, layer),
        back=backward_of(network, layer),
    )


def _weighted(network: Network, plain: Network, tail: Tail, index: int, position: int | None) -> Weighted:
    layer = plain.layers[index]
    inputs, output = [plain.tensors[i] for i in layer.inputs], plain.tensors[layer.outputs[0]]
    assert inputs[0].quantization and inputs[1].quantization and output.quantization
    product = product_of(plain, layer)
    reals = inference.channel_scales(inputs, output, product.channels)
    multipliers = arithmetic.quantize_multipliers(reals)
    rescale = (*multipliers, output.quantization.zero_points[0], *clamps(plain, layer))
    kept = network.tensors[network.layers[index].inputs[1]].data
    bias = np.zeros(product.channels) if len(inputs) < 3 or inputs[2].data is None else inputs[2].data
    return Weighted(
        inputs=(layer.inputs[0],),
        output=layer.outputs[0],
        output_shape=output.shape,
        product=product,
        zero_point=inputs[0].quantization.zero_points[0],
        scales=as_factor(np.broadcast_to(inputs[1].quantization.scales, product.channels)),
        rescale=None if index == tail.head.layer else rescale,
        fixed=(product.weights(np.asarray(kept))[None], np.asarray(bias, dtype=np.float64)[None]),
        trained=None if position is None else tail.layers[position],
        position=-1 if position is None else position,
    )


def _layer(node: Weighted) -> TrainedLayer:
    assert node.trained is not None
    return node.trained


def _parameters(node: Weighted, thetas: Int32Matrix) -> Parameters:
    layer, product = _layer(node), node.product
    weights = np.repeat(node.fixed[0], len(thetas), axis=0)
    if layer.kind != "bias":
        values = thetas[:, layer.start : layer.bias_start].astype(np.float64)
        if layer.kind == "int8":
            values = round_half_up(values / STEP)
        weights[:, node.chosen] = product.from_theta(values, len(layer.channels))
    biases = np.zeros((len(thetas), product.channels))
    biases[:, node.chosen] = thetas[:, layer.bias_start : layer.stop]
    return Parameters(weights=weights, biases=biases)


# Losses: from accumulators and targets (clients, b, K) to the error of the head's real outputs.

LossError = Callable[[Int64Array, Int64Array, NDArray[np.bool_]], Error]


def _loss(tail: Tail) -> LossError:
    head = tail.head
    match tail.loss:
        case CrossEntropy():
            scale = exponent_scale(head)

            def cross_entropy(sums: Int64Array, targets: Int64Array, counted: NDArray[np.bool_]) -> Error:
                error = (softmax(sums, scale) - targets) * counted[..., None]
                exponents = np.full(counted.shape, PROBABILITY_BITS)
                return Error(mantissas=error.astype(np.float64), exponents=exponents)

            return cross_entropy
        case MeanSquaredError() as loss:
            step = head.input_scale * head.weight_scale
            rate, derivative = shortened(loss.scale / step), as_factor([2 * step / head.classes])

            def mean_squared_error(
                sums: Int64Array, targets: Int64Array, counted: NDArray[np.bool_]
            ) -> Error:
                difference = (sums - round_half_up(targets * rate)) * counted[..., None]
                return times(normalized(difference, np.zeros(counted.shape, np.int64)), derivative)

            return mean_squared_error


def targets_of(tail: Tail, targets: Array) -> Int64Array:
    """Labels (n,) as one-hot in 2**-15, or int8 targets (n, ...) centred: what a batch has, (n, K)."""
    if isinstance(tail.loss, MeanSquaredError):
        return targets.reshape(len(targets), tail.head.classes).astype(np.int64) - tail.loss.zero_point
    return one_hot(targets, tail.head.classes)


# Moves: what a step does to a layer's parameters.

Move = Callable[[Parameters, Parameters, Error, Float64Array, Batch], None]


def _mover(network: Network, tail: Tail, node: Weighted, training: LocalTraining) -> Move:
    layer, pull = _layer(node), proximal_rate_q16(training)
    quantization = network.tensors[node.inputs[0]].quantization
    assert quantization is not None
    # The change of a real weight for an error and an input of 1, and that in theta's unit for an input's step.
    rate = training.learning_rate_q16 / 65536 / training.batch_size
    rates = rate * quantization.scales[0] * STEP / np.array(layer.weight_scales)[node.chosen]
    if layer.kind == "shadow":
        if layer.layer == tail.head.layer and isinstance(tail.loss, CrossEntropy):
            table = changes_by_error(tail.head, training)
            return _move_shadow(layer, pull, lambda error: table.take(error.mantissas.astype(np.int64) + ONE))
        return _move_shadow(layer, pull, _scaled_errors(float(rates[0]), training.batch_size))
    move_biases = _move_biases(node, pull, rates * layer.bias_input)
    if layer.kind == "bias":
        return move_biases
    return _move_int8(node, pull, rates / STEP, move_biases)


def _scaled_errors(rate: float, batch_size: int) -> Callable[[Error], Float64Array]:
    """Errors (clients, b, 1, K) in theta's unit a step of the input, with 12 fraction bits."""
    rate, limit = shortened(rate * 2.0**ERROR_FRACTION_BITS), error_limit(batch_size)

    def scaled(error: Error) -> Float64Array:
        values = round_half_up(error.mantissas * rate * _power(error))
        clipped: Float64Array = np.clip(values, -limit, limit) * 2.0**-ERROR_FRACTION_BITS
        return clipped

    return scaled


def _move_shadow(layer: TrainedLayer, pull: int, scaled: Callable[[Error], Float64Array]) -> Move:
    """Dense layers: the nearest int16 shadow."""

    def move(own: Parameters, start: Parameters, error: Error, columns: Float64Array, batch: Batch) -> None:
        changes = scaled(error)[:, :, 0]
        _nudge(own.weights, start.weights, changes.swapaxes(-1, -2) @ columns[:, :, 0], pull)
        _nudge(own.biases, start.biases, changes.sum(axis=1) * layer.bias_input, pull)

    return move


def _move_biases(node: Weighted, pull: int, rates: Float64Array) -> Move:
    """The biases of any layer: the nearest int16 shadow."""
    chosen, short = node.chosen, shortened(rates * 2.0**ERROR_FRACTION_BITS)

    def move(own: Parameters, start: Parameters, error: Error, columns: Float64Array, batch: Batch) -> None:
        gradient = error.mantissas.sum(axis=2, keepdims=True)[..., chosen]
        change = np.zeros_like(own.biases)
        change[:, chosen] = (
            _contributions(gradient, short, error).sum(axis=(1, 2)) * 2.0**-ERROR_FRACTION_BITS
        )
        _nudge(own.biases, start.biases, change, pull)

    return move


def _move_int8(node: Weighted, pull: int, rates: Float64Array, move_biases: Move) -> Move:
    """Convolutions: int8 weights, rounded up or down at random, so that no change is lost on the average."""
    layer, product, chosen = _layer(node), node.product, node.chosen
    short = shortened(rates * 2.0**STEP_FRACTION_BITS)[:, None]

    def move(own: Parameters, start: Parameters, error: Error, columns: Float64Array, batch: Batch) -> None:
        weights = own.weights[:, chosen]
        gradient = product.gradient(error.mantissas, columns, chosen)
        change = _contributions(gradient, short, error).sum(axis=1)
        change += (weights - start.weights[:, chosen]) * pull
        bits = rounding_bits(batch.keys, batch.numbers, layer.start, layer.bias_start)
        change += product.from_theta(bits, len(layer.channels))
        moved = weights - np.floor(change * 2.0**-STEP_FRACTION_BITS)
        own.weights[:, chosen] = np.clip(moved, -WEIGHT_LIMIT, WEIGHT_LIMIT)
        move_biases(own, start, error, columns, batch)

    return move


def _contributions(gradient: Float64Array, rates: Float64Array, error: Error) -> Float64Array:
    """Each example's gradient (clients, b, ...) times the rates, rounded half up, within the limit."""
    scaled = round_half_up(gradient * rates * _power(error))
    return np.clip(scaled, -CONTRIBUTION_LIMIT, CONTRIBUTION_LIMIT, out=scaled)


def _power(error: Error) -> Float64Array:
    """2**-exponents, to be multiplied with (clients, b, ., .)."""
    powers: Float64Array = np.ldexp(1.0, -error.exponents)
    return powers[..., None, None]


def _nudge(shadow: Float64Array, start: Float64Array, change: Float64Array, pull: int) -> None:
    """Moves a shadow by a change with 12 fraction bits, and toward its start."""
    shadow -= round_half_up(change)
    if pull:
        shadow -= round_half_up((shadow - start) * (pull / 65536))
    np.clip(shadow, -THETA_LIMIT, THETA_LIMIT, out=shadow)


def rounding_bits(keys: UInt32Array, numbers: UInt32Array, start: int, stop: int) -> Int64Array:
    """16 bits for each coordinate start..stop-1 of theta, (clients, stop - start), in steps `numbers` (clients,).

    Coordinate i has half i % 2, the low one first, of word i // 2 of the stream that the step numbers.
    """
    blocks = np.arange(start >> 2, (stop + 3) >> 2, dtype=np.uint32)
    lanes = threefry2x32((keys[:, :1], keys[:, 1:]), (blocks, numbers[:, None]))
    words = np.stack(np.broadcast_arrays(*lanes), axis=-1)
    halves = np.stack([words & 0xFFFF, words >> 16], axis=-1).reshape(len(keys), 4 * blocks.size)
    skipped = start & 3
    bits: Int64Array = halves[:, skipped : skipped + stop - start].astype(np.int64)
    return bits
