"""The coordinator's pure core: `state, effects = step(settings, state, event, now)`.

Phases (Bonawitz et al., "Towards federated learning at scale", 2019, with our names): waiting for devices, a round
(its plan announced, reports coming in), finished (the final models evaluated). Nothing here touches a clock, a network
or a disk: the service, the simulation, the tests and the replay all run this code.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from sanderling.broker.chunks import chunk_size
from sanderling.broker.messages import (
    EvaluationMessage,
    ModelBody,
    ModelReference,
    RoundPlan,
    StatusMessage,
    UpdatePlan,
)
from sanderling.coordinator import convergence as tracking
from sanderling.coordinator import pacing
from sanderling.coordinator.aggregation.mean import weighted_mean
from sanderling.coordinator.convergence import Convergence, Validation
from sanderling.coordinator.pacing import Reach
from sanderling.coordinator.reports import Report
from sanderling.coordinator.selection import select
from sanderling.coordinator.server_optimizers import ServerState, initial_state
from sanderling.coordinator.settings import CoordinatorSettings
from sanderling.models.compression import shared_mask
from sanderling.models.random_bits import derive_key
from sanderling.models.updates import Aggregate, GlobalModel, Int32Vector, Int64Vector

PLAN_BYTES = 300  # a plan of a few devices

# ---------------------------------------------------------------------------------------------- state


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenRound:
    """A round under way."""

    number: int  # from 1
    cohort: tuple[str, ...]
    opened_at: float  # seconds, the clock of `now`
    deadline: float | None
    update: UpdatePlan
    reason: str = ""  # why this cohort, deadline and density, in one line
    reports: Mapping[str, Report] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundRecord:
    """What a closed round did. Accuracy and loss are of the model the round started from, pooled over validation."""

    number: int
    committed: bool  # False: fewer reports than the quorum, nothing released
    asked: tuple[str, ...]
    participants: tuple[str, ...]
    validation: Validation
    training_loss: float
    update_norm: float  # of the mean change, theta units
    cosine: float  # with the mean change of the round before
    uplink_bytes: int  # whole MQTT payloads of the accepted reports
    largest_update_bytes: int  # the largest of them
    downlink_bytes: int  # plan and model body, to each device asked
    opened_at: float
    closed_at: float
    model_version: int  # after the round
    model_hash: bytes

    @property
    def stragglers(self) -> tuple[str, ...]:
        """Asked, but no report was accepted."""
        return tuple(sorted(set(self.asked) - set(self.participants)))


@dataclass(frozen=True, slots=True, kw_only=True)
class CoordinatorState:
    """Everything the coordinator knows."""

    run: str
    initial: GlobalModel
    network_bytes: int
    server: ServerState
    model: GlobalModel
    convergence: Convergence
    last_mean: Int64Vector
    rounds_closed: int = 0
    open: OpenRound | None = None
    final: GlobalModel | None = None  # set once finished
    finished_at: float = 0.0
    devices: Mapping[str, StatusMessage] = field(default_factory=dict)
    chunk_sizes: frozenset[int] = frozenset()  # in which devices fetch models; only ever more
    reaches: Mapping[str, Reach] = field(default_factory=dict)  # measured since the process started
    answered: Mapping[str, int] = field(
        default_factory=dict
    )  # each device's last round, if it reported in it
    scale_shift: int | None = None  # of the next round, where it adapts
    evaluations: Mapping[str, EvaluationMessage] = field(default_factory=dict)
    done: bool = False


# ---------------------------------------------------------------------------------------------- events


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceStatus:
    """A device announced itself, or its last will did."""

    device_id: str
    status: StatusMessage


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportArrived:
    """A report that passed the door (coordinator/door.py): for the open round, in bounds, not seen before."""

    report: Report


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluated:
    """A device evaluated the final models."""

    device_id: str
    message: EvaluationMessage


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """Time went on."""


Event = DeviceStatus | ReportArrived | Evaluated | Tick

# ---------------------------------------------------------------------------------------------- effects


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordOpened:
    """Store that a round opened, before it is announced."""

    round: OpenRound


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordReport:
    """Store a report, before it is acknowledged."""

    number: int
    report: Report


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordClosed:
    """Store a closed round and the model it made, in one transaction, before anything is published."""

    record: RoundRecord
    model: GlobalModel


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordEvaluation:
    """Store a device's evaluation."""

    device_id: str
    message: EvaluationMessage


