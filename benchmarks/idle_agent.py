"""What an agent that waits costs: resident memory, processor time, start; and what an `edge` install takes on disk.

A fresh virtual environment gets `.[edge]` of this checkout and runs the agent with the watch network on one person's
windows, against a real broker. It trains one round on the backend asked for, so that the runtime is loaded and warm,
and is measured while it waits for the next. Prints one JSON object; sizes in MB of 10**6 bytes, times in seconds.

    python benchmarks/idle_agent.py [--backends reference litert] [--idle-s 20]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from sanderling.broker import enrolment, pki
from sanderling.broker.desk import Desk, Reach
from sanderling.broker.link import Incoming, Link, LinkSettings, TlsFiles
from sanderling.broker.messages import (
    ModelBody,
    ModelReference,
    RoundPlan,
    StatusMessage,
    TrainingPlan,
    UpdatePlan,
)
from sanderling.broker.mosquitto import TlsListener
from sanderling.broker.run import fleet_listener, start_broker
from sanderling.broker.topics import Topics
from sanderling.models import datasets, zoo
from sanderling.models.package import ModelPackage
from sanderling.models.tail import dense_head, initial_theta
from sanderling.models.updates import GlobalModel

ROOT = Path(__file__).resolve().parent.parent
DEVICE = "watch-04"
HOST = "127.0.0.1"
TOPICS = Topics("idle")
WAIT_S = 60.0
STARTS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--backends", nargs="+", default=["reference", "litert"])
    parser.add_argument("--idle-s", type=float, default=20.0, help="how long each idle agent is watched")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        python, install = fresh_install(directory / "environment")
        config = write_config(directory)
        result = {
            "platform": f"{platform.machine()}, {platform.system()}, Python {platform.python_version()}",
            "install": install,
            "import_s": import_seconds(python),
            "idle": {
                backend: measure(python, config, directory / backend, backend, arguments.idle_s)
                for backend in arguments.backends
            },
        }
    print(json.dumps(result, indent=2))


def fresh_install(directory: Path) -> tuple[Path, dict[str, object]]:
    """A virtual environment with nothing but `.[edge]`; its interpreter, and what lies in it."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", directory], check=True)
    python = directory / "bin" / "python"
    target = f"{ROOT}[edge]"
    if uv := shutil.which("uv"):
        command = [uv, "pip", "install", "--quiet", "--link-mode", "copy", "--python", python, target]
    else:
        command = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", target]
    subprocess.run(command, check=True, cwd=directory)
    packages = next(directory.glob("lib/python*/site-packages"))
    sizes = {path.name: disk_bytes(path) for path in packages.iterdir()}
    largest = sorted(sizes, key=sizes.__getitem__, reverse=True)[:6]
    return python, {
        "site_packages_mb": megabytes(sum(sizes.values())),
        "largest_mb": {name: megabytes(sizes[name]) for name in largest},
    }


def write_config(directory: Path) -> Path:
    """federation.toml, and the person's windows as a user's own file."""
    own = datasets.load("watch").for_client(DEVICE)
    np.savez(
        directory / "own.npz",
        examples=own.examples,
        label=own.labels,
        client=np.full(len(own), DEVICE),
        split=own.split,
    )
    path = directory / "federation.toml"
    path.write_text(f'[federation]\nname = "idle"\n[data]\nsource = "{directory / "own.npz"}"\n')
    return path


def import_seconds(python: Path) -> float:
    """The median time of an interpreter that imports the agent and ends, less one that imports nothing."""

    def took(code: str) -> float:
        started = time.perf_counter()
        subprocess.run([python, "-c", code], check=True)
        return time.perf_counter() - started

    took("import sanderling.edge_runtime.service")  # compiled and in the page cache
    with_it = statistics.median(took("import sanderling.edge_runtime.service") for _ in range(STARTS))
    return round(with_it - statistics.median(took("pass") for _ in range(STARTS)), 3)


