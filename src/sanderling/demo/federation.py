"""The demo's federation: seven people's watches learn physiotherapy exercises together, each person one device."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sanderling import assembly, config_file, data_source, security
from sanderling.broker import pki
from sanderling.broker.child import new_lines, relay
from sanderling.broker.desk import Desk
from sanderling.broker.mosquitto import free_port
from sanderling.commands.membership import enrol_here
from sanderling.config import FederationConfig
from sanderling.console import Console
from sanderling.demo import comparison
from sanderling.demo.comparison import FloatFedAvg, Person, Slice
from sanderling.demo.processes import Processes, wait_for_port
from sanderling.models.datasets import TEST, TRAIN, VALIDATION, Dataset
from sanderling.models.errors import SanderlingError
from sanderling.models.inference import features
from sanderling.models.network import parameter_count
from sanderling.models.tail import DenseHead, dense_head
from sanderling.models.training import evaluate_head
from sanderling.models.updates import Int32Vector

DEVICES = tuple(f"watch-{number:02}" for number in range(4, 11))  # 1 to 3 pre-trained the backbone
HOST = "127.0.0.1"
TARGET = 0.90
POLL_S = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What the federation is held against."""

    head: DenseHead
    people: tuple[Person, ...]
    parameters: int  # of the whole network
    theta_central: Int32Vector
    float_fedavg: FloatFedAvg


def settings(overrides: Sequence[str], seed: int, directory: Path) -> FederationConfig:
    """In lockstep unless overridden, over the seven devices, on a free port of this machine whatever is overridden."""
    port = free_port(HOST)
    fixed = (
        f"federation.seed={seed}",
        f"federation.devices={list(DEVICES)}",
        f"selection.minimum={len(DEVICES)}",
        f"security.directory={json.dumps(str(directory / 'pki'))}",
        *(f"{section}.{key}" for section in ("link", "broker") for key in (f"host={HOST}", f"port={port}")),
    )
    return config_file.load(None, ["round.mode=lockstep", *overrides, *fixed])


def run(config: FederationConfig, directory: Path, console: Console) -> tuple[dict[str, Any], Comparison]:
    """Runs the federation in processes of its own and computes the comparison meanwhile."""
    directory.mkdir(parents=True)
    file = directory / "federation.toml"
    file.write_text(config_file.render(config), encoding="utf-8")
    if config.security.mode == "tls":
        enrol(config, directory)
    with Processes(directory / "logs") as processes:
        common = ["--config", str(file), "--json"]
        processes.start("broker", ["broker", "run", *common, "--dir", str(directory / "broker")])
        wait_for_port(config.link.host, config.link.port, processes)
        coordinator = processes.start("coordinator", ["coordinator", "run", *common, "--dir", str(directory)])
        for device in config.federation.devices:
            state = str(directory / "devices" / device)
            processes.start(
                device, ["edge", "run", "--device", device, *common, "--dir", state, "--exit-when-finished"]
            )
        progress = new_lines(processes.log("broker"), processes.log("coordinator"))
        relay(progress, console.progress)
        compared = compare(config)
        while coordinator.poll() is None:
            processes.check()
            relay(progress, console.progress)
            time.sleep(POLL_S)
        relay(progress, console.progress)
        processes.check()
        return json.loads(processes.output("coordinator")), compared


def enrol(config: FederationConfig, directory: Path) -> None:
    """Certificates for the broker, the coordinator and each device, made where a fleet's would be."""
    pki_directory = security.pki_directory(config)
    pki.initialise(pki_directory, federation=config.federation.name, hosts=(HOST,), now=pki.utc_now())
    with Desk(pki_directory) as desk:
        for device in config.federation.devices:
            enrol_here(desk, config, device, directory / "devices" / device / security.IDENTITY)


def compare(config: FederationConfig) -> Comparison:
    """The same head trained centrally, and fp32 FedAvg, on the features that the devices compute."""
    start = assembly.starting_point(config)
    network = start.package.network
    head = dense_head(network)
    data = data_source.dataset(config)
    people = tuple(_person(start.package, head, data, device) for device in config.federation.devices)
    training = assembly.local_training(config)
    seed = config.federation.seed
    return Comparison(
        head=head,
        people=people,
        parameters=parameter_count(network),
        theta_central=comparison.central_head(head, start.model.theta, people, training, seed),
        float_fedavg=comparison.float_fedavg(head, start.model.theta, people, training, seed, TARGET),
    )


