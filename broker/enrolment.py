"""How a device that has nothing but a token comes by its certificate, over a broker that is trusted by nobody.

The token goes to the device out of band: a secret, and whom to believe. The key is made on the device and stays there.

    device        -> authority   AEAD(signing request, X25519 public key)
    authority     -> device      AEAD(certificate, authority, coordinator's keys, signature of the coordinator)

Keys of the AEAD (ChaCha20-Poly1305, RFC 8439) come from the secret by HKDF-SHA256 (RFC 5869), one for each direction, so the secret
itself never travels: who reads all of it can neither enrol nor learn what was enrolled. The signature (Ed25519) is by
the key whose fingerprint is in the token, over the request's hash too: a reply belongs to one request. docs/wire.md, "Enrolment".
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cbor2
from cryptography import x509
from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding

from sanderling.broker import pki
from sanderling.broker.counters import write_mark
from sanderling.broker.identity import (
    CA_CERTIFICATE,
    CERTIFICATE,
    COORDINATOR_KEYS,
    KEY,
    NONCES,
    CoordinatorKeys,
    Identity,
    read_identity,
)
from sanderling.broker.topics import check_name
from sanderling.models import plain_cbor
from sanderling.models.errors import ProtocolError, UsageError

VERSION = 1
TOKEN_PREFIX = "sanderling-enrol-1."
MAX_MESSAGE_BYTES = 4096
TOKEN_ID_BYTES, SECRET_BYTES = 16, 32
AGREEMENT_KEY = pki.AGREEMENT_KEY

_NONCE_BYTES = 12
_TOKEN, _REQUEST = "token", "request.bin"
Entropy = Callable[[int], bytes]


class EnrolmentError(ProtocolError):
    """An enrolment message that is refused; `reason` is what it is counted under."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """What is carried to the device out of band. Whoever has it can enrol as `device_id`, once."""

    federation: str
    id: str  # hexadecimal
    device_id: str
    secret: bytes = field(repr=False)
    signer_sha256: bytes  # of the coordinator's Ed25519 public key
    server_sha256: bytes  # of the certificate that the enrolment listener shows
    host: str
    port: int
    expires: int  # s since 1970

    def text(self) -> str:
        """One line."""
        fields = [
            self.federation,
            bytes.fromhex(self.id),
            self.device_id,
            self.secret,
            self.signer_sha256,
            self.server_sha256,
            self.host,
            self.port,
            self.expires,
        ]
        return TOKEN_PREFIX + base64.urlsafe_b64encode(cbor2.dumps(fields)).decode().rstrip("=")

    @classmethod
    def parse(cls, text: str) -> Token:
        """UsageError when it is none."""
        body = text.strip()
        try:
            if not body.startswith(TOKEN_PREFIX):
                raise ValueError("it does not begin with " + TOKEN_PREFIX)
            encoded = body.removeprefix(TOKEN_PREFIX)
            raw = base64.b64decode(encoded + "=" * (-len(encoded) % 4), altchars=b"-_", validate=True)
            fields = _array(raw, (str, bytes, str, bytes, bytes, bytes, str, int, int))
        except (ValueError, binascii.Error) as error:
            raise UsageError(f"not an enrolment token: {error}; copy the whole line") from None
        federation, token_id, device_id, secret, signer, server, host, port, expires = fields
        sizes = [len(part) for part in (token_id, secret, signer, server)]
        if sizes != [TOKEN_ID_BYTES, SECRET_BYTES, 32, 32] or not 0 < port < 65536:
            raise UsageError("not an enrolment token: a part has the wrong size; copy the whole line")
        pki.check_hosts([host])
        return cls(
            federation=check_name("federation", federation),
            id=token_id.hex(),
            device_id=pki.check_device_name(device_id),
            secret=secret,
            signer_sha256=signer,
            server_sha256=server,
            host=host,
            port=port,
            expires=expires,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What a device asks for: a certificate for its key, and to be known by its agreement key."""

    signing_request: bytes  # DER, RFC 2986
    agreement_key: bytes  # X25519 public key, 32 bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """What a device is given."""

    certificate: bytes  # DER
    authority: bytes  # DER
    coordinator: CoordinatorKeys
    issued_ms: int  # since 1970, by the authority's clock: no announcement from long before it is news


# ---------------------------------------------------------------------- messages


def seal_request(token: Token, request: Request, entropy: Entropy) -> bytes:
    """The bytes that travel. They are stored and sent again as they are: another nonce would be another request."""
    plain = cbor2.dumps([request.signing_request, request.agreement_key])
    return _seal(token, "request", plain, entropy)


