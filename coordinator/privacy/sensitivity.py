"""How far one client can move an aggregation rule's result (L2), where a bound is proven; refused where none is.

Adjacency is zero-out: a client's clipped update is replaced by the zero vector, which is also what a missing report
enters as; the number n stays the plan's. `replace` puts any other clipped update in its place. Proofs, C the clipping
norm, f the hostile bound:

- mean: the client enters as w v / n with w <= 1.
- centered clipping, one step: projection onto a ball moves no two points apart, so clip(v - c) and clip(-c) lie within
  min(C, 2 tau); around c = 0 the second is 0 and the first within tau. c must be public: zero or a noised release.
- trimmed mean: order statistics interlace, so a coordinate's trimmed sum moves by at most |v_j|.
- NNM: for each of the other n - 1 clients at most one of the n - f neighbours changes, 2C / (n - f); the client's own
  mixture moves by 2C at most. A mean of the n mixtures, or a trimmed mean (a trimmed sum moves by at most the sum of
  its arguments' moves), divides the total.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from math import ceil, isqrt

from sanderling.models.errors import UnsoundError

ONE_Q16 = 1 << 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Sensitivity:
    """Bounds in theta's unit, exact, before the result is rounded."""

    zero_out: Fraction
    replace: Fraction


@dataclass(frozen=True, slots=True, kw_only=True)
class BoundedRule:
    """A rule as the round plan fixes it: `chain` names pre-aggregators, then the rule."""

    chain: tuple[str, ...]
    clipping_norm: int  # C, theta's unit
    planned: int  # n, the fixed denominator
    hostile: int = 0  # f: trimmed at each end, and nnm's
    tau: float = 0.0  # centered clipping's, theta's unit
    centre_is_zero: bool = True  # else the last noised release


def _mean(rule: BoundedRule) -> Sensitivity:
    move = Fraction(rule.clipping_norm, rule.planned)
    return Sensitivity(zero_out=move, replace=2 * move)


def _centered_clipping(rule: BoundedRule) -> Sensitivity:
    norm, tau = Fraction(rule.clipping_norm), Fraction(rule.tau)
    if tau <= 0:
        raise UnsoundError(
            f"centered clipping with tau = {rule.tau:g} has no sensitivity, expected tau above 0"
        )
    zero_out = min(norm, tau if rule.centre_is_zero else 2 * tau)
    return Sensitivity(zero_out=zero_out / rule.planned, replace=min(2 * norm, 2 * tau) / rule.planned)


def _trimmed_mean(rule: BoundedRule) -> Sensitivity:
    move = Fraction(rule.clipping_norm, _left(rule))
    return Sensitivity(zero_out=move, replace=2 * move)


def _nnm_mean(rule: BoundedRule) -> Sensitivity:
    return _mixtures(rule, rule.planned)


def _nnm_trimmed_mean(rule: BoundedRule) -> Sensitivity:
    return _mixtures(rule, _left(rule))


def _mixtures(rule: BoundedRule, denominator: int) -> Sensitivity:
    _left(rule)
    swaps = Fraction(2 * rule.clipping_norm * (rule.planned - 1), rule.planned - rule.hostile)
    move = (swaps + 2 * rule.clipping_norm) / denominator
    return Sensitivity(zero_out=move, replace=move)


def _left(rule: BoundedRule) -> int:
    left = rule.planned - 2 * rule.hostile
    if left <= 0:
        raise UnsoundError(
            f"a bound of {rule.hostile} hostile needs a plan of at least {2 * rule.hostile + 1}, came {rule.planned}"
        )
    return left


_BOUNDS: Mapping[tuple[str, ...], Callable[[BoundedRule], Sensitivity]] = {
    ("mean",): _mean,
    ("centered_clipping",): _centered_clipping,
    ("trimmed_mean",): _trimmed_mean,
    ("nnm", "mean"): _nnm_mean,
    ("nnm", "trimmed_mean"): _nnm_trimmed_mean,
}
BOUNDED_RULES = tuple(" >> ".join(chain) for chain in _BOUNDS)


def sensitivity(rule: BoundedRule) -> Sensitivity:
    """The proven bounds. Raises UnsoundError for a rule without one, and for a plan without a clipping norm."""
    bound = _BOUNDS.get(rule.chain)
    name = " >> ".join(rule.chain)
    if bound is None:
        nearest = "nnm >> trimmed_mean" if "nnm" in rule.chain else "trimmed_mean"
        raise UnsoundError(
            f"central differential privacy with {name}: one client can move its result by far more than the clipping "
            f"norm over n, no noise would do; take {nearest}, or one of {', '.join(BOUNDED_RULES)}"
        )
    if rule.clipping_norm <= 0 or rule.planned <= 0:
        raise UnsoundError(
            f"central differential privacy with a clipping norm of {rule.clipping_norm} over {rule.planned} reports "
            "bounds nothing: set update.clipping_norm and the round's planned number of reports above 0"
        )
    return bound(rule)


def in_grid(bound: Fraction, coordinates: int) -> int:
    """`bound` in 2**-16 of theta's unit, for a result rounded to that grid on k coordinates.

    Rounding moves each of two results by half a unit or less a coordinate, so their distance by sqrt(k). One unit more
    is for the 36-bit weights inside of centered clipping.
    """
    return ceil(bound * ONE_Q16) + isqrt(max(coordinates - 1, 0)) + 2
