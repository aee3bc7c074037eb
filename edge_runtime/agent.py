"""The agent's pure core: `state, effects = step(state, event, now)`; nothing here touches a link, a disk or a clock.

A plan is retained on the broker, so a device that wakes needs no polling. The agent takes the newest plan, makes sure
that the network and the model it names are at hand, trains or evaluates, stores its report, and only then publishes
it. docs/wire.md has the rules by which messages are refused.

The shell carries effects out in order and answers: Train with Trained or Failed, Evaluate with Evaluated or Failed,
Store for a question with Stored or Failed, a published report with Delivered or Undelivered.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar

from sanderling.broker.errors import MessageError, WrongFederationError, WrongModelError
from sanderling.broker.messages import (
    MAX_DETAIL_CHARACTERS,
    ModelBody,
    ModelReference,
    RoundPlan,
    StatusMessage,
)
from sanderling.broker.topics import Topics
from sanderling.edge_runtime.byte_budget import fetch_bytes, message_bytes
from sanderling.edge_runtime.errors import DimensionError, OlderRoundError, UnexpectedTopicError
from sanderling.edge_runtime.memory import Memory, Question, Report
from sanderling.edge_runtime.publish_policy import Change, Circumstances, Decision, Rules, coalesce, decide
from sanderling.edge_runtime.trainer import Residual
from sanderling.models.compression import squared_norm
from sanderling.models.errors import ModelFormatError, ProtocolError
from sanderling.models.package import ModelPackage
from sanderling.models.tail import dense_head
from sanderling.models.training import MAX_BATCH_SIZE
from sanderling.models.updates import GlobalModel

NETWORKS_KEPT = 2
MODELS_KEPT = 8
NOTHING_KNOWN = Circumstances()
UPDATE_BYTES = 117  # of an update message, beside its payload
REST_S = 3600.0  # how long a round without a deadline is counted for
# A plan this long past its deadline belongs to a coordinator that is gone. Generous, since clocks of boards are wrong.
EXPIRED_AFTER_S = 3600.0

_PAYLOAD_BYTES = {"mask": 1, "topk": 4}  # a coordinate, at the most

T = TypeVar("T")

# ---------------------------------------------------------------------------------------------- state


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AgentState:
    """Everything the agent knows. `networks` and `models` are what is at hand, by hash."""

    federation: str
    device_id: str
    num_examples: int  # to train on
    software: str
    boot: bytes  # 8, drawn at each start of the process
    exit_when_finished: bool = False
    memory: Memory = field(default_factory=Memory)
    networks: Mapping[bytes, ModelPackage] = field(default_factory=dict)
    models: Mapping[bytes, GlobalModel] = field(default_factory=dict)
    backend: str = ""
    arithmetic_drift_lsb: int | None = None
    detail: str = ""  # why the agent abstained, for the status
    plan: RoundPlan | None = None
    fetching: frozenset[str] = frozenset()  # topics
    working: Question | None = None  # from Train or Evaluate until its report is stored
    abstained: Question | None = None
    in_flight: bool = False  # the report was published, and not yet delivered
    refused: Mapping[str, int] = field(default_factory=dict)  # messages by reason
    rules: Rules | None = None  # None: every plan is answered at once
    around: Circumstances = NOTHING_KNOWN  # as the shell saw them before this event
    tls: bool = False  # for what a message costs
    held: Question | None = None  # its report is stored and was never handed to the link
    rest_until: float | None = None  # the budget is spent: announced as offline until it is renewed
    largest_change: float = 0.0

    @property
    def topics(self) -> Topics:
        return Topics(self.federation)


# ---------------------------------------------------------------------------------------------- events


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """The agent runs; the link may not be up yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Connected:
    """The link is up; without `session_present` the broker knows nothing of what was before."""

    session_present: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """A message came."""

    topic: str
    payload: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """The network runs on this device: by which backend, and how far from exact."""

    num_examples: int
    backend: str
    arithmetic_drift_lsb: int | None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Trained:
    """An encoded update, and the residual once it is delivered."""

    question: Question
    payload: bytes
    residual: Residual | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluated:
    """An encoded evaluation."""

    question: Question
    payload: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """What was asked cannot be done on this device; `detail` says why, for people."""

    question: Question
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """The report to `question` is on the disk."""

    question: Question


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivered:
    """The broker has taken the report to `question`."""

    question: Question


