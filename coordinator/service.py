"""The coordinator's shell: link, clock and ledger around the pure core of coordinator/rounds.py."""

from __future__ import annotations

import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sanderling.broker.chunks import retained
from sanderling.broker.link import Connected, Disconnected, Incoming, Link, LinkSettings, TlsFiles
from sanderling.broker.topics import Topics
from sanderling.coordinator.door import admit
from sanderling.coordinator.ledger import Ledger, Run, summary
from sanderling.coordinator.replay import resume
from sanderling.coordinator.rounds import (
    Announce,
    Carry,
    CoordinatorState,
    DeviceStatus,
    Effect,
    Finish,
    RecordClosed,
    RecordEvaluation,
    RecordOpened,
    RecordReport,
    RoundRecord,
    Tick,
    announcement,
    closing_time,
    new_state,
    step,
)
from sanderling.coordinator.settings import CoordinatorSettings
from sanderling.coordinator.tracking import Tracker
from sanderling.models.errors import MissingError, ProtocolError
from sanderling.models.updates import GlobalModel

Log = Callable[[str], None]
POLL_S = 0.5  # how often deadlines are looked at while nothing arrives
MAX_QUEUED_MESSAGES = 20_000  # a plan's models in chunks of every size, and those of the plan before cleared
MAX_BURST = 100  # messages stored and acknowledged together: as many as mosquitto has on their way at once
REFUSALS_TOLD = 3  # of each kind between two rounds; the others are only counted


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceSettings:
    """Where the coordinator keeps its ledger and finds its broker."""

    directory: Path
    host: str
    port: int
    keepalive_s: int
    max_packet_bytes: int
    connect_timeout_s: float  # for the first connection; later ones are waited for without end
    tls: TlsFiles | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """What a new run begins with."""

    config: str
    network: bytes  # the package that devices load
    model: GlobalModel


