"""Results are the same bytes on every host: whole numbers throughout, however the multiplication is done."""

import hashlib

import numpy as np
import pytest

from sanderling.coordinator.aggregation import reweighted
from sanderling.coordinator.aggregation import vectors as exact
from sanderling.coordinator.aggregation.coordinate_rules import mean, median, trimmed_mean
from sanderling.coordinator.aggregation.krum import krum, multi_krum
from sanderling.coordinator.aggregation.pre_aggregators import bucketing, nnm, norm_bound
from sanderling.coordinator.aggregation.reweighted import centered_clipping, geometric_median
from sanderling.models.random_bits import derive_key, random_words
from tests.coordinator.aggregation.samples import vectors

KEY = derive_key("bucketing", "lab", 7)
ROWS = (random_words(derive_key("rows"), 13 * 2100) % np.uint32(255)).astype(np.int64).reshape(13, 2100) - 127
CENTRE = (random_words(derive_key("centre"), 2100) % np.uint32(1 << 23)).astype(np.int64) - (1 << 22)

# BLAKE2b-64 of the result as little-endian int64, of 13 vectors over 2100 coordinates in steps of 4 theta units
GOLDEN = {
    "mean()": (mean(), "5e7862feee4c7de1"),
    "trimmed_mean(3)": (trimmed_mean(3), "81596c8fb63ea0ba"),
    "median()": (median(), "acae94a2897159dd"),
    "krum(3)": (krum(3), "1425558eb426b634"),
    "multi_krum(3)": (multi_krum(3), "d69e35bb3e516803"),
    "geometric_median(10.0)": (geometric_median(10.0), "8c19dfcdc226f45f"),
    'geometric_median(0.1, iterations=3, start="zero")': (
        geometric_median(0.1, iterations=3, start="zero"),
        "02935f811fb24077",
    ),
    "centered_clipping(2000.0)": (centered_clipping(2000.0), "7da35c3e0d6b5f7c"),
    "centered_clipping(9000.0, iterations=4, centre=CENTRE)": (
        centered_clipping(9000.0, iterations=4, centre=CENTRE),
        "26162ecd2157f66e",
    ),
    "norm_bound(8000.0) >> mean()": (norm_bound(8000.0) >> mean(), "eef49fb4e6a40fb1"),
    "nnm(3) >> trimmed_mean(3)": (nnm(3) >> trimmed_mean(3), "5082b29da47b4d9c"),
    "bucketing(3, KEY) >> median()": (bucketing(3, KEY) >> median(), "d823bc4d9fba83d3"),
    "norm_bound(13000.0) >> nnm(3) >> trimmed_mean(3)": (
        norm_bound(13000.0) >> nnm(3) >> trimmed_mean(3),
        "446e646b2bf8d849",
    ),
    "norm_bound(13000.0) >> bucketing(2, KEY) >> geometric_median(1.0)": (
        norm_bound(13000.0) >> bucketing(2, KEY) >> geometric_median(1.0),
        "b7ae03fef59b4c69",
    ),
}


def digest(rule) -> str:
    return hashlib.blake2b(rule.combine(vectors(ROWS, 4)).astype("<i8").tobytes(), digest_size=8).hexdigest()


@pytest.mark.parametrize(("rule", "expected"), GOLDEN.values(), ids=GOLDEN)
def test_a_result_has_its_golden_bytes(rule, expected) -> None:
    assert digest(rule) == expected


@pytest.mark.parametrize(("rule", "expected"), GOLDEN.values(), ids=GOLDEN)
def test_multiplying_in_pythons_integers_gives_the_same(rule, expected, monkeypatch) -> None:
    def product(a, b):
        return np.array(a.astype(object) @ b.astype(object), dtype=object)

    monkeypatch.setattr(exact, "exact_product", product)
    monkeypatch.setattr(reweighted, "exact_product", product)
    assert digest(rule) == expected
