"""Small convolutional and dense networks whose tails are trained, with scales that fit their activations."""

from dataclasses import replace

import numpy as np

from sanderling.models import inference
from sanderling.models.checks import window_output
from sanderling.models.network import (
    Add,
    Conv2D,
    DepthwiseConv2D,
    FullyConnected,
    Layer,
    Mean,
    Network,
    Pool2D,
    Quantization,
    Reshape,
    Tensor,
)
from tests.models.tails import activation, constant, float32


class Builder:
    """A network in the making; scales of activations are chosen so that random inputs use the int8 range."""

    def __init__(self, seed, shape, scale=0.02, zero_point=-10):
        self.rng = np.random.RandomState(seed)  # whose streams NumPy never changes: vectors are made of them
        self.tensors = [activation("x", shape, scale, zero_point)]
        self.layers = []
        self.current = 0

    @property
    def shape(self):
        return self.tensors[self.current].shape

    def add(self, tensor):
        self.tensors.append(tensor)
        return len(self.tensors) - 1

    def layer(self, operator, shape, constants=(), relu=False, inputs=None, scale=None):
        """Adds a layer; without `scale` its output's follows from running what there is on random inputs."""
        inputs = (*(inputs or (self.current,)), *constants)
        zero_point = -128 if relu else -5
        if scale is None and not isinstance(operator, (Reshape, Pool2D)):
            scale = self._fitting(operator, inputs, shape, zero_point)
        old = self.tensors[self.current].quantization
        new = Quantization(scales=(float32(scale),), zero_points=(zero_point,)) if scale else old
        index = len(self.layers)
        output = self.add(Tensor(name=f"t{index}", shape=shape, dtype="int8", quantization=new))
        self.layers.append(Layer(name=f"l{index}", operator=operator, inputs=inputs, outputs=(output,)))
        self.current = output
        return output

    def _fitting(self, operator, inputs, shape, zero_point):
        """The smallest scale, by steps of two, at which few outputs are clamped."""
        for exponent in range(-12, 12):
            scale = float32(1.37 * 2.0**exponent)
            trial = Builder.__new__(Builder)
            trial.tensors, trial.layers, trial.current = list(self.tensors), list(self.layers), self.current
            plain = replace(operator, activation="none") if hasattr(operator, "activation") else operator
            quantization = Quantization(scales=(scale,), zero_points=(0,))
            output = trial.add(Tensor(name="o", shape=shape, dtype="int8", quantization=quantization))
            trial.layers.append(Layer(name="o", operator=plain, inputs=inputs, outputs=(output,)))
            trial.current = output
            network = trial.network()
            x = np.random.RandomState(1).randint(-128, 128, (16, *network.tensors[0].shape[1:]))
            (y,) = inference.run(network, x.astype(np.int8))
            if (np.abs(y.astype(int)) > 120).mean() < 0.002:
                return scale / (2 if zero_point == -128 else 1)
        raise AssertionError("no scale fits")

    def weights(self, shape, axis, spread=40):
        channels = shape[axis]
        data = np.clip(self.rng.normal(0, spread, shape), -127, 127).astype(np.int8)
        scales = self.rng.uniform(0.004, 0.012, channels)
        bias = self.rng.randint(-400, 400, channels).astype(np.int32)
        index = len(self.tensors)
        return (
            self.add(constant(f"w{index}", data, scales, axis if channels > 1 else None)),
            self.add(constant(f"b{index}", bias)),
        )

    def conv(self, channels, window=(1, 1), stride=(1, 1), padding=(0, 0, 0, 0), relu=True):
        _, height, width, depth = self.shape
        rows = window_output(height, window[0], stride[0], *padding[:2])
        columns = window_output(width, window[1], stride[1], *padding[2:])
        operator = Conv2D(stride=stride, padding=padding, activation="relu" if relu else "none")
        constants = self.weights((channels, *window, depth), 0)
        return self.layer(operator, (1, rows, columns, channels), constants, relu)

    def depthwise(self, window=(3, 3), stride=(1, 1), padding=(1, 1, 1, 1), multiplier=1, relu=True):
        _, height, width, depth = self.shape
        rows = window_output(height, window[0], stride[0], *padding[:2])
        columns = window_output(width, window[1], stride[1], *padding[2:])
        operator = DepthwiseConv2D(
            stride=stride, padding=padding, multiplier=multiplier, activation="relu" if relu else "none"
        )
        constants = self.weights((1, *window, depth * multiplier), 3)
        return self.layer(operator, (1, rows, columns, depth * multiplier), constants, relu)

    def dense(self, units, relu=False):
        operator = FullyConnected(activation="relu" if relu else "none")
        return self.layer(operator, (1, units), self.weights((units, self.shape[-1]), 0, 50), relu)

    def pool(self, kind="average", window=(2, 2), stride=(2, 2), padding=(0, 0, 0, 0)):
        _, height, width, depth = self.shape
        rows = window_output(height, window[0], stride[0], *padding[:2])
        columns = window_output(width, window[1], stride[1], *padding[2:])
        operator = Pool2D(kind=kind, window=window, stride=stride, padding=padding)
        return self.layer(operator, (1, rows, columns, depth))

    def mean(self):
        return self.layer(Mean(axes=(1, 2), keep_dims=False), (1, self.shape[-1]))

    def plus(self, left, right, relu=True):
        operator = Add(activation="relu" if relu else "none")
        return self.layer(operator, self.tensors[left].shape, (), relu, inputs=(left, right))

    def flatten(self):
        return self.layer(Reshape(), (1, int(np.prod(self.shape))))

    def network(self):
        return Network(
            name="deep",
            tensors=tuple(self.tensors),
            layers=tuple(self.layers),
            inputs=(0,),
            outputs=(self.current,),
        )


