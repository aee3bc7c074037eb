"""From a torch module to an int8 network: batch norm folded, ReLU fused, ranges calibrated on data.

TensorFlow Lite's scheme (Jacob et al., arXiv 1712.05877): symmetric int8 weights, a scale for each output channel of
a convolution and one for a dense layer, int32 biases, asymmetric int8 activations. Takes an nn.Sequential of padding,
convolutions, batch norms, ReLUs, mean pooling and dense layers, and ends in a dense layer with HEAD_HEADROOM, since
that one is trained further on the device. Needs torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from sanderling.models.errors import ModelFormatError
from sanderling.models.network import (
    Activation,
    Conv2D,
    DepthwiseConv2D,
    FullyConnected,
    Layer,
    Mean,
    Network,
    Operator,
    Quantization,
    Tensor,
)

HEAD_HEADROOM = 2.0  # the head's weights may grow to this many times their largest
RANGE_MARGIN = 1.25  # activations of data never seen may leave the calibrated range
IGNORED = (nn.Dropout, nn.Flatten, nn.Identity)
Floats = NDArray[np.float64]


@dataclass(kw_only=True)
class _Stage:
    """One layer to be: a convolution, dense layer or mean, with what is fused into it."""

    module: nn.Module
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)  # top, bottom, left, right
    norm: nn.BatchNorm1d | nn.BatchNorm2d | None = None
    activation: Activation = "none"


@dataclass(kw_only=True)
class _Builder:
    """The tensors and layers so far; `current` is the tensor the next layer reads."""

    tensors: list[Tensor]
    layers: list[Layer] = field(default_factory=list)
    current: int = 0

    def constant(
        self, name: str, data: NDArray[Any], scales: Sequence[float], axis: int | None = None
    ) -> int:
        data.setflags(write=False)
        self.tensors.append(
            Tensor(
                name=name,
                shape=data.shape,
                dtype="int8" if data.dtype == np.int8 else "int32",
                quantization=Quantization(scales=tuple(scales), zero_points=(0,) * len(scales), axis=axis),
                data=data,
            )
        )
        return len(self.tensors) - 1

    def layer(
        self,
        name: str,
        operator: Operator,
        constants: tuple[int, ...],
        shape: tuple[int, ...],
        quantization: Quantization,
    ) -> None:
        self.tensors.append(Tensor(name=name, shape=shape, dtype="int8", quantization=quantization))
        output = len(self.tensors) - 1
        self.layers.append(
            Layer(name=name, operator=operator, inputs=(self.current, *constants), outputs=(output,))
        )
        self.current = output

    @property
    def scale(self) -> float:
        quantization = self.tensors[self.current].quantization
        assert quantization is not None
        return quantization.scales[0]


def quantize(
    model: nn.Sequential, calibration: torch.Tensor, input_quantization: Quantization, name: str
) -> Network:
    """The int8 network of `model` in evaluation mode, with ranges from calibration inputs (n, C, H, W).

    ModelFormatError for a module that is none of the supported ones.
    """
    channels, height, width = calibration.shape[1:]
    first = Tensor(
        name="input", shape=(1, height, width, channels), dtype="int8", quantization=input_quantization
    )
    builder = _Builder(tensors=[first])
    stages = list(_stages(model))
    values = calibration
    with torch.no_grad():
        for number, stage in enumerate(stages):
            values = _add(builder, stage, values, f"{number}", is_head=number == len(stages) - 1)
    return Network(
        name=name,
        tensors=tuple(builder.tensors),
        layers=tuple(builder.layers),
        inputs=(0,),
        outputs=(builder.current,),
    )


def _stages(model: nn.Sequential) -> Iterator[_Stage]:
    padding = (0, 0, 0, 0)
    stage: _Stage | None = None
    for module in _leaves(model):
        if isinstance(module, nn.ZeroPad2d):
            left, right, top, bottom = module.padding
            padding = (top, bottom, left, right)
        elif isinstance(module, (nn.Conv2d, nn.Linear, nn.AdaptiveAvgPool2d)):
            if stage is not None:
                yield stage
            stage, padding = _Stage(module=module, padding=padding), (0, 0, 0, 0)
        elif isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)) and stage is not None:
            stage.norm = module
        elif isinstance(module, nn.ReLU) and stage is not None:
            stage.activation = "relu"
        elif not isinstance(module, IGNORED):
            raise ModelFormatError(f"the quantiser does not know {type(module).__name__}")
    if stage is not None:
        yield stage


def _leaves(model: nn.Module) -> Iterator[nn.Module]:
    for child in model.children():
        if isinstance(child, nn.Sequential):
            yield from _leaves(child)
        else:
            yield child


def _add(builder: _Builder, stage: _Stage, values: torch.Tensor, name: str, *, is_head: bool) -> torch.Tensor:
    """Appends the stage's layer; the real values that leave it for calibration inputs `values`."""
    if isinstance(stage.module, nn.AdaptiveAvgPool2d):
        out = values.mean((2, 3))
        builder.layer(f"{name}/mean", Mean(axes=(1, 2), keep_dims=False), (), (1, out.shape[1]), _range(out))
        return out
    assert isinstance(stage.module, (nn.Conv2d, nn.Linear))
    weights, bias = _folded(stage.module, stage.norm)
    if isinstance(stage.module, nn.Linear):
        out = values @ torch.from_numpy(weights.T).float() + torch.from_numpy(bias).float()
        out = out.relu() if stage.activation == "relu" else out
        headroom = HEAD_HEADROOM if is_head else 1.0
        scales = [float(np.float32(headroom * np.abs(weights).max() / 127))]
        constants = _constants(builder, f"{name}/dense", weights, bias, scales, axis=None)
        builder.layer(
            f"{name}/dense",
            FullyConnected(activation=stage.activation),
            constants,
            (1, len(bias)),
            _range(out),
        )
        return out
    return _add_convolution(builder, stage, stage.module, values, weights, bias, name)


