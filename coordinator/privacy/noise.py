"""The noise of one release: its key, bound to the frozen set of reports, and its addition to the aggregate.

The key is drawn from the operating system and stored together with the set's hash before noise is made of it
(privacy/budget.py), so a resumed round makes the same bytes again: fresh noise on the same set would average out, the
same noise on another set would cancel. A seeded key is for simulation and marks all it touches as not private.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from math import ceil
from typing import Literal

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms

from sanderling.coordinator.privacy.accounting import Charge, Sampling, grid_divergence
from sanderling.coordinator.privacy.discrete_gaussian import ByteSource, discrete_gaussian
from sanderling.coordinator.privacy.sensitivity import ONE_Q16, Sensitivity, in_grid
from sanderling.models.errors import UnsoundError
from sanderling.models.updates import Aggregate, Int32Vector

KEY_BYTES = 32
BIT_GRID = ONE_Q16  # the sum of the clipping bits, each +-1, is noised in 2**-16


@dataclass(frozen=True, slots=True, kw_only=True)
class NoiseKey:
    """The secret that a release's noise is made of. It is never shown; `private` only when the system drew it."""

    secret: bytes = field(repr=False)
    private: bool


def draw_key(urandom: ByteSource = os.urandom) -> NoiseKey:
    """A fresh key; private if the operating system's generator is the source."""
    secret = urandom(KEY_BYTES)
    if len(secret) != KEY_BYTES:
        raise ValueError(f"the byte source gave {len(secret)} of {KEY_BYTES} bytes")
    return NoiseKey(secret=secret, private=urandom is os.urandom)


def seeded_key(seed: int, *parts: str | int) -> NoiseKey:
    """A reproducible key for simulation: not private."""
    text = "\0".join(map(str, ("sanderling seeded noise", seed, *parts)))
    return NoiseKey(secret=hashlib.blake2b(text.encode(), digest_size=KEY_BYTES).digest(), private=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class NoiseSize:
    """Variances in squared grid units. `bit_variance` 0: no clipping bit is released."""

    coordinates: int  # k, all of the round's
    variance: int
    bit_variance: int = 0


def noise_size(
    sensitivity: Sensitivity,
    coordinates: int,
    update_multiplier: float,
    *,
    bit_multiplier: float | None = None,
    adjacency: Literal["zero-out", "replace"] = "zero-out",
) -> NoiseSize:
    """The noise whose standard deviation is at least `update_multiplier` sensitivities of the rounded aggregate."""
    bound = sensitivity.zero_out if adjacency == "zero-out" else sensitivity.replace
    bit_bound = BIT_GRID if adjacency == "zero-out" else 2 * BIT_GRID
    return NoiseSize(
        coordinates=coordinates,
        variance=_variance(update_multiplier, in_grid(bound, coordinates)),
        bit_variance=0 if bit_multiplier is None else _variance(bit_multiplier, bit_bound),
    )


def charge_of(size: NoiseSize, noise_multiplier: float, sampling: Sampling | None = None) -> Charge:
    """What a release of this size costs; `noise_multiplier` is of the update and the bit together."""
    divergence = 0.0
    if sampling is not None:
        divergence = grid_divergence(size.variance, size.coordinates)
        if size.bit_variance:
            divergence += grid_divergence(size.bit_variance, 1)
    return Charge(noise_multiplier=noise_multiplier, sampling=sampling, divergence=divergence)


@dataclass(frozen=True, slots=True, kw_only=True)
class FrozenSet:
    """The accepted reports of a round, for ever, and all that its noise is made of."""

    number: int
    accepted_hash: bytes
    size: NoiseSize
    key: NoiseKey


def accepted_hash(run: str, number: int, plan: bytes, messages: Mapping[str, bytes]) -> bytes:
    """BLAKE2b-256 over run, round, the plan as announced and each accepted message as it came, by device id."""
    digest = hashlib.blake2b(b"sanderling accepted set 1", digest_size=32)
    parts = [run.encode(), number.to_bytes(8, "little"), plan]
    parts += [part for device in sorted(messages) for part in (device.encode(), messages[device])]
    for part in parts:
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.digest()


def noised(aggregate: Aggregate, coordinates: Int32Vector, frozen: FrozenSet) -> Aggregate:
    """The aggregate with noise on all of the round's coordinates (k,), ascending, whoever sent a change there.

    Raises UnsoundError where the aggregate moved outside of them, or k is not the one accounted for.
    """
    if coordinates.size != frozen.size.coordinates:
        raise UnsoundError(
            f"noise on {coordinates.size} coordinates, but the round has {frozen.size.coordinates}: noise goes on all "
            "of the round's coordinates, not on those that were sent; use update.mode = 'mask'"
        )
    mean = aggregate.mean.copy()
    mean[coordinates] = 0
    if mean.any():
        raise UnsoundError(
            f"the aggregate moved {np.count_nonzero(mean)} coordinates that are not the round's and would be "
            "released without noise; use update.mode = 'mask'"
        )
    source = key_stream(frozen, "update")
    noise = discrete_gaussian(frozen.size.variance, coordinates.size, source)
    mean[coordinates] = aggregate.mean[coordinates] + noise
    return replace(aggregate, mean=mean)


def noised_bits(within: int, beyond: int, planned: int, frozen: FrozenSet) -> Fraction:
    """The noised share of clients whose change was within the clipping norm (Andrew et al. 2021, Section 2).

    Bits enter as +-1/2 and a missing client as 0, so the denominator is fixed and the share may leave [0, 1].
    """
    if not frozen.size.bit_variance:
        raise UnsoundError("the clipping bits would be released without noise: set a bit_multiplier")
    (noise,) = discrete_gaussian(frozen.size.bit_variance, 1, key_stream(frozen, "bit"))
    return Fraction(1, 2) + Fraction((within - beyond) * BIT_GRID + int(noise), 2 * planned * BIT_GRID)


def key_stream(frozen: FrozenSet, purpose: Literal["update", "bit"]) -> ByteSource:
    """ChaCha20 under a key that depends on the secret, the accepted set, the noise's size and the purpose."""
    if len(frozen.key.secret) != KEY_BYTES:
        raise UnsoundError(
            f"the noise key of round {frozen.number} was erased: re-publish the stored model, it cannot be made again"
        )
    bound = f"{frozen.number} {frozen.size.coordinates} {frozen.size.variance} {frozen.size.bit_variance} {purpose}"
    key = hashlib.blake2b(
        frozen.accepted_hash + bound.encode(),
        key=frozen.key.secret,
        digest_size=32,
        person=b"sanderling noise",
    ).digest()
    encryptor = Cipher(algorithms.ChaCha20(key, bytes(16)), mode=None).encryptor()
    return lambda count: encryptor.update(bytes(count))


def _variance(multiplier: float, sensitivity: int) -> int:
    return ceil((Fraction(multiplier) * sensitivity) ** 2)
