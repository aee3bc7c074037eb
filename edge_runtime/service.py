"""The agent's thin shell: a link, a disk, a clock and the device's own data around the pure core.

The link's thread keeps the connection alive while this one trains. A message is acknowledged once what it
changed is stored; work waits until no message is left, so that a plan already superseded is not worked on.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from sanderling import __version__
from sanderling.broker import link as links
from sanderling.broker.errors import LinkError
from sanderling.broker.link import Link, LinkSettings, TlsFiles
from sanderling.broker.messages import ModelBody, StatusMessage
from sanderling.broker.topics import Topics
from sanderling.edge_runtime import agent
from sanderling.edge_runtime.agent import AgentState, Effect, Event
from sanderling.edge_runtime.backends import Preference
from sanderling.edge_runtime.budget import RoundBudget
from sanderling.edge_runtime.byte_budget import ByteAccount, ByteBudget, Left
from sanderling.edge_runtime.memory import Memory, Question
from sanderling.edge_runtime.power import read_battery
from sanderling.edge_runtime.publish_policy import Circumstances, Rules
from sanderling.edge_runtime.sources import SourceSettings, read_source
from sanderling.edge_runtime.storage import Storage
from sanderling.edge_runtime.workbench import Workbench
from sanderling.models.errors import SanderlingError
from sanderling.models.package import ModelPackage
from sanderling.models.updates import GlobalModel

IDLE_S = 1.0  # how long a request to stop may go unnoticed
GOODBYE_S = 5.0  # to tell the broker
MEMORY, NETWORK, MODEL = "memory", "network-", "model-"

Log = Callable[[str], None]
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentSettings:
    """One device."""

    federation: str
    device_id: str
    host: str
    port: int
    state_dir: Path
    source: SourceSettings
    backend: Preference = "auto"
    capacity: int = 4096  # examples
    exit_when_finished: bool = False
    keepalive_s: int = 30
    budget: RoundBudget | None = None  # of a round's training
    bytes: ByteBudget | None = None  # that may cross, both ways
    rules: Rules | None = None  # when to publish; the default rules where there is a byte budget
    tls: TlsFiles | None = None


def run(settings: AgentSettings, stop: threading.Event | None, log: Log) -> int:
    """Takes part until `stop` is set, or SIGTERM or SIGINT comes when it is None; the exit status.

    UsageError, DatasetError or MissingError when the device's data cannot be read or its directory is in use.
    """
    if stop is None:
        stop = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
    workbench = Workbench(
        federation=settings.federation,
        device_id=settings.device_id,
        read=partial(read_source, settings.source),
        capacity=settings.capacity,
        preference=settings.backend,
        log=log,
        budget=settings.budget,
    )
    with Storage(settings.state_dir) as storage:
        state = _restore(settings, storage, workbench.num_examples, log)
        _Service(settings, storage, workbench, state, log).serve(stop)
    return 0


class _Service:
    """Runs the core: `serve` takes events until there is nothing left to do."""

    def __init__(
        self, settings: AgentSettings, storage: Storage, workbench: Workbench, state: AgentState, log: Log
    ) -> None:
        self._storage, self._workbench, self._log = storage, workbench, log
        link = _link_settings(settings, state)
        tls = link.tls is not None
        self._account = (
            None if settings.bytes is None else ByteAccount(settings.bytes, storage, time.time, tls=tls)
        )
        rules = settings.rules or (None if settings.bytes is None else Rules())
        self._state = replace(state, rules=rules, tls=tls)
        self._link = Link(link, gate=self._account)
        self._wake_at: float | None = None
        self._events: deque[Event] = deque([agent.Started()])
        self._work: agent.Train | agent.Evaluate | None = None
        self._published: dict[int, Question] = {}  # the link's mid of each report on its way
        self._leaving = False

    def serve(self, stop: threading.Event) -> None:
        self._drain()  # subscribes, before a resumed session may deliver
        self._link.start()
        try:
            while not (stop.is_set() or self._leaving):
                event = self._link.next_event(0 if self._work else IDLE_S)
                if self._wake_at is not None and time.time() >= self._wake_at:
                    self._wake_at = None
                    self._events.append(agent.Looked())
                if event is not None:
                    self._take(event)
                elif self._work is not None:
                    work, self._work = self._work, None
                    self._events += self._workbench.do(work)
                self._drain()
        finally:
            self._say_goodbye()

    def _take(self, event: links.Event) -> None:
        match event:
            case links.Connected(session_present=session_present, protocol=protocol):
                self._log(f"connected, {protocol}")
                self._events.append(agent.Connected(session_present=session_present))
            case links.Disconnected(reason=reason):
                self._log(f"not connected: {reason}; trying again")
            case links.Incoming(topic=topic, payload=payload):
                self._events.append(agent.Received(topic=topic, payload=payload))
                self._drain()
                self._link.acknowledge(event)
            case links.Delivered(mid=mid) if mid in self._published:
                self._events.append(agent.Delivered(question=self._published.pop(mid)))
            case links.Refused(mid=mid, reason=reason) if mid in self._published:
                self._events.append(agent.Undelivered(question=self._published.pop(mid), reason=reason))

    def _drain(self) -> None:
        """Takes every event that is due, and carries out what follows from it."""
        while self._events:
            if self._state.rules is not None:
                self._state = replace(self._state, around=self._look_around(self._state.rules))
            self._state, effects = agent.step(self._state, self._events.popleft(), time.time())
            for effect in effects:
                self._carry_out(effect)

    def _look_around(self, rules: Rules) -> Circumstances:
        measure = self._link.measure()
        battery, charging = read_battery() if rules.least_battery else (None, False)
        return Circumstances(
            left=Left(day=None, round=None) if self._account is None else self._account.left(),
            goodput_bytes_s=measure.goodput_bytes_s,
            round_trip_s=measure.round_trip_s,
            battery=battery,
            charging=charging,
        )

    def _carry_out(self, effect: Effect) -> None:
        match effect:
            case agent.Subscribe(topic=topic):
                self._link.subscribe(topic)
            case agent.Unsubscribe(topic=topic):
                self._link.unsubscribe(topic)
            case agent.PublishStatus(topic=topic, status=status):
                self._publish_status(topic, status)
            case agent.PublishReport():
                self._publish_report(effect)
            case agent.KeepNetwork(network_hash=network_hash, payload=payload):
                self._keep(NETWORK, network_hash, payload, agent.NETWORKS_KEPT)
            case agent.KeepModel(model_hash=model_hash, payload=payload):
                self._keep(MODEL, model_hash, payload, agent.MODELS_KEPT)
            case agent.Store(memory=memory, question=question):
                self._store(memory, question)
            case agent.Train() | agent.Evaluate():
                self._work = effect
            case agent.BeginRound(plan_bytes=plan_bytes, ends=ends):
                self._begin_round(plan_bytes, ends)
            case agent.Wait(at=at):
                self._wake_at = at if self._wake_at is None else min(at, self._wake_at)
            case agent.Leave():
                self._leaving = True
            case agent.Log(line=line):
                self._log(line)

    def _begin_round(self, plan_bytes: int, ends: float) -> None:
        if self._account is not None:
            try:
                self._account.begin_round(plan_bytes, ends)
            except OSError as problem:  # the account is closed until the disk takes its record
                self._log(f"the disk fails: {problem}")
        self._events.append(agent.Looked())

    def _publish_status(self, topic: str, status: StatusMessage) -> None:
        try:
            self._link.publish(topic, status.encode(), qos=1, retain=True)
        except LinkError as problem:
            self._log(f"status not sent: {problem}")

    def _publish_report(self, effect: agent.PublishReport) -> None:
        try:
            mid = self._link.publish(effect.topic, effect.payload, qos=1)
        except LinkError as problem:
            self._events.append(agent.Undelivered(question=effect.question, reason=str(problem)))
        else:
            self._published[mid] = effect.question

    def _keep(self, kind: str, content_hash: bytes, payload: bytes, count: int) -> None:
        name = kind + content_hash.hex()
        try:
            self._storage.write(name, payload)
            self._storage.keep_newest(kind, count, besides=frozenset({name}))
        except OSError as problem:
            self._log(f"{name} is not kept: {problem}")

    def _store(self, memory: Memory, question: Question | None) -> None:
        try:
            self._storage.write(MEMORY, memory.to_bytes())
        except OSError as problem:
            self._log(f"the disk fails: {problem}")
            if question is not None:
                detail = f"cannot store a report: {problem}"
                self._events.append(agent.Failed(question=question, detail=detail))
        else:
            if question is not None:
                self._events.append(agent.Stored(question=question))

    def _say_goodbye(self) -> None:
        connected = self._link.measure().connected
        if connected:
            topic = self._state.topics.status(self._state.device_id)
            self._publish_status(topic, replace(agent.status(self._state), state="offline"))
        self._link.close(flush_s=GOODBYE_S if connected else 0.0)
        if self._account is not None:
            used = self._account.used()
            self._log(
                f"bytes of this day: {used.day_bytes:,} of {self._account.budget.per_day or 'no limit'}"
            )
            with contextlib.suppress(OSError):
                self._account.close()


def _link_settings(settings: AgentSettings, state: AgentState) -> LinkSettings:
    will = replace(agent.status(state), state="offline")
    return LinkSettings(
        host=settings.host,
        port=settings.port,
        client_id=f"{settings.federation}-device-{settings.device_id}",
        keepalive_s=settings.keepalive_s,
        tls=settings.tls,
        will=(Topics(settings.federation).status(settings.device_id), will.encode()),
    )


# ---------------------------------------------------------------------- what was before


def _restore(settings: AgentSettings, storage: Storage, num_examples: int, log: Log) -> AgentState:
    """The state as the directory holds it; what is damaged there is as if it had never been."""
    memory = storage.read(MEMORY)
    state = AgentState(
        federation=settings.federation,
        device_id=settings.device_id,
        num_examples=num_examples,
        software=f"sanderling {__version__}",
        boot=os.urandom(8),
        exit_when_finished=settings.exit_when_finished,
        memory=Memory() if memory is None else Memory.from_bytes(memory),
        networks=_stored(storage, NETWORK, ModelPackage.from_bytes),
        models=_stored(storage, MODEL, _model),
    )
    for name, count in storage.corrupt.items():
        log(f"{settings.state_dir / name} is damaged ({count}); it is ignored")
    return state


def _stored(storage: Storage, kind: str, parse: Callable[[bytes], T]) -> dict[bytes, T]:
    found: dict[bytes, T] = {}
    for name in storage.names(kind):
        content = storage.read(name)
        if content is not None:
            try:
                found[bytes.fromhex(name.removeprefix(kind))] = parse(content)
            except (SanderlingError, ValueError):
                storage.corrupt[name] += 1
    return found


def _model(payload: bytes) -> GlobalModel:
    return ModelBody.decode(payload).to_model()
