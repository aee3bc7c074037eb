"""The layers of a tail made ready to run forward and backward: those with weights that may change, and the others.

docs/arithmetic.md, "Training a deeper tail". Arrays are (clients, examples, *shape); integers are held in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sanderling.models import arithmetic, inference
from sanderling.models.backward import Back, backward_of, clamps
from sanderling.models.block_float import (
    Array,
    Error,
    Factor,
    Float64Array,
    Int8Array,
    as_factor,
    normalized,
    passed,
    times,
)
from sanderling.models.deep_tail import STEP, Tail, TrainedLayer, weighted_layers, with_tail_theta
from sanderling.models.network import Network
from sanderling.models.products import Chosen, Product, product_of
from sanderling.models.training import round_half_up

Int32Matrix = NDArray[np.int32]


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


def nodes_of(network: Network, tail: Tail) -> list[Node]:
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


def trained_layer(node: Weighted) -> TrainedLayer:
    assert node.trained is not None
    return node.trained


def parameters_of(node: Weighted, thetas: Int32Matrix) -> Parameters:
    layer, product = trained_layer(node), node.product
    weights = np.repeat(node.fixed[0], len(thetas), axis=0)
    if layer.kind != "bias":
        values = thetas[:, layer.start : layer.bias_start].astype(np.float64)
        if layer.kind == "int8":
            values = round_half_up(values / STEP)
        weights[:, node.chosen] = product.from_theta(values, len(layer.channels))
    biases = np.zeros((len(thetas), product.channels))
    biases[:, node.chosen] = thetas[:, layer.bias_start : layer.stop]
    return Parameters(weights=weights, biases=biases)
