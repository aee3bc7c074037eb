"""Small networks to train, and an fp32 reference to train them against."""

import numpy as np

from sanderling.models.network import FullyConnected, Layer, Network, Quantization, Softmax, Tensor
from sanderling.models.tail import DenseHead


def float32(value):
    return float(np.float32(value))


def constant(name, data, scales=None, axis=None):
    quantization = None
    if scales is not None:
        scales = tuple(float32(scale) for scale in np.atleast_1d(scales))
        quantization = Quantization(scales=scales, zero_points=(0,) * len(scales), axis=axis)
    return Tensor(name=name, shape=data.shape, dtype=data.dtype.name, quantization=quantization, data=data)


def activation(name, shape, scale, zero_point):
    quantization = Quantization(scales=(float32(scale),), zero_points=(zero_point,))
    return Tensor(name=name, shape=shape, dtype="int8", quantization=quantization)


def dense_network(
    weights, bias=None, *, scales=0.01, input_scale=0.05, input_zero_point=-3, softmax=False, operator=None
):
    """One dense layer of int8 weights (K, F), with per-channel `scales` where several are given."""
    classes, features = weights.shape
    axis = 0 if np.size(scales) > 1 else None
    tensors = [
        activation("x", (1, features), input_scale, input_zero_point),
        constant("w", weights.astype(np.int8), scales, axis),
        activation("y", (1, classes), 0.2, 0),
    ]
    inputs = (0, 1)
    if bias is not None:
        tensors.append(constant("b", np.asarray(bias, dtype=np.int32)))
        inputs = (0, 1, 3)
    layers = [Layer(name="head", operator=operator or FullyConnected(), inputs=inputs, outputs=(2,))]
    if softmax:
        tensors.append(activation("p", (1, classes), 1 / 256, -128))
        layers.append(Layer(name="softmax", operator=Softmax(), inputs=(2,), outputs=(len(tensors) - 1,)))
    return Network(
        name="dense", tensors=tuple(tensors), layers=tuple(layers), inputs=(0,), outputs=layers[-1].outputs
    )


def make_head(features=64, classes=12, *, input_scale=0.05, zero_point=-128, weight_scale=0.01):
    return DenseHead(
        layer=0,
        features=features,
        classes=classes,
        input_scale=float32(input_scale),
        input_zero_point=zero_point,
        weight_scale=float32(weight_scale),
        bias_input=max(1, min(255, round(1 / input_scale))),
    )


def blobs(rng, head, count, spread=30.0):
    """Features (count, F) around a centre for each class, and their labels."""
    centres = rng.uniform(-100, 100, (head.classes, head.features))
    labels = rng.integers(0, head.classes, count)
    features = centres[labels] + rng.normal(0, spread, (count, head.features))
    return np.clip(np.rint(features), -128, 127).astype(np.int8), labels
