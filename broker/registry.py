"""Which tokens are open and which certificates were given to whom, durable in one SQLite file beside the authority's key.

A token is used once: that it was, the certificate and the reply are one transaction, before the reply leaves. The same
request gets the same reply, whenever it comes again.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

from sanderling.broker.enrolment import Token
from sanderling.broker.pki import Revocation
from sanderling.models.errors import UsageError

SCHEMA_VERSION = 1
FILE_NAME = "registry.sqlite"

_SCHEMA = """
CREATE TABLE token (
    id TEXT PRIMARY KEY, device TEXT NOT NULL, text TEXT, expires REAL NOT NULL,
    request_hash BLOB, reply BLOB
) WITHOUT ROWID;
CREATE TABLE certificate (
    serial TEXT PRIMARY KEY, name TEXT NOT NULL, der BLOB, agreement BLOB, issued REAL NOT NULL, expires REAL NOT NULL,
    revoked REAL, superseded INTEGER NOT NULL DEFAULT 0
);
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredToken:
    """`token` is None once it was used: the secret is forgotten, the reply is kept."""

    token: Token | None
    request_hash: bytes | None
    reply: bytes | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Issued:
    """A certificate that was given to a device, with the device's X25519 public key."""

    serial: int
    device_id: str
    certificate: bytes = field(repr=False)  # DER
    agreement_key: bytes
    issued: datetime
    expires: datetime
    revoked: datetime | None = None
    superseded: bool = False


