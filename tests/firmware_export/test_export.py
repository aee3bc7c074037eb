"""The command `export firmware`: what it writes, refuses, and that what it writes builds and takes what was said."""

import argparse
import json
import subprocess
from pathlib import Path

import pytest

from sanderling.commands import export_firmware as command
from sanderling.console import Console
from sanderling.firmware_export import toolchain
from sanderling.firmware_export.errors import FitError
from sanderling.firmware_export.targets import target
from sanderling.models.errors import UsageError
from tests.firmware_export.tools import need


def run(*words: str) -> dict:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return command.run(parser.parse_args(words), Console(as_json=True))[0]


def build(folder: Path, *more: str) -> str:
    """As the README says."""
    commands = (["cmake", "-B", "build", "-G", "Ninja", *more], ["cmake", "--build", "build"])
    printed = ""
    for each in commands:
        done = subprocess.run(each, cwd=folder, capture_output=True, text=True, check=False)
        printed += done.stdout + done.stderr
        if done.returncode != 0:
            break
    return printed


@pytest.mark.slow
@pytest.mark.parametrize("model", ["watch-cnn", "fashion-ds-cnn", "tiny-mlp"])
def test_what_is_written_builds_and_takes_what_the_report_says(model: str, tmp_path: Path) -> None:
    need("arm-none-eabi-gcc", "cmake", "ninja")
    out = tmp_path / "out"
    plain = run(model, "--target", "nucleo-f446re", "--device", "mcu-06", "--out", str(out))
    assert json.loads((out / "report.json").read_text())["sram"] == plain["sram"]
    printed = build(out)
    assert "Memory region" in printed, printed[-2000:]
    assert b"mcu-06" in (out / "build" / "node-model").read_bytes()
    build(out, "-DSANDERLING_DEVICE=mcu-07")  # another device of the same kind
    program = toolchain.program(out / "build" / "node-model", target("nucleo-f446re"))
    assert b"mcu-07" in program.elf.read_bytes()
    flash = plain["flash"]["used_bytes"] - plain["flash"]["items"]["stored head"]  # which storage holds
    sram = plain["sram"]["used_bytes"] - plain["sram"]["items"]["stack"]
    assert program.flash_bytes == pytest.approx(flash, rel=0.1)
    assert program.sram_bytes == pytest.approx(sram, rel=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("core", ["cortex-m0plus", "cortex-m7"])
def test_a_core_comes_with_a_template_of_a_port_that_compiles(core: str, tmp_path: Path) -> None:
    need("arm-none-eabi-gcc", "cmake", "ninja")
    run("tiny-mlp", "--target", core, "--sram", "64KB", "--flash", "128KB", "--out", str(tmp_path / "out"))
    assert "Memory region" in build(tmp_path / "out")
    assert "TODO" in (tmp_path / "out" / "boards" / "template" / "board.c").read_text()


@pytest.mark.slow
def test_cmsis_nn_comes_along_when_it_is_asked_for(tmp_path: Path) -> None:
    need("arm-none-eabi-gcc", "cmake", "ninja")
    out = tmp_path / "out"
    run("watch-cnn", "--target", "mps2-an386", "--out", str(out), "--cmsis-nn", "--optimize", "speed")
    assert "Memory region" in build(out)
    program = toolchain.program(out / "build" / "node-model", target("mps2-an386"))
    assert "arm_convolve_s8" in toolchain.symbols(program.elf)
    assert (out / "third_party" / "cmsis" / "cmsis_nn" / "LICENSE.txt").exists()


@pytest.mark.slow
def test_gates_hold_when_sizes_are_changed_later(tmp_path: Path) -> None:
    need("arm-none-eabi-gcc", "cmake", "ninja")
    out = tmp_path / "out"
    run("watch-cnn", "--target", "nucleo-f446re", "--out", str(out))
    assert "region `RAM' overflowed" in build(out, "-DSANDERLING_SRAM=9000")
    header = out / "model" / "sanderling_memory.h"
    assert "SL_MEMORY_SRAM_BYTES = 131072" in header.read_text()
    header.write_text(
        header.read_text().replace("SL_MEMORY_SRAM_BYTES = 131072", "SL_MEMORY_SRAM_BYTES = 9000")
    )
    assert "take more SRAM than there is" in build(out, "-DSANDERLING_SRAM=131072")


def test_a_model_that_does_not_fit_writes_nothing(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(FitError, match=r"does not fit nucleo-f446re:\nSRAM: .* bytes too many; ") as caught:
        run("watch-cnn", "--target", "nucleo-f446re", "--sram", "8KB", "--out", str(out))
    assert caught.value.exit_status == 3
    assert not out.exists()


def test_flash_that_is_too_small_is_named(tmp_path: Path) -> None:
    with pytest.raises(FitError, match=r"flash: .* bytes too many"):
        run("watch-cnn", "--target", "nucleo-f446re", "--flash", "32KB", "--out", str(tmp_path / "out"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--target", "arduino"], "unknown target 'arduino'; expected one of mps2-an385"),
        (["--target", "host"], "target host is for tests"),
        (["--target", "cortex-m4f"], "give your board's memory with --sram and --flash"),
        (["--target", "nano33ble", "--cache", "0"], "at least 1 example in the cache"),
        (["--target", "nano33ble", "--device", "a b"], "--device: expected 1 to 64 of"),
    ],
)
def test_what_cannot_be_meant_is_refused(words: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        run("watch-cnn", *words, "--out", str(tmp_path / "out"))
    assert caught.value.exit_status == 2


def test_a_folder_with_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "board.c").write_text("my port")
    with pytest.raises(UsageError, match="is not an empty folder"):
        run("watch-cnn", "--target", "nano33ble", "--out", str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["board.c"]