def separable(seed=0, classes=4):
    """As DS-CNN: convolution, depthwise, pointwise, depthwise, pointwise, average pool, dense."""
    b = Builder(seed, (1, 8, 6, 2))
    b.conv(6, (3, 3), (2, 2), (1, 1, 1, 1))
    b.depthwise()
    b.conv(8)
    b.depthwise(stride=(1, 1))
    b.conv(10)
    b.pool("average", (4, 3), (4, 3))
    b.flatten()
    b.dense(classes)
    return b.network()


def residual(seed=0, classes=3):
    """As ResNet: a block whose shortcut is a strided pointwise convolution, then maximum and mean."""
    b = Builder(seed, (1, 8, 8, 2))
    trunk = b.conv(4, (3, 3), (1, 1), (1, 1, 1, 1))
    b.conv(6, (3, 3), (2, 2), (0, 1, 0, 1))
    left = b.conv(6, (3, 3), (1, 1), (1, 1, 1, 1), relu=False)
    b.current = trunk
    right = b.conv(6, (1, 1), (2, 2), relu=False)
    b.plus(left, right)
    b.pool("max")
    b.mean()
    b.dense(classes)
    return b.network()


def multilayer(seed=0, classes=5):
    """Three dense layers."""
    b = Builder(seed, (1, 12))
    b.dense(10, relu=True)
    b.dense(8, relu=True)
    b.dense(classes)
    return b.network()


def multiplied(seed=0, classes=3):
    """Depthwise with a multiplier and stride, overlapping and padded pools."""
    b = Builder(seed, (1, 9, 7, 3))
    b.depthwise((3, 2), (2, 1), (1, 0, 1, 0), multiplier=2)
    b.pool("average", (3, 3), (2, 2), (1, 1, 1, 1))
    b.pool("max", (2, 2), (1, 1))
    b.mean()
    b.dense(classes)
    return b.network()


def autoencoder(seed=0):
    """Twelve inputs through a bottleneck of four."""
    b = Builder(seed, (1, 12))
    b.dense(8, relu=True)
    b.dense(4, relu=True)
    b.dense(8, relu=True)
    b.dense(12)
    return b.network()


ALL = {
    "separable": separable,
    "residual": residual,
    "multilayer": multilayer,
    "multiplied": multiplied,
    "autoencoder": autoencoder,
}
