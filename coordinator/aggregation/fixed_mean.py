"""The weighted mean over the planned cohort: a report that is missing counts as zero (McMahan et al. 2018, "Learning
differentially private recurrent language models": the fixed-denominator estimator).

Each report weighs min(num_examples, max_examples) / max_examples <= 1, so one report moves the mean by at most its
clipped norm / planned, whoever else reported.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sanderling.coordinator.reports import Report
from sanderling.models.updates import Aggregate


def fixed_mean(reports: Sequence[Report], dimension: int, max_examples: int, planned: int) -> Aggregate:
    """The change (d,) in 2**-16 of theta's unit, rounded to nearest; zero without reports.

    Raises ValueError for more reports than planned, or where a sum could leave int64.
    """
    if len(reports) > planned:
        raise ValueError(f"{len(reports)} reports, planned were {planned}")
    total = max_examples * planned
    largest_step = max((report.update.scale_shift for report in reports), default=0)
    if total <= 0 or (total << (7 + largest_step + 17)) >= 1 << 63:
        raise ValueError(f"a weight of {max_examples} x {planned}: not positive, or sums could leave 64 bits")
    sums = np.zeros(dimension, dtype=np.int64)
    for report in reports:
        values = report.update.values.astype(np.int64) << report.update.scale_shift
        sums[report.update.coordinates] += min(report.num_examples, max_examples) * values
    return Aggregate(
        mean=((sums << 16) + (total >> 1)) // total,
        total_weight=total,
        participants=tuple(sorted(report.device_id for report in reports)),
    )
