"""The boards we know by name: core, clock, flash and SRAM, each from the data sheet that it names.

SRAM is the largest region of consecutive addresses that one core reaches, since the arena is one static array.
What an operating system or a radio stack takes of it is not deducted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sanderling.models.errors import UsageError

Core = Literal[
    "Cortex-M0+", "Cortex-M3", "Cortex-M4F", "Cortex-M7", "Cortex-M33", "Cortex-M55", "Xtensa LX7"
]  # the one the firmware runs on, where there are several


@dataclass(frozen=True, slots=True, kw_only=True)
class Board:
    """A board, or a microcontroller on one."""

    name: str
    microcontroller: str
    core: Core
    clock_hz: int  # at most
    flash_bytes: int
    sram_bytes: int
    source: str
    note: str = ""


def board(name: str) -> Board:
    """The board of that name; UsageError names those there are."""
    if name not in BOARDS:
        raise UsageError(
            f"unknown board {name!r}; expected one of {', '.join(BOARDS)}. "
            "For another one take the nearest, with --sram and --flash"
        )
    return BOARDS[name]


_KB = 1024
_MB = 1024 * _KB
_MHZ = 1_000_000

BOARDS = {
    each.name: each
    for each in (
        Board(
            name="bluepill",
            microcontroller="STM32F103C8",
            core="Cortex-M3",
            clock_hz=72 * _MHZ,
            flash_bytes=64 * _KB,
            sram_bytes=20 * _KB,
            source="ST DS5319, STM32F103x8 STM32F103xB",
        ),
        Board(
            name="nucleo-g071rb",
            microcontroller="STM32G071RB",
            core="Cortex-M0+",
            clock_hz=64 * _MHZ,
            flash_bytes=128 * _KB,
            sram_bytes=36 * _KB,
            source="ST DS12232, STM32G071x8/xB",
            note="32 KB of SRAM with parity checking switched on",
        ),
        Board(
            name="nucleo-f446re",
            microcontroller="STM32F446RE",
            core="Cortex-M4F",
            clock_hz=180 * _MHZ,
            flash_bytes=512 * _KB,
            sram_bytes=128 * _KB,
            source="ST DS10693, STM32F446xC/E",
        ),
        Board(
            name="nucleo-f746zg",
            microcontroller="STM32F746ZG",
            core="Cortex-M7",
            clock_hz=216 * _MHZ,
            flash_bytes=1 * _MB,
            sram_bytes=320 * _KB,
            source="ST DS10916, STM32F745xx STM32F746xx",
            note="64 KB of tightly coupled memory, SRAM1 and SRAM2, one after the other",
        ),
        Board(
            name="stm32h747",
            microcontroller="STM32H747XI",
            core="Cortex-M7",
            clock_hz=480 * _MHZ,
            flash_bytes=2 * _MB,
            sram_bytes=512 * _KB,
            source="ST DS12930, STM32H747xI/G",
            note="AXI SRAM; the rest of its 1 MB lies in other regions",
        ),
        Board(
            name="nano33ble",
            microcontroller="nRF52840",
            core="Cortex-M4F",
            clock_hz=64 * _MHZ,
            flash_bytes=1 * _MB,
            sram_bytes=256 * _KB,
            source="Nordic nRF52840 Product Specification; Arduino ABX00030 data sheet",
            note="Mbed OS and the Bluetooth stack take part of it",
        ),
        Board(
            name="rpi-pico",
            microcontroller="RP2040",
            core="Cortex-M0+",
            clock_hz=133 * _MHZ,
            flash_bytes=2 * _MB,
            sram_bytes=264 * _KB,
            source="Raspberry Pi RP2040 and Pico data sheets",
            note="flash is a chip beside the microcontroller",
        ),
        Board(
            name="rpi-pico-2",
            microcontroller="RP2350",
            core="Cortex-M33",
            clock_hz=150 * _MHZ,
            flash_bytes=4 * _MB,
            sram_bytes=520 * _KB,
            source="Raspberry Pi RP2350 and Pico 2 data sheets",
            note="flash is a chip beside the microcontroller",
        ),
        Board(
            name="esp32-s3",
            microcontroller="ESP32-S3-WROOM-1-N8",
            core="Xtensa LX7",
            clock_hz=240 * _MHZ,
            flash_bytes=8 * _MB,
            sram_bytes=512 * _KB,
            source="Espressif ESP32-S3 and ESP32-S3-WROOM-1 data sheets",
            note="caches, ESP-IDF and Wi-Fi take part of it",
        ),
    )
}
