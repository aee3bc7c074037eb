"""The folder of a node's identity: what it connects with, apart from how that came to be (broker/pki.py, broker/enrolment.py).

    ca.pem           the authority of the federation
    certificate.pem  the node's own; its CN is the node's name
    key.pem          P-256, made where it is used

and in a device's folder

    coordinator.json whose device it is, and the coordinator's public keys
    agreement.key    X25519: with the coordinator's, it seals what the device sends
    nonces           the mark of the nonces used under it (broker/counters.py); a new key comes with a mark of 0

Needs nothing but the standard library, so that an agent starts without the rest.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from sanderling.broker.mqtt_client import TlsFiles
from sanderling.models.errors import MissingError, UsageError

CA_CERTIFICATE, CERTIFICATE, KEY = "ca.pem", "certificate.pem", "key.pem"
COORDINATOR_KEYS, NONCES = "coordinator.json", "nonces"


@dataclass(frozen=True, slots=True, kw_only=True)
class CoordinatorKeys:
    """What devices believe: announcements are signed by the one, updates sealed for the other. Public keys, 32 bytes."""

    signing: bytes  # Ed25519
    agreement: bytes  # X25519


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Who a device is, and whom it believes."""

    folder: Path
    federation: str
    device_id: str
    coordinator: CoordinatorKeys
    enrolled_ms: int  # since 1970, by the authority's clock


def read_identity(folder: Path) -> Identity:
    """MissingError when the device is not enrolled, UsageError for a damaged file."""
    path = require(folder / COORDINATOR_KEYS)
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        keys = CoordinatorKeys(
            signing=bytes.fromhex(value["signing_key"]), agreement=bytes.fromhex(value["agreement_key"])
        )
        return Identity(
            folder=folder,
            federation=value["federation"],
            device_id=value["device"],
            coordinator=keys,
            enrolled_ms=int(value["enrolled_ms"]),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path} is damaged: {error!r}; enrol the device again") from error


def tls_files(folder: Path) -> TlsFiles:
    """What a link connects with. MissingError when it is not all there."""
    authority, certificate, key = (require(folder / name) for name in (CA_CERTIFICATE, CERTIFICATE, KEY))
    return TlsFiles(authority=authority, certificate=certificate, key=key)


def require(path: Path) -> Path:
    """The path itself. MissingError when nothing is there."""
    if not path.exists():
        raise MissingError(
            f"{path} is not there: `sanderling pki init` makes the certificates of a federation, "
            "`sanderling device enroll` those of a device; or trust every process of this machine with "
            '`security.mode = "plain"`'
        )
    return path
