"""ONNX files: written ones load in ONNX Runtime and come back the same, those of quantize_static are read."""

from pathlib import Path

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from sanderling.models.edges import int8_edges  # noqa: E402
from sanderling.models.errors import ModelFormatError  # noqa: E402
from sanderling.models.exporters.onnx import to_onnx  # noqa: E402
from sanderling.models.importers import from_bytes, load  # noqa: E402
from sanderling.models.inference import run  # noqa: E402
from sanderling.models.network import (  # noqa: E402
    Conv2D,
    DepthwiseConv2D,
    FullyConnected,
    Mean,
    Network,
    Pool2D,
)
from sanderling.models.specimens import operator_kinds, random_network  # noqa: E402


def session(model: bytes, optimised: bool = True):
    runtime = pytest.importorskip("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    if not optimised:
        options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def random_inputs(network: Network, count: int = 5) -> np.ndarray:
    shape = network.tensors[network.inputs[0]].shape[1:]
    return np.random.default_rng(0).integers(-128, 128, (count, *shape)).astype(np.int8)


def one_by_one(model: bytes, inputs: np.ndarray, optimised: bool = True) -> np.ndarray:
    runner = session(model, optimised)
    name = runner.get_inputs()[0].name
    return np.stack([runner.run(None, {name: x[np.newaxis]})[0] for x in inputs])


@pytest.mark.parametrize("optimised", [False, True])
@pytest.mark.parametrize("kind", operator_kinds())
def test_onnx_runtime_agrees_to_one_step_on_each_operator(kind, optimised):
    for seed in range(5):
        network = random_network(np.random.default_rng(seed), operator=kind)
        model, inputs = to_onnx(network), random_inputs(network)
        onnx.checker.check_model(onnx.load_from_string(model), full_check=True)
        (ours,) = run(network, inputs)
        theirs = one_by_one(model, inputs, optimised).reshape(ours.shape)
        assert theirs.dtype == np.int8
        assert np.abs(ours.astype(int) - theirs).max() <= 1


@pytest.mark.parametrize("kind", operator_kinds())
def test_a_network_comes_back_with_the_same_bytes_of_output(kind):
    for seed in range(8):
        network = random_network(np.random.default_rng(seed), operator=kind)
        again = from_bytes(to_onnx(network))
        inputs = random_inputs(network)
        (ours,), (theirs,) = run(network, inputs), run(again, inputs)
        # ONNX cannot tell a float between two conversions from a change of scale, which rounds in integers.
        tolerance = 1 if kind == "float_round_trip" else 0
        assert np.abs(ours.astype(int) - theirs).max() <= tolerance


def test_the_batch_is_free():
    network = random_network(np.random.default_rng(1), operator="conv2d")
    inputs = random_inputs(network, 7)
    (theirs,) = session(to_onnx(network)).run(None, {"input_0": inputs})
    assert theirs.shape == run(network, inputs)[0].shape


class Graph:
    """A float ONNX model in the making."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.rng = np.random.default_rng(0)
        self.nodes: list = []
        self.constants: list = []
        self.shape = shape

    def weights(self, *shape: int) -> str:
        name = f"w{len(self.constants)}"
        values = self.rng.normal(0, 0.4, shape).astype(np.float32)
        self.constants.append(numpy_helper.from_array(values, name))
        return name

    def numbers(self, *values: int) -> str:
        name = f"w{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.array(values, np.int64), name))
        return name

    def add(self, operator: str, *inputs: str, **attributes) -> str:
        name = f"{operator}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [name], name=name, **attributes))
        return name

    def save(self, path: Path, output: str) -> Path:
        self.nodes.append(helper.make_node("Identity", [output], ["y"]))
        graph = helper.make_graph(
            self.nodes,
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, self.shape)],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
            self.constants,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        onnx.save(onnx.shape_inference.infer_shapes(model), path)
        return path


def residual(path: Path) -> Path:
    """Convolution, depthwise, pointwise with a shortcut, pools, a dense layer."""
    g = Graph((1, 1, 20, 10))
    x = g.add("Conv", "x", g.weights(8, 1, 5, 3), g.weights(8), pads=[2, 1, 2, 1], strides=[2, 2])
    x = g.add("Relu", x)
    y = g.add("Conv", x, g.weights(8, 1, 3, 3), g.weights(8), group=8, pads=[1, 1, 1, 1])
    y = g.add("Conv", g.add("Relu", y), g.weights(8, 8, 1, 1), g.weights(8))
    x = g.add("MaxPool", g.add("Relu", g.add("Add", x, y)), kernel_shape=[2, 2], strides=[2, 2])
    x = g.add("Flatten", g.add("GlobalAveragePool", x))
    return g.save(path, g.add("Gemm", x, g.weights(4, 8), g.weights(4), transB=1))


def flattened(path: Path) -> Path:
    """A flatten of channels first: the dense layer's columns have to be put in our order."""
    g = Graph((1, 3, 6, 5))
    x = g.add("Relu", g.add("Conv", "x", g.weights(4, 3, 3, 3), g.weights(4)))
    x = g.add("Reshape", x, g.numbers(1, -1))
    x = g.add("Tanh", g.add("Add", g.add("MatMul", x, g.weights(48, 7)), g.weights(7)))
    return g.save(path, g.add("Softmax", g.add("Gemm", x, g.weights(7, 5)), axis=-1))


def signal(path: Path) -> Path:
    """One-dimensional convolutions and pools over (channels, time)."""
    g = Graph((1, 6, 40))
    x = g.add("Relu", g.add("Conv", "x", g.weights(8, 6, 5), g.weights(8), strides=[2]))
    x = g.add("MaxPool", x, kernel_shape=[2], strides=[2])
    x = g.add("Relu", g.add("Conv", x, g.weights(12, 8, 3), g.weights(12), pads=[1, 1]))
    x = g.add("Flatten", g.add("AveragePool", x, kernel_shape=[3], strides=[3]))
    return g.save(path, g.add("Gemm", x, g.weights(36, 3), g.weights(3)))


def joined(path: Path) -> Path:
    """Concatenation, zero padding, a product with a constant, a mean over the image."""
    g = Graph((1, 2, 6, 7))
    a = g.add("Relu", g.add("Conv", "x", g.weights(3, 2, 3, 3), pads=[1, 1, 1, 1]))
    b = g.add("Conv", "x", g.weights(4, 2, 1, 1))
    x = g.add("Pad", g.add("Concat", a, b, axis=1), g.numbers(0, 0, 2, 1, 0, 0, 1, 0))
    x = g.add("Sigmoid", g.add("Mul", x, g.weights(7, 1, 1)))
    x = g.add("Conv", x, g.weights(5, 7, 3, 3))
    return g.save(path, g.add("ReduceMean", x, axes=[2, 3], keepdims=0))


@pytest.fixture(params=[residual, flattened, signal, joined], ids=lambda make: make.__name__)
def float_model(request, tmp_path: Path) -> Path:
    return request.param(tmp_path / "float.onnx")


@pytest.mark.parametrize("activation", ["QInt8", "QUInt8"])
@pytest.mark.parametrize("per_channel", [True, False])
def test_what_quantize_static_writes_is_read(float_model, tmp_path, activation, per_channel):
    quantization = pytest.importorskip("onnxruntime.quantization")
    shape = input_shape(float_model)

    class Samples(quantization.CalibrationDataReader):
        def __init__(self) -> None:
            rng = np.random.default_rng(1)
            self.samples = iter([{"x": rng.normal(size=shape).astype(np.float32)} for _ in range(16)])

        def get_next(self):
            return next(self.samples, None)

    target = tmp_path / "int8.onnx"
    quantization.quantize_static(
        str(float_model),
        str(target),
        Samples(),
        quant_format=quantization.QuantFormat.QDQ,
        per_channel=per_channel,
        activation_type=quantization.QuantType[activation],
        weight_type=quantization.QuantType.QInt8,
    )
    network = load(target)
    inputs = np.random.default_rng(2).normal(size=(20, *shape[1:])).astype(np.float32)
    theirs = one_by_one(target.read_bytes(), inputs, optimised=False)
    ours = run(network, channels_last(network, inputs))[0].reshape(theirs.shape)
    step = network.tensors[network.layers[-1].inputs[0]].quantization.scales[0]
    assert np.abs(ours - theirs).max() <= 2.01 * step
    assert np.abs(ours - theirs).mean() <= 0.5 * step
    inner = int8_edges(network)
    assert {inner.tensors[i].dtype for i in (*inner.inputs, *inner.outputs)} == {"int8"}


def input_shape(path: Path) -> tuple[int, ...]:
    value = onnx.load(path).graph.input[0].type.tensor_type
    return tuple(d.dim_value for d in value.shape.dim)


def channels_last(network: Network, inputs: np.ndarray) -> np.ndarray:
    wide = inputs[:, :, np.newaxis] if inputs.ndim == 3 else inputs
    shape = network.tensors[network.inputs[0]].shape
    return np.ascontiguousarray(wide.transpose(0, 2, 3, 1)).reshape(len(inputs), *shape[1:])


def test_layers_of_a_residual_network_are_the_expected_ones(tmp_path):
    network = random_network(np.random.default_rng(4), operator="depthwise_conv2d")
    kinds = [type(layer.operator) for layer in from_bytes(to_onnx(network)).layers]
    assert kinds[-1] is DepthwiseConv2D
    for kind, expected in (("mean", Mean), ("fully_connected", FullyConnected), ("conv2d", Conv2D)):
        network = random_network(np.random.default_rng(5), operator=kind)
        assert expected in {type(layer.operator) for layer in from_bytes(to_onnx(network)).layers}


def edited(kind: str, edit) -> bytes:
    """The ONNX file of a specimen after `edit` of the parsed message."""
    model = onnx.load_from_string(to_onnx(random_network(np.random.default_rng(6), operator=kind)))
    edit(model.graph)
    return model.SerializeToString()


def test_external_data_is_refused(tmp_path):
    def edit(graph) -> None:
        constant = graph.initializer[0]
        constant.ClearField("raw_data")
        constant.data_location = TensorProto.EXTERNAL
        constant.external_data.add(key="location", value="../../etc/passwd")

    with pytest.raises(ModelFormatError, match="external data is refused"):
        from_bytes(edited("conv2d", edit))


def test_an_unsupported_operator_is_named_with_its_layer():
    def edit(graph) -> None:
        node = next(node for node in graph.node if node.op_type == "Tanh")
        node.op_type, node.name = "Erf", "gelu"

    with pytest.raises(ModelFormatError, match=r"layer 'gelu' \(Erf\): this operator is not supported"):
        from_bytes(edited("tanh", edit))


def test_operators_of_other_domains_are_named_with_their_domain():
    def edit(graph) -> None:
        node = next(node for node in graph.node if node.op_type == "Conv")
        node.domain = "vendor.magic"

    with pytest.raises(ModelFormatError, match=r"\(vendor.magic::Conv\)"):
        from_bytes(edited("conv2d", edit))


def test_a_grouped_convolution_is_refused():
    def edit(graph) -> None:
        node = next(node for node in graph.node if node.op_type == "Conv")
        next(a for a in node.attribute if a.name == "group").i = 2

    with pytest.raises(ModelFormatError, match="grouped convolution is not supported"):
        from_bytes(edited("conv2d", edit))


def test_a_result_that_is_not_quantised_is_refused():
    def edit(graph) -> None:
        node = next(node for node in graph.node if node.op_type == "QuantizeLinear")
        node.op_type = "Tanh"

    with pytest.raises(ModelFormatError, match="its output is not quantised"):
        from_bytes(edited("conv2d", edit))


def test_asymmetric_weights_are_refused():
    def edit(graph) -> None:
        convolution = next(node for node in graph.node if node.op_type == "Conv")
        dequantize = next(node for node in graph.node if node.output[0] == convolution.input[1])
        zero = next(c for c in graph.initializer if c.name == dequantize.input[2])
        zero.raw_data = bytes([7]) * len(zero.raw_data)

    with pytest.raises(ModelFormatError, match="must be symmetric"):
        from_bytes(edited("conv2d", edit))


def test_ceil_mode_is_padding_after(tmp_path):
    g = Graph((1, 2, 5, 5))
    x = g.add("Conv", "x", g.weights(2, 2, 1, 1))
    x = g.add("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1)
    path = g.save(tmp_path / "f.onnx", g.add("Conv", x, g.weights(2, 2, 1, 1)))
    network = load(quantized(path, tmp_path))
    pool = next(layer.operator for layer in network.layers if isinstance(layer.operator, Pool2D))
    assert pool.padding == (0, 1, 0, 1)


def quantized(path: Path, folder: Path) -> Path:
    quantization = pytest.importorskip("onnxruntime.quantization")
    shape = input_shape(path)

    class Zeros(quantization.CalibrationDataReader):
        samples = iter([{"x": np.linspace(-1, 1, int(np.prod(shape)), dtype=np.float32).reshape(shape)}])

        def get_next(self):
            return next(self.samples, None)

    quantization.quantize_static(str(path), str(folder / "q.onnx"), Zeros(), per_channel=True)
    return folder / "q.onnx"
