"""How many updates a second the coordinator takes, and what a connected fleet costs it. Prints one JSON object.

In process, on one core: the message's decoding, the payload's, the whole door (coordinator/door.py: both, and the checks) and the
core's step, in processor time; the ledger's durable rows as they take. Through mosquitto with TLS on loopback: a fleet of devices, each with its certificate and
its connection, sends one update each, all at once, at QoS 1; timed from the first byte sent until the coordinator has stored all,
closed the round and made the next model, and in turn with that until a bare paho subscriber, which does nothing but count, has
seen all. Resident memory of the coordinator and of mosquitto without a device, with the fleet connected, and after the rounds.

    python benchmarks/ingest.py [--devices 1000] [--rounds 20]
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import ssl
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from revocation import connect, identity

from sanderling.broker import codec, pki
from sanderling.broker.link import Incoming, Link, LinkSettings, TlsFiles
from sanderling.broker.messages import RoundPlan, StatusMessage, TrainingPlan, UpdateMessage
from sanderling.broker.mosquitto import Mosquitto
from sanderling.broker.run import fleet_listener
from sanderling.broker.topics import Topics
from sanderling.coordinator.door import admit
from sanderling.coordinator.ledger import Ledger, Run
from sanderling.coordinator.rounds import (
    CoordinatorState,
    DeviceStatus,
    Event,
    RecordReport,
    coordinates_of,
    new_state,
    plan_of,
    step,
)
from sanderling.coordinator.server_optimizers import fedavg
from sanderling.coordinator.service import MAX_BURST, Coordinator, ServiceSettings, Start
from sanderling.coordinator.settings import (
    CoordinatorSettings,
    RoundSettings,
    SelectionSettings,
    UpdateSettings,
)
from sanderling.coordinator.tracking import NoTracker
from sanderling.models.updates import GlobalModel, Int8Vector, QuantizedUpdate

HOST = "127.0.0.1"
TOPICS = Topics("bench")
DIMENSION, DENSITY = 455, 0.5  # the watch head, as `sanderling demo` trains it
MODEL = GlobalModel(version=0, backbone_hash=bytes(32), theta=np.zeros(DIMENSION, dtype=np.int32))
WAIT_S = 120.0
PUBACK = b"\x40\x02\0\1"

Payload = tuple[str, bytes]  # topic and what is published there


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--devices", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=20, help="bursts of one update from every device")
    arguments = parser.parse_args()
    names = tuple(f"device-{number}" for number in range(arguments.devices))
    result = {
        "platform": f"{platform.machine()}, {platform.system()}, Python {platform.python_version()}, "
        f"{os.cpu_count()} cores",
        "update": {"dimension": DIMENSION, "density": DENSITY},
        "in_process": in_process(names),
    }
    with tempfile.TemporaryDirectory() as directory:
        result["through_mosquitto_with_tls"] = through_mosquitto(Path(directory), names, arguments.rounds)
    print(json.dumps(result, indent=2))


def settings_of(names: tuple[str, ...], rounds: int) -> CoordinatorSettings:
    """Lockstep, so that a round is closed by the last update and by nothing else."""
    return CoordinatorSettings(
        federation="bench",
        devices=names,
        arithmetic="exact",
        rounds=RoundSettings(mode="lockstep", count=rounds, deadline_s=WAIT_S, quorum=2, patience=0),
        selection=SelectionSettings(cohort=0, expected_dropout=0.0, minimum=2),
        training=TrainingPlan(epochs=1, batch_size=16, learning_rate_q16=655, proximal_mu_q16=0, seed=1),
        update=UpdateSettings(mode="mask", density=DENSITY, mask_rounds=1, scale_shift=6, clipping_norm=0),
        optimizer=fedavg(),
        max_examples=1000,
    )


def status(state: str) -> StatusMessage:
    return StatusMessage(
        state=state,
        num_examples=100,
        boot=bytes(8),
        backend="reference",
        software="bench",
        arithmetic_drift_lsb=None,
        detail="",
        receive_buffer_bytes=None,
    )


def updates(plan: RoundPlan, names: tuple[str, ...]) -> list[Payload]:
    """A different update of each device for the round, values as they are in training: Laplace."""
    rng = np.random.default_rng(plan.round)
    coordinates = coordinates_of(plan.federation, plan.update, DIMENSION)
    assert coordinates is not None
    values = np.rint(rng.laplace(0, 8, (len(names), coordinates.size))).clip(-127, 127).astype(np.int8)

    def compressed(row: Int8Vector) -> QuantizedUpdate:
        shift = plan.update.scale_shift
        return QuantizedUpdate(dimension=DIMENSION, coordinates=coordinates, values=row, scale_shift=shift)

    return [
        (TOPICS.update(name), update(plan, compressed(row)).encode())
        for name, row in zip(names, values, strict=True)
    ]


def update(plan: RoundPlan, quantized: QuantizedUpdate) -> UpdateMessage:
    return UpdateMessage(
        run=plan.run,
        round=plan.round,
        model_hash_prefix=plan.model.model_hash[:8],
        num_examples=100,
        training_loss_milli=1234,
        validation_correct=40,
        validation_count=50,
        validation_loss_milli=999,
        duration_ms=1500,
        payload=codec.encode(quantized, shared_coordinates=True),
    )


# ---------------------------------------------------------------------------------------------- in process


def in_process(names: tuple[str, ...]) -> dict[str, object]:
    """Microseconds an update; the median of rounds in which every device reports."""
    settings = settings_of(names, 1)
    state = new_state("bench", MODEL, 0)
    for name in names:
        state, _ = step(settings, state, DeviceStatus(device_id=name, status=status("online")), 0.0)
    assert state.open is not None
    messages = updates(plan_of(settings, state), names)
    mask = coordinates_of("bench", state.open.update, DIMENSION)
    payloads = [UpdateMessage.decode(data).payload for _, data in messages]
    events = [admit(settings, state, TOPICS, topic, data) for topic, data in messages]

    def door() -> None:
        for topic, data in messages:
            admit(settings, state, TOPICS, topic, data)

    parts = {
        "message": lambda: [UpdateMessage.decode(data) for _, data in messages],
        "payload": lambda: [codec.decode(data, dimension=DIMENSION, coordinates=mask) for data in payloads],
        "door": door,
        "core": lambda: take(settings, state, events),
    }
    took = {name: microseconds(part, len(names)) for name, part in parts.items()}
    took["ledger"] = ledger_microseconds(take(settings, state, events))
    return {
        "update_bytes": round(statistics.mean(len(data) for _, data in messages), 1),
        "microseconds": took,
        "door_updates_per_s": round(1e6 / took["door"]),
        "door_core_and_ledger_updates_per_s": round(1e6 / (took["door"] + took["core"] + took["ledger"])),
    }


def take(settings: CoordinatorSettings, state: CoordinatorState, events: list[Event]) -> list[RecordReport]:
    """The core's steps, but for the last, which closes the round."""
    rows: list[RecordReport] = []
    for event in events[:-1]:
        state, effects = step(settings, state, event, 1.0)
        rows += [effect for effect in effects if isinstance(effect, RecordReport)]
    return rows


