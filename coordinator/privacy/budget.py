"""The privacy budget of a run: what may be spent, what is reserved, what was released, and what each adversary learns.

State in, state out. A round goes through `reserve` (before it opens), `freeze` (its reports are fixed for ever and its
noise key is drawn) and `release` (the model it made); `cancel` gives a reservation back while nothing is frozen. What is
reserved counts as spent. The caller makes each state durable before it acts on it (privacy/budget_store.py).

Two limits: `epsilon` for what an outside observer learns of any device in all rounds together, and `device_epsilon`
for each device alone, over the rounds whose cohort it was in, without amplification.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Literal

from sanderling.coordinator.privacy import accounting
from sanderling.coordinator.privacy.accounting import Charge
from sanderling.coordinator.privacy.noise import FrozenSet
from sanderling.models.errors import UnsoundError

View = Literal["observer", "participant", "coordinator"]


class BudgetSpentError(UnsoundError):
    """The round would break the budget. `devices` are those that cannot bear it; empty: the federation."""

    def __init__(self, message: str, devices: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.devices = devices


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What a run may spend."""

    epsilon: float
    delta: float
    device_epsilon: float | None = None

    def __post_init__(self) -> None:
        if not self.epsilon > 0 or not 0 < self.delta < 1 or (self.device_epsilon or 1.0) <= 0:
            raise UnsoundError(
                f"a budget of epsilon {self.epsilon:g}, delta {self.delta:g}, for each device {self.device_epsilon}: "
                "expected epsilons above 0 and delta in (0, 1), below 1/N"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A round in the ledger."""

    number: int
    charge: Charge
    devices: frozenset[str]  # the cohort; once frozen without sampling, those whose reports were accepted
    frozen: FrozenSet | None = None
    model_hash: bytes | None = None  # of the model that was released


@dataclass(frozen=True, slots=True, kw_only=True)
class Spending:
    """The ledger's state."""

    budget: Budget
    entries: Mapping[int, Entry] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """What one adversary learns of any device: (epsilon, delta), infinite where nothing is promised."""

    view: View
    epsilon: float
    delta: float
    note: str


# ---------------------------------------------------------------------------------------------- transitions


def reserve(state: Spending, number: int, charge: Charge, devices: Collection[str]) -> Spending:
    """Before round `number` opens. The same reservation again changes nothing.

    Raises BudgetSpentError where the round would break a limit, UnsoundError for another reservation of the number.
    """
    entry = Entry(number=number, charge=charge, devices=frozenset(devices))
    if (before := state.entries.get(number)) is not None:
        if before.charge == charge and (before.devices == entry.devices or before.frozen is not None):
            return state
        raise UnsoundError(f"round {number} was reserved with another charge or cohort: resume it as it was")
    if charge.sampling is not None and state.budget.device_epsilon is not None:
        raise UnsoundError(
            "a sampled round with privacy.device_epsilon: turning devices away by their past coins undoes the "
            "amplification; drop device_epsilon, or set privacy.amplification = false"
        )
    _require_one_kind(state, charge)
    after = _with(state, entry)
    if not _fits(_charges(after.entries.values()), state.budget.epsilon, state.budget.delta, True):
        raise BudgetSpentError(
            f"round {number} does not start: {len(state.entries)} rounds spent epsilon {_federation(state):.4g} of "
            f"{state.budget.epsilon:g} at delta {state.budget.delta:g}, and another would exceed it; the run is over, "
            "or begin one with more noise"
        )
    left = affordable(state, charge, entry.devices)
    if left != entry.devices:
        spent = tuple(sorted(entry.devices - left))
        raise BudgetSpentError(
            f"round {number} does not start: {', '.join(spent)} cannot bear it within {state.budget.device_epsilon:g} "
            "a device; leave them out (privacy.budget.affordable)",
            spent,
        )
    return after


def affordable(state: Spending, charge: Charge, devices: Iterable[str]) -> frozenset[str]:
    """Those of `devices` that can take part in one more round of this charge."""
    limit = state.budget.device_epsilon
    if limit is None:
        return frozenset(devices)
    return frozenset(
        device
        for device in devices
        if _fits(_charges(_of_device(state, device)) + Counter([charge]), limit, state.budget.delta, False)
    )


def freeze(state: Spending, frozen: FrozenSet, accepted: Collection[str]) -> Spending:
    """The round's reports are final: no later one enters. A resumed round gets back the noise it had.

    Devices that did not report are not charged, but for sampled rounds, where who came stays hidden. Raises
    UnsoundError for a round without reservation or already frozen with other reports.
    """
    entry = _entry(state, frozen.number)
    if entry.frozen is not None:
        if entry.frozen.accepted_hash == frozen.accepted_hash and entry.frozen.size == frozen.size:
            return state
        raise UnsoundError(
            f"round {frozen.number} was frozen with other reports or other noise: noise for a second set would let "
            "their difference be read; release the first set, late reports never enter"
        )
    if strangers := set(accepted) - entry.devices:
        raise UnsoundError(
            f"round {frozen.number} accepted {', '.join(sorted(strangers))}, whose budget was not reserved; "
            "refuse reports from outside of the cohort"
        )
    devices = entry.devices if entry.charge.sampling else frozenset(accepted)
    return _with(state, replace(entry, frozen=frozen, devices=devices))


def release(state: Spending, number: int, model_hash: bytes) -> Spending:
    """The model made of the frozen round, before it is published. The same model again changes nothing."""
    entry = _entry(state, number)
    if entry.frozen is None:
        raise UnsoundError(
            f"round {number} is to be released, but its reports are not frozen: freeze it first"
        )
    if entry.model_hash not in (None, model_hash):
        raise UnsoundError(
            f"round {number} released model {_short(entry.model_hash)} and now makes {_short(model_hash)}: "
            "re-publish the stored model, a second one of the same reports breaks the promise"
        )
    return _with(state, replace(entry, model_hash=model_hash))


def cancel(state: Spending, number: int) -> Spending:
    """The round was abandoned. A reservation comes back if nothing was frozen; a sampled round's does not, for its
    end tells how few came.
    """
    entry = state.entries.get(number)
    if entry is None or entry.charge.sampling is not None:
        return state
    if entry.frozen is not None:
        raise UnsoundError(f"round {number} is frozen and may have been released: it stays charged")
    return replace(state, entries={n: other for n, other in state.entries.items() if n != number})


# ---------------------------------------------------------------------------------------------- what was spent


def spent(state: Spending) -> tuple[Spent, ...]:
    """By each adversary, about the device that took part most."""
    delta = state.budget.delta
    charges = _charges(state.entries.values())
    if any(entry.frozen and not entry.frozen.key.private for entry in state.entries.values()):
        note = "not private: the noise was seeded"
        return tuple(
            Spent(view=view, epsilon=math.inf, delta=delta, note=note)
            for view in ("observer", "participant", "coordinator")
        )
    capped = any(charge.sampling and charge.sampling.cap for charge in charges)
    sampled = any(charge.sampling for charge in charges)
    return (
        Spent(
            view="observer",
            epsilon=_federation(state),
            delta=delta,
            note="sees every released model" + (", not who took part" if sampled else " and who took part"),
        ),
        Spent(
            view="participant",
            epsilon=_epsilon(charges, delta, not capped),
            delta=delta,
            note="knows its own updates as well"
            + (", and so how full a capped cohort was" if capped else ""),
        ),
        Spent(
            view="coordinator",
            epsilon=math.inf,
            delta=delta,
            note="central noise: it receives each clipped update, and is trusted with it",
        ),
    )


def spent_by_device(state: Spending) -> dict[str, float]:
    """Each device's epsilon over the rounds it was in, for one who knows which those were. Not for publication."""
    delta = state.budget.delta
    devices = sorted({device for entry in state.entries.values() for device in entry.devices})
    private = all(entry.frozen is None or entry.frozen.key.private for entry in state.entries.values())
    return {
        device: _epsilon(_charges(_of_device(state, device)), delta, False) if private else math.inf
        for device in devices
    }


def _require_one_kind(state: Spending, charge: Charge) -> None:
    """Under sampling, PLD composes what was fixed beforehand, and all noise of continuous accounting pays for its grid."""
    kinds = {(other.noise_multiplier, other.sampling) for other in _charges(state.entries.values())}
    kinds.add((charge.noise_multiplier, charge.sampling))
    if len(kinds) > 1 and any(sampling is not None for _, sampling in kinds):
        raise UnsoundError(
            f"a sampled run with rounds of {len(kinds)} kinds: amplified rounds are accounted for as fixed beforehand; "
            "keep the noise multiplier and the sampling of the first round, or account without amplification"
        )


def _of_device(state: Spending, device: str) -> list[Entry]:
    return [entry for entry in state.entries.values() if device in entry.devices]


def _charges(entries: Iterable[Entry]) -> Counter[Charge]:
    return Counter(entry.charge for entry in entries)


def _federation(state: Spending) -> float:
    return _epsilon(_charges(state.entries.values()), state.budget.delta, True)


def _epsilon(charges: Counter[Charge], delta: float, amplified: bool) -> float:
    return _cached_epsilon(frozenset(charges.items()), delta, amplified)


def _fits(charges: Counter[Charge], limit: float, delta: float, amplified: bool) -> bool:
    return _cached_fits(frozenset(charges.items()), limit, delta, amplified)


@lru_cache(maxsize=1024)
def _cached_epsilon(charges: frozenset[tuple[Charge, int]], delta: float, amplified: bool) -> float:
    return accounting.epsilon(dict(charges), delta, amplified=amplified)


@lru_cache(maxsize=1024)
def _cached_fits(charges: frozenset[tuple[Charge, int]], limit: float, delta: float, amplified: bool) -> bool:
    return accounting.fits(dict(charges), limit, delta, amplified=amplified)


def _with(state: Spending, entry: Entry) -> Spending:
    return replace(state, entries={**state.entries, entry.number: entry})


def _entry(state: Spending, number: int) -> Entry:
    if number not in state.entries:
        raise UnsoundError(
            f"round {number} has no reservation in the privacy budget: reserve it before it opens"
        )
    return state.entries[number]


def _short(model_hash: bytes | None) -> str:
    return (model_hash or b"").hex()[:16]
