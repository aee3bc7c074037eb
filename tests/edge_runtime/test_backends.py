from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from sanderling.edge_runtime import backends
from sanderling.edge_runtime.backends import choose, drift_lsb, open_backend, open_chosen
from sanderling.edge_runtime.backends.backbone import backbone
from sanderling.models import inference
from sanderling.models.errors import MissingError, ModelFormatError
from sanderling.models.tail import dense_head

INSTALLED = tuple(name for name in backends.available() if name in backends.FAST)


@pytest.fixture(scope="module")
def inputs(package, make) -> np.ndarray:
    return package.preprocessing.quantize_input(make.windows(64, seed=5)[0])


def test_the_backbone_alone_gives_what_enters_the_head(network, inputs):
    head = dense_head(network)
    (alone,) = inference.run(backbone(network, head), inputs)
    assert np.array_equal(alone.reshape(64, -1), inference.features(network, inputs, head.layer))
    assert len(backbone(network, head).tensors) == 5  # window, filters, bias, signal, features


def test_the_reference_is_exact_however_many_windows_come_at_once(network, inputs):
    head = dense_head(network)
    reference = open_backend("reference", network, head)
    one_by_one = np.concatenate([reference.features(inputs[i : i + 1]) for i in range(64)])
    assert np.array_equal(reference.features(inputs), one_by_one)
    assert drift_lsb(reference, reference, inputs) is None


@pytest.mark.parametrize("name", INSTALLED)
def test_a_fast_backend_is_within_the_drift_it_reports(network, inputs, name):
    head = dense_head(network)
    reference, fast = open_backend("reference", network, head), open_backend(name, network, head)
    assert (fast.name, fast.exact) == (name, False)
    features = fast.features(inputs)
    assert (features.shape, features.dtype) == ((64, 16), np.int8)
    drift = drift_lsb(fast, reference, inputs)
    assert drift == np.abs(features.astype(int) - reference.features(inputs)).max()
    assert drift <= 2


def test_at_least_one_fast_backend_is_tested():
    assert INSTALLED


def test_no_window_no_feature(network):
    head = dense_head(network)
    none = np.empty((0, 1, 20, 3), np.int8)
    for name in (*INSTALLED, "reference"):
        assert open_backend(name, network, head).features(none).shape == (0, 16)


@pytest.mark.parametrize(
    ("arithmetic", "preference", "expected"),
    [
        ("exact", "auto", "reference"),
        ("exact", "litert", "reference"),
        ("fast", "auto", "litert"),
        ("fast", "onnxruntime", "onnxruntime"),
        ("fast", "reference", "reference"),
    ],
)
def test_plan_and_preference_choose(arithmetic, preference, expected):
    name, _ = choose(arithmetic, preference, ("litert", "onnxruntime", "reference"))
    assert name == expected


def test_the_choice_is_explained():
    assert choose("exact", "litert", ("litert", "reference"))[1] == (
        "the plan asks for exact arithmetic, so not litert"
    )


def test_a_preferred_backend_that_is_missing_names_its_extra():
    with pytest.raises(
        MissingError, match=r"'tflite' is not installed \(installed: reference\).*sanderling\[tflite\]"
    ):
        choose("fast", "tflite", ("reference",))
    assert choose("exact", "tflite", ("reference",))[0] == "reference"


def test_without_any_fast_runtime_the_reference_serves():
    assert choose("fast", "auto", ("reference",))[0] == "reference"


def only_head(network):
    """The network without its backbone."""
    layer = replace(network.layers[2], inputs=(0, 1), outputs=(2,))
    return replace(network, tensors=network.tensors[4:], layers=(layer,), inputs=(0,), outputs=(2,))


def test_a_network_no_fast_runtime_can_run_falls_to_the_reference_unless_one_is_set(network):
    alone = only_head(network)
    lines: list[str] = []
    backend = open_chosen("fast", "auto", alone, dense_head(alone), lines.append)
    assert backend.name == "reference"
    assert len(lines) == len(INSTALLED) + 1
    with pytest.raises(ModelFormatError, match="head alone"):
        open_chosen("fast", INSTALLED[0], alone, dense_head(alone), lines.append)


def test_the_chosen_backend_is_in_the_log(network):
    lines: list[str] = []
    open_chosen("exact", "auto", network, dense_head(network), lines.append)
    assert lines == ["backend reference: the plan asks for exact arithmetic"]
