"""ONNX with QuantizeLinear and DequantizeLinear pairs (QDQ) as a network, as onnxruntime's quantize_static writes it.

https://onnx.ai/onnx/operators. The pairs are taken as what they mean: the scale of a value. ONNX is NCHW, a network
NHWC: axes are followed through transposes, reshapes and flattens, and weights are put in our order, so that
no data moves. Graph inputs and outputs of three or four dimensions that convolutions or pools read become NHWC.
"""

from __future__ import annotations

from collections.abc import Callable

from sanderling.models.importers.graph import compact
from sanderling.models.importers.onnx.file import Array, Node, read_file
from sanderling.models.importers.onnx.folding import (
    cast,
    concatenate_constants,
    fold,
    fold_constant,
    gather,
    shape_of,
)
from sanderling.models.importers.onnx.nary import binary, concatenate, pad
from sanderling.models.importers.onnx.quantization import dequantize_linear, quantize_linear
from sanderling.models.importers.onnx.reader import Reader
from sanderling.models.importers.onnx.shapes import (
    flatten,
    reshape,
    reshaped,
    same_value,
    squeeze,
    transpose,
    unsqueeze,
)
from sanderling.models.importers.onnx.unary import clamp, global_pool, pool, reduce_mean, sigmoidal, softmax
from sanderling.models.importers.onnx.weighted import conv, gemm, matmul
from sanderling.models.network import Add, Mul, Network


def from_onnx(data: bytes, name: str = "network") -> Network:
    """The network in an .onnx file's bytes.

    ModelFormatError, naming layer and operator, when malformed or not supported; external data is refused.
    MissingError without the extra `models`.
    """
    reader = Reader(file=read_file(data))
    for input_name, (dtype, shape) in reader.file.inputs.items():
        reader.read_input(input_name, dtype, shape)
    for node in reader.file.nodes:
        _read(reader, node)
    outputs = [reader.write_output(output) for output in reader.file.outputs]
    return compact(
        name=name, tensors=reader.tensors, layers=reader.layers, inputs=reader.inputs, outputs=outputs
    )


def _read(reader: Reader, node: Node) -> None:
    if node.outputs[0] in reader.absorbed:
        return
    if node.operator in _FOLDED and all(name in reader.file.constants for name in node.inputs):
        reader.file.constants[node.outputs[0]] = _FOLDED[node.operator](reader, node)
        return
    if node.operator not in _READERS:
        raise node.refuse("this operator is not supported")
    _READERS[node.operator](reader, node)


_FOLDED: dict[str, Callable[[Reader, Node], Array]] = {
    "Constant": fold_constant,
    "Identity": fold(lambda reader, node, array: array),
    "Gather": fold(gather),
    "Concat": fold(concatenate_constants),
    "Cast": fold(cast),
    "Reshape": fold(reshape),
    "Squeeze": fold(squeeze),
    "Unsqueeze": fold(unsqueeze),
    "Transpose": fold(transpose),
}

_READERS: dict[str, Callable[[Reader, Node], None]] = {
    "QuantizeLinear": quantize_linear,
    "DequantizeLinear": dequantize_linear,
    "Conv": conv,
    "Gemm": gemm,
    "MatMul": matmul,
    "AveragePool": pool("average"),
    "MaxPool": pool("max"),
    "GlobalAveragePool": global_pool("average"),
    "GlobalMaxPool": global_pool("max"),
    "ReduceMean": reduce_mean,
    "Relu": clamp,
    "Clip": clamp,
    "Tanh": sigmoidal("tanh", 1 / 128, 0),
    "Sigmoid": sigmoidal("logistic", 1 / 256, -128),
    "Softmax": softmax,
    "Add": binary(lambda activation: Add(activation=activation)),
    "Mul": binary(lambda activation: Mul(activation=activation)),
    "Pad": pad,
    "Concat": concatenate,
    "Reshape": reshaped(reshape),
    "Flatten": reshaped(flatten),
    "Transpose": reshaped(transpose),
    "Squeeze": reshaped(squeeze),
    "Unsqueeze": reshaped(unsqueeze),
    "Identity": same_value,
    "Dropout": same_value,
    "Shape": shape_of,
}
