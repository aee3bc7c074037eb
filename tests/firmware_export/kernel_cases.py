"""Networks with inputs on which C kernels are held against the reference; run as a program, a library checks them itself.

Beside random ones of each operator, those that random ones hardly hit: batches, sums that wrap around, windows
that lie in the padding alone, more classes than TFLM computes, constants everywhere, NaN.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sanderling.models import inference
from sanderling.models.native import NativeNetwork, open_library
from sanderling.models.network import (
    Add,
    Concatenate,
    Conv2D,
    DepthwiseConv2D,
    Dequantize,
    DType,
    Elementwise,
    FullyConnected,
    Layer,
    Mean,
    Mul,
    Network,
    Operator,
    Pad,
    Pool2D,
    Quantization,
    Quantize,
    Reshape,
    Softmax,
    Tensor,
)
from sanderling.models.specimens import operator_kinds, random_network

Array = NDArray[Any]
Case = tuple[Network, Array]


def assert_same_bytes(run: Callable[[Network, Array], list[Array]], network: Network, inputs: Array) -> None:
    """`run` on any target gives the reference's outputs, their shapes and types."""
    with np.errstate(over="ignore"):  # a float beyond float32's range, divided by a small scale
        expected = inference.run(network, inputs)
    for ours, theirs in zip(expected, run(network, inputs), strict=True):
        assert (theirs.dtype, theirs.shape) == (ours.dtype, ours.shape)
        np.testing.assert_array_equal(theirs, ours, err_msg=str(network))


def random_inputs(network: Network, rng: np.random.Generator, count: int) -> Array:
    shape = network.tensors[network.inputs[0]].shape
    return rng.integers(-128, 128, (count, *(shape[1:] if shape[0] == 1 else shape))).astype(np.int8)


def random_cases(kind: str | None, count: int, first_seed: int = 0) -> Iterator[Case]:
    """Specimens of an operator, or chains of them where it is None."""
    for seed in range(first_seed, first_seed + count):
        rng = np.random.default_rng(seed)
        network = random_network(rng, operator=kind) if kind else random_network(rng, layers=10)
        yield network, random_inputs(network, rng, 4)


def scaled(scale: float, zero_point: int = 0) -> Quantization:
    return Quantization(scales=(float(np.float32(scale)),), zero_points=(zero_point,))


USUAL = scaled(0.05, -3)


def one_layer(
    operator: Operator,
    shape: tuple[int, ...],
    output: tuple[int, ...],
    *constants: Array | tuple[Array, Quantization],
    source: Quantization | None = USUAL,
    target: Quantization | None = USUAL,
    types: tuple[DType, DType] = ("int8", "int8"),
    constants_first: bool = False,
) -> Network:
    """The layer between an input and an output; constants with their quantisation, or without where they are biases."""
    tensors = [
        Tensor(name="x", shape=shape, dtype=types[0], quantization=source),
        Tensor(name="y", shape=output, dtype=types[1], quantization=target),
    ]
    for constant in constants:
        data, quantization = constant if isinstance(constant, tuple) else (constant, None)
        tensors.append(
            Tensor(
                name=f"c{len(tensors)}",
                shape=data.shape,
                dtype=str(data.dtype),  # type: ignore[arg-type]
                quantization=quantization,
                data=data,
            )
        )
    others = tuple(range(2, len(tensors)))
    inputs = (*others, 0) if constants_first else (0, *others)
    layer = Layer(name="l", operator=operator, inputs=inputs, outputs=(1,))
    return Network(name="case", tensors=tuple(tensors), layers=(layer,), inputs=(0,), outputs=(1,))


