"""A network's tail in real numbers, as torch computes it: what training in integers is measured against.

Weights, biases and the activations that enter are those of the int8 network; nothing is rounded or clamped on the
way, but for relu and relu6. Needs torch (extra `train`).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from sanderling.models.block_float import Array, Int8Array
from sanderling.models.deep_tail import MeanSquaredError, Tail, TrainedLayer, weighted_layers, with_tail_theta
from sanderling.models.errors import ModelFormatError
from sanderling.models.network import (
    Add,
    Concatenate,
    Conv2D,
    DepthwiseConv2D,
    Elementwise,
    FullyConnected,
    Layer,
    Mean,
    Network,
    Pad,
    Pool2D,
    Quantize,
    Reshape,
    Softmax,
)
from sanderling.models.optional import require
from sanderling.models.random_bits import Key, permutations
from sanderling.models.training import LocalTraining
from sanderling.models.updates import Int32Vector

Hook = Callable[[int, Any], Any]  # of a tensor's index and its values (n, *shape)


class FloatTail:
    """The tail at theta (d,), with its parameters as torch tensors that require a gradient.

    `parameters[i]` is (weights in the tensor's shape, biases (K,)) of `tail.layers[i]`, in real units.
    """

    def __init__(self, network: Network, tail: Tail, theta: Int32Vector) -> None:
        self.torch: Any = require("torch", "train")
        self.tail, self.network = tail, with_tail_theta(network, tail, theta)
        indices = [i for i in weighted_layers(network) if tail.first <= i <= tail.head.layer]
        self._constants = {index: self._real_constants(index) for index in indices}
        self.parameters = [self._constants[layer.layer] for layer in tail.layers]
        self._masks = [self._masks_of(layer) for layer in tail.layers]
        for parameter in itertools.chain.from_iterable(self.parameters):
            parameter.requires_grad_()

    def __call__(self, inputs: Int8Array, hook: Hook = lambda _, values: values) -> Any:
        """Outputs (n, K) for what enters the tail, int8 (n, elements). `hook` sees each layer's output, may change it."""
        shapes = [self.network.tensors[tensor].shape for tensor in self.tail.entering]
        parts = np.split(inputs, np.cumsum([math.prod(shape) for shape in shapes])[:-1], axis=1)
        values = {
            tensor: self._real(tensor, part.reshape(len(inputs), *shape))
            for tensor, part, shape in zip(self.tail.entering, parts, shapes, strict=True)
        }
        for index in range(self.tail.first, self.tail.head.layer + 1):
            layer = self.network.layers[index]
            if not isinstance(layer.operator, Softmax):
                values[layer.outputs[0]] = hook(layer.outputs[0], self._layer(index, layer, values))
        return values[self.network.layers[self.tail.head.layer].outputs[0]].reshape(len(inputs), -1)

    def losses(self, outputs: Any, targets: Array) -> Any:
        """The loss of each example, (n,)."""
        functional = self.torch.nn.functional
        if isinstance(self.tail.loss, MeanSquaredError):
            wanted = targets.reshape(len(targets), -1).astype(np.float64) - self.tail.loss.zero_point
            real = self.torch.tensor(wanted * self.tail.loss.scale, dtype=outputs.dtype)
            return ((outputs - real) ** 2).mean(dim=1)
        return functional.cross_entropy(outputs, self.torch.as_tensor(targets), reduction="none")

    def train(self, inputs: Int8Array, targets: Array, training: LocalTraining, key: Key) -> None:
        """SGD on the same batches as `tail_training.train_tail`, without a proximal term."""
        rate = training.learning_rate_q16 / 65536 / training.batch_size
        for order in permutations(key, len(inputs), training.epochs):
            for first in range(0, len(inputs), training.batch_size):
                batch = order[first : first + training.batch_size]
                self.losses(self(inputs[batch]), targets[batch]).sum().backward()
                with self.torch.no_grad():
                    for pair, masks in zip(self.parameters, self._masks, strict=True):
                        for parameter, mask in zip(pair, masks, strict=True):
                            parameter -= rate * parameter.grad * mask
                            parameter.grad = None

    def values(self) -> list[Any]:
        """A copy of the parameters, weights and biases layer by layer."""
        return [parameter.detach().clone() for parameter in itertools.chain.from_iterable(self.parameters)]

    def assign(self, values: list[Any]) -> None:
        """Takes the parameters that `values` gave, of this tail or of a mean of several."""
        with self.torch.no_grad():
            for own, value in zip(itertools.chain.from_iterable(self.parameters), values, strict=True):
                own.copy_(value)

    def accuracy(self, inputs: Int8Array, labels: Array) -> float:
        """The share of labels (n,) that the outputs are largest at."""
        with self.torch.no_grad():
            predicted = self(inputs).argmax(dim=1).numpy()
        return float((predicted == labels).mean())

    # Parts.

    def _real_constants(self, index: int) -> tuple[Any, Any]:
        layer = self.network.layers[index]
        tensors = [self.network.tensors[i] for i in layer.inputs]
        x, w = tensors[0].quantization, tensors[1].quantization
        assert x is not None and w is not None and tensors[1].data is not None
        scales, axis = np.asarray(w.scales), 3 if isinstance(layer.operator, DepthwiseConv2D) else 0
        spread = scales.reshape([-1 if i == axis else 1 for i in range(tensors[1].data.ndim)])
        bias = tensors[2].data if len(tensors) > 2 else None
        steps = np.zeros(tensors[1].shape[axis]) if bias is None else bias
        return self._tensor(tensors[1].data * spread), self._tensor(steps * (scales * x.scales[0]))

    def _masks_of(self, layer: TrainedLayer) -> tuple[Any, Any]:
        """1 where a parameter is trained, 0 elsewhere."""
        biases = np.zeros(len(layer.weight_scales), np.float32)
        biases[list(layer.channels)] = 1
        depthwise = isinstance(self.network.layers[layer.layer].operator, DepthwiseConv2D)
        shape = self.network.tensors[self.network.layers[layer.layer].inputs[1]].shape
        weights = biases if depthwise else biases.reshape(-1, *(1,) * (len(shape) - 1))
        return self._tensor(weights * (layer.kind != "bias")), self._tensor(biases)

    def _real(self, tensor: int, values: Int8Array) -> Any:
        quantization = self.network.tensors[tensor].quantization
        assert quantization is not None
        return self._tensor(
            (values.astype(np.float64) - quantization.zero_points[0]) * quantization.scales[0]
        )

    def _tensor(self, values: Any) -> Any:
        return self.torch.tensor(values, dtype=self.torch.float32)

    def _layer(self, index: int, layer: Layer, values: dict[int, Any]) -> Any:
        functional, torch = self.torch.nn.functional, self.torch
        operator, shape = layer.operator, self.network.tensors[layer.outputs[0]].shape
        weights, biases = self._constants.get(index, (None, None))
        operands = layer.inputs if weights is None else layer.inputs[:1]
        xs = [values[i] if i in values else self._real(i, self._data(i)) for i in operands]
        x = xs[0]
        match operator:
            case FullyConnected():
                y = functional.linear(x.reshape(len(x), -1), weights, biases)
            case Conv2D():
                y = _convolve(functional, x, weights.permute(0, 3, 1, 2), biases, operator, 1)
            case DepthwiseConv2D():
                y = _convolve(functional, x, weights.permute(3, 0, 1, 2), biases, operator, x.shape[-1])
            case Pool2D():
                y = _pool(torch, x, operator)
            case Mean():
                y = x.mean(dim=[axis + 1 for axis in operator.axes])
            case Add():
                y = xs[0] + xs[1]
            case Reshape() | Quantize():
                y = x
            case Elementwise(function="relu"):
                y = functional.relu(x)
            case Elementwise(function="relu6"):
                y = functional.relu6(x)
            case Pad():
                flat = [amount for pair in reversed(operator.amounts) for amount in pair]
                y = functional.pad(x, flat)
            case Concatenate():
                y = torch.cat([part.expand(len(x), *part.shape[1:]) for part in xs], operator.axis + 1)
            case _:
                raise ModelFormatError(
                    f"layer {layer.name!r}: {type(operator).__name__} is not differentiated"
                )
        y = y.reshape(len(x), *shape)
        activation = getattr(operator, "activation", "none")
        return {"none": lambda v: v, "relu": functional.relu, "relu6": functional.relu6}[activation](y)

    def _data(self, tensor: int) -> Int8Array:
        data = self.network.tensors[tensor].data
        assert data is not None, "checked when the network was built"
        return data[None]


def _convolve(functional: Any, x: Any, kernel: Any, biases: Any, operator: Any, groups: int) -> Any:
    images = _padded(functional, x, operator.padding, 0.0)
    y = functional.conv2d(
        images, kernel, biases, stride=operator.stride, dilation=operator.dilation, groups=groups
    )
    return y.permute(0, 2, 3, 1)


def _pool(torch: Any, x: Any, operator: Pool2D) -> Any:
    functional = torch.nn.functional
    if operator.kind == "max":
        images = _padded(functional, x, operator.padding, float("-inf"))
        return functional.max_pool2d(images, operator.window, operator.stride).permute(0, 2, 3, 1)
    sums, counts = (
        functional.avg_pool2d(_padded(functional, v, operator.padding, 0.0), operator.window, operator.stride)
        for v in (x, torch.ones_like(x))
    )
    return (sums / counts).permute(0, 2, 3, 1)


def _padded(functional: Any, x: Any, padding: tuple[int, int, int, int], value: float) -> Any:
    """(n, 1, H, W, C) as padded (n, C, H, W)."""
    top, bottom, left, right = padding
    images = x.reshape(-1, *x.shape[2:]).permute(0, 3, 1, 2)
    return functional.pad(images, (left, right, top, bottom), value=value)
