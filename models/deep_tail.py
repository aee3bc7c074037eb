"""A tail deeper than the dense head: which layers are trained, and where their parameters lie in theta.

Dense layers keep an int16 shadow of each weight, as the head does; convolutions keep true int8 weights, which enter
theta as multiples of 256; a further layer may train its bias alone (Lin et al. 2022, arXiv 2206.15472). A bias
is the weight of a constant input, on top of the network's own bias. docs/arithmetic.md, "Training a deeper tail".
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sanderling.models.backward import backward_of
from sanderling.models.block_float import MANTISSA_BITS
from sanderling.models.errors import ModelFormatError
from sanderling.models.network import (
    Conv2D,
    DepthwiseConv2D,
    FullyConnected,
    Layer,
    Network,
    Pool2D,
    Quantization,
    Softmax,
    Tensor,
)
from sanderling.models.products import product_of
from sanderling.models.tail import FRACTION_BITS, THETA_LIMIT, DenseHead, dense_head, initial_theta
from sanderling.models.updates import Int32Vector

Kind = Literal["shadow", "int8", "bias"]

MAX_BIAS_INPUT = (1 << 15) - 1  # so that a bias times it stays within 32 bits
STEP = 1 << FRACTION_BITS  # of an int8 weight, in theta's unit


@dataclass(frozen=True, slots=True, kw_only=True)
class CrossEntropy:
    """Softmax cross-entropy on class labels (n,)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeanSquaredError:
    """The mean over outputs of the squared difference; targets are int8 (n, K) of this scale and zero point."""

    scale: float
    zero_point: int


Loss = CrossEntropy | MeanSquaredError


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """What of a layer is to be trained: its bias, and by default its weights; of convolutions some channels."""

    weights: bool = True
    channels: tuple[int, ...] | None = None  # of the output, ascending; None: all


