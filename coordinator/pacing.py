"""Whom a round asks, how long it may wait, and how dense an update is: from how fast each device answered so far.

Nothing is probed. A device's measure is the time from a round's opening to its report, smoothed as TCP smooths a round
trip; TCP's retransmission timeout is the longest wait for it, doubled while it does not answer (RFC 6298), and it is then
asked less often. A device that takes n times as long as most is asked in every sqrt(n)-th round: the square root balances the time it costs the
others against how stale its share of the model gets. Rounded down to powers of two, the slow ones share their rounds.
A report then weighs as many rounds as its device was not asked in (Horvitz and Thompson 1952), so that the slow count
as much as the fast; but one round after a silence, so that nobody gains weight by it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

GAIN, DEVIATION_GAIN, DEVIATIONS = 1 / 8, 1 / 4, 4  # alpha, beta and K of RFC 6298
MAX_DOUBLINGS = 8
LEAST_WAIT_S = 0.1
MEASURED_SHARE = 0.8  # of a cohort; the first round does not hold for the rest
MAX_LANE = 4  # measured: beyond it the rounds saved are lost again to staleness
LEAST_DENSITY = 1 / 16
VALUE_BITS = 5  # of a coded value at a fitting scale shift
FRAMING_BYTES = 400  # topics, MQTT and the update message's own fields, both ways
QUIET_RMS, LOUD_RMS = (
    0.75,
    32.0,
)  # steps: below, rounding drowns the change; above, bits are spent on its tail
MIN_SHIFT, MAX_SHIFT = 0, 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """How fast a device answers, in seconds from the round's opening to its report."""

    smoothed_s: float
    deviation_s: float
    missed: int = 0  # rounds in a row

    @property
    def backoff(self) -> float:
        """Two rounds missed may be an outage; from the third on it is taken for slower, twice for each."""
        return 2.0 ** min(max(0, self.missed - 2), MAX_DOUBLINGS)

    @property
    def expected_s(self) -> float:
        """Long enough for nearly all of its reports."""
        return (self.smoothed_s + DEVIATIONS * self.deviation_s) * self.backoff


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A device that is there. `bytes_left` is what its budget of the day holds, None without one."""

    device_id: str
    reach: Reach | None  # None: never asked
    bytes_left: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """The next round's cohort, by device id, and how long it is waited for; `reason` is one line for the log."""

    cohort: tuple[str, ...]
    deadline_s: float
    reason: str


def answered(reach: Reach | None, seconds: float) -> Reach:
    """After a report that took `seconds`."""
    if reach is None or reach.missed:  # the first sample, or the first after what was known no longer held
        return Reach(smoothed_s=seconds, deviation_s=seconds / 2)
    deviation_s = reach.deviation_s + DEVIATION_GAIN * (abs(seconds - reach.smoothed_s) - reach.deviation_s)
    return Reach(
        smoothed_s=reach.smoothed_s + GAIN * (seconds - reach.smoothed_s),
        deviation_s=deviation_s,
    )


def missed(reach: Reach | None, waited_s: float) -> Reach:
    """After a round that closed `waited_s` after it opened without the device's report."""
    if reach is None:
        return Reach(smoothed_s=2 * waited_s, deviation_s=0.0, missed=1)
    return Reach(smoothed_s=reach.smoothed_s, deviation_s=reach.deviation_s, missed=reach.missed + 1)


