"""What an aggregation rule is: a value with functions, composed as `nnm(2) >> trimmed_mean(2)`.

Results are (k,) int64 in 2**-16 of theta's unit and the same bytes on every host; docs/arithmetic.md specifies them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np

from sanderling.coordinator.aggregation.vectors import Vectors, are_aligned, vectors_of
from sanderling.coordinator.reports import Report
from sanderling.models.errors import UnsoundError
from sanderling.models.updates import Aggregate, Int64Vector

# Why a rule's guarantee does not hold for n vectors; empty where it does.
Objection = Callable[[int], str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Aggregator:
    """A robust rule. `aligned`: its claim needs every vector to hold the same coordinates."""

    name: str
    combine: Callable[[Vectors], Int64Vector]
    objection: Objection
    aligned: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class PreAggregator:
    """What goes before a rule: vectors in, `remaining(n)` vectors out."""

    name: str
    transform: Callable[[Vectors], Vectors]
    objection: Objection
    remaining: Callable[[int], int] = lambda count: count
    aligned: bool = False

    @overload
    def __rshift__(self, then: Aggregator) -> Aggregator: ...
    @overload
    def __rshift__(self, then: PreAggregator) -> PreAggregator: ...
    def __rshift__(self, then: Aggregator | PreAggregator) -> Aggregator | PreAggregator:
        """This first, then `then`."""
        name, aligned = f"{self.name} >> {then.name}", self.aligned or then.aligned

        def objection(count: int) -> str:
            return self.objection(count) or then.objection(self.remaining(count))

        if isinstance(then, PreAggregator):
            return PreAggregator(
                name=name,
                transform=lambda vectors: then.transform(self.transform(vectors)),
                objection=objection,
                remaining=lambda count: then.remaining(self.remaining(count)),
                aligned=aligned,
            )
        return Aggregator(
            name=name,
            combine=lambda vectors: then.combine(self.transform(vectors)),
            objection=objection,
            aligned=aligned,
        )


def aggregate(aggregator: Aggregator, reports: Sequence[Report], dimension: int) -> Aggregate:
    """The rule's change (d,) of these reports, each of weight 1; zero where nobody reported.

    Raises UnsoundError where the rule's claim does not hold for them, ValueError without reports.
    """
    vectors, coordinates = vectors_of(reports)
    if aggregator.aligned and not are_aligned(reports):
        raise UnsoundError(
            f"{aggregator.name} compares coordinates, but the reports hold different ones (top-k): "
            "use update mode 'mask', or norm_bound or centered_clipping"
        )
    if objection := aggregator.objection(len(reports)):
        raise UnsoundError(f"{aggregator.name} of {len(reports)} reports: {objection}")
    change = np.zeros(dimension, dtype=np.int64)
    change[coordinates] = aggregator.combine(vectors)
    return Aggregate(
        mean=change,
        total_weight=len(reports),
        participants=tuple(sorted(report.device_id for report in reports)),
    )
