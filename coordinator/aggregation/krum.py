"""Rules that choose vectors by how close the others are: Krum and Multi-Krum (Blanchard et al., "Machine learning with
adversaries", NeurIPS 2017).

A vector's score is the sum of its squared distances to its n - f - 2 nearest others, as in the paper, in Flower and in
the `krum` package; ByzFL counts n - f - 1, which `neighbours` gives. Scores are exact integers; ties go to the
lexicographically smaller vector.
"""

from __future__ import annotations

import numpy as np

from sanderling.coordinator.aggregation.aggregator import Aggregator
from sanderling.coordinator.aggregation.vectors import (
    Vectors,
    combination,
    ranks,
    squared_distances,
    to_q16,
    with_gram,
)
from sanderling.models.updates import Int64Vector


def krum(hostile: int, *, neighbours: int | None = None) -> Aggregator:
    """The vector with the least score, for up to `hostile` (f) hostile ones. Its guarantee needs n >= 2f + 3."""
    return _krum(f"krum({hostile})", hostile, 1, neighbours)


def multi_krum(hostile: int, *, selected: int | None = None, neighbours: int | None = None) -> Aggregator:
    """The mean of the `selected` vectors (m; n - f unless given) with the least scores."""
    return _krum(f"multi_krum({hostile})", hostile, selected, neighbours)


def selection(vectors: Vectors, hostile: int, selected: int, neighbours: int | None = None) -> list[int]:
    """Which `selected` vectors (Multi-)Krum takes, best first."""
    nearest = vectors.count - hostile - 2 if neighbours is None else neighbours
    if not 0 <= nearest < vectors.count or not 0 < selected <= vectors.count:
        raise ValueError(
            f"Krum of {vectors.count} vectors cannot count {nearest} neighbours, take {selected}"
        )
    vectors = with_gram(vectors)
    ordered = np.sort(squared_distances(vectors), axis=1)  # column 0: the distance to itself
    scores = ordered[:, 1 : nearest + 1].sum(axis=1)
    places = ranks(vectors)
    return sorted(range(vectors.count), key=lambda i: (scores[i], places[i]))[:selected]


def _krum(name: str, hostile: int, selected: int | None, neighbours: int | None) -> Aggregator:
    def combine(vectors: Vectors) -> Int64Vector:
        wanted = vectors.count - hostile if selected is None else selected
        chosen = set(selection(vectors, hostile, wanted, neighbours))
        weights = [int(i in chosen) for i in range(vectors.count)]
        return to_q16(combination(vectors, weights), vectors.unit / wanted)

    def objection(count: int) -> str:
        if count < 2 * hostile + 3:
            return f"Krum against {hostile} needs at least 2f + 3 = {2 * hostile + 3}"
        if selected is not None and selected > count - hostile:
            return f"taking {selected} of {count} takes hostile ones too, at most n - f = {count - hostile}"
        return ""

    return Aggregator(name=name, combine=combine, objection=objection)
