"""The trainable tail of a network: where its parameters lie in theta, and how fine their grid is.

A dense head keeps an int16 shadow of each int8 weight, 8 fraction bits below the int8 grid, on one scale for
the whole layer. Biases are weights too, of a constant input `bias_input`, so that all of theta shares one unit.
docs/arithmetic.md, "Training a dense head".
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sanderling.models.errors import ModelFormatError
from sanderling.models.network import FullyConnected, Network, Quantization, Softmax, Tensor
from sanderling.models.updates import Int32Vector

FRACTION_BITS = 8
THETA_LIMIT = 127 << FRACTION_BITS  # so that the rounded weight stays within -127..127
MAX_FEATURES = 1 << 16  # so that an accumulator stays within 32 bits


@dataclass(frozen=True, slots=True, kw_only=True)
class DenseHead:
    """A last dense layer: logits = s_in * s_w * ((x - z) . w + b). theta is weights (K, F) row by row, then biases (K)."""

    layer: int  # index into Network.layers
    features: int  # F
    classes: int  # K
    input_scale: float  # s_in
    input_zero_point: int  # z
    weight_scale: float  # s_w
    bias_input: int  # the constant input whose weight the bias is, about 1 / s_in

    @property
    def dimension(self) -> int:
        """d = K * F + K."""
        return self.classes * (self.features + 1)


def dense_head(network: Network) -> DenseHead:
    """The network's last dense layer as a trainable head. ModelFormatError when it does not end in one."""
    index = len(network.layers) - 1
    if index >= 0 and isinstance(network.layers[index].operator, Softmax):
        index -= 1
    if index < 0 or not isinstance(network.layers[index].operator, FullyConnected):
        raise ModelFormatError(
            f"network {network.name!r} has no dense head to train: it must end in a fully connected layer"
        )
    layer = network.layers[index]
    inputs, weights = network.tensors[layer.inputs[0]], network.tensors[layer.inputs[1]]
    if inputs.quantization is None or weights.quantization is None or weights.data is None:
        raise ModelFormatError(
            f"layer {layer.name!r}: a trainable head needs int8 input and constant int8 weights"
        )
    features = weights.shape[1]
    if layer.operator != FullyConnected() or math.prod(inputs.shape) != features or features > MAX_FEATURES:
        raise ModelFormatError(
            f"layer {layer.name!r}: a trainable head has no activation and one row of at most {MAX_FEATURES} "
            f"features, it has {layer.operator} on {inputs.shape}"
        )
    input_scale = inputs.quantization.scales[0]
    weight_scale = max(weights.quantization.scales)
    bias = _bias(network, index, weight_scale)
    needed = math.ceil(np.abs(bias).max(initial=0) * (1 << FRACTION_BITS) / THETA_LIMIT)
    bias_input = max(min(round(1 / input_scale), 255), needed, 1)
    if bias_input > 255:
        raise ModelFormatError(
            f"layer {layer.name!r}: a bias of {np.abs(bias).max()} steps is beyond what its weight scale can train; "
            "quantise the layer with a larger weight scale"
        )
    return DenseHead(
        layer=index,
        features=features,
        classes=weights.shape[0],
        input_scale=input_scale,
        input_zero_point=inputs.quantization.zero_points[0],
        weight_scale=weight_scale,
        bias_input=bias_input,
    )


def initial_theta(network: Network, head: DenseHead) -> Int32Vector:
    """theta (d,) of the head as the network holds it; per-channel weights move to the head's one scale."""
    weights = network.tensors[network.layers[head.layer].inputs[1]]
    assert weights.data is not None and weights.quantization is not None
    ratio = np.asarray(weights.quantization.scales)[:, None] / head.weight_scale
    shadow = np.rint(weights.data.astype(np.float64) * ratio * (1 << FRACTION_BITS))
    bias = np.rint(_bias(network, head.layer, head.weight_scale) * (1 << FRACTION_BITS) / head.bias_input)
    theta = np.concatenate([shadow.reshape(-1), bias])
    clipped: Int32Vector = np.clip(theta, -THETA_LIMIT, THETA_LIMIT).astype(np.int32)
    return clipped


def rounded_weights(head: DenseHead, theta: Int32Vector) -> tuple[Int32Vector, Int32Vector]:
    """The int8 weights (K, F) and int32 biases (K,) that the forward pass uses, both held as int32."""
    split = head.classes * head.features
    half = 1 << (FRACTION_BITS - 1)
    weights = (theta[:split].reshape(head.classes, head.features) + half) >> FRACTION_BITS
    biases = (theta[split:] * head.bias_input + half) >> FRACTION_BITS
    return weights, biases


def with_theta(network: Network, head: DenseHead, theta: Int32Vector) -> Network:
    """The network with its head's weights and biases replaced by those of theta (d,)."""
    weights, biases = rounded_weights(head, theta)
    layer = network.layers[head.layer]
    tensors = list(network.tensors)
    weight_tensor = tensors[layer.inputs[1]]
    tensors[layer.inputs[1]] = replace(
        weight_tensor,
        quantization=Quantization(scales=(head.weight_scale,), zero_points=(0,)),
        data=_frozen(weights.astype(np.int8)),
    )
    bias_scale = float(np.float32(head.input_scale) * np.float32(head.weight_scale))
    bias = Tensor(
        name=f"{layer.name}/bias",
        shape=(head.classes,),
        dtype="int32",
        quantization=Quantization(scales=(bias_scale,), zero_points=(0,)),
        data=_frozen(biases.astype(np.int32)),
    )
    if len(layer.inputs) > 2:
        tensors[layer.inputs[2]] = bias
        return replace(network, tensors=tuple(tensors))
    tensors.append(bias)
    layers = list(network.layers)
    layers[head.layer] = replace(layer, inputs=(*layer.inputs, len(tensors) - 1))
    return replace(network, tensors=tuple(tensors), layers=tuple(layers))


def _bias(network: Network, layer_index: int, weight_scale: float) -> NDArray[np.float64]:
    """The layer's bias (K,) in steps of input scale times `weight_scale`, zero when it has none."""
    layer = network.layers[layer_index]
    weights = network.tensors[layer.inputs[1]]
    assert weights.quantization is not None
    tensor = network.tensors[layer.inputs[2]] if len(layer.inputs) > 2 else None
    if tensor is None or tensor.data is None:
        return np.zeros(weights.shape[0])
    ratio = np.broadcast_to(np.asarray(weights.quantization.scales), weights.shape[:1]) / weight_scale
    return np.asarray(tensor.data, dtype=np.float64) * ratio


def _frozen(array: NDArray[Any]) -> NDArray[Any]:
    array.setflags(write=False)
    return array
