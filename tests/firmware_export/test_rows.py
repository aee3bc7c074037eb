"""The loops written for Cortex-M0+ and for DSP instructions give the bytes of the portable ones, at every limit."""

import shutil
import subprocess
from pathlib import Path

import pytest

from sanderling.firmware_export.native import RUNTIME, WARNINGS
from tests.firmware_export.tools import need

APPLICATION = Path(__file__).parent / "apps" / "rows"
SOURCES = APPLICATION / "main.c", RUNTIME / "src" / "rows.c"
MACHINES = {
    "microbit": "cortex-m0plus",
    "mps2-an385": "cortex-m3",
    "mps2-an386": "cortex-m4",
    "mps2-an500": "cortex-m7",
}


def build(compiler, out, *flags):
    command = [compiler, *WARNINGS, "-I", RUNTIME / "include", *flags, *SOURCES, "-o", out]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture(scope="module")
def portable(tmp_path_factory):
    if shutil.which("cc") is None:
        pytest.skip("no C compiler")
    program = build(
        "cc", tmp_path_factory.mktemp("rows") / "rows", "-O2", "-fsanitize=undefined", "-fno-sanitize-recover"
    )
    return subprocess.run([program], capture_output=True, text=True, check=True).stdout


def test_portable_loops_stay_as_they_are(portable):
    assert portable == "a4fce242"


@pytest.mark.qemu
@pytest.mark.parametrize("level", ["-O1", "-O2", "-Os"])
@pytest.mark.parametrize("machine", MACHINES)
def test_every_core_gives_the_same(machine, level, portable, tmp_path):
    need("arm-none-eabi-gcc", "qemu-system-arm")
    bare = (
        "-ffreestanding",
        "-nostartfiles",
        "--specs=picolibc.specs",
        "-T",
        APPLICATION / "bare.ld",
        "-Wl,-e,0",
    )
    program = build(
        "arm-none-eabi-gcc", tmp_path / "rows.elf", f"-mcpu={MACHINES[machine]}", "-mthumb", *bare
    )
    emulator = ["qemu-system-arm", "-M", machine, "-display", "none", "-serial", "none", "-monitor", "none"]
    done = subprocess.run(
        [*emulator, "-semihosting-config", "enable=on,target=native", "-kernel", program],
        capture_output=True, text=True, check=False, timeout=20,
    )  # fmt: skip
    assert portable in done.stdout + done.stderr
