"""Walk the way from a device, or the coordinator, to its federation; name the first hop that fails, and its fix.

Exits 0 when no hop fails, 2 when the configuration does, 4 for any other.
"""

from __future__ import annotations

import argparse
import fcntl
import os
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from sanderling import security
from sanderling.broker import doctor, pki
from sanderling.broker.identity import read_identity
from sanderling.broker.topics import Topics
from sanderling.commands import options
from sanderling.console import Console
from sanderling.models.errors import UsageError

_OPEN_BYTE = (
    128  # of SQLite's -shm file: whoever has the ledger open holds a shared lock on it (UNIX_SHM_DMS)
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Whose way."""
    options.add_config(parser)
    parser.add_argument("--device", metavar="ID", help="a device's (default: the coordinator's)")
    parser.add_argument(
        "--dir",
        type=Path,
        help="its state, as for `edge run` and `coordinator run`; tells whether it is running",
    )
    parser.add_argument(
        "--identity", type=Path, metavar="DIR", help="where a device's certificate is, as for `edge run`"
    )
    parser.add_argument(
        "--timeout",
        type=options.positive_seconds,
        default=5.0,
        metavar="S",
        help="seconds to wait at a hop (default: 5)",
    )


def run(arguments: argparse.Namespace, console: Console) -> tuple[dict[str, Any], str]:
    """The hops, in order."""
    load = partial(_node, arguments)
    with doctor.Visit(load, now=pki.utc_now(), timeout_s=arguments.timeout) as visit:
        hops = doctor.walk(visit.way())
    failed = next((hop for hop in hops if hop.state == "failed"), None)
    result = {
        "node": arguments.device or pki.COORDINATOR,
        "first_failure": failed.name if failed else None,
        "hops": [{key: value for key, value in asdict(hop).items() if key != "exit_status"} for hop in hops],
        "exit_status": failed.exit_status if failed else 0,
    }
    lines = [f"{hop.state:<11}{hop.name:<15}{hop.detail}".rstrip() for hop in hops]
    if failed:
        lines.append(f"\n{failed.name} fails first" + (f": {failed.fix}" if failed.fix else ""))
    return result, "\n".join(lines)


def _node(arguments: argparse.Namespace) -> doctor.Node:
    config = options.read_config(arguments)
    topics = Topics(config.federation.name)
    device: str | None = arguments.device
    credentials: Callable[[], doctor.Credentials | None]
    if device is None:
        from sanderling.coordinator.ledger import FILE_NAME  # a device may not have what it needs

        ledger = (arguments.dir or Path("sanderling-run")) / FILE_NAME
        name, own_topic, running = pki.COORDINATOR, topics.model(bytes(32)), partial(_has_open, ledger)

        def credentials() -> doctor.Credentials | None:
            tls = security.coordinator_tls(config)
            key = security.pki_directory(config) / pki.COORDINATOR / pki.SIGNING_KEY
            return None if tls is None else doctor.Credentials(tls=tls, signer=partial(_public_key, key))
    else:
        state = arguments.dir or security.device_dir(device)
        name, own_topic, running = device, topics.doctor(device), partial(_is_locked, state)
        folder = arguments.identity or state / security.IDENTITY

        def credentials() -> doctor.Credentials | None:
            tls = security.device_tls(config, device, folder)
            return None if tls is None else doctor.Credentials(tls=tls, signer=partial(_pinned_key, folder))

    return doctor.Node(
        federation=config.federation.name,
        name=name,
        host=config.link.host,
        port=config.link.port,
        own_topic=own_topic,
        credentials=credentials,
        running=running,
    )


def _public_key(path: Path) -> Ed25519PublicKey:
    key = pki.read_key(path)
    if not isinstance(key, Ed25519PrivateKey):
        raise UsageError(f"{path}: expected an Ed25519 key")
    return key.public_key()


def _pinned_key(folder: Path) -> Ed25519PublicKey:
    return Ed25519PublicKey.from_public_bytes(read_identity(folder).coordinator.signing)


def _is_locked(state: Path) -> bool:
    """Whether an agent runs on this directory (edge_runtime/storage.py)."""
    try:
        descriptor = os.open(state, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _has_open(ledger: Path) -> bool:
    """Whether a coordinator runs on this ledger."""
    try:
        with ledger.with_name(ledger.name + "-shm").open("r+b") as shared:
            fcntl.lockf(shared, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, _OPEN_BYTE)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
