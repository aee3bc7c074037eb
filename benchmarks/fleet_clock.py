"""A federation on a virtual clock: the real cores of coordinator and agents, real training, links as `shaping` has them.

The broker is an ideal one: it costs no time, queues without end, and speaks MQTT 5 at QoS 1. Packet sizes are those of
the specification. What a device computes takes `COMPUTE_S` of the clock.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from shaping import SHAPES, Duplex

from sanderling import assembly
from sanderling.broker.errors import ProtocolError
from sanderling.broker.messages import ModelBody
from sanderling.broker.topics import Topics
from sanderling.config import FederationConfig
from sanderling.coordinator import rounds
from sanderling.coordinator.door import admit
from sanderling.coordinator.settings import CoordinatorSettings
from sanderling.edge_runtime import agent
from sanderling.edge_runtime.agent import AgentState
from sanderling.edge_runtime.byte_budget import ByteAccount, ByteBudget
from sanderling.edge_runtime.publish_policy import Circumstances, Rules
from sanderling.edge_runtime.sources import SourceSettings, read_source
from sanderling.edge_runtime.workbench import Workbench
from sanderling.models.tail import dense_head
from sanderling.models.training import evaluate_head
from sanderling.models.updates import GlobalModel

COMPUTE_S = 0.5
EPOCH = 20_000.0 * 86_400  # the clock's zero, at the beginning of a day
NO_BUDGET = ByteBudget()
HELD_ROUNDS = 3  # the target is reached at the first of so many rounds in a row at or above it
KEEPALIVE_S = 600.0
PUBACK, PING = 4, 2


def publish_bytes(topic: str, payload: bytes) -> int:
    rest = 2 + len(topic) + 2 + 1 + len(payload)
    return 1 + _varint(rest) + rest


def subscribe_bytes(topic: str) -> int:
    return 2 + 2 + 1 + 2 + len(topic) + 1


def _varint(value: int) -> int:
    return max(1, -(-value.bit_length() // 7))


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """`to_target_s` and `_bytes` are None where the target was never reached; bytes are of all devices' TCP streams."""

    to_target_s: float | None
    to_target_bytes: int | None
    to_target_air_bytes: int | None
    rounds: int
    reports: int
    refused: int
    accuracy: float
    budget_exceeded: int  # devices on any day
    largest_share_of_budget: float  # of a day, over devices and days
    log: list[str] = field(default_factory=list)


class Memory:
    """A disk that takes no time."""

    def __init__(self) -> None:
        self._content: dict[str, bytes] = {}

    def read(self, name: str) -> bytes | None:
        return self._content.get(name)

    def write(self, name: str, content: bytes) -> None:
        self._content[name] = content


class Benches:
    """The devices' data and training, shared by all runs: the same question is computed once."""

    def __init__(self, config: FederationConfig) -> None:
        self.start = assembly.starting_point(config)
        self._head = dense_head(self.start.package.network)
        self._known: dict[tuple[object, ...], list[agent.Event]] = {}
        self.benches = {
            device: Workbench(
                federation=config.federation.name,
                device_id=device,
                read=partial(read_source, SourceSettings(name=config.data.source, client=device, options={})),
                capacity=4096,
                preference="reference",
                log=lambda line: None,
            )
            for device in config.federation.devices
        }
        self._accuracy: dict[bytes, float] = {}
        settings = assembly.coordinator_settings(config)
        state = rounds.new_state("warm", self.start.model, len(self.start.package_bytes))
        warm = agent.Train(
            plan=rounds.plan_of(settings, state),
            package=self.start.package,
            model=self.start.model,
            residual=None,
        )
        for bench in self.benches.values():  # so that everyone's test windows are at hand
            bench.do(warm)

    def train(self, device: str, work: agent.Train) -> list[agent.Event]:
        plan = work.plan
        unsent = None if work.residual is None else work.residual.vector.tobytes()
        key = (device, plan.run, plan.round, plan.model.model_hash, plan.training, plan.update, unsent)
        if key not in self._known:
            self._known[key] = self.benches[device].do(work)
        return self._known[key]

    def accuracy(self, model: GlobalModel) -> float:
        """On the pooled test windows of every device, whoever takes part."""
        if model.model_hash not in self._accuracy:
            done = [
                evaluate_head(
                    self._head, model.theta, bench._ready.data.test.features, bench._ready.data.test.labels
                )
                for bench in self.benches.values()
                if bench._ready is not None
            ]
            self._accuracy[model.model_hash] = sum(d.correct for d in done) / sum(d.count for d in done)
        return self._accuracy[model.model_hash]