def hard_networks() -> Iterator[Network]:
    rng = np.random.default_rng(7)

    def int8(*shape: int) -> Array:
        return rng.integers(-128, 128, shape).astype(np.int8)

    weights = scaled(0.01)
    still = (0, 0, 0, 0)
    # Batches.
    conv = Conv2D(stride=(1, 2), padding=(1, 0, 2, 1))
    yield one_layer(conv, (3, 5, 6, 2), (3, 4, 4, 5), (int8(5, 3, 3, 2), weights), target=scaled(1.5))
    yield one_layer(
        DepthwiseConv2D(stride=(1, 1), padding=(1, 1, 1, 1)),
        (2, 4, 3, 12),
        (2, 4, 3, 12),
        (int8(1, 3, 3, 12), weights),
        target=scaled(0.4),
    )
    pool = Pool2D(kind="average", window=(2, 2), stride=(1, 1), padding=still)
    yield one_layer(pool, (3, 3, 4, 5), (3, 2, 3, 5))
    yield one_layer(Mean(axes=(0, 2), keep_dims=False), (4, 3, 5, 2), (3, 2))
    yield one_layer(Mean(axes=(1, 3), keep_dims=True), (2, 3, 5, 7), (2, 1, 5, 1))
    yield one_layer(Pad(amounts=((1, 2), (0, 0), (0, 1))), (2, 3, 4), (5, 3, 5))
    yield one_layer(Reshape(), (4, 6), (2, 12))
    yield one_layer(Softmax(), (3, 2, 5), (3, 2, 5), target=scaled(1 / 256, -128))
    # Sums that wrap around, and factors above one.
    huge = np.array([2**31 - 1, -(2**31), 2**30, -(2**30), 12345], np.int32)
    yield one_layer(FullyConnected(), (1, 9), (1, 5), (int8(5, 9), weights), huge, target=scaled(1e-4))
    yield one_layer(FullyConnected(), (1, 9), (1, 5), (int8(5, 9), scaled(90.0)), target=scaled(1.0))
    pointwise = Conv2D(stride=(1, 1), padding=still)
    for zero_point in (-128, 127):
        yield one_layer(
            pointwise,
            (1, 3, 3, 5),
            (1, 3, 3, 5),
            (int8(5, 1, 1, 5), scaled(19.0)),
            huge,
            source=scaled(0.05, zero_point),
        )
    drawn = tuple(float(np.float32(scale)) for scale in (1e-12, 0.01, 1e-7))
    tiny = Quantization(scales=drawn, zero_points=(0, 0, 0), axis=0)
    yield one_layer(FullyConnected(), (2, 8), (2, 3), (int8(3, 8), tiny), target=scaled(0.5))
    # Clamps within the range of int8.
    for activation in ("relu", "relu6"):
        yield one_layer(
            FullyConnected(activation=activation),
            (1, 16),
            (1, 7),
            (int8(7, 16), weights),
            target=scaled(0.2, -20),
        )
    # Windows of which none or little lies inside the image.
    far = Conv2D(stride=(1, 1), padding=(4, 5, 3, 6), dilation=(2, 1))
    yield one_layer(far, (1, 2, 3, 4), (1, 9, 11, 3), (int8(3, 2, 2, 4), weights), target=scaled(0.4))
    far_one = DepthwiseConv2D(stride=(2, 1), padding=(4, 5, 3, 6), dilation=(1, 3))
    for channels in (8, 5):
        yield one_layer(
            far_one,
            (1, 2, 3, channels),
            (1, 5, 6, channels),
            (int8(1, 2, 3, channels), weights),
            target=scaled(0.4),
        )
    whole = Pool2D(kind="max", window=(3, 3), stride=(2, 2), padding=(2, 2, 2, 2))
    yield one_layer(whole, (1, 1, 2, 3), (1, 2, 2, 3))
    # Broadcasts that do not merge into one loop.
    for operator in (Add(), Mul()):
        for shape, other in (
            ((1, 2, 1, 4, 1, 3), (5, 1, 3, 1, 2, 3)),
            ((2, 3, 4), (1,)),
            ((4,), (1, 3, 4)),
            ((1, 3, 1), (2, 1, 5)),
        ):
            output = np.broadcast_shapes(shape, other)
            constant = (int8(*other), scaled(0.07, 11))
            for first in (False, True):
                yield one_layer(
                    operator, shape, output, constant, target=scaled(0.11, 4), constants_first=first
                )
    yield one_layer(Add(), (), (3,), (int8(3), scaled(0.07, 11)))
    # Constants and axes of concatenation.
    yield one_layer(
        Concatenate(axis=0), (2, 3), (7, 3), (int8(1, 3), USUAL), (int8(4, 3), USUAL), constants_first=True
    )
    yield one_layer(Concatenate(axis=1), (2, 3), (2, 8), (int8(2, 5), USUAL))
    # Nearly equal classes, more than TFLM computes.
    for classes in (511, 512, 4096):
        yield one_layer(
            Softmax(), (1, classes), (1, classes), source=scaled(1e-4), target=scaled(1 / 256, -128)
        )
    yield one_layer(Softmax(beta=100.0), (1, 300), (1, 300), source=scaled(3.0), target=scaled(1 / 256, -128))
    # Clamps that need no table.
    yield one_layer(Elementwise(function="relu6"), (1, 300), (1, 300))
    yield one_layer(Elementwise(function="relu"), (1, 300), (1, 300))
    # uint8 at the edges.
    unsigned = scaled(0.031, 140)
    yield one_layer(Quantize(), (1, 300), (1, 300), target=unsigned, types=("int8", "uint8"))


