"""What releases cost: (epsilon, delta) of a multiset of charges, by Google's dp-accounting (RDP and PLD) and by zCDP.

A charge is one noised release whose sensitivity is 1 / noise_multiplier of its noise's standard deviation; which
adjacency it is for was settled when that sensitivity was taken (privacy/sensitivity.py). Everything here is therefore
one Gaussian shift, or a Poisson mixture of it, and dp-accounting's add-or-remove relation computes just that. Its
REPLACE_ONE under RDP assumes a sensitivity that was not doubled, and is never used.

- Without sampling the discrete Gaussian is 1 / (2 z^2)-zCDP, exactly as the continuous one (Canonne, Kamath, Steinke,
  "The discrete Gaussian for differential privacy", NeurIPS 2020, Theorem 14; conversion: Proposition 12).
- With sampling the accounting is of the continuous Gaussian rounded to the grid, and delta pays for the difference:
  with total variation eta between all noise of the one and of the other, (epsilon, delta') becomes
  (epsilon, delta' + (1 + e^epsilon) eta). eta <= sqrt(KL / 2) by Pinsker, and `grid_divergence` bounds KL.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from sanderling.models.errors import UnsoundError
from sanderling.models.optional import require

Accountant = Literal["rdp", "pld"]

_LEAST_VARIANCE = 16
_GRID_CONSTANT = 0.01
_SHARES = (1e-9, 1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 0.5)  # of delta, for the grid


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """Every client joins by its own coin, and nobody sees who came (privacy/soundness.py has the conditions)."""

    probability: float  # q, 0 < q < 1
    population: int  # N, the clients that toss a coin
    cap: int | None = None  # the largest cohort; what is drawn beyond it is turned away at random

    def __post_init__(self) -> None:
        if not 0 < self.probability < 1 or self.population < 1 or (self.cap is not None and self.cap < 1):
            raise UnsoundError(
                f"sampling with probability {self.probability:g} of {self.population} clients, at most {self.cap}: "
                "expected a probability inside (0, 1) and positive numbers; leave sampling out to ask everyone"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Charge:
    """One release."""

    noise_multiplier: float  # z: the noise's standard deviation over the sensitivity
    sampling: Sampling | None = None
    divergence: float = (
        0.0  # KL in nats of all its noise from the rounded continuous Gaussian; 0 only unsampled
    )

    def __post_init__(self) -> None:
        if not 0 < self.noise_multiplier < math.inf or not 0 <= self.divergence < math.inf:
            raise UnsoundError(
                f"a release with noise multiplier {self.noise_multiplier:g} is not private: expected above 0, finite"
            )


Charges = Mapping[Charge, int]


def epsilon(charges: Charges, delta: float, *, amplified: bool = True) -> float:
    """The epsilon claimed at `delta`: zCDP without sampling (or not `amplified`), else PLD with the grid's term.

    Raises UnsoundError where the grid is too coarse for the term to fit into delta.
    """
    if not charges:
        return 0.0
    if not _is_sampled(charges, amplified):
        return zcdp_epsilon(_rho(charges), delta)
    return _with_grid_term(charges, delta, lambda left: continuous_epsilon(charges, left, "pld"))


def fits(charges: Charges, limit: float, delta: float, *, amplified: bool = True) -> bool:
    """Whether `epsilon` is within `limit`; RDP, which is above PLD and quick, decides where it can."""
    if not _is_sampled(charges, amplified):
        return epsilon(charges, delta, amplified=amplified) <= limit
    is_capped = any(charge.sampling and charge.sampling.cap for charge in charges)
    return (not is_capped and rdp_epsilon(charges, delta) <= limit) or epsilon(charges, delta) <= limit


def rdp_epsilon(charges: Charges, delta: float) -> float:
    """`epsilon` by RDP alone: never below it, and quicker. Not for capped cohorts."""
    return _with_grid_term(charges, delta, lambda left: continuous_epsilon(charges, left, "rdp"))


def continuous_epsilon(charges: Charges, delta: float, accountant: Accountant) -> float:
    """dp-accounting's epsilon for continuous Gaussian noise. A capped cohort has an event in PLD only."""
    dp = _dp_accounting()
    kind = dp.pld.PLDAccountant if accountant == "pld" else dp.rdp.RdpAccountant
    composed = kind(neighboring_relation=dp.NeighboringRelation.ADD_OR_REMOVE_ONE)
    with _without_its_warnings():
        for charge, count in charges.items():
            composed.compose(event(charge), count)
    return float(composed.get_epsilon(delta))


