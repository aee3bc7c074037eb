"""Compression of updates in C: the committed vectors, and the reference's integers for any change."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sanderling.models.compression import clip, quantize, shared_mask, squared_norm, top_k
from sanderling.models.updates import QuantizedUpdate

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "training_compression.json").read_text())

words = st.integers(0, 2**32 - 1)
vectors = st.lists(st.integers(-200_000, 200_000) | st.integers(-3, 3), min_size=1, max_size=60)


def mask(runtime, federation, epoch, dimension, count):
    choice = runtime.ffi.new("sl_choice *")
    runtime.lib.sl_choose_mask(choice, federation.encode(), epoch, dimension, count)
    return [runtime.lib.sl_next_coordinate(choice) for _ in range(count)]


def largest(runtime, vector, count):
    choice, values = runtime.ffi.new("sl_choice *"), runtime.ffi.new("int32_t[]", vector)
    runtime.lib.sl_choose_top_k(choice, values, len(vector), count)
    return [runtime.lib.sl_next_coordinate(choice) for _ in range(count)]


def clipped(runtime, vector, norm):
    values = runtime.ffi.new("int32_t[]", vector)
    runtime.lib.sl_clip(values, len(vector), norm)
    return list(values)


def quantized(runtime, values, norm, shift, key):
    given = runtime.ffi.new("int32_t[]", values)
    rule = runtime.ffi.new("sl_update_rule *", {"clipping_norm": norm, "scale_shift": shift})
    runtime.lib.sl_quantize(given, len(values), rule, key)
    return list(given)


@pytest.mark.parametrize("case", VECTORS["cases"], ids=lambda case: case["name"])
def test_vectors(runtime, case):
    change, coordinates = case["change"], case["coordinates"]
    of_mask = VECTORS["mask"]["federation"], VECTORS["mask"]["mask_epoch"]
    assert mask(runtime, *of_mask, len(change), len(coordinates)) == coordinates
    assert clipped(runtime, change, case["clipping_norm"]) == case["clipped"]
    chosen = [case["clipped"][i] for i in coordinates]
    assert quantized(runtime, chosen, 0, case["scale_shift"], case["key"]) == case["values"]
    assert largest(runtime, change, 5) == case["top_5"]


@given(st.text(st.characters(min_codepoint=33, max_codepoint=500), max_size=20), words, st.data())
def test_masks_are_the_references(runtime, federation, epoch, data):
    dimension = data.draw(st.integers(1, 120))
    count = data.draw(st.integers(1, dimension))
    found = mask(runtime, federation, epoch, dimension, count)
    assert found == shared_mask(federation, epoch, dimension, count).tolist()


@given(vectors, st.data())
def test_largest_magnitudes_are_the_references(runtime, vector, data):
    count = data.draw(st.integers(1, len(vector)))
    assert largest(runtime, vector, count) == top_k(np.array(vector, np.int32), count).tolist()


@given(vectors, st.integers(0, 300_000))
def test_clipping_is_the_references(runtime, vector, norm):
    assert clipped(runtime, vector, norm) == clip(np.array(vector, np.int32), norm).tolist()


@given(st.integers(0, 2**64 - 1) | st.integers(0, 2**32 - 1).map(lambda root: root * root))
def test_square_root_is_exact(runtime, x):
    assert runtime.lib.sl_square_root(x) == math.isqrt(x)


@given(vectors, st.integers(0, 300_000), st.integers(0, 16), st.tuples(words, words))
def test_quantised_values_are_the_references_and_within_the_norm(runtime, vector, norm, shift, key):
    values, coordinates = np.array(vector, np.int32), np.arange(len(vector), dtype=np.int32)
    sent = quantize(values, coordinates, shift, key)
    expected = shrunk(sent, norm)
    found = quantized(runtime, vector, norm, shift, key)
    assert found == expected
    assert norm == 0 or squared_norm(np.array(found, np.int32)) << 2 * shift <= norm * norm


def shrunk(sent: QuantizedUpdate, norm):
    steps = norm >> sent.scale_shift
    if norm == 0:
        return sent.values.tolist()
    return clip(sent.values.astype(np.int32), steps).tolist() if steps else [0] * sent.values.size
