"""Who joins a sampled round: each client by its own hidden coin, exact, never from a public seed, never refilled.

Amplification by Poisson sampling (Abadi et al., "Deep learning with differential privacy", CCS 2016) rests on nobody
knowing the coins; the cap and its price are those of dp-accounting's truncated event (arXiv 2508.15089).
"""

from __future__ import annotations

from collections.abc import Collection
from fractions import Fraction

from sanderling.coordinator.privacy.accounting import Sampling
from sanderling.coordinator.privacy.discrete_gaussian import ByteSource, below, bernoulli, words_from
from sanderling.models.errors import UnsoundError


def poisson_cohort(population: Collection[str], sampling: Sampling, source: ByteSource) -> tuple[str, ...]:
    """The devices whose coin fell, of the whole population, there or not; beyond the cap a random subset stays.

    Raises UnsoundError for another number of devices than was accounted for.
    """
    devices = sorted(population)
    if len(devices) != sampling.population:
        raise UnsoundError(
            f"coins for {len(devices)} devices, accounted for were {sampling.population}: every device of the "
            "federation tosses one, whether it is there or not; name the whole population"
        )
    chance, words = Fraction(sampling.probability), words_from(source)
    drawn = [device for device in devices if bernoulli(chance.numerator, chance.denominator, words)]
    while sampling.cap is not None and len(drawn) > sampling.cap:
        del drawn[below(len(drawn), words)]
    return tuple(drawn)
