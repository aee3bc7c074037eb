"""What networks cost, worked by hand, against TFLM's recorder, and by running networks inside their arenas."""

import os
import re
import tempfile
from pathlib import Path

import numpy as np
import pytest

from sanderling.models import importers, inference
from sanderling.models.cost import cost, plan_arena, tensor_bytes
from sanderling.models.errors import ModelFormatError
from sanderling.models.exporters.tflite import to_tflite
from sanderling.models.network import (
    Add,
    Elementwise,
    FullyConnected,
    Layer,
    Network,
    Quantization,
    Reshape,
    Tensor,
)
from sanderling.models.specimens import random_network

MLPERF_TINY = os.environ.get("SANDERLING_MLPERF_TINY")
ONE = Quantization(scales=(1.0,), zero_points=(0,))


def activation(name: str, size: int) -> Tensor:
    return Tensor(name=name, shape=(1, size), dtype="int8", quantization=ONE)


def weights(outputs: int, inputs: int) -> Tensor:
    data = np.ones((outputs, inputs), np.int8)
    return Tensor(name="w", shape=data.shape, dtype="int8", quantization=ONE, data=data)


def dense(name: str, *, reads: int, weights: int, writes: int) -> Layer:
    return Layer(name=name, operator=FullyConnected(), inputs=(reads, weights), outputs=(writes,))


def residual() -> Network:
    """a (32) -> b (64) -> c (64); d = b + c; e = relu d; f (16)."""
    tensors = (
        activation("a", 32),
        activation("b", 64),
        activation("c", 64),
        activation("d", 64),
        activation("e", 64),
        activation("f", 16),
        weights(64, 32),
        weights(64, 64),
        weights(16, 64),
    )
    layers = (
        dense("first", reads=0, weights=6, writes=1),
        dense("second", reads=1, weights=7, writes=2),
        Layer(name="add", operator=Add(), inputs=(1, 2), outputs=(3,)),
        Layer(name="relu", operator=Elementwise(function="relu"), inputs=(3,), outputs=(4,)),
        dense("last", reads=4, weights=8, writes=5),
    )
    return Network(name="residual", tensors=tensors, layers=layers, inputs=(0,), outputs=(5,))


def test_costs_of_each_layer_and_in_total() -> None:
    total = cost(residual())
    assert [layer.multiply_accumulates for layer in total.layers] == [64 * 32, 64 * 64, 0, 0, 16 * 64]
    assert [layer.weight_bytes for layer in total.layers] == [64 * 32, 64 * 64, 0, 0, 16 * 64]
    # with add and relu in place: a b | b c | b c | b | b f
    assert [layer.activation_bytes for layer in total.layers] == [96, 128, 128, 64, 80]
    assert (total.multiply_accumulates, total.weight_bytes) == (7168, 7168)
    assert (total.peak.name, total.heaviest.name) == ("second", "second")


def test_element_by_element_layers_write_over_what_nothing_reads_later() -> None:
    offsets = plan_arena(residual()).offsets
    assert offsets[1] == offsets[3] == offsets[4]  # b, d = b + c, e = relu d
    assert plan_arena(residual()).size_bytes == 128
    # each its own: b, c and d are alive during the addition
    assert plan_arena(residual(), in_place=False).size_bytes == 192


def test_an_input_that_is_read_again_is_not_written_over() -> None:
    tensors = (activation("a", 32), activation("b", 32), activation("c", 32))
    layers = (
        Layer(name="reshape", operator=Reshape(), inputs=(0,), outputs=(1,)),
        Layer(name="add", operator=Add(), inputs=(0, 1), outputs=(2,)),
    )
    network = Network(name="twice", tensors=tensors, layers=layers, inputs=(0,), outputs=(2,))
    offsets = plan_arena(network).offsets
    assert offsets[0] != offsets[1]
    kept = Network(name="kept", tensors=tensors[:2], layers=layers[:1], inputs=(0,), outputs=(0, 1))
    offsets = plan_arena(kept).offsets
    assert offsets[0] != offsets[1], "an output of the network keeps its place to the end"


def test_buffers_are_aligned_as_tflm_aligns_them() -> None:
    tensors = (activation("a", 3), activation("b", 17), weights(17, 3))
    network = Network(
        name="odd",
        tensors=tensors,
        layers=(dense("only", reads=0, weights=2, writes=1),),
        inputs=(0,),
        outputs=(1,),
    )
    assert plan_arena(network).offsets == {1: 0, 0: 32}
    assert plan_arena(network).size_bytes == 48


def test_shared_weights_count_once() -> None:
    tensors = (activation("a", 32), activation("b", 32), activation("c", 32), weights(32, 32))
    layers = (dense("first", reads=0, weights=3, writes=1), dense("again", reads=1, weights=3, writes=2))
    total = cost(Network(name="shared", tensors=tensors, layers=layers, inputs=(0,), outputs=(2,)))
    assert [layer.weight_bytes for layer in total.layers] == [1024, 0]
    assert total.multiply_accumulates == 2048


def test_a_network_without_layers_is_refused() -> None:
    with pytest.raises(ModelFormatError, match="'empty' has no layers"):
        cost(Network(name="empty", tensors=(activation("a", 4),), layers=(), inputs=(0,), outputs=(0,)))


