"""Models in chunks: what a small device gets is the model, piece by piece."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sanderling.broker.chunks import check, chunk_size, cut, retained
from sanderling.broker.messages import MAX_CHUNKS, ModelBody, ModelChunk
from sanderling.broker.topics import Topics
from sanderling.models.updates import GlobalModel


def model_of(dimension: int) -> GlobalModel:
    theta = np.arange(dimension, dtype=np.int32) % 1000 - 500
    return GlobalModel(version=1, backbone_hash=b"n" * 32, theta=theta)


@given(dimension=st.integers(1, 20_000), size=st.sampled_from([256, 512, 1024, 4096, 65536]))
def test_the_pieces_of_all_chunks_are_theta(dimension: int, size: int) -> None:
    model = model_of(dimension)
    chunks = cut(model, size)
    assert b"".join(chunk.piece for chunk in chunks) == ModelBody.of(model).theta
    assert [(chunk.index, chunk.count) for chunk in chunks] == [(i, len(chunks)) for i in range(len(chunks))]
    for chunk in chunks:
        encoded = chunk.encode()
        assert len(encoded) <= size and ModelChunk.decode(encoded) == chunk
        assert chunk.check == check(model.model_hash, chunk.index, chunk.count, chunk.piece)
    assert {len(chunk.piece) for chunk in chunks[:-1]} <= {size - 32}


def test_a_check_is_of_this_chunk_of_this_model_alone() -> None:
    checks = {
        check(model_hash, index, count, piece)
        for model_hash in (b"a" * 32, b"b" * 32)
        for index in (0, 1)
        for count in (2, 3)
        for piece in (b"x", b"y")
    }
    assert len(checks) == 16 and all(len(each) == 8 for each in checks)


@pytest.mark.parametrize(
    ("buffer", "size"),
    [(None, None), (0, None), (255, None), (256, 256), (511, 256), (1500, 1024), (2**32 - 1, 65536)],
)
def test_a_chunk_is_the_largest_power_of_two_that_fits(buffer: int | None, size: int | None) -> None:
    assert chunk_size(buffer) == size


def test_a_model_of_too_many_chunks_is_carried_as_a_body_alone() -> None:
    topics, model = Topics("lab"), model_of(112 * MAX_CHUNKS + 1)
    assert retained(topics, model, 256) == {}
    assert len(retained(topics, model, 512)) == 478
    assert list(retained(topics, model, None)) == [topics.model(model.model_hash)]
