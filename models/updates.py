"""What devices and the coordinator exchange, as plain values: models and changes to them.

Parameters are one vector, `theta`, of length d: the trainable tail of a network in its training grid, which has
8 fraction bits below the int8 grid. In memory it is int32, its values fit int16. models/tail.py says where each
tensor lies. A delta is in the same units.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Int8Vector = NDArray[np.int8]
Int32Vector = NDArray[np.int32]
Int64Vector = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizedUpdate:
    """k of d coordinates (ascending int32) and their signed 8-bit values; one unit is 2**scale_shift of theta's.

    Under a shared mask both sides derive the coordinates, under top-k they travel.
    """

    dimension: int  # d
    coordinates: Int32Vector  # (k,)
    values: Int8Vector  # (k,), -127..127
    scale_shift: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Aggregate:
    """The weighted mean change: `mean` (d,) int64 in 2**-16 of theta's units, zero where nobody reported."""

    mean: Int64Vector
    total_weight: int
    participants: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class GlobalModel:
    """A version of the trainable tail on top of a frozen backbone named by hash."""

    version: int
    backbone_hash: bytes  # 32 bytes, models.network.Network.content_hash of the network it belongs to
    theta: Int32Vector  # (d,)

    @property
    def model_hash(self) -> bytes:
        """BLAKE2b-256 over the backbone hash and theta as little-endian int16, without the version. 32 bytes."""
        digest = hashlib.blake2b(b"sanderling model 1", digest_size=32)
        digest.update(self.backbone_hash)
        digest.update(self.theta.astype("<i2").tobytes())
        return digest.digest()