@dataclass(frozen=True, slots=True, kw_only=True)
class Announce:
    """Publish the plan, and before it the models it names, as Carry does; models of before are cleared."""

    plan: RoundPlan
    models: tuple[GlobalModel, ...]
    chunk_sizes: frozenset[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Carry:
    """Publish models, as a body and in chunks of these sizes, where they are not published yet."""

    models: tuple[GlobalModel, ...]
    chunk_sizes: frozenset[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finish:
    """Nothing is left to do; `model` is the run's result."""

    model: GlobalModel


Effect = RecordOpened | RecordReport | RecordClosed | RecordEvaluation | Announce | Carry | Finish
Step = tuple[CoordinatorState, tuple[Effect, ...]]

# ---------------------------------------------------------------------------------------------- transitions


def new_state(run: str, initial: GlobalModel, network_bytes: int) -> CoordinatorState:
    """The state of a run that has not begun."""
    return CoordinatorState(
        run=run,
        initial=initial,
        network_bytes=network_bytes,
        server=initial_state(initial.theta),
        model=initial,
        convergence=Convergence(best=initial),
        last_mean=np.zeros(initial.theta.size, dtype=np.int64),
    )


def step(settings: CoordinatorSettings, state: CoordinatorState, event: Event, now: float) -> Step:
    """Takes one event. Effects are to be carried out in order, before the event is acknowledged."""
    effects: tuple[Effect, ...] = ()
    match event:
        case DeviceStatus(device_id=device_id, status=status):
            state, effects = _take_status(state, device_id, status)
        case ReportArrived(report=report):
            assert state.open is not None
            reports = {**state.open.reports, report.device_id: report}
            effects = (RecordReport(number=state.open.number, report=report),)
            reach = pacing.answered(state.reaches.get(report.device_id), now - state.open.opened_at)
            state = replace(
                state,
                open=replace(state.open, reports=reports),
                reaches={**state.reaches, report.device_id: reach},
            )
        case Evaluated(device_id=device_id, message=message):
            effects = (RecordEvaluation(device_id=device_id, message=message),)
            state = replace(state, evaluations={**state.evaluations, device_id: message})
        case Tick():
            pass
    state, more = _advance(settings, state, now)
    return state, effects + more


def _take_status(state: CoordinatorState, device_id: str, status: StatusMessage) -> Step:
    """A device with a smaller memory than any before needs the models in chunks of its size."""
    size = chunk_size(status.receive_buffer_bytes)
    sizes = state.chunk_sizes | ({size} if size is not None else set())
    more = sizes != state.chunk_sizes
    state = replace(state, devices={**state.devices, device_id: status}, chunk_sizes=sizes)
    return state, (Carry(models=models_in_use(state), chunk_sizes=sizes),) if more else ()


def announcement(settings: CoordinatorSettings, state: CoordinatorState) -> Announce:
    """What stands on the broker for `state`."""
    return Announce(plan=plan_of(settings, state), models=models_in_use(state), chunk_sizes=state.chunk_sizes)


def plan_of(settings: CoordinatorSettings, state: CoordinatorState) -> RoundPlan:
    """The retained announcement that stands for `state`."""
    number = state.open.number if state.open else state.rounds_closed
    return RoundPlan(
        federation=settings.federation,
        run=state.run,
        round=number,
        phase="finished" if state.final else "round" if state.open else "waiting",
        cohort=state.open.cohort if state.open else (),
        deadline_unix_s=state.open.deadline if state.open else None,
        arithmetic=settings.arithmetic,
        model=_reference(state, state.final or state.model),
        training=settings.training,
        update=state.open.update if state.open else update_plan(settings, state, max(number, 1)),
        evaluate=() if state.final is None else tuple(_reference(state, m) for m in evaluated_models(state)),
    )


def announcement_bytes(settings: CoordinatorSettings, state: CoordinatorState) -> int:
    """Payload that a device asked takes in a round: the plan, and the model it starts from."""
    body = ModelBody.of(state.model).encode()
    return len(plan_of(settings, state).encode()) + len(body)


def evaluated_models(state: CoordinatorState) -> tuple[GlobalModel, ...]:
    """What the devices are asked to evaluate in the end: the initial and the final model."""
    assert state.final is not None
    if state.final.model_hash == state.initial.model_hash:
        return (state.final,)
    return (state.initial, state.final)


def models_in_use(state: CoordinatorState) -> tuple[GlobalModel, ...]:
    """The models whose bodies must be on the broker for the plan of `state`."""
    return evaluated_models(state) if state.final else (state.model,)


def coordinate_count(settings: CoordinatorSettings, dimension: int) -> int:
    """k, the coordinates of an update of `dimension` d."""
    return max(1, round(settings.update.density * dimension))


def mask_epoch(settings: CoordinatorSettings, number: int) -> int:
    """Rounds of one epoch share a mask."""
    return (number - 1) // settings.update.mask_rounds


def update_plan(settings: CoordinatorSettings, state: CoordinatorState, number: int) -> UpdatePlan:
    """How updates of round `number` are to be compressed."""
    dimension, shift = state.model.theta.size, settings.update.scale_shift
    coordinates = coordinate_count(settings, dimension)
    if settings.adaptive and settings.update.mode == "mask":
        fixed_bytes = PLAN_BYTES + len(ModelBody.of(state.model).encode())
        coordinates = max(coordinates, round(dimension * pacing.density(fixed_bytes, dimension)))
        shift = shift if state.scale_shift is None else state.scale_shift
    return UpdatePlan(
        mode=settings.update.mode,
        coordinates=coordinates,
        mask_epoch=mask_epoch(settings, number),
        clipping_norm=settings.update.clipping_norm,
        scale_shift=shift,
    )


def coordinates_of(federation: str, update: UpdatePlan, dimension: int) -> Int32Vector | None:
    """The public coordinates of a round, None where each device chooses its own."""
    if update.mode == "topk":
        return None
    return shared_mask(federation, update.mask_epoch, dimension, update.coordinates)


def close(
    settings: CoordinatorSettings, state: CoordinatorState, now: float
) -> tuple[CoordinatorState, RoundRecord]:
    """Ends the open round: aggregates its reports, or abandons it below the quorum."""
    opened = state.open
    assert opened is not None
    reports = [opened.reports[device] for device in sorted(opened.reports)]
    validation = tracking.pooled_validation(reports)
    convergence = tracking.observe(state.convergence, state.model, validation)
    committed = len(reports) >= (1 if settings.rounds.mode == "lockstep" else settings.rounds.quorum)
    server, model, mean = state.server, state.model, state.last_mean
    if committed:
        aggregate = weighted_mean(
            reports, state.model.theta.size, settings.max_examples, _stands_for(settings, state)
        )
        aggregate = _at_nominal_density(settings, opened, aggregate)
        mean, server = aggregate.mean, settings.optimizer.apply(server, aggregate)
        model = replace(state.model, version=state.model.version + 1, theta=server.theta)
    record = RoundRecord(
        number=opened.number,
        committed=committed,
        asked=opened.cohort,
        participants=tuple(report.device_id for report in reports),
        validation=validation,
        training_loss=_weighted_training_loss(reports),
        update_norm=tracking.norm(mean) if committed else 0.0,
        cosine=tracking.cosine(mean, state.last_mean) if committed else 0.0,
        uplink_bytes=sum(len(report.message) for report in reports),
        largest_update_bytes=max((len(report.message) for report in reports), default=0),
        downlink_bytes=len(opened.cohort) * announcement_bytes(settings, state),
        opened_at=opened.opened_at,
        closed_at=now,
        model_version=model.version,
        model_hash=model.model_hash,
    )
    state = replace(
        state,
        server=server,
        model=model,
        last_mean=mean,
        convergence=convergence if committed else state.convergence,
        reaches=_without_answer(state, opened, now),
        answered={device: last for device, last in state.answered.items() if device not in opened.cohort}
        | dict.fromkeys(opened.reports, opened.number),
        scale_shift=pacing.scale_shift(opened.update.scale_shift, _rms_steps(reports)),
        rounds_closed=opened.number,
        open=None,
    )
    return state, record


def is_last(settings: CoordinatorSettings, state: CoordinatorState) -> bool:
    """Whether no further round is to be opened."""
    patience = settings.rounds.patience
    stalled = patience > 0 and state.convergence.rounds_without_better >= patience
    return stalled or state.rounds_closed >= settings.rounds.count


def final_model(settings: CoordinatorSettings, state: CoordinatorState) -> GlobalModel:
    """The best validated model under early stopping, else the last."""
    return state.convergence.best if settings.rounds.patience > 0 else state.model


def _advance(settings: CoordinatorSettings, state: CoordinatorState, now: float) -> Step:
    """Goes through every transition that is due."""
    effects: list[Effect] = []
    if state.open is not None and _is_due(settings, state, state.open, now):
        state, record = close(settings, state, now)
        effects.append(RecordClosed(record=record, model=state.model))
    if state.open is None and state.final is None:
        if is_last(settings, state):
            state = replace(state, final=final_model(settings, state), finished_at=now)
            effects.append(announcement(settings, state))
        elif (opened := _next_round(settings, state, now)) is not None:
            state = replace(state, open=opened)
            effects += [
                RecordOpened(round=opened),
                announcement(settings, state),
            ]
        elif effects:  # a round closed, and too few devices are left for the next
            effects.append(announcement(settings, state))
    if (final := state.final) is not None and not state.done and _evaluation_is_due(settings, state, now):
        state = replace(state, done=True)
        effects.append(Finish(model=final))
    return state, tuple(effects)


def _is_due(settings: CoordinatorSettings, state: CoordinatorState, opened: OpenRound, now: float) -> bool:
    """Whether the open round is to be closed: enough reports, nobody left who could report, or the deadline."""
    if settings.rounds.mode == "lockstep":
        return len(opened.reports) == len(opened.cohort)
    wanted = min(settings.selection.cohort or len(opened.cohort), len(opened.cohort))
    if len(opened.reports) >= max(wanted, settings.rounds.quorum):
        return True
    missing = (device for device in opened.cohort if device not in opened.reports)
    if len(opened.reports) >= settings.rounds.quorum and not any(
        _is_online(state, device) for device in missing
    ):
        return True
    return (closes_at := closing_time(settings, state)) is not None and now >= closes_at


def closing_time(settings: CoordinatorSettings, state: CoordinatorState) -> float | None:
    """When the open round closes if no more reports come; None without one, or in lockstep."""
    opened = state.open
    if opened is None or opened.deadline is None:
        return None
    if not settings.adaptive or len(opened.reports) < settings.rounds.quorum:
        return opened.deadline
    wait_s = pacing.wait_s(
        [state.reaches[device] for device in opened.reports if device in state.reaches],
        [state.reaches.get(device) for device in opened.cohort if device not in opened.reports],
        settings.rounds.deadline_s,
    )
    return min(opened.deadline, opened.opened_at + wait_s)


def _next_cohort(settings: CoordinatorSettings, state: CoordinatorState) -> tuple[str, ...]:
    """The devices to ask next; empty while too few are there."""
    online = [device for device in state.devices if _is_online(state, device)]
    if settings.rounds.mode == "lockstep":
        return settings.devices if set(settings.devices) <= set(online) or state.rounds_closed else ()
    needed = settings.rounds.quorum
    if state.rounds_closed == 0:
        needed = max(needed, settings.selection.minimum)
    if len(online) < needed:
        return ()
    key = derive_key("select", settings.federation, settings.training.seed, state.rounds_closed + 1)
    return select(settings.selection, online, key)


def _next_round(settings: CoordinatorSettings, state: CoordinatorState, now: float) -> OpenRound | None:
    """The round to open, None while too few devices are there, or can afford one."""
    cohort, number = _next_cohort(settings, state), state.rounds_closed + 1
    if not cohort:
        return None
    deadline = None if settings.rounds.mode == "lockstep" else now + settings.rounds.deadline_s
    update, reason = update_plan(settings, state, number), ""
    if settings.adaptive and settings.rounds.mode == "deadline":
        chosen = pacing.pace(
            [pacing.Candidate(device_id=device, reach=state.reaches.get(device)) for device in cohort],
            number=number,
            quorum=settings.rounds.quorum,
            longest_s=settings.rounds.deadline_s,
            round_bytes=1,
            rounds_left=settings.rounds.count - state.rounds_closed,
        )
        cohort, deadline, reason = chosen.cohort, now + chosen.deadline_s, chosen.reason
    return OpenRound(
        number=number, cohort=cohort, opened_at=now, deadline=deadline, update=update, reason=reason
    )


def _without_answer(state: CoordinatorState, opened: OpenRound, now: float) -> Mapping[str, Reach]:
    """What a round's end says of those who did not report: they need longer than it waited."""
    waited_s = now - opened.opened_at
    silent = {device: state.reaches.get(device) for device in opened.cohort if device not in opened.reports}
    return {**state.reaches, **{device: pacing.missed(reach, waited_s) for device, reach in silent.items()}}


def _stands_for(settings: CoordinatorSettings, state: CoordinatorState) -> Mapping[str, int]:
    """The rounds that each device's report of the open one stands for: those since its last one, if it answered that."""
    if not settings.adaptive:
        return {}
    assert state.open is not None
    return {
        device: min(pacing.MAX_LANE, state.open.number - state.answered.get(device, state.open.number - 1))
        for device in state.open.cohort
    }


def _rms_steps(reports: list[Report]) -> list[float]:
    return [
        math.sqrt(float((report.update.values.astype(float) ** 2).mean()))
        for report in reports
        if report.update.values.size
    ]


def _at_nominal_density(settings: CoordinatorSettings, opened: OpenRound, aggregate: Aggregate) -> Aggregate:
    """A denser round moves each coordinate more often: by as much less, so that the server's step stays the settings'."""
    nominal = coordinate_count(settings, aggregate.mean.size)
    if settings.update.mode == "topk" or opened.update.coordinates == nominal:
        return aggregate
    return replace(aggregate, mean=aggregate.mean * nominal // opened.update.coordinates)


def _evaluation_is_due(settings: CoordinatorSettings, state: CoordinatorState, now: float) -> bool:
    if settings.rounds.mode == "lockstep":
        return set(settings.devices) <= set(state.evaluations)
    waited_for = [device for device in state.devices if _is_online(state, device)]
    return set(waited_for) <= set(state.evaluations) or now >= state.finished_at + settings.rounds.deadline_s


def _is_online(state: CoordinatorState, device: str) -> bool:
    status = state.devices.get(device)
    return status is not None and status.state == "online"


def _reference(state: CoordinatorState, model: GlobalModel) -> ModelReference:
    return ModelReference(
        version=model.version,
        model_hash=model.model_hash,
        body_bytes=len(ModelBody.of(model).encode()),
        network_hash=model.backbone_hash,
        network_bytes=state.network_bytes,
    )


def _weighted_training_loss(reports: list[Report]) -> float:
    total = sum(report.num_examples for report in reports)
    return sum(report.training_loss * report.num_examples for report in reports) / total if total else 0.0
