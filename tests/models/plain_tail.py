"""Training of a deeper tail in plain Python integers, one scalar after the other, as a microcontroller does it.

Written from docs/arithmetic.md, "Training a deeper tail", to be told apart from the reference. Every layer with
weights is a list of products (output, input, weight), every other layer is spelt out. Sums are asserted to fit 32
bits, products of two 64.
"""

import itertools
import math

import numpy as np

from sanderling.models import inference
from sanderling.models.deep_tail import CrossEntropy
from sanderling.models.network import (
    Add,
    Conv2D,
    DepthwiseConv2D,
    FullyConnected,
    Mean,
    Pool2D,
    Reshape,
)
from sanderling.models.random_bits import permutation, random_words
from tests.models.plain_head import PlainHead, fixed_point, int32, rescale


def shift_right(x, n):
    """Rounded half up; to the left where n is not positive."""
    return (x + (1 << (n - 1))) >> n if n > 0 else x << -n


def scaled(x, short, exponent):
    """x * m * 2**(k - 15 - exponent), rounded half up, of the short number (m, k)."""
    m, k = short
    product = int32(x) * m
    assert abs(product) < 2**63
    n = 15 + exponent - k
    return 0 if n > 62 else shift_right(product, n)


def clamp(x, limit):
    return max(-limit, min(limit, x))


def short(real):
    fraction, exponent = math.frexp(real)
    return math.floor(fraction * 2**15 + 0.5), exponent


def factor(reals):
    exponent = math.frexp(max(reals))[1]
    return [math.floor(real * 2.0 ** (15 - exponent) + 0.5) for real in reals], exponent


def normalise(sums, exponent):
    largest = max(abs(int32(x)) for x in sums)
    shift = largest.bit_length() - 12
    return [shift_right(x, shift) for x in sums], exponent - shift if largest else 1024


def times(error, numbers, exponent):
    """`numbers` is one for each mantissa."""
    mantissas, q = error
    return [(e * m + (1 << 14)) >> 15 for e, m in zip(mantissas, numbers, strict=True)], q - exponent


def plus(a, b):
    q = min(a[1], b[1]) + 16
    aligned = [[shift_right(e, exponent - q) if abs(exponent - q) < 80 else 0 for e in mantissas]
               for mantissas, exponent in (a, b)]  # fmt: skip
    return normalise([x + y for x, y in zip(*aligned, strict=True)], q)


