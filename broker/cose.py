"""COSE objects of which only the changing parts travel (RFC 9052, RFC 9053): their headers, and what is computed over.

As in RFC 8613 (OSCORE), section 6, sender and receiver rebuild the object before they compute. `encrypt0` and `sign1` write it
out whole, so that any COSE library can check what crossed the wire.
"""

from __future__ import annotations

import cbor2

ALGORITHM, KEY_ID, IV = 1, 4, 5  # header parameters, RFC 9052, 3.1
SEQUENCE = -65537  # ours, of the range for private use
CHACHA20_POLY1305 = 24  # RFC 9053, 4.3
EDDSA = -8  # RFC 9053, 2.2; the curve is Ed25519
_ENCRYPT0_TAG, _SIGN1_TAG = 16, 18


def encryption_headers(key_id: bytes) -> bytes:
    """The protected header of a sealed message."""
    return _dumps({ALGORITHM: CHACHA20_POLY1305, KEY_ID: key_id})


def signature_headers(sequence: int) -> bytes:
    """The protected header of a signed message."""
    return _dumps({ALGORITHM: EDDSA, SEQUENCE: sequence})


def to_authenticate(protected: bytes, external_aad: bytes) -> bytes:
    """Enc_structure (RFC 9052, 5.3): the associated data of the cipher."""
    return _dumps(["Encrypt0", protected, external_aad])


def to_sign(protected: bytes, external_aad: bytes, payload: bytes) -> bytes:
    """Sig_structure (RFC 9052, 4.4). The payload is at its end: a receiver hashes it as it comes."""
    return _dumps(["Signature1", protected, external_aad, payload])


def nonce(base_iv: bytes, partial_iv: int) -> bytes:
    """The IV from a Partial IV (RFC 9052, 3.1): padded on the left with zeros, then exclusive or."""
    return (int.from_bytes(base_iv, "big") ^ partial_iv).to_bytes(len(base_iv), "big")


def encrypt0(protected: bytes, iv: bytes, ciphertext: bytes) -> bytes:
    """The tagged COSE_Encrypt0."""
    return _dumps(cbor2.CBORTag(_ENCRYPT0_TAG, [protected, {IV: iv}, ciphertext]))


def sign1(protected: bytes, payload: bytes, signature: bytes) -> bytes:
    """The tagged COSE_Sign1."""
    return _dumps(cbor2.CBORTag(_SIGN1_TAG, [protected, {}, payload, signature]))


def _dumps(item: object) -> bytes:
    # Deterministic as it is: the keys above stand in order. Having cbor2 sort them would double the cost of a seal.
    return cbor2.dumps(item)
