"""Head training in plain Python integers, one scalar after the other, as a microcontroller does it.

Written from docs/arithmetic.md alone, to be told apart from the reference. Every intermediate is asserted to fit
the 32 bits it has on a device, or 64 for a product of two.
"""

import math

from sanderling.models.random_bits import permutation

COARSE = [round(65535 * math.exp(-i)) for i in range(16)]
FINE = [round(65535 * math.exp(-i / 256)) for i in range(256)]


def int32(x):
    assert -(2**31) <= x < 2**31
    return x


def fixed_point(real):
    """(multiplier, shift): real = multiplier / 2**31 * 2**shift."""
    if real == 0:
        return 0, 0
    fraction, shift = math.frexp(real)
    multiplier = math.floor(fraction * 2**31 + 0.5)
    if multiplier == 2**31:
        multiplier, shift = 2**30, shift + 1
    return (multiplier, shift) if shift >= -31 else (0, 0)


def rescale(x, multiplier, shift):
    high = int32((int32(x << max(shift, 0)) * multiplier + 2**30) >> 31)
    right = max(-shift, 0)
    half = (1 << right) >> 1
    return (high + half - (1 if high < 0 and right else 0)) >> right


class PlainHead:
    def __init__(self, head, training):
        self.head, self.training = head, training
        self.features, self.classes = head.features, head.classes
        steps = head.input_scale * head.weight_scale * 256
        self.exp_scale, self.exp_reach = fixed_point(steps), math.ceil(4096 / steps)
        rate = training.learning_rate_q16 / 65536
        batch = training.batch_size
        multiplier, shift = fixed_point(rate * 256 * head.input_scale / head.weight_scale / batch / 8)
        self.error_scale = multiplier, min(shift, 15)
        self.error_limit = (2**31 - 1 - 4096) // (255 * batch)
        self.pull = (training.learning_rate_q16 * training.proximal_mu_q16 + 32768) >> 16

    def train(self, theta, features, labels, key):
        theta, start = list(theta), list(theta)
        for epoch in range(self.training.epochs):
            order = permutation(key, len(labels), stream=epoch).tolist()
            for first in range(0, len(labels), self.training.batch_size):
                batch = order[first : first + self.training.batch_size]
                self.step(theta, start, [features[i] for i in batch], [labels[i] for i in batch])
        return theta

    def step(self, theta, start, features, labels):
        gradient = [0] * len(theta)
        for x, label in zip(features, labels, strict=True):
            self.accumulate(gradient, theta, x, label)
        for i, change in enumerate(gradient):
            moved = theta[i] - (int32(change + 2048) >> 12)
            if self.pull:
                moved -= ((moved - start[i]) * self.pull + 32768) >> 16
            theta[i] = max(-32512, min(32512, moved))

    def accumulate(self, gradient, theta, x, label):
        centred = [value - self.head.input_zero_point for value in x]
        for k, p in enumerate(self.probabilities(theta, centred)):
            error = p - (32768 if k == label else 0)
            scaled = rescale(error, *self.error_scale)
            scaled = max(-self.error_limit, min(self.error_limit, scaled))
            for f, value in enumerate(centred):
                i = k * self.features + f
                gradient[i] = int32(gradient[i] + scaled * value)
            i = self.classes * self.features + k
            gradient[i] = int32(gradient[i] + scaled * self.head.bias_input)

    def probabilities(self, theta, centred):
        accumulators = []
        for k in range(self.classes):
            row = theta[k * self.features : (k + 1) * self.features]
            bias = theta[self.classes * self.features + k]
            total = (int32(bias * self.head.bias_input) + 128) >> 8
            for weight, value in zip(row, centred, strict=True):
                total = int32(total + ((weight + 128) >> 8) * value)
            accumulators.append(total)
        return self.softmax(accumulators)

    def softmax(self, accumulators):
        exponentials = []
        for total in accumulators:
            below = min(max(accumulators) - total, self.exp_reach)
            steps = min(rescale(below, *self.exp_scale), 4095)
            exponentials.append((COARSE[steps >> 8] * FINE[steps & 255] + 32768) >> 16)
        everything = sum(exponentials)
        return [((e << 15) + (everything >> 1)) // everything for e in exponentials]
