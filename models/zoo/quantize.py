"""From a torch module to an int8 network: fold batch norm, calibrate or train the ranges, and write integers.

Post-training: `quantize(module, calibration)`. Quantisation-aware: train the folded module's parameters with
its ranges set, so that each forward pass rounds weights and activations as the int8 network will, gradients passing
straight through (Jacob et al. 2018, https://arxiv.org/abs/1712.05877). Convolutions get one scale an output channel,
dense layers one scale; activations are asymmetric. The last dense layer has headroom, since devices train it on.
Supported: convolutions (also depthwise, zero padding before them), linear, batch norm after either, ReLU, ReLU6,
average and max pools, global average pools, additions, and flatten, dropout and identity, which leave no trace.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx, nn
from torch.nn import functional

from sanderling.models.errors import ModelFormatError
from sanderling.models.network import (
    Activation,
    Add,
    Conv2D,
    DepthwiseConv2D,
    FullyConnected,
    Layer,
    Mean,
    Network,
    Operator,
    Pool2D,
    Quantization,
    Tensor,
)
from sanderling.models.preprocessing import STEPS_PER_STD

INPUT_SCALE = 1 / STEPS_PER_STD  # of normalised values; the zero point of inputs is 0
HEAD_HEADROOM = 2.0  # the head's weights may grow to this many times their largest
RANGE_MARGIN = 1.25  # activations of data never seen may leave the calibrated range

Range = tuple[float, float]
Kind = Literal["convolution", "dense", "average", "max", "mean", "add"]


class Step(nn.Module):
    """One operation of a folded module; `inputs` are positions of earlier steps plus one, 0 is the input."""

    def __init__(self, name: str, kind: Kind, inputs: tuple[int, ...]) -> None:
        super().__init__()
        self.name, self.kind, self.inputs = name, kind, inputs
        self.weight: nn.Parameter | None = None  # weight and bias in float64, so that folding rounds nothing
        self.bias: nn.Parameter | None = None
        self.activation: Activation = "none"
        self.stride: tuple[int, int] = (1, 1)
        self.dilation: tuple[int, int] = (1, 1)
        self.padding: tuple[int, int, int, int] = (0, 0, 0, 0)  # top, bottom, left, right
        self.window: tuple[int, int] = (1, 1)
        self.groups = 1
        self.range: Range | None = None  # of its output; None until calibrated

    def weights_along(self, *dimensions: int) -> torch.Tensor:
        assert self.weight is not None
        return self.weight.abs().amax(dimensions, keepdim=True)

    def forward(self, arguments: list[torch.Tensor], weight: torch.Tensor | None) -> torch.Tensor:
        x = arguments[0]
        bias = None if self.bias is None else self.bias.float()
        top, bottom, left, right = self.padding
        if self.kind == "convolution":
            assert weight is not None
            padded = functional.pad(x, (left, right, top, bottom))
            y = functional.conv2d(padded, weight, bias, self.stride, 0, self.dilation, self.groups)
        elif self.kind == "dense":
            assert weight is not None
            y = functional.linear(x.flatten(1), weight, bias)
        elif self.kind == "average":
            y = functional.avg_pool2d(x, self.window, self.stride, (top, left), count_include_pad=False)
        elif self.kind == "max":
            y = functional.max_pool2d(x, self.window, self.stride, (top, left))
        elif self.kind == "mean":
            y = x.mean((2, 3))
        else:
            y = arguments[0] + arguments[1]
        return _ACTIVATIONS[self.activation](y)


_ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "none": lambda x: x,
    "relu": functional.relu,
    "relu6": functional.relu6,
}


class Folded(nn.Module):
    """A chain of steps that computes what the module did, batch norm folded into the weights before it.

    With `fake` true it rounds weights and activations as int8 does; every step's range has to be set.
    """

    def __init__(self, steps: list[Step], input_scale: float) -> None:
        super().__init__()
        self.steps = nn.ModuleList(steps)
        self.input_range = (-128 * input_scale, 127 * input_scale)
        self.fake = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.activations(x)[-1]

    def activations(self, x: torch.Tensor) -> list[torch.Tensor]:
        """The input, and the output of each step."""
        values = [fake_quantize(x, *_affine(self.input_range)) if self.fake else x]
        for position, step in enumerate(self.plan, start=1):
            weight = self._fake_weight(step) if self.fake and step.weight is not None else step.weight
            y = step([values[i] for i in step.inputs], None if weight is None else weight.float())
            if self.fake and step.kind not in ("average", "max"):
                y = fake_quantize(y, *_affine(_range(self, position)))
            values.append(y)
        return values

    @property
    def plan(self) -> list[Step]:
        return cast(list[Step], list(self.steps))

    def _fake_weight(self, step: Step) -> torch.Tensor:
        assert step.weight is not None
        largest = step.weights_along(1, 2, 3) if step.kind == "convolution" else step.weights_along(0, 1)
        scale = largest.detach().clamp_min(1e-12) * self.headroom(step) / 127
        return fake_quantize(step.weight, scale, 0)

    def headroom(self, step: Step) -> float:
        return HEAD_HEADROOM if step is self.plan[-1] and step.kind == "dense" else 1.0


def fake_quantize(x: torch.Tensor, scale: Any, zero_point: int) -> torch.Tensor:
    """x rounded to the grid and clamped to its ends; the gradient passes where it was not clamped."""
    low, high = ((limit - zero_point) * scale for limit in (-128, 127))
    clamped = torch.minimum(torch.maximum(x, torch.as_tensor(low)), torch.as_tensor(high))
    rounded: torch.Tensor = clamped + (torch.round(clamped / scale) * scale - clamped).detach()
    return rounded


def quantize(
    model: nn.Module, calibration: torch.Tensor, name: str, input_scale: float = INPUT_SCALE
) -> Network:
    """The int8 network of `model`, with ranges from calibration inputs (n, ...) in torch's order.

    ModelFormatError for a module that is none of the supported ones.
    """
    folded = fold(model, input_scale)
    calibrate(folded, calibration)
    return to_network(folded, name, tuple(calibration.shape[1:]))


# Folding


def fold(module: nn.Module, input_scale: float = INPUT_SCALE) -> Folded:
    """The module in evaluation mode as steps. ModelFormatError names what is not supported."""
    traced = fx.symbolic_trace(module.eval())
    folding = _Folding(modules=dict(traced.named_modules()))
    for node in traced.graph.nodes:
        if node.op == "call_module":
            _fold_module(folding, node, folding.modules[str(node.target)])
        elif node.op in ("call_function", "call_method"):
            _fold_function(folding, node)
        elif node.op == "placeholder":
            folding.place(node, 0)
    return Folded(folding.steps, input_scale)


@dataclass
class _Folding:
    """The steps so far, and at which position each node's value is."""

    modules: dict[str, nn.Module]
    steps: list[Step] = field(default_factory=list)
    position: dict[fx.Node, int] = field(default_factory=dict)
    shared: set[int] = field(default_factory=set)  # positions that more than one node reads
    padding: dict[fx.Node, tuple[int, int, int, int]] = field(default_factory=dict)

    def place(self, node: fx.Node, position: int) -> None:
        self.position[node] = position
        if len(node.users) > 1:
            self.shared.add(position)

    def append(self, node: fx.Node, kind: Kind) -> Step:
        name = f"{len(self.steps)}/{kind}"
        step = Step(name, kind, tuple(self.position[argument] for argument in node.all_input_nodes))
        self.steps.append(step)
        self.place(node, len(self.steps))
        return step

    def alias(self, node: fx.Node) -> Step | None:
        """Gives the node its input's value; returns the step that computed it, unless others read it too."""
        position = self.position[node.all_input_nodes[0]]
        alone = position > 0 and position not in self.shared
        self.place(node, position)
        return self.steps[position - 1] if alone else None


