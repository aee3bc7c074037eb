"""Build the C runtime for this machine, which the device's agent then takes wherever exact arithmetic is asked for."""

from __future__ import annotations

import argparse
from typing import Any

from sanderling.console import Console
from sanderling.firmware_export import native


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """None."""


def run(arguments: argparse.Namespace, console: Console) -> tuple[dict[str, Any], str]:
    """Needs a C compiler, and the package that brings Monocypher from the index at the first call."""
    path = native.install()
    return {"library": str(path)}, f"built {path}"
