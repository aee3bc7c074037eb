"""The C runtime, built once a session: for this machine, and with the bench program for the emulated boards."""

import os
import shutil

import pytest

from sanderling.firmware_export import native, toolchain
from sanderling.firmware_export.targets import EMULATED, Target
from sanderling.models.native import Native, open_library
from tests.firmware_export.tools import BENCH, need


@pytest.fixture(scope="session")
def runtime() -> Native:
    if shutil.which("cc") is None:
        pytest.skip("no C compiler")
    flags = os.environ.get("SANDERLING_NATIVE_FLAGS", "-O2").split()
    return open_library(native.library(flags=flags), native.headers())


@pytest.fixture(scope="session", params=EMULATED, ids=lambda board: board.name)
def bench(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Target, toolchain.Program]:
    """The bench program on one board."""
    need("arm-none-eabi-gcc", "qemu-system-arm", "cmake", "ninja")
    board: Target = request.param
    folder = tmp_path_factory.mktemp(board.name)
    (folder / "none").mkdir()
    programs = toolchain.build(board, folder / "build", networks=[folder / "none"], applications=[BENCH])
    return board, programs["bench-none"]
