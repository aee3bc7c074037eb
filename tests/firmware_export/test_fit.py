"""What fits a board: figures worked by hand, and the layer at fault by name."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sanderling.firmware_export.boards import Board, board
from sanderling.firmware_export.fit import (
    INFERENCE_CODE_BYTES,
    KERNEL_BYTES,
    LAYER_BYTES,
    LIBRARY_BYTES,
    LINK_CODE_BYTES,
    NODE_BYTES,
    RUNTIME_OPERATORS,
    STACK_BYTES,
    TRAINING_CODE_BYTES,
    FitReport,
    HeadTraining,
    fit,
    render,
)
from sanderling.models import importers
from sanderling.models.errors import ModelFormatError, UsageError
from sanderling.models.network import (
    Elementwise,
    FullyConnected,
    Layer,
    Network,
    Quantization,
    Softmax,
    Tensor,
)
from sanderling.models.specimens import random_network
from tests.firmware_export.networks import HALF, two_layers

MLPERF_TINY = os.environ.get("SANDERLING_MLPERF_TINY")
EVERY_BYTE = 1 << 30


def on(*, sram: int = EVERY_BYTE, flash: int = EVERY_BYTE) -> Board:
    return replace(board("rpi-pico"), sram_bytes=sram, flash_bytes=flash)


def sizes(report: FitReport, memory: str) -> dict[str, int]:
    return {item.name: item.size_bytes for item in getattr(report, memory).items}


def test_memory_of_a_network_and_its_training() -> None:
    report = fit(two_layers(), on(), training=HeadTraining(cache_examples=50, batch_size=8))
    assert sizes(report, "sram") == {
        "arena": 32 + 64,  # inputs and features, features and logits are less
        "window": 4 * 32,  # behind the input, which ends the arena
        "training": 520
        + 4 * 260
        - (96 + 128),  # d = 4 * 64 + 4 = 260: the head in training, its change; what is shared
        "round's head": 520,
        "example cache": 50 * (64 + 2) + 12 * 4,
        "held back": 2 * 12 * (64 + 2),
        "update": 260 + 192,
        "link buffers": 512 + 512,
        "node": NODE_BYTES,
        "stack": STACK_BYTES,
    }
    assert sizes(report, "flash") == {
        "weights": 64 * 32 + 4 * 64,
        "tables": 12 * (64 + 4) + 2 * LAYER_BYTES,
        "inference code": INFERENCE_CODE_BYTES + KERNEL_BYTES[FullyConnected],
        "link code": LINK_CODE_BYTES,
        "library": LIBRARY_BYTES,
        "training code": TRAINING_CODE_BYTES,
        "stored head": 4 * 260,
    }
    assert report.cost.multiply_accumulates == 64 * 32 + 4 * 64
    assert report.fits


def test_inference_alone_takes_no_training_memory() -> None:
    report = fit(two_layers(), on(), training=None)
    assert list(sizes(report, "sram")) == ["arena", "window", "link buffers", "node", "stack"]
    assert report.sram.used_bytes == 96 + 128 + 1024 + NODE_BYTES + STACK_BYTES


def test_it_fits_to_the_last_byte_and_not_beyond() -> None:
    used = fit(two_layers(), on(), training=None).sram.used_bytes
    assert fit(two_layers(), on(sram=used), training=None).fits
    assert not fit(two_layers(), on(sram=used - 1), training=None).fits
    used = fit(two_layers(), on(), training=None).flash.used_bytes
    assert fit(two_layers(), on(flash=used), training=None).fits
    assert not fit(two_layers(), on(flash=used - 1), training=None).fits


def test_a_cache_that_is_too_large_is_told_the_size_that_fits() -> None:
    small = fit(two_layers(), on(), training=HeadTraining(cache_examples=20))
    room = small.sram.used_bytes + 30  # less than one example more
    report = fit(two_layers(), on(sram=room), training=HeadTraining(cache_examples=500))
    (fault,) = report.faults
    assert (
        fault
        == (
            f"SRAM: {480 * 66 + 2 * 120 * 66 - 30 + 600:,} bytes too many; "  # 600: the order of 500 in the scratch memory
            "the example cache of layer 'head' (FullyConnected): --cache 20 fits"
        )
    )
    assert fit(two_layers(), on(sram=room), training=HeadTraining(cache_examples=20)).fits


def test_the_layer_of_the_arena_s_peak_is_named() -> None:
    wide = two_layers(inputs=6000, features=64)
    report = fit(wide, on(sram=8 * 1024), training=HeadTraining(cache_examples=4))
    (fault,) = report.faults
    assert "layer 'body' (FullyConnected) keeps 6,064 bytes of activations alive" in fault
    alone = fit(wide, on(sram=8 * 1024), training=None)
    assert "layer 'body'" in alone.faults[0]


def test_a_head_too_large_to_train_is_named() -> None:
    large = two_layers(features=2000, classes=20)
    (fault,) = fit(large, on(sram=64 * 1024), training=HeadTraining(cache_examples=20)).faults
    assert "layer 'head' (FullyConnected) has 40,020 parameters" in fault
    assert "--tail none" in fault


def test_the_layer_with_most_weights_is_named_when_flash_is_short() -> None:
    heavy = two_layers(inputs=1000, features=200)
    (fault,) = fit(heavy, on(flash=100 * 1024), training=None).faults
    assert "layer 'body' (FullyConnected) takes 200,000 of 200,800 bytes of weights" in fault


def test_stored_copies_count_for_the_head() -> None:
    large = two_layers(inputs=100, features=1000, classes=40)
    (fault,) = fit(large, on(flash=160 * 1024), training=HeadTraining()).faults
    assert f"layer 'head' (FullyConnected) takes {40_000 + 4 * 40_040:,} of" in fault


def test_a_runtime_that_is_larger_than_the_flash_is_said_so() -> None:
    (fault,) = fit(two_layers(), on(flash=16 * 1024), training=None).faults
    assert "the runtime alone does not fit" in fault


def test_an_operator_without_a_kernel_is_named_with_its_layer() -> None:
    base = two_layers()
    probabilities = Tensor(
        name="p",
        shape=(1, 4),
        dtype="int8",
        quantization=Quantization(scales=(1 / 256,), zero_points=(-128,)),
    )
    last = Layer(name="probabilities", operator=Softmax(), inputs=(2,), outputs=(5,))
    ending = Network(
        name="ends in softmax",
        tensors=(*base.tensors, probabilities),
        layers=(*base.layers, last),
        inputs=(0,),
        outputs=(5,),
    )
    assert fit(ending, on(), training=None).fits
    report = fit(ending, on(), training=None, operators=RUNTIME_OPERATORS - {Softmax})
    assert report.faults[0].startswith("layer 'probabilities' (Softmax): the firmware runtime has no kernel")


def test_names_from_a_file_are_escaped() -> None:
    base = two_layers()
    named = replace(base, layers=(replace(base.layers[0], name="\x1b[31mred\n"), base.layers[1]))
    fault = fit(named, on(), training=None, operators={Elementwise}).faults[0]
    assert fault.startswith(r"layer '\x1b[31mred\n' (FullyConnected)")


def test_a_network_without_a_dense_head_cannot_be_trained() -> None:
    base = two_layers()
    relu = Tensor(name="r", shape=(1, 4), dtype="int8", quantization=HALF)
    last = Layer(name="relu", operator=Elementwise(function="relu"), inputs=(2,), outputs=(5,))
    headless = Network(
        name="headless",
        tensors=(*base.tensors, relu),
        layers=(*base.layers, last),
        inputs=(0,),
        outputs=(5,),
    )
    with pytest.raises(ModelFormatError, match="no dense head"):
        fit(headless, on(), training=HeadTraining())
    assert fit(headless, on(), training=None).fits


@pytest.mark.parametrize(("cache", "batch"), [(0, 16), (8, 0), (8, 33)])
def test_training_that_no_device_does_is_refused(cache: int, batch: int) -> None:
    with pytest.raises(UsageError, match="batches of 1 to 32"):
        HeadTraining(cache_examples=cache, batch_size=batch)


def test_any_network_is_reported() -> None:
    for seed in range(40):
        report = fit(random_network(np.random.default_rng(seed)), board("nucleo-f446re"), training=None)
        text = render(report)
        assert f"{report.sram.used_bytes:,}" in text
        assert f"{report.flash.used_bytes:,}" in text


def test_a_margin_within_the_estimates_error_is_called_tight() -> None:
    used = fit(two_layers(), on(), training=None).sram.used_bytes
    assert "tight" in render(fit(two_layers(), on(sram=used + used // 20), training=None))
    assert "tight" not in render(fit(two_layers(), on(sram=2 * used), training=None))


@pytest.mark.skipif(
    MLPERF_TINY is None, reason="set SANDERLING_MLPERF_TINY to the folder of MLPerf Tiny's files"
)
def test_the_keyword_model_trains_its_head_within_32_kb() -> None:
    keyword = importers.load(Path(str(MLPERF_TINY)) / "kws_ref_model.tflite")
    report = fit(keyword, on(sram=32 * 1024), training=HeadTraining(cache_examples=42))
    examples = report.sram.size("example cache") + report.sram.size("held back")
    assert 4000 < examples <= 4 * 1024 + 12 * 12  # of 12 classes
    assert report.sram.size("arena") == 16_080
    assert report.fits
