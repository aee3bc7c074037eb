"""Weighted federated averaging (McMahan et al. 2017), exact in integers.

A report weighs min(num_examples, max_examples): the count is the device's own word, so its weight is capped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np

from sanderling.coordinator.reports import Report
from sanderling.models.updates import Aggregate


def weighted_mean(
    reports: Sequence[Report],
    dimension: int,
    max_examples: int,
    factors: Mapping[str, int] = MappingProxyType({}),
) -> Aggregate:
    """The mean change (d,) in 2**-16 of theta's unit, rounded to nearest. Sums are int64, so order does not matter.

    `factors` multiply the weights of the devices they name.

    Raises ValueError without reports, or where a sum could leave int64.
    """
    weights = [
        min(report.num_examples, max_examples) * factors.get(report.device_id, 1) for report in reports
    ]
    total = sum(weights)
    if total <= 0:
        raise ValueError("a mean needs at least one report with an example")
    largest_step = max(report.update.scale_shift for report in reports)
    if (total << (7 + largest_step + 17)) >= 1 << 63:
        raise ValueError(f"the sum of {len(reports)} reports of weight {total} could leave 64 bits")
    sums = np.zeros(dimension, dtype=np.int64)
    for report, weight in zip(reports, weights, strict=True):
        values = report.update.values.astype(np.int64) << report.update.scale_shift
        sums[report.update.coordinates] += weight * values
    mean = ((sums << 16) + (total >> 1)) // total
    return Aggregate(
        mean=mean, total_weight=total, participants=tuple(sorted(report.device_id for report in reports))
    )
