"""From a local change to a small one: clip, restrict to coordinates, quantise to 8 bits; integers throughout.

Shared random masks follow RoSDHB (arXiv 2508.17129), top-k with error feedback Stich et al. (arXiv 1809.07599),
unbiased stochastic quantisation QSGD (arXiv 1610.02132). docs/arithmetic.md specifies every rounding.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from sanderling.models.random_bits import Key, below, derive_key, random_words
from sanderling.models.updates import Int32Vector, QuantizedUpdate

VALUE_LIMIT = 127


def shared_mask(federation: str, mask_epoch: int, dimension: int, count: int) -> Int32Vector:
    """The round's public coordinates: a uniform random `count` of `dimension`, ascending.

    A function of the federation's name and the mask epoch alone, so that no party chooses it. Selection
    sampling (Knuth, TAOCP 2, 3.4.2, algorithm S): one pass, no memory, and ascending by construction.
    """
    if not 0 < count <= dimension:
        raise ValueError(f"a mask has 1 to {dimension} coordinates, not {count}")
    if count == dimension:
        return np.arange(dimension, dtype=np.int32)
    words = random_words(derive_key("mask", federation, mask_epoch), dimension).tolist()
    chosen: list[int] = []
    for index, word in enumerate(words):
        if (word * (dimension - index)) >> 32 < count - len(chosen):
            chosen.append(index)
    return np.array(chosen, dtype=np.int32)


def top_k(vector: Int32Vector, count: int) -> Int32Vector:
    """The ascending coordinates of the `count` largest magnitudes of (d,); the lower index wins a tie."""
    order = np.argsort(-np.abs(vector.astype(np.int64)), kind="stable")
    return np.sort(order[:count]).astype(np.int32)


def squared_norm(vector: Int32Vector) -> int:
    """The exact squared L2 norm."""
    wide = vector.astype(np.int64)
    return int(wide @ wide)


def clip(vector: Int32Vector, norm: int) -> Int32Vector:
    """`vector` (d,) scaled down to L2 norm at most `norm` (C in McMahan et al. 2018), toward zero; 0 is no bound."""
    squared = squared_norm(vector)
    if norm == 0 or squared <= norm * norm:
        return vector
    factor = (norm << 16) // (math.isqrt(squared) + 1)
    magnitude = (np.abs(vector.astype(np.int64)) * factor) >> 16
    clipped: Int32Vector = (np.sign(vector) * magnitude).astype(np.int32)
    return clipped


def quantize(vector: Int32Vector, coordinates: Int32Vector, scale_shift: int, key: Key) -> QuantizedUpdate:
    """The chosen coordinates of `vector` (d,) in steps of 2**scale_shift, rounded up or down at random.

    The expectation is the input wherever |value| < 127 steps; beyond, it saturates.
    """
    chosen = vector[coordinates].astype(np.int64)
    offset = below(random_words(key, chosen.size), 1 << scale_shift)
    values = np.clip((chosen + offset) >> scale_shift, -VALUE_LIMIT, VALUE_LIMIT).astype(np.int8)
    return QuantizedUpdate(
        dimension=vector.size, coordinates=coordinates, values=values, scale_shift=scale_shift
    )


def compress(
    wanted: Int32Vector, coordinates: Int32Vector, clipping_norm: int, scale_shift: int, key: Key
) -> QuantizedUpdate:
    """What of the change `wanted` (d,) travels: at `coordinates`, its dequantised norm at most `clipping_norm`; 0 is none.

    docs/arithmetic.md, "From training to update", steps 2 to 5.
    """
    restricted = np.zeros_like(wanted)
    restricted[coordinates] = wanted[coordinates]
    sent = quantize(clip(restricted, clipping_norm), coordinates, scale_shift, key)
    if clipping_norm == 0:
        return sent
    # Rounding up at random may have lifted the norm over the bound again.
    steps = clipping_norm >> scale_shift
    values = clip(sent.values.astype(np.int32), steps) if steps else np.zeros_like(sent.values)
    return replace(sent, values=values.astype(np.int8))


def dequantize(update: QuantizedUpdate) -> Int32Vector:
    """The dense (d,) change that `update` stands for."""
    dense = np.zeros(update.dimension, dtype=np.int32)
    dense[update.coordinates] = update.values.astype(np.int32) << update.scale_shift
    return dense


def feed_back_error(wanted: Int32Vector, sent: QuantizedUpdate, residual_norm: int) -> Int32Vector:
    """What `sent` left out of `wanted` (d,), to be added to the next round's change; norm at most `residual_norm`."""
    return clip(wanted - dequantize(sent), residual_norm)