def float_cases() -> Iterator[Case]:
    """Edges that are float32 or uint8."""
    rng = np.random.default_rng(3)
    halves = np.arange(-300, 300, dtype=np.float32) / 2
    odd = np.array([np.nan, np.inf, -np.inf, 3e38, -3e38, 1e-45, 0.0, -0.0, 2**23, -(2**24)], np.float32)
    usual = np.append(halves, rng.normal(0, 40, 1000).astype(np.float32))
    size = len(usual) + len(odd)
    for scale, zero_point in ((1.0, 0), (0.1, -128), (1 / 3, 127), (2.0**-26, 5), (2.0**26, -7)):
        for dtype, moved in (("int8", 0), ("uint8", 128)):
            inside = scaled(scale, zero_point + moved)
            yield (
                one_layer(
                    Quantize(), (1, size), (1, size), source=None, target=inside, types=("float32", dtype)
                ),
                np.append(usual * np.float32(scale), odd)[np.newaxis],
            )
            every = np.arange(256, dtype=np.uint8).view(dtype)
            yield (
                one_layer(
                    Dequantize(), (1, 256), (1, 256), source=inside, target=None, types=(dtype, "float32")
                ),
                every[np.newaxis],
            )
    yield (
        one_layer(Quantize(), (1, 256), (1, 256), source=scaled(0.02, 100), types=("uint8", "int8")),
        np.arange(256, dtype=np.uint8)[np.newaxis],
    )


def hard_cases() -> Iterator[Case]:
    rng = np.random.default_rng(11)
    for network in hard_networks():
        inputs = random_inputs(network, rng, 4) if network.tensors[0].shape else rng.integers(-128, 128, 4)
        yield network, inputs.astype(np.int8)
    yield from float_cases()


def main(library: str, headers: str) -> None:
    """Every case on a library, which stops the program where it does what C leaves undefined."""
    native = open_library(Path(library), sorted(Path(headers).glob("*.h")))

    def run(network: Network, inputs: Array) -> list[Array]:
        return NativeNetwork(native, network).run(inputs)

    count = 0
    for cases in (
        hard_cases(),
        *(random_cases(kind, 6) for kind in operator_kinds()),
        random_cases(None, 6, 500),
    ):
        for network, inputs in cases:
            assert_same_bytes(run, network, inputs)
            count += 1
    print(count)


if __name__ == "__main__":
    main(*sys.argv[1:])
