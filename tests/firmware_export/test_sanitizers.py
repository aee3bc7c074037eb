"""The tests of the C runtime's training once more, under address and undefined-behaviour sanitizers."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent
NAMES = ("random_bits", "head", "compression", "codec", "examples", "trainer", "tail")
FLAGS = "-O1 -g -Wno-error -fsanitize=address,undefined -fno-sanitize-recover=all"


@pytest.mark.slow
def test_training_is_clean():
    if shutil.which("gcc") is None:
        pytest.skip("apt-get install gcc")
    asan = subprocess.run(["gcc", "-print-file-name=libasan.so"], capture_output=True, text=True, check=True)
    if not Path(asan.stdout.strip()).is_absolute():
        pytest.skip("gcc has no libasan here")
    # Python itself does not free all it takes.
    settings = {
        "LD_PRELOAD": asan.stdout.strip(),
        "ASAN_OPTIONS": "detect_leaks=0",
        "SANDERLING_NATIVE_FLAGS": FLAGS,
    }
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not slow"]
    files = [FOLDER / f"test_{name}.py" for name in NAMES]
    done = subprocess.run(
        [*command, *files], env=os.environ | settings, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