def _add_convolution(
    builder: _Builder,
    stage: _Stage,
    module: nn.Conv2d,
    values: torch.Tensor,
    weights: Floats,
    bias: Floats,
    name: str,
) -> torch.Tensor:
    top, bottom, left, right = stage.padding
    padded = nn.functional.pad(values, (left, right, top, bottom))
    out = nn.functional.conv2d(
        padded,
        torch.from_numpy(weights).float(),
        torch.from_numpy(bias).float(),
        stride=module.stride,
        groups=module.groups,
    )
    out = out.relu() if stage.activation == "relu" else out
    stride = (int(module.stride[0]), int(module.stride[1]))
    depthwise = module.groups > 1
    if depthwise and module.groups != module.in_channels:
        raise ModelFormatError("the quantiser does not know grouped convolutions that are not depthwise")
    arranged = weights.transpose(1, 2, 3, 0) if depthwise else weights.transpose(0, 2, 3, 1)
    axis = 3 if depthwise else 0
    largest = np.abs(arranged).max(axis=tuple(i for i in range(4) if i != axis))
    scales = [float(np.float32(max(value, 1e-6) / 127)) for value in largest]
    operator: Operator
    if depthwise:
        multiplier = module.out_channels // module.in_channels
        operator = DepthwiseConv2D(
            stride=stride, padding=stage.padding, multiplier=multiplier, activation=stage.activation
        )
    else:
        operator = Conv2D(stride=stride, padding=stage.padding, activation=stage.activation)
    label = f"{name}/{'depthwise' if depthwise else 'conv'}"
    constants = _constants(builder, label, arranged, bias, scales, axis=axis)
    builder.layer(label, operator, constants, (1, *out.shape[2:], out.shape[1]), _range(out))
    return out


def _constants(
    builder: _Builder, name: str, weights: Floats, bias: Floats, scales: list[float], axis: int | None
) -> tuple[int, int]:
    """The int8 weights and the int32 bias, in steps of input scale times weight scale."""
    shape = [1] * weights.ndim
    if axis is not None:
        shape[axis] = len(scales)
    steps = np.clip(np.rint(weights / np.reshape(scales, shape)), -127, 127).astype(np.int8)
    bias_scales = [float(np.float32(builder.scale) * np.float32(scale)) for scale in scales]
    bias_steps = np.rint(bias / np.asarray(bias_scales)).astype(np.int32)
    return (
        builder.constant(f"{name}/weights", np.ascontiguousarray(steps), scales, axis),
        builder.constant(f"{name}/bias", bias_steps, bias_scales, None if axis is None else 0),
    )


def _folded(
    module: nn.Conv2d | nn.Linear, norm: nn.BatchNorm1d | nn.BatchNorm2d | None
) -> tuple[Floats, Floats]:
    """Weights and bias with the batch norm behind them multiplied in."""
    weights = module.weight.detach().double().numpy()
    bias = np.zeros(len(weights)) if module.bias is None else module.bias.detach().double().numpy()
    if norm is None:
        return weights, bias
    assert norm.running_mean is not None and norm.running_var is not None
    gain = 1 / np.sqrt(norm.running_var.double().numpy() + norm.eps)
    shift = np.zeros(len(weights))
    if norm.affine:
        gain = gain * norm.weight.detach().double().numpy()
        shift = norm.bias.detach().double().numpy()
    folded = weights * gain.reshape(-1, *[1] * (weights.ndim - 1))
    return folded, (bias - norm.running_mean.double().numpy()) * gain + shift


def _range(values: torch.Tensor) -> Quantization:
    """int8 over the values' range with a margin, zero exactly representable."""
    low = min(float(values.min()) * RANGE_MARGIN, 0.0)
    high = max(float(values.max()) * RANGE_MARGIN, 0.0)
    scale = float(np.float32(max(high - low, 1e-6) / 255))
    zero_point = int(np.clip(np.rint(-128 - low / scale), -128, 127))
    return Quantization(scales=(scale,), zero_points=(zero_point,))
