"""How much a device trains in a round: its budget and its capability decide tail, epochs, batch and steps.

What gives way, in this order: the depth of the tail, epochs down to one, small batches, the whole epoch; and when not
even a step fits, the device sits the round out. A few comparisons, so that choosing costs microseconds.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from sanderling.edge_runtime.capability import CapabilityProfile, TailCost
from sanderling.models.errors import UsageError
from sanderling.models.training import MAX_BATCH_SIZE, LocalTraining

ROUNDING = 1e-9  # a budget of exactly three epochs is three epochs, however the division rounds


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundBudget:
    """What training may take in a round; None is no limit."""

    seconds: float | None = None
    energy_mj: float | None = None
    steps: int | None = None

    def __post_init__(self) -> None:
        for value, unit in self._limits():
            if not 0 < value < math.inf:
                raise UsageError(f"a round's budget: expected a number of {unit} above 0, came {value}")

    def __str__(self) -> str:
        return ", ".join(f"{value:g} {unit}" for value, unit in self._limits()) or "none"

    def _limits(self) -> list[tuple[float, str]]:
        limits = ((self.seconds, "s"), (self.energy_mj, "mJ"), (self.steps, "steps"))
        return [(value, unit) for value, unit in limits if value is not None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What to train: in each of `training`'s epochs `examples` of those held, `steps` steps in all.

    A device that sits the round out has 0 examples and 0 steps.
    """

    tail: str
    training: LocalTraining
    examples: int
    steps: int
    seconds: float  # expected
    energy_mj: float | None  # expected; None on a board of unknown power
    reason: str


def choose(budget: RoundBudget, profile: CapabilityProfile, examples: int, plan: LocalTraining) -> Choice:
    """The most of `plan`, on `examples` examples, that the budget allows on this device.

    UsageError for a budget of energy on a board whose power is unknown.
    """
    limits = _Limits.of(budget, profile)
    memory = profile.device.memory_available_bytes
    tails = [cost for cost in profile.tails if memory is None or cost.memory_bytes <= memory]
    if not tails or examples < 1:
        reason = "it holds no examples" if tails else "no tail fits the memory"
        return _sits_out(profile, plan, reason)
    return (
        _whole_plan(profile, limits, tails, examples, plan)
        or _whole_epochs(profile, limits, tails[0], examples, plan)
        or _part_of_an_epoch(profile, limits, tails[0], examples, plan)
        or _sits_out(profile, plan, f"not a step fits the budget ({budget})")
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Limits:
    """A budget as time and steps."""

    seconds: float
    steps: float
    text: str

    @classmethod
    def of(cls, budget: RoundBudget, profile: CapabilityProfile) -> _Limits:
        seconds = math.inf if budget.seconds is None else budget.seconds
        if budget.energy_mj is not None:
            if (power_mw := profile.energy_mj(1.0)) is None:
                raise UsageError(
                    f"a budget of {budget.energy_mj:g} mJ needs the board's power, which is unknown for "
                    f"{profile.device.board!r}: set the power, or a budget of seconds or steps"
                )
            seconds = min(seconds, budget.energy_mj / power_mw)
        steps = math.inf if budget.steps is None else budget.steps
        return cls(seconds=seconds, steps=steps, text=str(budget))

    def repeats(self, cost: TailCost, steps: int, examples: int) -> float:
        """How many times `steps` steps over `examples` examples fit; whole, or infinite."""
        seconds = cost.seconds(steps, examples)
        fit = min(self.seconds / seconds if seconds else math.inf, self.steps / steps)
        return math.floor(fit + ROUNDING) if fit < math.inf else fit


def _whole_plan(
    profile: CapabilityProfile, limits: _Limits, tails: list[TailCost], examples: int, plan: LocalTraining
) -> Choice | None:
    """The deepest tail that makes every epoch of the plan."""
    for cost in reversed(tails):
        if limits.repeats(cost, _steps(examples, plan.batch_size), examples) >= plan.epochs:
            deepest = profile.tails[-1].tail
            instead = (
                "" if cost.tail == deepest else f", instead of {deepest}: budget {limits.text}, or memory"
            )
            reason = f"{cost.tail}, all {plan.epochs} epochs{instead}"
            return _choice(profile, cost, plan, examples, reason)
    return None


def _whole_epochs(
    profile: CapabilityProfile, limits: _Limits, cost: TailCost, examples: int, plan: LocalTraining
) -> Choice | None:
    """At the smallest batch that makes one epoch: larger ones cost less time an example."""
    for batch in _batches(plan.batch_size):
        epochs = min(plan.epochs, limits.repeats(cost, _steps(examples, batch), examples))
        if epochs >= 1:
            training = replace(plan, epochs=int(epochs), batch_size=batch)
            reason = (
                f"{cost.tail}, {epochs} of {plan.epochs} epochs in batches of {batch}: budget {limits.text}"
            )
            return _choice(profile, cost, training, examples, reason)
    return None


def _part_of_an_epoch(
    profile: CapabilityProfile, limits: _Limits, cost: TailCost, examples: int, plan: LocalTraining
) -> Choice | None:
    """As many examples as fit, in the largest batch of which one fits."""
    for batch in reversed(list(_batches(plan.batch_size))):
        size = min(batch, examples)
        steps = limits.repeats(cost, 1, size)
        if steps >= 1:
            used = int(min(examples, steps * size))
            training = replace(plan, epochs=1, batch_size=batch)
            reason = f"{cost.tail}, {used} of {examples} examples once: budget {limits.text}"
            return _choice(profile, cost, training, used, reason)
    return None


def _sits_out(profile: CapabilityProfile, plan: LocalTraining, reason: str) -> Choice:
    return _choice(profile, profile.tails[0], plan, 0, f"sits out: {reason}")


def _choice(
    profile: CapabilityProfile, cost: TailCost, training: LocalTraining, examples: int, reason: str
) -> Choice:
    steps = training.epochs * _steps(examples, training.batch_size)
    seconds = cost.seconds(steps, training.epochs * examples)
    return Choice(
        tail=cost.tail,
        training=training,
        examples=examples,
        steps=steps,
        seconds=seconds,
        energy_mj=profile.energy_mj(seconds),
        reason=reason,
    )


def _steps(examples: int, batch: int) -> int:
    return -(-examples // batch)


def _batches(first: int) -> Iterator[int]:
    """`first`, and its doubles up to the largest there is."""
    while first < MAX_BATCH_SIZE:
        yield first
        first = min(2 * first, MAX_BATCH_SIZE)
    yield first