def open_request(token: Token, message: bytes) -> Request:
    """EnrolmentError for what the holder of the token did not send."""
    plain = _open(token, "request", message)
    signing_request, agreement_key = _fields(plain, (bytes, bytes))
    if len(agreement_key) != 32:
        raise EnrolmentError("malformed", f"agreement key: expected 32 bytes, came {len(agreement_key)}")
    return Request(signing_request=signing_request, agreement_key=agreement_key)


def seal_reply(
    token: Token, message: bytes, grant: Grant, signing_key: Ed25519PrivateKey, entropy: Entropy
) -> bytes:
    """The answer to the request that came as `message`."""
    signature = signing_key.sign(_signed(token, message, grant))
    keys = grant.coordinator
    parts = [grant.certificate, grant.authority, keys.signing, keys.agreement, grant.issued_ms, signature]
    plain = cbor2.dumps(parts)
    return _seal(token, "reply", plain, entropy)


def open_reply(token: Token, message: bytes, reply: bytes) -> Grant:
    """EnrolmentError for what the coordinator, whose fingerprint is in the token, did not answer to `message`."""
    plain = _open(token, "reply", reply)
    types = (bytes, bytes, bytes, bytes, int, bytes)
    certificate, authority, signing, agreement, issued_ms, signature = _fields(plain, types)
    if hashlib.sha256(signing).digest() != token.signer_sha256 or len(agreement) != 32:
        raise EnrolmentError("not_authentic", "the reply names another coordinator than the token")
    grant = Grant(
        certificate=certificate,
        authority=authority,
        coordinator=CoordinatorKeys(signing=signing, agreement=agreement),
        issued_ms=issued_ms,
    )
    try:
        Ed25519PublicKey.from_public_bytes(signing).verify(signature, _signed(token, message, grant))
    except (InvalidSignature, ValueError):
        raise EnrolmentError("not_authentic", "the reply is not signed by the coordinator") from None
    return grant


def _signed(token: Token, message: bytes, grant: Grant) -> bytes:
    return cbor2.dumps(
        [
            "sanderling enrolment 1",
            token.federation,
            token.device_id,
            bytes.fromhex(token.id),
            hashlib.sha256(message).digest(),
            grant.certificate,
            grant.authority,
            grant.coordinator.agreement,
            grant.issued_ms,
        ]
    )


def _seal(token: Token, direction: str, plain: bytes, entropy: Entropy) -> bytes:
    nonce = entropy(_NONCE_BYTES)
    cipher = ChaCha20Poly1305(_key(token, direction))
    return bytes([VERSION]) + nonce + cipher.encrypt(nonce, plain, _associated(token, direction))


def _open(token: Token, direction: str, message: bytes) -> bytes:
    if len(message) > MAX_MESSAGE_BYTES:
        raise EnrolmentError("too_large", f"{len(message)} bytes, at most {MAX_MESSAGE_BYTES} are read")
    if message[:1] != bytes([VERSION]):
        raise EnrolmentError("unknown_version", f"expected version {VERSION}, came {message[:1].hex()!r}")
    nonce, sealed = message[1 : 1 + _NONCE_BYTES], message[1 + _NONCE_BYTES :]
    try:
        return ChaCha20Poly1305(_key(token, direction)).decrypt(nonce, sealed, _associated(token, direction))
    except (InvalidTag, ValueError):
        raise EnrolmentError("not_authentic", f"token {token.id}: a {direction} not made with it") from None


def _key(token: Token, direction: str) -> bytes:
    info = f"sanderling enrolment 1 {direction}".encode()
    return HKDF(hashes.SHA256(), 32, bytes.fromhex(token.id), info).derive(token.secret)


def _associated(token: Token, direction: str) -> bytes:
    return cbor2.dumps([direction, token.federation, token.device_id, bytes.fromhex(token.id)])


def _fields(raw: bytes, types: tuple[type, ...]) -> list[Any]:
    try:
        return _array(raw, types)
    except ValueError as error:
        raise EnrolmentError("malformed", str(error)) from None


def _array(raw: bytes, types: tuple[type, ...]) -> list[Any]:
    value = plain_cbor.loads(raw, depth=2)
    if not isinstance(value, list) or [type(part) for part in value] != list(types):
        raise ValueError(f"expected an array of {', '.join(kind.__name__ for kind in types)}")
    return value


# ---------------------------------------------------------------------- the device's folder


