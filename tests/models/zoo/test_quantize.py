"""The quantiser: folding keeps the function, integers follow it, what is not supported is named."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from sanderling.models.errors import ModelFormatError, UsageError  # noqa: E402
from sanderling.models.inference import dequantize, run  # noqa: E402
from sanderling.models.network import Add, Conv2D, DepthwiseConv2D  # noqa: E402
from sanderling.models.zoo.architectures import ARCHITECTURES  # noqa: E402
from sanderling.models.zoo.prune import prune  # noqa: E402
from sanderling.models.zoo.quantize import (  # noqa: E402
    HEAD_HEADROOM,
    INPUT_SCALE,
    Folded,
    calibrate,
    fold,
    quantize,
    to_network,
)


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU6())
        self.body = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.BatchNorm2d(8))
        self.end = nn.Sequential(nn.AvgPool2d(2), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8 * 2 * 3, 5))

    def forward(self, x):
        x = self.stem(x)
        return self.end(nn.functional.relu(self.body(x) + x))


@pytest.fixture
def residual():
    torch.manual_seed(0)
    model = Residual()
    model.train()(torch.randn(64, 3, 8, 12))
    return model.eval()


def grid_inputs(count, *shape, seed=1):
    """Inputs that int8 holds exactly: integers, and the real values they stand for."""
    integers = np.random.default_rng(seed).integers(-64, 64, (count, *shape)).astype(np.int8)
    return integers, torch.from_numpy(integers.astype(np.float32) * np.float32(INPUT_SCALE))


def test_folding_keeps_the_function(residual):
    _, x = grid_inputs(16, 3, 8, 12)
    with torch.no_grad():
        assert torch.allclose(fold(residual)(x), residual(x), atol=1e-5)


def test_integers_follow_the_floats(residual):
    integers, x = grid_inputs(64, 3, 8, 12)
    network = quantize(residual, x, "residual")
    assert network.tensors[0].shape == (1, 8, 12, 3)
    kinds = [type(layer.operator).__name__ for layer in network.layers]
    assert kinds == ["Conv2D", "DepthwiseConv2D", "Add", "Pool2D", "Pool2D", "FullyConnected"]
    (outputs,) = run(network, integers.transpose(0, 2, 3, 1))
    scale = network.tensors[network.outputs[0]].quantization
    with torch.no_grad():
        expected = residual(x).numpy()
    error = np.abs(dequantize(outputs, scale) - expected)
    assert error.mean() < 0.02 * np.ptp(expected)


def test_fake_quantisation_predicts_the_integers(residual):
    """What quantisation-aware training sees is what the integers give, to a step of rounding here and there."""
    integers, x = grid_inputs(64, 3, 8, 12)
    folded = fold(residual)
    calibrate(folded, x)
    network = to_network(folded, "residual", (3, 8, 12))
    folded.fake = True
    with torch.no_grad():
        faked = folded(x).numpy()
    quantization = network.tensors[network.outputs[0]].quantization
    steps = np.rint(faked / quantization.scales[0]) + quantization.zero_points[0]
    (outputs,) = run(network, integers.transpose(0, 2, 3, 1))
    assert (np.abs(steps - outputs) <= 1).mean() > 0.97
    assert np.abs(steps - outputs).max() <= 3


def test_gradients_pass_through_the_rounding(residual):
    _, x = grid_inputs(64, 3, 8, 12)
    folded = fold(residual)
    calibrate(folded, x)
    folded.fake = True
    folded(x).square().sum().backward()
    assert all(step.weight.grad.abs().sum() > 0 for step in folded.plan if step.weight is not None)


def test_activations_fuse_and_relu6_ends_at_six():
    model = nn.Sequential(
        nn.Conv2d(1, 4, 1), nn.ReLU6(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)
    )
    with torch.no_grad():
        model[0].weight.fill_(10)
    _, x = grid_inputs(8, 1, 4, 4)
    network = quantize(model, x, "six")
    assert network.layers[0].operator.activation == "relu6"
    scale, zero_point = (
        (q := network.tensors[network.layers[0].outputs[0]].quantization).scales[0],
        q.zero_points[0],
    )
    assert zero_point == -128
    assert scale * 255 == pytest.approx(6 * 1.25, rel=1e-3)


def test_convolutions_per_channel_dense_per_tensor_head_with_headroom(residual):
    _, x = grid_inputs(64, 3, 8, 12)
    network = quantize(residual, x, "residual")
    for layer in network.layers:
        if isinstance(layer.operator, Conv2D | DepthwiseConv2D):
            weights = network.tensors[layer.inputs[1]]
            assert len(weights.quantization.scales) == 8
            others = tuple(axis for axis in range(4) if axis != weights.quantization.axis)
            assert (np.abs(weights.data).max(axis=others) == 127).all()
    head = network.tensors[network.layers[-1].inputs[1]]
    assert len(head.quantization.scales) == 1
    assert np.abs(head.data).max() in (63, 64)  # 127 / 2
    assert HEAD_HEADROOM == 2


def test_padding_before_a_convolution_is_the_convolutions():
    model = nn.Sequential(
        nn.ZeroPad2d((1, 2, 0, 3)), nn.Conv2d(2, 4, (4, 3)), nn.Flatten(), nn.Linear(4 * 6 * 7, 3)
    )
    _, x = grid_inputs(8, 2, 6, 6)
    network = quantize(model, x, "padded")
    assert network.layers[0].operator.padding == (0, 3, 1, 2)
    assert network.tensors[network.layers[0].outputs[0]].shape == (1, 6, 7, 4)


def test_a_channel_without_weights_keeps_its_bias():
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.Flatten(), nn.Linear(8, 2))
    with torch.no_grad():
        model[0].weight[0], model[0].bias[0] = 0, 3.0
    integers, x = grid_inputs(8, 1, 2, 2)
    network = quantize(model, x, "dead")
    first = network.layers[0].outputs[0]
    assert network.tensors[network.layers[0].inputs[2]].data[0] > 0
    (outputs,) = run(network, integers.transpose(0, 2, 3, 1))
    with torch.no_grad():
        expected = model(x).numpy()
    assert (
        np.abs(dequantize(outputs, network.tensors[network.outputs[0]].quantization) - expected).max() < 0.1
    )
    assert network.tensors[first].dtype == "int8"


class SharedBeforeActivation(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.relu, self.drop = nn.Conv2d(1, 1, 1), nn.ReLU(), nn.Dropout()

    def forward(self, x):
        x = self.first(x)
        return self.relu(self.drop(x)) + x


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (nn.Sequential(nn.Conv2d(1, 1, 1), nn.Sigmoid()), "layer 1: Sigmoid is not supported"),
        (nn.Sequential(nn.BatchNorm2d(1)), "batch norm has to follow"),
        (nn.Sequential(nn.ReLU()), "relu has to follow"),
        (nn.Sequential(nn.Conv2d(4, 4, 1, groups=2)), "a full or a depthwise convolution"),
        (nn.Sequential(nn.ZeroPad2d(1), nn.MaxPool2d(2)), "zero padding has to be followed by a convolution"),
        (SharedBeforeActivation(), "relu has to follow"),
    ],
)
def test_what_is_not_supported_is_named(model, words):
    with pytest.raises(ModelFormatError, match=words):
        fold(model)


def test_an_uncalibrated_module_is_refused(residual):
    with pytest.raises(ValueError, match="calibrate first"):
        to_network(fold(residual), "residual", (3, 8, 12))


def plain(seed=0) -> Folded:
    torch.manual_seed(seed)
    return fold(ARCHITECTURES["keyword-ds-cnn"].make((16, 8, 2), 4))


def test_pruning_takes_channels_out():
    smaller = prune(plain(), 0.5, channels=2)
    convolutions = [step for step in smaller.plan if step.kind == "convolution"]
    assert [len(step.weight) for step in convolutions] == [32] * 9
    assert len(smaller.plan[-1].weight) == 4  # the classes stay
    assert smaller(torch.randn(3, 2, 16, 8)).shape == (3, 4)


def test_pruning_what_contributes_nothing_changes_nothing():
    folded = plain()
    x = torch.randn(5, 2, 16, 8)
    with torch.no_grad():
        for step in folded.plan:
            if step.kind == "convolution" and step.groups == 1:
                step.weight[::2] = 0
                step.bias[::2] = -1  # ReLU makes it zero
            elif step.groups > 1:
                step.bias[::2] = 0
        assert torch.allclose(prune(folded, 0.5, channels=2)(x), folded(x), atol=1e-5)


def test_pruning_leaves_residual_sums_whole(residual):
    folded = fold(residual)
    smaller = prune(folded, 0.5, channels=3)
    assert [step.weight.shape for step in smaller.plan if step.weight is not None] == [
        step.weight.shape for step in folded.plan if step.weight is not None
    ]
    resnet = prune(fold(ARCHITECTURES["image-resnet8"].make((16, 16, 3), 10)), 0.5, channels=3)
    assert [len(step.weight) for step in resnet.plan if step.weight is not None] == [
        *(16, 8, 16),
        *(16, 32, 32),
        *(32, 64, 64),
        10,
    ]
    assert resnet(torch.randn(2, 3, 16, 16)).shape == (2, 10)


def test_pruning_a_dense_layer_behind_an_image():
    model = nn.Sequential(nn.Conv2d(1, 8, 1), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 6, 5))
    with torch.no_grad():
        model[0].weight[4:], model[0].bias[4:] = 0, 0
    folded, x = fold(model), torch.randn(4, 1, 2, 3)
    smaller = prune(folded, 0.5, channels=1)
    assert smaller.plan[-1].weight.shape == (5, 24)
    with torch.no_grad():
        assert torch.allclose(smaller(x), folded(x), atol=1e-6)


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_a_share_out_of_range_is_refused(share):
    with pytest.raises(UsageError, match="share of channels"):
        prune(plain(), share, channels=2)


def test_no_add_is_left_out():
    network = quantize(ARCHITECTURES["image-resnet8"].make((8, 8, 3), 10), torch.randn(8, 3, 8, 8), "resnet")
    assert sum(isinstance(layer.operator, Add) for layer in network.layers) == 3
