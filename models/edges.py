"""The interface of a network: int8 in and out, where a file has float32 or uint8 with conversions at its edges."""

from __future__ import annotations

from sanderling.models.importers.graph import compact
from sanderling.models.network import Dequantize, Network, Quantize


def int8_edges(network: Network) -> Network:
    """The network without Quantize layers on its inputs and Quantize or Dequantize layers before its outputs.

    Its inputs and outputs are the int8 tensors behind them, whose scales say what their integers mean. An edge
    that other layers share stays as it is.
    """
    inputs, outputs, layers = list(network.inputs), list(network.outputs), list(network.layers)
    for layer in network.layers:
        source, target = layer.inputs[0], layer.outputs[0]
        converts = isinstance(layer.operator, Quantize | Dequantize)
        is_int8 = {i: network.tensors[i].dtype == "int8" for i in (source, target)}
        if not converts or is_int8[source] == is_int8[target]:
            continue
        readers = [reader for reader in network.layers if target in reader.inputs]
        sharers = [reader for reader in network.layers if source in reader.inputs]
        if source in inputs and is_int8[target] and len(sharers) == 1 and target not in outputs:
            inputs[inputs.index(source)] = target
            layers.remove(layer)
        elif target in outputs and is_int8[source] and not readers and source not in inputs:
            outputs[outputs.index(target)] = source
            layers.remove(layer)
    return compact(name=network.name, tensors=network.tensors, layers=layers, inputs=inputs, outputs=outputs)
