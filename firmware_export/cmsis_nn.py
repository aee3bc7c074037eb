"""Networks lowered to the kernels of Arm's CMSIS-NN where it has one, to ours elsewhere: the same bytes.

The wrappers' structs are in runtime/cmsis_nn/cmsis_kernels.h. Weights stay as they are in the network, since CMSIS-NN
reads them in their own order; biases are the network's, since it adds zero points itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np

from sanderling.firmware_export.third_party import CMSIS_NN, source
from sanderling.models import arithmetic, inference, lowering
from sanderling.models.c_data import Function, Struct, Table, Value
from sanderling.models.lowering import Lowered
from sanderling.models.network import Conv2D, DepthwiseConv2D, FullyConnected, Layer, Network, Pool2D, Tensor

INCLUDES: Final = ("cmsis_kernels.h",)
BUFFER_ALIGNMENT = 16
HELIUM_CHANNELS = 124  # CH_IN_BLOCK_MVE: what arm_depthwise_conv_s8_opt takes at once


def folder() -> Path:
    """CMSIS-NN's sources, fetched at the first call: what CMake calls SANDERLING_CMSIS_NN."""
    return source(CMSIS_NN) / "bakenn" / "backend" / "cmsis_nn" / "vendor"


def lower(network: Network, *, helium: bool = False) -> Lowered:
    """As models/lowering.py, with other kernels; Helium, the Cortex-M55's vectors, wants more scratch memory.

    ModelFormatError for what no kernel computes.
    """
    plain = lowering.lower(network)
    nodes = plain.network.fields["nodes"]
    if not isinstance(nodes, Table) or not isinstance(nodes.values, tuple):
        return plain
    scratch = -(-plain.arena_bytes // BUFFER_ALIGNMENT) * BUFFER_ALIGNMENT
    swapped, arena_bytes = list(nodes.values), plain.arena_bytes
    for index, layer in enumerate(network.layers):
        first = plain.first_node_of_layer[index]
        if first == plain.first_node_of_layer[index + 1]:
            continue
        made = _kernel(network, layer, scratch, helium)
        if made is None:
            continue
        name, parameters, needed = made
        swapped[first] = _with_kernel(swapped[first], name, parameters)
        arena_bytes = max(arena_bytes, scratch + needed) if needed else arena_bytes
    fields = {
        **plain.network.fields,
        "nodes": replace(nodes, values=tuple(swapped)),
        "arena_bytes": arena_bytes,
    }
    return replace(plain, network=Struct(ctype="sl_network", fields=fields), arena_bytes=arena_bytes)


def _with_kernel(node: Struct, name: str, parameters: Struct) -> Struct:
    table = Table(ctype=parameters.ctype, values=(parameters,), name="parameters")
    return Struct(ctype=node.ctype, fields={**node.fields, "run": Function(name=name), "parameters": table})


def _kernel(network: Network, layer: Layer, scratch: int, helium: bool) -> tuple[str, Struct, int] | None:
    """Name, parameters and bytes of scratch memory; None where CMSIS-NN has no such kernel."""
    inputs = [network.tensors[i] for i in layer.inputs]
    output = network.tensors[layer.outputs[0]]
    match layer.operator:
        case Conv2D() | DepthwiseConv2D() as conv:
            _, height, width, channels = inputs[1].shape
            windows = _windows(
                inputs[0].shape, output.shape, (height, width), conv.stride, conv.padding, conv.dilation
            )
            multiplier = conv.multiplier if isinstance(conv, DepthwiseConv2D) else 1
            parameters = _product(layer, inputs, output, windows, scratch, multiplier=multiplier)
            if isinstance(conv, Conv2D):
                return "sl_cmsis_conv2d", parameters, _columns(height * width * channels, helium)
            needed = 4 * HELIUM_CHANNELS * height * width + 4 if helium else 2 * channels * height * width
            return "sl_cmsis_depthwise_conv2d", parameters, needed
        case FullyConnected():
            return _dense(layer, inputs, output, scratch)
        case Pool2D() as pool:
            windows = _windows(inputs[0].shape, output.shape, pool.window, pool.stride, pool.padding, (1, 1))
            span = _range(layer, output)
            fields = {"windows": windows, "low": span["low"], "high": span["high"], "scratch": scratch}
            needed = 4 * output.shape[3] if pool.kind == "average" else 0
            made = Struct(ctype="sl_cmsis_pool_parameters", fields=fields)
            return f"sl_cmsis_{pool.kind}_pool", made, needed
    return None


def _columns(column: int, helium: bool) -> int:
    """arm_convolve_s8_get_buffer_size: two columns of int16, with Helium four in whole registers."""
    return 4 * 8 * 2 * -(-column // 8) if helium else 4 * column


def _dense(layer: Layer, inputs: list[Tensor], output: Tensor, scratch: int) -> tuple[str, Struct, int]:
    """With a scale for each channel it is a convolution of 1x1 windows."""
    outputs, terms = inputs[1].shape
    rows = int(np.prod(inputs[0].shape)) // terms
    uniform = len(set(inference.channel_scales(inputs, output, outputs))) == 1
    shape = (rows, 1, 1, terms) if uniform else (1, 1, rows, terms)
    windows = _windows(shape, (*shape[:3], outputs), (1, 1), (1, 1), (0, 0, 0, 0), (1, 1))
    name = "sl_cmsis_dense" if uniform else "sl_cmsis_conv2d"
    return name, _product(layer, inputs, output, windows, scratch), 0


def _product(
    layer: Layer, inputs: list[Tensor], output: Tensor, windows: Struct, scratch: int, *, multiplier: int = 1
) -> Struct:
    weights = inputs[1].data
    assert weights is not None, "checked when the network was built"
    count = output.shape[-1]
    biases = inputs[2].data if len(inputs) > 2 else None
    multipliers, shifts = arithmetic.quantize_multipliers(inference.channel_scales(inputs, output, count))
    quantization = inputs[0].quantization
    assert quantization is not None, "checked when the network was built"
    fields: dict[str, Value] = {
        "windows": windows,
        "outputs": count,
        "multiplier": multiplier,
        "weights": Table(ctype="int8_t", values=weights.reshape(-1), name="weights"),
        "biases": _table(np.zeros(count) if biases is None else biases, "biases"),
        "multipliers": _table(multipliers, "multipliers"),
        "shifts": _table(shifts, "shifts"),
        "input_zero_point": quantization.zero_points[0],
        "output": Struct(ctype="sl_output", fields=_range(layer, output)),
        "scratch": scratch,
    }
    return Struct(ctype="sl_cmsis_product_parameters", fields=fields)


def _table(values: object, name: str) -> Table:
    return Table(ctype="int32_t", values=np.asarray(values).astype(np.int32), name=name)


def _range(layer: Layer, output: Tensor) -> dict[str, Value]:
    quantization = output.quantization
    assert quantization is not None, "checked when the network was built"
    activation = getattr(layer.operator, "activation", "none")
    zero_point = quantization.zero_points[0]
    low, high = arithmetic.activation_range(activation, quantization.scales[0], zero_point)
    return {"zero_point": zero_point, "low": low, "high": high}


def _windows(
    input_: tuple[int, ...],
    output: tuple[int, ...],
    window: tuple[int, ...],
    stride: tuple[int, int],
    padding: tuple[int, int, int, int],
    dilation: tuple[int, int],
) -> Struct:
    fields: Mapping[str, Value] = {
        **dict(zip(("images", "height", "width", "channels"), input_, strict=True)),
        "rows": output[1],
        "columns": output[2],
        "window_height": window[0],
        "window_width": window[1],
        "stride_y": stride[0],
        "stride_x": stride[1],
        "dilation_y": dilation[0],
        "dilation_x": dilation[1],
        "top": padding[0],
        "left": padding[2],
    }
    return Struct(ctype="sl_windows", fields=fields)
