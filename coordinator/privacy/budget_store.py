"""The privacy budget's tables in the run's ledger: one row a round, and each transition one transaction.

Works on a connection that is given, inside its transaction where one is open. The noise keys are as secret as the
reports beside them; a replay needs them, `forget_keys` erases them once none is wanted.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import asdict

from sanderling.coordinator.privacy import budget as core
from sanderling.coordinator.privacy.accounting import Charge, Sampling
from sanderling.coordinator.privacy.budget import Budget, Entry, Spending
from sanderling.coordinator.privacy.noise import FrozenSet, NoiseKey, NoiseSize
from sanderling.models.errors import UnsoundError

_TABLES = (
    """CREATE TABLE IF NOT EXISTS privacy_budget (
        id INTEGER PRIMARY KEY CHECK (id = 1), epsilon REAL NOT NULL, delta REAL NOT NULL, device_epsilon REAL
    )""",
    """CREATE TABLE IF NOT EXISTS privacy_round (
        number INTEGER PRIMARY KEY, charge TEXT NOT NULL, devices TEXT NOT NULL,
        accepted_hash BLOB, size TEXT, secret BLOB, private INTEGER, model_hash BLOB
    )""",
)


class BudgetStore:
    """The durable budget. Every method that writes is committed when it returns, unless a transaction was open."""

    def __init__(self, database: sqlite3.Connection, budget: Budget) -> None:
        """Makes the tables where they are missing. Raises UnsoundError where the run began with another budget."""
        self._database = database
        if database.execute("PRAGMA synchronous").fetchone()[0] < 2:
            raise ValueError("expected PRAGMA synchronous=FULL: a reservation must survive a power cut")
        with _transaction(database):
            create_tables(database)
            row = database.execute("SELECT epsilon, delta, device_epsilon FROM privacy_budget").fetchone()
            if row is None:
                database.execute(
                    "INSERT INTO privacy_budget VALUES (1, ?, ?, ?)",
                    (budget.epsilon, budget.delta, budget.device_epsilon),
                )
            elif row != (budget.epsilon, budget.delta, budget.device_epsilon):
                raise UnsoundError(
                    f"this run promised (epsilon, delta, device epsilon) = {row}, the settings now say "
                    f"{(budget.epsilon, budget.delta, budget.device_epsilon)}: a promise stands; begin another run"
                )
        self._budget = budget

    def state(self) -> Spending:
        """The ledger as it stands."""
        rows = self._database.execute(
            "SELECT number, charge, devices, accepted_hash, size, secret, private, model_hash "
            "FROM privacy_round ORDER BY number"
        )
        return Spending(budget=self._budget, entries={row[0]: _entry(row) for row in rows})

    def reserve(self, number: int, charge: Charge, devices: Collection[str]) -> None:
        """`budget.reserve`, durable."""
        self._apply(number, lambda state: core.reserve(state, number, charge, devices))

    def freeze(
        self,
        number: int,
        accepted_hash: bytes,
        size: NoiseSize,
        accepted: Collection[str],
        draw: Callable[[], NoiseKey],
    ) -> FrozenSet:
        """`budget.freeze`, durable, with a key from `draw` when the round has none yet; what its noise is made of."""
        frozen = FrozenSet(number=number, accepted_hash=accepted_hash, size=size, key=draw())
        state = self._apply(number, lambda state: core.freeze(state, frozen, accepted))
        stored = state.entries[number].frozen
        assert stored is not None
        return stored

    def release(self, number: int, model_hash: bytes) -> None:
        """`budget.release`, durable."""
        self._apply(number, lambda state: core.release(state, number, model_hash))

    def cancel(self, number: int) -> None:
        """`budget.cancel`, durable."""
        self._apply(number, lambda state: core.cancel(state, number))

    def forget_keys(self) -> None:
        """Erases the keys of released rounds: from then on they cannot be replayed, nor their noise taken off."""
        self._database.execute("PRAGMA secure_delete=ON")
        with _transaction(self._database):
            self._database.execute("UPDATE privacy_round SET secret = x'' WHERE model_hash IS NOT NULL")

    def _apply(self, number: int, transition: Callable[[Spending], Spending]) -> Spending:
        """Reads, decides and writes in one transaction, so that two coordinators cannot both spend what is left."""
        with _transaction(self._database):
            state = transition(self.state())
            entry = state.entries.get(number)
            if entry is None:
                self._database.execute("DELETE FROM privacy_round WHERE number = ?", (number,))
            else:
                self._database.execute(
                    "REPLACE INTO privacy_round VALUES (?, ?, ?, ?, ?, ?, ?, ?)", _row(entry)
                )
        return state


def create_tables(database: sqlite3.Connection) -> None:
    """The budget's two tables, where they are missing."""
    for statement in _TABLES:
        database.execute(statement)


def _row(entry: Entry) -> tuple[object, ...]:
    frozen = entry.frozen
    of_frozen: tuple[object, ...] = (None, None, None, None)
    if frozen is not None:
        size = json.dumps(asdict(frozen.size))
        of_frozen = (frozen.accepted_hash, size, frozen.key.secret, frozen.key.private)
    devices = json.dumps(sorted(entry.devices))
    return (entry.number, json.dumps(asdict(entry.charge)), devices, *of_frozen, entry.model_hash)


def _entry(row: tuple[int, str, str, bytes | None, str, bytes, int, bytes | None]) -> Entry:
    number, charge_text, devices, accepted_hash, size, secret, private, model_hash = row
    charge = json.loads(charge_text)
    if charge["sampling"] is not None:
        charge["sampling"] = Sampling(**charge["sampling"])
    frozen = None
    if accepted_hash is not None:
        frozen = FrozenSet(
            number=number,
            accepted_hash=accepted_hash,
            size=NoiseSize(**json.loads(size)),
            key=NoiseKey(secret=secret, private=bool(private)),
        )
    return Entry(
        number=number,
        charge=Charge(**charge),
        devices=frozenset(json.loads(devices)),
        frozen=frozen,
        model_hash=model_hash,
    )


@contextmanager
def _transaction(database: sqlite3.Connection) -> Iterator[None]:
    if database.in_transaction:
        yield
        return
    database.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        database.execute("ROLLBACK")
        raise
    database.execute("COMMIT")
