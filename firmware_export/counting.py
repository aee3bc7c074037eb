"""Counts the instructions that a program executes in QEMU: the same number every run. Instructions are not cycles.

The program calls board_mark() before and after what is to be counted; a plugin of QEMU's code generator counts between.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from sanderling.firmware_export import toolchain
from sanderling.firmware_export.targets import FOLDER, Target
from sanderling.models.errors import MissingError, SanderlingError
from sanderling.models.native import cache_folder

PLUGIN = FOLDER / "counting" / "count.c"


def count(
    program: toolchain.Program, target: Target, *, arguments: Sequence[str] = (), timeout_s: float = 600.0
) -> tuple[toolchain.Run, list[int]]:
    """How the program ended, and the instructions between one call of board_mark() and the next.

    What board_mark() itself takes is off: two calls one after the other have 0 between them.
    """
    address, _ = toolchain.symbols(program.elf)["board_mark"]
    with tempfile.TemporaryDirectory(prefix="sanderling-count-") as folder:
        out = Path(folder) / "counts"
        option = f"{_plugin()},mark={address & ~1:#x},out={out}"
        ended = toolchain.run(
            program, target, arguments=arguments, timeout_s=timeout_s, emulator_options=("-plugin", option)
        )
        passes = [int(line) for line in out.read_text().split()] if out.exists() else []
    # The first pass is counted from reset on; the second follows at once, so that it tells what a call takes.
    if len(passes) < 2:
        raise SanderlingError(
            f"{program.elf.name} calls board_mark() {len(passes)} times; status {ended.status}, log {ended.log!r}"
        )
    return ended, [each - passes[1] for each in passes[2:]]


def _plugin() -> Path:
    """The plugin, built once."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise MissingError("no C compiler: apt-get install gcc libc6-dev")
    digest = hashlib.blake2b(PLUGIN.read_bytes(), digest_size=8).hexdigest()
    built = cache_folder() / "native" / f"count-{digest}.so"
    if not built.exists():
        built.parent.mkdir(parents=True, exist_ok=True)
        command = [
            compiler,
            "-O2",
            "-Wall",
            "-Wextra",
            "-Werror",
            "-fPIC",
            "-shared",
            str(PLUGIN),
            "-o",
            f"{built}.new",
        ]
        subprocess.run(command, check=True, capture_output=True)
        Path(f"{built}.new").rename(built)
    return built