class PlainLayer:
    """A layer's connections and scales, read off the network."""

    def __init__(self, network, index):
        layer = network.layers[index]
        self.index, self.operator, self.layer = index, layer.operator, layer
        self.inputs = [i for i in layer.inputs if network.tensors[i].data is None]
        self.output = layer.outputs[0]
        x, y = network.tensors[layer.inputs[0]], network.tensors[self.output]
        self.x, self.y = x, y
        self.input_size, self.size = math.prod(x.shape), math.prod(y.shape)
        self.channels = y.shape[-1]
        activation = getattr(layer.operator, "activation", "none")
        self.low = max(-128, y.quantization.zero_points[0]) if activation == "relu" else -128
        self.high = 127
        self.clamps = not isinstance(layer.operator, Reshape) and (
            activation != "none" or not isinstance(layer.operator, Pool2D)
        )
        if isinstance(layer.operator, (Conv2D, DepthwiseConv2D, FullyConnected)):
            self.scales = network.tensors[layer.inputs[1]].quantization.scales
            if len(self.scales) == 1:
                self.scales = self.scales * self.channels
            data = network.tensors[layer.inputs[1]].data
            self.weights = data.reshape(-1).tolist()
            shape = data.shape
            self.channel_of = [
                i % shape[-1] if isinstance(layer.operator, DepthwiseConv2D) else i // math.prod(shape[1:])
                for i in range(data.size)
            ]
            bias = network.tensors[layer.inputs[2]].data if len(layer.inputs) > 2 else None
            self.bias = [0] * self.channels if bias is None else bias.tolist()
            self.products = list(self._products(shape))
        elif isinstance(layer.operator, Pool2D):
            self.products = list(self._pooled())

    def _windows(self, window, dilation=(1, 1)):
        """(output pixel, input pixel, tap) for all that lie inside."""
        _, height, width, _ = self.x.shape
        _, rows, columns, _ = self.y.shape
        top, _, left, _ = self.operator.padding
        for r, c, i, j in itertools.product(range(rows), range(columns), range(window[0]), range(window[1])):
            row = r * self.operator.stride[0] + i * dilation[0] - top
            column = c * self.operator.stride[1] + j * dilation[1] - left
            if 0 <= row < height and 0 <= column < width:
                yield r * columns + c, row * width + column, i * window[1] + j

    def _products(self, shape):
        if isinstance(self.operator, FullyConnected):
            for k, f in itertools.product(range(shape[0]), range(shape[1])):
                yield k, f, k * shape[1] + f
        elif isinstance(self.operator, Conv2D):
            filters, height, width, depth = shape
            for o, i, tap in self._windows((height, width), self.operator.dilation):
                for k, d in itertools.product(range(filters), range(depth)):
                    yield o * filters + k, i * depth + d, (k * height * width + tap) * depth + d
        else:
            _, height, width, channels = shape
            multiplier = self.operator.multiplier
            for o, i, tap in self._windows((height, width), self.operator.dilation):
                for k in range(channels):
                    source = i * (channels // multiplier) + k // multiplier
                    yield o * channels + k, source, tap * channels + k

    def _pooled(self):
        depth = self.channels
        for o, i, _ in self._windows(self.operator.window):
            for d in range(depth):
                yield o * depth + d, i * depth + d, 0


class PlainTail:
    """As TailStep, for one client."""

    def __init__(self, network, tail, training):
        self.network, self.tail, self.training = network, tail, training
        self.layers = [PlainLayer(network, i) for i in range(tail.first, tail.head.layer + 1)]
        self.trained = {layer.layer: layer for layer in tail.layers}
        self.head = PlainHead(tail.head, training)
        self.pull = self.head.pull
        for plain in self.layers:
            if plain.index in self.trained and self.trained[plain.index].kind == "shadow":
                plain.scales = self.trained[plain.index].weight_scales
            if plain.index in self.trained:
                plain.bias = list(self.trained[plain.index].bias_base)

    # Theta.

    def positions(self, plain):
        """For each trained weight its index in the tensor, in the order of theta."""
        layer = self.trained[plain.index]
        if layer.kind == "bias":
            return []
        return [i for i, channel in enumerate(plain.channel_of) if channel in layer.channels]

    def load(self, theta):
        self.theta, self.weights, self.begin = list(theta), {}, {}
        for plain in self.layers:
            if plain.index in self.trained and self.trained[plain.index].kind == "int8":
                weights, layer = list(plain.weights), self.trained[plain.index]
                for at, position in enumerate(self.positions(plain)):
                    weights[position] = (theta[layer.start + at] + 128) >> 8
                self.weights[plain.index], self.begin[plain.index] = weights, list(weights)
        self.start = list(theta)

    def store(self):
        theta = list(self.theta)
        for plain in self.layers:
            if plain.index in self.weights:
                layer = self.trained[plain.index]
                for at, position in enumerate(self.positions(plain)):
                    change = self.weights[plain.index][position] - self.begin[plain.index][position]
                    theta[layer.start + at] = clamp(theta[layer.start + at] + 256 * change, 32512)
        return theta

    def effective(self, plain):
        """int8 weights and int32 biases of the forward pass."""
        layer = self.trained.get(plain.index)
        if layer is None:
            return plain.weights, plain.bias
        biases = list(plain.bias)
        for at, channel in enumerate(layer.channels):
            biases[channel] += (int32(self.theta[layer.bias_start + at] * layer.bias_input) + 128) >> 8
        if layer.kind == "shadow":
            return [(self.theta[i] + 128) >> 8 for i in range(layer.start, layer.bias_start)], biases
        return self.weights.get(plain.index, plain.weights), biases

    # A round.

    def train(self, theta, inputs, targets, order_key, rounding_key):
        self.load(theta)
        step, size = 0, self.training.batch_size
        for epoch in range(self.training.epochs):
            order = permutation(order_key, len(inputs), stream=epoch).tolist()
            for first in range(0, len(inputs), size):
                batch = order[first : first + size]
                self.step([inputs[i] for i in batch], [targets[i] for i in batch], rounding_key, step)
                step += 1
        return self.store()

    def step(self, inputs, targets, key, number):
        gradient = [0] * len(self.theta)
        for x, target in zip(inputs, targets, strict=True):
            values = self.forward(x)
            for plain, error in self.backward(values, target):
                self.accumulate(gradient, plain, values, error)
        words = random_words(key, len(self.theta) // 2 + 1, stream=number).tolist()
        for plain in self.layers:
            if plain.index in self.trained:
                self.move(gradient, plain, words)

    def move(self, gradient, plain, words):
        layer = self.trained[plain.index]
        for i in range(layer.start, layer.stop):
            if layer.kind == "int8" and i < layer.bias_start:
                weights, begin = self.weights[plain.index], self.begin[plain.index]
                position = self.positions(plain)[i - layer.start]
                total = int32(gradient[i] + (weights[position] - begin[position]) * self.pull)
                bits = words[i // 2] >> 16 if i % 2 else words[i // 2] & 0xFFFF
                weights[position] = clamp(weights[position] - ((total + bits) >> 16), 127)
            else:
                moved = self.theta[i] - (int32(gradient[i] + 2048) >> 12)
                if self.pull:
                    moved -= ((moved - self.start[i]) * self.pull + 32768) >> 16
                self.theta[i] = clamp(moved, 32512)

    def accumulate(self, gradient, plain, values, error):
        """Adds one example's contributions to the gradient of a trained layer."""
        layer, (mantissas, q) = self.trained[plain.index], error
        zero_point, scale = plain.x.quantization.zero_points[0], plain.x.quantization.scales[0]
        rate = self.training.learning_rate_q16 / 65536 / self.training.batch_size
        x = [value - zero_point for value in values[plain.inputs[0]]]
        rates = [rate * scale * 256 / s for s in plain.scales]

        def add(i, contribution):
            gradient[i] = int32(gradient[i] + contribution)

        if layer.kind == "shadow":
            for k, e in enumerate(mantissas):
                if plain.index == self.tail.head.layer and isinstance(self.tail.loss, CrossEntropy):
                    change = rescale(e, *self.head.error_scale)
                else:
                    change = scaled(e, short(rates[k] * 2.0**12), q)
                change = clamp(change, self.head.error_limit)
                for f, value in enumerate(x):
                    add(layer.start + k * len(x) + f, change * value)
                add(layer.bias_start + k, change * layer.bias_input)
            return
        sums = [0] * plain.channels
        for o, e in enumerate(mantissas):
            sums[o % plain.channels] += e
        for at, channel in enumerate(layer.channels):
            bias_rate = short(rates[channel] * layer.bias_input * 2.0**12)
            add(layer.bias_start + at, clamp(scaled(sums[channel], bias_rate, q), 1 << 25))
        if layer.kind == "int8":
            products = [0] * len(plain.weights)
            for o, i, w in plain.products:
                products[w] = int32(products[w] + mantissas[o] * x[i])
            for at, position in enumerate(self.positions(plain)):
                weight_rate = short(rates[plain.channel_of[position]] / 256 * 2.0**16)
                add(layer.start + at, clamp(scaled(products[position], weight_rate, q), 1 << 25))

    # Forward and backward, of one example.

    def forward(self, inputs):
        values, offset = {}, 0
        for tensor in self.tail.entering:
            size = math.prod(self.network.tensors[tensor].shape)
            values[tensor] = inputs[offset : offset + size]
            offset += size
        for plain in self.layers:
            values[plain.output] = self.run(plain, values)
        return values

    def run(self, plain, values):
        if isinstance(plain.operator, (Conv2D, DepthwiseConv2D, FullyConnected)):
            weights, biases = self.effective(plain)
            zero_point = plain.x.quantization.zero_points[0]
            x = [value - zero_point for value in values[plain.inputs[0]]]
            sums = [biases[o % plain.channels] for o in range(plain.size)]
            for o, i, w in plain.products:
                sums[o] = int32(sums[o] + weights[w] * x[i])
            if plain.index == self.tail.head.layer:
                return sums
            input_scale, output_scale = plain.x.quantization.scales[0], plain.y.quantization.scales[0]
            numbers = [fixed_point(input_scale * s / output_scale) for s in plain.scales]
            moved = (
                rescale(value, *numbers[o % plain.channels]) + plain.y.quantization.zero_points[0]
                for o, value in enumerate(sums)
            )
            return [max(plain.low, min(plain.high, value)) for value in moved]
        # What has no weights is inference's alone, and tested against TensorFlow Lite Micro there.
        kernel = inference.kernel_of(self.network, plain.layer)
        given = [
            np.array(values[i], np.int8).reshape(1, *self.network.tensors[i].shape) for i in plain.inputs
        ]
        return kernel(*given).reshape(-1).tolist()

    def backward(self, values, target):
        """(layer, error of its accumulators) for each trained layer."""
        arrived, found = {self.layers[-1].output: self.loss(values[self.layers[-1].output], target)}, []
        for plain in reversed(self.layers):
            if plain.output not in arrived:
                continue
            mantissas, q = arrived.pop(plain.output)
            if plain.clamps and plain is not self.layers[-1]:
                y = values[plain.output]
                mantissas = [
                    e if plain.low < v < plain.high else 0 for e, v in zip(mantissas, y, strict=True)
                ]
            if plain.index in self.trained:
                found.append((plain, (mantissas, q)))
            for tensor in plain.inputs:
                if tensor not in self.tail.entering:
                    error = self.back(plain, (mantissas, q), values)
                    arrived[tensor] = plus(arrived[tensor], error) if tensor in arrived else error
        return found

    def loss(self, sums, target):
        if isinstance(self.tail.loss, CrossEntropy):
            probabilities = self.head.softmax(sums)
            return [p - (32768 if k == target else 0) for k, p in enumerate(probabilities)], 15
        step = self.tail.head.input_scale * self.tail.head.weight_scale
        ratio, zero_point = short(self.tail.loss.scale / step), self.tail.loss.zero_point
        difference = [
            int32(value - scaled(t - zero_point, ratio, 0)) for value, t in zip(sums, target, strict=True)
        ]
        numbers, exponent = factor([2 * step / len(sums)])
        return times(normalise(difference, 0), numbers * len(sums), exponent)

    def back(self, plain, error, values):
        mantissas, q = error
        operator = plain.operator
        if isinstance(operator, (Conv2D, DepthwiseConv2D, FullyConnected)):
            numbers, exponent = factor(plain.scales)
            wide, q = normalise(mantissas, q)
            each = [numbers[o % plain.channels] for o in range(plain.size)]
            mantissas, q = times((wide, q), each, exponent)
            sums = [0] * plain.input_size
            weights, _ = self.effective(plain)
            for o, i, w in plain.products:
                sums[i] = int32(sums[i] + mantissas[o] * weights[w])
            return normalise(sums, q)
        if isinstance(operator, (Reshape, Add)):
            return error
        if isinstance(operator, Mean):
            count = plain.input_size // plain.size
            numbers, exponent = factor([1 / count])
            mantissas, q = times(error, numbers * plain.size, exponent)
            return [mantissas[i % plain.channels] for i in range(plain.input_size)], q
        sums = [0] * plain.input_size
        if operator.kind == "average":
            counts = [sum(o == other for other, _, _ in plain.products) for o in range(plain.size)]
            numbers, exponent = factor([1 / count for count in counts])
            mantissas, q = times(error, numbers, exponent)
            for o, i, _ in plain.products:
                sums[i] += mantissas[o]
            return normalise(sums, q)
        x, taken = values[plain.inputs[0]], {}
        for o, i, _ in plain.products:
            if o not in taken or x[i] > x[taken[o]]:
                taken[o] = i
        for o, i in taken.items():
            sums[i] += mantissas[o]
        return normalise(sums, q)
