"""Counting instructions in QEMU."""

import pytest

from sanderling.firmware_export import counting

pytestmark = pytest.mark.qemu


def test_instructions_of_a_loop_are_counted_and_the_count_repeats(bench: tuple) -> None:
    board, program = bench
    ended, (loop, nothing) = counting.count(program, board, arguments=["do=loop"])
    assert ended.status == 0
    assert nothing == 0
    assert 4000 <= loop <= 6010, "three of nothing, and one to three for the loop"
    assert counting.count(program, board, arguments=["do=loop"])[1] == [loop, 0]
