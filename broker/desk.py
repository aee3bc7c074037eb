"""The authority at work: it hands out tokens, answers requests, and ends memberships, each durable before it is told.

The registry decides; the revocation list follows it, and is written again where an interruption kept it behind.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding

from sanderling.broker import enrolment, pki
from sanderling.broker.enrolment import EnrolmentError, Entropy, Grant, Token
from sanderling.broker.identity import CERTIFICATE, CoordinatorKeys
from sanderling.broker.pki import AUTHORITY, COORDINATOR, ENROLMENT, Pki, Role
from sanderling.broker.registry import Issued, Registry
from sanderling.models.errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """Where a device finds the enrolment listener, and how long its token is good."""

    host: str
    port: int
    valid_s: int


class Desk:
    """See the module. A context manager; the times are those of `clock`."""

    def __init__(
        self,
        directory: Path,
        *,
        clock: Callable[[], datetime] = pki.utc_now,
        entropy: Entropy = os.urandom,
    ) -> None:
        self._pki, self._clock, self._entropy = Pki(directory), clock, entropy
        self._authority = self._pki.authority()
        self._signing_key, self._coordinator = _coordinator_keys(self._pki)
        self.registry = Registry(self._pki.folder(AUTHORITY))
        self._publish_revocations()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.registry.close()

    def invite(self, federation: str, device_id: str, reach: Reach, *, replaces: bool = False) -> Token:
        """A token for a device; with `replaces` for one that is a member and gets new keys. UsageError where it is not so."""
        now = self._clock()
        pki.check_hosts([reach.host])
        listener = pki.read_certificate(self._pki.folder(ENROLMENT) / CERTIFICATE)
        token = Token(
            federation=federation,
            id=self._entropy(enrolment.TOKEN_ID_BYTES).hex(),
            device_id=pki.check_device_name(device_id),
            secret=self._entropy(enrolment.SECRET_BYTES),
            signer_sha256=hashlib.sha256(self._coordinator.signing).digest(),
            server_sha256=pki.fingerprint(listener),
            host=reach.host,
            port=reach.port,
            expires=int((now + timedelta(seconds=reach.valid_s)).timestamp()),
        )
        self.registry.add_token(token, replaces=replaces, now=now)
        return token

    def answer(self, token_id: str, message: bytes) -> bytes:
        """The reply to a request; to the same request always the same. EnrolmentError with the reason it is refused."""
        now, stored = self._clock(), self.registry.token(token_id)
        if stored is None:
            raise EnrolmentError("unknown_token", f"token {token_id:.40}: never given, or closed")
        request_hash = hashlib.sha256(message).digest()
        if stored.token is None or stored.reply is not None:
            if stored.request_hash != request_hash or stored.reply is None:
                raise EnrolmentError("used_token", f"token {token_id}: used before, by another request")
            return stored.reply
        if now.timestamp() > stored.token.expires:
            raise EnrolmentError("expired_token", f"token {token_id} of {stored.token.device_id}: expired")
        reply, issued = self._grant(stored.token, message, now)
        if not self.registry.complete(token_id, request_hash, reply, issued):
            return self.answer(token_id, message)  # another desk was faster
        self._publish_revocations()
        return reply

    def revoke(self, device_id: str) -> int:
        """Ends a membership; how many of the device's certificates were good until now."""
        count = self.registry.revoke(device_id, self._clock())
        self._publish_revocations()
        return count

    def rotate(self, role: Role, hosts: Sequence[str]) -> None:
        """A new key and certificate for the broker, the coordinator or the enrolment listener."""
        now = self._clock()
        pki.check_hosts(hosts)
        old = pki.read_certificate(self._pki.folder(role) / CERTIFICATE)
        # First: cut short here, the role is locked out until this is done again, rather than two keys left good.
        self.registry.supersede_role(role, old.serial_number, old.not_valid_after_utc, now)
        pki.rotate(self._pki, role, hosts, now)
        self._publish_revocations()

    def _grant(self, token: Token, message: bytes, now: datetime) -> tuple[bytes, Issued]:
        request = enrolment.open_request(token, message)
        try:
            certificate = self._authority.sign_request(request.signing_request, token.device_id, now)
        except UsageError as error:
            raise EnrolmentError("malformed", str(error)) from error
        grant = Grant(
            certificate=certificate.public_bytes(Encoding.DER),
            authority=self._authority.certificate.public_bytes(Encoding.DER),
            coordinator=self._coordinator,
            issued_ms=int(now.timestamp() * 1000),
        )
        issued = Issued(
            serial=certificate.serial_number,
            device_id=token.device_id,
            certificate=grant.certificate,
            agreement_key=request.agreement_key,
            issued=now,
            expires=certificate.not_valid_after_utc,
        )
        return enrolment.seal_reply(token, message, grant, self._signing_key, self._entropy), issued

    def _publish_revocations(self) -> None:
        now = self._clock()
        revoked = self.registry.revocations(now)
        if pki.listed(self._pki) != frozenset(revocation.serial for revocation in revoked):
            pki.write_revocations(self._pki, self._authority, revoked, now)


def _coordinator_keys(made: Pki) -> tuple[Ed25519PrivateKey, CoordinatorKeys]:
    folder = made.folder(COORDINATOR)
    signing, agreement = pki.read_key(folder / pki.SIGNING_KEY), pki.read_key(folder / pki.AGREEMENT_KEY)
    if not isinstance(signing, Ed25519PrivateKey) or not isinstance(agreement, X25519PrivateKey):
        raise UsageError(
            f"{folder}: expected an Ed25519 key in {pki.SIGNING_KEY}, an X25519 key in {pki.AGREEMENT_KEY}"
        )
    public = CoordinatorKeys(
        signing=signing.public_key().public_bytes_raw(), agreement=agreement.public_key().public_bytes_raw()
    )
    return signing, public
