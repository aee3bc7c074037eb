"""Start the broker of a federation: mosquitto when it is installed, else the embedded one. Runs until it is told to stop."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from sanderling import config_file, security
from sanderling.broker.mosquitto import TlsListener
from sanderling.broker.run import Broker, start_broker
from sanderling.commands import options
from sanderling.console import Console
from sanderling.models.errors import SanderlingError

FOLLOW_S = 0.5  # how often certificates and revocations are looked at


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Where it keeps its state."""
    options.add_config(parser)
    parser.add_argument(
        "--dir", type=Path, default=Path("sanderling-broker"), help="where the broker keeps its state"
    )


def run(arguments: argparse.Namespace, console: Console) -> tuple[dict[str, Any], str]:
    """Serves until SIGTERM or SIGINT, and follows the certificates and revocations in its folder."""
    config = options.read_config(arguments)
    place, tls = config.broker, security.broker_listener(config)
    stop = options.stop_on_signal()
    with start_broker(
        kind=place.kind, host=place.host, port=place.port, data_dir=arguments.dir, tls=tls
    ) as broker:
        console.progress(
            f"{broker.kind} broker listens on {broker.host}:{broker.port} {_how(broker.kind, tls)}, {_reach(place.host)}"
        )
        seen = _versions(tls)
        while not stop.wait(FOLLOW_S):
            if (now := _versions(tls)) != seen:
                seen = now
                _follow(broker, console)
    result = {"kind": broker.kind, "host": broker.host, "port": broker.port, "tls": tls is not None}
    return result, "broker stopped"


def _follow(broker: Broker, console: Console) -> None:
    try:
        names = broker.refresh()
    except SanderlingError as error:  # half of a pair is written: the other half follows
        console.progress(f"certificates: {error}")
        return
    console.progress(
        f"revoked: certificates of {', '.join(names)}; their connections are closed"
        if names
        else "certificates read again"
    )


def _versions(tls: TlsListener | None) -> list[tuple[int, int]]:
    """Which writing of each file is there; whoever writes them renames a whole file into place."""
    files = () if tls is None else (tls.certificate, tls.key, tls.revoked)
    stats = [file.stat() for file in files if file is not None]
    return [(stat.st_ino, stat.st_mtime_ns) for stat in stats]


def _how(kind: str, tls: TlsListener | None) -> str:
    if tls is None:
        return "in plain text and without identities"
    if kind == "embedded":
        return "with TLS and certificates, but any member may write as any other"
    return "with TLS, certificates and access rules"


def _reach(host: str) -> str:
    if config_file.is_loopback(host):
        return "this machine only (set broker.host to let others in)"
    return "open to the network"
