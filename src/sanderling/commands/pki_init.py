"""Make the certificates of a federation: an authority, the broker's, the coordinator's, and the coordinator's signing key."""

from __future__ import annotations

import argparse
import socket
from pathlib import Path
from typing import Any

from sanderling import security
from sanderling.broker import pki
from sanderling.commands import options
from sanderling.config import FederationConfig
from sanderling.console import Console

WILDCARDS = {"0.0.0.0", "::"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Where to, and under which names the broker is reached."""
    options.add_config(parser)
    parser.add_argument("--dir", type=Path, help="a new folder (default: security.directory)")
    parser.add_argument(
        "--host",
        action="append",
        default=[],
        metavar="NAME",
        help="a name or address under which nodes reach the broker; may be given several times (always: this machine's own "
        "name, localhost, and the hosts of [link] and [broker])",
    )


def run(arguments: argparse.Namespace, console: Console) -> tuple[dict[str, Any], str]:
    """Writes it; an existing one is never touched."""
    config = options.read_config(arguments)
    directory: Path = arguments.dir or security.pki_directory(config)
    hosts = (*arguments.host, *(host for host in default_hosts(config) if host not in arguments.host))
    made = pki.initialise(directory, federation=config.federation.name, hosts=hosts, now=pki.utc_now())
    until = made.authority().certificate.not_valid_after_utc
    text = (
        f"wrote {directory} for the broker at {', '.join(hosts)}\n"
        f"keep {directory / pki.AUTHORITY} to yourself; copy {directory / pki.BROKER} and {directory / pki.COORDINATOR} "
        "to their machines if those are others"
    )
    return {"directory": str(directory), "hosts": list(hosts), "authority_until": until.isoformat()}, text


def default_hosts(config: FederationConfig) -> tuple[str, ...]:
    """Names and addresses that the broker's certificate is for whatever else is asked."""
    hosts = (config.link.host, config.broker.host, "localhost", "127.0.0.1", "::1", socket.gethostname())
    return tuple(dict.fromkeys(host for host in hosts if host not in WILDCARDS))