def _fold_module(folding: _Folding, node: fx.Node, module: nn.Module) -> None:
    if isinstance(module, nn.Dropout | nn.Identity | nn.Flatten):
        folding.alias(node)
    elif isinstance(module, nn.ZeroPad2d):
        left, right, top, bottom = (int(size) for size in module.padding)
        if not all(isinstance(folding.modules.get(str(user.target)), nn.Conv2d) for user in node.users):
            raise ModelFormatError(f"layer {node.target}: zero padding has to be followed by a convolution")
        folding.alias(node)
        folding.padding[node] = (top, bottom, left, right)
    elif isinstance(module, nn.Conv2d):
        _fold_convolution(folding, node, module)
    elif isinstance(module, nn.Linear):
        step = folding.append(node, "dense")
        step.weight, step.bias = _parameters(module)
    elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
        _fold_batch_norm(node, folding.alias(node), module)
    elif isinstance(module, nn.ReLU | nn.ReLU6):
        _fold_activation(node, folding.alias(node), "relu6" if isinstance(module, nn.ReLU6) else "relu")
    elif isinstance(module, nn.AvgPool2d | nn.MaxPool2d):
        step = folding.append(node, "average" if isinstance(module, nn.AvgPool2d) else "max")
        step.window, step.stride = _pair(module.kernel_size), _pair(module.stride)
        (vertical, horizontal) = _pair(module.padding)
        step.padding = (vertical, vertical, horizontal, horizontal)
    elif isinstance(module, nn.AdaptiveAvgPool2d) and _pair(module.output_size) == (1, 1):
        folding.append(node, "mean")
    else:
        raise ModelFormatError(
            f"layer {node.target}: {type(module).__name__} is not supported by the quantiser"
        )


