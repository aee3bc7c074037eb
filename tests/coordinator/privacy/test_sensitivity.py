"""The proven bounds against an adversary who searches for more, on the rules that really run."""

from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest

from sanderling.coordinator.aggregation.aggregator import Aggregator
from sanderling.coordinator.aggregation.coordinate_rules import mean, median, trimmed_mean
from sanderling.coordinator.aggregation.fixed_mean import fixed_mean
from sanderling.coordinator.aggregation.pre_aggregators import nnm
from sanderling.coordinator.aggregation.reweighted import centered_clipping
from sanderling.coordinator.privacy.sensitivity import BoundedRule, in_grid, sensitivity
from sanderling.models.errors import UnsoundError
from tests.coordinator.aggregation.samples import STEP, report, vectors

N, F, K, C = 7, 2, 3, 100  # C in steps
Rule = Callable[[np.ndarray], np.ndarray]  # rows in steps to the result in grid units


def of(aggregator: Aggregator) -> Rule:
    return lambda rows: aggregator.combine(vectors(rows))


def bounded(*chain: str, **more: object) -> BoundedRule:
    return BoundedRule(chain=chain, clipping_norm=C * STEP, planned=N, hostile=F, **more)


def shrunk(rows: np.ndarray) -> np.ndarray:
    norms = np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), C)
    return np.trunc(rows * C / norms).astype(np.int64)


def farthest(rule: Rule, *, replace: bool, trials: int = 250, climbs: int = 250, seed: int = 0) -> float:
    """The farthest that a search finds one client, the first, to move the result: random starts, then climbing."""
    rng = np.random.default_rng(seed)
    directions = np.array([[C, 0, 0], [-C, 0, 0], [0, C, 0], [0, 0, 0], [57, 57, 57], [-57, -57, -57]])

    def start() -> np.ndarray:
        rows = directions[rng.integers(len(directions), size=N + 1)]
        return shrunk(rows + rng.integers(-3, 4, size=rows.shape) * rng.integers(2))

    def moved(rows: np.ndarray) -> float:
        other = rows[N] if replace else np.zeros(K, dtype=np.int64)
        after = np.vstack([other[None], rows[1:N]])
        return float(np.linalg.norm((rule(rows[:N]) - rule(after)).astype(float)))

    rows = max((start() for _ in range(trials)), key=moved)
    best = moved(rows)
    for _ in range(climbs):
        tried = rows.copy()
        tried[rng.integers(N + 1)] += rng.integers(-12, 13, size=K)
        tried = shrunk(tried)
        if (value := moved(tried)) >= best:
            rows, best = tried, value
    return best


CENTRE = np.array([40, -20, 10]) * (STEP << 16)
TAU = 60.0 * STEP
CASES = {  # the rule, its bound, and the least share of it that the search reaches (zero-out, replace)
    "mean": (of(mean()), bounded("mean"), (0.98, 0.98)),
    "trimmed_mean": (of(trimmed_mean(F)), bounded("trimmed_mean"), (0.9, 0.9)),
    "clipped": (of(centered_clipping(TAU)), bounded("centered_clipping", tau=TAU), (0.98, 0.98)),
    "clipped_around": (
        of(centered_clipping(TAU, centre=CENTRE)),
        bounded("centered_clipping", tau=TAU, centre_is_zero=False),
        (0.8, 0.95),
    ),
    "nnm_mean": (of(nnm(F) >> mean()), bounded("nnm", "mean"), (0.3, 0.4)),
    "nnm_trimmed": (of(nnm(F) >> trimmed_mean(F)), bounded("nnm", "trimmed_mean"), (0.2, 0.2)),
}


@pytest.mark.parametrize("replace", [False, True], ids=["zero-out", "replace"])
@pytest.mark.parametrize("name", CASES)
def test_no_search_exceeds_the_bound(name, replace):
    rule, claim, least = CASES[name]
    found = sensitivity(claim)
    limit = in_grid(found.replace if replace else found.zero_out, K)
    assert least[replace] * limit <= farthest(rule, replace=replace) <= limit


def test_the_search_exceeds_what_the_median_would_need():
    assert farthest(of(median()), replace=False) > 1.9 * in_grid(sensitivity(bounded("mean")).zero_out, K)


def test_the_search_sees_a_client_that_is_counted_twice():
    def twice(rows: np.ndarray) -> np.ndarray:
        return of(mean())(np.vstack([2 * rows[:1], rows[1:]]))

    assert farthest(twice, replace=False) > 1.9 * in_grid(sensitivity(bounded("mean")).zero_out, K)


def test_weighted_mean_over_the_planned_cohort():
    def rule(rows: np.ndarray) -> np.ndarray:
        reports = [report(str(i), row, shift=14, examples=10 * (i + 1)) for i, row in enumerate(rows[::-1])]
        return fixed_mean(reports, 64, 10 * N, N).mean  # the first row comes last, with weight 1

    limit = in_grid(sensitivity(bounded("mean")).zero_out, K)
    assert 0.9 * limit < farthest(rule, replace=False) <= limit


def test_the_table_by_hand():
    # C = 100, n = 7, f = 2: 100/7; 100/3; [2*100*6/5 + 200]/7 = 440/7; 440/3
    exact = {name: sensitivity(claim) for name, (_, claim, _) in CASES.items()}
    assert exact["mean"].zero_out == Fraction(100 * STEP, 7)
    assert exact["mean"].replace == Fraction(200 * STEP, 7)
    assert exact["trimmed_mean"].zero_out == Fraction(100 * STEP, 3)
    assert exact["clipped"].zero_out == Fraction(60 * STEP, 7)
    assert exact["clipped"].replace == Fraction(120 * STEP, 7)
    assert exact["clipped_around"].zero_out == Fraction(100 * STEP, 7)  # min(C, 2 tau)
    assert exact["nnm_mean"].zero_out == exact["nnm_mean"].replace == Fraction(440 * STEP, 7)
    assert exact["nnm_trimmed"].zero_out == Fraction(440 * STEP, 3)


def test_rounding_is_charged():
    # 1/3 of theta's unit is 21845.33 grid units; sqrt(100) = 10 for rounding, one more
    assert in_grid(Fraction(1, 3), 100) == 21846 + 10 + 1


@pytest.mark.parametrize(
    "chain",
    [("median",), ("krum",), ("multi_krum",), ("geometric_median",), ("nnm", "krum"), ("bucketing", "mean")],
)
def test_a_rule_without_a_bound_is_refused(chain):
    with pytest.raises(UnsoundError, match="trimmed_mean") as refusal:
        sensitivity(bounded(*chain))
    assert " >> ".join(chain) in str(refusal.value)


def test_nothing_clipped_or_trimmed_away_is_refused():
    with pytest.raises(UnsoundError, match=r"update\.clipping_norm"):
        sensitivity(BoundedRule(chain=("mean",), clipping_norm=0, planned=5))
    with pytest.raises(UnsoundError, match="at least 7"):
        sensitivity(BoundedRule(chain=("trimmed_mean",), clipping_norm=9, planned=6, hostile=3))
    with pytest.raises(UnsoundError, match="tau above 0"):
        sensitivity(bounded("centered_clipping"))
