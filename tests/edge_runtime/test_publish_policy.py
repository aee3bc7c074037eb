"""Each decision by hand, what is refused as unsound, and what coalescing keeps."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from sanderling.edge_runtime.byte_budget import DAY_S, Left
from sanderling.edge_runtime.publish_policy import Change, Circumstances, Rules, coalesce, decide
from sanderling.edge_runtime.trainer import RESIDUAL_NORMS, Examples, LocalData, Residual, train
from sanderling.models.compression import squared_norm
from sanderling.models.errors import UnsoundError, UsageError
from sanderling.models.tail import dense_head

NOON = 20_000.5 * DAY_S
TOPK = Rules(aligned=False)


def with_deadline(plan, seconds):
    return replace(plan, deadline_unix_s=NOON + seconds)


def left(day=None, of_round=None):
    return Circumstances(left=Left(day=day, round=of_round))


def test_without_limits_it_publishes_what_the_plan_asks(plan):
    decision = decide(Rules(), Circumstances(), plan, 500, NOON)
    assert (decision.action, decision.coordinates, decision.reason) == ("publish", 30, "500 B")


@pytest.mark.parametrize(
    ("around", "reason"),
    [
        (left(day=499), "500 B, the day's budget holds 499"),
        (left(day=10_000, of_round=499), "500 B, the round's budget holds 499"),
        (left(day=-5), "500 B, the day's budget holds 0"),
    ],
)
def test_a_budget_is_never_exceeded(plan, around, reason):
    decision = decide(Rules(), around, plan, 500, NOON)
    assert (decision.action, decision.reason) == ("skip", reason)


def test_what_fits_to_the_byte_is_sent(plan):
    assert decide(Rules(), left(day=500, of_round=500), plan, 500, NOON).reason == "500 B of 500 left"


def test_a_spent_day_waits_for_the_next_if_the_round_lasts_that_long(plan):
    decision = decide(Rules(), left(day=0), with_deadline(plan, DAY_S), 500, NOON)
    assert (decision.action, decision.at) == ("wait", 20_001 * DAY_S)


def test_top_k_sends_fewer_coordinates_where_the_budget_is_short(plan):
    topk = replace(plan, update=replace(plan.update, mode="topk"))
    decision = decide(TOPK, left(day=495), topk, 500, NOON)
    assert (decision.action, decision.coordinates) == (
        "publish",
        26,
    )  # 5 B are 4 coordinates, halved for safety
    assert decision.reason == "495 B of 495 left, 26 of 30 coordinates"


def test_under_a_mask_or_an_aligned_rule_the_density_is_the_plans_alone(plan):
    topk = replace(plan, update=replace(plan.update, mode="topk"))
    assert decide(TOPK, left(day=495), plan, 500, NOON).action == "skip"
    assert decide(Rules(aligned=True), left(day=495), topk, 500, NOON).action == "skip"


def test_a_transfer_that_would_be_late_on_a_link_twice_as_fast_is_not_begun(plan):
    slow = Circumstances(goodput_bytes_s=100.0, round_trip_s=1.0)
    assert decide(Rules(), slow, with_deadline(plan, 2.6), 500, NOON).action == "publish"
    late = decide(Rules(), slow, with_deadline(plan, 2.4), 500, NOON)
    assert (late.action, late.reason) == ("skip", "500 B take 5.0 s, the deadline is in 2.4 s")
    assert decide(Rules(), slow, with_deadline(plan, 2.4), 500, NOON, up_bytes=400).action == "publish"


def test_a_low_battery_skips_or_waits_while_it_charges(plan):
    rules = Rules(least_battery=0.2)
    low = Circumstances(battery=0.19)
    assert decide(rules, replace(low, battery=0.2), plan, 500, NOON).action == "publish"
    assert decide(rules, low, plan, 500, NOON).reason == "battery at 19%, under 20%"
    waits = decide(rules, replace(low, charging=True), with_deadline(plan, 100.0), 500, NOON)
    assert (waits.action, waits.at) == ("wait", NOON + 50.0)


def test_a_small_change_is_kept_back(plan):
    rules = Rules(least_change=0.1)
    small = decide(rules, Circumstances(), plan, 500, NOON, change=Change(norm=9, largest_norm=100))
    assert (small.action, small.reason) == ("skip", "change 9 is under 10% of 100")
    enough = decide(rules, Circumstances(), plan, 500, NOON, change=Change(norm=10, largest_norm=100))
    assert enough.action == "publish"


def test_a_privacy_claim_forbids_decisions_that_read_the_change(plan):
    with pytest.raises(UnsoundError, match=r"publish\.least_change = 0\.1 with a privacy claim"):
        Rules(private=True, least_change=0.1)
    with pytest.raises(UnsoundError, match="reads the change"):
        decide(Rules(private=True), Circumstances(), plan, 1, NOON, change=Change(norm=1, largest_norm=1))
    assert decide(Rules(private=True), left(day=0), plan, 500, NOON).action == "skip"


def test_shares_are_checked():
    with pytest.raises(UsageError, match=r"publish\.least_battery = 1"):
        Rules(least_battery=1)


# ------------------------------------------------------------------------- coalescing


def trained(plan, package, model, residual=None, seed=0):
    head = dense_head(package.network)
    rng = np.random.default_rng(seed)

    def some(count):
        return Examples(
            features=rng.integers(-128, 128, (count, head.features)).astype(np.int8),
            labels=rng.integers(0, head.classes, count),
        )

    data = LocalData(train=some(40), validation=some(5), test=some(5))
    return train(plan, "dev-1", head, model.theta, data, residual, lambda: 0.0)


@pytest.mark.parametrize("mode", ["mask", "topk"])
def test_what_was_not_sent_is_what_would_have_been_and_what_was_left(plan, package, model, mode):
    plan = replace(plan, update=replace(plan.update, mode=mode))
    message, left_over = trained(plan, package, model)
    kept = coalesce(plan, message.encode(), left_over, model.theta.size)
    assert kept.mask_epoch == plan.update.mask_epoch
    assert np.count_nonzero(kept.vector) > 0
    if mode == "topk":  # nothing of the change is lost: sent and left over are the whole
        again = coalesce(plan, message.encode(), None, model.theta.size)
        assert np.array_equal(kept.vector - again.vector, left_over.vector)


def test_a_coalesced_change_is_added_within_its_epoch_and_clipped_again(plan, package, model):
    clipped = replace(plan, update=replace(plan.update, clipping_norm=2000))
    message, _ = trained(clipped, package, model)
    kept = coalesce(clipped, message.encode(), None, model.theta.size)
    assert squared_norm(kept.vector) <= (RESIDUAL_NORMS * 2000) ** 2
    following = replace(clipped, round=2)
    alone, _ = trained(following, package, model, seed=1)
    both, _ = trained(following, package, model, residual=kept, seed=1)
    assert both.payload != alone.payload
    sent = coalesce(following, both.encode(), None, model.theta.size)
    assert squared_norm(sent.vector) <= 2000**2
    elsewhere = Residual(mask_epoch=kept.mask_epoch + 1, vector=kept.vector)
    assert trained(following, package, model, residual=elsewhere, seed=1)[0] == alone
