"""Random bits in C: the committed vectors, and the reference's words for any key."""

import json
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from sanderling.models.random_bits import derive_key, permutation, random_words

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "training_random_bits.json").read_text())

words = st.integers(0, 2**32 - 1)


def native_key(runtime, purpose, *parts):
    builder = runtime.ffi.new("sl_key_builder *")
    runtime.lib.sl_key_begin(builder, purpose.encode())
    for part in parts:
        if isinstance(part, int):
            runtime.lib.sl_key_integer(builder, part)
        else:
            runtime.lib.sl_key_text(builder, part.encode())
    key = runtime.lib.sl_key_end(builder)
    return key.k0, key.k1


def native_permutation(runtime, key, stream, count):
    order = runtime.ffi.new("uint16_t[]", max(1, count))
    runtime.lib.sl_permutation(key, stream, order, count)
    return list(order)[:count]


def test_keys_of_the_vectors(runtime):
    for case in VECTORS["derive_key"]:
        assert native_key(runtime, case["purpose"], *case["parts"]) == tuple(case["key"])


def test_words_of_the_vectors(runtime):
    for case in VECTORS["random_words"]:
        found = [
            runtime.lib.sl_random_word(VECTORS["key"], case["stream"], i) for i in range(len(case["words"]))
        ]
        assert found == case["words"]


def test_permutations_of_the_vectors(runtime):
    for case in VECTORS["permutation"]:
        assert native_permutation(runtime, VECTORS["key"], case["stream"], case["count"]) == case["order"]


@given(key=st.tuples(words, words), stream=words, count=st.integers(0, 90))
def test_permutations_are_the_references(runtime, key, stream, count):
    assert native_permutation(runtime, key, stream, count) == permutation(key, count, stream=stream).tolist()


@given(key=st.tuples(words, words), stream=words, index=st.integers(0, 200))
def test_any_word_without_the_others(runtime, key, stream, index):
    expected = int(random_words(key, index + 1, stream=stream)[index])
    assert runtime.lib.sl_random_word(key, stream, index) == expected


names = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=60)


@given(purpose=names, parts=st.lists(names | st.integers(0, 2**64 - 1), max_size=5))
def test_keys_are_the_references(runtime, purpose, parts):
    assert native_key(runtime, purpose, *parts) == derive_key(purpose, *parts)
