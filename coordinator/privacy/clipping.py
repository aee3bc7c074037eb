"""The clipping norm of the rounds: fixed, or following a quantile of the clients' norms through a noised bit.

Andrew, Thakkar, McMahan, Ramaswamy, "Differentially private learning with adaptive clipping", NeurIPS 2021. The bit and
the update are two Gaussian releases of the same clients: together they are one, z^-2 = update^-2 + bit^-2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from decimal import Decimal, localcontext
from fractions import Fraction

import numpy as np

from sanderling.models import compression
from sanderling.models.errors import UnsoundError, UsageError
from sanderling.models.updates import QuantizedUpdate

_ONE_Q16 = 1 << 16


@dataclass(frozen=True, slots=True, kw_only=True)
class AdaptiveClipping:
    """The norm is multiplied by exp(-learning_rate (share within it - quantile)) after each round."""

    initial: int  # C of the first round, theta's unit
    least: int = 1
    largest: int
    quantile: float = 0.5  # gamma
    learning_rate: float = 0.2  # eta_C
    bit_multiplier: (
        float  # noise on the bits, in sensitivities; the paper's n / 20 on bits of +-1/2 is n / 10
    )

    def __post_init__(self) -> None:
        if not 1 <= self.least <= self.initial <= self.largest:
            raise UsageError(
                f"clipping norms {self.least} <= {self.initial} <= {self.largest}: expected integers of 1 or more in order"
            )
        if not 0 < self.quantile < 1 or not 0 < self.learning_rate <= 2:
            raise UsageError(
                f"adaptive clipping to the quantile {self.quantile:g} at rate {self.learning_rate:g}: expected a "
                "quantile inside (0, 1) and a rate in (0, 2]"
            )


def clipped_again(update: QuantizedUpdate, norm: int) -> QuantizedUpdate:
    """The coordinator's own clipping to C = `norm` (theta's unit), as a device shrinks: an honest update is unchanged."""
    values = compression.clip(update.values.astype(np.int32), norm >> update.scale_shift)
    if norm >> update.scale_shift == 0:  # which would be no bound
        values = np.zeros_like(values)
    return replace(update, values=values.astype(np.int8))


def initial_norm(settings: AdaptiveClipping) -> int:
    """The state before the first round: C in 2**-16 of theta's unit."""
    return settings.initial << 16


def next_norm(settings: AdaptiveClipping, norm_q16: int, share_within: Fraction) -> int:
    """The state after a round, from the noised share only; the same integer on every host."""
    with localcontext() as context:
        context.prec = 40
        share = Decimal(share_within.numerator) / Decimal(share_within.denominator)
        exponent = -Decimal(settings.learning_rate) * (share - Decimal(settings.quantile))
        moved = int(Decimal(norm_q16) * min(max(exponent, Decimal(-4)), Decimal(4)).exp())
    return min(max(moved, settings.least << 16), settings.largest << 16)


def clipping_norm(norm_q16: int) -> int:
    """C of a round's plan, a whole number of theta's units."""
    return (norm_q16 + _ONE_Q16 // 2) >> 16


def update_multiplier(total: float, bit_multiplier: float) -> float:
    """The update's noise multiplier so that update and bit together cost as one release of multiplier `total`."""
    if bit_multiplier <= total:
        raise UnsoundError(
            f"the clipping bit's noise multiplier {bit_multiplier:g} spends the whole budget of a release of "
            f"multiplier {total:g}: raise bit_multiplier (n / 10 is usual), or fix the clipping norm"
        )
    return 1 / math.sqrt(total**-2 - bit_multiplier**-2)
