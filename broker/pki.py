"""The certificates of a federation: an authority, who speaks for the broker and the coordinator, and who is no longer trusted.

X.509 (RFC 5280) with ECDSA P-256 and SHA-256; names: CN is what mosquitto takes for the user name. A folder for each machine, so that
what must be copied where is plain:

    authority/    ca.key ca.pem revoked.pem registry.sqlite                       stays where devices are enrolled
    enrolment/    ca.pem certificate.pem key.pem                                  likewise; what the enrolment listener shows
    broker/       ca.pem certificate.pem key.pem revoked.pem                      the broker's machine
    coordinator/  ca.pem certificate.pem key.pem signing.key agreement.key        the coordinator's machine

Files with a private key have mode 0600, and folders 0700. Nothing is ever overwritten but by `rotate` and `write_revocations`.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, Literal

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from sanderling.broker.identity import CA_CERTIFICATE, CERTIFICATE, KEY, require, tls_files
from sanderling.broker.mqtt_client import TlsFiles
from sanderling.broker.topics import NAME_PATTERN, check_name
from sanderling.models.errors import UsageError

AUTHORITY: Final = "authority"
ENROLMENT: Final = "enrolment"
BROKER: Final = "broker"
COORDINATOR: Final = "coordinator"
CA_KEY, REVOKED = "ca.key", "revoked.pem"
SIGNING_KEY, AGREEMENT_KEY = "signing.key", "agreement.key"

# Beside `coordinator` and `enrolment` no device may have one of these names: the access rules give them rights.
RESERVED_NAMES = frozenset({ENROLMENT, BROKER, COORDINATOR})

_AUTHORITY_DAYS = 20 * 365
_CERTIFICATE_DAYS = 2 * 365
_CLOCK_ERROR = timedelta(days=1)  # boards without a clock of their own come up late, seldom early

_NOTICE = re.compile(r"^([0-9a-f]+) ([A-Za-z0-9._-]{1,64}) (superseded|revoked)$", re.MULTILINE | re.ASCII)

Role = Literal["enrolment", "broker", "coordinator"]
PrivateKey = ec.EllipticCurvePrivateKey | Ed25519PrivateKey | X25519PrivateKey


@dataclass(frozen=True, slots=True, kw_only=True)
class Revocation:
    """A certificate of `name` that is no longer trusted; `superseded` when the same node has another one now."""

    serial: int
    name: str
    at: datetime
    superseded: bool = False


@dataclass(frozen=True, slots=True)
class Pki:
    """The folder of a federation's certificates."""

    directory: Path

    def folder(self, name: str) -> Path:
        return self.directory / name

    def exists(self) -> bool:
        return self.folder(AUTHORITY).is_dir()

    def authority(self) -> Authority:
        """The authority's key and certificate. MissingError when this folder does not hold it."""
        folder = self.folder(AUTHORITY)
        key = read_key(folder / CA_KEY)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise UsageError(f"{folder / CA_KEY}: expected a P-256 key")
        return Authority(key=key, certificate=read_certificate(folder / CA_CERTIFICATE))

    def tls(self, role: Role) -> TlsFiles:
        """What a client in that role connects with. MissingError when its folder is not here."""
        return tls_files(self.folder(role))


