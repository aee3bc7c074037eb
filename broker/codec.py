"""How a quantised update becomes the fewest bytes, and back within exact bounds.

Specified in docs/wire.md, "Update codec 1". Coordinates, where they travel, are arithmetic coded:
membership of coordinate i has probability (coordinates left) / (positions left), which both sides know,
so any k of d cost at most log2 C(d, k) + 2 + k d / 2^23 bits (Rissanen and Langdon 1979; byte by byte as
in Martin 1979). Values are zig-zag Rice coded (Rice and Plaunt 1971), or raw when that is smaller. Every
update has exactly one encoding: decode refuses all others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sanderling.broker.errors import CodecError, CodecVersionError
from sanderling.models.errors import UsageError
from sanderling.models.updates import Int8Vector, Int32Vector, QuantizedUpdate

CODEC_VERSION = 1
MAX_DIMENSION = 1 << 20
MAX_SCALE_SHIFT = 16

_COORDINATES_FLAG = 0x08
_RAW = 7  # the value coding that is none; 0..6 are Rice parameters
_QUOTIENT_CAP = 15  # a run of this many ones is an escape: the quotient follows in 8 - parameter bits
_RANGE_FLOOR = 1 << 24

Bits = NDArray[np.uint8]  # one bit an element, most significant first


def encode(update: QuantizedUpdate, *, shared_coordinates: bool) -> bytes:
    """The one encoding of `update`. With `shared_coordinates` the receiver derives them, else they travel.

    Raises UsageError for an update that breaks its own type: coordinates that do not ascend within 0..d-1, a
    value of -128, a scale shift over 16.
    """
    _validate(update)
    d, k = update.dimension, len(update.coordinates)
    zigzag = _zigzag(update.values)
    coding = _best_coding(zigzag)
    head = bytearray([CODEC_VERSION << 4 | (0 if shared_coordinates else _COORDINATES_FLAG) | coding])
    head.append(update.scale_shift)
    head += _varint(k)
    index = np.empty(0, np.uint8)
    if not shared_coordinates:
        head += _varint(d)
        index = _encode_index(update.coordinates.tolist(), d)
    return bytes(head) + np.packbits(np.concatenate([index, *_value_planes(zigzag, coding)])).tobytes()


def decode(
    data: bytes,
    *,
    dimension: int,
    coordinates: Int32Vector | None = None,
    max_coordinates: int | None = None,
) -> QuantizedUpdate:
    """The update in `data`, of a model with `dimension` parameters.

    `coordinates` (k,) are the round's under a shared mask, whose k must be met; None says that they
    travel, at most `max_coordinates` of them. Work and memory are bounded by these and by len(data).
    Raises CodecError for anything but the one encoding of an update that fits.
    """
    header = _read_header(data)
    _check_fits(header, dimension, coordinates, max_coordinates)
    k, bit = header.count, 8 * header.size_bytes
    if coordinates is None:
        coordinates, bit = _decode_index(data, header.size_bytes, dimension, k)
    available = 8 * len(data) - bit
    if available > 8 * k + 7:
        raise CodecError(f"{available} bits for {k} values, at most {8 * k} and padding: trailing bytes")
    bits = np.unpackbits(np.frombuffer(data, np.uint8)[bit >> 3 :])[bit & 7 :]
    values, used = _decode_values(bits, k, header.coding)
    if len(bits) - used > 7 or bits[used:].any():
        raise CodecError(f"{len(bits) - used} bits after the last value: only zero padding may follow")
    return QuantizedUpdate(
        dimension=dimension, coordinates=coordinates, values=values, scale_shift=header.scale_shift
    )


def index_bits(coordinates: Int32Vector, dimension: int) -> int:
    """Bits that travelling coordinates take, before padding."""
    return len(_encode_index(coordinates.tolist(), dimension))


def _validate(update: QuantizedUpdate) -> None:
    d, index, values = update.dimension, update.coordinates, update.values
    if not 0 < d <= MAX_DIMENSION:
        raise UsageError(f"update of dimension {d}, expected 1 to {MAX_DIMENSION}")
    if index.ndim != 1 or index.shape != values.shape or values.dtype != np.int8:
        raise UsageError(f"k coordinates, k int8 values: got {index.shape} and {values.dtype}{values.shape}")
    if index.size and (index[0] < 0 or index[-1] >= d or np.any(index[1:] <= index[:-1])):
        raise UsageError(f"coordinates must ascend strictly within 0..{d - 1}")
    if values.size and values.min() < -127:
        raise UsageError("value -128: quantised values lie in -127..127")
    if not 0 <= update.scale_shift <= MAX_SCALE_SHIFT:
        raise UsageError(f"scale shift {update.scale_shift}, expected 0 to {MAX_SCALE_SHIFT}")


# --- header ---


@dataclass(frozen=True, slots=True, kw_only=True)
class _Header:
    coding: int
    scale_shift: int
    count: int  # k
    dimension: int | None  # d, only where coordinates travel
    size_bytes: int


def _read_header(data: bytes) -> _Header:
    if len(data) < 3:
        raise CodecError(f"{len(data)} bytes, a header has at least 3: truncated")
    if data[0] >> 4 != CODEC_VERSION:
        raise CodecVersionError(data[0] >> 4, CODEC_VERSION)
    if data[1] > MAX_SCALE_SHIFT:
        raise CodecError(f"scale shift {data[1]}, expected 0 to {MAX_SCALE_SHIFT}")
    count, at = _read_varint(data, 2)
    dimension = None
    if data[0] & _COORDINATES_FLAG:
        dimension, at = _read_varint(data, at)
    return _Header(coding=data[0] & 7, scale_shift=data[1], count=count, dimension=dimension, size_bytes=at)


def _check_fits(
    header: _Header, dimension: int, coordinates: Int32Vector | None, max_coordinates: int | None
) -> None:
    k = header.count
    if (header.dimension is None) != (coordinates is not None):
        travels = ["stay at home", "travel"][header.dimension is not None]
        raise CodecError(f"coordinates {travels} in this update, the round plan says otherwise")
    if coordinates is not None:
        if k != len(coordinates):
            raise CodecError(f"{k} values, the round's mask has {len(coordinates)} coordinates")
        return
    if header.dimension != dimension:
        raise CodecError(f"update of dimension {header.dimension}, the model has {dimension}")
    if k > (limit := dimension if max_coordinates is None else min(dimension, max_coordinates)):
        raise CodecError(f"{k} coordinates, at most {limit} are allowed")


def _varint(value: int) -> bytes:
    """LEB128, least significant group first; three bytes reach past MAX_DIMENSION."""
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for position, byte in enumerate(data[at : at + 3]):
        value |= (byte & 0x7F) << 7 * position
        if byte < 0x80:
            if position and not byte:
                raise CodecError("a varint ends in a zero group: not canonical")
            return value, at + position + 1
    raise CodecError("a varint is truncated, or longer than 3 bytes")


# --- coordinates: a range coder over membership ---


def _encode_index(coordinates: Sequence[int], d: int) -> Bits:
    """Bits of the coordinates: none when k is 0 or d, for then there is nothing to say."""
    positions, left = d, len(coordinates)
    if left in (0, d):
        return np.empty(0, np.uint8)
    out = bytearray()
    low, width, next_position = 0, 0xFFFFFFFF, 0
    for coordinate in coordinates:
        for _ in range(coordinate - next_position):
            member = width // positions * left
            low += member
            width -= member
            positions -= 1
            while width < _RANGE_FLOOR:
                low = _shift_out(out, low)
                width <<= 8
        if left == positions:  # every position left is a member
            break
        width = width // positions * left
        positions -= 1
        left -= 1
        next_position = coordinate + 1
        while width < _RANGE_FLOOR:
            low = _shift_out(out, low)
            width <<= 8
    free = width.bit_length() - 2  # any bits at all may follow a multiple of 2**free that lies low enough
    final = -(-low >> free) << free
    for _ in range(4):
        final = _shift_out(out, final)
    return np.unpackbits(np.frombuffer(out, np.uint8), count=8 * len(out) - free)


def _shift_out(out: bytearray, low: int) -> int:
    """Moves the top byte of the 32-bit `low` to `out`, with its carry; returns what stays."""
    if low >> 32:
        at = len(out) - 1
        while out[at] == 0xFF:
            out[at] = 0
            at -= 1
        out[at] += 1
    out.append(low >> 24 & 0xFF)
    return (low & 0xFFFFFF) << 8


def _decode_index(data: bytes, start: int, d: int, k: int) -> tuple[Int32Vector, int]:
    """The k coordinates coded from byte `start` on, and the bit behind them."""
    if k in (0, d):
        return np.arange(k, dtype=np.int32), 8 * start
    padded = data + bytes(4)
    positions, left, at = d, k, start
    offset = int.from_bytes(padded[at : at + 4])  # the code less the encoder's `low`
    width = 0xFFFFFFFF
    if offset == width:  # from here on offset < width holds, and both fit 32 bits
        raise CodecError("the coordinates' first bits lie outside every interval: not canonical")
    found = []
    while 0 < left < positions:
        member = width // positions * left
        if offset < member:
            found.append(d - positions)
            left -= 1
            width = member
        else:
            offset -= member
            width -= member
        positions -= 1
        while width < _RANGE_FLOOR:
            if at == len(data):
                raise CodecError("the coordinates are truncated")
            offset = offset << 8 | padded[at + 4]
            width <<= 8
            at += 1
    found.extend(range(d - positions, d - positions + left))
    free = width.bit_length() - 2
    window = int.from_bytes(padded[at : at + 4])
    if not 0 <= offset - (window & (1 << free) - 1) < 1 << free:
        raise CodecError("the coordinates' last bits are not the encoder's: not canonical")
    bit = 8 * at + 32 - free
    if bit > 8 * len(data):
        raise CodecError("the coordinates are truncated")
    return np.array(found, np.int32), bit


# --- values: zig-zag, then Rice codes laid out in three planes, so that each is one array operation ---


def _zigzag(values: Int8Vector) -> NDArray[np.uint8]:
    """0, -1, 1, -2, ... -> 0, 1, 2, 3, ..., 254."""
    return (values << 1 ^ values >> 7).view(np.uint8)


def _cost_table() -> NDArray[np.int64]:
    """(256, 8): bits that zig-zag value z takes under each coding."""
    z, parameter = np.arange(256)[:, None], np.arange(_RAW)
    quotient = z >> parameter
    rice = np.where(quotient < _QUOTIENT_CAP, quotient + 1 + parameter, _QUOTIENT_CAP + 1 + 8)
    return np.hstack([rice, np.full((256, 1), 8)]).astype(np.int64)


_COSTS = _cost_table()
_UNZIGZAG = (np.arange(256) >> 1 ^ -(np.arange(256) & 1)).astype(np.int8)
_PLACES = np.array([128, 64, 32, 16, 8, 4, 2, 1], np.uint8)


def _best_coding(zigzag: NDArray[np.uint8]) -> int:
    """The coding of fewest bits; of equals the smallest parameter, and raw last."""
    return int(np.argmin(np.bincount(zigzag, minlength=256) @ _COSTS))


def _value_planes(zigzag: NDArray[np.uint8], coding: int) -> list[Bits]:
    if coding == _RAW:
        return [np.unpackbits(zigzag)]
    quotient = zigzag >> np.uint8(coding)
    run = np.minimum(quotient, _QUOTIENT_CAP)
    ends = np.cumsum(run + np.int64(1))
    unary = np.ones(ends[-1] if ends.size else 0, np.uint8)
    unary[ends - 1] = 0
    escaped = quotient[quotient >= _QUOTIENT_CAP]
    return [unary, _low_bits(zigzag, coding), _low_bits(escaped, 8 - coding)]


def _low_bits(numbers: NDArray[np.uint8], width: int) -> Bits:
    return np.unpackbits(numbers[:, None], axis=1)[:, 8 - width :].reshape(-1)


def _decode_values(bits: Bits, k: int, coding: int) -> tuple[Int8Vector, int]:
    """The k values at the start of `bits`, and how many bits they took."""
    reader = _Reader(bits)
    if coding == _RAW:
        zigzag = reader.numbers(k, 8)
    else:
        quotient = reader.unary(k)
        zigzag = reader.numbers(k, coding)
        escape = (quotient == _QUOTIENT_CAP).nonzero()[0]
        if escape.size:
            quotient[escape] = escaped = reader.numbers(escape.size, 8 - coding)
            if escaped.min() < _QUOTIENT_CAP:
                raise CodecError(f"an escaped quotient below {_QUOTIENT_CAP}: not canonical")
        if k and quotient.max() > 255 >> coding:
            raise CodecError(f"a quotient of {quotient.max()}: quantised values lie in -127..127")
        zigzag |= quotient << np.uint8(coding)
    if k and zigzag.max() > 254:
        raise CodecError("value -128: quantised values lie in -127..127")
    if coding != _best_coding(zigzag):
        raise CodecError(f"value coding {coding}, {_best_coding(zigzag)} takes fewer bits: not canonical")
    return _UNZIGZAG[zigzag], reader.used


class _Reader:
    """Takes planes off the front of a bit array; CodecError when it ends too soon."""

    def __init__(self, bits: Bits) -> None:
        self._bits = bits
        self.used = 0

    def unary(self, count: int) -> NDArray[np.uint8]:
        """(count,) lengths of runs of ones, each ended by a zero and at most _QUOTIENT_CAP long."""
        ends: NDArray[np.int64] = (self._bits == 0).nonzero()[0][:count]
        runs = ends.copy()
        runs[1:] -= ends[:-1] + 1
        if len(ends) < count:
            raise CodecError(f"{len(ends)} of {count} values: truncated")
        if count and runs.max() > _QUOTIENT_CAP:
            raise CodecError(f"a run of {runs.max()} ones, at most {_QUOTIENT_CAP}")
        self.used = int(ends[-1]) + 1 if count else 0
        return runs.astype(np.uint8)

    def numbers(self, count: int, width: int) -> NDArray[np.uint8]:
        """(count,) numbers of `width` bits each, 8 at most."""
        end = self.used + count * width
        if end > len(self._bits):
            raise CodecError(f"{len(self._bits) - self.used} of {count * width} bits: truncated")
        plane = self._bits[self.used : end].reshape(count, width)
        self.used = end
        return plane @ _PLACES[8 - width :]