def event(charge: Charge) -> Any:
    """The charge as dp-accounting's DpEvent."""
    dp, gaussian = _dp_accounting(), charge.noise_multiplier
    match charge.sampling:
        case None:
            return dp.GaussianDpEvent(gaussian)
        case Sampling(cap=None, probability=probability):
            return dp.PoissonSampledDpEvent(probability, dp.GaussianDpEvent(gaussian))
        case Sampling(cap=cap, probability=probability, population=population):
            return dp.TruncatedSubsampledGaussianDpEvent(population, probability, cap, gaussian)


def zcdp_epsilon(rho: float, delta: float) -> float:
    """The least epsilon of rho-zCDP at `delta`; each order alpha gives a valid one, the search only tightens it."""

    def at(log_excess: float) -> float:
        excess = math.exp(log_excess)  # alpha - 1
        alpha = 1 + excess
        tail = math.log(1 / delta) + alpha * (log_excess - math.log1p(excess)) - log_excess
        return alpha * rho + tail / excess

    return max(0.0, at(_least(at, -12.0, 24.0)))


def total_variation(charges: Charges) -> float:
    """eta, the distance of all noise drawn from the rounded continuous Gaussian: KL adds up over releases."""
    return math.sqrt(sum(charge.divergence * count for charge, count in charges.items()) / 2)


def grid_divergence(variance: int, coordinates: int) -> float:
    """A bound on KL(discrete Gaussian || rounded continuous) over k coordinates: k / (100 variance^2), in nats.

    With s2 the variance, a cell's mass under the rounded one over the density's value at its centre is at least
    1 + u, u = (x^2/s2 - 1)/(24 s2) - x^2/(320 s2^3), and the normalisers give KL <= -E log(1 + u) <= -E u + E u^2.
    E x^2 is s2 within s2 e^(-4 pi^2 s2): KL <= (1/320 + 1/288 + O(1/s2)) / s2^2 < 0.01 / s2^2 from s2 = 16 on.
    """
    if variance < _LEAST_VARIANCE:
        raise UnsoundError(
            f"noise of variance {variance} in grid units is too coarse to be accounted with sampling, expected at "
            f"least {_LEAST_VARIANCE}; raise the clipping norm, or ask everyone without sampling"
        )
    return coordinates * _GRID_CONSTANT / float(variance) ** 2


def _is_sampled(charges: Charges, amplified: bool) -> bool:
    return amplified and any(charge.sampling is not None for charge in charges)


def _rho(charges: Charges) -> float:
    return sum(count / (2 * charge.noise_multiplier**2) for charge, count in charges.items())


def _with_grid_term(charges: Charges, delta: float, at: Callable[[float], float]) -> float:
    """Sets aside the smallest share of delta that pays for the grid."""
    eta = total_variation(charges)
    if eta == 0.0:
        return at(delta)
    for share in _SHARES:
        if 2 * eta > share * delta:
            continue
        found = at(delta * (1 - share))
        if found < 700 and (1 + math.exp(found)) * eta <= share * delta:
            return found
    raise UnsoundError(
        f"the noise's grid costs more than half of delta = {delta:g} (total variation {eta:.3g}): raise the clipping "
        "norm, lower the number of rounds or coordinates, or ask everyone without sampling"
    )


def _least(function: Callable[[float], float], low: float, high: float) -> float:
    """Golden-section search."""
    ratio = (math.sqrt(5) - 1) / 2
    for _ in range(100):
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        low, high = (low, right) if function(left) <= function(right) else (left, high)
    return (low + high) / 2


@contextmanager
def _without_its_warnings() -> Iterator[None]:
    """dp-accounting tells of each order it leaves out; an epsilon of fewer orders is still one."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _dp_accounting() -> Any:
    return require("dp_accounting", "privacy")
