"""The table of boards, against what their data sheets say."""

import pytest

from sanderling.firmware_export.boards import BOARDS, board
from sanderling.models.errors import UsageError


def test_a_board_is_found_by_name() -> None:
    found = board("nucleo-f446re")
    assert (found.core, found.clock_hz) == ("Cortex-M4F", 180_000_000)
    assert (found.flash_bytes, found.sram_bytes) == (524_288, 131_072)


def test_an_unknown_board_is_refused_with_those_there_are() -> None:
    with pytest.raises(
        UsageError, match=r"unknown board 'nucleo'; expected one of .*nano33ble.*--sram and --flash"
    ):
        board("nucleo")


@pytest.mark.parametrize("name", ["nucleo-f446re", "nano33ble", "rpi-pico", "esp32-s3"])
def test_the_boards_of_the_manual_are_there(name: str) -> None:
    assert BOARDS[name].name == name


def test_every_board_says_where_its_figures_come_from() -> None:
    for each in BOARDS.values():
        assert each.source
        assert each.sram_bytes < each.flash_bytes
