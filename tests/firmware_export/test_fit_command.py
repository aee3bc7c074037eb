"""The command `fit`: what it prints, and how it fails."""

import argparse
from pathlib import Path

import pytest

from sanderling.commands import fit as command
from sanderling.commands import options
from sanderling.console import Console
from sanderling.firmware_export.errors import FitError
from sanderling.models.errors import UsageError
from sanderling.models.exporters.tflite import to_tflite
from tests.firmware_export.networks import two_layers


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "dense.tflite"
    path.write_bytes(to_tflite(two_layers()))
    return path


def run(*words: str) -> tuple[dict, str]:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return command.run(parser.parse_args(words), Console(as_json=True))


def test_a_model_that_fits_is_reported(model: Path) -> None:
    plain, text = run(str(model), "--board", "nano33ble")
    assert plain["fits"]
    assert plain["board"]["microcontroller"] == "nRF52840"
    assert plain["sram"]["free_bytes"] == 256 * 1024 - plain["sram"]["used_bytes"]
    assert plain["multiply_accumulates"] == sum(layer["multiply_accumulates"] for layer in plain["layers"])
    assert "dense on nano33ble" in text


def test_a_model_that_does_not_fit_ends_with_status_3(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(FitError, match=r"'dense' does not fit rpi-pico:\nSRAM: .* layer ") as caught:
        run(str(model), "--board", "rpi-pico", "--sram", "2KB")
    assert caught.value.exit_status == 3
    assert "example cache" in capsys.readouterr().err, "the report comes before the error"


def test_sizes_take_the_place_of_the_board_s(model: Path) -> None:
    plain, _ = run(str(model), "--board", "rpi-pico", "--sram", "64KB", "--flash", "1MB", "--tail", "none")
    assert plain["sram"]["available_bytes"] == 65_536
    assert plain["flash"]["available_bytes"] == 1_048_576
    assert [item["name"] for item in plain["sram"]["items"]] == [
        "arena",
        "window",
        "link buffers",
        "node",
        "stack",
    ]


@pytest.mark.parametrize(
    ("text", "size"), [("65536", 65_536), ("64KB", 65_536), ("64 kib", 65_536), ("2MB", 2_097_152), ("7B", 7)]
)
def test_sizes_are_read(text: str, size: int) -> None:
    assert options.byte_count(text) == size


@pytest.mark.parametrize("text", ["", "0", "-1", "64GB", "1.5KB", "KB", "9" * 13])
def test_other_sizes_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="expected a size as 65536, 64KB or 1MB"):
        options.byte_count(text)


def test_a_missing_file_is_refused() -> None:
    with pytest.raises(UsageError, match=r"cannot read the model nowhere\.tflite"):
        run("nowhere.tflite", "--board", "nano33ble")