def microseconds(part: Callable[[], object], count: int, repetitions: int = 15) -> float:
    """Of processor time, so that whatever else the machine does is left out."""
    took = []
    for _ in range(repetitions):
        began = time.thread_time()
        part()
        took.append(time.thread_time() - began)
    return round(1e6 * statistics.median(took) / count, 1)


def ledger_microseconds(rows: list[RecordReport]) -> float:
    """One durable transaction for as many as come at once under load, on the disk of the temporary folder."""
    with tempfile.TemporaryDirectory() as directory:
        ledger = Ledger(Path(directory))
        ledger.begin(Run(id="bench", config="", network=b"", network_hash=bytes(32), created=0.0), MODEL)
        began = time.perf_counter()
        for start in range(0, len(rows), MAX_BURST):
            ledger.add_reports(1, [row.report for row in rows[start : start + MAX_BURST]])
        took_s = time.perf_counter() - began
        ledger.close()
    return round(1e6 * took_s / len(rows), 1)


# ---------------------------------------------------------------------------------------------- over the broker


@dataclass(frozen=True, slots=True, kw_only=True)
class Child:
    process_id: int
    reports: Connection  # (time.monotonic(), line) of what it did


def through_mosquitto(directory: Path, names: tuple[str, ...], rounds: int) -> dict[str, object]:
    """Coordinator and bare subscriber in turn, each with a broker and a fleet of its own, so that neither hears the other's."""
    made = pki.initialise(directory / "pki", federation="bench", hosts=(HOST,), now=pki.utc_now())
    authority = made.authority()
    listener = fleet_listener(made.folder(pki.BROKER), federation="bench", host=HOST, port=0)
    contexts = {name: identity(directory / name, made, authority, name)[1] for name in (*names, "observer")}
    pair = directory / "observer" / "pair.pem"
    observer = TlsFiles(authority=made.folder(pki.BROKER) / "ca.pem", certificate=pair, key=pair)
    files, folder = made.tls("coordinator"), directory / "coordinator"
    with (
        Mosquitto(listener) as ours,
        Mosquitto(listener) as bare,
        child(coordinate, ours.port, files, folder, names, rounds) as coordinator,
        child(count, bare.port, files, len(names)) as counter,
        Link(LinkSettings(host=HOST, port=ours.port, client_id="observer", tls=observer)) as link,
    ):
        link.subscribe(TOPICS.plan)
        next_plan(link, 0)
        wait(counter, "ready")
        memories = {"without_devices": memory(coordinator.process_id, ours.pid)}
        fleet, others = ([connect(contexts[name], port) for name in names] for port in (ours.port, bare.port))
        publish(fleet, [(TOPICS.status(name), status("online").encode()) for name in names])
        took: dict[str, list[float]] = {"coordinator": [], "bare paho": []}
        for number in range(1, rounds + 1):
            messages = updates(next_plan(link, number), names)
            if number == 1:
                memories["fleet_connected"] = memory(coordinator.process_id, ours.pid)
            took["bare paho"].append(-publish(others, messages) + wait(counter, "all"))
            took["coordinator"].append(-publish(fleet, messages) + wait(coordinator, f"[round {number}/"))
        memories["after_the_rounds"] = memory(coordinator.process_id, ours.pid)
    rates = {name: len(names) / statistics.median(seconds) for name, seconds in took.items()}
    return {
        "devices": len(names),
        "rounds": rounds,
        "updates_per_s": {name: round(rate) for name, rate in rates.items()},
        "share_of_bare_paho": round(rates["coordinator"] / rates["bare paho"], 3),
        "memory_mb": memories,
    }