@pytest.mark.parametrize("in_place", [True, False])
def test_networks_run_inside_their_arenas(in_place: bool) -> None:
    for seed in range(40):
        network = random_network(np.random.default_rng(seed), layers=1 + seed % 12)
        arena = plan_arena(network, in_place=in_place)
        given = network.tensors[network.inputs[0]]
        values = np.random.default_rng(seed).integers(-128, 128, given.shape).astype(given.dtype)
        memory = np.zeros(arena.size_bytes, np.uint8)
        write(memory, arena.offsets[network.inputs[0]], values)
        for layer in network.layers:
            write(memory, arena.offsets[layer.outputs[0]], computed(network, layer, memory, arena.offsets))
        expected = inference.run(network, one(given, values))[0]
        tensor = network.tensors[network.outputs[0]]
        assert read(memory, arena.offsets[network.outputs[0]], tensor).tobytes() == expected.tobytes()


def test_in_place_never_costs_memory() -> None:
    sizes = []
    for seed in range(100):
        network = random_network(np.random.default_rng(seed), layers=1 + seed % 12)
        sizes.append((plan_arena(network).size_bytes, plan_arena(network, in_place=False).size_bytes))
        live = max(layer.activation_bytes for layer in cost(network).layers)
        assert live <= plan_arena(network).size_bytes
    assert all(shared <= separate for shared, separate in sizes)
    assert any(shared < separate for shared, separate in sizes)


def test_plans_equal_those_of_tflm() -> None:
    """Mean is left out: its kernel asks for scratch buffers, ours needs none."""
    compared = 0
    for seed in range(120):
        data = to_tflite(random_network(np.random.default_rng(seed), layers=1 + seed % 12))
        network = importers.from_bytes(data)  # with the Pad layers that the exporter wrote
        if "Mean" not in {layer.operator for layer in cost(network).layers}:
            assert plan_arena(network, in_place=False).size_bytes == recorded(data)["head"], f"seed {seed}"
            compared += 1
    assert compared > 60


@pytest.mark.skipif(
    MLPERF_TINY is None, reason="set SANDERLING_MLPERF_TINY to the folder of MLPerf Tiny's files"
)
@pytest.mark.parametrize(
    ("file", "macs", "arena", "total"),
    [("kws_ref_model.tflite", 2_656_768, 16_000, 24_272), ("ad01_int8.tflite", 264_192, 768, 3_984)],
)
def test_mlperf_tiny(file: str, macs: int, arena: int, total: int) -> None:
    path = Path(str(MLPERF_TINY)) / file
    ours = cost(importers.load(path))
    assert ours.multiply_accumulates == macs
    assert ours.arena.size_bytes == arena
    # the rest of TFLM's arena is its interpreter's structures, which generated C holds as constants in flash
    assert recorded(path.read_bytes()) == {"head": arena, "tail": total - arena, "total": total}


def test_constants_have_no_place_in_the_arena() -> None:
    network = residual()
    assert set(plan_arena(network).offsets) == {i for i, t in enumerate(network.tensors) if t.data is None}


def recorded(data: bytes) -> dict[str, int]:
    """Bytes of TFLM's arena as its recorder prints them: head (the plan), tail (structures), total."""
    runtime = pytest.importorskip(
        "tflite_micro.python.tflite_micro.runtime", reason="the wheel of TFLM is for x86-64 only"
    )
    with tempfile.TemporaryFile() as file:
        saved = os.dup(2)
        os.dup2(file.fileno(), 2)
        try:
            runtime.Interpreter.from_bytes(data, arena_size=1 << 22).print_allocations()
        finally:
            os.dup2(saved, 2)
            os.close(saved)
        file.seek(0)
        found = re.findall(r"Arena allocation (\w+) (\d+) bytes", file.read().decode())
    return {name: int(size) for name, size in found}


def computed(network: Network, layer: Layer, memory: np.ndarray, offsets: dict[int, int]) -> np.ndarray:
    """What the layer alone makes of what lies in the arena."""
    reads = tuple(dict.fromkeys(i for i in layer.inputs if network.tensors[i].data is None))
    alone = Network(
        name=layer.name, tensors=network.tensors, layers=(layer,), inputs=reads, outputs=layer.outputs
    )
    given = [one(network.tensors[i], read(memory, offsets[i], network.tensors[i])) for i in reads]
    return inference.run(alone, given)[0]


def one(tensor: Tensor, values: np.ndarray) -> np.ndarray:
    """A batch of one, as inference.run takes it."""
    shape = tensor.shape[1:] if tensor.shape[:1] == (1,) else tensor.shape
    return values.reshape(1, *shape)


def write(memory: np.ndarray, offset: int, values: np.ndarray) -> None:
    memory[offset : offset + values.nbytes] = np.frombuffer(values.tobytes(), np.uint8)


def read(memory: np.ndarray, offset: int, tensor: Tensor) -> np.ndarray:
    content = memory[offset : offset + tensor_bytes(tensor)].tobytes()
    return np.frombuffer(content, tensor.dtype).reshape(tensor.shape)
