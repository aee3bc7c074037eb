"""Each refusal by itself: it names both settings and the nearest sound choice, and the choice is sound."""

from dataclasses import replace

import pytest

from sanderling.coordinator.privacy.accounting import Sampling
from sanderling.coordinator.privacy.sensitivity import BoundedRule
from sanderling.coordinator.privacy.soundness import Claim, require_delta, require_sound
from sanderling.models.errors import UnsoundError

RULE = BoundedRule(chain=("mean",), clipping_norm=1000, planned=50)
CLAIM = Claim(rule=RULE, delta=1e-5, population=1000)
SAMPLED = replace(
    CLAIM,
    sampling=Sampling(probability=0.05, population=1000),
    independent_coins=True,
    cohort_is_seen=False,
)


def of(claim: Claim, **changes: object) -> Claim:
    return replace(claim, rule=replace(claim.rule, **changes))


@pytest.mark.parametrize(
    "claim",
    [
        CLAIM,
        SAMPLED,
        replace(CLAIM, adjacency="replace"),
        of(CLAIM, chain=("nnm", "trimmed_mean"), hostile=5),
        of(CLAIM, chain=("centered_clipping",), tau=500.0, centre_is_zero=False),
        of(SAMPLED, chain=("centered_clipping",), tau=500.0),
    ],
)
def test_sound_claims_pass(claim):
    require_sound(claim)


@pytest.mark.parametrize(
    ("claim", "names"),
    [
        (replace(CLAIM, delta=None), ["privacy.delta", "1000 devices", "1e-05"]),
        (replace(CLAIM, delta=1e-3), ["privacy.delta = 0.001", "below 1/N = 0.001", "set 1e-05"]),
        (replace(CLAIM, delta=0.0), ["privacy.delta = 0 "]),
        (of(CLAIM, chain=("median",)), ["central", "median", "trimmed_mean"]),
        (of(CLAIM, chain=("nnm", "krum")), ["nnm >> krum", "take nnm >> trimmed_mean"]),
        (of(CLAIM, clipping_norm=0), ["update.clipping_norm"]),
        (of(CLAIM, planned=1001), ["1001 planned", "1000 devices"]),
        (replace(CLAIM, denominator="reports"), ["reports that came", "planned number"]),
        (replace(CLAIM, is_weighted=True), ["weights in mean", "drop the weights"]),
        (replace(CLAIM, update_mode="topk"), ["'topk'", "'mask'"]),
        (
            replace(CLAIM, private_signals=("rounds.patience", "link.adaptive")),
            ["rounds.patience, link.adaptive", "released models"],
        ),
        (replace(CLAIM, device_signals=("loss",)), ["publish policy", "loss", "battery"]),
        (replace(SAMPLED, independent_coins=False), ["independent coin", "privacy.amplification = false"]),
        (replace(SAMPLED, refills=True), ["replaced or over-selected"]),
        (replace(SAMPLED, cohort_is_seen=True), ["size is seen"]),
        (replace(SAMPLED, is_asynchronous=True), ["asynchronous"]),
        (replace(SAMPLED, device_budget=True), ["privacy.device_epsilon"]),
        (of(SAMPLED, chain=("trimmed_mean",)), ["trimmed_mean with a cohort of varying size", "take mean"]),
        (of(SAMPLED, chain=("nnm", "mean")), ["nnm >> mean", "fixed cohort"]),
        (
            of(SAMPLED, chain=("centered_clipping",), tau=1.0, centre_is_zero=False),
            ["around the last release", "centre it on zero"],
        ),
        (replace(CLAIM, adjacency="replace", accountant="rdp"), ["RDP", "'zero-out'"]),
        (replace(SAMPLED, adjacency="replace"), ["sampling", "'zero-out'"]),
    ],
)
def test_refusals(claim, names):
    with pytest.raises(UnsoundError) as refusal:
        require_sound(claim)
    assert refusal.value.exit_status == 3
    for name in names:
        assert name in str(refusal.value)


@pytest.mark.parametrize("population", [1, 9, 10, 99, 1000, 123456])
def test_the_delta_that_is_proposed_is_accepted(population):
    with pytest.raises(UnsoundError) as refusal:
        require_delta(1.0, population)
    require_delta(float(str(refusal.value).rsplit(" ", 1)[1]), population)
