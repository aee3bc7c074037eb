"""How much noise a privacy level needs: levels as epsilons, and the noise multiplier for (epsilon, delta, rounds)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

from sanderling.coordinator.privacy.accounting import (
    Charge,
    Charges,
    Sampling,
    epsilon,
    rdp_epsilon,
    zcdp_epsilon,
)
from sanderling.models.errors import UsageError

LEVELS: Mapping[str, float] = MappingProxyType({"low": 8.0, "medium": 4.0, "high": 1.0})
_TOLERANCE = 1e-4  # of the logarithm of z


def epsilon_of(level: str | float) -> float:
    """The epsilon of "low", "medium" or "high" privacy, or of a number as it is."""
    if isinstance(level, str):
        if level not in LEVELS:
            raise UsageError(f"privacy level {level!r}: expected low, medium, high or a number")
        return LEVELS[level]
    if not 0 < level < math.inf:
        raise UsageError(f"epsilon {level:g}: expected a number above 0")
    return float(level)


def noise_multiplier(target: float, delta: float, rounds: int, sampling: Sampling | None = None) -> float:
    """The least z with which `rounds` releases stay within epsilon `target`, rounded up by at most 1 in 10,000."""
    return calibrate(target, delta, rounds, lambda z: Charge(noise_multiplier=z, sampling=sampling))


def calibrate(target: float, delta: float, rounds: int, charge_of: Callable[[float], Charge]) -> float:
    """The least z for charges that depend on it (sampling, the grid); `charge_of` must cost less the larger z is."""
    if rounds < 1:
        raise UsageError(f"{rounds} rounds, expected 1 or more")

    def excess(log_z: float, found: Callable[[Charges, float], float]) -> float:
        return math.log(max(found({charge_of(math.exp(log_z)): rounds}, delta), 1e-12) / target)

    start = math.log(_unsampled(target, delta, rounds))
    sampling = charge_of(math.exp(start)).sampling
    if sampling is not None and sampling.cap is None:  # RDP is quick and asks for somewhat more than PLD
        start = _crossing(lambda log_z: excess(log_z, rdp_epsilon), start, step=1.0, tolerance=0.01)
    return math.exp(_crossing(lambda log_z: excess(log_z, epsilon), start))


def noise_warning(coordinates: int, planned: int, z: float) -> str:
    """A warning where noise outweighs what clients can say: its norm z C sqrt(k) / n above C, so k > (n / z)^2."""
    bearable = int((planned / z) ** 2)
    if coordinates <= bearable:
        return ""
    return (
        f"{coordinates} coordinates carry noise longer than any client's clipped update: send at most {bearable} "
        f"(a lower update.density), or ask at least {math.ceil(z * math.sqrt(coordinates))} devices a round"
    )


def _unsampled(target: float, delta: float, rounds: int) -> float:
    """z without sampling; with it no more is needed."""
    log_rho = _crossing(
        lambda minus_log_rho: math.log(max(zcdp_epsilon(math.exp(-minus_log_rho), delta), 1e-12) / target),
        0.0,
        step=1.0,
        tolerance=1e-6,
    )
    return math.sqrt(rounds / 2 * math.exp(log_rho))


def _crossing(
    excess: Callable[[float], float], start: float, *, step: float = 0.1, tolerance: float = _TOLERANCE
) -> float:
    """Where the falling `excess` crosses 0, from its non-positive side: Illinois' rule of false position."""
    low = high = start
    above, below = (value := excess(start)), value
    while below > 0:
        low, above = high, below
        high += step
        below = excess(high)
    while above <= 0:
        high, below = low, above
        low -= step
        above = excess(low)
    kept = 0  # the end that the last step left as it was; left twice, its value is halved
    while high - low > tolerance:
        middle = low + (high - low) * above / (above - below)
        middle = min(max(middle, low + tolerance / 2), high - tolerance / 2)
        value = excess(middle)
        if value > 0:
            low, above, below, kept = middle, value, below / (2 if kept == 1 else 1), 1
        else:
            high, below, above, kept = middle, value, above / (2 if kept == -1 else 1), -1
    return high
