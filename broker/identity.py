"""The folder of a node's identity: what it connects with, apart from how that came to be (broker/pki.py, broker/enrolment.py).

    ca.pem           the authority of the federation
    certificate.pem  the node's own; its CN is the node's name
    key.pem          P-256, made where it is used

Needs nothing but the standard library, so that an agent starts without the rest.
"""

from __future__ import annotations

from pathlib import Path

from sanderling.broker.mqtt_client import TlsFiles
from sanderling.models.errors import MissingError

CA_CERTIFICATE, CERTIFICATE, KEY = "ca.pem", "certificate.pem", "key.pem"


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