@dataclass(frozen=True, slots=True)
class Authority:
    """Signs certificates. The times it is given must be aware."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    def sign_client(
        self, public_key: ec.EllipticCurvePublicKey, name: str, now: datetime
    ) -> x509.Certificate:
        """A certificate for a client that the broker will know as `name`."""
        usage = [ExtendedKeyUsageOID.CLIENT_AUTH]
        return self._sign(self._leaf(public_key, name, usage, now))

    def sign_server(
        self, public_key: ec.EllipticCurvePublicKey, name: str, hosts: Sequence[str], now: datetime
    ) -> x509.Certificate:
        """A certificate for a server that is reached under `hosts`, names and addresses."""
        names = x509.SubjectAlternativeName([_general_name(host) for host in hosts])
        builder = self._leaf(public_key, name, [ExtendedKeyUsageOID.SERVER_AUTH], now)
        return self._sign(builder.add_extension(names, critical=False))

    def sign_request(self, request: bytes, device_id: str, now: datetime) -> x509.Certificate:
        """A device's certificate for a DER signing request (RFC 2986). UsageError where it is not for `device_id`."""
        try:
            csr = x509.load_der_x509_csr(request)
            proven, key, named = csr.is_signature_valid, csr.public_key(), _common_name(csr.subject)
        except (ValueError, TypeError, x509.InvalidVersion, UnsupportedAlgorithm) as error:
            raise UsageError(f"{device_id}: not a certificate signing request: {error}") from error
        if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
            raise UsageError(f"{device_id}: expected a P-256 key in the request")
        if not proven:
            raise UsageError(f"{device_id}: the request is not signed by the key in it")
        if named != check_device_name(device_id):
            raise UsageError(f"expected a request of {device_id!r}, came one of {named!r:.80}")
        return self.sign_client(key, device_id, now)

    def revocation_list(
        self, revoked: Iterable[Revocation], now: datetime, previous: datetime | None
    ) -> bytes:
        """A PEM list (RFC 5280, 5) that replaces the one of `previous`; before it, for each entry, a line for `notices`.

        OpenSSL, which only ever adds lists when mosquitto reloads, takes the newest by whole seconds: lists are dated
        a day back, each at least a second after the one before. They do not expire, for an expired one turns away
        everybody.
        """
        updated = now - _CLOCK_ERROR
        if previous is not None:
            updated = max(updated, previous + timedelta(seconds=1))
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.certificate.subject)
            .last_update(updated)
            .next_update(self.certificate.not_valid_after_utc)
            .add_extension(x509.CRLNumber(int(updated.timestamp())), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False
            )
        )
        notices = []
        for revocation in revoked:
            entry = x509.RevokedCertificateBuilder(revocation.serial, revocation.at)
            builder = builder.add_revoked_certificate(entry.build())
            notices.append(f"{_notice(revocation)}\n")
        pem = builder.sign(self.key, hashes.SHA256()).public_bytes(Encoding.PEM)
        return "".join(notices).encode() + pem

    def _leaf(
        self,
        public_key: ec.EllipticCurvePublicKey,
        name: str,
        usage: list[x509.ObjectIdentifier],
        now: datetime,
    ) -> x509.CertificateBuilder:
        until = min(now + timedelta(days=_CERTIFICATE_DAYS), self.certificate.not_valid_after_utc)
        return (
            _certificate(_name(name), self.certificate.subject, public_key, now - _CLOCK_ERROR, until)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(usage), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False
            )
        )

    def _sign(self, builder: x509.CertificateBuilder) -> x509.Certificate:
        return builder.sign(self.key, hashes.SHA256())


def initialise(directory: Path, *, federation: str, hosts: Sequence[str], now: datetime) -> Pki:
    """Makes everything in `directory`, for a broker that is reached under `hosts`.

    Raises UsageError when there is a PKI already, or a host is neither a name nor an address.
    """
    pki = Pki(directory)
    check_name("federation", federation)
    if pki.exists():
        raise UsageError(f"{directory} holds a PKI already; it is never overwritten: name another folder")
    check_hosts(hosts)
    authority = _new_authority(federation, now)
    made = directory.with_name(f"{directory.name}.part")
    if made.exists():
        raise UsageError(f"{made} is left from an attempt that did not end: remove it and try again")
    draft = Pki(made)
    write_secret(draft.folder(AUTHORITY) / CA_KEY, private_pem(authority.key))
    for name in (AUTHORITY, ENROLMENT, BROKER, COORDINATOR):
        write_file(draft.folder(name) / CA_CERTIFICATE, authority.certificate.public_bytes(Encoding.PEM))
    _issue(draft, authority, BROKER, hosts, now)
    _issue(draft, authority, COORDINATOR, (), now)
    _issue(draft, authority, ENROLMENT, (ENROLMENT,), now)  # tokens pin the certificate itself, not a name
    write_secret(draft.folder(COORDINATOR) / SIGNING_KEY, private_pem(Ed25519PrivateKey.generate()))
    write_secret(draft.folder(COORDINATOR) / AGREEMENT_KEY, private_pem(X25519PrivateKey.generate()))
    write_revocations(draft, authority, (), now)
    made.rename(directory)
    return pki


def rotate(pki: Pki, role: Role, hosts: Sequence[str], now: datetime) -> None:
    """A new key and certificate for a role, for the same hosts where none are given. The old one is not revoked by this."""
    check_hosts(hosts)
    old = read_certificate(pki.folder(role) / CERTIFICATE)
    _issue(pki, pki.authority(), role, hosts or hosts_of(old), now)


def write_revocations(pki: Pki, authority: Authority, revoked: Iterable[Revocation], now: datetime) -> None:
    """The revocation list, for the authority's own use and for the broker, who must hear of the change."""
    kept = pki.folder(AUTHORITY) / REVOKED
    previous = None
    if kept.exists():
        previous = x509.load_pem_x509_crl(kept.read_bytes()).last_update_utc
    revocations = authority.revocation_list(revoked, now, previous)
    for name in (AUTHORITY, BROKER):
        write_file(pki.folder(name) / REVOKED, revocations)


def listed(pki: Pki) -> frozenset[int] | None:
    """The serial numbers on the revocation list, None where the authority's and the broker's are not the same."""
    lists = [pki.folder(name) / REVOKED for name in (AUTHORITY, BROKER)]
    if not all(path.exists() for path in lists) or lists[0].read_bytes() != lists[1].read_bytes():
        return None
    return frozenset(entry.serial_number for entry in x509.load_pem_x509_crl(lists[0].read_bytes()))