class Coordinator:
    """One run of a federation. `run()` blocks until it is finished or `stop` is set."""

    def __init__(
        self,
        settings: CoordinatorSettings,
        service: ServiceSettings,
        start: Start,
        tracker: Tracker,
        log: Log,
        stop: threading.Event,
    ) -> None:
        self._settings, self._service, self._tracker, self._log, self._stop = (
            settings,
            service,
            tracker,
            log,
            stop,
        )
        self._ledger = Ledger(service.directory)
        self._topics = Topics(settings.federation)
        self._network, self._state = self._begin_or_resume(start)
        self._published: dict[tuple[bytes, int | None], tuple[str, ...]] = {}  # (model, chunk size): topics
        self._refused: Counter[str] = Counter()  # since they were last stored
        self._unstored: list[RecordReport] = []  # of the burst under way, not acknowledged either
        self._link = Link(
            LinkSettings(
                host=service.host,
                port=service.port,
                client_id=f"{settings.federation}-coordinator",
                keepalive_s=service.keepalive_s,
                max_packet_bytes=service.max_packet_bytes,
                tls=service.tls,
                max_queued_messages=MAX_QUEUED_MESSAGES,
            )
        )

    @property
    def state(self) -> CoordinatorState:
        """The newest state."""
        return self._state

    def run(self) -> bool:
        """True when the run is finished, False when it was stopped; MissingError when no broker was ever reached."""
        try:
            if not self._ledger.finished():
                self._serve()
            return self._ledger.finished()
        finally:
            self._ledger.close()

    def _begin_or_resume(self, start: Start) -> tuple[bytes, CoordinatorState]:
        run = self._ledger.run()
        if run is not None:
            self._log(f"going on with run {run.id}")
            return run.network, resume(self._settings, self._ledger)
        run = Run(
            id=secrets.token_hex(4),
            config=start.config,
            network=start.network,
            network_hash=start.model.backbone_hash,
            created=time.time(),
        )
        self._ledger.begin(run, start.model)
        return run.network, new_state(run.id, start.model, len(run.network))

    def _serve(self) -> None:
        self._link.start()
        try:
            for topic in (self._topics.all_statuses, self._topics.all_updates, self._topics.all_evaluations):
                self._link.subscribe(topic, qos=1)
            self._wait_for_broker()
            while not self._stop.is_set() and not self._state.done:
                self._take_burst(self._link.next_event(self._patience_s()))
        finally:
            self._store_refusals()
            self._link.close()

    def _patience_s(self) -> float:
        """Until the open round closes, but a request to stop is looked for meanwhile."""
        closes_at = closing_time(self._settings, self._state)
        return POLL_S if closes_at is None else min(POLL_S, max(0.001, closes_at - time.time()))

    def _wait_for_broker(self) -> None:
        give_up, reason = time.monotonic() + self._service.connect_timeout_s, "no answer"
        while not self._stop.is_set():
            event = self._link.next_event(POLL_S)
            self._take_burst(event)
            if isinstance(event, Connected):
                return
            if isinstance(event, Disconnected):
                reason = event.reason
            if time.monotonic() > give_up:
                raise MissingError(
                    f"no broker at {self._service.host}:{self._service.port} within "
                    f"{self._service.connect_timeout_s:g} s ({reason}); start one with `sanderling broker run`, "
                    "or name another with -c link.host=… -c link.port=…"
                )

    def _take_burst(self, event: object) -> None:
        """What has come by now: a write to the disk costs the same for one report and for all of them."""
        received: list[Incoming] = []
        while event is not None:
            self._take(event)
            if isinstance(event, Incoming):
                received.append(event)
            event = self._link.next_event(0) if len(received) < MAX_BURST else None
        self._step(Tick())
        self._store_reports()
        if received:
            self._link.acknowledge(*received)  # only now: what came is stored, or refused for good

    def _take(self, event: object) -> None:
        match event:
            case Connected():
                self._log(f"connected to the broker at {self._service.host}:{self._service.port}")
                self._announce_again()
            case Disconnected(reason=reason):
                self._log(f"no broker at {self._service.host}:{self._service.port}: {reason}; trying again")
            case Incoming():
                self._receive(event)
            case _:
                pass

    def _receive(self, incoming: Incoming) -> None:
        try:
            event = admit(self._settings, self._state, self._topics, incoming.topic, incoming.payload)
        except ProtocolError as error:
            self._refused[error.reason] += 1
            if self._refused[error.reason] <= REFUSALS_TOLD:
                self._log(f"refused ({error.reason}): {error}")
            return
        if isinstance(event, DeviceStatus) and event.status.detail:
            self._log(f"{event.device_id} says: {event.status.detail}")
        self._step(event)

    def _step(self, event: object) -> None:
        self._state, effects = step(self._settings, self._state, event, time.time())  # type: ignore[arg-type]
        for effect in effects:
            self._carry_out(effect)

    def _carry_out(self, effect: Effect) -> None:
        if not isinstance(effect, RecordReport):  # all else comes after the reports before it
            self._store_reports()
        match effect:
            case RecordOpened(round=opened):
                self._ledger.open_round(opened)
                if opened.reason:
                    self._log(f"[round {opened.number}/{self._settings.rounds.count}] {opened.reason}")
            case RecordReport():
                self._unstored.append(effect)
            case RecordClosed(record=record, model=model):
                self._ledger.close_round(record, model)
                self._store_refusals()
                self._tell(record)
            case RecordEvaluation(device_id=device_id, message=message):
                self._ledger.add_evaluation(device_id, message)
            case Announce():
                self._announce(effect)
            case Carry(models=models, chunk_sizes=sizes):
                self._carry(models, sizes)
            case Finish(model=model):
                self._ledger.finish(time.time(), model)

    def _store_reports(self) -> None:
        if self._unstored:
            number = self._unstored[0].number  # of them all: a round closes only after they are stored
            self._ledger.add_reports(number, [recorded.report for recorded in self._unstored])
            self._unstored.clear()

    def _store_refusals(self) -> None:
        """Once a round, not once a message: a flood of bad messages must not become a flood of writes."""
        self._ledger.count_refusals(self._refused)
        self._refused.clear()

    def _announce_again(self) -> None:
        """The retained announcements, once more: the broker may have lost them."""
        self._published.clear()
        topic = self._topics.network(self._state.model.backbone_hash)
        self._link.publish(topic, self._network, qos=1, retain=True)
        self._announce(announcement(self._settings, self._state))

    def _announce(self, announce: Announce) -> None:
        """Models first, so that who reads the plan finds them; then models nobody needs any more are cleared."""
        self._carry(announce.models, announce.chunk_sizes)
        self._link.publish(self._topics.plan, announce.plan.encode(), qos=1, retain=True)
        needed = {model.model_hash for model in announce.models}
        for key in [key for key in self._published if key[0] not in needed]:
            for topic in self._published.pop(key):
                self._link.publish(topic, b"", qos=1, retain=True)

    def _carry(self, models: tuple[GlobalModel, ...], chunk_sizes: frozenset[int]) -> None:
        for model in models:
            for size in (None, *sorted(chunk_sizes)):
                if (model.model_hash, size) not in self._published:
                    messages = retained(self._topics, model, size)
                    for topic, payload in messages.items():
                        self._link.publish(topic, payload, qos=1, retain=True)
                    self._published[model.model_hash, size] = tuple(messages)

    def _tell(self, record: RoundRecord) -> None:
        count, asked = len(record.participants), len(record.asked)
        outcome = "" if record.committed else ", below the quorum: abandoned"
        self._log(
            f"[round {record.number}/{self._settings.rounds.count}] {count} of {asked}, "
            f"accuracy {record.validation.accuracy:.3f}, loss {record.validation.loss:.3f}, "
            f"up {record.uplink_bytes:,} B, down {record.downlink_bytes:,} B{outcome}"
        )
        self._tracker.log_round(record.number, figures(record))


def figures(record: RoundRecord) -> dict[str, float]:
    """A round's numbers by name, for tracking."""
    numbers = {key: value for key, value in summary(record).items() if isinstance(value, (int, float))}
    return {**numbers, "stragglers": float(len(record.stragglers))}
