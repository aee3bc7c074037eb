"""The zoo's networks in torch, in the shapes of MLPerf Tiny (https://arxiv.org/abs/2106.07597), and three of our own.

Each takes (n, channels, height, width) or (n, features) and gives logits or, an autoencoder, its input again.
Padding is TensorFlow's SAME, so that the int8 files need no layer of their own for it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Self

import torch
from torch import nn

from sanderling.models.errors import UsageError
from sanderling.models.windows import same_padding
from sanderling.models.zoo.training import Objective

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """A network to be trained: `make(input_shape, classes)`, for (height, width, channels) or (features,)."""

    description: str
    input_shape: Shape  # that of MLPerf Tiny; `make` takes others of a rank in `ranks`
    classes: int
    make: Callable[[Shape, int], nn.Module]
    ranks: tuple[int, ...] = (3,)
    objective: Objective = "classes"
    epochs: int = 30
    data: str | None = None  # the data set it is trained on, where a package brings one


def architecture(name: str) -> Architecture:
    """UsageError for a name that is none."""
    if name not in ARCHITECTURES:
        raise UsageError(f"model {name!r}: expected one of {', '.join(ARCHITECTURES)}")
    return ARCHITECTURES[name]


class _Stack:
    """Layers one after the other; `shape` is (height, width, channels) of what leaves them."""

    def __init__(self, shape: Shape) -> None:
        self.layers: list[nn.Module] = []
        self.height, self.width, self.channels = shape

    def convolution(
        self,
        channels: int,
        kernel: tuple[int, int],
        stride: tuple[int, int] = (1, 1),
        *,
        depthwise: bool = False,
        relu: bool = True,
    ) -> Self:
        top, bottom = same_padding(self.height, kernel[0], stride[0])
        left, right = same_padding(self.width, kernel[1], stride[1])
        if top or bottom or left or right:
            self.layers.append(nn.ZeroPad2d((left, right, top, bottom)))
        groups = self.channels if depthwise else 1
        self.layers += [
            nn.Conv2d(self.channels, channels, kernel, stride, groups=groups, bias=False),
            nn.BatchNorm2d(channels),
        ]
        if relu:
            self.layers.append(nn.ReLU())
        self.height, self.width, self.channels = (
            -(-self.height // stride[0]),
            -(-self.width // stride[1]),
            channels,
        )
        return self

    def separable(self, channels: int, stride: int = 1) -> Self:
        self.convolution(self.channels, (3, 3), (stride, stride), depthwise=True)
        return self.convolution(channels, (1, 1))

    def residual(self, channels: int, stride: int) -> Self:
        shape = (self.height, self.width, self.channels)
        body = (
            _Stack(shape)
            .convolution(channels, (3, 3), (stride, stride))
            .convolution(channels, (3, 3), relu=False)
        )
        shortcut = nn.Identity() if stride == 1 else nn.Conv2d(self.channels, channels, 1, stride)
        self.layers.append(_Residual(nn.Sequential(*body.layers), shortcut))
        self.height, self.width, self.channels = body.height, body.width, channels
        return self

    def classifier(self, classes: int) -> nn.Sequential:
        return nn.Sequential(
            *self.layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(self.channels, classes)
        )


class _Residual(nn.Module):
    def __init__(self, body: nn.Module, shortcut: nn.Module) -> None:
        super().__init__()
        self.body, self.shortcut = body, shortcut

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.relu(self.body(x) + self.shortcut(x))


def _watch_cnn(shape: Shape, classes: int) -> nn.Module:
    """64 features on one scale and free of offsets, on which a dense head learns well by plain descent."""
    stack = _Stack(shape).convolution(24, (1, 9), (1, 2)).convolution(24, (1, 9), (1, 2), depthwise=True)
    stack.convolution(48, (1, 1))
    return nn.Sequential(
        *stack.layers,
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(48, 64, bias=False),
        nn.BatchNorm1d(64, affine=False),
        nn.Sequential(nn.Dropout(0.2), nn.Linear(64, classes)),
    )


def _ds_cnn(shape: Shape, classes: int, width: int, kernel: tuple[int, int]) -> nn.Module:
    """Zhang et al. 2017 (https://arxiv.org/abs/1711.07128): a convolution, then four separable ones of one width."""
    stack = _Stack(shape).convolution(width, kernel, (2, 2))
    for _ in range(4):
        stack.separable(width)
    return stack.classifier(classes)


def _mobilenet_v1(shape: Shape, classes: int) -> nn.Module:
    """Howard et al. 2017 (https://arxiv.org/abs/1704.04861), width 0.25."""
    stack = _Stack(shape).convolution(8, (3, 3), (2, 2))
    for channels, stride in [
        (16, 1),
        (32, 2),
        (32, 1),
        (64, 2),
        (64, 1),
        (128, 2),
        *[(128, 1)] * 5,
        (256, 2),
        (256, 1),
    ]:
        stack.separable(channels, stride)
    return stack.classifier(classes)


def _resnet8(shape: Shape, classes: int) -> nn.Module:
    """He et al. 2015 (https://arxiv.org/abs/1512.03385), three stages of one block each."""
    stack = _Stack(shape).convolution(16, (3, 3)).residual(16, 1).residual(32, 2).residual(64, 2)
    return stack.classifier(classes)


def _autoencoder(shape: Shape, classes: int) -> nn.Module:
    """Of machine sounds: Koizumi et al. 2020 (https://arxiv.org/abs/2006.05822), its narrowest layer 8 wide."""
    (features,) = shape
    widths = [features, *[128] * 4, 8, *[128] * 4]
    return nn.Sequential(*_dense_layers(widths), nn.Linear(widths[-1], features))


def _tcn(shape: Shape, classes: int) -> nn.Module:
    """Depthwise over time, then pointwise, without padding: 30 frames become one. Time lies along the width."""
    frames_left = shape[1] - 29
    if frames_left < 1:
        raise UsageError(f"wakeword-tcn: expected windows of at least 30 frames, came {shape[1]}")
    layers: list[nn.Module] = []
    channels = shape[2]
    for frames, width in [(3, 128), (5, 64), (10, 64), (15, 32)]:
        layers += [
            nn.Conv2d(channels, channels, (1, frames), groups=channels, bias=False),
            nn.Conv2d(channels, width, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
        ]
        channels = width
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels * frames_left, classes))