def notices(revocation_list: bytes) -> dict[int, tuple[str, bool]]:
    """By serial number whose certificates a list revokes, and whether they are superseded: a list itself has no names.

    Only text beside the list; what it says decides whose connections are closed, never who is let in.
    """
    found = _NOTICE.finditer(revocation_list.decode(errors="replace"))
    return {int(match[1], 16): (match[2], match[3] == "superseded") for match in found}


def signing_request(key: ec.EllipticCurvePrivateKey, device_id: str) -> bytes:
    """A DER request for a certificate, which proves possession of the key."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(_name(check_device_name(device_id)))
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)


def check_device_name(device_id: str) -> str:
    """`device_id` itself. UsageError where it cannot be a device's."""
    if device_id in RESERVED_NAMES:
        raise UsageError(f"device {device_id!r}: the name has rights of its own; take another")
    return check_name("device", device_id)


def check_hosts(hosts: Sequence[str]) -> None:
    """UsageError for what is neither a host name nor an address."""
    for host in hosts:
        if not _is_address(host) and not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?", host):
            raise UsageError(f"host {host!r:.80}: expected a name such as broker.local, or an IP address")


def hosts_of(certificate: x509.Certificate) -> tuple[str, ...]:
    """The names and addresses a server's certificate is for."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    addresses = (str(address) for address in names.get_values_for_type(x509.IPAddress))
    return (*names.get_values_for_type(x509.DNSName), *addresses)


def fingerprint(certificate: x509.Certificate) -> bytes:
    """SHA-256 of a certificate: what a token pins."""
    return certificate.fingerprint(hashes.SHA256())


def common_name(certificate: x509.Certificate) -> str:
    """Whom a certificate is of."""
    return _common_name(certificate.subject)


def read_certificate(path: Path) -> x509.Certificate:
    """MissingError when it is not there, UsageError when it is none."""
    try:
        return x509.load_pem_x509_certificate(require(path).read_bytes())
    except ValueError as error:
        raise UsageError(f"{path}: not a PEM certificate: {error}") from error


def read_key(path: Path) -> object:
    """A private key. MissingError when it is not there, UsageError when it is none."""
    try:
        return load_pem_private_key(require(path).read_bytes(), None)
    except (ValueError, TypeError) as error:
        raise UsageError(f"{path}: not an unencrypted PEM private key") from error


def private_pem(key: PrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def write_secret(path: Path, content: bytes) -> None:
    """Durable, and never readable to anybody else, not even while it is written."""
    write_file(path, content, mode=0o600)


def write_file(path: Path, content: bytes, mode: int = 0o644) -> None:
    """On return the content is on the disk; a crash before leaves what was there."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    part.unlink(missing_ok=True)
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    os.fsync(folder)
    os.close(folder)


def utc_now() -> datetime:
    """For the shells; everything else is given the time."""
    return datetime.now(UTC)


def _new_authority(federation: str, now: datetime) -> Authority:
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name(f"{federation[:50]} authority")
    until = now + timedelta(days=_AUTHORITY_DAYS)
    builder = (
        _certificate(name, name, key.public_key(), now - _CLOCK_ERROR, until)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
    )
    return Authority(key, builder.sign(key, hashes.SHA256()))


def _issue(
    pki: Pki, authority: Authority, role: Role, hosts: Sequence[str], now: datetime
) -> x509.Certificate:
    """The key goes last: an attempt that is cut short leaves a pair that does not match, and is made again."""
    key = ec.generate_private_key(ec.SECP256R1())
    if role in (BROKER, ENROLMENT):
        certificate = authority.sign_server(key.public_key(), role, hosts, now)
    else:
        certificate = authority.sign_client(key.public_key(), role, now)
    write_file(pki.folder(role) / CERTIFICATE, certificate.public_bytes(Encoding.PEM))
    write_secret(pki.folder(role) / KEY, private_pem(key))
    return certificate


def _certificate(
    subject: x509.Name,
    issuer: x509.Name,
    public_key: ec.EllipticCurvePublicKey,
    since: datetime,
    until: datetime,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(since)
        .not_valid_after(until)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    )


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _notice(revocation: Revocation) -> str:
    return f"{revocation.serial:x} {revocation.name} {'superseded' if revocation.superseded else 'revoked'}"


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _common_name(subject: x509.Name) -> str:
    """The one CN, where it is all the subject says; else nothing."""
    attributes = list(subject)
    if len(attributes) != 1 or attributes[0].oid != NameOID.COMMON_NAME:
        return ""
    value = attributes[0].value
    return value if isinstance(value, str) and NAME_PATTERN.fullmatch(value) else ""


def _general_name(host: str) -> x509.GeneralName:
    return x509.IPAddress(ipaddress.ip_address(host)) if _is_address(host) else x509.DNSName(host)


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
