"""What others make of our networks: BakeNN 1.0 (PyPI), with its own kernels or CMSIS-NN 4.0, and TFLM's interpreter.

BakeNN takes no Mean and no dense layer on an image. It is given the network with an average pool in place of the mean and
the input flat: the same number of products.
"""

from __future__ import annotations

import math
import os
import re
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from sanderling.firmware_export import counting, toolchain
from sanderling.firmware_export.targets import Target
from sanderling.models.exporters.tflite import to_tflite
from sanderling.models.network import FullyConnected, Layer, Mean, Network, Pool2D, Reshape, Tensor

APPLICATION = Path(__file__).parent / "bakenn_app"
CMSIS_INCLUDES = "third_party/cmsis_nn/Include;third_party/cmsis_core/Include"


def bakenn_inference(network: Network, target: Target, folder: Path, *, cmsis_nn: bool) -> dict[str, Any]:
    """Instructions of an inference, and what the program takes; {"refused": why} where BakeNN does not compile it."""
    import bakenn

    options = bakenn.CBackendOptions(
        kernel_policy=bakenn.KernelPolicy.STATIC_PRIORITY if cmsis_nn else bakenn.KernelPolicy.PORTABLE,
        enable_cmsis_nn=cmsis_nn,
        target=bakenn.CORTEX_M4 if cmsis_nn else bakenn.PORTABLE_32,
    )
    model = folder / "model.tflite"
    folder.mkdir(parents=True)
    model.write_bytes(to_tflite(_palatable(network)))
    try:
        compiled = bakenn.compile_tflite(str(model), folder / "tables", name="m", backend_options=options)
    except bakenn.BakeNNError as error:
        return {"refused": str(error)}
    settings = {"SANDERLING_OPTIMIZE": "speed"}
    if cmsis_nn:
        settings |= {
            "SANDERLING_INCLUDES": CMSIS_INCLUDES,
            "SANDERLING_DEFINITIONS": "BAKENN_CMSIS_NN_BUILTIN_MEMORY",
        }
    programs = toolchain.build(
        target, folder / "build", networks=[folder / "tables"], applications=[APPLICATION], settings=settings
    )
    (program,) = programs.values()
    _, (instructions,) = counting.count(program, target)
    return {
        "instructions": instructions,
        "flash_bytes": program.flash_bytes,
        "sram_bytes": program.sram_bytes,
        "arena_bytes": compiled.memory_report.arena_bytes,
    }


def tflm_arena(network: Network) -> int:
    """Bytes that TFLM's interpreter uses of its arena on this machine, as its recorder prints them."""
    from tflite_micro.python.tflite_micro import runtime

    with tempfile.TemporaryFile() as file:
        saved = os.dup(2)
        os.dup2(file.fileno(), 2)
        try:
            runtime.Interpreter.from_bytes(to_tflite(network), arena_size=1 << 22).print_allocations()
        finally:
            os.dup2(saved, 2)
            os.close(saved)
        file.seek(0)
        text = file.read().decode()
    match = re.search(r"Arena allocation total (\d+) bytes", text)
    if match is None:
        raise RuntimeError(f"TFLM's recorder printed {text!r}")
    return int(match[1])


def _palatable(network: Network) -> Network:
    tensors = list(network.tensors)
    layers: list[Layer] = []
    for layer in network.layers:
        source = tensors[layer.inputs[0]]
        if isinstance(layer.operator, Mean):
            _, height, width, channels = source.shape
            output = tensors[layer.outputs[0]]
            tensors[layer.outputs[0]] = replace(output, quantization=source.quantization)
            tensors.append(
                Tensor(
                    name=f"{output.name}/pool",
                    shape=(1, 1, 1, channels),
                    dtype="int8",
                    quantization=source.quantization,
                )
            )
            pool = Pool2D(kind="average", window=(height, width), stride=(1, 1), padding=(0, 0, 0, 0))
            pooled = (len(tensors) - 1,)
            layers.append(Layer(name=layer.name, operator=pool, inputs=layer.inputs[:1], outputs=pooled))
            layers.append(
                Layer(name=f"{layer.name}/flat", operator=Reshape(), inputs=pooled, outputs=layer.outputs)
            )
            continue
        if isinstance(layer.operator, FullyConnected) and layer.inputs[0] in network.inputs:
            tensors[layer.inputs[0]] = replace(source, shape=(1, math.prod(source.shape)))
        layers.append(layer)
    return replace(network, tensors=tuple(tensors), layers=tuple(layers))