def pace(
    candidates: Sequence[Candidate],
    *,
    number: int,
    quorum: int,
    longest_s: float,
    round_bytes: int,
    rounds_left: int,
) -> Pace:
    """Round `number`, of which `rounds_left` with it may follow. No round waits longer than `longest_s`.

    The cohort is empty where fewer than `quorum` devices can afford `round_bytes`. A device that never answered is
    asked at once and waited for up to `longest_s`: that round is the measurement.
    """
    able = [one for one in candidates if one.bytes_left is None or one.bytes_left >= round_bytes]
    if len(able) < quorum:
        return Pace(
            cohort=(), deadline_s=0.0, reason=f"{len(able)} of {len(candidates)} devices can afford a round"
        )
    lanes = {
        one.device_id: max(_lane_of_speed(one, able), _lane_of_budget(one, round_bytes, rounds_left))
        for one in able
    }
    due = [one for one in able if (number - 1) % lanes[one.device_id] == 0]
    if len(due) < quorum:
        due = sorted(able, key=lambda one: (_expected_s(one, longest_s), one.device_id))[:quorum]
    deadline_s = min(longest_s, max(_expected_s(one, longest_s) for one in due))
    slow = sum(lane > 1 for lane in lanes.values())
    return Pace(
        cohort=tuple(sorted(one.device_id for one in due)),
        deadline_s=deadline_s,
        reason=f"asks {len(due)} of {len(candidates)}, waits {deadline_s:.1f} s"
        + (f"; {slow} slow or short of bytes, in every {max(lanes.values())}th round" if slow else "")
        + (
            f"; {len(candidates) - len(able)} cannot afford {round_bytes} B"
            if len(able) < len(candidates)
            else ""
        ),
    )


def wait_s(reported: Sequence[Reach], missing: Sequence[Reach | None], longest_s: float) -> float:
    """How long after its opening a round still waits for `missing`, once `reported` answered it.

    The next of n + 1 reports adds 1/n to what is in, so a device that is late is waited for 1/n longer than it usually
    takes, or until its timeout if that is sooner. Who never answered is waited for to the end, for that measures it,
    unless nearly everyone else is in: one device in an outage must not hold a fleet.
    """
    done = len(reported)
    slowest_s = max((reach.smoothed_s for reach in reported), default=longest_s)
    measured = done >= MEASURED_SHARE * (done + len(missing))

    def patience_s(reach: Reach | None) -> float:
        if reach is None:
            return 2 * slowest_s if measured else longest_s
        late_s = reach.smoothed_s * (1 + 1 / max(1, done)) * reach.backoff
        return max(LEAST_WAIT_S, min(late_s, reach.expected_s))

    return min(longest_s, max(map(patience_s, missing), default=0.0))


def density(fixed_bytes: int, dimension: int, largest: float = 1.0) -> float:
    """The share of coordinates that brings the most for its cost.

    What a round achieves grows about as the square root of the density, its cost as fixed + density * variable: the
    best density is their ratio. `fixed_bytes` is what a device takes in any case: plan, model, framing.
    """
    variable_bytes = dimension * VALUE_BITS / 8
    return min(largest, max(LEAST_DENSITY, (fixed_bytes + FRAMING_BYTES) / variable_bytes))


def scale_shift(current: int, rms_steps: Iterable[float]) -> int:
    """The next round's shift, from the root mean square of each update's values in steps: one up or down, or as it was."""
    middle = sorted(rms_steps)
    if not middle:
        return current
    rms = middle[len(middle) // 2]
    change = -1 if rms < QUIET_RMS else 1 if rms > LOUD_RMS else 0
    return min(MAX_SHIFT, max(MIN_SHIFT, current + change))


def _expected_s(one: Candidate, longest_s: float) -> float:
    return longest_s if one.reach is None else min(longest_s, max(LEAST_WAIT_S, one.reach.expected_s))


def _lane_of_speed(one: Candidate, others: Sequence[Candidate]) -> int:
    known = sorted(other.reach.expected_s for other in others if other.reach is not None)
    if one.reach is None or not known:
        return 1
    usual_s = known[(len(known) - 1) // 2]
    slower = one.reach.expected_s / usual_s if usual_s > 0 else 1.0
    return max(_power_of_two(math.sqrt(slower)), min(MAX_LANE, 1 << max(0, one.reach.missed - 1)))


def _lane_of_budget(one: Candidate, round_bytes: int, rounds_left: int) -> int:
    """Such that what is left of the day lasts for the rounds to come."""
    if one.bytes_left is None:
        return 1
    rounds = one.bytes_left // round_bytes
    return 1 if rounds >= rounds_left else _power_of_two(2 * rounds_left / rounds)


def _power_of_two(value: float) -> int:
    """The largest up to `value`, from 1 to MAX_LANE."""
    return min(MAX_LANE, 1 << max(0, math.floor(math.log2(value)))) if value >= 1 else 1
