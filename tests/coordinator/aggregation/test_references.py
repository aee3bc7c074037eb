"""The rules held against ByzFL 0.0.11 and krum 0.9, written by others: relative error of the whole vector at most 1e-6.

Skipped where they are not installed. `uv pip install --no-deps byzfl==0.0.11`; krum 0.9 wants Python 3.12, its wheel is
plain Python and runs on 3.11 when unpacked by hand. Both need torch.
"""

import numpy as np
import pytest

from sanderling.coordinator.aggregation.coordinate_rules import mean, median, trimmed_mean
from sanderling.coordinator.aggregation.krum import krum, multi_krum
from sanderling.coordinator.aggregation.pre_aggregators import nnm, norm_bound
from sanderling.coordinator.aggregation.reweighted import centered_clipping, geometric_median
from tests.coordinator.aggregation.samples import STEP, result

pytestmark = pytest.mark.slow  # torch takes seconds to load

AGREEMENT = 1e-6
SIZES = [(7, 5, 1), (11, 50, 2), (20, 3000, 4), (41, 400, 10)]


def samples(n: int, k: int) -> list[np.ndarray]:
    """Uniform; normal about a common direction; scaled from tiny to full, as clipping meets them."""
    rng = np.random.default_rng(n * k)
    common = rng.normal(0, 30, k)
    near = np.clip(np.rint(common + rng.normal(0, 12, (n, k))), -127, 127).astype(int)
    scaled = np.rint(near * np.linspace(0.05, 1, n)[:, None]).astype(int)
    return [rng.integers(-127, 128, (n, k)), near, scaled]


def agree(ours: np.ndarray, theirs: np.ndarray, what: str) -> None:
    error = np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)
    assert error <= AGREEMENT, f"{what}: {error:.2e}"


@pytest.mark.parametrize(("n", "k", "f"), SIZES)
def test_rules_agree_with_byzfl(byzfl, n, k, f) -> None:
    krums = {"neighbours": n - f - 1}
    norm = float(np.sqrt(k) * 20)
    for rows in samples(n, k):
        pairs = [
            (mean(), byzfl.Average()),
            (trimmed_mean(f), byzfl.TrMean(f)),
            (median(), byzfl.Median()),
            (krum(f, **krums), byzfl.Krum(f)),
            (multi_krum(f, **krums), byzfl.MultiKrum(f)),
            (geometric_median(0.1 * STEP, iterations=3, start="zero"), byzfl.GeometricMedian(nu=0.1, T=3)),
            (geometric_median(0.1 * STEP, iterations=2000), byzfl.GeometricMedian(nu=0.1, T=2000)),
            (centered_clipping(norm * STEP), byzfl.CenteredClipping(tau=norm)),
            (centered_clipping(norm / 50 * STEP), byzfl.CenteredClipping(tau=norm / 50)),
            (centered_clipping(norm * STEP, iterations=7), byzfl.CenteredClipping(tau=norm, L=7)),
        ]
        for ours, theirs in pairs:
            agree(result(ours, rows), theirs(rows.astype(float)), ours.name)


@pytest.mark.parametrize(("n", "k", "f"), SIZES)
def test_compositions_agree_with_byzfl(byzfl, n, k, f) -> None:
    norm = float(np.sqrt(k) * 20)
    rules = [
        (mean(), byzfl.Average()),
        (trimmed_mean(f), byzfl.TrMean(f)),
        (median(), byzfl.Median()),
        (geometric_median(0.1 * STEP, iterations=3, start="zero"), byzfl.GeometricMedian(nu=0.1, T=3)),
        # a new one each time: it keeps its last result as the centre
        (centered_clipping(norm * STEP), lambda x: byzfl.CenteredClipping(tau=norm)(x)),
    ]
    for rows in samples(n, k):
        mixed = byzfl.NNM(f)(rows.astype(float))
        clipped = byzfl.Clipping(norm)(rows.astype(float))
        both = byzfl.NNM(f)(clipped)
        for ours, theirs in rules:
            agree(result(nnm(f) >> ours, rows), theirs(mixed), f"nnm >> {ours.name}")
            agree(result(norm_bound(norm * STEP) >> ours, rows), theirs(clipped), f"clip >> {ours.name}")
            whole = norm_bound(norm * STEP) >> nnm(f) >> ours
            agree(result(whole, rows), theirs(both), whole.name)


@pytest.mark.parametrize(
    "rows", [np.zeros((5, 3)), np.ones((5, 3)) * 7, np.repeat([[1, 2], [3, 5]], [3, 2], axis=0)]
)
def test_degenerate_vectors_agree_with_byzfl(byzfl, rows) -> None:
    rows = rows.astype(int)
    pairs = [
        (mean(), byzfl.Average()),
        (trimmed_mean(1), byzfl.TrMean(1)),
        (median(), byzfl.Median()),
        (krum(1, neighbours=3), byzfl.Krum(1)),
        (geometric_median(0.1 * STEP, iterations=3, start="zero"), byzfl.GeometricMedian(nu=0.1, T=3)),
        (nnm(1) >> trimmed_mean(1), lambda x: byzfl.TrMean(1)(byzfl.NNM(1)(x))),
    ]
    for ours, theirs in pairs:
        assert result(ours, rows) == pytest.approx(theirs(rows.astype(float)), rel=AGREEMENT, abs=1e-9), (
            ours.name
        )


@pytest.mark.parametrize(("n", "k", "f"), SIZES)
def test_rules_agree_with_the_krum_package(n, k, f) -> None:
    torch = pytest.importorskip("torch")
    package = "krum.primitives.aggregators"
    theirs_krum = pytest.importorskip(f"{package}.krum", reason="krum 0.9 is not installed").Krum
    theirs_multi = pytest.importorskip(f"{package}.multikrum").MultiKrum
    theirs_median = pytest.importorskip(f"{package}.median").Median
    theirs_trimmed = pytest.importorskip(f"{package}.trimmed_mean").TrimmedMean
    theirs_geometric = pytest.importorskip(f"{package}.geometric_median").GeometricMedian
    for rows in samples(n, k):
        theirs = torch.tensor(rows, dtype=torch.float64)
        agree(result(krum(f), rows), theirs_krum.aggregate(theirs, n=n, f=f).numpy(), "krum")
        for m in (1, n - 2 * f - 3, n - f):
            if m > 0:
                wanted = theirs_multi.aggregate(theirs, n=n, f=f, m=m).numpy()
                agree(result(multi_krum(f, selected=m), rows), wanted, f"multi_krum m={m}")
        agree(result(median(), rows), theirs_median.aggregate(theirs).numpy(), "median")
        agree(result(trimmed_mean(f), rows), theirs_trimmed.aggregate(theirs, f=f).numpy(), "trimmed mean")
        settled = {"nu": 0.1, "tol": 0.0, "max_iter": 2000}
        wanted = theirs_geometric.aggregate(theirs, n=n, f=f, **settled).numpy()
        agree(result(geometric_median(0.1 * STEP, iterations=2000), rows), wanted, "geometric median")
