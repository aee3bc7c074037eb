"""Keys of the seal: from the X25519 keys of a device and the coordinator to one key an epoch (docs/wire.md, "Sealing").

X25519 is RFC 7748; extraction and expansion are BLAKE2b (RFC 7693), which the C runtime has for its hashes already.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import cbor2
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from sanderling.models.errors import UsageError

KEY_BYTES, IV_BYTES, TAG_BYTES = 32, 12, 4


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochKey:
    """What seals a device's messages in one epoch of one run. `tag` names it on the wire; the rest is secret."""

    federation: str
    device: str
    run: str
    epoch: int  # the plan's mask epoch
    secret: bytes = field(repr=False)  # 32 bytes
    base_iv: bytes = field(repr=False)  # 12 bytes
    tag: bytes  # 4 bytes


def device_pair_key(secret: X25519PrivateKey, coordinator: X25519PublicKey) -> bytes:
    """The 32 bytes that this device and its coordinator alone can know. UsageError for a public key that no one can own."""
    return _pair_key(secret, coordinator, secret.public_key(), coordinator)


def coordinator_pair_key(secret: X25519PrivateKey, device: X25519PublicKey) -> bytes:
    """The same 32 bytes, seen from the coordinator."""
    return _pair_key(secret, device, device, secret.public_key())


def _pair_key(
    secret: X25519PrivateKey, peer: X25519PublicKey, device: X25519PublicKey, coordinator: X25519PublicKey
) -> bytes:
    try:
        shared = secret.exchange(peer)
    except ValueError:  # the shared point is zero
        raise UsageError(
            f"public key {peer.public_bytes_raw().hex()}: of low order; enrol a new key"
        ) from None
    parts = b"sanderling pair 1" + shared + device.public_bytes_raw() + coordinator.public_bytes_raw()
    return hashlib.blake2b(parts, digest_size=KEY_BYTES).digest()


def epoch_key(pair_key: bytes, *, federation: str, device: str, run: str, epoch: int) -> EpochKey:
    """The key of one epoch of a run."""
    about = cbor2.dumps(["sanderling key 1", federation, device, run, epoch], canonical=True)
    derived = hashlib.blake2b(about, key=pair_key, digest_size=KEY_BYTES + IV_BYTES + TAG_BYTES).digest()
    return EpochKey(
        federation=federation,
        device=device,
        run=run,
        epoch=epoch,
        secret=derived[:KEY_BYTES],
        base_iv=derived[KEY_BYTES : KEY_BYTES + IV_BYTES],
        tag=derived[KEY_BYTES + IV_BYTES :],
    )
