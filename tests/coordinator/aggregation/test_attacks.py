"""Every attack against every rule on synthetic gradients: 10 honest devices about one direction, f hostile."""

import numpy as np
import pytest

from sanderling.coordinator.aggregation.coordinate_rules import mean, median, trimmed_mean
from sanderling.coordinator.aggregation.krum import krum, multi_krum
from sanderling.coordinator.aggregation.pre_aggregators import bucketing, nnm, norm_bound
from sanderling.coordinator.aggregation.reweighted import centered_clipping, geometric_median
from sanderling.models.random_bits import derive_key
from tests.coordinator import attacks
from tests.coordinator.aggregation.samples import STEP, result

HONEST, WIDTH = 10, 300
ATTACKS = {
    "sign flip": attacks.sign_flip(),
    "sign flip x10": attacks.sign_flip(10.0),
    "inner product .5": attacks.inner_product(0.5),
    "inner product 20": attacks.inner_product(20.0),
    "little is enough": attacks.little_is_enough(),
    "little is enough z=1.5": attacks.little_is_enough(1.5),
    "mimic": attacks.mimic(3),
    "gaussian": attacks.gaussian(100.0),
    "boosted": attacks.boosted(),
    "zeros": attacks.zeros(),
}


def honest_updates(seed: int) -> np.ndarray:
    """A common direction of 12 steps a coordinate, and 8 of each device's own."""
    rng = np.random.default_rng(seed)
    common = rng.normal(0, 12, WIDTH)
    return np.clip(np.rint(common + rng.normal(0, 8, (HONEST, WIDTH))), -127, 127).astype(np.int64)


def rules(f: int):
    n = HONEST + f
    typical = 20.0 * np.sqrt(WIDTH) * STEP
    key = derive_key("bucketing", "lab", 1)
    base = [trimmed_mean(f), median(), geometric_median(STEP), multi_krum(f), krum(f)]
    return [
        *base,
        multi_krum(f, neighbours=n - f - 1),
        *(nnm(f) >> rule for rule in base[:3]),
        norm_bound(typical) >> nnm(f) >> trimmed_mean(f),
        centered_clipping(8.0 * np.sqrt(WIDTH) * STEP, iterations=8),
        *([bucketing(2, key) >> median()] if f < 3 else []),
    ]


def attacked(name: str, f: int, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    honest = honest_updates(seed)
    hostile = ATTACKS[name](honest, f, np.random.default_rng(seed + 1))
    return honest, np.concatenate([honest, hostile])


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


@pytest.mark.parametrize("f", [1, 2, 4])
@pytest.mark.parametrize("name", ATTACKS)
def test_rules_keep_the_honest_direction(name, f) -> None:
    honest, rows = attacked(name, f)
    middle = honest.mean(axis=0)
    spread = np.sqrt(((honest - middle) ** 2).sum(axis=1).mean())
    for rule in rules(f):
        if (name, f, rule.name) == ("zeros", 4, "krum(4)"):
            continue  # below
        found = result(rule, rows)
        assert cosine(found, middle) > 0.75, rule.name
        assert np.linalg.norm(found - middle) < 1.1 * spread, rule.name


def test_krum_is_lost_to_four_who_send_the_same_zeros_and_multi_krum_is_not() -> None:
    """Copies of each other need only 5 honest neighbours of 8. It is within Krum's bound (kappa = 10), a wide one."""
    honest, rows = attacked("zeros", 4)
    middle = honest.mean(axis=0)
    assert not result(krum(4), rows).any()
    assert middle @ middle <= 6 * (1 + 4 / 6) * ((honest - middle) ** 2).sum(axis=1).mean()
    assert cosine(result(multi_krum(4), rows), middle) > 0.9
    assert cosine(result(nnm(4) >> trimmed_mean(4), rows), middle) > 0.9


@pytest.mark.parametrize(("name", "f"), [("sign flip x10", 2), ("inner product 20", 1), ("boosted", 1)])
def test_the_plain_mean_is_lost_to_the_same_attacks(name, f) -> None:
    honest, rows = attacked(name, f)
    middle = honest.mean(axis=0)
    spread = np.sqrt(((honest - middle) ** 2).sum(axis=1).mean())
    assert np.linalg.norm(result(mean(), rows) - middle) > 0.5 * spread


@pytest.mark.parametrize("f", [1, 4])
@pytest.mark.parametrize("name", ATTACKS)
def test_bounded_norms_bound_what_the_hostile_move(name, f) -> None:
    """Whatever f devices send instead of zeros moves a mean of vectors of norm <= B by at most f B / n."""
    honest, rows = attacked(name, f)
    bound = 100.0
    silent = np.concatenate([honest, np.zeros((f, WIDTH), dtype=np.int64)])
    for rule in (norm_bound(bound * STEP) >> mean(), centered_clipping(bound * STEP)):
        moved = np.linalg.norm(result(rule, rows) - result(rule, silent))
        assert moved <= f * bound / len(rows) * (1 + 1e-9), rule.name


def test_the_median_of_unaligned_updates_is_what_the_refusal_says() -> None:
    """16 honest top-1 % updates: every median is 0, and Krum picks the attacker that sends zeros."""
    rng = np.random.default_rng(5)
    rows = np.zeros((17, 2000), dtype=np.int64)
    for row in rows[:16]:
        row[rng.choice(2000, 20, replace=False)] = rng.integers(60, 128, 20)
    assert not result(median(), rows).any()
    assert not result(krum(1), rows).any()