class Device:
    """An agent's core with its link."""

    def __init__(self, fleet: Fleet, name: str, shape: str, seed: int, budget: ByteBudget) -> None:
        self.fleet, self.name = fleet, name
        self.account = ByteAccount(budget, Memory(), lambda: EPOCH + fleet.now)
        self.exceeded, self.largest_share = False, 0.0
        self.link = Duplex.of(SHAPES[shape], f"{seed} {name}")
        package = fleet.benches.start.package
        self.state = AgentState(
            federation=fleet.settings.federation,
            device_id=name,
            num_examples=1,
            software="clock",
            boot=bytes(8),
            networks={package.network.content_hash: package},
            rules=Rules() if fleet.settings.adaptive else None,
        )
        self.subscribed: set[str] = set()

    def take(self, event: agent.Event) -> None:
        self.state = replace(self.state, around=Circumstances(left=self.account.left()))
        self.state, effects = agent.step(self.state, event, self.fleet.now)
        for effect in effects:
            self.carry_out(effect)

    def carry_out(self, effect: agent.Effect) -> None:
        fleet = self.fleet
        match effect:
            case agent.Subscribe(topic=topic):
                self.up(subscribe_bytes(topic), partial(fleet.subscribe, self, topic))
            case agent.Unsubscribe(topic=topic):
                self.up(subscribe_bytes(topic) - 1, partial(fleet.unsubscribe, self, topic))
            case agent.PublishStatus(topic=topic, status=status):
                payload = status.encode()
                self.up(publish_bytes(topic, payload), partial(fleet.published, self, topic, payload, None))
            case agent.PublishReport(topic=topic, payload=payload, question=question):
                self.up(
                    publish_bytes(topic, payload), partial(fleet.published, self, topic, payload, question)
                )
            case agent.Store(question=question):
                if question is not None:
                    fleet.after(0.0, lambda: self.take(agent.Stored(question=question)))
            case agent.BeginRound(plan_bytes=plan_bytes, ends=ends):
                self.account.begin_round(plan_bytes, EPOCH + ends)
                fleet.after(0.0, lambda: self.take(agent.Looked()))
            case agent.Wait(at=at):
                fleet.at(at, lambda: self.take(agent.Looked()))
            case agent.Log(line=line) if "skip" in line or "wait" in line:
                fleet.log.append(f"{fleet.now:9.1f} {self.name}: {line}")
            case agent.Train():
                events = fleet.benches.train(self.name, effect)
                fleet.after(COMPUTE_S, lambda: [self.take(event) for event in events])
            case _:
                pass

    def up(self, size: int, then: Callable[[], object]) -> None:
        self.count(size)
        self.fleet.at(self.link.up.carry(size, self.fleet.now), then)

    def down(self, size: int, then: Callable[[], object]) -> None:
        self.count(size)
        self.fleet.at(self.link.down.carry(size, self.fleet.now), then)

    def count(self, size: int) -> None:
        """For the budget, with what lies below MQTT; whether it was kept is looked at after every packet."""
        self.account.use(size)
        per_day = self.account.budget.per_day
        if per_day is not None:
            share = self.account.used().day_bytes / per_day
            self.largest_share, self.exceeded = max(self.largest_share, share), self.exceeded or share > 1

    def deliver(self, topic: str, payload: bytes) -> None:
        def arrived() -> None:
            self.take(agent.Received(topic=topic, payload=payload))
            self.up(PUBACK, lambda: None)

        if self.account.open():  # else its link is closed, as the real one would be
            self.down(publish_bytes(topic, payload), arrived)

    def ping(self) -> None:
        if self.account.open():
            self.up(PING, lambda: self.down(PING, lambda: None))
        self.fleet.after(KEEPALIVE_S, self.ping)