@dataclass(frozen=True, slots=True, kw_only=True)
class Undelivered:
    """The link or the broker would not take it; it is sent again when the plan comes again."""

    question: Question
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Looked:
    """The time of a Wait has come, or a round's count has begun."""


Event = (
    Started
    | Looked
    | Connected
    | Received
    | Prepared
    | Trained
    | Evaluated
    | Failed
    | Stored
    | Delivered
    | Undelivered
)

# ---------------------------------------------------------------------------------------------- effects


@dataclass(frozen=True, slots=True, kw_only=True)
class Subscribe:
    topic: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Unsubscribe:
    topic: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishStatus:
    """At QoS 1, retained."""

    topic: str
    status: StatusMessage


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishReport:
    """At QoS 1; Delivered or Undelivered is due."""

    topic: str
    payload: bytes
    question: Question


@dataclass(frozen=True, slots=True, kw_only=True)
class KeepNetwork:
    """Worth having after a restart; losing it costs a download."""

    network_hash: bytes
    payload: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class KeepModel:
    model_hash: bytes
    payload: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Store:
    """Durably, before what follows. Stored(question) is due, if there is one."""

    memory: Memory
    question: Question | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Train:
    plan: RoundPlan
    package: ModelPackage
    model: GlobalModel
    residual: Residual | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluate:
    """Each of `models` on the test slice, on the network of its backbone hash."""

    plan: RoundPlan
    packages: Mapping[bytes, ModelPackage]
    models: tuple[GlobalModel, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class BeginRound:
    """Counts this round's bytes apart, from its plan's on, until `ends` (Unix seconds). Looked is due."""

    plan_bytes: int
    ends: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """Looked is due at `at` (Unix seconds)."""

    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Leave:
    """Nothing is left to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Log:
    line: str


Effect = (
    Subscribe
    | Unsubscribe
    | PublishStatus
    | PublishReport
    | KeepNetwork
    | KeepModel
    | Store
    | Train
    | Evaluate
    | BeginRound
    | Wait
    | Leave
    | Log
)
Step = tuple[AgentState, tuple[Effect, ...]]

# ---------------------------------------------------------------------------------------------- transitions


def step(state: AgentState, event: Event, now: float) -> Step:
    """Takes one event, at `now` (Unix seconds). Never raises for what a message holds."""
    match event:
        case Started():
            return state, (Subscribe(topic=state.topics.plan),)
        case Looked():
            rest_until = state.rest_until if state.rest_until is not None and now < state.rest_until else None
            awake, effects = _announce(replace(state, rest_until=rest_until), state)
            state, more = _advance(awake, now)
            return state, effects + more
        case Connected(session_present=session_present):
            if not session_present:
                state = replace(state, memory=state.memory.undelivered())
            return state, (_status(state),)
        case Received(topic=topic, payload=payload):
            return _received(state, topic, payload, now)
        case Prepared(num_examples=count, backend=backend, arithmetic_drift_lsb=drift):
            return _announce(
                replace(state, num_examples=count, backend=backend, arithmetic_drift_lsb=drift), state
            )
        case Trained(question=question, payload=payload, residual=residual):
            return _answer(state, Report(question=question, payload=payload, residual=residual), now)
        case Evaluated(question=question, payload=payload):
            report = Report(question=question, payload=payload, residual=state.memory.residual)
            return _answer(state, report, now)
        case Failed(question=question, detail=detail):
            state = replace(state, working=None, memory=replace(state.memory, report=None))
            return _abstain(state, detail) if question == _question(state) else _advance(state, now)
        case Stored(question=question):
            return _advance(replace(state, working=None if question == state.working else state.working), now)
        case Delivered(question=question):
            return _delivered(state, question, now)
        case Undelivered(question=question, reason=reason):
            log = Log(line=f"the report on {_name(question)} was not taken: {reason}")
            return replace(state, in_flight=False), (log,)


def status(state: AgentState) -> StatusMessage:
    """What the device says of itself while it is there."""
    return StatusMessage(
        state="online" if state.rest_until is None else "offline",
        num_examples=state.num_examples,
        boot=state.boot,
        backend=state.backend,
        software=state.software,
        arithmetic_drift_lsb=state.arithmetic_drift_lsb,
        detail=state.detail,
        receive_buffer_bytes=None,
    )


# ---------------------------------------------------------------------------------------------- messages


def _received(state: AgentState, topic: str, payload: bytes, now: float) -> Step:
    if not payload:  # what was retained has been cleared
        return state, ()
    try:
        if topic == state.topics.plan:
            return _take_plan(state, RoundPlan.decode(payload), now)
        for reference in _references(state) if topic in state.fetching else ():
            if topic == state.topics.network(reference.network_hash):
                return _take_network(state, topic, reference, payload, now)
            if topic == state.topics.model(reference.model_hash):
                return _take_model(state, topic, reference, payload, now)
        if not topic.startswith((state.topics.model(b""), state.topics.network(b""))):
            raise UnexpectedTopicError(topic)
        return state, ()  # it was on its way when the agent unsubscribed
    except ProtocolError as refusal:
        state, effects = _refuse(state, refusal.reason, str(refusal))
        if topic == state.topics.plan and isinstance(refusal, MessageError):
            # Nobody else sees that this device cannot read the plan.
            state, more = _announce(replace(state, detail=_detail(f"cannot read the plan: {refusal}")), state)
            return state, effects + more
        return state, effects
    except ModelFormatError as refusal:
        return _refuse(state, "malformed", str(refusal))


def _take_plan(state: AgentState, plan: RoundPlan, now: float) -> Step:
    if plan.federation != state.federation:
        raise WrongFederationError(state.federation, plan.federation)
    report = state.memory.report
    current = _question(state) or (report.question if report else None)
    if current is not None and current.run == plan.run and plan.round < current.round:
        raise OlderRoundError(plan.run, current.round, plan.round)
    news = _question(state) != Question(run=plan.run, round=plan.round, phase=plan.phase)
    begun = _begin(state, plan, now) if news else ()
    lines: tuple[Effect, ...] = ()
    if news and state.rules is not None:
        state, lines = _coalesced(state)
    state = replace(state, plan=plan, abstained=None)
    report = state.memory.report
    if report is not None and not report.delivered and report.question != _question(state):
        # The coordinator has closed that round: sent now, the update would only be refused.
        lines += (Log(line=f"drops its undelivered report on {_name(report.question)}"),)
        state = replace(state, memory=replace(state.memory, report=None), in_flight=False)
    if begun:  # what the round may take is known once its count has begun
        return state, lines + begun
    state, effects = _advance(state, now)
    return state, lines + effects


def _begin(state: AgentState, plan: RoundPlan, now: float) -> tuple[Effect, ...]:
    """A round that asks this device is counted apart."""
    if state.rules is None or plan.phase != "round" or state.device_id not in plan.cohort:
        return ()
    size = message_bytes(state.topics.plan, len(plan.encode()), tls=state.tls)
    return (BeginRound(plan_bytes=size, ends=plan.deadline_unix_s or now + REST_S),)


def _take_network(
    state: AgentState, topic: str, reference: ModelReference, payload: bytes, now: float
) -> Step:
    package = ModelPackage.from_bytes(payload)
    if package.network.content_hash != reference.network_hash:
        raise WrongModelError(topic, reference.network_hash, package.network.content_hash)
    dense_head(package.network)
    needed = {each.network_hash for each in _references(state)}
    networks = _bounded({**state.networks, reference.network_hash: package}, needed, NETWORKS_KEPT)
    state, effects = _advance(replace(state, networks=networks), now)
    return state, (KeepNetwork(network_hash=reference.network_hash, payload=payload), *effects)


def _take_model(state: AgentState, topic: str, reference: ModelReference, payload: bytes, now: float) -> Step:
    model = ModelBody.decode(payload).to_model()
    if model.backbone_hash != reference.network_hash:
        raise WrongModelError(topic, reference.network_hash, model.backbone_hash)
    if model.model_hash != reference.model_hash:
        raise WrongModelError(topic, reference.model_hash, model.model_hash)
    dimension = dense_head(state.networks[model.backbone_hash].network).dimension
    if model.theta.size != dimension:
        raise DimensionError(dimension, model.theta.size)
    needed = {each.model_hash for each in _references(state)}
    models = _bounded({**state.models, reference.model_hash: model}, needed, MODELS_KEPT)
    state, effects = _advance(replace(state, models=models), now)
    return state, (KeepModel(model_hash=reference.model_hash, payload=payload), *effects)


def _refuse(state: AgentState, reason: str, why: str) -> Step:
    refused = {**state.refused, reason: state.refused.get(reason, 0) + 1}
    return replace(state, refused=refused), (
        Log(line=f"refused ({reason}, {refused[reason]} so far): {why}"),
    )


# ---------------------------------------------------------------------------------------------- what a plan asks


def _advance(state: AgentState, now: float) -> Step:
    """Does what the plan asks for next, if anything."""
    plan, question = state.plan, _question(state)
    if plan is None or plan.phase == "waiting" or state.working is not None or state.abstained == question:
        return _fetch(state, frozenset())
    if plan.phase == "round" and state.device_id not in plan.cohort:
        return _fetch(state, frozenset())
    if state.memory.report is not None and state.memory.report.question == question:
        return _send(state, plan, state.memory.report, now)
    if plan.phase == "finished" and not plan.evaluate:
        return _leave_if_finished(state)
    if reason := _why_not(state, plan, now):
        return _abstain(state, reason)
    size, up_bytes = _round_bytes(state, plan)
    decision = _decide(state, plan, size, now, up_bytes=up_bytes)
    if decision.action != "publish":
        return _hold_back(state, decision)
    if missing := _missing(state):
        return _fetch(state, missing)
    state, unsubscribed = _fetch(state, frozenset())
    if plan.phase == "round" and decision.coordinates != plan.update.coordinates:
        # Fewer, with top-k only: the door takes up to the plan's.
        plan = replace(plan, update=replace(plan.update, coordinates=decision.coordinates))
    return replace(state, working=question), (*unsubscribed, _work(state, plan))


def _decide(
    state: AgentState,
    plan: RoundPlan,
    size: int,
    now: float,
    *,
    up_bytes: int | None = None,
    change: Change | None = None,
) -> Decision:
    """What the publish policy says of `size` bytes; the final evaluation is never held back."""
    if state.rules is None or plan.phase != "round":
        return Decision(action="publish", reason="", coordinates=plan.update.coordinates)
    return decide(state.rules, state.around, plan, size, now, up_bytes=up_bytes, change=change)


def _round_bytes(state: AgentState, plan: RoundPlan) -> tuple[int, int]:
    """What is still to cross for this round, at the most: what is missing and the update; and the update alone."""
    topics, tls = state.topics, state.tls
    up_bytes = message_bytes(
        topics.update(state.device_id),
        UPDATE_BYTES + _PAYLOAD_BYTES[plan.update.mode] * plan.update.coordinates,
        tls=tls,
    )
    size = up_bytes
    for one in _references(state):
        if one.network_hash not in state.networks:
            size += fetch_bytes(topics.network(one.network_hash), one.network_bytes, tls=tls)
        if one.model_hash not in state.models:
            size += fetch_bytes(topics.model(one.model_hash), one.body_bytes, tls=tls)
    return size, up_bytes


def _hold_back(state: AgentState, decision: Decision) -> Step:
    """Waits, or lets the round go; where every round would be let go, the device says that it rests."""
    state, effects = _fetch(state, frozenset())
    question = _question(state)
    assert question is not None
    effects += (Log(line=f"{_name(question)}: {decision.action}: {decision.reason}"),)
    if decision.action == "skip":
        before, state = state, replace(state, abstained=question)
        if decision.at is not None:
            detail = state.detail if state.rest_until else _detail(decision.reason)
            state, announced = _announce(replace(state, rest_until=decision.at, detail=detail), before)
            effects += announced
    return state, effects if decision.at is None else (*effects, Wait(at=decision.at))


def _coalesced(state: AgentState) -> tuple[AgentState, tuple[Effect, ...]]:
    """A report that was never handed to the link becomes unsent change: two never wait at once."""
    report, plan = state.memory.report, state.plan
    if report is None or plan is None or state.held != report.question or report.question != _question(state):
        return replace(state, held=None), ()
    unsent = _unsent(state, plan, report)
    memory = Memory(report=None, residual=unsent)
    line = f"keeps the change of {_name(report.question)} for a later round of its mask epoch"
    return replace(state, memory=memory, held=None), (Store(memory=memory, question=None), Log(line=line))


def _unsent(state: AgentState, plan: RoundPlan, report: Report) -> Residual | None:
    dimension = dense_head(state.networks[plan.model.network_hash].network).dimension
    return coalesce(plan, report.payload, report.residual, dimension)


def _change(state: AgentState, plan: RoundPlan, report: Report) -> Change | None:
    """How much would be sent, where the rules let the device look at it."""
    if state.rules is None or not state.rules.least_change or plan.phase != "round":
        return None
    unsent = _unsent(state, plan, report)
    norm = 0.0 if unsent is None else math.sqrt(squared_norm(unsent.vector))
    return Change(norm=norm, largest_norm=max(norm, state.largest_change))


def _work(state: AgentState, plan: RoundPlan) -> Effect:
    if plan.phase == "finished":
        models = tuple(state.models[reference.model_hash] for reference in plan.evaluate)
        packages = {model.backbone_hash: state.networks[model.backbone_hash] for model in models}
        return Evaluate(plan=plan, packages=packages, models=models)
    return Train(
        plan=plan,
        package=state.networks[plan.model.network_hash],
        model=state.models[plan.model.model_hash],
        residual=state.memory.residual,
    )


def _why_not(state: AgentState, plan: RoundPlan, now: float) -> str:
    """Why this device cannot answer the plan, empty when it can."""
    if plan.phase == "finished":
        return ""
    if state.num_examples == 0:
        return "no training example"
    if not 1 <= plan.training.batch_size <= MAX_BATCH_SIZE:
        return f"batch size {plan.training.batch_size}, this device trains with 1 to {MAX_BATCH_SIZE}"
    if plan.deadline_unix_s is not None and now > plan.deadline_unix_s + EXPIRED_AFTER_S:
        return (
            f"the deadline is {now - plan.deadline_unix_s:.0f} s past by this device's clock; check the clock"
        )
    package = state.networks.get(plan.model.network_hash)
    if package is not None and not 1 <= plan.update.coordinates <= dense_head(package.network).dimension:
        return f"{plan.update.coordinates} coordinates of a head of {dense_head(package.network).dimension}"
    return ""


def _missing(state: AgentState) -> frozenset[str]:
    """Topics of what the plan names and is not at hand: networks first, since they say what a model must look like."""
    references, topics = _references(state), state.topics
    networks = {topics.network(r.network_hash) for r in references if r.network_hash not in state.networks}
    models = {topics.model(r.model_hash) for r in references if r.model_hash not in state.models}
    return frozenset(networks or models)


def _fetch(state: AgentState, wanted: frozenset[str]) -> Step:
    """Subscribed to exactly `wanted`, whose retained messages will come."""
    effects: list[Effect] = [Unsubscribe(topic=topic) for topic in sorted(state.fetching - wanted)]
    effects += [Subscribe(topic=topic) for topic in sorted(wanted - state.fetching)]
    return replace(state, fetching=wanted), tuple(effects)


# ---------------------------------------------------------------------------------------------- answers


def _answer(state: AgentState, report: Report, now: float) -> Step:
    if report.question != _question(state):
        state, effects = _advance(replace(state, working=None), now)
        return state, (Log(line=f"drops its report on {_name(report.question)}: a newer plan came"), *effects)
    memory = replace(state.memory, report=report)
    state_after = replace(state, memory=memory, in_flight=False, held=report.question, detail="")
    announced, effects = _announce(state_after, state)
    return announced, (Store(memory=memory, question=report.question), *effects)


def _send(state: AgentState, plan: RoundPlan, report: Report, now: float) -> Step:
    """Publishes the stored bytes, unless the broker has them or is about to, or the policy holds them back."""
    if report.delivered:
        return _leave_if_finished(state)
    if state.in_flight:
        return state, ()
    topics, question = state.topics, report.question
    topic = (topics.evaluation if question.phase == "finished" else topics.update)(state.device_id)
    change = _change(state, plan, report)
    decision = _decide(
        state, plan, message_bytes(topic, len(report.payload), tls=state.tls), now, change=change
    )
    if decision.action != "publish":
        state, effects = _hold_back(state, decision)
        if decision.action == "wait":
            return state, effects
        state, kept = _coalesced(state)
        return state, effects + kept
    if change is not None:
        state = replace(state, largest_change=change.largest_norm)
    publish = PublishReport(topic=topic, payload=report.payload, question=question)
    return replace(state, in_flight=True, held=None), (publish,)


def _delivered(state: AgentState, question: Question, now: float) -> Step:
    report = state.memory.report
    if report is None or report.question != question:
        return state, ()
    state = replace(state, memory=state.memory.delivered(), in_flight=False)
    store = Store(memory=state.memory, question=None)
    state, effects = _advance(state, now)
    return state, (store, *effects)


def _abstain(state: AgentState, reason: str) -> Step:
    question = _question(state)
    assert question is not None
    before = state
    state, fetch = _fetch(replace(state, abstained=question, detail=_detail(reason)), frozenset())
    state, effects = _announce(state, before)
    log = Log(line=f"abstains from {_name(question)}: {reason}")
    leave = _leave_if_finished(state)[1]
    return state, (log, *fetch, *effects, *leave)


def _announce(state: AgentState, before: AgentState) -> Step:
    """Publishes the status where it says something new."""
    return state, () if status(state) == status(before) else (_status(state),)


def _leave_if_finished(state: AgentState) -> Step:
    finished = state.plan is not None and state.plan.phase == "finished"
    return state, (Leave(),) if finished and state.exit_when_finished else ()


# ---------------------------------------------------------------------------------------------- helpers


def _status(state: AgentState) -> Effect:
    return PublishStatus(topic=state.topics.status(state.device_id), status=status(state))


def _question(state: AgentState) -> Question | None:
    plan = state.plan
    return None if plan is None else Question(run=plan.run, round=plan.round, phase=plan.phase)


def _references(state: AgentState) -> tuple[ModelReference, ...]:
    """The models that the plan asks this device to use."""
    if state.plan is None or state.plan.phase == "waiting":
        return ()
    return state.plan.evaluate if state.plan.phase == "finished" else (state.plan.model,)


def _detail(text: str) -> str:
    return text[:MAX_DETAIL_CHARACTERS]


def _bounded(kept: dict[bytes, T], needed: Iterable[bytes], count: int) -> Mapping[bytes, T]:
    """The newest `count` of `kept`, and whatever is needed."""
    newest = list(kept)[-count:]
    return {key: kept[key] for key in kept if key in newest or key in set(needed)}


def _name(question: Question) -> str:
    return f"round {question.round} of run {question.run}" + (
        ", finished" if question.phase == "finished" else ""
    )