def _fold_function(folding: _Folding, node: fx.Node) -> None:
    if node.target in (operator.add, torch.add) and len(node.all_input_nodes) == 2:
        folding.append(node, "add")
    elif node.target in (torch.flatten, "flatten"):
        folding.alias(node)
    elif node.target in (functional.relu, torch.relu, "relu"):
        _fold_activation(node, folding.alias(node), "relu")
    else:
        raise ModelFormatError(f"layer {node.name}: {node.target} is not supported by the quantiser")


def _fold_convolution(folding: _Folding, node: fx.Node, module: nn.Conv2d) -> None:
    if module.groups not in (1, module.in_channels) or isinstance(module.padding, str):
        raise ModelFormatError(
            f"layer {node.target}: expected a full or a depthwise convolution with padding in numbers"
        )
    step = folding.append(node, "convolution")
    step.weight, step.bias = _parameters(module)
    step.stride, step.dilation, step.groups = _pair(module.stride), _pair(module.dilation), module.groups
    vertical, horizontal = _pair(module.padding)
    before = folding.padding.get(node.all_input_nodes[0], (0, 0, 0, 0))
    step.padding = (
        before[0] + vertical,
        before[1] + vertical,
        before[2] + horizontal,
        before[3] + horizontal,
    )


def _fold_batch_norm(node: fx.Node, step: Step | None, norm: nn.BatchNorm1d | nn.BatchNorm2d) -> None:
    if step is None or step.weight is None or step.bias is None or step.activation != "none":
        raise ModelFormatError(
            f"layer {node.target}: batch norm has to follow a convolution or a linear layer"
        )
    assert norm.running_mean is not None and norm.running_var is not None
    gain = 1 / torch.sqrt(norm.running_var.double() + norm.eps)
    shift = -norm.running_mean.double() * gain
    if norm.affine:
        gain = gain * norm.weight.detach().double()
        shift = shift * norm.weight.detach().double() + norm.bias.detach().double()
    with torch.no_grad():
        shape = (-1, *[1] * (step.weight.dim() - 1))
        step.weight.mul_(gain.reshape(shape))
        step.bias.mul_(gain).add_(shift)


def _fold_activation(node: fx.Node, step: Step | None, activation: Activation) -> None:
    if step is None or step.activation != "none":
        raise ModelFormatError(
            f"layer {node.target}: {activation} has to follow a layer that it can be fused into"
        )
    step.activation = activation


def _parameters(module: nn.Conv2d | nn.Linear) -> tuple[nn.Parameter, nn.Parameter]:
    outputs = module.weight.shape[0]
    bias = torch.zeros(outputs) if module.bias is None else module.bias.detach()
    return nn.Parameter(module.weight.detach().double()), nn.Parameter(bias.double())


def _pair(value: Any) -> tuple[int, int]:
    return (int(value[0]), int(value[1])) if isinstance(value, tuple) else (int(value), int(value))


# Ranges


def calibrate(folded: Folded, examples: torch.Tensor) -> None:
    """Sets every step's range from examples (n, ...): what they reach, with a margin.

    Pools keep the range of their input.
    """
    with torch.no_grad():
        values = folded.activations(examples)
    for step, value in zip(folded.plan, values[1:], strict=True):
        if step.kind in ("average", "max"):
            step.range = _range(folded, step.inputs[0])
        else:
            low, high = float(value.min()) * RANGE_MARGIN, float(value.max()) * RANGE_MARGIN
            step.range = (min(low, 0.0), max(high, 0.0))


def _range(folded: Folded, position: int) -> Range:
    if position == 0:
        return folded.input_range
    found = folded.plan[position - 1].range
    if found is None:
        raise ValueError(f"step {position} has no range: calibrate first")
    return found


def _affine(limits: Range) -> tuple[float, int]:
    """(scale, zero point) of int8 over low..high, with 0 on its grid."""
    low, high = limits
    scale = float(np.float32(max(high - low, 1e-6) / 255))
    return scale, int(np.clip(round(-128 - low / scale), -128, 127))


# Integers


def to_network(folded: Folded, name: str, input_shape: tuple[int, ...]) -> Network:
    """The int8 network of a calibrated module, for inputs (channels, height, width) or (features,)."""
    with torch.no_grad():
        values = folded.activations(torch.zeros(1, *input_shape))
    emission = _Emission(folded, [tuple(value.shape[1:]) for value in values])
    for position, step in enumerate(folded.plan, start=1):
        emission.emit(position, step)
    return Network(
        name=name,
        tensors=tuple(emission.tensors),
        layers=tuple(emission.layers),
        inputs=(0,),
        outputs=(emission.index[-1],),
    )


