"""Damaged and hostile model files: a ModelFormatError, never anything else, in bounded time and memory.

SANDERLING_FUZZ_FILES says how many mutated files to try; tests/fuzz/model_files.py does the same at length.
"""

import importlib.util
import os
import struct
import time
from pathlib import Path

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")

from sanderling.models.errors import ModelFormatError  # noqa: E402
from sanderling.models.exporters.onnx import to_onnx  # noqa: E402
from sanderling.models.exporters.tflite import to_tflite  # noqa: E402
from sanderling.models.importers import from_bytes, load  # noqa: E402
from sanderling.models.importers.flatbuffer import Table, root  # noqa: E402
from sanderling.models.importers.graph import MAX_FILE_BYTES  # noqa: E402
from sanderling.models.importers.tflite_schema import (  # noqa: E402
    Model,
    QuantizationParameters,
    SubGraph,
    TensorField,
)
from sanderling.models.specimens import random_network  # noqa: E402

FILES = int(os.environ.get("SANDERLING_FUZZ_FILES", "1000"))
SCRIPT = Path(__file__).parents[1] / "fuzz" / "model_files.py"


def fuzzer():
    spec = importlib.util.spec_from_file_location("model_files", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_mutated_files_are_loaded_or_refused():
    model_files = fuzzer()
    seeds = model_files.corpus()
    results = {
        model_files.try_file(model_files.mutate(np.random.default_rng((7, index)), seeds))
        for index in range(FILES)
    }
    assert results == {"loaded", "refused"}


def test_the_fuzzer_reports_what_it_finds(monkeypatch):
    model_files = fuzzer()
    monkeypatch.setattr(model_files, "from_bytes", lambda data: 1 / 0)
    figures = model_files.fuzz(3, 0, [bytes(4) + b"TFL3" + bytes(200)])
    assert figures["finding_count"] == 3
    assert "ZeroDivisionError" in figures["findings"][0]["result"]


@pytest.fixture(scope="module")
def tflite() -> bytes:
    return to_tflite(random_network(np.random.default_rng(0), operator="conv2d"))


@pytest.mark.parametrize("kind", ["tflite", "onnx"])
def test_every_truncation_is_refused(kind):
    network = random_network(np.random.default_rng(1), operator="fully_connected")
    data = to_tflite(network) if kind == "tflite" else to_onnx(network)
    for length in range(0, len(data) - 1, 3):
        try:
            from_bytes(data[:length])
        except ModelFormatError:
            continue
        # FlatBuffers grow downwards and protobuf ends anywhere: the rest may be whole
        assert length > len(data) // 2


@pytest.mark.parametrize("data", [b"", b"TFL3", b"\x00" * 8 + b"TFL3", b"\xff" * 100, b"PK\x03\x04", b"{}"])
def test_what_is_no_model_is_refused(data):
    with pytest.raises(ModelFormatError):
        from_bytes(data)


def place_of_vector(data: bytes, table: Table, field: int) -> int:
    """Where a vector's length stands."""
    place = table.position + int(table.fields[field])
    return place + struct.unpack_from("<I", data, place)[0]


def overwritten(data: bytes, place: int, *numbers: int) -> bytes:
    damaged = bytearray(data)
    struct.pack_into(f"<{len(numbers)}I", damaged, place, *numbers)
    return bytes(damaged)


def subgraph(data: bytes) -> Table:
    return root(data, b"TFL3").tables(Model.SUBGRAPHS, 1)[0]


@pytest.mark.parametrize("length", [2**32 - 1, 2**31, 2**20])
def test_a_vector_longer_than_the_file_is_refused(tflite, length):
    place = place_of_vector(tflite, subgraph(tflite), SubGraph.TENSORS)
    with pytest.raises(ModelFormatError):
        from_bytes(overwritten(tflite, place, length))


def test_a_shape_beyond_all_memory_is_refused_at_once(tflite):
    tensor = subgraph(tflite).tables(SubGraph.TENSORS, 10)[0]
    place = place_of_vector(tflite, tensor, TensorField.SHAPE)
    started = time.perf_counter()
    with pytest.raises(ModelFormatError, match=r"shape|elements"):
        from_bytes(overwritten(tflite, place + 4, 2**30, 2**30, 2**30, 2**30))
    assert time.perf_counter() - started < 1


def test_one_buffer_claimed_as_the_scales_of_every_tensor_is_refused(tflite):
    """Scales are copied: a vector shared by many tensors must not be multiplied."""
    tensor = subgraph(tflite).tables(SubGraph.TENSORS, 10)[0]
    quantization = tensor.table(TensorField.QUANTIZATION)
    place = place_of_vector(tflite, quantization, QuantizationParameters.SCALE)
    with pytest.raises(ModelFormatError):
        from_bytes(overwritten(tflite, place, 200))


def test_a_table_that_points_at_itself_is_refused(tflite):
    with pytest.raises(ModelFormatError):
        from_bytes(overwritten(tflite, 0, 0))


def test_many_transposes_of_a_large_value_run_out_of_budget():
    model = onnx.load_from_string(to_onnx(random_network(np.random.default_rng(0), operator="reshape")))
    graph = model.graph
    del graph.node[:], graph.input[:]
    graph.input.append(onnx.helper.make_tensor_value_info("x", onnx.TensorProto.INT8, (1, 2**24)))
    for index in range(9000):
        graph.node.append(onnx.helper.make_node("Transpose", ["x"], [f"y{index}"], perm=[1, 0]))
    started = time.perf_counter()
    with pytest.raises(ModelFormatError, match="steps"):
        from_bytes(model.SerializeToString())
    assert time.perf_counter() - started < 5


def test_a_deeply_nested_onnx_file_is_refused():
    model = onnx.ModelProto()
    model.opset_import.add(version=17)
    graph = model.graph
    for _ in range(60):
        graph = graph.node.add(op_type="If", output=["y"]).attribute.add(name="then_branch").g
    with pytest.raises(ModelFormatError):
        from_bytes(model.SerializeToString())


def test_a_file_too_large_is_not_read(tmp_path):
    path = tmp_path / "large.tflite"
    with path.open("wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)
    with pytest.raises(ModelFormatError, match="at most"):
        load(path)
