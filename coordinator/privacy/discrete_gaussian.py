"""Samples of the discrete Gaussian, exact: integers only, from uniform random bytes.

P(x) is proportional to exp(-x^2 / (2 variance)) over the integers. Canonne, Kamath, Steinke, "The discrete Gaussian
for differential privacy", NeurIPS 2020: Algorithms 1 (Bernoulli(exp(-gamma))), 2 (discrete Laplace) and 3. No floating
point is involved, so none of its holes (Mironov 2012). The time taken depends on the values drawn: let nobody measure it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from math import isqrt

import numpy as np

from sanderling.models.updates import Int64Vector

# Uniform, independent bytes: os.urandom, or a cipher's key stream.
ByteSource = Callable[[int], bytes]

_WORD_BITS = 64
_BLOCK_BYTES = 8192
_LARGEST_VARIANCE = 1 << 100  # values stay far within int64


def discrete_gaussian(variance: int, count: int, source: ByteSource) -> Int64Vector:
    """`count` independent samples (count,) of the discrete Gaussian of parameter sigma^2 = `variance`, an integer >= 1.

    Raises ValueError for a variance that is not within 1..2**100.
    """
    if not 1 <= variance <= _LARGEST_VARIANCE:
        raise ValueError(f"a variance of {variance}, expected an integer in 1..2**100")
    words = words_from(source)
    return np.fromiter((_gaussian(variance, words) for _ in range(count)), dtype=np.int64, count=count)


def _gaussian(variance: int, words: Iterator[int]) -> int:
    """Algorithm 3: a discrete Laplace of scale t, kept with probability exp(-(|y| - variance / t)^2 / (2 variance))."""
    scale = isqrt(variance) + 1  # t
    while True:
        value = _laplace(scale, words)
        distance = abs(value) * scale - variance
        if _bernoulli_exp(distance * distance, 2 * variance * scale * scale, words):
            return value


def _laplace(scale: int, words: Iterator[int]) -> int:
    """Algorithm 2: P(x) proportional to exp(-|x| / scale)."""
    while True:
        remainder = below(scale, words)
        if not _bernoulli_exp(remainder, scale, words):
            continue
        quotient = 0
        while _bernoulli_exp_fraction(1, 1, words):
            quotient += 1
        magnitude = remainder + scale * quotient
        negative = next(words) & 1
        if not (negative and magnitude == 0):  # zero would come twice
            return -magnitude if negative else magnitude


def _bernoulli_exp(numerator: int, denominator: int, words: Iterator[int]) -> bool:
    """True with probability exp(-numerator / denominator)."""
    whole, numerator = divmod(numerator, denominator)
    while whole:
        if not _bernoulli_exp_fraction(1, 1, words):
            return False
        whole -= 1
    return _bernoulli_exp_fraction(numerator, denominator, words)


def _bernoulli_exp_fraction(numerator: int, denominator: int, words: Iterator[int]) -> bool:
    """Algorithm 1 for a fraction within [0, 1]: the first failure of Bernoulli(fraction / k), k = 1, 2, ... is odd."""
    k = 1
    while bernoulli(numerator, denominator * k, words):
        k += 1
    return k % 2 == 1


def bernoulli(numerator: int, denominator: int, words: Iterator[int]) -> bool:
    """True with probability numerator / denominator: a uniform real below it, compared a word at a time."""
    while True:
        digit, numerator = divmod(numerator << _WORD_BITS, denominator)
        word = next(words)
        if word != digit:
            return word < digit


def below(bound: int, words: Iterator[int]) -> int:
    """Uniform in [0, bound), bound <= 2**64, by rejection."""
    mask = (1 << (bound - 1).bit_length()) - 1
    while True:
        value = next(words) & mask
        if value < bound:
            return value


def words_from(source: ByteSource) -> Iterator[int]:
    while True:
        block = source(_BLOCK_BYTES)
        if len(block) != _BLOCK_BYTES:
            raise ValueError(f"the byte source gave {len(block)} of {_BLOCK_BYTES} bytes")
        yield from struct.unpack(f"<{_BLOCK_BYTES // 8}Q", block)
