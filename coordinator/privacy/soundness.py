"""Where a claim of differential privacy holds; every refusal names both settings and the nearest sound choice.

The numbers are those of the design's list of refusals. `require_sound` checks all that a configuration says; what only
a run can tell is checked where it happens (privacy/noise.py, privacy/budget.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sanderling.coordinator.privacy.accounting import Sampling
from sanderling.coordinator.privacy.sensitivity import BoundedRule, sensitivity
from sanderling.models.errors import UnsoundError


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """Central differential privacy as a configuration asks for it. `population` N counts the federation's devices."""

    rule: BoundedRule
    delta: float | None
    population: int
    adjacency: Literal["zero-out", "replace"] = "zero-out"
    accountant: Literal["zcdp", "pld", "rdp"] = "pld"
    denominator: Literal["planned", "reports"] = "planned"
    is_weighted: bool = False  # weights above 1, or any with a rule other than the mean
    update_mode: Literal["mask", "topk"] = "mask"
    sampling: Sampling | None = None
    independent_coins: bool = False  # each device tosses its own, and no decision reads another's
    refills: bool = False  # over-selection, or asking others in place of those that are missing
    cohort_is_seen: bool = True  # by the plan, by published counts, or by a round abandoned below a quorum
    is_asynchronous: bool = False
    device_budget: bool = False
    private_signals: tuple[
        str, ...
    ] = ()  # settings that read devices' losses, accuracies or updates without noise
    device_signals: tuple[str, ...] = ()  # what a device's publish policy reads of its change, loss or data


def require_sound(claim: Claim) -> None:
    """Raises UnsoundError for the first reason why the claim would not hold."""
    require_delta(claim.delta, claim.population)
    sensitivity(claim.rule)  # 1
    require_fixed_denominator(claim)
    require_every_coordinate(claim.update_mode)
    require_public_signals(claim.private_signals, claim.device_signals)
    if claim.sampling is not None:
        require_independent_coins(claim)
        require_sampled_rule(claim)
    require_adjacency(claim)


def require_delta(delta: float | None, population: int) -> None:
    """A delta of 1/N allows one client's data to be published whole."""
    if delta is None:
        raise UnsoundError(
            f"privacy.epsilon without privacy.delta means nothing for Gaussian noise: set delta below 1/N, "
            f"for {population} devices {_below_one_in(population):g}"
        )
    if not 0 < delta < 1 / population:
        raise UnsoundError(
            f"privacy.delta = {delta:g} for {population} devices: expected above 0 and below 1/N = {1 / population:g}, "
            f"at which one device's data could be published whole; set {_below_one_in(population):g}"
        )


def require_fixed_denominator(claim: Claim) -> None:
    """2: what a client changes must not depend on how many came, nor be multiplied by its own word."""
    if claim.denominator != "planned":
        raise UnsoundError(
            "central differential privacy with a mean over the reports that came: their number is private and moves "
            "every other client's share; divide by the planned number (fixed_mean, or zero_filled before the rule)"
        )
    if claim.is_weighted:
        raise UnsoundError(
            f"central differential privacy with weights in {' >> '.join(claim.rule.chain)}: its sensitivity is proven "
            "for weight 1 each; drop the weights, or take the mean with weights min(n, cap) / cap"
        )
    if claim.rule.planned > claim.population:
        raise UnsoundError(
            f"a denominator of {claim.rule.planned} planned reports in a federation of {claim.population} devices: "
            f"plan at most {claim.population}"
        )


def require_every_coordinate(update_mode: str) -> None:
    """3: where a client sent something is as private as what it sent."""
    if update_mode != "mask":
        raise UnsoundError(
            f"central differential privacy with update.mode = {update_mode!r}: noise on the coordinates that were sent "
            "shows which ones they were; set update.mode = 'mask', its noise covers the round's shared coordinates"
        )


def require_public_signals(private_signals: tuple[str, ...], device_signals: tuple[str, ...]) -> None:
    """5 and 16: selection, stopping, pacing or publishing must not read what is not noised."""
    if private_signals:
        raise UnsoundError(
            f"differential privacy with {', '.join(private_signals)}: decisions that read devices' losses, accuracies "
            "or updates release them without noise; decide by public metadata or by earlier released models only"
        )
    if device_signals:
        raise UnsoundError(
            f"differential privacy with a publish policy that reads {', '.join(device_signals)}: whether a device "
            "reports then tells of its data; let it read link, battery, byte budget and deadline only"
        )


def require_independent_coins(claim: Claim) -> None:
    """4: amplification by sampling is a claim about who does not know who came."""
    reasons = {
        "the cohort is not drawn by an independent coin for each device": not claim.independent_coins,
        "missing devices are replaced or over-selected for": claim.refills,
        "the cohort or its size is seen (plan, published counts, rounds abandoned below a quorum)": claim.cohort_is_seen,
        "the federation is asynchronous": claim.is_asynchronous,
        "a budget for each device turns some away by their past coins (privacy.device_epsilon)": claim.device_budget,
    }
    for reason, holds in reasons.items():
        if holds:
            raise UnsoundError(
                f"privacy amplified by sampling, but {reason}: toss a hidden coin for each device and ask whoever it "
                "names, or set privacy.amplification = false and account every round in full"
            )


def require_sampled_rule(claim: Claim) -> None:
    """7: the sum of a Poisson cohort is a sum of independent terms; an order statistic of it is not."""
    assert claim.sampling is not None
    if claim.rule.chain not in (("mean",), ("centered_clipping",)):
        raise UnsoundError(
            f"{' >> '.join(claim.rule.chain)} with a cohort of varying size (sampling): its sensitivity is proven for a "
            "fixed number of reports; take mean or centered_clipping, or a fixed cohort without amplification"
        )
    if claim.rule.chain == ("centered_clipping",) and not claim.rule.centre_is_zero:
        raise UnsoundError(
            "centered clipping around the last release with sampling: a device that stays away moves the result as "
            "well; centre it on zero, or take the mean"
        )


def require_adjacency(claim: Claim) -> None:
    """6: dp-accounting's RDP takes a replaced client for one that was left out, at half its sensitivity."""
    if claim.adjacency == "zero-out":
        return
    if claim.accountant == "rdp" or claim.sampling is not None:
        what = "RDP" if claim.accountant == "rdp" else "sampling"
        raise UnsoundError(
            f"replace-one adjacency with {what} would be under-reported: set privacy.adjacency = 'zero-out', or "
            "account replace-one by zCDP or PLD without sampling, its sensitivity doubled"
        )


def _below_one_in(population: int) -> float:
    """A power of ten at most a tenth of 1/N."""
    return 10.0 ** -(len(str(population)) + 1)
