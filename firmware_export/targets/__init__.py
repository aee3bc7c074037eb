"""The targets that firmware is exported for: a core's toolchain file, a board's port, its memories, and how far it is tried.

CMake's side of the same list is boards/boards.cmake; a test holds the two together.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sanderling.models.errors import UsageError

FOLDER = Path(__file__).parent
Core = Literal["cortex-m0plus", "cortex-m3", "cortex-m4f", "cortex-m7", "cortex-m33", "cortex-m55"]

_KB = 1024
_EMULATED = "built and run in QEMU by the tests"


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A board with a port of ours, or a core alone, whose port is to be written."""

    name: str
    core: Core | None  # None: the machine at hand
    sram_bytes: int | None = None
    flash_bytes: int | None = None  # for the program: what a boot loader and the port's storage take is off
    emulated_memory: str | None = None  # what QEMU's machine of that name wants for -m
    has_port: bool = True
    status: str = _EMULATED

    @property
    def toolchain_file(self) -> Path | None:
        return FOLDER / "cmake" / f"{self.core}.cmake" if self.core else None

    @property
    def port_folder(self) -> str:
        """The folder of boards/ that holds its port, or the template of one."""
        if self.emulated_memory is not None:
            return "qemu"
        return self.name if self.has_port else "template"


def target(name: str) -> Target:
    """The target of that name; UsageError names those there are."""
    if name not in TARGETS:
        raise UsageError(
            f"unknown target {name!r}; expected one of {', '.join(TARGETS)}. For another board take its core, "
            "as cortex-m4f, and write the port in one file"
        )
    return TARGETS[name]


def _core(core: Core) -> Target:
    return Target(
        name=core, core=core, has_port=False, status="the library is built by the tests; the port is yours"
    )


TARGETS = {
    each.name: each
    for each in (
        Target(
            name="mps2-an385",
            core="cortex-m3",
            sram_bytes=4096 * _KB,
            flash_bytes=4096 * _KB,
            emulated_memory="16M",
        ),
        Target(
            name="mps2-an386",
            core="cortex-m4f",
            sram_bytes=4096 * _KB,
            flash_bytes=4096 * _KB,
            emulated_memory="16M",
        ),
        Target(
            name="mps2-an500",
            core="cortex-m7",
            sram_bytes=4096 * _KB,
            flash_bytes=4096 * _KB,
            emulated_memory="16M",
        ),
        Target(
            name="mps2-an505",
            core="cortex-m33",
            sram_bytes=4096 * _KB,
            flash_bytes=4096 * _KB,
            emulated_memory="16M",
        ),
        Target(
            name="mps3-an547",
            core="cortex-m55",
            sram_bytes=4096 * _KB,
            flash_bytes=512 * _KB,
            emulated_memory="2G",
        ),
        Target(
            name="nucleo-f446re",
            core="cortex-m4f",
            sram_bytes=128 * _KB,
            flash_bytes=320 * _KB,
            status="compiled, never run on the board",
        ),
        Target(
            name="nano33ble",
            core="cortex-m4f",
            sram_bytes=256 * _KB,
            flash_bytes=896 * _KB,
            status="compiled, never run on the board",
        ),
        Target(name="host", core=None, status="built and run by the tests"),
        _core("cortex-m0plus"),
        _core("cortex-m3"),
        _core("cortex-m4f"),
        _core("cortex-m7"),
        _core("cortex-m33"),
        _core("cortex-m55"),
    )
}

EMULATED = tuple(each for each in TARGETS.values() if each.emulated_memory)
