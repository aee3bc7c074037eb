"""What lowering makes of a network, before any C reads it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from sanderling.models import lowering, zoo
from sanderling.models.c_data import Function, Struct, Table
from sanderling.models.cost import plan_arena
from sanderling.models.errors import ModelFormatError
from sanderling.models.lowering import lower, paired_words
from sanderling.models.network import FullyConnected, Layer, Network, Quantization, Reshape, Tensor

HALF = Quantization(scales=(0.5,), zero_points=(0,))


def tensor(name: str, *shape: int, data: np.ndarray | None = None) -> Tensor:
    return Tensor(name=name, shape=shape, dtype="int8", quantization=HALF, data=data)


def reshaped_dense(*, kept: bool) -> Network:
    """x (1, 2, 3) -> flat (1, 6) -> y (1, 3). `kept`: x is an output too, so that its place is not free."""
    weights = np.arange(18, dtype=np.int8).reshape(3, 6)
    return Network(
        name="reshaped",
        tensors=(
            tensor("x", 1, 2, 3),
            tensor("flat", 1, 6),
            tensor("y", 1, 3),
            tensor("w", 3, 6, data=weights),
        ),
        layers=(
            Layer(name="reshape", operator=Reshape(), inputs=(0,), outputs=(1,)),
            Layer(name="dense", operator=FullyConnected(), inputs=(1, 3), outputs=(2,)),
        ),
        inputs=(0,),
        outputs=(2, 0) if kept else (2,),
    )


def nodes(lowered: lowering.Lowered) -> tuple[Struct, ...]:
    table = lowered.network.fields["nodes"]
    assert isinstance(table, Table)
    assert isinstance(table.values, tuple)
    return table.values


def parameters(node: Struct) -> Struct:
    table = node.fields["parameters"]
    assert isinstance(table, Table)
    (struct,) = table.values
    assert isinstance(struct, Struct)
    return struct


def test_words_take_turns_between_two_channels_and_end_in_zeros():
    words = paired_words(np.array([[1, 2, 3, 4, 5], [6, 7, 8, 9, 10], [-1, -2, -3, -4, -5]], np.int8))
    assert [f"{word:08x}" for word in words] == [
        "04030201",
        "09080706",
        "00000005",
        "0000000a",
        "fcfdfeff",
        "00000000",
        "000000fb",
        "00000000",
    ]


def test_a_reshape_in_place_is_no_node():
    lowered = lower(reshaped_dense(kept=False))
    assert lowered.first_node_of_layer == (0, 0, 1)
    assert [node.fields["run"] for node in nodes(lowered)] == [Function(name="sl_dense")]


def test_a_reshape_of_what_is_still_read_copies_it():
    lowered = lower(reshaped_dense(kept=True))
    assert lowered.first_node_of_layer == (0, 1, 2)
    assert [node.fields["run"] for node in nodes(lowered)] == [
        Function(name="sl_copy"),
        Function(name="sl_dense"),
    ]
    assert [place.shape for place in lowered.outputs] == [(1, 3), (1, 2, 3)]


def test_scratch_lies_behind_the_planned_arena():
    network = reshaped_dense(kept=False)
    planned, lowered = plan_arena(network).size_bytes, lower(network)
    # Rows of 6 terms are no whole words: two of 8 bytes each.
    assert lowered.arena_bytes == planned + 16
    assert parameters(nodes(lowered)[0]).fields["scratch"] == planned


@pytest.mark.parametrize("name", zoo.shipped())
def test_the_zoo_needs_little_more_than_its_planned_arena(name):
    network = zoo.load(name).network
    planned, lowered = plan_arena(network), lower(network)
    assert planned.size_bytes <= lowered.arena_bytes <= planned.size_bytes + 1024
    places = [place for place in lowered.places if place is not None]
    assert {place.tensor: place.offset for place in places} == planned.offsets


def test_sums_that_may_pass_two_to_the_thirty_are_not_quick():
    network = reshaped_dense(kept=False)
    weights = network.tensors[3]
    for bias, quick in ((2**30 - 255 * 87 - 1, True), (2**30 - 255 * 87, False)):  # 87: the last row's sum
        biased = replace(
            network,
            tensors=(
                *network.tensors[:2],
                replace(
                    network.tensors[2],
                    quantization=Quantization(scales=(float(np.float32(0.6)),), zero_points=(0,)),
                ),
                weights,
                Tensor(name="b", shape=(3,), dtype="int32", data=np.array([0, 0, bias], np.int32)),
            ),
            layers=(network.layers[0], replace(network.layers[1], inputs=(1, 3, 4))),
        )
        product = parameters(nodes(lower(biased))[0]).fields["product"]
        assert isinstance(product, Struct)
        assert product.fields["quick"] is quick


def test_what_has_no_kernel_is_refused_by_name(monkeypatch):
    monkeypatch.delitem(lowering._KERNELS, FullyConnected)
    with pytest.raises(ModelFormatError, match=r"layer 'dense' \(FullyConnected\) has no C kernel"):
        lower(reshaped_dense(kept=False))


def test_an_output_that_is_a_constant_is_refused():
    network = reshaped_dense(kept=False)
    with pytest.raises(ModelFormatError, match="an output that is a constant"):
        lower(replace(network, outputs=(2, 3)))
