"""The self-test's hash is the reference's, and a board that computes otherwise is found out."""

import pytest

from sanderling.models import zoo
from sanderling.models.native import Native
from tests.firmware_export.flashed import Flashed

OK, NO_SPACE, ARITHMETIC_DIFFERS = 0, -17, -16


@pytest.mark.parametrize("name", ["watch-cnn", "tiny-mlp", "fashion-ds-cnn"])
def test_the_hash_is_that_of_the_reference(runtime: Native, name: str) -> None:
    flashed = Flashed(runtime, zoo.package(name))
    assert flashed.self_test() == OK
    flashed.scratch = runtime.ffi.cast("void *", flashed.arena)  # they take turns
    flashed.scratch_bytes = flashed.model.network.arena_bytes
    needed = runtime.lib.sl_self_test_scratch_bytes(flashed.model)
    assert flashed.self_test() == (OK if needed <= flashed.scratch_bytes else NO_SPACE)


def test_other_bytes_are_found_out(runtime: Native) -> None:
    flashed = Flashed(runtime, zoo.package("watch-cnn"))
    golden = bytearray(runtime.ffi.buffer(flashed.model.golden, 32))
    golden[31] ^= 1
    other = runtime.ffi.from_buffer("uint8_t[]", golden)
    flashed.model.golden = other
    assert flashed.self_test() == ARITHMETIC_DIFFERS


def test_too_little_memory_is_no_difference(runtime: Native) -> None:
    flashed = Flashed(runtime, zoo.package("watch-cnn"))
    flashed.scratch_bytes = runtime.lib.sl_self_test_scratch_bytes(flashed.model) - 1
    assert flashed.self_test() == NO_SPACE