def result(config: FederationConfig, outcome_: dict[str, Any], compared: Comparison) -> dict[str, Any]:
    """The demo's one object."""
    rounds, devices = outcome_["rounds"], config.federation.devices
    if not rounds or set(outcome_["per_device"]) != set(devices):
        raise SanderlingError("the federation ended before every device had evaluated its result")
    sent = sum(entry["uplink_bytes"] for entry in rounds) / sum(entry["participants"] for entry in rounds)
    head_bytes = 4 * compared.head.dimension
    model_bytes = 4 * compared.parameters
    ours = _rounds_to(rounds, TARGET)
    theirs = compared.float_fedavg.rounds_to(TARGET)
    per_device = {person.device_id: _accuracies(outcome_, compared, person) for person in compared.people}
    return {
        "accuracy": outcome_["accuracy"],
        "accuracy_before": outcome_["accuracy_before"],
        "accuracy_central": _central_accuracy(compared),
        "devices": list(devices),
        "per_device": per_device,
        "rounds": rounds,
        "uplink_bytes_per_device_round": round(sent, 1),
        "largest_update_bytes": max(entry["largest_update_bytes"] for entry in rounds),
        "fp32_head_bytes": head_bytes,
        "fp32_full_model_bytes": model_bytes,
        "to_target": {
            "validation_accuracy": TARGET,
            "rounds": ours,
            "uplink_bytes": None if ours is None else sum(entry["uplink_bytes"] for entry in rounds[:ours]),
            "fp32_fedavg_rounds": theirs,
            "fp32_fedavg_learning_rate": compared.float_fedavg.learning_rate,
            "fp32_head_uplink_bytes": None if theirs is None else theirs * len(devices) * head_bytes,
            "fp32_full_model_uplink_bytes": None if theirs is None else theirs * len(devices) * model_bytes,
        },
        "model_hash": outcome_["model_hash"],
        "run": outcome_["run"],
        "seed": config.federation.seed,
    }


def table(shown: dict[str, Any]) -> str:
    """The final table, for people."""
    lines = [f"{'':<12}{'before':>10}{'federated':>12}{'central':>10}{'windows':>10}"]
    for device, row in shown["per_device"].items():
        lines.append(
            f"{device:<12}{row['before']:>10.3f}{row['federated']:>12.3f}{row['central']:>10.3f}{row['windows']:>10}"
        )
    lines.append(
        f"{'all':<12}{shown['accuracy_before']:>10.3f}{shown['accuracy']:>12.3f}{shown['accuracy_central']:>10.3f}"
        f"{sum(row['windows'] for row in shown['per_device'].values()):>10}"
    )
    return "\n".join(lines)


def _person(package: Any, head: DenseHead, data: Dataset, device: str) -> Person:
    own = data.for_client(device)
    parts = []
    for split in (TRAIN, VALIDATION, TEST):
        part = own.part(split)
        inputs = package.preprocessing.quantize_input(part.examples)
        parts.append(Slice(features=features(package.network, inputs, head.layer), labels=part.labels))
    return Person(device_id=device, train=parts[0], validation=parts[1], test=parts[2])


def _accuracies(outcome_: dict[str, Any], compared: Comparison, person: Person) -> dict[str, Any]:
    told = outcome_["per_device"][person.device_id]
    after = told.get("after", told["before"])
    central = evaluate_head(compared.head, compared.theta_central, person.test.features, person.test.labels)
    return {
        "before": told["before"]["correct"] / told["before"]["count"],
        "federated": after["correct"] / after["count"],
        "central": central.correct / central.count,
        "windows": after["count"],
    }


def _central_accuracy(compared: Comparison) -> float:
    test = comparison.pooled([person.test for person in compared.people])
    done = evaluate_head(compared.head, compared.theta_central, test.features, test.labels)
    return done.correct / done.count


def _rounds_to(rounds: list[dict[str, Any]], target: float) -> int | None:
    """Rounds spent when the model first reached `target`: a round reports the accuracy of the model it starts from."""
    return next((entry["round"] - 1 for entry in rounds if entry["validation_accuracy"] >= target), None)
