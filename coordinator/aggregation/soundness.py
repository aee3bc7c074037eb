"""Where a robust rule's claim holds: enough vectors, aligned coordinates, and a bound on the hostile that holds in the
cohort and not only in the federation.

A cohort drawn without replacement holds a hypergeometric number of hostile devices; its tail is computed exactly.
Every refusal names both settings and the nearest sound choice.
"""

from __future__ import annotations

from fractions import Fraction
from math import comb

from sanderling.coordinator.aggregation.aggregator import Aggregator
from sanderling.models.errors import UnsoundError


def require_enough(aggregator: Aggregator, count: int) -> None:
    """Raises UnsoundError where the rule's guarantee does not hold for `count` reports, the fewest a round takes."""
    objection = aggregator.objection(count)
    if not objection:
        return
    enough = next((more for more in range(count + 1, 4 * count + 64) if not aggregator.objection(more)), None)
    remedy = (
        "" if enough is None else f"; set the quorum to {enough} or more, or expect fewer hostile devices"
    )
    raise UnsoundError(f"{aggregator.name} with a quorum of {count}: {objection}{remedy}")


def require_minority(hostile: int, count: int, what: str = "reports") -> None:
    """Raises UnsoundError unless 2f < m. Under secure aggregation m counts the groups, and one hostile device spoils one."""
    if 2 * hostile >= count:
        raise UnsoundError(
            f"{hostile} hostile of {count} {what} is no minority, no rule bears 2f >= m: "
            f"expect at most {max(count - 1, 0) // 2} hostile, or take at least {2 * hostile + 1} {what}"
        )


def require_aligned(aggregator: Aggregator, *, shared_coordinates: bool) -> None:
    """Raises UnsoundError for a rule that compares coordinates on updates that each choose their own (top-k).

    The median of 16 honest top-1 % updates is all zeros, and Krum prefers an attacker that sends zeros.
    """
    if aggregator.aligned and not shared_coordinates:
        raise UnsoundError(
            f"{aggregator.name} with top-k updates: each device chooses its own coordinates, most values compared "
            "would be absent ones; set update.mode = 'mask', or take norm_bound >> mean or centered_clipping"
        )


def tail(population: int, hostile: int, cohort: int, bound: int) -> Fraction:
    """P(more than `bound` hostile in a cohort drawn uniformly without replacement), exact."""
    if not 0 <= hostile <= population or not 0 <= cohort <= population:
        raise ValueError(
            f"{hostile} hostile and a cohort of {cohort} must be within a population of {population}"
        )
    ways = sum(
        comb(hostile, drawn) * comb(population - hostile, cohort - drawn)
        for drawn in range(max(bound + 1, 0), min(hostile, cohort) + 1)
    )
    return Fraction(ways, comb(population, cohort))


def hostile_in_cohort(
    population: int, hostile: int, cohort: int, *, failure: float, rounds: int = 1, reports: int | None = None
) -> int:
    """The least f that holds in every one of `rounds` cohorts, but for a probability of `failure` (union bound).

    Hostile devices are taken to report always and the others to drop out, so f must be a minority of `reports`, the
    fewest a round takes. Raises UnsoundError where it is not.
    """
    if not 0 <= failure < 1 or rounds < 1:
        raise ValueError(
            f"a failure probability of {failure} over {rounds} rounds, expected [0, 1) and 1 or more"
        )
    allowed = Fraction(failure) / rounds
    bound = next(f for f in range(cohort + 1) if tail(population, hostile, cohort, f) <= allowed)
    require_minority(bound, cohort if reports is None else reports)
    return bound
