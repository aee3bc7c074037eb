"""Which devices a round asks: a seeded draw among those that are there, with over-selection for expected dropout."""

from __future__ import annotations

import math
from collections.abc import Collection

from sanderling.coordinator.settings import SelectionSettings
from sanderling.models.random_bits import Key, permutation


def cohort_size(settings: SelectionSettings, available: int) -> int:
    """How many of `available` devices to ask: cohort / (1 - expected dropout), rounded up."""
    if settings.cohort == 0:
        return available
    return min(available, math.ceil(settings.cohort / (1 - settings.expected_dropout)))


def select(settings: SelectionSettings, available: Collection[str], key: Key) -> tuple[str, ...]:
    """The cohort, in order of device id; the same `available` and `key` give the same one."""
    candidates = sorted(available)
    order = permutation(key, len(candidates))
    chosen = order[: cohort_size(settings, len(candidates))]
    return tuple(sorted(candidates[index] for index in chosen))
