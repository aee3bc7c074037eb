"""Start the broker of a federation: mosquitto when it is installed, else the embedded one. Runs until it is told to stop."""

from __future__ import annotations

import argparse
import ipaddress
from pathlib import Path
from typing import Any

from sanderling.broker.run import start_broker
from sanderling.commands import options
from sanderling.console import Console


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Where it keeps its state."""
    options.add_config(parser)
    parser.add_argument(
        "--dir", type=Path, default=Path("sanderling-broker"), help="where the broker keeps its state"
    )


def run(arguments: argparse.Namespace, console: Console) -> tuple[dict[str, Any], str]:
    """Serves until SIGTERM or SIGINT."""
    config = options.read_config(arguments).broker
    stop = options.stop_on_signal()
    with start_broker(kind=config.kind, host=config.host, port=config.port, data_dir=arguments.dir) as broker:
        console.progress(
            f"{broker.kind} broker listens on {broker.host}:{broker.port}, {_reach(config.host)}"
        )
        stop.wait()
    return {"kind": broker.kind, "host": broker.host, "port": broker.port}, "broker stopped"


def _reach(host: str) -> str:
    if host == "localhost" or _is_loopback(host):
        return "this machine only (set broker.host to let others in)"
    return "OPEN TO THE NETWORK without TLS or identities: use it on a network you trust, or keep broker.host at 127.0.0.1"


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
