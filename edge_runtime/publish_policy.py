"""Whether a device moves bytes now, later in the round, or not in this round, and how many coordinates: a pure function.

The order of the questions: is it sound, does the byte budget hold it, does the battery, can it arrive before the
deadline, is it worth sending. The last one reads the device's own data (event-triggered updates: Chen et al. 2018,
"LAG"), which a privacy claim forbids (refusal 16); under a shared mask density and bit width are the signed plan's alone
(refusal 17); a coalesced update is clipped again and never spans mask epochs (refusal 18).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from sanderling.broker import codec
from sanderling.broker.messages import RoundPlan, UpdateMessage
from sanderling.edge_runtime.byte_budget import DAY_S, Left
from sanderling.edge_runtime.trainer import RESIDUAL_NORMS, Residual
from sanderling.models.compression import clip, dequantize, shared_mask, squared_norm
from sanderling.models.errors import UnsoundError, UsageError
from sanderling.models.updates import Int32Vector

NO_LIMIT = Left(day=None, round=None)
BENEFIT = 2.0  # a transfer is not begun that would be late even at so many times the measured goodput
TOPK_BITS = 20  # of a coordinate and its value, at most, at the densities that top-k is for

Action = Literal["publish", "wait", "skip"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What a device was told. `least_change` is a share of the largest change so far; 0 sends every change."""

    least_battery: float = 0.0  # share of charge below which nothing is begun
    least_change: float = 0.0
    private: bool = False  # a privacy claim is made of this federation
    aligned: bool = (
        True  # secure aggregation, or a rule that compares coordinates: all devices compress alike
    )

    def __post_init__(self) -> None:
        for name, value in (("least_battery", self.least_battery), ("least_change", self.least_change)):
            if not 0 <= value < 1:
                raise UsageError(f"publish.{name} = {value}: expected a share from 0 up to, and without, 1")
        if self.private and self.least_change:
            raise UnsoundError(
                f"publish.least_change = {self.least_change} with a privacy claim: when a device is silent would tell "
                "of its data; set publish.least_change = 0 (link, battery and byte budget may still decide), or "
                "privacy.mode = none"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Circumstances:
    """What may always be read: link, budget, battery; None where it is not known or not limited."""

    left: Left = NO_LIMIT
    goodput_bytes_s: float | None = None
    round_trip_s: float | None = None
    battery: float | None = None  # share of charge
    charging: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """How much waits to be sent: L2 norms in theta units. Reads the device's data."""

    norm: float
    largest_norm: float
    rounds: int = 0  # it has been kept back for


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """`coordinates` is how many to send, at most the plan's. `at` is when to ask again (Unix seconds), for "wait"; for
    "skip" it is when the cause will be gone, where that is known: until then every round would be skipped."""

    action: Action
    reason: str
    coordinates: int
    at: float | None = None


def decide(
    rules: Rules,
    around: Circumstances,
    plan: RoundPlan,
    size: int,
    now: float,
    *,
    up_bytes: int | None = None,
    change: Change | None = None,
) -> Decision:
    """What to do about `size` bytes (whole, both ways) that this round would take from here on.

    `up_bytes` of them go up, which is what the link's goodput is measured on; by default all.

    UnsoundError where `change` is given and a privacy claim forbids reading it.
    """
    if change is not None and rules.private:
        raise UnsoundError(
            "a publish decision that reads the change, under a privacy claim; leave `change` out"
        )
    coordinates = plan.update.coordinates
    budget = around.left.least
    if budget is not None and size > budget:
        coordinates = _that_fit(rules, plan, size, budget)
        if coordinates == 0:
            return _over_budget(around.left, plan, size, now)
        size = budget
    if around.battery is not None and around.battery < rules.least_battery:
        return _low_battery(rules, around, plan, size, now)
    seconds = _seconds(around, size if up_bytes is None else min(size, up_bytes))
    remaining = _remaining_s(plan, now)
    if seconds is not None and seconds > BENEFIT * remaining:
        return _skip(f"{size} B take {seconds:.1f} s, the deadline is in {remaining:.1f} s")
    if change is not None and change.norm < rules.least_change * change.largest_norm:
        return _skip(
            f"change {change.norm:.0f} is under {rules.least_change:.0%} of {change.largest_norm:.0f}"
        )
    note = "" if budget is None else f" of {budget} left"
    part = (
        ""
        if coordinates == plan.update.coordinates
        else f", {coordinates} of {plan.update.coordinates} coordinates"
    )
    return Decision(action="publish", reason=f"{size} B{note}{part}", coordinates=coordinates)


def coalesce(plan: RoundPlan, payload: bytes, left_over: Residual | None, dimension: int) -> Residual | None:
    """What an update that was never sent leaves to be added to the next change of its mask epoch; (dimension,).

    `payload` is the whole update message, `left_over` what the device would have kept had it been sent. The norm is
    capped as the residual's is; trainer.compress clips it again with the change it is added to.
    """
    update, data = plan.update, UpdateMessage.decode(payload).payload
    mask = update.mode == "mask"
    coordinates = (
        shared_mask(plan.federation, update.mask_epoch, dimension, update.coordinates) if mask else None
    )
    sent = codec.decode(
        data, dimension=dimension, coordinates=coordinates, max_coordinates=update.coordinates
    )
    unsent: Int32Vector = dequantize(sent)
    if left_over is not None and left_over.mask_epoch == update.mask_epoch:
        unsent = unsent + left_over.vector
    bound = RESIDUAL_NORMS * (update.clipping_norm or math.isqrt(squared_norm(dequantize(sent))) + 1)
    return Residual(mask_epoch=update.mask_epoch, vector=clip(unsent.astype(np.int32), bound))


def _that_fit(rules: Rules, plan: RoundPlan, size: int, budget: int) -> int:
    """Fewer coordinates, where each device may choose its own; 0 where that does not help or may not be."""
    if plan.update.mode == "mask" or rules.aligned:
        return 0
    too_many = math.ceil(8 * (size - budget) / TOPK_BITS * 2)
    return max(0, plan.update.coordinates - too_many)


def _over_budget(left: Left, plan: RoundPlan, size: int, now: float) -> Decision:
    if left.round is not None and size > left.round:
        return _skip(f"{size} B, the round's budget holds {max(0, left.round)}")
    renewed = (now // DAY_S + 1) * DAY_S
    reason = f"{size} B, the day's budget holds {max(0, left.day or 0)}"
    if plan.deadline_unix_s is not None and renewed < plan.deadline_unix_s:
        return Decision(action="wait", reason=f"{reason}; waits for the next day", coordinates=0, at=renewed)
    return Decision(action="skip", reason=reason, coordinates=0, at=renewed)


def _low_battery(rules: Rules, around: Circumstances, plan: RoundPlan, size: int, now: float) -> Decision:
    reason = f"battery at {around.battery:.0%}, under {rules.least_battery:.0%}"
    latest = _remaining_s(plan, now) - (_seconds(around, size) or 0.0)
    if not around.charging or latest <= 0:
        return _skip(reason)
    at = now + (60.0 if math.isinf(latest) else max(1.0, latest / 2))
    return Decision(action="wait", reason=f"{reason}; waits while it charges", coordinates=0, at=at)


def _seconds(around: Circumstances, size: int) -> float | None:
    if not around.goodput_bytes_s:
        return None
    return max(around.round_trip_s or 0.0, size / around.goodput_bytes_s)


def _remaining_s(plan: RoundPlan, now: float) -> float:
    return math.inf if plan.deadline_unix_s is None else plan.deadline_unix_s - now


def _skip(reason: str) -> Decision:
    return Decision(action="skip", reason=reason, coordinates=0)
