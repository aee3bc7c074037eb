"""How a model's theta is cut into messages that a small device can take, one at a time (docs/wire.md, "Model chunk").

A device declares its receive buffer; its chunk size is the largest power of two that fits. A message of `size` bytes
carries `size` - 32 bytes of theta, a multiple of 32 wherever they are to be stored.
"""

from __future__ import annotations

import hashlib

from sanderling.broker.messages import CHUNK_CHECK_BYTES, MAX_CHUNK_BYTES, MAX_CHUNKS, ModelBody, ModelChunk
from sanderling.broker.topics import Topics
from sanderling.models.updates import GlobalModel

MIN_CHUNK_BYTES = 256
OVERHEAD_BYTES = 32  # of the message around its piece, rounded up


def chunk_size(receive_buffer_bytes: int | None) -> int | None:
    """Bytes of the chunks of a device with this buffer; None where it takes whole bodies, or not even the smallest."""
    if receive_buffer_bytes is None or receive_buffer_bytes < MIN_CHUNK_BYTES:
        return None
    return min(MAX_CHUNK_BYTES, 1 << (receive_buffer_bytes.bit_length() - 1))


def cut(model: GlobalModel, size: int) -> tuple[ModelChunk, ...]:
    """The model in messages of at most `size` bytes, a power of two; empty where that would take more than MAX_CHUNKS."""
    theta, step = ModelBody.of(model).theta, size - OVERHEAD_BYTES
    pieces = [theta[start : start + step] for start in range(0, len(theta), step)]
    if len(pieces) > MAX_CHUNKS:
        return ()
    count = len(pieces)
    return tuple(
        ModelChunk(index=i, count=count, piece=piece, check=check(model.model_hash, i, count, piece))
        for i, piece in enumerate(pieces)
    )


def retained(topics: Topics, model: GlobalModel, size: int | None) -> dict[str, bytes]:
    """The retained messages, by topic, that carry a model: its body, or with a `size` its chunks."""
    if size is None:
        return {topics.model(model.model_hash): ModelBody.of(model).encode()}
    chunks = cut(model, size)
    return {topics.chunk(model.model_hash, size, chunk.index): chunk.encode() for chunk in chunks}


def check(model_hash: bytes, index: int, count: int, piece: bytes) -> bytes:
    """What lets a device refuse a damaged or misplaced chunk at once; the model's hash is what it trusts."""
    digest = hashlib.blake2b(b"sanderling chunk 1", digest_size=32)
    digest.update(model_hash + index.to_bytes(4, "little") + count.to_bytes(4, "little") + piece)
    return digest.digest()[:CHUNK_CHECK_BYTES]