def agreement_key(identity: Identity) -> X25519PrivateKey:
    """The device's own half of what seals its updates. UsageError for a damaged file."""
    path = identity.folder / AGREEMENT_KEY
    key = pki.read_key(path)
    if not isinstance(key, X25519PrivateKey):
        raise UsageError(f"{path}: expected an X25519 key")
    return key


def begin(folder: Path, token: Token, entropy: Entropy) -> bytes:
    """The request of this device, kept with its new keys beside `folder`; the same one whenever it is asked again.

    Raises UsageError when `folder` is the identity of another device.
    """
    _settle(folder)
    if (folder / COORDINATOR_KEYS).exists():
        known = read_identity(folder)
        if (known.federation, known.device_id) != (token.federation, token.device_id):
            raise UsageError(
                f"{folder} is {known.device_id} of {known.federation}, the token is for {token.device_id} of "
                f"{token.federation}; name another folder"
            )
    draft = _draft(folder)
    if (draft / _REQUEST).exists() and (draft / _TOKEN).read_text() == token.text():
        return (draft / _REQUEST).read_bytes()
    shutil.rmtree(draft, ignore_errors=True)
    key, agreement = ec.generate_private_key(ec.SECP256R1()), X25519PrivateKey.generate()
    pki.write_secret(draft / KEY, pki.private_pem(key))
    pki.write_secret(draft / AGREEMENT_KEY, pki.private_pem(agreement))
    agreement_public = agreement.public_key().public_bytes_raw()
    pki.write_secret(draft / NONCES, write_mark(0, agreement_public))  # a new key has used none
    pki.write_secret(draft / _TOKEN, token.text().encode())
    request = Request(
        signing_request=pki.signing_request(key, token.device_id),
        agreement_key=agreement_public,
    )
    message = seal_request(token, request, entropy)
    pki.write_file(draft / _REQUEST, message)  # last: from now on the request stands
    return message


def pending(folder: Path) -> tuple[Token, bytes]:
    """The token and the request that wait for a reply. UsageError when there are none."""
    draft = _draft(folder)
    if not (draft / _REQUEST).exists():
        raise UsageError(f"{folder}: no request waits for a reply; make one with `sanderling device request`")
    return Token.parse((draft / _TOKEN).read_text()), (draft / _REQUEST).read_bytes()


def accept(folder: Path, reply: bytes) -> Identity:
    """Makes the pending request's keys and the reply's certificate the identity in `folder`.

    Raises EnrolmentError, and changes nothing, for a reply that is not the coordinator's to this request.
    """
    token, message = pending(folder)
    grant = open_reply(token, message, reply)
    draft = _draft(folder)
    _check_certificate(grant, token, draft)
    pki.write_file(draft / CA_CERTIFICATE, _pem(grant.authority))
    pki.write_file(draft / CERTIFICATE, _pem(grant.certificate))
    about = {
        "federation": token.federation,
        "device": token.device_id,
        "signing_key": grant.coordinator.signing.hex(),
        "agreement_key": grant.coordinator.agreement.hex(),
        "enrolled_ms": grant.issued_ms,
    }
    pki.write_file(draft / COORDINATOR_KEYS, json.dumps(about, indent=2).encode())  # now the draft is whole
    _settle(folder)
    return read_identity(folder)


def _settle(folder: Path) -> None:
    """Puts a whole draft in the folder's place; also what an interruption left to do."""
    draft, old = _draft(folder), folder.with_name(f"{folder.name}.old")
    if (draft / COORDINATOR_KEYS).exists():
        shutil.rmtree(old, ignore_errors=True)
        if folder.exists():
            folder.rename(old)
        for used in (_REQUEST, _TOKEN):
            (draft / used).unlink(missing_ok=True)
        draft.rename(folder)
    if folder.exists():
        shutil.rmtree(old, ignore_errors=True)


def _check_certificate(grant: Grant, token: Token, draft: Path) -> None:
    """What the coordinator signs is believed; this finds a fault of ours before it becomes a puzzle of TLS."""
    certificate = x509.load_der_x509_certificate(grant.certificate)
    key = pki.read_key(draft / KEY)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    if certificate.public_key() != key.public_key() or pki.common_name(certificate) != token.device_id:
        raise EnrolmentError("not_authentic", "the certificate is not for this device's key")
    certificate.verify_directly_issued_by(x509.load_der_x509_certificate(grant.authority))


def _draft(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.pending")


def _pem(der: bytes) -> bytes:
    return x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM)
