"""What is odd about an update, and which devices are set aside for it: scores, reasons, quarantine.

Figures are exact integers or one correctly rounded operation on them, so that every host decides alike and a replay
does too. Signs as in SignGuard (Xu et al., ICDCS 2022), the norm against the median one (Sun et al., arXiv 1911.07963),
its distance in median absolute deviations (Iglewicz and Hoaglin 1993). A score is a suspicion: under non-IID data the
rare device looks odd as well, so quarantine ends by itself and never takes more than the tolerated number.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from statistics import median_low
from types import MappingProxyType

import numpy as np

from sanderling.coordinator.aggregation.coordinate_rules import median
from sanderling.coordinator.aggregation.vectors import (
    Integers,
    exact_product,
    squared_norms,
    vectors_of,
)
from sanderling.coordinator.reports import Report
from sanderling.models.updates import Int64Vector

_DEVIATIONS_PER_MAD = 0.6745  # of a normal distribution


@dataclass(frozen=True, slots=True, kw_only=True)
class Anomaly:
    """What stands out in one update. Cosines are 0 where either vector is; shares are of the values sent."""

    device_id: str
    norm: float  # theta's units
    norm_ratio: float  # to the median norm of the round; 0 where that is 0
    norm_score: float  # robust z: deviations from the median norm; 0 where most norms are equal
    cosine_previous: float  # with the aggregate of the round before
    cosine_median: float  # with the coordinate median of the round
    positive_share: float
    zero_share: float
    count_ratio: float  # of num_examples, the device's own word, to the median one


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Beyond which an update is flagged."""

    norm_ratio: float = 3.0
    norm_score: float = 6.0
    least_cosine_median: float = -0.2
    least_cosine_previous: float = -0.9
    one_sign_share: float = 0.95  # of the values that are not zero
    count_ratio: float = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class QuarantineSettings:
    """A device flagged `strikes` times within `memory_rounds` is set aside for `rounds`; at most `most` at a time."""

    strikes: int
    memory_rounds: int
    rounds: int
    most: int  # the number of hostile devices that the aggregation tolerates


@dataclass(frozen=True, slots=True, kw_only=True)
class Confinement:
    """A device set aside up to and with round `last`, and why."""

    last: int
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Quarantine:
    """Who is set aside, and the rounds in which each device was flagged lately."""

    confined: Mapping[str, Confinement] = field(default_factory=lambda: MappingProxyType({}))
    strikes: Mapping[str, tuple[int, ...]] = field(default_factory=lambda: MappingProxyType({}))


def anomalies(reports: Sequence[Report], previous: Int64Vector) -> tuple[Anomaly, ...]:
    """Figures of each update, in ascending order of device id. `previous` (d,) is the last aggregate's mean."""
    vectors, coordinates = vectors_of(reports)
    middle, before = median().combine(vectors), previous[coordinates]
    squares = squared_norms(vectors)
    roots = [math.sqrt(square) for square in squares]
    typical = median_low(roots)
    spread = median_low([abs(root - typical) for root in roots])
    examples = median_low([report.num_examples for report in reports])
    ordered = sorted(reports, key=lambda report: report.device_id)
    return tuple(
        Anomaly(
            device_id=report.device_id,
            norm=root * float(vectors.unit),
            norm_ratio=root / typical if typical else 0.0,
            norm_score=_DEVIATIONS_PER_MAD * (root - typical) / spread if spread else 0.0,
            cosine_previous=_cosine(row, before),
            cosine_median=_cosine(row, middle),
            positive_share=float(np.count_nonzero(report.update.values > 0))
            / max(1, report.update.values.size),
            zero_share=float(np.count_nonzero(report.update.values == 0)) / max(1, report.update.values.size),
            count_ratio=report.num_examples / examples if examples else 0.0,
        )
        for report, row, root in zip(ordered, vectors.rows, roots, strict=True)
    )


def flags(anomaly: Anomaly, limits: Limits) -> tuple[str, ...]:
    """The reasons to distrust an update, each with its figure and the limit; none where it looks as others do."""
    signed = 1 - anomaly.zero_share
    positive = anomaly.positive_share / signed if signed else 0.5
    figures = (
        ("norm ratio", anomaly.norm_ratio, limits.norm_ratio),
        ("norm score", anomaly.norm_score, limits.norm_score),
        ("cosine to the median", -anomaly.cosine_median, -limits.least_cosine_median),
        ("cosine to the last aggregate", -anomaly.cosine_previous, -limits.least_cosine_previous),
        ("share of one sign", max(positive, 1 - positive), limits.one_sign_share),
        ("count ratio", anomaly.count_ratio, limits.count_ratio),
    )
    return tuple(
        f"{name} {_shown(name, value):.3g}, limit {_shown(name, limit):g}"
        for name, value, limit in figures
        if value > limit
    )


def observe(
    quarantine: Quarantine,
    flagged: Mapping[str, tuple[str, ...]],
    number: int,
    settings: QuarantineSettings,
) -> Quarantine:
    """The quarantine after round `number`, whose updates were `flagged` with reasons (empty where none)."""
    since = number - settings.memory_rounds
    strikes = {
        device: tuple(round_ for round_ in rounds if round_ > since)
        for device, rounds in quarantine.strikes.items()
    }
    for device, reasons in flagged.items():
        if reasons:
            strikes[device] = (*strikes.get(device, ()), number)
    confined = {device: held for device, held in quarantine.confined.items() if held.last > number}
    due = [
        device
        for device, rounds in strikes.items()
        if len(rounds) >= settings.strikes and device not in confined
    ]
    for device in sorted(due, key=lambda device: (-len(strikes[device]), device)):
        if len(confined) < settings.most and flagged.get(device):
            confined[device] = Confinement(last=number + settings.rounds, reasons=flagged[device])
            del strikes[device]
    return Quarantine(
        confined=confined, strikes={device: rounds for device, rounds in strikes.items() if rounds}
    )


def is_confined(quarantine: Quarantine, device_id: str, number: int) -> bool:
    """Whether the device's update of round `number` is left out."""
    held = quarantine.confined.get(device_id)
    return held is not None and number <= held.last


def _cosine(row: Integers, other: Int64Vector) -> float:
    """Of exact inner products: their quotient is rounded once, its square root once."""
    product = _dot(row, other)
    square = _dot(row, row) * _dot(other, other)
    return math.copysign(math.sqrt(Fraction(product * product, square)), product) if square else 0.0


def _dot(a: Integers, b: Integers) -> int:
    return int(exact_product(a[None, :], b[:, None])[0, 0]) if a.size else 0


def _shown(name: str, value: float) -> float:
    return -value if name.startswith("cosine") else value
