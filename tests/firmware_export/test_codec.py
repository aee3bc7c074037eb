"""The update codec in C against the vectors and the Python codec: the same bytes, and the same refusals."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sanderling.broker import codec
from sanderling.broker.errors import CodecError, CodecVersionError
from sanderling.models.updates import QuantizedUpdate

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "codec.json").read_text())
OK, MALFORMED, UNKNOWN_VERSION, NO_SPACE = 0, -1, -3, -17


def encode(runtime, update, shared, capacity=None):
    """(status, bytes) of the C encoder, writing into `capacity` bytes."""
    ffi = runtime.ffi
    k = len(update.coordinates)
    coordinates = ffi.new("uint32_t[]", update.coordinates.tolist() or [0])
    values = ffi.new("int8_t[]", update.values.tolist() or [0])
    given = ffi.new("sl_quantized_update *", {"dimension": update.dimension, "count": k, "values": values})
    given.scale_shift = update.scale_shift
    given.coordinates = ffi.NULL if shared else coordinates
    capacity = 2 * k + 64 if capacity is None else capacity
    out, size = ffi.new("uint8_t[]", b"\xa5" * (capacity + 8)), ffi.new("uint32_t *")
    status = runtime.lib.sl_codec_encode(given, out, capacity, size)
    assert bytes(ffi.buffer(out, capacity + 8)[capacity : capacity + 8]) == b"\xa5" * 8
    return status, bytes(ffi.buffer(out, min(size[0], capacity)))


def decode(runtime, data, dimension, count, shared):
    """(status, update) of the C decoder."""
    ffi = runtime.ffi
    coordinates, values = ffi.new("uint32_t[]", count + 1), ffi.new("int8_t[]", count + 1)
    update = ffi.new("sl_quantized_update *", {"dimension": dimension, "count": count, "values": values})
    update.coordinates = ffi.NULL if shared else coordinates
    status = runtime.lib.sl_codec_decode(data, len(data), update)
    k = update.count
    return status, (list(coordinates)[:k], list(values)[:k], update.scale_shift) if status == OK else None


def reference_decode(data, dimension, coordinates, limit):
    try:
        done = codec.decode(data, dimension=dimension, coordinates=coordinates, max_coordinates=limit)
    except CodecVersionError:
        return UNKNOWN_VERSION, None
    except CodecError:
        return MALFORMED, None
    return OK, (done.coordinates.tolist(), done.values.tolist(), done.scale_shift)


def update_of(case):
    return QuantizedUpdate(
        dimension=case["dimension"],
        coordinates=np.array(case["coordinates"], np.int32),
        values=np.array(case["values"], np.int8),
        scale_shift=case["scale_shift"],
    )


@pytest.mark.parametrize("case", VECTORS["accepted"], ids=lambda case: case["name"])
def test_accepted_vectors(runtime, case):
    update = update_of(case)
    for shared, name in ((True, "shared"), (False, "travelling")):
        data, k = bytes.fromhex(case[name]), len(case["coordinates"])
        assert encode(runtime, update, shared) == (OK, data)
        status, found = decode(runtime, data, update.dimension, k, shared)
        expected = [] if shared else case["coordinates"]
        assert (status, found[0][:k] if not shared else [], *found[1:]) == (
            OK,
            expected,
            case["values"],
            case["scale_shift"],
        )


@pytest.mark.parametrize("case", VECTORS["refused"], ids=lambda case: case["name"])
def test_refused_vectors(runtime, case):
    shared = case["coordinates"] is not None
    count = len(case["coordinates"]) if shared else case["dimension"]
    status, _ = decode(runtime, bytes.fromhex(case["data"]), case["dimension"], count, shared)
    assert status == (UNKNOWN_VERSION if case["reason"] == "unknown_version" else MALFORMED)


@st.composite
def updates(draw):
    d = draw(st.integers(1, 300))
    coordinates = sorted(draw(st.sets(st.integers(0, d - 1))))
    bound = draw(st.sampled_from([0, 1, 5, 40, 127]))
    size = len(coordinates)
    values = draw(st.lists(st.integers(-bound, bound), min_size=size, max_size=size))
    if values:
        values[draw(st.integers(0, size - 1))] = draw(st.integers(-127, 127))
    return QuantizedUpdate(
        dimension=d,
        coordinates=np.array(coordinates, np.int32),
        values=np.array(values, np.int8),
        scale_shift=draw(st.integers(0, 16)),
    )


@given(updates(), st.booleans())
def test_encoding_is_the_references(runtime, update, shared):
    expected = codec.encode(update, shared_coordinates=shared)
    assert encode(runtime, update, shared) == (OK, expected)
    assert encode(runtime, update, shared, len(expected)) == (OK, expected)


@given(updates(), st.booleans(), st.data())
def test_too_small_a_buffer_is_refused_and_kept_to(runtime, update, shared, data):
    size = len(codec.encode(update, shared_coordinates=shared))
    assert encode(runtime, update, shared, data.draw(st.integers(0, size - 1)))[0] == NO_SPACE


@settings(max_examples=300)
@given(updates(), st.booleans(), st.data())
def test_damaged_bytes_are_refused_exactly_when_the_reference_does(runtime, update, shared, data):
    damaged = bytearray(codec.encode(update, shared_coordinates=shared))
    for _ in range(data.draw(st.integers(0, 3))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    cut = data.draw(st.sampled_from([0, 0, 0, 1, 2]))
    damaged = bytes(damaged[: len(damaged) - cut]) + bytes(data.draw(st.sampled_from([0, 0, 0, 1])))
    compare(runtime, damaged, update, shared)


@given(st.binary(max_size=60), updates(), st.booleans())
def test_arbitrary_bytes_are_refused_exactly_when_the_reference_does(runtime, noise, update, shared):
    compare(runtime, noise, update, shared)
    flag = 0 if shared else 8
    compare(runtime, bytes([0x10 | flag | len(noise) % 8, 3]) + noise, update, shared)


def compare(runtime, data, update, shared):
    k, d = len(update.coordinates), update.dimension
    expected = reference_decode(data, d, update.coordinates if shared else None, k)
    status, found = decode(runtime, data, d, k, shared)
    assert status == expected[0]
    if status == OK:
        assert (found[0] if not shared else update.coordinates.tolist(), *found[1:]) == expected[1]


def test_carry_runs_through_a_string_of_ff_bytes(runtime):
    """Long runs of non-members push the code's low end up to where carries happen."""
    rng = np.random.default_rng(3)
    for _ in range(60):
        d = int(rng.integers(2_000, 9_000))
        coordinates = np.sort(rng.choice(d, int(rng.integers(1, d)), replace=False)).astype(np.int32)
        values = np.zeros(coordinates.size, np.int8)
        update = QuantizedUpdate(dimension=d, coordinates=coordinates, values=values, scale_shift=0)
        assert encode(runtime, update, False) == (OK, codec.encode(update, shared_coordinates=False))
