"""What the tests of firmware need on the machine, and the program that they try ports with."""

import os
import shutil
from pathlib import Path

import pytest

from sanderling.firmware_export import toolchain

BENCH = Path(__file__).parent / "apps" / "bench"


def need(*tools: str) -> None:
    """Skips, loudly, where a tool is missing; a failure where CI says that it has to be there."""
    missing = [tool for tool in tools if shutil.which(tool) is None]
    if missing:
        packages = " ".join(toolchain.PACKAGES[tool] for tool in missing)
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"apt-get install {packages}")