WHOLE, BIAS = Trained(), Trained(weights=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedLayer:
    """A layer of the tail: theta[start:stop] is the weights of `channels` as the tensor orders them, then biases."""

    layer: int  # index into Network.layers
    kind: Kind
    channels: tuple[int, ...]  # of the output, ascending
    terms: int  # weights a channel
    start: int
    weight_scales: tuple[float, ...]  # s_w of every channel of the layer, trained or not
    bias_input: int
    bias_base: tuple[int, ...]  # of every channel, what a bias of zero in theta stands for

    @property
    def bias_start(self) -> int:
        return self.start + (0 if self.kind == "bias" else len(self.channels) * self.terms)

    @property
    def stop(self) -> int:
        return self.bias_start + len(self.channels)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tail:
    """The trained layers in the order of execution; the last one is the dense head."""

    layers: tuple[TrainedLayer, ...]
    first: int  # index of the first layer that runs in training: what enters it is cached
    entering: tuple[int, ...]  # the tensors that enter, ascending
    head: DenseHead
    loss: Loss

    @property
    def dimension(self) -> int:
        """d, the length of theta."""
        return self.layers[-1].stop


def make_tail(network: Network, trained: Mapping[int, Trained], loss: Loss | None = None) -> Tail:
    """The tail of the layers given by their index, and the dense head, which is always trained whole.

    ModelFormatError, naming the layer, where a layer cannot be trained or no error can be passed back to it.
    """
    head = dense_head(network)
    indices = sorted({*trained, head.layer})
    if head.layer in trained and trained[head.layer] != WHOLE:
        raise ModelFormatError(f"layer {network.layers[head.layer].name!r}: the head is always trained whole")
    if indices[0] < 0 or indices[-1] > head.layer:
        raise ModelFormatError(f"a tail is made of layers 0 to {head.layer}, the head, not {indices}")
    layers: list[TrainedLayer] = []
    for index in indices:
        start = layers[-1].stop if layers else 0
        layers.append(_trained_layer(network, head, index, trained.get(index, WHOLE), start))
    entering = _entering(network, indices[0], head.layer)
    tail = Tail(
        layers=tuple(layers), first=indices[0], entering=entering, head=head, loss=loss or CrossEntropy()
    )
    _check(network, tail)
    return tail


def last_layers(network: Network, count: int, biases: int = 0, loss: Loss | None = None) -> Tail:
    """The tail of the last `count` layers with weights, and of the biases of `biases` further ones."""
    weighted = weighted_layers(network)
    if not 1 <= count <= count + biases <= len(weighted):
        raise ModelFormatError(
            f"network {network.name!r} has {len(weighted)} layers with weights, not {count} + {biases}"
        )
    whole, further = weighted[len(weighted) - count :], weighted[: len(weighted) - count]
    plans = dict.fromkeys(whole, WHOLE) | dict.fromkeys(further[len(further) - biases :], BIAS)
    return make_tail(network, plans, loss)


def reconstruction(network: Network) -> MeanSquaredError:
    """An autoencoder's loss: the targets are the network's own inputs."""
    quantization = network.tensors[network.inputs[0]].quantization
    if quantization is None:
        raise ModelFormatError(f"network {network.name!r}: an autoencoder needs an int8 input")
    return MeanSquaredError(scale=quantization.scales[0], zero_point=quantization.zero_points[0])


def weighted_layers(network: Network) -> list[int]:
    """Indices of the layers with weights, in the order of execution."""
    kinds = (Conv2D, DepthwiseConv2D, FullyConnected)
    return [i for i, layer in enumerate(network.layers) if isinstance(layer.operator, kinds)]


# Theta.


def initial_tail_theta(network: Network, tail: Tail) -> Int32Vector:
    """theta (d,) of the network as it is."""
    parts = [_initial_weights(network, layer) for layer in tail.layers[:-1]]
    return np.concatenate([*parts, initial_theta(network, tail.head)])


def theta_scales(network: Network, tail: Tail) -> NDArray[np.float64]:
    """The real value of one unit of each coordinate of theta, (d,); of a bias, as the weight of an input of 1."""
    parts = []
    for layer in tail.layers:
        scales = np.array([layer.weight_scales[channel] for channel in layer.channels]) / STEP
        depthwise = isinstance(network.layers[layer.layer].operator, DepthwiseConv2D)
        if layer.kind != "bias":
            parts.append(np.tile(scales, layer.terms) if depthwise else np.repeat(scales, layer.terms))
        parts.append(scales)
    return np.concatenate(parts)


def with_tail_theta(network: Network, tail: Tail, theta: Int32Vector) -> Network:
    """The network with the weights and biases of its tail replaced by those of theta (d,)."""
    tensors, layers = list(network.tensors), list(network.layers)
    for trained in tail.layers:
        layer = layers[trained.layer]
        weights, biases = layer_weights(network, trained, theta)
        quantization = tensors[layer.inputs[1]].quantization
        if quantization is None or trained.kind == "shadow":
            quantization = Quantization(scales=trained.weight_scales[:1], zero_points=(0,))
        tensors[layer.inputs[1]] = replace(
            tensors[layer.inputs[1]], quantization=quantization, data=_frozen(weights)
        )
        bias = _bias_tensor(network, layer, trained, quantization, biases)
        if len(layer.inputs) > 2 and sum(layer.inputs[2] in other.inputs for other in layers) == 1:
            tensors[layer.inputs[2]] = bias
        else:
            tensors.append(bias)
            layers[trained.layer] = replace(layer, inputs=(*layer.inputs[:2], len(tensors) - 1))
    return replace(network, tensors=tuple(tensors), layers=tuple(layers))


def layer_weights(
    network: Network, trained: TrainedLayer, theta: Int32Vector
) -> tuple[NDArray[np.int8], NDArray[np.int32]]:
    """The int8 weights, in the tensor's shape, and int32 biases (K,) that the forward pass uses under theta."""
    half = STEP // 2
    weights, chosen = _data(network, trained.layer).copy(), channel_index(network, trained)
    if trained.kind != "bias":
        values = (theta[trained.start : trained.bias_start] + half) >> FRACTION_BITS
        weights[chosen] = values.reshape(weights[chosen].shape)
    biases = np.array(trained.bias_base, dtype=np.int32)
    shadow = theta[trained.bias_start : trained.stop]
    biases[list(trained.channels)] += (shadow * trained.bias_input + half) >> FRACTION_BITS
    return weights, biases


def channel_index(network: Network, trained: TrainedLayer) -> Any:
    """Picks the trained channels out of the weights: an index into the tensor's data."""
    channels = list(trained.channels)
    if isinstance(network.layers[trained.layer].operator, DepthwiseConv2D):
        return (..., channels)
    return channels


# Parts.


def _trained_layer(
    network: Network, head: DenseHead, index: int, wanted: Trained, start: int
) -> TrainedLayer:
    layer = network.layers[index]
    if index not in weighted_layers(network):
        raise ModelFormatError(
            f"layer {layer.name!r} ({type(layer.operator).__name__}) has no weights to train"
        )
    inputs, weights = network.tensors[layer.inputs[0]], network.tensors[layer.inputs[1]]
    assert inputs.quantization is not None and weights.quantization is not None
    product = product_of(network, layer)
    scales = tuple(np.broadcast_to(weights.quantization.scales, product.channels).tolist())
    channels = tuple(range(product.channels)) if wanted.channels is None else wanted.channels
    if (
        list(channels) != sorted(set(channels))
        or not channels
        or not 0 <= channels[0] <= channels[-1] < len(scales)
    ):
        raise ModelFormatError(
            f"layer {layer.name!r}: channels must ascend within 0..{len(scales) - 1}, not {wanted.channels}"
        )
    dense = isinstance(layer.operator, FullyConnected)
    kind: Kind = "bias" if not wanted.weights else "shadow" if dense else "int8"
    base = _bias(network, layer)
    bias_input = max(1, min(MAX_BIAS_INPUT, round(1 / inputs.quantization.scales[0])))
    if kind == "shadow":
        if wanted.channels is not None:
            raise ModelFormatError(f"layer {layer.name!r}: a dense layer is trained in all its channels")
        base = np.rint(base * scales / max(scales))
        scales = (max(scales),) * len(scales)
        bias_input = min(255, bias_input)
    if index == head.layer:
        base, bias_input = np.zeros(head.classes), head.bias_input
    return TrainedLayer(
        layer=index,
        kind=kind,
        channels=channels,
        terms=product.terms,
        start=start,
        weight_scales=scales,
        bias_input=bias_input,
        bias_base=tuple(int(value) for value in base),
    )


def _entering(network: Network, first: int, last: int) -> tuple[int, ...]:
    """The activations that layers first..last read and none of them writes."""
    layers = network.layers[first : last + 1]
    written = {output for layer in layers for output in layer.outputs}
    read = {
        i for layer in layers for i in layer.inputs if network.tensors[i].data is None and i not in written
    }
    for i in read:
        if network.tensors[i].dtype != "int8":
            raise ModelFormatError(
                f"a tail cannot be entered by {network.tensors[i].name!r}, which is not int8"
            )
    return tuple(sorted(read))


def _check(network: Network, tail: Tail) -> None:
    """Refuses what the arithmetic cannot take: sums beyond 32 bits, operators without a backward pass."""
    for index in range(tail.first, tail.head.layer + 1):
        layer = network.layers[index]
        if index not in weighted_layers(network):
            if not isinstance(layer.operator, Softmax):
                backward_of(network, layer)
            if isinstance(layer.operator, Pool2D):
                _bound(layer, "errors into a pool", math.prod(layer.operator.window) << MANTISSA_BITS)
            continue
        product = product_of(network, layer)
        _bound(layer, "accumulator", 255 * 128 * product.terms)
        users = [other.name for other in network.layers if layer.inputs[1] in other.inputs]
        if len(users) > 1:
            raise ModelFormatError(f"layers {users} share their weights: none of them can be in a tail")
        if isinstance(layer.operator, FullyConnected) and product.positions > 1:
            raise ModelFormatError(
                f"layer {layer.name!r}: a dense layer of {product.positions} rows cannot be trained"
            )
        _bound(layer, "weight gradient", 255 * product.positions << MANTISSA_BITS)
        if index > tail.first:
            _bound(layer, "input error", 128 * _fan_out(network, layer) << MANTISSA_BITS)
    if isinstance(tail.loss, MeanSquaredError):
        largest = 255 * tail.loss.scale / (tail.head.input_scale * tail.head.weight_scale)
        _bound(network.layers[tail.head.layer], "target", math.ceil(largest))
        _bound(network.layers[tail.head.layer], "output", 255 * 127 * (tail.head.features + 1))


def _bound(layer: Layer, what: str, largest: int) -> None:
    if largest >= 1 << 31:
        raise ModelFormatError(f"layer {layer.name!r}: a {what} could leave 32 bits; choose a smaller tail")


def _fan_out(network: Network, layer: Layer) -> int:
    """How many products one element of the input enters: channels times taps."""
    shape = network.tensors[layer.inputs[1]].shape
    if isinstance(layer.operator, DepthwiseConv2D):
        return math.prod(shape[1:3]) * layer.operator.multiplier
    return math.prod(shape[:-1])


def _initial_weights(network: Network, trained: TrainedLayer) -> Int32Vector:
    biases = np.zeros(len(trained.channels), dtype=np.int32)
    if trained.kind == "bias":
        return biases
    weights = network.tensors[network.layers[trained.layer].inputs[1]]
    assert weights.quantization is not None
    data = _data(network, trained.layer)[channel_index(network, trained)].astype(np.float64) * STEP
    if trained.kind == "shadow":
        data = np.rint(data * np.reshape(weights.quantization.scales, (-1, 1)) / trained.weight_scales[0])
    clipped = np.clip(data.reshape(-1), -THETA_LIMIT, THETA_LIMIT).astype(np.int32)
    return np.concatenate([clipped, biases])


def _bias(network: Network, layer: Layer) -> NDArray[np.float64]:
    weights = network.tensors[layer.inputs[1]]
    channels = weights.shape[-1 if isinstance(layer.operator, DepthwiseConv2D) else 0]
    data = network.tensors[layer.inputs[2]].data if len(layer.inputs) > 2 else None
    return np.zeros(channels) if data is None else data.astype(np.float64)


def _bias_tensor(
    network: Network,
    layer: Layer,
    trained: TrainedLayer,
    quantization: Quantization,
    biases: NDArray[np.int32],
) -> Tensor:
    inputs = network.tensors[layer.inputs[0]].quantization
    assert inputs is not None
    scales = tuple(float(np.float32(inputs.scales[0]) * np.float32(scale)) for scale in quantization.scales)
    return Tensor(
        name=f"{layer.name}/bias",
        shape=biases.shape,
        dtype="int32",
        quantization=Quantization(
            scales=scales,
            zero_points=(0,) * len(scales),
            axis=0 if len(scales) > 1 else None,
        ),
        data=_frozen(biases),
    )


def _data(network: Network, layer_index: int) -> NDArray[np.int8]:
    data = network.tensors[network.layers[layer_index].inputs[1]].data
    assert data is not None, "checked when the network was built"
    return data


def _frozen(array: NDArray[Any]) -> NDArray[Any]:
    array.setflags(write=False)
    return array
