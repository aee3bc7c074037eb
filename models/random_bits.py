"""Counter-based random bits: the same words on every host, whatever the order they are asked for in.

Threefry-2x32, 20 rounds (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011): only 32-bit
additions, rotations and exclusive-ors, so a Cortex-M0+ computes it as readily as NumPy. Never for secrets.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

Key = tuple[int, int]
UInt32Vector = NDArray[np.uint32]
UInt32Array = NDArray[np.uint32]

_ROTATIONS = (13, 15, 26, 6, 17, 29, 16, 24)
_PARITY = 0x1BD11BDA


def derive_key(purpose: str, *parts: str | bytes | int) -> Key:
    """The key of one stream: BLAKE2b-64 over the purpose and the parts, each with its length before it.

    Integers enter as 8 bytes, little-endian, unsigned.
    """
    digest = hashlib.blake2b(digest_size=8)
    for part in (purpose, *parts):
        if isinstance(part, int):
            part = part.to_bytes(8, "little")
        elif isinstance(part, str):
            part = part.encode()
        digest.update(len(part).to_bytes(2, "little") + part)
    word = digest.digest()
    return int.from_bytes(word[:4], "little"), int.from_bytes(word[4:], "little")


@np.errstate(over="ignore")
def threefry2x32(
    key: Key | tuple[UInt32Array, UInt32Array], counter: tuple[UInt32Array, UInt32Array]
) -> tuple[UInt32Array, UInt32Array]:
    """Encrypts the counters under the key: two words a block. Arrays, of keys too, broadcast."""
    schedule = (np.uint32(key[0]), np.uint32(key[1]), np.uint32(key[0] ^ key[1] ^ _PARITY))
    x0, x1 = counter[0] + schedule[0], counter[1] + schedule[1]
    for block in range(5):
        for rotation in _ROTATIONS[4 * (block % 2) : 4 * (block % 2) + 4]:
            x0 = x0 + x1
            x1 = (x1 << np.uint32(rotation)) | (x1 >> np.uint32(32 - rotation))
            x1 = x1 ^ x0
        x0 = x0 + schedule[(block + 1) % 3]
        x1 = x1 + (schedule[(block + 2) % 3] + np.uint32(block + 1))
    return x0, x1


def random_words(key: Key, count: int, *, stream: int = 0) -> UInt32Vector:
    """`count` uniform 32-bit words. Word i is lane i % 2 of the block with counter (i // 2, stream)."""
    words: UInt32Vector = words_of_streams(key, count, np.array([stream], dtype=np.uint32))[0]
    return words


def words_of_streams(
    key: Key | tuple[UInt32Array, UInt32Array], count: int, streams: UInt32Vector
) -> UInt32Array:
    """The first `count` words of each stream, (..., streams, count); a key's arrays are (..., 1, 1)."""
    blocks = np.arange((count + 1) // 2, dtype=np.uint32)
    lanes = threefry2x32(key, (blocks, streams[:, None]))
    words: UInt32Array = np.stack(np.broadcast_arrays(*lanes), axis=-1)
    return words.reshape(*words.shape[:-2], 2 * blocks.size)[..., :count]


def below(words: UInt32Vector, bounds: NDArray[np.int64] | int) -> NDArray[np.int64]:
    """Integers in [0, bound): the high half of word * bound. Biased by at most bound / 2**32."""
    return (words.astype(np.uint64) * np.asarray(bounds, dtype=np.uint64) >> np.uint64(32)).astype(np.int64)


def permutation(key: Key, count: int, *, stream: int = 0) -> NDArray[np.int64]:
    """A shuffle of range(count), Fisher-Yates from the top: element i is swapped with below(word[i], i + 1)."""
    return _shuffled(random_words(key, count, stream=stream))


def permutations(key: Key, count: int, streams: int) -> list[NDArray[np.int64]]:
    """`permutation` of each stream 0..streams-1."""
    return [_shuffled(words) for words in words_of_streams(key, count, np.arange(streams, dtype=np.uint32))]


def _shuffled(words: UInt32Vector) -> NDArray[np.int64]:
    partners = below(words, np.arange(1, words.size + 1)).tolist()
    order = list(range(words.size))
    for i in range(words.size - 1, 0, -1):
        j = partners[i]
        order[i], order[j] = order[j], order[i]
    return np.array(order, dtype=np.int64)
