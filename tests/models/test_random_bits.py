"""Counter-based bits: the published answers of Threefry, and what is built on it."""

import hashlib
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sanderling.models.batched import permutations_of
from sanderling.models.random_bits import (
    below,
    derive_key,
    permutation,
    permutations,
    random_words,
    threefry2x32,
    words_of_streams,
)

words32 = st.integers(0, 2**32 - 1)
keys = st.tuples(words32, words32)

# Random123 1.14, tests/kat_vectors, "threefry2x32 20": counter, key, answer.
KNOWN_ANSWERS = [
    ((0x00000000, 0x00000000), (0x00000000, 0x00000000), (0x6B200159, 0x99BA4EFE)),
    ((0xFFFFFFFF, 0xFFFFFFFF), (0xFFFFFFFF, 0xFFFFFFFF), (0x1CB996FC, 0xBB002BE7)),
    ((0x243F6A88, 0x85A308D3), (0x13198A2E, 0x03707344), (0xC4923A9C, 0x483DF7A0)),
]


def lane(word):
    return np.array([word], dtype=np.uint32)


@pytest.mark.parametrize(("counter", "key", "answer"), KNOWN_ANSWERS)
def test_threefry_gives_the_known_answers(counter, key, answer):
    x0, x1 = threefry2x32(key, (lane(counter[0]), lane(counter[1])))
    assert (int(x0[0]), int(x1[0])) == answer


def test_word_is_a_lane_of_the_block_its_counter_names():
    key = (0x13198A2E, 0x03707344)
    x0, x1 = threefry2x32(key, (lane(3), lane(9)))
    assert random_words(key, 8, stream=9)[6:].tolist() == [int(x0[0]), int(x1[0])]


@given(keys, st.integers(0, 40), st.integers(0, 40), words32)
def test_fewer_words_are_a_prefix_of_more(key, count, more, stream):
    longer = random_words(key, count + more, stream=stream)
    assert random_words(key, count, stream=stream).tolist() == longer[:count].tolist()


@given(st.lists(keys, min_size=1, max_size=3), st.integers(0, 9), st.lists(words32, min_size=1, max_size=3))
def test_many_keys_and_streams_give_the_words_of_each(several, count, streams):
    halves = np.array(several, dtype=np.uint32).reshape(-1, 2, 1, 1)
    words = words_of_streams((halves[:, 0], halves[:, 1]), count, np.array(streams, dtype=np.uint32))
    assert words.shape == (len(several), len(streams), count)
    for key, of_key in zip(several, words, strict=True):
        for stream, of_stream in zip(streams, of_key, strict=True):
            assert of_stream.tolist() == random_words(key, count, stream=stream).tolist()


def test_key_is_blake2b_over_parts_with_their_lengths():
    text = b"\5\0round" + b"\3\0run" + b"\x08\0" + (7).to_bytes(8, "little") + b"\2\0\xff\0"
    digest = hashlib.blake2b(text, digest_size=8).digest()
    expected = int.from_bytes(digest[:4], "little"), int.from_bytes(digest[4:], "little")
    assert derive_key("round", "run", 7, b"\xff\0") == expected


def test_key_depends_on_where_parts_end():
    assert derive_key("mask", "ab", "c") != derive_key("mask", "a", "bc") != derive_key("maska", "bc")


@given(st.lists(words32, min_size=1, max_size=20), st.integers(1, 2**31))
def test_below_is_the_high_half_of_the_product(words, bound):
    expected = [word * bound >> 32 for word in words]
    assert below(np.array(words, dtype=np.uint32), bound).tolist() == expected
    assert max(expected) < bound


@given(keys, st.integers(0, 200), words32)
def test_permutation_is_one(key, count, stream):
    assert sorted(permutation(key, count, stream=stream).tolist()) == list(range(count))


def test_permutation_swaps_from_the_top():
    key, order = (1, 2), list(range(7))
    words = random_words(key, 7).tolist()
    for i in reversed(range(1, 7)):
        j = words[i] * (i + 1) >> 32
        order[i], order[j] = order[j], order[i]
    assert permutation(key, 7).tolist() == order


def test_permutations_of_four_are_equally_likely():
    draws = 12_000
    counts = Counter(tuple(order.tolist()) for order in permutations((5, 6), 4, draws))
    chi_squared = sum((counts[order] - draws / 24) ** 2 / (draws / 24) for order in counts)
    assert len(counts) == math.factorial(4)
    assert chi_squared < 44.2  # 23 degrees of freedom, p = .005


@given(st.lists(st.tuples(keys, st.integers(0, 30)), min_size=1, max_size=5), st.integers(1, 4))
def test_permutations_of_many_are_those_of_each(clients, streams):
    clients.sort(key=lambda client: -client[1])
    orders = permutations_of([key for key, _ in clients], [count for _, count in clients], streams)
    for (key, count), own in zip(clients, orders, strict=True):
        assert own[:, :count].tolist() == [order.tolist() for order in permutations(key, count, streams)]
        assert (own[:, count:] == -1).all()
        for stream in range(streams):
            assert own[stream, :count].tolist() == permutation(key, count, stream=stream).tolist()