class _Emission:
    """A network in the making; `index` tells at which tensor each position's value is."""

    def __init__(self, folded: Folded, shapes: list[tuple[int, ...]]) -> None:
        self.folded, self.shapes = folded, shapes
        self.tensors: list[Tensor] = []
        self.layers: list[Layer] = []
        self.index = [self.activation("input", 0)]

    def emit(self, position: int, step: Step) -> None:
        inputs = [self.index[i] for i in step.inputs]
        if step.weight is not None:
            inputs += self.constants(step)
        output = self.activation(step.name, position)
        self.index.append(output)
        self.layers.append(
            Layer(name=step.name, operator=self.operator(step), inputs=tuple(inputs), outputs=(output,))
        )

    def activation(self, name: str, position: int) -> int:
        shape = self.shapes[position]
        nhwc = (1, *shape[1:], shape[0]) if len(shape) == 3 else (1, *shape)
        scale, zero_point = self.affine(position)
        quantization = Quantization(scales=(scale,), zero_points=(zero_point,))
        return self.add(Tensor(name=name, shape=nhwc, dtype="int8", quantization=quantization))

    def affine(self, position: int) -> tuple[float, int]:
        return _affine(_range(self.folded, position))

    def constants(self, step: Step) -> list[int]:
        assert step.weight is not None and step.bias is not None
        weight = step.weight.detach().double().numpy()
        bias = step.bias.detach().double().numpy()
        (input_scale, _) = self.affine(step.inputs[0])
        scales, axis = self.weight_scales(step, weight, bias, input_scale)
        steps = weight / scales.reshape(-1, *[1] * (weight.ndim - 1)).astype(np.float64)
        quantized = np.clip(np.rint(steps), -127, 127).astype(np.int8)
        bias_scales = np.float32(input_scale) * scales
        bias_steps = np.rint(bias / bias_scales.astype(np.float64)).astype(np.int32)
        if axis is None:
            scales, bias_scales = scales[:1], bias_scales[:1]
        data = self.arranged(step, quantized)
        return [
            self.add(_constant(f"{step.name}/weight", data, scales, axis)),
            self.add(_constant(f"{step.name}/bias", bias_steps, bias_scales, None if axis is None else 0)),
        ]

    def weight_scales(
        self, step: Step, weight: NDArray[np.float64], bias: NDArray[np.float64], input_scale: float
    ) -> tuple[NDArray[np.float32], int | None]:
        """A scale for each output, and the axis they lie along; equal ones and no axis for a dense layer."""
        largest = np.abs(weight).reshape(len(weight), -1).max(axis=1)
        scales = largest * self.folded.headroom(step) / 127
        scales = np.maximum(scales, np.abs(bias) / (input_scale * 2**30))  # the bias has to fit int32
        scales = np.maximum(scales, 1e-9)
        if step.kind == "dense":
            return np.full(len(weight), scales.max(), np.float32), None
        return scales.astype(np.float32), 3 if step.groups > 1 else 0

    def arranged(self, step: Step, weight: NDArray[np.int8]) -> NDArray[np.int8]:
        """OIHW as OHWI or, depthwise, as 1HWC; a dense layer's columns from CHW to HWC order."""
        if step.kind == "convolution":
            return weight.transpose(1, 2, 3, 0) if step.groups > 1 else weight.transpose(0, 2, 3, 1)
        shape = self.shapes[step.inputs[0]]
        return (
            weight.reshape(-1, *shape).transpose(0, 2, 3, 1).reshape(len(weight), -1)
            if len(shape) == 3
            else weight
        )

    def operator(self, step: Step) -> Operator:
        if step.kind == "convolution" and step.groups > 1:
            assert step.weight is not None
            return DepthwiseConv2D(
                stride=step.stride,
                padding=step.padding,
                dilation=step.dilation,
                multiplier=step.weight.shape[0] // step.groups,
                activation=step.activation,
            )
        if step.kind == "convolution":
            return Conv2D(
                stride=step.stride, padding=step.padding, dilation=step.dilation, activation=step.activation
            )
        if step.kind == "dense":
            return FullyConnected(activation=step.activation)
        if step.kind == "mean":
            return Mean(axes=(1, 2), keep_dims=False)
        if step.kind == "add":
            return Add(activation=step.activation)
        return Pool2D(kind=step.kind, window=step.window, stride=step.stride, padding=step.padding)

    def add(self, tensor: Tensor) -> int:
        self.tensors.append(tensor)
        return len(self.tensors) - 1


def _constant(name: str, data: NDArray[Any], scales: NDArray[np.float32], axis: int | None) -> Tensor:
    data = np.ascontiguousarray(data)
    data.setflags(write=False)
    quantization = Quantization(
        scales=tuple(scales.astype(np.float64).tolist()), zero_points=(0,) * len(scales), axis=axis
    )
    dtype: Literal["int8", "int32"] = "int8" if data.dtype == np.int8 else "int32"
    return Tensor(name=name, shape=data.shape, dtype=dtype, quantization=quantization, data=data)
