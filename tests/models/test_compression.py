"""From a change to a small one: masks, clipping, 8-bit values, and what they leave out."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from sanderling.models.compression import (
    clip,
    dequantize,
    feed_back_error,
    quantize,
    shared_mask,
    squared_norm,
    top_k,
)
from sanderling.models.random_bits import below, derive_key, random_words
from sanderling.models.tail import THETA_LIMIT

words32 = st.integers(0, 2**32 - 1)
keys = st.tuples(words32, words32)
changes = arrays.arrays(np.int32, st.integers(1, 60), elements=st.integers(-2 * THETA_LIMIT, 2 * THETA_LIMIT))


def vector(*values):
    return np.array(values, dtype=np.int32)


# Masks


@given(st.text(max_size=8), st.integers(0, 2**32), st.integers(1, 300), st.data())
def test_shared_mask_is_ascending_and_of_the_size_asked_for(federation, epoch, dimension, data):
    count = data.draw(st.integers(1, dimension))
    mask = shared_mask(federation, epoch, dimension, count)
    assert mask.dtype == np.int32
    assert len(mask) == count
    assert (np.diff(mask) > 0).all()
    assert 0 <= mask[0] <= mask[-1] < dimension


def test_shared_mask_takes_each_coordinate_equally_often():
    counts = np.zeros(10)
    for epoch in range(3000):
        counts[shared_mask("uniform", epoch, 10, 3)] += 1
    expected = 900
    chi_squared = float((((counts - expected) ** 2) / (expected * 0.7)).sum())
    assert chi_squared < 23.6  # 9 degrees of freedom, p = .005


def test_shared_mask_is_selection_sampling():
    words = random_words(derive_key("mask", "f", 2), 6).tolist()
    chosen = []
    for index in range(6):
        if (words[index] * (6 - index)) >> 32 < 3 - len(chosen):
            chosen.append(index)
    assert shared_mask("f", 2, 6, 3).tolist() == chosen


@pytest.mark.parametrize("count", [0, -1, 6])
def test_shared_mask_refuses_a_size_beyond_the_dimension(count):
    with pytest.raises(ValueError, match="a mask has 1 to 5 coordinates"):
        shared_mask("f", 0, 5, count)


def test_top_k_takes_the_largest_magnitudes_and_the_lower_index_of_equals():
    assert top_k(vector(3, -9, 3, 0, 9, -3), 3).tolist() == [0, 1, 4]
    assert top_k(vector(-(2**31), 2**31 - 1, 5), 1).tolist() == [0]


# Clipping


def test_clip_scales_three_four_five():
    # 25 > 10: factor = floor(2**16 * 10 / 51) = 12850; 30 * 12850 >> 16 = 5, 40 * 12850 >> 16 = 7
    assert clip(vector(30, -40), 10).tolist() == [5, -7]


@given(changes, st.integers(1, 10**6))
def test_clipped_norm_is_at_most_the_bound_and_close_to_it(change, norm):
    clipped = clip(change, norm)
    assert squared_norm(clipped) <= norm * norm
    if squared_norm(change) <= norm * norm:
        assert clipped.tolist() == change.tolist()
    else:
        wanted = change * (norm / math.sqrt(squared_norm(change)))
        slack = 1 + np.abs(wanted) / math.isqrt(squared_norm(change)) + np.abs(change) / 2**16
        assert (np.abs(clipped) <= np.abs(wanted)).all()
        assert (np.abs(wanted) - np.abs(clipped) <= slack).all()


@given(changes)
def test_clip_without_bound_changes_nothing(change):
    assert clip(change, 0).tolist() == change.tolist()


# Quantisation


@given(changes, st.integers(0, 10), keys, st.data())
def test_quantised_value_is_one_of_the_two_steps_around_or_the_limit(change, shift, key, data):
    count = data.draw(st.integers(1, change.size))
    coordinates = top_k(change, count)
    sent = quantize(change, coordinates, shift, key)
    down = change[coordinates] >> shift
    up = -(-change[coordinates] >> shift)
    values = sent.values.astype(np.int32)
    assert np.isin(values - np.clip(down, -127, 127), (0, 1)).all()
    assert (values <= np.clip(up, -127, 127)).all()
    assert sent.coordinates.tolist() == coordinates.tolist()


@given(st.integers(-127 * 64, 127 * 64), keys)
def test_quantisation_expects_its_input(value, key):
    """Over all 64 offsets of the last 6 bits exactly; the words below decide which."""
    offsets = np.arange(64)
    assert ((value + offsets) >> 6).sum() == value
    many = np.full(64, value, dtype=np.int32)
    sent = quantize(many, np.arange(64, dtype=np.int32), 6, key)
    drawn = below(random_words(key, 64), 64)
    assert sent.values.tolist() == np.clip((value + drawn) >> 6, -127, 127).tolist()


@given(changes, st.integers(0, 10), keys, st.integers(0, 10**6))
def test_sent_and_left_over_add_up(change, shift, key, bound):
    sent = quantize(change, top_k(change, max(1, change.size // 2)), shift, key)
    left = feed_back_error(change, sent, 0)
    assert (dequantize(sent) + left).tolist() == change.tolist()
    if bound:
        assert squared_norm(feed_back_error(change, sent, bound)) <= bound * bound


def test_dequantised_update_is_zero_off_its_coordinates():
    sent = quantize(vector(0, 512, 0, -1024), vector(1, 3), 8, (1, 2))
    assert dequantize(sent).tolist() == [0, 512, 0, -1024]
