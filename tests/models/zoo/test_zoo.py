"""The zoo: shipped models load anywhere, files agree, cards say what is so, builds repeat."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from sanderling.models import importers, zoo
from sanderling.models.cost import cost
from sanderling.models.datasets import TEST, TRAIN, Dataset, load
from sanderling.models.datasets.watch import CLIENTS
from sanderling.models.errors import ModelFormatError, UsageError
from sanderling.models.inference import run
from sanderling.models.tail import dense_head

MACS = {  # MLPerf Tiny's figures, and ours
    "keyword-ds-cnn": 2_656_768,
    "person-mobilenet": 7_489_664,
    "image-resnet8": 12_501_632,
    "anomaly-autoencoder": 264_192,
}


@pytest.mark.parametrize("name", zoo.shipped())
def test_shipped_files_are_one_network(name):
    model = zoo.load(name)
    expected = model.network.content_hash
    assert model.card["network_hash"] == expected.hex()
    inputs = (
        np.random.default_rng(0).integers(-128, 128, (8, *model.network.tensors[0].shape[1:])).astype(np.int8)
    )
    (outputs,) = run(model.network, inputs)
    for suffix in (".tflite", ".onnx"):
        if suffix == ".onnx":
            pytest.importorskip("onnx")
        again = importers.load(zoo.ARTEFACTS / f"{name}{suffix}")
        np.testing.assert_array_equal(run(again, inputs)[0], outputs)
    for file, size in model.card["files"].items():
        assert (zoo.ARTEFACTS / file).stat().st_size == size


def test_watch_cnn_is_small():
    model = zoo.load("watch-cnn")
    files = model.card["files"]
    assert files["watch-cnn.tflite"] + files["watch-cnn.onnx"] <= 64 * 1024
    assert dense_head(model.network).features == 64
    assert cost(model.network).multiply_accumulates == model.card["multiply_accumulates"] < 200_000


def test_watch_cnn_does_as_its_card_says():
    pytest.importorskip("seglearn")
    model, data = zoo.load("watch-cnn"), load("watch")
    assert model.card["data_hash"] == data.content_hash.hex()
    test = data.for_clients(CLIENTS[3:]).part(TEST)
    (logits,) = run(model.network, model.package.preprocessing.quantize_input(test.examples))
    assert (logits.argmax(1) == test.labels).mean() == model.card["accuracy"]["int8"]


def test_few_inputs_and_features_saturate():
    pytest.importorskip("seglearn")
    from sanderling.models.inference import features

    model, data = zoo.load("watch-cnn"), load("watch").for_clients(CLIENTS[3:])
    inputs = model.package.preprocessing.quantize_input(data.examples)
    found = features(model.network, inputs, dense_head(model.network).layer)
    assert np.isin(inputs, (-128, 127)).mean() < 0.002
    assert np.isin(found, (-128, 127)).mean() < 0.002
    assert found.std(axis=0).min() > 5  # steps: no feature is coarse


def test_a_device_needs_only_numpy_to_load_and_run():
    script = (
        "import sys, numpy as np; from sanderling.models import zoo, inference; p = zoo.load('watch-cnn').package;"
        "inference.run(p.network, p.preprocessing.quantize_input(np.zeros((2, 100, 6), np.float32)));"
        "print(sorted({'torch', 'onnx', 'flatbuffers', 'tflite', 'sklearn', 'pandas'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_package_of_files_as_of_names(tmp_path):
    shipped = zoo.load("watch-cnn")
    by_path = zoo.package(str(zoo.ARTEFACTS / "watch-cnn.sanderling"))
    assert by_path.to_bytes() == shipped.package.to_bytes() == zoo.package("watch-cnn").to_bytes()
    imported = zoo.package(str(zoo.ARTEFACTS / "watch-cnn.tflite"))
    normalised = np.random.default_rng(0).normal(size=(4, 100, 6)).astype(np.float32)
    identity = replace(shipped.package.preprocessing, mean=(0.0,) * 6, std=(1.0,) * 6)
    np.testing.assert_array_equal(
        imported.preprocessing.quantize_input(normalised), identity.quantize_input(normalised)
    )
    (tmp_path / "no.sanderling").write_bytes(b"no")
    with pytest.raises(ModelFormatError):
        zoo.package(str(tmp_path / "no.sanderling"))
    with pytest.raises(UsageError, match="expected one of"):
        zoo.package("watch-cnm")
    with pytest.raises(UsageError, match="expected one of"):
        zoo.load("watch-cnm")


def test_card_as_text():
    card = zoo.load("watch-cnn").card
    text = zoo.render_card(card)
    for part in ("watch-01, watch-02, watch-03", card["network_hash"], "1 x 1 x 100 x 6 int8", "torch"):
        assert part in text
    assert "watch-04" not in text.split("on the test part")[0]
    assert json.loads(json.dumps(card)) == card


def tiny_data(shape, classes=3, count=600, seed=0) -> Dataset:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, count)
    centres = rng.normal(size=(classes, *shape))
    examples = (centres[labels] + 0.3 * rng.normal(size=(count, *shape))).astype(np.float32)
    return Dataset(
        name="tiny",
        examples=examples,
        labels=labels,
        clients=np.zeros(count, np.int32),
        client_names=("me",),
        split=np.where(np.arange(count) % 5 == 4, TEST, TRAIN).astype(np.int8),
        class_names=tuple("abcdefgh"[:classes]),
    )


class TestWithTorch:
    """What trains or calibrates."""

    @pytest.fixture(autouse=True)
    def torch(self):
        return pytest.importorskip("torch")

    def test_names_are_the_architectures(self):
        from sanderling.models.zoo.architectures import ARCHITECTURES

        assert tuple(ARCHITECTURES) == zoo.NAMES
        assert set(zoo.shipped()) <= set(zoo.NAMES)

    @pytest.mark.parametrize("name", MACS)
    def test_shapes_are_those_of_mlperf_tiny(self, name):
        assert cost(zoo.random_network(name, 0)).multiply_accumulates == MACS[name]

    @pytest.mark.parametrize("name", zoo.NAMES)
    def test_random_networks_repeat_and_use_their_range(self, name):
        network = zoo.random_network(name, 3)
        assert network.content_hash == zoo.random_network(name, 3).content_hash
        shape = network.tensors[network.inputs[0]].shape[1:]
        rng = np.random.default_rng(0)
        levels = rng.normal(size=(16, *[1] * (len(shape) - 1), shape[-1]))  # each input and channel its own
        inputs = np.clip(16 * (levels + rng.normal(size=(16, *shape))), -128, 127).astype(np.int8)
        (outputs,) = run(network, inputs)
        assert len(np.unique(outputs)) > 20

    @pytest.mark.parametrize("name", zoo.NAMES)
    def test_equal_to_tflm_in_every_byte(self, name):
        runtime = pytest.importorskip("tflite_micro.python.tflite_micro.runtime")
        from sanderling.models.exporters.tflite import to_tflite

        network = zoo.random_network(name, 5)
        shape = network.tensors[network.inputs[0]].shape
        count = int(os.environ.get("SANDERLING_ZOO_INPUTS", "5"))
        inputs = np.random.default_rng(0).integers(-128, 128, (count, *shape[1:])).astype(np.int8)
        (ours,) = run(network, inputs)
        interpreter = runtime.Interpreter.from_bytes(to_tflite(network), arena_size=1_000_000)
        for mine, values in zip(ours, inputs, strict=True):
            interpreter.set_input(values.reshape(shape), 0)
            interpreter.invoke()
            np.testing.assert_array_equal(interpreter.get_output(0).reshape(mine.shape), mine)

    def test_built_from_a_users_windows(self, tmp_path):
        data = tiny_data((40, 3), count=160)
        card = zoo.build("watch-cnn", tmp_path, data=data, seed=2)
        assert card["input_shape"] == [1, 1, 40, 3]
        assert card["accuracy"]["int8"] > 0.9
        package = zoo.package(str(tmp_path / "watch-cnn.sanderling"))
        assert package.class_names == ("a", "b", "c")
        assert package.network.content_hash.hex() == card["network_hash"]
        again = zoo.build("watch-cnn", tmp_path, data=data, seed=2)
        other = zoo.build("watch-cnn", tmp_path, data=data, seed=3)
        assert again["network_hash"] == card["network_hash"] != other["network_hash"]

    def test_pruned_and_quantisation_aware(self, tmp_path):
        data = tiny_data((12, 12, 1))
        whole = zoo.build("tiny-mlp", tmp_path, data=data)
        lines = []
        less = zoo.build(
            "tiny-mlp", tmp_path, data=data, prune=0.5, quantization_aware=True, progress=lines.append
        )
        assert less["parameters"] < 0.55 * whole["parameters"]
        assert less["accuracy"]["int8"] > 0.9
        assert "50% of the channels pruned, quantisation-aware" in zoo.render_card(less)
        assert sum(line.startswith("epoch") for line in lines) == 20 + 10 + 3

    def test_an_autoencoder_learns_its_input(self, tmp_path):
        card = zoo.build("anomaly-autoencoder", tmp_path, data=tiny_data((24,)))
        assert card["error"]["fp32"] < 0.5 < 1.0  # the data's variance is about 1
        assert card["error"]["int8"] < card["error"]["fp32"] + 0.05
        assert "error" in zoo.render_card(card)
        assert zoo.package(str(tmp_path / "anomaly-autoencoder.sanderling")).class_names == ()

    def test_what_cannot_be_built_says_why(self, tmp_path):
        with pytest.raises(UsageError, match="expected one of watch-cnn, tiny-mlp"):
            zoo.build("watch", tmp_path)
        with pytest.raises(UsageError, match="no package brings its data"):
            zoo.build("keyword-ds-cnn", tmp_path)
        with pytest.raises(
            UsageError, match=r"expected examples such as \(49, 10, 1\), data set 'tiny' has \(9,\)"
        ):
            zoo.build("keyword-ds-cnn", tmp_path, data=tiny_data((9,)))
        with pytest.raises(UsageError, match="at least 30 frames, came 20"):
            zoo.build("wakeword-tcn", tmp_path, data=tiny_data((20, 4)))

    @pytest.mark.slow
    def test_watch_cnn_is_made_again(self, tmp_path, torch):
        pytest.importorskip("seglearn")
        card = zoo.load("watch-cnn").card
        if torch.__version__ != card["torch"]:
            pytest.skip(f"the artefact was made with torch {card['torch']}")
        again = zoo.build("watch-cnn", tmp_path, seed=card["seed"])
        assert again["network_hash"] == card["network_hash"]
