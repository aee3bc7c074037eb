"""Updates and evaluations that only the coordinator can read, and only the device can have written (docs/wire.md, "Sealing").

ChaCha20-Poly1305 (RFC 8439) as COSE_Encrypt0, bound to federation, device, run, epoch, round, model, kind and codec.
A device takes a nonce and calls `seal`; the coordinator finds the round by `read_header` and calls `unseal`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import cbor2
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from sanderling.broker import cose
from sanderling.broker.counters import MAX_COUNTER, ReplayWindow, read_leb128, write_leb128
from sanderling.broker.errors import (
    MessageError,
    NotAuthenticError,
    TooLargeError,
    UnknownKeyError,
    UnknownVersionError,
    UnprotectedError,
    WrongRoundError,
)
from sanderling.broker.keys import TAG_BYTES, EpochKey
from sanderling.broker.messages import EvaluationMessage, UpdateMessage
from sanderling.models.errors import UsageError

VERSION = 1
MAX_OVERHEAD_BYTES = 33  # a small round and counter: 23
_FIRST_BYTE = VERSION << 4
_CHECK_BYTES = 16
_PLAIN = 0x80  # the first byte of a message is an array's or a map's, no less
_NAME = "sealed message"


class Kind(IntEnum):
    UPDATE = 1
    EVALUATION = 2


_LIMIT_BYTES = {Kind.UPDATE: UpdateMessage.MAX_BYTES, Kind.EVALUATION: EvaluationMessage.MAX_BYTES}


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What a sealed message is about, besides what its key says. Both sides take it from the signed plan."""

    kind: Kind
    round: int
    model_hash: bytes  # 32 bytes, of the plan's model
    codec: int = 1  # version of the update codec


@dataclass(frozen=True, slots=True, kw_only=True)
class SealHeader:
    """What a sealed message says in the clear: claims until the seal is checked."""

    counter: int
    round: int
    tag: bytes
    size: int


def seal(message: bytes, key: EpochKey, subject: Subject, counter: int) -> bytes:
    """The message sealed; `counter` from Nonces.take, never twice. The bytes are stored, then sent, and sent again as they are."""
    if not 1 <= counter <= MAX_COUNTER:
        raise UsageError(f"{_NAME}: counter {counter}, expected 1 to {MAX_COUNTER}")
    iv = cose.nonce(key.base_iv, counter)
    sealed = ChaCha20Poly1305(key.secret).encrypt(iv, message, _authenticated(key, subject))
    return bytes((_FIRST_BYTE,)) + write_leb128(counter) + write_leb128(subject.round) + key.tag + sealed


def read_header(data: bytes, device: str) -> SealHeader:
    """The header of what `device` sent. Raises UnprotectedError, or MessageError or one of its kinds."""
    if not data or data[0] >= _PLAIN:
        raise UnprotectedError(f"device {device!r}")
    if data[0] != _FIRST_BYTE:
        raise UnknownVersionError(_NAME, data[0], _FIRST_BYTE)
    counter, at = read_leb128(_NAME, data, 1, MAX_COUNTER)
    round_number, at = read_leb128(_NAME, data, at, 2**32 - 1)
    if not counter or len(data) < at + TAG_BYTES + _CHECK_BYTES:
        raise MessageError(_NAME, f"{len(data)} bytes with counter {counter}: truncated, or counted from 0")
    return SealHeader(counter=counter, round=round_number, tag=data[at : at + TAG_BYTES], size=at + TAG_BYTES)


def unseal(data: bytes, key: EpochKey, subject: Subject, window: ReplayWindow) -> tuple[bytes, ReplayWindow]:
    """The message, and the device's window with it in; keep that when, and only when, what the message changed is stored.

    Raises a kind of ProtocolError, whatever the bytes are.
    """
    limit = _LIMIT_BYTES[subject.kind] + MAX_OVERHEAD_BYTES
    if len(data) > limit:
        raise TooLargeError(_NAME, len(data), limit)
    header = read_header(data, key.device)
    if header.round != subject.round:
        raise WrongRoundError(key.device, subject.round, header.round)
    if header.tag != key.tag:
        raise UnknownKeyError(key.device, key.tag, header.tag)
    window = window.accept(header.counter, key.device)
    iv = cose.nonce(key.base_iv, header.counter)
    try:
        message = ChaCha20Poly1305(key.secret).decrypt(iv, data[header.size :], _authenticated(key, subject))
    except InvalidTag:
        raise NotAuthenticError(f"device {key.device!r}") from None
    return message, window


def as_cose(data: bytes, key: EpochKey, subject: Subject) -> tuple[bytes, bytes]:
    """The whole COSE_Encrypt0 that `data` stands for, and its external_aad."""
    header = read_header(data, key.device)
    iv = cose.nonce(key.base_iv, header.counter)
    protected = cose.encryption_headers(_key_id(key, subject))
    return cose.encrypt0(protected, iv, data[header.size :]), _external_aad(key, subject)


def _authenticated(key: EpochKey, subject: Subject) -> bytes:
    return cose.to_authenticate(cose.encryption_headers(_key_id(key, subject)), _external_aad(key, subject))


def _key_id(key: EpochKey, subject: Subject) -> bytes:
    return key.tag + subject.round.to_bytes(4, "big")


def _external_aad(key: EpochKey, subject: Subject) -> bytes:
    about = ["sanderling seal 1", key.federation, key.device, key.run, key.epoch]
    about += [subject.round, subject.model_hash, int(subject.kind), subject.codec]
    return cbor2.dumps(about, canonical=True)
