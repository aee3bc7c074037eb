"""A federation's certificates made at run time, and links that wait for what they are told."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from sanderling.broker import pki
from sanderling.broker.identity import CA_CERTIFICATE, CERTIFICATE, KEY, tls_files
from sanderling.broker.link import Connected, Delivered, Incoming, Link, LinkSettings, Refused
from sanderling.broker.run import fleet_listener
from sanderling.broker.topics import Topics

FEDERATION = "fed"
TOPICS = Topics(FEDERATION)


class Fleet:
    """A PKI for a broker on loopback, and devices with certificates of it."""

    def __init__(self, directory: Path, now: datetime | None = None) -> None:
        self.directory = directory
        self.now = now or pki.utc_now()
        self.pki = pki.initialise(
            directory / "pki", federation=FEDERATION, hosts=("localhost", "127.0.0.1"), now=self.now
        )
        self.authority = self.pki.authority()
        self._revoked: list[pki.Revocation] = []

    def device(self, name: str, now: datetime | None = None) -> int:
        """An identity in the folder `name`; its serial number. Again, it replaces the one before."""
        key = ec.generate_private_key(ec.SECP256R1())
        request = pki.signing_request(key, name)
        certificate = self.authority.sign_request(request, name, now or self.now)
        self.put(name, certificate.public_bytes(Encoding.PEM), pki.private_pem(key))
        return certificate.serial_number

    def put(self, name: str, certificate: bytes, key: bytes) -> None:
        pki.write_file(self.directory / name / CERTIFICATE, certificate)
        pki.write_secret(self.directory / name / KEY, key)
        authority = self.pki.folder(pki.BROKER) / CA_CERTIFICATE
        pki.write_file(self.directory / name / CA_CERTIFICATE, authority.read_bytes())

    def revoke(self, serial: int, name: str, *, superseded: bool = False) -> None:
        self._revoked.append(pki.Revocation(serial=serial, name=name, at=self.now, superseded=superseded))
        pki.write_revocations(self.pki, self.authority, self._revoked, pki.utc_now())

    def listener(self):
        return fleet_listener(self.pki.folder(pki.BROKER), federation=FEDERATION, host="127.0.0.1", port=0)

    def settings(self, name: str, port: int, **changes) -> LinkSettings:
        """The identity of a device, or of a role of the PKI, as a link takes it."""
        folder = self.directory / name
        tls = tls_files(folder if folder.exists() else self.pki.folder(name))
        return settings(port, f"{name}-client", **{"tls": tls, **changes})

    def link(self, name: str, port: int, **changes) -> Link:
        return Link(self.settings(name, port, **changes))


def settings(port: int, client_id: str, **changes) -> LinkSettings:
    return LinkSettings(
        host="127.0.0.1", port=port, client_id=client_id, backoff_min_s=0.02, backoff_max_s=0.1, **changes
    )


def wait_for(link: Link, kind, timeout_s: float = 10.0):
    deadline = time.monotonic() + timeout_s
    while (remaining_s := deadline - time.monotonic()) > 0:
        if isinstance(event := link.next_event(remaining_s), kind):
            return event
    raise AssertionError(f"no {kind.__name__} in {timeout_s} s")


def received_until(link: Link, last: bytes) -> list[bytes]:
    """The payloads that come, up to the one that was sent last: what is not among them was not delivered."""
    payloads = []
    while not payloads or payloads[-1] != last:
        incoming = wait_for(link, Incoming)
        link.acknowledge(incoming)
        payloads.append(incoming.payload)
    return payloads


@contextmanager
def connected(link: Link, *topics: str) -> Iterator[Link]:
    """The link while it is connected, with its subscriptions: the broker answers a PUBLISH after the SUBSCRIBE before it."""
    for topic in topics:
        link.subscribe(topic)
    with link:
        wait_for(link, Connected)
        link.publish("barrier", b"")
        wait_for(link, Delivered | Refused)
        yield link