class Registry:
    """The SQLite file. Every method that writes is durable when it returns."""

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise UsageError(f"{folder} is not there; make it with `sanderling pki init`")
        path = folder / FILE_NAME
        path.touch(mode=0o600)
        self._database = sqlite3.connect(path, isolation_level=None)
        self._database.execute("PRAGMA journal_mode=WAL")
        self._database.execute("PRAGMA synchronous=FULL")
        self._database.execute("PRAGMA secure_delete=ON")  # secrets of used tokens
        with self._transaction():
            version = self._database.execute("PRAGMA user_version").fetchone()[0]
            if version == 0:
                for statement in _SCHEMA.split(";"):
                    self._database.execute(statement)
                self._database.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
        if version not in (0, SCHEMA_VERSION):
            self._database.close()
            raise UsageError(f"{path}: expected version {SCHEMA_VERSION}, came version {version}")

    def close(self) -> None:
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def add_token(self, token: Token, *, replaces: bool, now: datetime) -> None:
        """Opens a token; older ones of the device are closed. With `replaces` it may be used by a device that has a
        certificate, which is revoked then. Raises UsageError where `replaces` does not fit."""
        with self._transaction():
            if bool(self._valid(token.device_id, now)) != replaces:
                raise UsageError(
                    f"{token.device_id} is not enrolled: use `sanderling device enroll`"
                    if replaces
                    else f"{token.device_id} is enrolled: give it new keys with `sanderling device rotate`, or end "
                    "its membership first with `sanderling device revoke`"
                )
            self._database.execute("DELETE FROM token WHERE device = ? AND reply IS NULL", (token.device_id,))
            self._database.execute(
                "DELETE FROM token WHERE reply IS NULL AND expires < ?", (now.timestamp(),)
            )
            self._database.execute(
                "INSERT INTO token (id, device, text, expires) VALUES (?, ?, ?, ?)",
                (token.id, token.device_id, token.text(), token.expires),
            )

    def token(self, token_id: str) -> StoredToken | None:
        row = self._database.execute(
            "SELECT text, request_hash, reply FROM token WHERE id = ?", (token_id,)
        ).fetchone()
        if row is None:
            return None
        token = None if row[0] is None else Token.parse(row[0])
        return StoredToken(token=token, request_hash=row[1], reply=row[2])

    def device_of(self, token_id: str) -> str | None:
        """For whom a token was given."""
        row = self._database.execute("SELECT device FROM token WHERE id = ?", (token_id,)).fetchone()
        return None if row is None else str(row[0])

    def open_tokens(self, now: datetime) -> tuple[tuple[str, datetime], ...]:
        """Device and end of each token that can be used now."""
        rows = self._database.execute(
            "SELECT device, expires FROM token WHERE reply IS NULL AND expires >= ? ORDER BY device",
            (now.timestamp(),),
        )
        return tuple((device, _time(expires)) for device, expires in rows)

    def complete(self, token_id: str, request_hash: bytes, reply: bytes, issued: Issued) -> bool:
        """The token is used, the certificate given, others of the device superseded. False, and nothing is changed, when
        the token was used meanwhile."""
        with self._transaction():
            used = self._database.execute(
                "UPDATE token SET text = NULL, request_hash = ?, reply = ? WHERE id = ? AND reply IS NULL",
                (request_hash, reply, token_id),
            )
            if used.rowcount != 1:
                return False
            self._revoke(issued.device_id, issued.issued, superseded=True)
            self._database.execute(
                "INSERT INTO certificate (serial, name, der, agreement, issued, expires) VALUES (?, ?, ?, ?, ?, ?)",
                (
                    f"{issued.serial:x}",
                    issued.device_id,
                    issued.certificate,
                    issued.agreement_key,
                    issued.issued.timestamp(),
                    issued.expires.timestamp(),
                ),
            )
        return True

    def revoke(self, device_id: str, now: datetime) -> int:
        """Ends a device's membership: its certificates and open tokens; how many certificates were good until now.

        Raises UsageError for a device that never was one.
        """
        with self._transaction():
            tokens = self._database.execute(
                "DELETE FROM token WHERE device = ? AND reply IS NULL", (device_id,)
            ).rowcount
            if not tokens and not self.certificates(device_id):
                raise UsageError(f"no device {device_id!r} was enrolled; `sanderling device list` names them")
            return self._revoke(device_id, now, superseded=False)

    def supersede_role(self, role: str, serial: int, expires: datetime, now: datetime) -> None:
        """The broker's or the coordinator's certificate was replaced."""
        with self._transaction():
            self._database.execute(
                "INSERT OR IGNORE INTO certificate (serial, name, issued, expires, revoked, superseded) VALUES (?, ?, ?, ?, ?, 1)",
                (f"{serial:x}", role, now.timestamp(), expires.timestamp(), now.timestamp()),
            )

    def certificates(self, device_id: str | None = None) -> tuple[Issued, ...]:
        """All that were given to devices, or to one; the newest last."""
        rows = self._database.execute(
            "SELECT serial, name, der, agreement, issued, expires, revoked, superseded FROM certificate "
            "WHERE der IS NOT NULL AND (?1 IS NULL OR name = ?1) ORDER BY name, rowid",
            (device_id,),
        )
        return tuple(
            Issued(
                serial=int(serial, 16),
                device_id=name,
                certificate=der,
                agreement_key=agreement,
                issued=_time(issued),
                expires=_time(expires),
                revoked=None if revoked is None else _time(revoked),
                superseded=bool(superseded),
            )
            for serial, name, der, agreement, issued, expires, revoked, superseded in rows
        )

    def members(self, now: datetime) -> dict[str, Issued]:
        """The devices with a good certificate, by name."""
        return {one.device_id: one for one in self.certificates() if _is_good(one, now)}

    def revocations(self, now: datetime) -> tuple[Revocation, ...]:
        """What the revocation list holds: expired certificates need not be in it."""
        rows = self._database.execute(
            "SELECT serial, name, revoked, superseded FROM certificate WHERE revoked IS NOT NULL AND expires >= ? "
            "ORDER BY revoked, serial",
            (now.timestamp(),),
        )
        return tuple(
            Revocation(serial=int(serial, 16), name=name, at=_time(revoked), superseded=bool(superseded))
            for serial, name, revoked, superseded in rows
        )

    def _valid(self, device_id: str, now: datetime) -> list[Issued]:
        return [one for one in self.certificates(device_id) if _is_good(one, now)]

    def _revoke(self, device_id: str, now: datetime, *, superseded: bool) -> int:
        changed = self._database.execute(
            "UPDATE certificate SET revoked = ?, superseded = ? WHERE name = ? AND der IS NOT NULL AND revoked IS NULL",
            (now.timestamp(), superseded, device_id),
        )
        return changed.rowcount

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._database.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._database.execute("ROLLBACK")
            raise
        self._database.execute("COMMIT")


def _is_good(issued: Issued, now: datetime) -> bool:
    return issued.revoked is None and issued.expires > now


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
