"""Announcements that only the coordinator can have made, and that never go back (docs/wire.md, "Signed announcements").

Ed25519 (RFC 8032) as COSE_Sign1. The signature goes in front, so that a small device checks a large plan as it comes. A sequence
in the signed header rises with every announcement; a receiver keeps the newest durably before it acts on one.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import cbor2
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from sanderling.broker import cose
from sanderling.broker.counters import MAX_COUNTER
from sanderling.broker.errors import (
    MessageError,
    NotAuthenticError,
    OlderAnnouncementError,
    TooLargeError,
    UnknownVersionError,
    UnprotectedError,
)
from sanderling.broker.messages import MAX_NETWORK_BYTES, ModelBody, RoundPlan
from sanderling.models.errors import UsageError

VERSION = 1
SIGNATURE_BYTES = 64
_SEQUENCE_END = 1 + 6  # six bytes: a small device knows the payload's size from the first packet
OVERHEAD_BYTES = _SEQUENCE_END + SIGNATURE_BYTES
_FIRST_BYTE = VERSION << 4 | 1
_PLAIN = 0x80
_NAME = "signed announcement"


class Kind(IntEnum):
    """What is announced. On the wire only plans are signed: they name models and networks by their hashes."""

    PLAN = 1
    MODEL = 2
    NETWORK = 3


_LIMIT_BYTES = {
    Kind.PLAN: RoundPlan.MAX_BYTES,
    Kind.MODEL: ModelBody.MAX_BYTES,
    Kind.NETWORK: MAX_NETWORK_BYTES,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Announcement:
    sequence: int
    payload: bytes


def sign(payload: bytes, key: Ed25519PrivateKey, *, federation: str, kind: Kind, sequence: int) -> bytes:
    """The payload signed; `sequence` from counters.next_sequence, stored before this is published. The same each time."""
    if not 1 <= sequence <= MAX_COUNTER:
        raise UsageError(f"{_NAME}: sequence {sequence}, expected 1 to {MAX_COUNTER}")
    signature = key.sign(_signed(payload, federation, kind, sequence))
    return bytes((_FIRST_BYTE,)) + sequence.to_bytes(6, "big") + signature + payload


def verify(
    data: bytes, key: Ed25519PublicKey, *, federation: str, kind: Kind, newest: int = 0
) -> Announcement:
    """What was announced. `newest` is the highest sequence known: it may come again, nothing below it.

    Raises a kind of ProtocolError, whatever the bytes are.
    """
    sequence, signature, payload = _parts(data, kind)
    try:
        key.verify(signature, _signed(payload, federation, kind, sequence))
    except InvalidSignature:
        raise NotAuthenticError(kind.name.lower()) from None
    if sequence < newest:
        raise OlderAnnouncementError(kind.name.lower(), newest, sequence)
    return Announcement(sequence=sequence, payload=payload)


def as_cose(data: bytes, *, federation: str, kind: Kind) -> tuple[bytes, bytes]:
    """The whole COSE_Sign1 that `data` stands for, and its external_aad."""
    sequence, signature, payload = _parts(data, kind)
    return cose.sign1(cose.signature_headers(sequence), payload, signature), _external_aad(federation, kind)


def _parts(data: bytes, kind: Kind) -> tuple[int, bytes, bytes]:
    limit = _LIMIT_BYTES[kind] + OVERHEAD_BYTES
    if len(data) > limit:
        raise TooLargeError(_NAME, len(data), limit)
    if not data or data[0] >= _PLAIN:
        raise UnprotectedError(kind.name.lower())
    if data[0] != _FIRST_BYTE:
        raise UnknownVersionError(_NAME, data[0], _FIRST_BYTE)
    sequence = int.from_bytes(data[1:_SEQUENCE_END], "big")
    if not sequence or len(data) < OVERHEAD_BYTES:
        raise MessageError(_NAME, f"{len(data)} bytes with sequence {sequence}: truncated, or counted from 0")
    return sequence, data[_SEQUENCE_END:OVERHEAD_BYTES], data[OVERHEAD_BYTES:]


def _signed(payload: bytes, federation: str, kind: Kind, sequence: int) -> bytes:
    return cose.to_sign(cose.signature_headers(sequence), _external_aad(federation, kind), payload)


def _external_aad(federation: str, kind: Kind) -> bytes:
    return cbor2.dumps(["sanderling announcement 1", federation, int(kind)], canonical=True)