def publish(fleet: list[ssl.SSLSocket], messages: list[Payload]) -> float:
    """One message from each connection at QoS 1, every one acknowledged; when the first was sent."""
    began = time.monotonic()
    for connection, (topic, data) in zip(fleet, messages, strict=True):
        connection.sendall(packet(topic, data))
    for connection in fleet:
        assert connection.recv(4) == PUBACK
    return began


def packet(topic: str, data: bytes) -> bytes:
    """PUBLISH of MQTT 3.1.1 at QoS 1 with the packet identifier 1."""
    body = len(topic).to_bytes(2) + topic.encode() + b"\0\1" + data
    high, low = divmod(len(body), 128)
    assert high < 128
    return b"\x32" + bytes([low | 0x80, high] if high else [low]) + body


def next_plan(link: Link, number: int) -> RoundPlan:
    """The plan of a round; of round 0, that no round is open."""
    give_up = time.monotonic() + WAIT_S
    while time.monotonic() < give_up:
        event = link.next_event(0.1)
        if isinstance(event, Incoming):
            link.acknowledge(event)
            plan = RoundPlan.decode(event.payload)
            if plan.round == number:
                return plan
    raise SystemExit(f"no plan of round {number} within {WAIT_S:g} s")


def wait(of: Child, start: str) -> float:
    """When the child said a line that starts so."""
    while of.reports.poll(WAIT_S):
        at, line = of.reports.recv()
        if line.startswith(start):
            return float(at)
    raise SystemExit(f"no {start!r} within {WAIT_S:g} s")


@contextmanager
def child(run: Callable[..., None], *arguments: object) -> Iterator[Child]:
    """A process of its own, without what this one has loaded."""
    ours, theirs = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("spawn").Process(target=run, args=(theirs, *arguments))
    process.start()
    assert process.pid is not None
    try:
        yield Child(process_id=process.pid, reports=ours)
    finally:
        process.terminate()
        process.join()


def coordinate(
    pipe: Connection, port: int, tls: TlsFiles, directory: Path, names: tuple[str, ...], rounds: int
) -> None:
    """The coordinator as it serves."""
    Coordinator(
        settings_of(names, rounds),
        ServiceSettings(
            directory=directory,
            host=HOST,
            port=port,
            keepalive_s=60,
            max_packet_bytes=17 << 20,
            connect_timeout_s=10.0,
            tls=tls,
        ),
        Start(config="", network=b"bench", model=MODEL),
        NoTracker(),
        lambda line: pipe.send((time.monotonic(), line)),
        threading.Event(),
    ).run()


def count(pipe: Connection, port: int, tls: TlsFiles, devices: int) -> None:
    """paho, and nothing else."""
    client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
    client.tls_set_context(tls.context())
    seen = 0

    def message(*_: object) -> None:
        nonlocal seen
        seen += 1
        if seen % devices == 0:
            pipe.send((time.monotonic(), "all"))

    client.on_message = message
    client.on_connect = lambda *_: client.subscribe(TOPICS.all_updates, qos=1)
    client.on_subscribe = lambda *_: pipe.send((time.monotonic(), "ready"))
    client.connect(HOST, port)
    client.loop_forever()


def memory(coordinator: int, broker: int) -> dict[str, float]:
    return {"coordinator": resident_mb(coordinator), "mosquitto": resident_mb(broker)}


def resident_mb(process_id: int) -> float:
    lines = Path(f"/proc/{process_id}/status").read_text().splitlines()
    kilobytes = next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))
    return round(1024 * kilobytes / 1e6, 1)


if __name__ == "__main__":
    main()
