"""What an agent carries over a restart: its last report and its residual, as one record, so that they never disagree.

CBOR, kept in one file of the storage. A residual is committed only when the report it came with was delivered: a
report that never left changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import cbor2
import numpy as np

from sanderling.edge_runtime.trainer import Residual

VERSION = 1


class Question(NamedTuple):
    """What a plan asks, and a report answers."""

    run: str
    round: int
    phase: str  # "round": train; "finished": evaluate


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Report:
    """The bytes this device answered with; `residual` holds once they are delivered."""

    question: Question
    payload: bytes
    residual: Residual | None = None
    delivered: bool = False


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Memory:
    """The record. Empty on a device's first start."""

    report: Report | None = None
    residual: Residual | None = None

    def delivered(self) -> Memory:
        """After the broker took the report."""
        assert self.report is not None
        return Memory(report=replace(self.report, delivered=True), residual=self.report.residual)

    def undelivered(self) -> Memory:
        """After the broker lost the session: what it took may never have been read."""
        return replace(self, report=replace(self.report, delivered=False) if self.report else None)

    def to_bytes(self) -> bytes:
        fields: list[object] | None = None
        if self.report is not None:
            report = self.report
            fields = [
                list(report.question),
                report.payload,
                _residual_fields(report.residual),
                report.delivered,
            ]
        return cbor2.dumps([VERSION, fields, _residual_fields(self.residual)])

    @classmethod
    def from_bytes(cls, data: bytes) -> Memory:
        """The record that `to_bytes` wrote; an empty one when another version did."""
        version, *fields = cbor2.loads(data)
        if version != VERSION:
            return cls()
        report, residual = fields
        return cls(report=None if report is None else _report(*report), residual=_residual(residual))


def _report(question: list[Any], payload: bytes, residual: Any, delivered: bool) -> Report:
    return Report(
        question=Question(*question), payload=payload, residual=_residual(residual), delivered=delivered
    )


def _residual_fields(residual: Residual | None) -> list[object] | None:
    return None if residual is None else [residual.mask_epoch, residual.vector.astype("<i4").tobytes()]


def _residual(fields: Any) -> Residual | None:
    if fields is None:
        return None
    mask_epoch, vector = fields
    return Residual(mask_epoch=mask_epoch, vector=np.frombuffer(vector, "<i4").astype(np.int32))