class Fleet:
    """One run."""

    def __init__(
        self,
        settings: CoordinatorSettings,
        benches: Benches,
        shapes: Sequence[str],
        seed: int,
        budget: ByteBudget = NO_BUDGET,
    ) -> None:
        self.settings, self.benches, self.now = settings, benches, 0.0
        self._events: list[tuple[float, int, Callable[[], object]]] = []
        self._order = itertools.count()
        self._retained: dict[str, bytes] = {}
        self._topics = Topics(settings.federation)
        start = benches.start
        self.state = rounds.new_state("run00001", start.model, len(start.package_bytes))
        self.devices = [
            Device(self, name, shape, seed, budget)
            for name, shape in zip(settings.devices, shapes, strict=True)
        ]
        self.reports = self.refused = 0
        self.log: list[str] = []
        self._published: set[bytes] = set()
        self._ticks: set[float] = set()

    def run(self, target: float, give_up_s: float) -> Outcome:
        for device in self.devices:
            device.take(agent.Started())
            device.take(agent.Connected(session_present=True))
            self.after(KEEPALIVE_S, device.ping)
        reached: tuple[float, int, int] | None = None
        seen = held = 0
        while self._events and held < HELD_ROUNDS and not self.state.final:
            self.now, _, act = heapq.heappop(self._events)
            if self.now > give_up_s:
                break
            act()
            if self.state.rounds_closed != seen:
                seen = self.state.rounds_closed
                if self.benches.accuracy(self.state.model) < target:
                    reached, held = None, 0
                    continue
                held += 1
                reached = reached or (self.now, self.bytes(), sum(d.link.air_bytes for d in self.devices))
        reached = reached if held == HELD_ROUNDS else None
        return Outcome(
            to_target_s=reached and reached[0],
            to_target_bytes=reached and reached[1],
            to_target_air_bytes=reached and reached[2],
            rounds=self.state.rounds_closed,
            reports=self.reports,
            refused=self.refused,
            accuracy=self.benches.accuracy(self.state.model) if self.reports else 0.0,
            budget_exceeded=sum(d.exceeded for d in self.devices),
            largest_share_of_budget=max(d.largest_share for d in self.devices),
            log=self.log,
        )

    def bytes(self) -> int:
        return sum(device.link.stream_bytes for device in self.devices)

    def at(self, when: float, act: Callable[[], object]) -> None:
        heapq.heappush(self._events, (when, next(self._order), act))

    def after(self, seconds: float, act: Callable[[], object]) -> None:
        self.at(self.now + seconds, act)

    # --- the broker ---

    def subscribe(self, device: Device, topic: str) -> None:
        device.subscribed.add(topic)
        device.down(6, lambda: None)
        if topic in self._retained:
            device.deliver(topic, self._retained[topic])

    def unsubscribe(self, device: Device, topic: str) -> None:
        device.subscribed.discard(topic)
        device.down(6, lambda: None)

    def published(self, device: Device, topic: str, payload: bytes, question: object) -> None:
        if question is not None:
            device.down(PUBACK, lambda: device.take(agent.Delivered(question=question)))  # type: ignore[arg-type]
        else:
            device.down(PUBACK, lambda: None)
        try:
            event = admit(self.settings, self.state, self._topics, topic, payload)
        except ProtocolError as refusal:
            self.refused += 1
            self.log.append(f"{self.now:9.1f} refused {device.name}: {refusal.reason}")
            return
        self.reports += isinstance(event, rounds.ReportArrived)
        self.step(event)

    def announce(self, topic: str, payload: bytes) -> None:
        self._retained[topic] = payload
        for device in self.devices:
            if topic in device.subscribed:
                device.deliver(topic, payload)

    # --- the coordinator ---

    def step(self, event: rounds.Event) -> None:
        self.state, effects = rounds.step(self.settings, self.state, event, self.now)
        for effect in effects:
            match effect:
                case rounds.Announce(plan=plan, models=models):
                    for model in models:
                        if model.model_hash not in self._published:
                            self._published.add(model.model_hash)
                            body = ModelBody.of(model).encode()
                            self.announce(self._topics.model(model.model_hash), body)
                    self.announce(self._topics.plan, plan.encode())
                case rounds.RecordClosed(record=record):
                    self.log.append(
                        f"{self.now:9.1f} round {record.number}: {len(record.participants)} of {len(record.asked)}"
                    )
                case _:
                    pass
        closes_at = rounds.closing_time(self.settings, self.state)
        if closes_at is not None and closes_at not in self._ticks:
            self._ticks.add(closes_at)
            self.at(max(self.now, closes_at), lambda: self.step(rounds.Tick()))