def _mlp(shape: Shape, classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), *_dense_layers([math.prod(shape), 32, 32]), nn.Linear(32, classes))


def _dense_layers(widths: list[int]) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [nn.Linear(inputs, outputs), nn.BatchNorm1d(outputs), nn.ReLU()]
    return layers


ARCHITECTURES = {
    "watch-cnn": Architecture(
        description="separable convolutions over 2 s of a wrist's motion, seven shoulder exercises",
        input_shape=(1, 100, 6),
        classes=7,
        make=_watch_cnn,
        data="watch",
    ),
    "tiny-mlp": Architecture(
        description="two dense layers of 32 over 28 x 28 pixels, handwritten digits",
        input_shape=(28, 28, 1),
        classes=10,
        make=_mlp,
        ranks=(1, 3),
        epochs=20,
        data="mnist5k",
    ),
    "fashion-ds-cnn": Architecture(
        description="separable convolutions of 32 channels over 28 x 28 pixels, clothes",
        input_shape=(28, 28, 1),
        classes=10,
        make=lambda shape, classes: _ds_cnn(shape, classes, 32, (3, 3)),
        epochs=10,
        data="fashion_mnist",
    ),
    "keyword-ds-cnn": Architecture(
        description="separable convolutions over 1 s of speech (49 frames of 10 MFCC), twelve words",
        input_shape=(49, 10, 1),
        classes=12,
        make=lambda shape, classes: _ds_cnn(shape, classes, 64, (10, 4)),
    ),
    "person-mobilenet": Architecture(
        description="MobileNetV1 of width 0.25 over 96 x 96 pixels, a person or none",
        input_shape=(96, 96, 3),
        classes=2,
        make=_mobilenet_v1,
    ),
    "image-resnet8": Architecture(
        description="ResNet-8 over 32 x 32 pixels, ten kinds of thing",
        input_shape=(32, 32, 3),
        classes=10,
        make=_resnet8,
    ),
    "anomaly-autoencoder": Architecture(
        description="dense autoencoder of a machine's sound (5 frames of 128 mel bands)",
        input_shape=(640,),
        classes=640,
        make=_autoencoder,
        ranks=(1,),
        objective="reconstruction",
    ),
    "wakeword-tcn": Architecture(
        description="separable convolutions over 30 frames of 40 filter banks: a wake word, another, or silence",
        input_shape=(1, 30, 40),
        classes=3,
        make=_tcn,
    ),
}