def measure(python: Path, config: Path, directory: Path, backend: str, idle_s: float) -> dict[str, object]:
    """One agent, from its start to `idle_s` seconds of waiting after its first round."""
    directory.mkdir()
    package = zoo.package("watch-cnn")
    model = GlobalModel(
        version=0,
        backbone_hash=package.network.content_hash,
        theta=initial_theta(package.network, dense_head(package.network)),
    )
    listener, coordinator = enrol(directory)
    with (
        start_broker(data_dir=directory / "broker", tls=listener) as broker,
        Link(LinkSettings(host=HOST, port=broker.port, client_id="bench", tls=coordinator)) as link,
    ):
        link.subscribe(TOPICS.status(DEVICE))
        link.subscribe(TOPICS.update(DEVICE))
        command = [python, "-m", "sanderling.cli", "edge", "run", "--device", DEVICE, "--config", config]
        command += ["--dir", directory / "state", "--backend", backend, "-c", f"link.port={broker.port}"]
        started = time.perf_counter()
        agent = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            wait(link, TOPICS.status(DEVICE), lambda s: StatusMessage.decode(s).state == "online")
            online_s = time.perf_counter() - started
            time.sleep(2)
            before = memory(agent.pid)
            announce(link, package, model, backend)
            status = StatusMessage.decode(wait(link, TOPICS.status(DEVICE), has_chosen))
            if status.backend != backend:
                raise SystemExit(f"backend {status.backend!r} instead of {backend!r}: {status.detail}")
            wait(link, TOPICS.update(DEVICE), bool)
            time.sleep(2)
            processor_s, began = processor_seconds(agent.pid), time.perf_counter()
            time.sleep(idle_s)
            busy = (processor_seconds(agent.pid) - processor_s) / (time.perf_counter() - began)
            return {
                "broker": broker.kind,
                "start_to_online_s": round(online_s, 3),
                "before_first_round": before,
                "idle_after_a_round": memory(agent.pid),
                "processor_share": round(busy, 5),
                "arithmetic_drift_lsb": status.arithmetic_drift_lsb,
            }
        finally:
            agent.terminate()
            agent.wait(WAIT_S)


def has_chosen(payload: bytes) -> bool:
    """Whether a status says what the backend is, or why there is none."""
    status = StatusMessage.decode(payload)
    return status.backend != "" or status.detail != ""


def enrol(directory: Path) -> tuple[TlsListener, TlsFiles]:
    """Certificates as any federation has them; the device's is in its state."""
    made = pki.initialise(directory / "pki", federation="idle", hosts=(HOST,), now=pki.utc_now())
    with Desk(made.directory) as desk:
        token = desk.invite("idle", DEVICE, Reach(host=HOST, port=1, valid_s=60))
        identity = directory / "state" / "identity"
        enrolment.accept(identity, desk.answer(token.id, enrolment.begin(identity, token, os.urandom)))
    listener = fleet_listener(made.folder(pki.BROKER), federation="idle", host=HOST, port=0)
    return listener, made.tls("coordinator")


def announce(link: Link, package: ModelPackage, model: GlobalModel, backend: str) -> None:
    """One round, on everything it takes."""
    payload, body = package.to_bytes(), ModelBody.of(model).encode()
    reference = ModelReference(
        version=0,
        model_hash=model.model_hash,
        body_bytes=len(body),
        network_hash=model.backbone_hash,
        network_bytes=len(payload),
    )
    plan = RoundPlan(
        federation="idle",
        run="idle",
        round=1,
        phase="round",
        cohort=(DEVICE,),
        deadline_unix_s=None,
        arithmetic="exact" if backend == "reference" else "fast",
        model=reference,
        training=TrainingPlan(epochs=5, batch_size=16, learning_rate_q16=3277, proximal_mu_q16=0, seed=1),
        update=UpdatePlan(mode="mask", coordinates=64, mask_epoch=0, clipping_norm=0, scale_shift=6),
        evaluate=(),
    )
    link.publish(TOPICS.network(model.backbone_hash), payload, retain=True)
    link.publish(TOPICS.model(model.model_hash), body, retain=True)
    link.publish(TOPICS.plan, plan.encode(), retain=True)


def wait(link: Link, topic: str, which: Callable[[bytes], bool]) -> bytes:
    give_up = time.monotonic() + WAIT_S
    while time.monotonic() < give_up:
        event = link.next_event(0.05)
        if isinstance(event, Incoming):
            link.acknowledge(event)
            if event.topic == topic and which(event.payload):
                return event.payload
    raise SystemExit(f"nothing came on {topic} within {WAIT_S:g} s")


def memory(pid: int) -> dict[str, float]:
    """Resident and proportional set size."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    kilobytes = {line.split(":")[0]: int(line.split()[1]) for line in lines[1:]}
    return {f"{name.lower()}_mb": megabytes(1024 * kilobytes[name]) for name in ("Rss", "Pss")}


def processor_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def disk_bytes(path: Path) -> int:
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_blocks * 512 for file in files)


def megabytes(size_bytes: int) -> float:
    return round(size_bytes / 1e6, 1)


if __name__ == "__main__":
    main()
