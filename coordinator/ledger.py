"""The ledger: all that decides a run's result, durable in one SQLite file before anything is published.

Its rows are enough to continue the run after a kill at any instant, and to compute the final model again from
nothing (coordinator/replay.py). A report is stored as it came, once for each (round, device).
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from sanderling.broker.messages import EvaluationMessage, UpdatePlan
from sanderling.coordinator.reports import Report
from sanderling.coordinator.rounds import OpenRound, RoundRecord
from sanderling.models.errors import UsageError
from sanderling.models.updates import GlobalModel

SCHEMA_VERSION = 2
FILE_NAME = "ledger.sqlite"

_SCHEMA = """
CREATE TABLE run (
    id TEXT PRIMARY KEY, config TEXT NOT NULL, network BLOB NOT NULL, network_hash BLOB NOT NULL,
    created REAL NOT NULL, finished REAL, final_version INTEGER
);
CREATE TABLE model (version INTEGER PRIMARY KEY, hash BLOB NOT NULL, theta BLOB NOT NULL);
CREATE TABLE round (
    number INTEGER PRIMARY KEY, cohort TEXT NOT NULL, opened REAL NOT NULL, deadline REAL,
    update_plan TEXT NOT NULL, reason TEXT NOT NULL,
    closed REAL, committed INTEGER, model_version INTEGER, summary TEXT
);
CREATE TABLE report (
    round INTEGER NOT NULL, device TEXT NOT NULL, message BLOB NOT NULL, PRIMARY KEY (round, device)
) WITHOUT ROWID;
CREATE TABLE evaluation (device TEXT PRIMARY KEY, message BLOB NOT NULL);
CREATE TABLE refusal (reason TEXT PRIMARY KEY, count INTEGER NOT NULL);
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What a run was started with."""

    id: str
    config: str  # federation.toml as it was, overrides included
    network: bytes  # the package the devices load
    network_hash: bytes
    created: float


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredRound:
    """A round as the ledger holds it; `committed` is None while it is open."""

    opened: OpenRound  # without reports
    closed_at: float | None
    committed: bool | None
    model_version: int | None
    summary: dict[str, object] | None


class Ledger:
    """The SQLite file of one run. Every method that writes is durable when it returns."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._database = sqlite3.connect(directory / FILE_NAME, isolation_level=None)
        self._database.execute("PRAGMA journal_mode=WAL")
        self._database.execute("PRAGMA synchronous=FULL")
        version = self._database.execute("PRAGMA user_version").fetchone()[0]
        if version == 0:
            with self._transaction():
                for statement in _SCHEMA.split(";"):
                    self._database.execute(statement)
                self._database.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
        elif version != SCHEMA_VERSION:
            self._database.close()
            raise UsageError(
                f"{directory / FILE_NAME}: expected a ledger of version {SCHEMA_VERSION}, came version {version}; "
                "open it with the release that wrote it"
            )

    def close(self) -> None:
        """Closes the file."""
        self._database.close()

    def run(self) -> Run | None:
        """The run this ledger is of, None while it is empty."""
        row = self._database.execute("SELECT id, config, network, network_hash, created FROM run").fetchone()
        if row is None:
            return None
        return Run(id=row[0], config=row[1], network=row[2], network_hash=row[3], created=row[4])

    def begin(self, run: Run, model: GlobalModel) -> None:
        """The first rows: the run and its initial model."""
        with self._transaction():
            self._database.execute(
                "INSERT INTO run (id, config, network, network_hash, created) VALUES (?, ?, ?, ?, ?)",
                (run.id, run.config, run.network, run.network_hash, run.created),
            )
            self._insert_model(model)

    def open_round(self, opened: OpenRound) -> None:
        """A round is about to be announced."""
        with self._transaction():
            self._database.execute(
                "INSERT INTO round (number, cohort, opened, deadline, update_plan, reason) VALUES (?, ?, ?, ?, ?, ?)",
                (
                    opened.number,
                    json.dumps(opened.cohort),
                    opened.opened_at,
                    opened.deadline,
                    json.dumps(asdict(opened.update)),
                    opened.reason,
                ),
            )

    def add_reports(self, number: int, reports: Sequence[Report]) -> None:
        """Reports of a round were accepted; all of them are stored, or none."""
        with self._transaction():
            self._database.executemany(
                "INSERT INTO report VALUES (?, ?, ?)",
                [(number, report.device_id, report.message) for report in reports],
            )

    def close_round(self, record: RoundRecord, model: GlobalModel) -> None:
        """A round ended; with the model it made when it was committed."""
        with self._transaction():
            self._database.execute(
                "UPDATE round SET closed = ?, committed = ?, model_version = ?, summary = ? WHERE number = ?",
                (
                    record.closed_at,
                    record.committed,
                    record.model_version,
                    json.dumps(summary(record)),
                    record.number,
                ),
            )
            if record.committed:
                self._insert_model(model)

    def add_evaluation(self, device_id: str, message: EvaluationMessage) -> None:
        """A device evaluated the final models; a later word of its replaces an earlier one."""
        with self._transaction():
            self._database.execute("REPLACE INTO evaluation VALUES (?, ?)", (device_id, message.encode()))

    def count_refusals(self, counts: Mapping[str, int]) -> None:
        """Messages were refused, so many for each reason."""
        with self._transaction():
            self._database.executemany(
                "INSERT INTO refusal VALUES (?, ?) ON CONFLICT (reason) DO UPDATE SET count = count + excluded.count",
                list(counts.items()),
            )

    def finish(self, now: float, model: GlobalModel) -> None:
        """Nothing is left to do in this run; `model` is its result."""
        with self._transaction():
            self._database.execute("UPDATE run SET finished = ?, final_version = ?", (now, model.version))

    def finished(self) -> bool:
        """Whether `finish` was called."""
        return self.final_model() is not None

    def final_model(self) -> GlobalModel | None:
        """The run's result, None while it is under way."""
        row = self._database.execute("SELECT final_version FROM run WHERE finished IS NOT NULL").fetchone()
        return None if row is None else self.model(row[0])

    def rounds(self) -> list[StoredRound]:
        """All rounds, in order."""
        rows = self._database.execute(
            "SELECT number, cohort, opened, deadline, update_plan, reason, closed, committed, model_version, summary "
            "FROM round ORDER BY number"
        )
        return [
            StoredRound(
                opened=OpenRound(
                    number=row[0],
                    cohort=tuple(json.loads(row[1])),
                    opened_at=row[2],
                    deadline=row[3],
                    update=UpdatePlan(**json.loads(row[4])),
                    reason=row[5],
                ),
                closed_at=row[6],
                committed=None if row[7] is None else bool(row[7]),
                model_version=row[8],
                summary=None if row[9] is None else json.loads(row[9]),
            )
            for row in rows
        ]

    def reports(self, number: int) -> dict[str, bytes]:
        """The accepted messages of a round by device."""
        rows = self._database.execute(
            "SELECT device, message FROM report WHERE round = ? ORDER BY device", (number,)
        )
        return dict(rows.fetchall())

    def evaluations(self) -> dict[str, EvaluationMessage]:
        """What the devices said of the final models."""
        rows = self._database.execute("SELECT device, message FROM evaluation ORDER BY device")
        return {device: EvaluationMessage.decode(message) for device, message in rows}

    def refusals(self) -> dict[str, int]:
        """How many messages were refused, by reason."""
        return dict(self._database.execute("SELECT reason, count FROM refusal ORDER BY reason").fetchall())

    def model(self, version: int | None = None) -> GlobalModel:
        """A version of the model, by default the newest."""
        row = self._database.execute(
            "SELECT version, theta, hash FROM model WHERE version = coalesce(?, (SELECT max(version) FROM model))",
            (version,),
        ).fetchone()
        if row is None:
            raise UsageError(f"the ledger holds no model of version {version}")
        network_hash = self._database.execute("SELECT network_hash FROM run").fetchone()[0]
        theta = np.frombuffer(row[1], dtype="<i2").astype(np.int32)
        model = GlobalModel(version=row[0], backbone_hash=network_hash, theta=theta)
        if model.model_hash != row[2]:
            raise UsageError(
                f"the ledger is damaged: model version {row[0]} does not have the hash stored beside it"
            )
        return model

    def _insert_model(self, model: GlobalModel) -> None:
        theta = model.theta.astype("<i2").tobytes()
        self._database.execute("INSERT INTO model VALUES (?, ?, ?)", (model.version, model.model_hash, theta))

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._database.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._database.execute("ROLLBACK")
            raise
        self._database.execute("COMMIT")


def summary(record: RoundRecord) -> dict[str, object]:
    """A round's figures as plain values, for the ledger, the log and `--json`."""
    return {
        "round": record.number,
        "committed": record.committed,
        "asked": len(record.asked),
        "participants": len(record.participants),
        "stragglers": list(record.stragglers),
        "validation_accuracy": round(record.validation.accuracy, 6),
        "validation_loss": round(record.validation.loss, 6),
        "training_loss": round(record.training_loss, 6),
        "update_norm": round(record.update_norm, 3),
        "cosine": round(record.cosine, 4),
        "uplink_bytes": record.uplink_bytes,
        "largest_update_bytes": record.largest_update_bytes,
        "downlink_bytes": record.downlink_bytes,
        "duration_s": round(record.closed_at - record.opened_at, 3),
        "model_version": record.model_version,
        "model_hash": record.model_hash.hex(),
    }
