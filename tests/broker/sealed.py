"""A device, a coordinator and what they seal and sign, for tests."""

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from sanderling.broker.keys import EpochKey, device_pair_key, epoch_key
from sanderling.broker.sealing import Kind, Subject

DEVICE = X25519PrivateKey.from_private_bytes(bytes(range(32)))
OTHER_DEVICE = X25519PrivateKey.from_private_bytes(bytes(range(1, 33)))
COORDINATOR = X25519PrivateKey.from_private_bytes(bytes(range(32, 64)))
SIGNER = Ed25519PrivateKey.from_private_bytes(bytes(range(64, 96)))
SUBJECT = Subject(kind=Kind.UPDATE, round=3, model_hash=bytes(range(32)))


def a_key(
    device: X25519PrivateKey = DEVICE, name: str = "pi-3", *, run: str = "k3v9q2ax", epoch: int = 1
) -> EpochKey:
    pair = device_pair_key(device, COORDINATOR.public_key())
    return epoch_key(pair, federation="watch", device=name, run=run, epoch=epoch)


KEY = a_key()
